"""Calibration batches: images with texts, through both towers."""

from __future__ import annotations

from typing import Any

from atp_core.data import open_image
from atp_core.records import Calibration, DataRequest, LoadedModel

from ._clip import clip_of
from ._data import Part, fingerprint, part_of
from ._inputs import Inputs
from ._labels import labels_of

__all__ = ["calibrate"]

_AT_LEAST = 8


def calibrate(loaded: LoadedModel, data: DataRequest) -> Calibration:
    """Images of the calibration part with a text each, and the forward call.

    A text is one of the image's captions, or its class in one of the templates; both in turn, so
    that all of them occur.

    Raises:
        DataError: the data cannot be had or read, or is too little.
        ModelError: the model has no tokenizer or image transform.
    """
    part = part_of(loaded, data, "calibration")
    assert part is not None, "only the report may be without data"
    clip = clip_of(loaded)
    texts = _texts(data, part)
    size = max(data.batch_size, _AT_LEAST)
    batches: list[tuple[Inputs, Inputs]] = []
    with loaded.progress.task(f"reading {part.name}", len(texts)) as advance:
        for start in range(0, len(texts), size):
            images = []
            for example in part.examples[start : start + size]:
                images.append(clip.pixels(open_image(example.image.path)))
                advance("")
            batches.append((Inputs.joined(images), clip.tokens(texts[start : start + size])))

    def forward(batch: tuple[Inputs, Inputs]) -> Any:
        return clip.run(*batch)

    identities = [example.image.identity for example in part.examples]
    return Calibration(
        batches=batches,
        forward=forward,
        samples=len(texts),
        unit="images with texts",
        dataset=part.name,
        fingerprint=fingerprint(identities, texts),
        examples=part.identities,
        batch_samples=[images.size for images, _ in batches],
    )


def _texts(data: DataRequest, part: Part) -> list[str]:
    """A text for each image."""
    if part.kind == "captions":
        return [
            example.captions[i % len(example.captions)] for i, example in enumerate(part.examples)
        ]
    labels = labels_of(data, part, full=False)
    return [
        labels.templates[i % len(labels.templates)](labels.names[str(example.image.label)])
        for i, example in enumerate(part.examples)
    ]
