"""The data: sentences, cut into parts that share none.

--calibration FILE     a sentence a line, or JSONL with a "text" or "sentence" in each line
--calibration DIR      all .txt and .jsonl files in it
--calibration builtin  a few hundred sentences to try things out with; the default
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from atp_core.data import SHARES, digest_of, partition, read_jsonl, same_source, take
from atp_core.errors import DataError
from atp_core.records import DataRequest, LoadedModel, Split

from ._builtin import builtin_sentences

__all__ = ["Part", "part_for"]

_BUILTIN = "builtin"
_FEWEST = 4  # fewer sentences have too few pairs to rank


@dataclass(frozen=True)
class Part:
    """The sentences of one split.

    Attributes:
        name: where they come from, for the user.
        sentences: the sentences, none twice.
    """

    name: str
    sentences: Sequence[str]

    @property
    def identities(self) -> list[str]:
        """A hash of each sentence, by which core proves that no two splits share one."""
        return [_identity(sentence) for sentence in self.sentences]

    @property
    def fingerprint(self) -> str:
        """Hash of the sentences, in order."""
        return digest_of("\n".join(self.sentences).encode())[:16]


def part_for(loaded: LoadedModel, data: DataRequest, split: Split) -> Part:
    """The sentences of a split, read once.

    One text serves calibration and search, and can serve the report too: the parts it is cut into
    have no sentence in common.

    Raises:
        DataError: a file cannot be read, or there are too few sentences.
    """
    key = (__name__, split, data)
    if key not in loaded.cache:
        loaded.cache[key] = _find(loaded, data, split)
    found: Part = loaded.cache[key]
    return found


def _find(loaded: LoadedModel, data: DataRequest, split: Split) -> Part:
    calibration, report = data.calibration or _BUILTIN, data.report or _BUILTIN
    spec = report if split == "report" else calibration
    shared = same_source(calibration, report)
    kept, name = list(dict.fromkeys(_read(spec))), Path(spec).name
    if split != "report" or shared:
        kept, name = partition(kept, SHARES[shared], _identity)[split], f"{name}, {split} part"
    asked, usual = {
        "calibration": (data.samples, loaded.defaults["samples"]),
        "search": (data.search_samples, loaded.defaults["search_samples"]),
        "report": (data.report_samples, None),  # all there is; what is asked for is a limit
    }[split]
    least = max(_FEWEST, asked or 0) if split != "report" else _FEWEST
    if len(kept) < least:
        raise DataError(
            f"{spec} has {len(kept)} sentences for the {split} split, and {least} are needed; give "
            "more, or ask for fewer"
        )
    if asked is None and usual is not None and len(kept) < usual:
        loaded.progress.note(f"{name}, has {len(kept)} sentences, not the usual {usual}")
    return Part(name, take(kept, asked or usual, seed=data.seed))


def _identity(sentence: str) -> str:
    return digest_of(sentence.encode())


def _read(spec: str) -> list[str]:
    if spec == _BUILTIN:
        return builtin_sentences()
    path = Path(spec).expanduser()
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in (".txt", ".jsonl"))
    found = [line.strip() for file in files for line in _lines(file) if line.strip()]
    if not found:
        raise DataError(f"{spec} holds no sentences; give .txt or .jsonl files")
    return found


def _lines(file: Path) -> list[str]:
    if file.suffix != ".jsonl":
        try:
            return file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read sentences from {file}: {error}") from None
    found = []
    for number, record in read_jsonl(file):
        text = record.get("text", record.get("sentence"))
        if not isinstance(text, str):
            raise DataError(f'{file}, line {number}: "text" or "sentence" must be a string')
        found.append(text)
    return found
