"""How far a language model's predictions have moved from those of the dense model.

What is compared are whole distributions over the vocabulary. All logits of a text would take
gigabytes, so they are compared, exactly, at as many tokens as fit in memory.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Final

import torch

from atp_core.measuring import Figure, ratio
from atp_core.records import Observations

from ._measured_text import MeasuredText

__all__ = ["Agreement", "DenseLogits"]

_KEPT: Final = 1 << 28  # bytes of logits that are kept for a split
_CHUNK: Final = 1 << 22  # logits turned to float64 at once: 32 MiB


class DenseLogits:
    """The dense model's logits for some of the predicted tokens, in its own precision.

    All tokens where they fit in 256 MiB; else as many as fit, drawn at random from all windows.

    Args:
        windows: number of windows.
        predicted: predicted tokens of each window.
    """

    def __init__(self, windows: int, predicted: int) -> None:
        self._windows, self._predicted = windows, predicted
        self._places: Mapping[int, torch.Tensor] | None = None
        self._logits: dict[int, torch.Tensor] = {}

    def keep(self, window: int, logits: torch.Tensor) -> None:
        """Keep what is wanted of a window's logits, shape (predicted, vocabulary)."""
        if self._places is None:
            self._places = self._drawn(logits.shape[-1] * logits.element_size())
        self._logits[window] = self.rows(window, logits)

    def of(self, window: int) -> torch.Tensor:
        """The logits kept of a window, shape (tokens, vocabulary)."""
        return self._logits[window]

    def rows(self, window: int, logits: torch.Tensor) -> torch.Tensor:
        """The logits of another model for the same tokens, on the CPU."""
        assert self._places is not None
        return logits[self._places[window].to(logits.device)].cpu()

    def _drawn(self, size: int) -> dict[int, torch.Tensor]:
        """Window → its tokens whose logits, of `size` bytes each, are kept."""
        total, room = self._windows * self._predicted, max(1, _KEPT // size)
        # Drawn: at even distances they might all stand at one place of a window.
        places = random.Random(0).sample(range(total), room) if room < total else range(total)
        found: dict[int, list[int]] = {window: [] for window in range(self._windows)}
        for place in sorted(places):
            found[place // self._predicted].append(place % self._predicted)
        return {window: torch.tensor(of, dtype=torch.long) for window, of in found.items()}


class Agreement:
    """What is found by comparing one window after another.

    Attributes:
        sizes: sizes of the two vocabularies where they differ, so that nothing is compared.
    """

    def __init__(self) -> None:
        self.sizes: tuple[int, int] | None = None
        self._kl: dict[int, float] = {}
        self._same: dict[int, int] = {}
        self._tokens: dict[int, int] = {}

    def add(self, window: int, dense: torch.Tensor, pruned: torch.Tensor) -> None:
        """Compare logits of the same tokens of a window, each of shape (tokens, vocabulary)."""
        if dense.shape[-1] != pruned.shape[-1]:
            self.sizes = (dense.shape[-1], pruned.shape[-1])
        if self.sizes is not None or not len(dense):
            return
        rows = max(1, _CHUNK // dense.shape[-1])
        kl, same = 0.0, 0
        for old, new in zip(dense.split(rows), pruned.split(rows), strict=True):
            log_p, log_q = old.double().log_softmax(-1), new.double().log_softmax(-1)
            p = log_p.exp()
            # A token that a model excludes has p = 0 and log p = −∞.
            kl += float(torch.where(p > 0, p * (log_p - log_q), 0.0).sum())
            same += int((old.argmax(-1) == new.argmax(-1)).sum())
        self._kl[window], self._same[window], self._tokens[window] = kl, same, len(dense)

    def figures(self, text: MeasuredText, *, itself: bool) -> dict[str, Figure]:
        """`kl` and `agreement` over the compared tokens; windows are what varies independently.

        Args:
            text: the windows.
            itself: the model was compared with itself.
        """
        windows = list(self._tokens)
        ids = [text.names[window] for window in windows]
        tokens = [float(self._tokens[window]) for window in windows]
        count, total = sum(self._tokens.values()), len(text.ids) * text.predicted
        told = ", the model as it was loaded, so with itself" if itself else ""
        if count < total:
            told += f", at {count:,} of {total:,} predicted tokens, drawn at random"

        def figure(sums: Mapping[int, float], factor: float, unit: str, what: str) -> Figure:
            ordered = [sums[window] for window in windows]
            mean, error = ratio(ordered, tokens)
            each = [one / weight for one, weight in zip(ordered, tokens, strict=True)]
            return Figure(
                value=factor * mean,
                stderr=None if error is None else factor * error,
                n=count,
                unit=unit,
                observations=Observations(ids, each, tokens, "mean" if factor == 1 else "percent"),
                higher_is_better=factor != 1,
                note=what + told,
            )

        return {
            "kl": figure(self._kl, 1, "nats per token", "KL(dense ‖ pruned)"),
            "agreement": figure(
                self._same, 100, "%", "tokens with the same likeliest one as the dense model"
            ),
        }
