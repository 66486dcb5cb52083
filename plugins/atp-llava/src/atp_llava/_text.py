"""Plain text for the language model alone: windows of tokens, and perplexity."""

from __future__ import annotations

import hashlib
import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch.nn import functional

from atp_core.data import digest_of, partition, take
from atp_core.errors import DataError, NumericalError, UnknownNameError
from atp_core.records import DataRequest, Evaluation, LoadedModel, Metric, Observations, Split

from ._inputs import moved
from ._load import processor_of
from ._parts import count_for, shares_for

__all__ = ["TEXT_METRICS", "Windows", "evaluate_text", "windows_for"]

TEXT_METRICS: Final = ("perplexity",)
_SEQLEN: Final = 512  # tokens in a window where none are asked for, or the context if shorter
_DOCUMENT: Final = 2000  # characters that paragraphs are gathered to


@dataclass(frozen=True)
class Windows:
    """Tokens of one split, in rows of equal length that do not overlap.

    Attributes:
        ids: shape (windows, seqlen).
        dataset: what they are from, for the user.
        fingerprint: hash of the tokens.
        examples: identities of the documents.
    """

    ids: torch.Tensor
    dataset: str
    fingerprint: str
    examples: frozenset[str]


def windows_for(loaded: LoadedModel, data: DataRequest, split: Split, spec: str) -> Windows:
    """Windows of the text's part for `split`; read and tokenized once.

    Paragraphs are gathered into documents of 2,000 characters and more, and documents are shared
    out over the splits.

    Raises:
        DataError: the text cannot be read, or is too short.
    """
    count, asked = count_for(data, split)
    seqlen = _seqlen(loaded, data)
    shared, shares = shares_for(loaded, data)
    key = ("atp_llava.windows", split, spec, shared, count, seqlen, data.seed)
    if key in loaded.cache:
        kept: Windows = loaded.cache[key]
        return kept
    path = Path(spec).expanduser()
    documents, dataset = _documents(path), path.name
    if shared or split != "report":
        parts = partition(documents, shares, lambda text: digest_of(text.encode()), len)
        documents, dataset = parts[split], f"{path.name}, {split} part"
    tokenizer = processor_of(loaded).tokenizer
    text = "\n\n".join(documents)
    tokens = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    rows = [tokens[i : i + seqlen] for i in range(0, len(tokens) - seqlen + 1, seqlen)]
    if not rows or (asked and count is not None and len(rows) < count):
        raise DataError(
            f"{dataset} has {len(tokens):,} tokens, which make {len(rows)} windows of {seqlen}; "
            "give more text, or lower --seqlen or the number of samples"
        )
    ids = torch.tensor(take(rows, count, seed=data.seed))
    found = Windows(
        ids=ids,
        dataset=dataset,
        fingerprint=hashlib.sha256(ids.numpy().tobytes()).hexdigest()[:16],
        examples=frozenset(digest_of(text.encode()) for text in documents),
    )
    loaded.cache[key] = found
    return found


def evaluate_text(
    loaded: LoadedModel, data: DataRequest, split: Split, spec: str, metrics: Sequence[str] | None
) -> Evaluation:
    """Perplexity of the language model on windows of plain text.

    Raises:
        UnknownNameError: `metrics` names one that is not measured on text.
        DataError: the text is unfit.
        NumericalError: the model's output is not a number.
    """
    for name in metrics or ():
        if name not in TEXT_METRICS:
            raise UnknownNameError("metric of plain text", name, TEXT_METRICS)
    began = time.perf_counter()
    windows = windows_for(loaded, data, split, spec)
    model = loaded.model
    losses: list[float] = []
    title = f"perplexity on {windows.dataset}"
    with loaded.progress.task(title, len(windows.ids)) as advance, torch.inference_mode():
        for start in range(0, len(windows.ids), data.batch_size):
            part = windows.ids[start : start + data.batch_size]
            ids = moved({"input_ids": part}, model)["input_ids"]
            logits = model(input_ids=ids, use_cache=False).logits
            for row, targets in zip(logits, ids, strict=True):
                loss = functional.cross_entropy(row[:-1].float(), targets[1:])
                losses.append(float(loss))
                advance("")
    if any(map(math.isnan, losses)):
        raise NumericalError(
            "the model's output is not a number; try --dtype float32, or a lower sparsity"
        )
    loss = torch.tensor(losses, dtype=torch.float64)
    # Above 700 nats exp() is no longer a double.
    value = math.exp(float(loss.mean())) if float(loss.mean()) < 700 else math.inf
    error = value * float(loss.std()) / math.sqrt(len(loss)) if len(loss) > 1 else None
    seqlen = windows.ids.shape[1]
    observations = Observations(
        ids=[
            f"{place}:{digest_of(row.numpy().tobytes())}" for place, row in enumerate(windows.ids)
        ],
        values=losses,
        weights=[float(seqlen - 1)] * len(losses),
        summary="exp",
    )
    metric = Metric(
        name="perplexity",
        value=value,
        stderr=error if error is not None and math.isfinite(error) else None,
        n=len(loss) * (seqlen - 1),
        unit="per token",
        higher_is_better=False,
        split=split,
        dataset=windows.dataset,
        fingerprint=windows.fingerprint,
        convention=(
            f"text alone, windows of {seqlen} tokens that do not overlap, no BOS, first token of a "
            "window not predicted"
        ),
        seconds=time.perf_counter() - began,
    )
    return Evaluation([metric], windows.examples, {"perplexity": observations})


def _seqlen(loaded: LoadedModel, data: DataRequest) -> int:
    config: Any = loaded.model.config
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    limit = getattr(text, "max_position_embeddings", None)
    limit = limit if isinstance(limit, int) and limit > 0 else None
    if data.seqlen is None:
        return min(_SEQLEN, limit or _SEQLEN)
    if data.seqlen < 2 or (limit is not None and data.seqlen > limit):
        raise DataError(
            f"windows of {data.seqlen} tokens do not fit: the model takes 2 to "
            f"{limit or 'any number of'} tokens; change --seqlen"
        )
    return data.seqlen


def _documents(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text: {error}") from None
    found: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        if not paragraph.strip():
            continue
        if found and len(found[-1]) < _DOCUMENT:
            found[-1] += "\n\n" + paragraph
        else:
            found.append(paragraph)
    if not found:
        raise DataError(f"{path} holds no text")
    return found
