"""Questions about images, as a JSONL file holds them.

One JSON object a line, in one of these forms; ``image`` is a path relative to the file:

``{"image", "question", "answer"}``   a question; also ``choices``, ``category``, ``prompt``
``{"image", "text", "label"}``        the same as POPE names it
``{"image", "text"}``                 a caption: what the model should say of the image
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atp_core.data import ImageFile, read_jsonl
from atp_core.errors import DataError

__all__ = ["Question", "choices_of", "is_yes_no", "normalized", "question_file", "read_questions"]

MAX_CHOICES = 32
"""Answers are told apart by likelihood among at most so many."""


@dataclass(frozen=True)
class Question:
    """One question about one image.

    Attributes:
        image: the image.
        question: its words; empty where the image alone is to be answered (a caption).
        answer: the right answer.
        choices: the answers to choose among; empty where the record names none.
        category: kind of question, or "".
        prompt: the whole prompt, where the record has its own.
        where: file and line, for messages.
    """

    image: ImageFile
    question: str
    answer: str
    choices: tuple[str, ...] = ()
    category: str = ""
    prompt: str | None = None
    where: str = field(default="", compare=False)

    @property
    def identity(self) -> str:
        """Hash of the image's content: two questions on one image are no independent examples."""
        return self.image.identity


def question_file(spec: str) -> Path | None:
    """The JSONL file that a data argument names: itself, or the only one in a directory."""
    path = Path(spec).expanduser()
    if path.is_dir():
        found = sorted(path.glob("*.jsonl"))
        if len(found) != 1:
            raise DataError(
                f"{spec} has {len(found)} .jsonl files where one is expected; name the file"
            )
        return found[0]
    return path if path.suffix.lower() in (".jsonl", ".ndjson") else None


def read_questions(file: Path) -> list[Question]:
    """All questions of a file.

    Raises:
        DataError: a line lacks a field, a field is no text, or an image is not there.
    """
    images: dict[str, ImageFile] = {}
    found = []
    for number, record in read_jsonl(file):
        where = f"{file}, line {number},"
        name = _text(record, "image", where)
        if name not in images:
            path = file.parent / Path(name).expanduser()
            if not path.is_file():
                raise DataError(
                    f"{where} names the image {name}, and there is no file {path}; paths are "
                    "relative to the folder of the list"
                )
            images[name] = ImageFile(path)
        question, answer = _question_and_answer(record, where)
        choices = record.get("choices") or ()
        if not isinstance(choices, list | tuple) or not all(isinstance(c, str) for c in choices):
            raise DataError(f"{where} has choices that are no list of texts")
        if choices and normalized(answer) not in map(normalized, choices):
            raise DataError(f"{where} has an answer, {answer!r}, that is not among its choices")
        found.append(
            Question(
                image=images[name],
                question=question,
                answer=answer,
                choices=tuple(choices),
                category=str(record.get("category") or record.get("kind") or ""),
                prompt=_text(record, "prompt", where) if record.get("prompt") else None,
                where=where.rstrip(","),
            )
        )
    return found


def choices_of(questions: Sequence[Question]) -> list[tuple[str, ...]]:
    """The answers that each question is to choose among; empty where there is no choice.

    Its own choices; else yes and no for a yes/no answer; else all answers of its category, if
    they are between two and `MAX_CHOICES`.

    Args:
        questions: all questions of a file, so that every part of it has the same choices.
    """
    by_category: dict[str, dict[str, str]] = {}
    for one in questions:
        if not one.choices and not is_yes_no(one.answer):
            group = by_category.setdefault(one.category, {})
            group.setdefault(normalized(one.answer), one.answer)
    found: list[tuple[str, ...]] = []
    for one in questions:
        if one.choices:
            found.append(one.choices)
        elif is_yes_no(one.answer):
            found.append(("Yes", "No") if one.answer.strip()[0].isupper() else ("yes", "no"))
        else:
            group = by_category[one.category]
            chosen = tuple(group[key] for key in sorted(group))
            found.append(chosen if 2 <= len(chosen) <= MAX_CHOICES else ())
    return found


def normalized(text: str) -> str:
    """Lower case, single spaces, no punctuation at the ends: what answers are compared by."""
    return " ".join(text.lower().split()).strip(" .,;:!?\"'")


def is_yes_no(answer: str) -> bool:
    """Whether the right answer is yes or no."""
    return normalized(answer) in ("yes", "no")


def _question_and_answer(record: dict[str, Any], where: str) -> tuple[str, str]:
    if "label" in record and "answer" not in record:  # as POPE names them
        key = "text" if record.get("question") is None else "question"
        return _text(record, key, where), _text(record, "label", where)
    if record.get("question") is not None:
        return _text(record, "question", where), _text(record, "answer", where)
    if record.get("answer") is not None:
        asked = "" if record.get("text") is None else _text(record, "text", where)
        return asked, _text(record, "answer", where)
    if record.get("text") is None:
        raise DataError(
            f"{where} has neither question and answer nor text; it has "
            f"{', '.join(map(repr, record))}"
        )
    return "", _text(record, "text", where)


def _text(record: dict[str, Any], field_name: str, where: str) -> str:
    value = record.get(field_name)
    if value is None:
        raise DataError(
            f"{where} has no {field_name!r}; it has {', '.join(map(repr, record)) or 'no field'}"
        )
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where} has a {field_name!r} that is no text: {value!r}")
    return value
