"""Calibration batches: images as the model's own preprocessing makes them."""

from __future__ import annotations

from typing import Any, Final

import torch

from atp_core.errors import DataError
from atp_core.records import Calibration, DataRequest, LoadedModel

from ._images import batches, images_for, preprocessing
from ._input import device_of, dtype_of
from ._labels import labels_for

__all__ = ["calibrate"]

_BATCH: Final = 8


def calibrate(loaded: LoadedModel, data: DataRequest) -> Calibration:
    """Images from the calibration part of the source, without augmentation.

    Raises:
        DataError: there are no images, too few, or one that cannot be read.
    """
    images = images_for(loaded, data, "calibration")
    assert images is not None, "only the report may have none"
    model = loaded.model
    _, told = preprocessing(model)

    def forward(pixels: torch.Tensor) -> Any:
        return model(pixels.to(device_of(model), dtype_of(model)))

    def targets() -> list[torch.Tensor]:
        if not images.classes:
            raise DataError(
                f"{images.name} has no class folders, so it is not known what the images show; "
                "give images in a folder a class"
            )
        labels = labels_for(model, images.classes, images.name, data.classes)
        right = torch.tensor([labels.index[str(file.label)] for file in images.files])
        return list(right.split([len(pixels) for pixels in made]))

    made = [pixels for _, pixels in batches(loaded, images, max(data.batch_size, _BATCH))]
    return Calibration(
        batches=made,
        forward=forward,
        samples=len(images.files),
        unit=f"images of {told}",
        dataset=images.name,
        fingerprint=images.fingerprint,
        examples=images.examples,
        batch_samples=[len(pixels) for pixels in made],
        targets=targets,
    )
