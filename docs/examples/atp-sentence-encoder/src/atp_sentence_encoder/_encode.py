"""From sentences to embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from atp_core.errors import ModelError, NumericalError
from atp_core.records import LoadedModel
from torch.nn import functional

from ._files import Layout
from ._load import LAYOUT

__all__ = ["Batch", "batches", "embed", "run"]

_AT_LEAST = 16  # sentences are short: one at a time would waste the processor
_MAX_TOKENS = 256


@dataclass(frozen=True)
class Batch:
    """Sentences of equally many tokens.

    Attributes:
        rows: which of the sentences they are.
        inputs: what the model takes, each of shape (sentences, tokens).
    """

    rows: list[int]
    inputs: dict[str, torch.Tensor]


def batches(loaded: LoadedModel, sentences: Sequence[str], size: int) -> list[Batch]:
    """The sentences in batches of one length each, in the order of their first sentences.

    So nothing is padded: the vectors of padding would count in the statistics of every weight.

    Args:
        loaded: the model and its tokenizer.
        sentences: the sentences.
        size: how many go through the model at once; at least 16 do.

    Raises:
        ModelError: the model came without a tokenizer.
    """
    tokenizer = loaded.processor
    if tokenizer is None:
        raise ModelError(f"{loaded.source.text} has no tokenizer; pass it as processor=TOKENIZER")
    tokens = tokenizer(list(sentences), truncation=True, max_length=_limit(loaded))
    by_length: dict[int, list[int]] = {}
    for row, ids in enumerate(tokens["input_ids"]):
        by_length.setdefault(len(ids), []).append(row)
    size = max(size, _AT_LEAST)
    cut = [rows[i : i + size] for rows in by_length.values() for i in range(0, len(rows), size)]
    return [
        Batch(rows, {key: torch.tensor([tokens[key][row] for row in rows]) for key in tokens})
        for rows in sorted(cut)
    ]


def run(loaded: LoadedModel, batch: Batch) -> torch.Tensor:
    """The vectors of all tokens, shape (sentences, tokens, width)."""
    model: Any = loaded.model
    inputs = {key: tensor.to(model.device) for key, tensor in batch.inputs.items()}
    found: torch.Tensor = model(**inputs).last_hidden_state
    return found


def embed(loaded: LoadedModel, sentences: Sequence[str], size: int) -> torch.Tensor:
    """Normalized embeddings, shape (sentences, width), float64 on the CPU.

    Raises:
        ModelError: the model came without a tokenizer.
        NumericalError: an embedding is not finite.
    """
    layout: Layout = loaded.cache[LAYOUT]
    found: dict[int, torch.Tensor] = {}
    with torch.inference_mode():
        for batch in batches(loaded, sentences, size):
            vectors = run(loaded, batch).cpu().double()
            # Without padding this is the mean over the attention mask.
            pooled = vectors.mean(1) if layout.pooling == "mean" else vectors[:, 0]
            found |= zip(batch.rows, functional.normalize(pooled, dim=1), strict=True)
    table = torch.stack([found[row] for row in range(len(sentences))])
    if not bool(table.isfinite().all()):
        raise NumericalError("embeddings are not finite; try --dtype float32, or a lower sparsity")
    return table


def _limit(loaded: LoadedModel) -> int:
    """Tokens of a sentence, at most."""
    layout: Layout = loaded.cache[LAYOUT]
    config: Any = loaded.model.config
    # RoBERTa's positions begin at 2, so it takes two tokens less than it has positions.
    context = int(config.max_position_embeddings) - 2
    return min(layout.max_tokens or _MAX_TOKENS, int(loaded.processor.model_max_length), context)
