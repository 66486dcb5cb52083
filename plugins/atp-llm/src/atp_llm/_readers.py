"""Reading documents from files, directories and datasets of the hub."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from atp_core.errors import DataError
from atp_core.loading import first_line

from ._builtin_text import builtin_documents
from ._plain import plain_documents, wikitext_documents, wikitext_rows

__all__ = ["has_own_splits", "read"]

MAX_DOCUMENTS: Final = 16_384
"""At most so many documents of a hub dataset are read: enough for 128 long samples of C4."""

_C4 = "allenai/c4"
_NAMED: Final[Mapping[str, tuple[tuple[str, str, str, str], tuple[str, str, str, str]]]] = {
    # name → (path, config, data file, split) of the training and of the report data. C4's files
    # are named one by one: its old configuration names are gone, and broke many a script.
    "c4": (
        (_C4, "", "en/c4-train.00000-of-01024.json.gz", "train"),
        (_C4, "", "en/c4-validation.00000-of-00008.json.gz", "train"),
    ),
    "wikitext2": (
        ("Salesforce/wikitext", "wikitext-2-raw-v1", "", "train"),
        ("Salesforce/wikitext", "wikitext-2-raw-v1", "", "test"),
    ),
}
_SUFFIXES = (".json", ".jsonl", ".txt", ".utf8", ".raw", ".md")


def has_own_splits(spec: str) -> bool:
    """Whether the report data of `spec` is other data than its calibration data."""
    return spec in _NAMED


def read(spec: str, *, report: bool = False) -> tuple[str, list[str]]:
    """A text's name for the user, and its documents.

    Args:
        spec: see `atp_llm._text`.
        report: the report data of a text that has its own splits.

    Raises:
        DataError: there is no such text, it cannot be read, or it is empty.
    """
    if spec == "builtin":
        return builtin_documents()
    if spec in _NAMED:
        path, config, file, split = _NAMED[spec][report]
        name, found = f"{path} {config or file} ({split})", _dataset(path, config, file, split)
    elif spec.startswith("hf:"):
        parts = [*spec[3:].split(":"), "", "", ""][:4]
        path, config, split, field = parts[0], parts[1], parts[2] or "train", parts[3] or "text"
        name, found = f"{path} {config} ({split})", _dataset(path, config, "", split, field)
    else:
        name, found = _local(spec)
    if not any(document.strip() for document in found):
        raise DataError(f"{name} holds no text")
    return name, found


def _local(spec: str) -> tuple[str, list[str]]:
    path = Path(spec)
    with contextlib.suppress(RuntimeError):  # "~name" of no known user
        path = path.expanduser()
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if _bare_suffix(p) in _SUFFIXES and p.is_file())
        if not files:
            raise DataError(f"{spec} has no text files ({', '.join(_SUFFIXES)}, .gz of them)")
        return path.name, [document for file in files for document in _file(file)]
    if not path.is_file():
        raise DataError(
            f"there is no text {spec!r}; give a file, a directory, hf:DATASET, "
            f"{', '.join(sorted(_NAMED))} or builtin"
        )
    return path.name, _file(path)


def _bare_suffix(path: Path) -> str:
    return Path(path.stem).suffix if path.suffix == ".gz" else path.suffix


def _file(path: Path) -> list[str]:
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rt", encoding="utf-8", newline="") as packed:
                text = packed.read()
        else:
            # newline="": no line end is changed, so that a hash of the text means the same anywhere
            with path.open(encoding="utf-8-sig", newline="") as file:
                text = file.read()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text: {error}") from None
    suffix = _bare_suffix(path)
    if suffix == ".jsonl":
        return _json_lines(path, text)
    if suffix == ".json":
        return _json(path, text)
    if suffix == ".raw":
        return wikitext_documents(wikitext_rows(text))
    return plain_documents(text.replace("\r\n", "\n"))


def _json(path: Path, text: str) -> list[str]:
    try:
        data = json.loads(text)
    except ValueError:
        return _json_lines(path, text)  # many a .json file of datasets holds JSON lines
    if isinstance(data, dict):
        data = [data]
    if not isinstance(data, list):
        raise DataError(f"{path} is neither a JSON list nor JSON lines")
    return [_document(row, f"{path}, entry {i}") for i, row in enumerate(data, 1)]


def _json_lines(path: Path, text: str) -> list[str]:
    found = []
    for i, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}, line {i} is not JSON: {error}") from None
            found.append(_document(row, f"{path}, line {i}"))
    return found


def _document(row: Any, where: str) -> str:
    """The text of one JSON row: a string, ``text``, ``content`` or a chat in ``messages``."""
    if isinstance(row, str):
        return row
    if isinstance(row, dict):
        for key in ("text", "content"):
            if isinstance(row.get(key), str):
                return str(row[key])
        messages = row.get("messages")
        if isinstance(messages, list):
            turns = [_document(message, where) for message in messages]
            return "\n\n".join(turn for turn in turns if turn)
        parts = row.get("content")
        if isinstance(parts, list):  # content in parts, of which only text counts here
            texts = (p.get("text") for p in parts if isinstance(p, dict))
            return "\n".join(text for text in texts if isinstance(text, str))
    raise DataError(f'{where} has no text: expected a string, or "text", "content" or "messages"')


def _dataset(path: str, config: str, file: str, split: str, field: str = "text") -> list[str]:
    try:
        import datasets  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        raise DataError(
            f"reading {path} needs the datasets package: pip install 'atp-prune-llm[hub]', "
            "or use text of your own with --calibration FILE and --report-data FILE"
        ) from None
    options: dict[str, Any] = {"data_files": {split: file}} if file else {}
    try:
        rows: Iterable[Mapping[str, Any]] = datasets.load_dataset(
            path, config or None, split=split, streaming=True, **options
        )
        limit = None if "wikitext" in path else MAX_DOCUMENTS
        found = [row[field] for row in itertools.islice(rows, limit)]
    except KeyError:
        raise DataError(
            f"the rows of {path} have no field {field!r}; name it: hf:{path}:{config}:{split}:FIELD"
        ) from None
    except Exception as error:
        # Whatever the hub client raises (network, authentication, name) is the user's to mend.
        reason = first_line(error)
        raise DataError(
            f"{path} cannot be read from the Hugging Face hub: {reason} Without access, use text "
            "of your own with --calibration FILE and --report-data FILE."
        ) from error
    if not all(isinstance(document, str) for document in found):
        raise DataError(f"the field {field!r} of {path} is not text")
    return wikitext_documents(found) if "wikitext" in path else found
