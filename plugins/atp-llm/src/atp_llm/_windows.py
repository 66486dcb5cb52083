"""Windows: rows of equally many tokens, cut from documents."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from atp_core.errors import DataError, ModelError
from atp_core.records import DataRequest, LoadedModel

from ._text import digest, spec_for

__all__ = ["Windows", "sample_windows", "seqlen_for", "token_ids", "tokenizer_of"]

_BATCH = 64  # documents tokenized at once


@dataclass(frozen=True)
class Windows:
    """Tokens, and the documents they come from.

    Attributes:
        ids: shape (windows, seqlen), int64.
        examples: identities of the documents.
    """

    ids: torch.Tensor
    examples: frozenset[str]


def tokenizer_of(loaded: LoadedModel) -> Any:
    """The model's tokenizer.

    Raises:
        ModelError: the model came without one.
    """
    if loaded.processor is None:
        raise ModelError(
            f"{loaded.source.text} has no tokenizer: put its files next to the model, or pass "
            "processor=TOKENIZER along with a model in memory"
        )
    return loaded.processor


def seqlen_for(loaded: LoadedModel, data: DataRequest) -> int:
    """Tokens in a window: as asked, or min(2048, context), 512 where a text is ``builtin``.

    Raises:
        DataError: longer than the model's context, or too short to predict anything.
    """
    config = getattr(loaded.model, "config", None)
    context = getattr(config, "max_position_embeddings", None)
    limit = context if isinstance(context, int) and context > 0 else None
    if data.seqlen is None:
        specs = {spec_for(loaded.source, data, split) for split in ("calibration", "report")}
        return min(512 if "builtin" in specs else 2048, limit or 2048)
    if data.seqlen < 2 or (limit is not None and data.seqlen > limit):
        raise DataError(
            f"windows of {data.seqlen} tokens do not fit: the model takes 2 to "
            f"{limit or 'any number of'} tokens; change --seqlen"
        )
    return data.seqlen


def token_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Tokens of each text, without special tokens, whatever the length."""
    # verbose=False: a warning that a text exceeds the context means nothing where it is cut up
    found = tokenizer(
        list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False
    )
    return [list(ids) for ids in found["input_ids"]]


def sample_windows(
    tokenizer: Any,
    documents: Sequence[str],
    *,
    count: int,
    at_least: int,
    seqlen: int,
    seed: int,
    what: str,
    option: str,
) -> Windows:
    """Windows from documents in random order.

    Where enough documents are longer than a window, each gives one window at a random place
    (Wanda's way). Where not, documents are joined, separated by the tokenizer's end-of-text
    token, and the stream is cut into windows that do not overlap.

    Args:
        count: windows wanted.
        at_least: fewer than `count` will do, down to this, where there is no more text.
        what: what the text is for, in messages.
        option: the option that sets `count`, in messages.

    Raises:
        DataError: too little text.
    """
    rng = random.Random(seed)
    order = rng.sample(range(len(documents)), len(documents))
    separator = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    rows: list[list[int]] = []
    sources: set[str] = set()
    kept: list[tuple[int, list[int]]] = []
    for index, ids in _tokenized(tokenizer, documents, order):
        kept.append((index, ids))
        if len(ids) > seqlen:
            start = rng.randrange(len(ids) - seqlen)
            rows.append(ids[start : start + seqlen])
            sources.add(digest(documents[index]))
            if len(rows) == count:
                return Windows(torch.tensor(rows), frozenset(sources))

    stream: list[int] = []
    used: list[tuple[int, int]] = []  # (where a document starts in the stream, document)
    for index, ids in kept:
        used.append((len(stream), index))
        stream += [*ids, *separator]
        if len(stream) >= count * seqlen:
            break
    windows = min(count, len(stream) // seqlen)
    if windows < at_least:
        raise DataError(
            f"too little text for {what}: {at_least} windows of {seqlen} tokens need "
            f"{at_least * seqlen:,} tokens and there are {len(stream):,}; give more text, or "
            f"lower {option} or --seqlen"
        )
    table = torch.tensor(stream[: windows * seqlen]).view(windows, seqlen)
    examples = {digest(documents[i]) for start, i in used if start < windows * seqlen}
    return Windows(table, frozenset(examples))


def _tokenized(
    tokenizer: Any, documents: Sequence[str], order: Sequence[int]
) -> Iterator[tuple[int, list[int]]]:
    for start in range(0, len(order), _BATCH):
        chosen = order[start : start + _BATCH]
        yield from zip(chosen, token_ids(tokenizer, [documents[i] for i in chosen]), strict=True)
