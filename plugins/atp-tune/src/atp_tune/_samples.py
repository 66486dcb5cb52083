"""What is trained on: the calibration part of a source, sample by sample.

Models' plugins cut a source into a calibration, a search and a report part; `atp_calibrate` gives
the first of them and never touches the others. So neither what β was chosen on nor what results
are reported on is ever trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from atp_core.errors import DataError, ModelError
from atp_core.records import Calibration
from atp_core.session import Session

from ._chat import chat_samples, is_chat
from ._settings import TuneSettings

__all__ = ["Kind", "Samples", "read_samples"]

Kind = Literal["language", "classes", "pairs"]
"""What a model learns: the next token, the class of an image, which text belongs to which image."""


@dataclass(frozen=True)
class Samples:
    """Samples to train on.

    Attributes:
        kind: what is learned from them.
        rows: one sample each, as a batch of one.
        targets: what is right for each: an index for a class, labels of tokens, shape (1, tokens),
            for a chat; None where it follows from the sample.
        forward: runs the model on a batch.
        dataset: where they come from, for the user.
        unit: what a sample is.
        fingerprint: hash of the samples.
        examples: identities of the documents or images.
        notes: what the user must know.
    """

    kind: Kind
    rows: Sequence[Any]
    targets: Sequence[Any] | None
    forward: Callable[[Any], Any]
    dataset: str
    unit: str
    fingerprint: str
    examples: frozenset[str]
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, chosen: Sequence[int]) -> tuple[Any, torch.Tensor | None]:
        """The samples of these numbers as one batch, and what is right for them."""
        batch = _joined([self.rows[i] for i in chosen])
        if self.targets is None:
            return batch, None
        return batch, _joined([self.targets[i] for i in chosen])


def read_samples(session: Session, settings: TuneSettings) -> Samples:
    """Read the calibration part of the recipe's data.

    Raises:
        DataError: it cannot be had, or is less than one batch.
        ModelError: it is not known how the model is trained.
    """
    recipe = session.recipe
    wanted = recipe.samples or settings.samples()
    if is_chat(recipe.calibration) and hasattr(session.loaded.processor, "apply_chat_template"):
        found = _of_chat(session, wanted)
    else:
        data = replace(
            session.data, samples=wanted, at_most=recipe.samples is None, batch_size=settings.batch
        )
        calibration: Calibration = session.plugins.caller("atp_calibrate", session.plugin)(
            loaded=session.loaded, data=data
        )
        found = _of_calibration(session, calibration, has_teacher=settings.teacher is not None)
    if len(found) < settings.batch:
        raise DataError(
            f"{found.dataset} gives {len(found)} {found.unit} to train on, less than one batch of "
            f"{settings.batch}; give more data, or lower --batch or --seqlen"
        )
    if found.kind == "pairs" and settings.batch < 2:
        raise DataError("a contrastive loss needs pairs to tell apart: --batch 2 or more")
    return found


def _of_chat(session: Session, wanted: int) -> Samples:
    model, recipe = session.loaded.model, session.recipe
    chat = chat_samples(session.loaded, recipe, wanted)

    def forward(batch: Mapping[str, torch.Tensor]) -> Any:
        device = next(model.parameters()).device
        return model(**{name: one.to(device) for name, one in batch.items()}, use_cache=False)

    return Samples(
        kind="language",
        rows=[{"input_ids": one, "attention_mask": torch.ones_like(one)} for one in chat.ids],
        targets=chat.labels,
        forward=forward,
        dataset=chat.dataset,
        unit="chats",
        fingerprint=chat.fingerprint,
        examples=chat.examples,
        notes=chat.notes,
    )


def _of_calibration(session: Session, calibration: Calibration, *, has_teacher: bool) -> Samples:
    rows = [
        _row(batch, i)
        for batch, size in zip(calibration.batches, calibration.batch_samples, strict=True)
        for i in range(size)
    ]
    kind = _kind(rows[0], calibration, session)
    targets: list[torch.Tensor] | None = None
    notes = []
    if kind == "classes":
        assert calibration.targets is not None
        try:
            targets = [one for batch in calibration.targets() for one in batch.split(1)]
        except DataError as error:
            if not has_teacher:
                raise
            notes.append(f"trained on the outputs of the teacher alone: {error}")
    return Samples(
        kind=kind,
        rows=rows,
        targets=targets,
        forward=calibration.forward,
        dataset=calibration.dataset,
        unit=calibration.unit,
        fingerprint=calibration.fingerprint,
        examples=calibration.examples,
        notes=notes,
    )


def _kind(row: Any, calibration: Calibration, session: Session) -> Kind:
    if calibration.targets is not None:
        return "classes"
    if isinstance(row, Mapping) and "input_ids" in row and "pixel_values" not in row:
        return "language"
    if isinstance(row, tuple) and len(row) == 2 and all(isinstance(one, Mapping) for one in row):
        return "pairs"
    raise ModelError(
        f"it is not known how models of plugin {session.plugin!r} are trained: its calibration "
        "data holds neither tokens alone, nor images with classes, nor pairs of image and text"
    )


def _row(batch: Any, i: int) -> Any:
    """One sample of a batch, as a batch of one."""
    if isinstance(batch, torch.Tensor):
        return batch[i : i + 1]
    if isinstance(batch, Mapping):
        made: Any = type(batch)
        return made({name: _row(one, i) for name, one in batch.items()})
    if isinstance(batch, (tuple, list)):
        return tuple(_row(one, i) for one in batch)
    raise ModelError(f"a batch of calibration data holds a {type(batch).__name__}, not a tensor")


_PADDING = {"attention_mask": 0, "labels": -100}


def _joined(rows: Sequence[Any], name: str = "labels") -> Any:
    """One batch of many; rows of tokens are padded on the right to the longest."""
    first = rows[0]
    if isinstance(first, torch.Tensor):
        if first.dim() != 2 or len({row.shape[1] for row in rows}) == 1:
            return torch.cat(list(rows))
        longest = max(row.shape[1] for row in rows)
        value = _PADDING.get(name, 0)
        pad = torch.nn.functional.pad
        return torch.cat([pad(row, (0, longest - row.shape[1]), value=value) for row in rows])
    if isinstance(first, Mapping):
        made: Any = type(first)
        return made({key: _joined([row[key] for row in rows], key) for key in first})
    return tuple(_joined(list(parts)) for parts in zip(*rows, strict=True))
