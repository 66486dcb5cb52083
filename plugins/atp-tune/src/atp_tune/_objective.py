"""The loss of a batch: of the samples themselves, of a teacher, or of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from atp_core.errors import DataError, ModelError, UsageError
from atp_core.records import Source
from atp_core.session import Session

from ._losses import contrastive, distillation, likelihood, predictions
from ._samples import Samples
from ._settings import TuneSettings

__all__ = ["Objective", "objective_for"]

Objective = Callable[[Sequence[int]], torch.Tensor]
"""Numbers of samples → their loss, a scalar."""


def objective_for(session: Session, samples: Samples, settings: TuneSettings) -> Objective:
    """The loss that is made small.

    Raises:
        UsageError: a teacher is asked for where there is none to learn from.
        AtpError: the teacher cannot be loaded.
    """
    if samples.kind == "pairs":
        if settings.teacher is not None:
            raise UsageError(
                "--teacher is for models with classes or tokens, whose probabilities can be "
                "learned; leave it out for models of image and text"
            )
        sigmoid = getattr(session.loaded.model, "logit_bias", None) is not None

        def of_pairs(chosen: Sequence[int]) -> torch.Tensor:
            batch, _ = samples.batch(chosen)
            return contrastive(samples.forward(batch), batch[1], sigmoid=sigmoid)

        return of_pairs
    teacher = None if settings.teacher is None else _teacher(session, settings.teacher)
    share = settings.share

    def of_predictions(chosen: Sequence[int]) -> torch.Tensor:
        batch, targets = samples.batch(chosen)
        logits, right = predictions(samples.kind, samples.forward(batch), batch, targets)
        if teacher is None:
            assert right is not None
            return likelihood(logits, right)
        with torch.no_grad():
            taught, _ = predictions(samples.kind, teacher(batch), batch, targets)
        if taught.shape != logits.shape:
            raise DataError(
                f"the teacher {settings.teacher} has {taught.shape[-1]} outputs and the model "
                f"{logits.shape[-1]}; give the dense model that it was pruned from"
            )
        learned = distillation(logits, taught.to(logits.device))
        if right is None:
            return learned
        return share * learned + (1.0 - share) * likelihood(logits, right)

    return of_predictions


def _teacher(session: Session, text: str) -> Callable[[Any], Any]:
    """The forward of another model of the same kind, on the same device."""
    recipe = session.recipe.model_copy(update={"source": text, "revision": None})
    other = Session(recipe, Source(text), progress=session.progress, plugins=session.plugins)
    if other.plugin != session.plugin:
        raise ModelError(
            f"the teacher {text} is a model of plugin {other.plugin!r} and the pruned model one of "
            f"{session.plugin!r}; give the dense model that it was pruned from"
        )
    device = session.device or torch.device("cpu")
    model = other.loaded.model.to(device).requires_grad_(False)
    dtype = next(model.parameters()).dtype

    def run(batch: Any) -> Any:
        if isinstance(batch, Mapping):
            moved = {name: one.to(device) for name, one in batch.items()}
            return model(**moved, use_cache=False)
        return model(batch.to(device, dtype))

    return run
