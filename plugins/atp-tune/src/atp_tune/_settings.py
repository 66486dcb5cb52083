"""What a training is asked for. Does not import torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, get_args

from atp_core.errors import UsageError

__all__ = ["MOST_SAMPLES", "Mode", "TuneSettings"]

Mode = Literal["lora", "full"]

MOST_SAMPLES: Final = 4096
"""Samples that are read where no number is asked for; they stay in memory."""

_RATES: Final[dict[Mode, float]] = {"lora": 1e-3, "full": 2e-4}


@dataclass(frozen=True)
class TuneSettings:
    """How to train.

    Attributes:
        mode: "lora" trains low-rank updates of the prunable weights, "full" all that are kept.
        steps: optimizer steps; None follows from `epochs`.
        epochs: passes over the samples; None is one, unless `steps` is given.
        lr: peak of the learning rate, which falls linearly to 0; None is the mode's own.
        batch: samples a step.
        rank: of the updates.
        alpha: they are scaled by alpha / rank; None is 2 · rank.
        weight_decay: of AdamW.
        biases: train the biases too.
        norms: train the parameters of normalizations too.
        teacher: source of a model whose outputs are learned from too, usually the dense one.
        teacher_weight: share of the teacher in the loss.
        save_every: steps between checkpoints; None is a tenth of all.
        measure: measure the model on the report split, before and after.

    Raises:
        UsageError: a setting is out of its range, or has no effect.
    """

    mode: Mode = "lora"
    steps: int | None = None
    epochs: float | None = None
    lr: float | None = None
    batch: int = 8
    rank: int | None = None
    alpha: float | None = None
    weight_decay: float = 0.0
    biases: bool = False
    norms: bool = False
    teacher: str | None = None
    teacher_weight: float | None = None
    save_every: int | None = None
    measure: bool = False

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise UsageError(f"mode {self.mode!r} is neither 'lora' nor 'full'")
        if self.steps is not None and self.epochs is not None:
            raise UsageError("--steps and --epochs both say how long to train; give one of them")
        for name in ("steps", "epochs", "lr", "batch", "rank", "alpha", "save_every"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                option = name.replace("_", "-")
                raise UsageError(f"--{option} must be a number above 0, not {value:g}")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise UsageError(f"--weight-decay must not be negative, and is {self.weight_decay:g}")
        if self.mode == "full" and (self.rank is not None or self.alpha is not None):
            raise UsageError("--rank and --alpha are for --mode lora; leave them out")
        if self.teacher_weight is not None:
            if self.teacher is None:
                raise UsageError("--teacher-weight has no effect without --teacher; add it")
            if not 0 < self.teacher_weight <= 1:
                raise UsageError(
                    f"--teacher-weight must be above 0 and at most 1, not {self.teacher_weight:g}"
                )

    @property
    def learning_rate(self) -> float:
        """Peak of the learning rate."""
        return _RATES[self.mode] if self.lr is None else self.lr

    @property
    def lora_rank(self) -> int:
        """Rank of the updates."""
        return 16 if self.rank is None else self.rank

    @property
    def lora_alpha(self) -> float:
        """They are scaled by this / rank."""
        return 2.0 * self.lora_rank if self.alpha is None else self.alpha

    @property
    def share(self) -> float:
        """Share of the teacher in the loss."""
        if self.teacher is None:
            return 0.0
        return 0.5 if self.teacher_weight is None else self.teacher_weight

    def samples(self) -> int:
        """Samples to read where no number is asked for."""
        return MOST_SAMPLES if self.steps is None else min(self.steps * self.batch, MOST_SAMPLES)

    def total_steps(self, samples: int) -> int:
        """Optimizer steps in all.

        Args:
            samples: that there are.
        """
        if self.steps is not None:
            return self.steps
        epochs = 1.0 if self.epochs is None else self.epochs
        return max(1, round(epochs * math.ceil(samples / self.batch)))
