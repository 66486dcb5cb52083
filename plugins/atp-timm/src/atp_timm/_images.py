"""Images: which of them serve a split, and how they become tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import timm.data
import torch
from torch import nn

from atp_core.data import (
    SHARES,
    ImageFile,
    digest_of,
    find_images,
    open_image,
    partition,
    same_source,
    take,
)
from atp_core.errors import DataError
from atp_core.records import DataRequest, LoadedModel, Source, Split

from ._input import data_config
from ._source import DIGITS

__all__ = ["Images", "batches", "images_for", "preprocessing"]

_OPTIONS: Final[dict[Split, str]] = {
    "calibration": "--samples",
    "search": "--search-samples",
    "report": "--report-samples",
}
_DEFAULTS: Final[dict[Split, int | None]] = {"calibration": 128, "search": 256, "report": None}
_KEPT: Final = 1 << 30  # bytes of pixels a split may keep in memory; more is read every time


@dataclass(frozen=True)
class Images:
    """The images of one split.

    Attributes:
        name: where they come from, for the user.
        files: the images.
        classes: names of all class folders at the source, sorted; empty without labels.
        fingerprint: hash of the images and of their labels.
    """

    name: str
    files: tuple[ImageFile, ...]
    classes: tuple[str, ...]
    fingerprint: str

    @property
    def examples(self) -> frozenset[str]:
        """Identities of the images."""
        return frozenset(file.identity for file in self.files)


def images_for(loaded: LoadedModel, data: DataRequest, split: Split) -> Images | None:
    """The images of a split, found once and kept; None where there is no report data.

    Calibration and search images are cut from one source; where it serves the report too, three
    ways. A number of images that was asked for is met exactly, or is an error; a default takes
    what there is.

    Raises:
        DataError: there is no calibration data, or too little of it.
    """
    key = ("atp_timm.images", split, data.calibration, data.report, data.seed, _asked(data, split))
    if key not in loaded.cache:
        loaded.cache[key] = _find(loaded, data, split)
    found: Images | None = loaded.cache[key]
    return found


def preprocessing(model: nn.Module) -> tuple[Any, str]:
    """The model's own transform of an RGB image to a tensor (C, H, W), and a name for it.

    Raises:
        DataError: the model takes another number of channels than images have.
    """
    config = data_config(model)
    channels, height, width = config["input_size"]
    if channels not in (1, 3):
        raise DataError(f"the model takes images of {channels} channels; only 1 and 3 are known")
    transform = timm.data.create_transform(**config, is_training=False)
    told = (
        f"{height}×{width} px, {config['interpolation']}, crop {config['crop_pct']:g} "
        f"({config['crop_mode']})"
    )
    return transform, told


def batches(
    loaded: LoadedModel, images: Images, size: int
) -> Iterator[tuple[Sequence[ImageFile], torch.Tensor]]:
    """The images of a split and their pixels (batch, C, H, W), float32, at most `size` at once.

    Pixels of splits up to 1 GiB are kept, so that they are read once.
    """
    key = ("atp_timm.pixels", images.fingerprint)
    kept: torch.Tensor | None = loaded.cache.get(key)
    transform, _ = preprocessing(loaded.model)
    mode = "L" if data_config(loaded.model)["input_size"][0] == 1 else "RGB"
    read: list[torch.Tensor] = []
    for start in range(0, len(images.files), size):
        files = images.files[start : start + size]
        if kept is not None:
            pixels = kept[start : start + size]
        else:
            pixels = torch.stack([transform(open_image(file.path).convert(mode)) for file in files])
            if len(images.files) * pixels[0].nbytes <= _KEPT:
                read.append(pixels)
        yield files, pixels
    if read and kept is None:
        loaded.cache[key] = torch.cat(read)


def _asked(data: DataRequest, split: Split) -> int | None:
    if split == "report":
        return data.report_samples
    return data.samples if split == "calibration" else data.search_samples


def _spec(source: Source, data: DataRequest, split: Split) -> str | None:
    """What the user named, or the digits for the model that was trained on them."""
    if not _is_default(source, data, split):
        return data.report if split == "report" else data.calibration
    from atp_core.digits import folder

    return str(folder() / ("report" if split == "report" else "calibration"))


def _is_default(source: Source, data: DataRequest, split: Split) -> bool:
    given = data.report if split == "report" else data.calibration
    return given is None and source.text == f"embedded:{DIGITS}"


def _find(loaded: LoadedModel, data: DataRequest, split: Split) -> Images | None:
    spec = _spec(loaded.source, data, split)
    if spec is None:
        if split == "report":
            return None
        raise DataError(
            f"{loaded.source.text} needs images: give --calibration DIR with a folder of images a "
            "class (or images alone, without labels)"
        )
    everything = find_images(spec)
    classes = tuple(sorted({image.label for image in everything if image.label is not None}))
    other = _spec(loaded.source, data, "calibration" if split == "report" else "report")
    shared = other is not None and same_source(spec, other)
    name = Path(spec).expanduser().resolve().name
    if _is_default(loaded.source, data, split):
        name = f"handwritten digits ({name})"
    if split == "report" and not shared:
        part = list({image.identity: image for image in everything}.values())
    else:
        part = partition(everything, SHARES[shared], lambda image: image.identity)[split]
        name = f"{name}, {split} part"
    if not part:
        raise DataError(
            f"{spec} has {len(everything)} images, too few to hold out a {split} part of them; "
            "give more images"
        )
    asked = _asked(data, split)
    exact = split == "search" or (split == "calibration" and not data.at_most)
    if asked is not None and exact and asked > len(part):
        raise DataError(
            f"{spec} ({split} part) has {len(part)} images, fewer than the {asked} asked for; give "
            f"more images, or lower {_OPTIONS[split]}"
        )
    usual = _DEFAULTS[split]
    if asked is None and usual is not None and len(part) < usual:
        loaded.progress.note(f"{name} gives {len(part)} images, not the usual {usual}")
    count = asked if asked is not None else usual
    chosen = take(part, count, seed=data.seed, group=lambda image: image.label)
    return Images(name, tuple(chosen), classes, _fingerprint(chosen))


def _fingerprint(files: Sequence[ImageFile]) -> str:
    text = "\n".join(f"{file.identity} {file.label}" for file in files)
    return digest_of(hashlib.sha256(text.encode()).digest())[:16]
