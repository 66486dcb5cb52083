"""Documents: where text comes from, and which part of it serves which split.

A text is named by

=====================================  =========================================================
``builtin``                            documentation in the Python installation; needs no network
``c4``                                 allenai/c4: a training shard, the validation set to report
``wikitext2``                          WikiText-2 raw: its training set, its test set to report
``hf:DATASET[:CONFIG[:SPLIT[:FIELD]]]``  any dataset of the hub; split "train", field "text"
FILE                                   .jsonl, .json, each also .gz; any other file is plain text
DIR                                    all such files in it, in the order of their names
=====================================  =========================================================

Parts: calibration and search documents come from one text, 65 % and 35 % of its characters. A text
that serves the report too (``builtin`` always does) is cut 50 %, 20 % and 30 %. Documents are put
in the order of the hash of their text and that order is cut, so that parts are disjoint by
document and depend neither on a seed nor on the order in a file. Exact duplicates count once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from atp_core.data import SHARES, partition, same_source
from atp_core.errors import DataError
from atp_core.records import DataRequest, Source, Split

from ._source import is_hub_id

__all__ = ["Corpus", "corpus_for", "cut_documents", "digest", "spec_for"]


@dataclass(frozen=True)
class Corpus:
    """Documents that serve one purpose.

    Attributes:
        name: where they come from, for the user.
        documents: in their original order.
    """

    name: str
    documents: tuple[str, ...]

    @property
    def characters(self) -> int:
        """Characters in all documents."""
        return sum(map(len, self.documents))


def digest(document: str) -> str:
    """Identity of a document: hash of its text, without surrounding white space."""
    return hashlib.sha256(document.strip().encode("utf-8", "surrogatepass")).hexdigest()[:24]


def cut_documents(documents: Sequence[str], shares: Mapping[str, float]) -> dict[str, list[str]]:
    """Cut documents into parts by characters; exact duplicates count once, empty ones not at all.

    Args:
        documents: in any order.
        shares: part → share of the characters; they add up to 1.

    Returns:
        Part → its documents, in the order given. A part may be empty where documents are few.
    """
    return partition([text for text in documents if text.strip()], shares, digest, len)


def spec_for(source: Source, data: DataRequest, split: Split) -> str:
    """The text that serves `split`: the one asked for, or the default for the source.

    ``c4`` (calibration, search) and ``wikitext2`` (report) for a model of the hub, as in the
    literature; ``builtin`` for all others, so that nothing is downloaded unasked.
    """
    asked = data.report if split == "report" else data.calibration
    if asked is not None:
        return asked
    if source.model is None and source.path is None and is_hub_id(source.text):
        return "wikitext2" if split == "report" else "c4"
    return "builtin"


def corpus_for(source: Source, data: DataRequest, split: Split) -> Corpus:
    """The documents of one split.

    Raises:
        DataError: the text cannot be had, or has too few documents to be cut into parts.
    """
    from ._readers import has_own_splits, read

    spec = spec_for(source, data, split)
    if has_own_splits(spec):
        name, documents = read(spec, report=split == "report")
        if split == "report":
            return Corpus(name, tuple(documents))
        shares = SHARES[False]
    else:
        name, documents = read(spec)
        calibration = spec_for(source, data, "calibration")
        shared = spec == "builtin" or same_source(calibration, spec_for(source, data, "report"))
        if split == "report" and not shared:
            return Corpus(name, tuple(documents))
        shares = SHARES[shared]
    part = tuple(cut_documents(documents, shares)[split])
    if not part:
        raise DataError(
            f"{name} has {len(documents)} documents, too few to hold out a {split} part of them; "
            f"give text with more documents"
        )
    return Corpus(f"{name}, {split} part", part)

