"""Small text files: records in JSONL, class names, prompt templates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError

__all__ = ["read_classes", "read_jsonl", "read_templates"]


def read_jsonl(path: str | Path, required: Sequence[str] = ()) -> list[tuple[int, dict[str, Any]]]:
    """The records of a JSONL file, one JSON object a line; blank lines are left out.

    Args:
        path: the file.
        required: fields every record must have, not null.

    Returns:
        Pairs of line number, from 1, and record.

    Raises:
        DataError: the file cannot be read or is empty, a line is no JSON object, or lacks a
            field; the message names the line.
    """
    records: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number}, is not JSON: {error}") from None
        if not isinstance(record, dict):
            raise DataError(f"{path}, line {number}, must be a JSON object ({{…}})")
        for field in required:
            if record.get(field) is None:
                raise DataError(
                    f"{path}, line {number}, has no {field!r}; it has "
                    f"{', '.join(map(repr, record)) or 'no field'}"
                )
        records.append((number, record))
    if not records:
        raise DataError(f"{path} holds no records; give one JSON object a line")
    return records


def read_classes(path: str | Path) -> dict[str, str]:
    """Classes in the order of the model's outputs: folder name → name in words.

    The file is JSON — a list of names, or an object {folder: name} — or plain text with a name a
    line, where ``folder<TAB>name`` tells the two apart.

    Raises:
        DataError: the file cannot be read, is empty, or names a folder twice.
    """
    text = _text(path)
    pairs: list[tuple[str, str]]
    if Path(path).suffix.lower() == ".json":
        try:
            data = json.loads(text)
        except ValueError as error:
            raise DataError(f"class file {path} is not JSON: {error}") from None
        if isinstance(data, dict):
            pairs = [(str(folder), str(name)) for folder, name in data.items()]
        elif isinstance(data, list):
            pairs = [(str(name), str(name)) for name in data]
        else:
            raise DataError(f"class file {path} must hold a list or an object of names")
    else:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        split = [line.partition("\t") for line in lines]
        pairs = [(folder.strip(), name.strip() or folder.strip()) for folder, _, name in split]
    if not pairs:
        raise DataError(f"class file {path} is empty; give one class a line")
    classes: dict[str, str] = {}
    for folder, name in pairs:
        if folder in classes:
            raise DataError(f"class file {path} names {folder!r} twice")
        classes[folder] = name
    return classes


def read_templates(path: str | Path) -> list[str]:
    """Prompt templates, one a line, each with ``{}`` where the class name goes.

    Raises:
        DataError: the file cannot be read, is empty, or a line has no single ``{}``.
    """
    lines = [line.strip() for line in _text(path).splitlines() if line.strip()]
    if not lines:
        raise DataError(f"template file {path} is empty; give one template a line")
    for line in lines:
        if line.count("{}") != 1:
            raise DataError(
                f"template {line!r} in {path} must hold {{}} once, where the class name goes"
            )
    return lines


def _text(path: str | Path) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not text in UTF-8") from None
