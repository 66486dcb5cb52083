"""What a model made of the images of a split, and the figures that follow from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Final

import torch
from torch.nn import functional

from atp_core.measuring import (
    Figure,
    calibration_error,
    distinct,
    mean_figure,
    share_figure,
)

from ._formulas import feature_errors, kl_divergences, ranks
from ._images import Images

__all__ = ["OF_CLASS", "Outcome"]

OF_CLASS: Final = "top1/"
"""What the name of a class folder follows in the name of its metric."""


class Outcome:
    """Outputs for images, beside what they should be.

    Args:
        images: the images.
        target: the right output for each, shape (images,); None where there are no labels.
        outputs: of the model, shape (images, classes or features).
        dense: of the dense model, shape as `outputs`; None where they are not known.
        itself: the model is the dense one.
    """

    def __init__(
        self,
        images: Images,
        target: torch.Tensor | None,
        outputs: torch.Tensor,
        dense: torch.Tensor | None,
        *,
        itself: bool,
    ) -> None:
        self._target, self._outputs, self._dense = target, outputs, dense
        self._itself = ", the model as it was loaded, so with itself" if itself else ""
        self._labels = [str(file.label) for file in images.files]
        self._ids = distinct(file.identity for file in images.files)

    def knows(self, name: str) -> bool:
        """Whether what the metric `name` is computed from is there."""
        needed = self._dense if name in ("kl", "agreement", "feature_error") else self._target
        return needed is not None

    def figure(self, name: str) -> Figure:
        """The figure of the metric `name`, for which all that it takes is there."""
        match name:
            case "cross_entropy":
                log_p = self._outputs.log_softmax(-1)
                losses = functional.nll_loss(log_p, self._right, reduction="none")
                return mean_figure(losses, self._ids, "nats an image")
            case "top1" | "top5":
                return self._share(self._rank < int(name[-1]))
            case "ece":
                return self._calibration()
            case "kl":
                values = kl_divergences(self._original, self._outputs)
                note = "KL(dense ‖ pruned)" + self._itself
                return mean_figure(values, self._ids, "nats an image", note)
            case "agreement":
                same = self._original.argmax(-1) == self._outputs.argmax(-1)
                return self._share(same, "same first class as the dense model" + self._itself)
            case "feature_error":
                note = "squared error of the features over their squared norm in the dense model"
                values = feature_errors(self._original, self._outputs)
                return mean_figure(values, self._ids, "relative", note + self._itself)
        rows = self._rows[name.removeprefix(OF_CLASS)]
        hits = (self._rank[rows] < 1).tolist()
        ids = [self._ids[row] for row in rows]
        return share_figure(hits, ids, "images of this class folder")

    def _share(self, right: torch.Tensor, note: str = "") -> Figure:
        return share_figure(right.tolist(), self._ids, note)

    def _calibration(self) -> Figure:
        """Expected calibration error of the first class."""
        confidences = self._outputs.double().softmax(-1).amax(-1)
        error = calibration_error(confidences.tolist(), (self._rank < 1).tolist())
        note = "probability of the first class in 15 bins of equal width"
        return Figure(100 * error, None, len(confidences), "%", note=note)

    @property
    def _right(self) -> torch.Tensor:
        assert self._target is not None
        return self._target

    @property
    def _original(self) -> torch.Tensor:
        assert self._dense is not None
        return self._dense

    @cached_property
    def _rank(self) -> torch.Tensor:
        return ranks(self._outputs, self._right)

    @cached_property
    def _rows(self) -> Mapping[str, Sequence[int]]:
        """Class folder → places of its images."""
        found: dict[str, list[int]] = {}
        for row, label in enumerate(self._labels):
            found.setdefault(label, []).append(row)
        return found
