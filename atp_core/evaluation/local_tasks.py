"""lm-eval's own task definitions, reading JSON lines from a folder instead of the hub."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ..errors import DataError

__all__ = ["local_tasks", "split_files"]

_SPLITS = ("train", "validation", "test")


def local_tasks(
    folder: Path,
    tasks: Iterable[str],
    index: Mapping[str, Any],
    work: Path,
    fewshot: int | None = None,
) -> Path:
    """Write a definition of each task that is lm-eval's own but for where its data is.

    ``TASK.jsonl`` holds the documents that are scored, in the fields that lm-eval's task expects;
    ``TASK_test.jsonl`` beside it comes before it where lm-eval scores a test split, and
    ``TASK_train.jsonl`` gives few-shot examples.

    Args:
        folder: holds the files.
        tasks: names of tasks of lm-eval.
        index: lm-eval's index of tasks: name → entry with `yaml_path`.
        work: an empty folder for the definitions and for what `datasets` caches.
        fewshot: examples before each question, if the user wants another number than the task.

    Returns:
        The folder to give lm-eval as ``include_path``.

    Raises:
        DataError: a task has no file, none to take examples from, or is none that lm-eval defines
            in YAML.
    """
    if not folder.is_dir():
        raise DataError(f"--task-data {folder} is no folder")
    made = work / "tasks"
    made.mkdir(parents=True)
    for task in tasks:
        path = getattr(index.get(task), "yaml_path", None)
        if path is None:
            raise DataError(
                f"{task!r} is no task that lm-eval defines in YAML, so its data cannot be had from "
                f"{folder}; name single tasks (`lm-eval ls tasks`), or leave --task-data out"
            )
        if fewshot and "train" not in split_files(folder, task):
            raise DataError(
                f"{folder} has no {task}_train.jsonl, so examples would be taken from the very "
                "documents that are scored; add it, or leave --num-fewshot out"
            )
        text = yaml.safe_dump(_definition(task, path, folder, work), sort_keys=False)
        (made / f"{task}.yaml").write_text(text, encoding="utf-8")
    return made


def split_files(folder: Path, task: str) -> dict[str, Path]:
    """The files of a task in `folder`: "" for ``TASK.jsonl``, and by split.

    Raises:
        DataError: there is none to score.
    """
    names = {"": f"{task}.jsonl", **{split: f"{task}_{split}.jsonl" for split in _SPLITS}}
    found = {split: folder / name for split, name in names.items() if (folder / name).is_file()}
    if not set(found) - {"train"}:
        there = sorted(path.stem for path in folder.glob("*.jsonl"))
        raise DataError(
            f"{folder} has no {task}.jsonl for the task {task!r}; it has "
            f"{', '.join(there) or 'no .jsonl files'}"
        )
    for path in found.values():
        _check(path)
    return found


def _definition(task: str, path: Path, folder: Path, work: Path) -> dict[str, Any]:
    files = split_files(folder, task)
    # lm-eval scores the test split of a task that has one, and else the validation split.
    scored = files.get("test") or files.get("") or files["validation"]
    data = {"train": files.get("train"), "test": scored}
    return {
        "include": str(path),
        "task": task,
        "tag": None,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {
            "data_files": {split: str(file.resolve()) for split, file in data.items() if file},
            "cache_dir": str(work / "cache"),
        },
        "training_split": "train" if data["train"] else None,
        "validation_split": None,
        "test_split": "test",
        "fewshot_split": "train" if data["train"] else None,
    }


def _check(path: Path) -> None:
    """That the first line is JSON: `datasets` would end in a page of errors."""
    with path.open(encoding="utf-8") as file:
        line = file.readline()
    try:
        fine = isinstance(json.loads(line), dict)
    except ValueError:
        fine = False
    if not fine:
        raise DataError(f"{path} holds no JSON object in its first line")
