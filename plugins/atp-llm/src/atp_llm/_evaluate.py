"""Measuring a language model: by itself, and beside the dense model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

import torch

from atp_core.errors import UnknownNameError, UsageError
from atp_core.measuring import Figure, metric_of
from atp_core.records import DataRequest, Evaluation, LoadedModel, Split

from ._agreement import Agreement, DenseLogits
from ._calibrate import fingerprint
from ._inputs import batches_of
from ._measured_text import MeasuredText, measured_text
from ._perplexity import Look, bits_per_byte, perplexity, window_losses

__all__ = ["METRICS", "evaluate"]

_ALONE: Final = ("perplexity", "bits_per_byte")
_COMPARED: Final = ("kl", "agreement")
METRICS: Final = (*_ALONE, *_COMPARED)
"""Every metric of text; the last two beside the dense model."""


def evaluate(
    loaded: LoadedModel, data: DataRequest, split: Split, metrics: Sequence[str] | None = None
) -> Evaluation:
    """Perplexity, first, and bits per byte, on one split.

    Once the model is pruned, `kl` and `agreement` compare it with the dense model on the report
    split, whose logits were kept for as many tokens as fit in memory.

    Raises:
        UnknownNameError: `metrics` names one that is not measured here.
        UsageError: `metrics` names a comparison, and the dense model was not measured on this
            text, or has another vocabulary.
        DataError: the text cannot be had, or is shorter than a window.
        NumericalError: the model's output is NaN.
    """
    for name in metrics or ():
        if name not in METRICS:
            raise UnknownNameError("metric", name, METRICS)
    began = time.perf_counter()
    text = measured_text(loaded, data, split)
    beside = _Beside(loaded, text, split, metrics)
    loss = _losses(loaded, text, data.batch_size, beside.look)
    found = {"perplexity": perplexity(loss, text), "bits_per_byte": bits_per_byte(loss, text)}
    found |= beside.figures()
    shared: dict[str, Any] = {
        "split": split,
        "dataset": text.dataset,
        "fingerprint": fingerprint(text.ids),
        "convention": text.convention,
        "seconds": time.perf_counter() - began,
    }
    names = metrics or list(found)
    return Evaluation(
        [metric_of(name, found[name], **shared) for name in names],
        text.examples,
        {name: of.observations for name, of in found.items() if of.observations and name in names},
    )


def _losses(
    loaded: LoadedModel, text: MeasuredText, batch_size: int, look: Look | None
) -> torch.Tensor:
    """Mean NLL of each window in nats, shape (windows,)."""
    parts = batches_of(text.ids, batch_size)
    with loaded.progress.task(f"perplexity on {text.dataset}", len(text.ids)) as advance:

        def losses(number: int, part: torch.Tensor) -> torch.Tensor:
            first = number * batch_size
            found = window_losses(loaded.model, part, first=first, look=look)
            for _ in part:
                advance("")
            return found

        return torch.cat(loaded.map(lambda batch: losses(*batch), list(enumerate(parts))))


class _Beside:
    """The dense model beside the one that is measured, where that is wanted and it is known.

    Args:
        loaded: the model.
        text: what it is measured on.
        split: which split that is.
        metrics: names of the metrics asked for.

    Raises:
        UsageError: a comparison is asked for and the dense model is not known.
    """

    def __init__(
        self, loaded: LoadedModel, text: MeasuredText, split: Split, metrics: Sequence[str] | None
    ) -> None:
        self._loaded, self._text = loaded, text
        self._key = ("atp_llm.dense", split, fingerprint(text.ids), text.predicted)
        self._named = any(name in _COMPARED for name in metrics or ())
        usual = metrics is None and loaded.compares_on(split)
        self._keeps = not loaded.pruned and (self._named or usual)
        self._dense: DenseLogits | None = None
        if self._keeps:
            self._dense = DenseLogits(len(text.ids), text.predicted)
        elif self._named or metrics is None:
            self._dense = loaded.dense.get(self._key)
        if self._named and self._dense is None:
            raise UsageError(
                "kl and agreement compare with the dense model, which was not measured on "
                f"{text.dataset}; leave them out"
            )
        compares = self._dense is not None and (self._named or loaded.pruned)
        self._agreement = Agreement() if compares else None

    @property
    def look(self) -> Look | None:
        """What is to see the logits of each window."""
        dense, agreement = self._dense, self._agreement
        if dense is None:
            return None

        def look(window: int, logits: torch.Tensor) -> None:
            if self._keeps:
                dense.keep(window, logits)
            if agreement is not None:
                agreement.add(window, dense.of(window), dense.rows(window, logits))

        return look

    def figures(self) -> dict[str, Figure]:
        """The comparison, once all windows have been seen.

        Raises:
            UsageError: it is asked for, and the vocabularies differ.
        """
        if self._keeps:
            self._loaded.dense[self._key] = self._dense
        if self._agreement is None:
            return {}
        if self._agreement.sizes is not None:
            dense, own = self._agreement.sizes
            told = f"the dense model knows {dense} tokens and {self._loaded.source.text} {own}"
            if self._named:
                raise UsageError(f"kl and agreement need one vocabulary: {told}; leave them out")
            self._loaded.progress.note(f"kl and agreement are not measured: {told}")
            return {}
        return self._agreement.figures(self._text, itself=not self._loaded.pruned)
