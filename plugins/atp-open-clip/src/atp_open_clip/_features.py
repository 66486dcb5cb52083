"""Features of many images and texts, and what follows from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from atp_core.data import open_image
from atp_core.errors import NumericalError
from atp_core.records import DataRequest, LoadedModel

from ._clip import Clip
from ._data import Part
from ._inputs import Inputs

__all__ = ["Features", "checked", "image_features", "text_features"]

_KEPT: Final = 2 << 30  # bytes of prepared images kept in memory; the others are read again
_AT_LEAST: Final = 32


@dataclass(frozen=True)
class Features:
    """What both towers made of a split.

    Attributes:
        images: normalized, shape (images, embedding), float32 on the CPU.
        texts: normalized, shape (texts, embedding).
        scale: what cosine similarities are multiplied by.
        bias: what is added to all logits.
    """

    images: torch.Tensor
    texts: torch.Tensor
    scale: float
    bias: float

    def logits(self, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Logits of the images from `start` to `stop`, shape (images, texts)."""
        return self.scale * self.images[start:stop] @ self.texts.T + self.bias

    def chunks(self, size: int = 1024) -> Iterator[torch.Tensor]:
        """All logits, `size` images at a time."""
        for start in range(0, len(self.images), size):
            yield self.logits(start, start + size)


class _Prepared:
    """Batches of images as the model takes them, kept as long as memory allows."""

    def __init__(self, clip: Clip, part: Part, size: int) -> None:
        self._clip = clip
        self._files = [example.image.path for example in part.examples]
        self._size = size
        self._kept: dict[int, Inputs] = {}
        self._bytes = 0

    def __iter__(self) -> Iterator[Inputs]:
        for start in range(0, len(self._files), self._size):
            batch = self._kept.get(start)
            if batch is None:
                files = self._files[start : start + self._size]
                batch = Inputs.joined([self._clip.pixels(open_image(file)) for file in files])
                if self._bytes + batch.bytes <= _KEPT:
                    self._kept[start] = batch
                    self._bytes += batch.bytes
            yield batch


def image_features(
    loaded: LoadedModel, clip: Clip, data: DataRequest, part: Part, title: str
) -> torch.Tensor:
    """Normalized features of the part's images, shape (images, embedding), float32 on the CPU.

    Raises:
        DataError: an image cannot be read.
        NumericalError: the features of an image are not finite.
    """
    size = max(data.batch_size, _AT_LEAST)
    # Identified by the part itself, which the cache holds for as long as the model is there.
    key = ("atp_open_clip.prepared", id(part), size)
    prepared: _Prepared = loaded.cache.setdefault(key, _Prepared(clip, part, size))
    found: list[torch.Tensor] = []
    with (
        torch.inference_mode(),
        loaded.progress.task(f"{title} on {part.name}", len(part.examples)) as advance,
    ):
        for batch in prepared:
            found.append(clip.encode_image(batch, normalize=True).float().cpu())
            for _ in range(batch.size):
                advance("")
    return checked(torch.cat(found), "image", [str(one.image.path) for one in part.examples])


def text_features(clip: Clip, texts: Sequence[str], size: int = 256) -> torch.Tensor:
    """Normalized features of texts, shape (texts, embedding), float32 on the CPU.

    Raises:
        NumericalError: the features of a text are not finite.
    """
    with torch.inference_mode():
        found = [
            clip.encode_text(clip.tokens(texts[start : start + size]), normalize=True).float().cpu()
            for start in range(0, len(texts), size)
        ]
    return checked(torch.cat(found), "text", texts)


def checked(features: torch.Tensor, what: str, names: Sequence[str]) -> torch.Tensor:
    """`features`, if all are finite.

    Raises:
        NumericalError: some are not; the message names the first.
    """
    broken = (~features.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if broken:
        raise NumericalError(
            f"the model's features of {what} {names[broken[0]]} are not finite; try --dtype "
            "float32, or a lower sparsity"
        )
    return features
