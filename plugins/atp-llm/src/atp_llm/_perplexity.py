"""Perplexity and bits per byte."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from atp_core.errors import DataError, NumericalError, UnknownNameError
from atp_core.records import DataRequest, Evaluation, LoadedModel, Metric, Split

from ._calibrate import default_samples, default_search_samples, fingerprint
from ._inputs import batches_of, device_of, inputs_for, is_encoder_decoder
from ._text import corpus_for, digest, spec_for
from ._windows import sample_windows, seqlen_for, token_ids, tokenizer_of

__all__ = ["evaluate", "window_losses"]

METRICS = ("perplexity", "bits_per_byte")
_CHUNK = 1 << 24  # logits turned to float32 at once: 64 MiB


@dataclass(frozen=True)
class _Text:
    """Windows of one split, and what is told about them.

    Attributes:
        ids: shape (windows, seqlen).
        bytes: UTF-8 bytes of the predicted tokens.
    """

    ids: torch.Tensor
    bytes: int
    dataset: str
    convention: str
    examples: frozenset[str]


def evaluate(
    loaded: LoadedModel, data: DataRequest, split: Split, metrics: Sequence[str] | None = None
) -> Evaluation:
    """Perplexity, first, and bits per byte, on one split.

    Report: the documents joined by blank lines, tokenized as one, cut into windows that do not
    overlap, the tail dropped. Search: windows sampled from the search part of the calibration
    text, the same at every call; max(8, half the calibration samples) unless asked otherwise.

    Raises:
        UnknownNameError: `metrics` names one that is not measured here.
        DataError: the text cannot be had, or is shorter than a window.
        NumericalError: the model's output is NaN.
    """
    for name in metrics or ():
        if name not in METRICS:
            raise UnknownNameError("metric", name, METRICS)
    began = time.perf_counter()
    text = _text(loaded, data, split)
    with loaded.progress.task(f"perplexity on {text.dataset}", len(text.ids)) as advance:
        losses: list[torch.Tensor] = []
        done = 0
        for part in batches_of(text.ids, data.batch_size):
            losses.append(window_losses(loaded.model, part, first=done))
            done += len(part)
            for _ in part:
                advance("")
    loss = torch.cat(losses)  # (windows,) mean NLL in nats
    predicted = inputs_for(loaded.model, text.ids)[1].shape[1]
    mean = loss.mean().item()
    stderr = loss.std().item() / math.sqrt(len(loss)) if len(loss) > 1 else None
    perplexity = _exp(mean)
    to_bits = loss.numel() * predicted / math.log(2) / max(text.bytes, 1)
    seconds = time.perf_counter() - began

    def metric(name: str, value: float, error: float | None, unit: str) -> Metric:
        return Metric(
            name=name,
            value=value,
            stderr=error if error is not None and math.isfinite(error) else None,
            n=loss.numel() * predicted,
            unit=unit,
            higher_is_better=False,
            split=split,
            dataset=text.dataset,
            fingerprint=fingerprint(text.ids),
            convention=text.convention,
            seconds=seconds,
        )

    found = {
        # delta method: d exp(x) = exp(x) dx
        "perplexity": metric(
            "perplexity", perplexity, None if stderr is None else perplexity * stderr, "per token"
        ),
        "bits_per_byte": metric(
            "bits_per_byte", mean * to_bits, None if stderr is None else stderr * to_bits, "bits"
        ),
    }
    return Evaluation([found[name] for name in metrics or METRICS], text.examples)


def window_losses(model: nn.Module, ids: torch.Tensor, first: int = 0) -> torch.Tensor:
    """Mean negative log-likelihood of each window, in nats a predicted token.

    Args:
        model: a language model.
        ids: windows, shape (batch, seqlen).
        first: number of the first window, for messages.

    Returns:
        Shape (batch,), float64 on the CPU; summed over tokens in float32.

    Raises:
        NumericalError: the model's output for a window is NaN.
    """
    inputs, targets = inputs_for(model, ids.to(device_of(model)))
    with torch.inference_mode():
        logits = model(**inputs, use_cache=False).logits  # (batch, seqlen, vocabulary)
        predicted = targets.shape[1]
        rows = max(1, _CHUNK // logits.shape[-1])
        total = torch.zeros(len(ids), dtype=torch.float64)
        for start in range(0, predicted, rows):
            stop = min(start + rows, predicted)
            for i in range(len(ids)):
                total[i] += functional.cross_entropy(
                    logits[i, start:stop].float(),
                    targets[i, start:stop].to(logits.device),
                    reduction="sum",
                ).item()
    broken = total.isnan().nonzero().flatten().tolist()
    if broken:
        raise NumericalError(
            f"the model's output for window {first + broken[0] + 1} is not a number; "
            "try --dtype float32, or a lower sparsity"
        )
    return total / predicted


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def _text(loaded: LoadedModel, data: DataRequest, split: Split) -> _Text:
    """The windows of a split; tokenized once and kept."""
    seqlen = seqlen_for(loaded, data)
    specs = tuple(spec_for(loaded.source, data, name) for name in ("calibration", "report"))
    sizes = (data.samples, data.search_samples, data.report_samples, data.seed)
    key = ("atp_llm.windows", split, specs, sizes, seqlen)
    if key not in loaded.cache:
        make = _report_text if split == "report" else _search_text
        loaded.cache[key] = make(loaded, data, seqlen)
    found: _Text = loaded.cache[key]
    return found


def _report_text(loaded: LoadedModel, data: DataRequest, seqlen: int) -> _Text:
    corpus = corpus_for(loaded.source, data, "report")
    [tokens] = token_ids(tokenizer_of(loaded), ["\n\n".join(corpus.documents)])
    windows = len(tokens) // seqlen
    if windows == 0:
        raise DataError(
            f"{corpus.name} has {len(tokens):,} tokens, fewer than one window of {seqlen}; "
            "give more text with --report-data, or lower --seqlen"
        )
    ids = torch.tensor(tokens[: windows * seqlen]).view(windows, seqlen)
    convention = (
        f"non-overlapping windows of {seqlen} tokens over the '\\n\\n'-joined text, no BOS, "
        + _scored(loaded)
    )
    asked = data.report_samples
    if asked is not None and asked < windows:
        ids = ids[torch.arange(asked) * windows // asked]
        convention += f"; {asked} of {windows} windows, evenly spaced"
    examples = frozenset(digest(document) for document in corpus.documents if document.strip())
    return _Text(ids, _bytes(loaded, ids), corpus.name, convention, examples)


def _search_text(loaded: LoadedModel, data: DataRequest, seqlen: int) -> _Text:
    corpus = corpus_for(loaded.source, data, "search")
    samples = data.samples or default_samples(loaded, data)
    wanted = data.search_samples or default_search_samples(samples)
    windows = sample_windows(
        tokenizer_of(loaded),
        corpus.documents,
        count=wanted,
        at_least=data.search_samples or min(4, wanted),
        seqlen=seqlen,
        seed=data.seed,
        what=f"the search split ({corpus.name})",
        option="--search-samples",
    )
    if len(windows.ids) < wanted:
        loaded.progress.note(
            f"{corpus.name} gives {len(windows.ids)} search samples of {seqlen} tokens, "
            f"not the usual {wanted}"
        )
    scored = _scored(loaded)
    convention = f"{len(windows.ids)} sampled windows of {seqlen} tokens, no BOS, {scored}"
    return _Text(
        windows.ids, _bytes(loaded, windows.ids), corpus.name, convention, windows.examples
    )


def _scored(loaded: LoadedModel) -> str:
    if is_encoder_decoder(loaded.model):
        return "first half of a window to the encoder, second half predicted by the decoder"
    return "first token of a window not predicted"


def _bytes(loaded: LoadedModel, ids: torch.Tensor) -> int:
    """UTF-8 bytes of the predicted tokens: those of a window less those before the first one."""
    tokenizer = tokenizer_of(loaded)
    given = ids.shape[1] - inputs_for(loaded.model, ids)[1].shape[1]
    total = 0
    for row in ids.tolist():
        for part, sign in ((row, 1), (row[:given], -1)):
            text = tokenizer.decode(part, clean_up_tokenization_spaces=False)
            total += sign * len(text.encode("utf-8", "surrogatepass"))
    return total
