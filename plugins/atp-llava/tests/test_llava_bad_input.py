"""Bad input ends with one clear message, its exit code, and nothing half-written."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from atp_core.cli import main

sys.path.append(str(Path(__file__).parent))  # the helpers beside this file

from _llava_tiny import tiny

SIZE = ["--samples", "8", "--search-samples", "4"]


@pytest.fixture
def fails(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, llava_directory: Path
) -> Callable[..., str]:
    """Runs `atp prune` and returns its one error message."""

    def run(data: Path, *options: str, source: Any = llava_directory, code: int = 4) -> str:
        capsys.readouterr()
        out = tmp_path / "out"
        before = {path for path in tmp_path.rglob("*") if ".atp-work" not in str(path)}
        words = ["prune", str(source), "--sparsity", "0.5", *SIZE]
        assert main([*words, "--calibration", str(data), "-o", str(out), *options]) == code
        told = capsys.readouterr()
        assert told.out == ""
        assert "Traceback" not in told.err
        messages = [line for line in told.err.splitlines() if line.startswith(("error:", "Error:"))]
        assert len(messages) == 1, told.err
        after = {path for path in tmp_path.rglob("*") if ".atp-work" not in str(path)}
        assert after == before, "nothing is written"
        return " ".join((messages[0] + told.err.split(messages[0])[1]).split())

    return run


def _records(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def _write(file: Path, records: list[Any]) -> None:
    file.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"answer": None}, "line 3, has no 'answer'"),
        ({"answer": ""}, "line 3, has a 'answer' that is no text"),
        ({"answer": ["yes"]}, "line 3, has a 'answer' that is no text"),
        ({"image": None}, "line 3, has no 'image'"),
        ({"image": "images/absent.png"}, "line 3, names the image images/absent.png"),
        ({"question": None, "answer": None}, "line 3, has neither question and answer nor text"),
        ({"choices": ["red", 3]}, "line 3, has choices that are no list of texts"),
        ({"choices": ["red", "blue"], "answer": "cat"}, "that is not among its choices"),
    ],
)
def test_a_bad_record(fails: Any, questions: Path, change: dict[str, Any], told: str) -> None:
    records = _records(questions)
    records[2] = {k: v for k, v in {**records[2], **change}.items() if v is not None}
    _write(questions, records)
    message = fails(questions)
    assert told in message
    assert str(questions) in message


def test_no_json(fails: Any, questions: Path) -> None:
    with questions.open("a") as file:
        file.write('\n{"image": \n')
    assert "line 74, is not JSON" in fails(questions)


def test_blank_lines_do_not_shift_the_numbers(fails: Any, questions: Path) -> None:
    lines = questions.read_text().splitlines()
    questions.write_text("\n\n".join([*lines[:2], '{"image": "images/000.png"}', *lines[2:]]))
    assert "line 5, has neither" in fails(questions)


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"", "is empty (0 bytes)"), (b"no image at all", "is not an image that Pillow can read")],
)
def test_unreadable_images(fails: Any, questions: Path, content: bytes, told: str) -> None:
    for image in sorted((questions.parent / "images").iterdir())[::2]:
        image.write_bytes(content + image.name.encode() * bool(content))
    message = fails(questions)
    assert "questions.jsonl, line " in message
    assert told in message


def test_a_truncated_image_is_named_with_its_line(fails: Any, questions: Path) -> None:
    for image in (questions.parent / "images").iterdir():
        image.write_bytes(image.read_bytes()[:-400])
    message = fails(questions)
    assert "questions.jsonl, line " in message
    assert "cannot be read" in message


def test_a_prompt_without_the_image_token(fails: Any, questions: Path) -> None:
    records = [{**record, "prompt": "what is this ?"} for record in _records(questions)]
    _write(questions, records)
    assert "has no image token; put <image> where the image is" in fails(questions)


def test_a_template_without_the_image_token(fails: Any, questions: Path, tmp_path: Path) -> None:
    template = tmp_path / "template.txt"
    template.write_text("USER: {} ASSISTANT:\n")
    message = fails(questions, "--templates", str(template))
    assert "template 'USER: {} ASSISTANT:'" in message
    assert "has no image token; put <image> where the image is" in message
    template.write_text("USER: <image> ASSISTANT:\n")
    assert "must hold {} once" in fails(questions, "--templates", str(template))


def test_a_prompt_with_two_image_tokens(fails: Any, questions: Path) -> None:
    records = [{**record, "prompt": "<image> <image> what"} for record in _records(questions)]
    _write(questions, records)
    assert "the model's processor does not take it" in fails(questions)


def test_a_tokenizer_that_does_not_know_the_usual_prompt(
    fails: Any, questions: Path, tmp_path: Path
) -> None:
    model, processor = tiny(chat=None)
    directory = tmp_path / "foreign"
    model.save_pretrained(directory)
    file = directory / "tokenizer.json"
    processor.save_pretrained(directory)
    file.write_text(file.read_text().replace("USER:", "HUMAN:"))
    message = fails(questions, source=directory)
    assert "has no chat template" in message
    assert "--templates FILE" in message


def test_no_data_at_all(fails: Any, tmp_path: Path, llava_directory: Path, capsys: Any) -> None:
    assert "there is no data" in fails(tmp_path / "nowhere.jsonl")
    words = ["prune", str(llava_directory), "--sparsity", "0.5", "-o", str(tmp_path / "out")]
    assert main(words) == 4
    assert "--calibration FILE.jsonl" in " ".join(capsys.readouterr().err.split())


def test_too_few_images(fails: Any, questions: Path) -> None:
    _write(questions, _records(questions)[:3])
    assert "too few to hold out" in fails(questions)


def test_too_few_questions(fails: Any, questions: Path) -> None:
    assert "questions, and 900 are asked for" in fails(questions, "--samples", "900")


def test_calibration_and_report_that_share_an_image(fails: Any, questions: Path) -> None:
    other = questions.parent / "other.jsonl"
    shutil.copy(questions, other)
    assert "are in the" in fails(questions, "--report-data", str(other))


def test_a_broken_checkpoint(fails: Any, questions: Path, llava_directory: Path) -> None:
    (llava_directory / "processor_config.json").unlink()
    assert "no processor of images and text" in fails(questions)
    file = llava_directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    assert "truncated" in fails(questions)


def test_settings_without_effect(fails: Any, questions: Path, tmp_path: Path) -> None:
    assert "--seqlen has no effect on questions" in fails(questions, "--seqlen", "32", code=2)
    text, template = tmp_path / "text.txt", tmp_path / "template.txt"
    text.write_text("the cat is a red dog . " * 400)
    template.write_text("<image> {}\n")
    told = fails(text, "--seqlen", "32", "--templates", str(template), code=2)
    assert "--templates has no effect on plain text" in told


def test_an_unknown_metric(fails: Any, questions: Path) -> None:
    message = fails(questions, "--objective", "acuracy", code=2)
    assert "Did you mean 'accuracy'" in message
