"""One form for the CLIP models of both libraries: two towers, a scale, and how data enters them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL.Image import Image
from torch import nn
from torch.nn import functional

from atp_core.errors import ModelError
from atp_core.records import LoadedModel

from ._inputs import Inputs
from ._source import is_transformers_model

__all__ = ["Clip", "OpenClipProcessor", "clip_of"]


@dataclass
class OpenClipProcessor:
    """What surrounds a model of open_clip.

    Attributes:
        preprocess: image transform without augmentation; None where there is none.
        tokenizer: texts to token ids; None where it could not be had.
        config: what ``open_clip_config.json`` holds, at least its "model_cfg"; None if unknown.
        stored: tensor → dtype it is stored with in the source, where that is kept.
    """

    preprocess: Any = None
    tokenizer: Any = None
    config: dict[str, Any] | None = None
    stored: dict[str, torch.dtype] = field(default_factory=dict)


class Clip(ABC):
    """A model with an image tower and a text tower.

    Args:
        loaded: the model, with its processor.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self._model: Any = loaded.model
        self._processor: Any = loaded.processor
        self._name = loaded.source.text

    @property
    def model(self) -> nn.Module:
        """The model itself."""
        return self._model  # type: ignore[no-any-return]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self._model.parameters()).device  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of its layers, which is that of its images; normalization may differ from it."""
        layers = (m for m in self._model.modules() if isinstance(m, nn.Conv2d | nn.Linear))
        return next(layer.weight.dtype for layer in layers)

    @property
    def scale(self) -> float:
        """What cosine similarities are multiplied by to give logits."""
        return float(self._model.logit_scale.detach().float().exp())

    @property
    def bias(self) -> float:
        """What is added to all logits (SigLIP), else 0."""
        found = getattr(self._model, "logit_bias", None)
        return 0.0 if found is None else float(found.detach().float())

    def ready(self, inputs: Inputs) -> Inputs:
        """`inputs` where the model is, in its dtype."""
        return inputs.to(self.device, self.dtype)

    @abstractmethod
    def pixels(self, image: Image) -> Inputs:
        """One image as the image tower takes it."""

    @abstractmethod
    def tokens(self, texts: Sequence[str]) -> Inputs:
        """Texts as the text tower takes them."""

    @abstractmethod
    def images(self, inputs: Inputs) -> torch.Tensor:
        """Features of images, shape (batch, embedding), not normalized."""

    @abstractmethod
    def texts(self, inputs: Inputs) -> torch.Tensor:
        """Features of texts, shape (batch, embedding), not normalized."""

    @abstractmethod
    def run(self, images: Inputs, texts: Inputs) -> Any:
        """The model's own forward, through both towers."""

    def encode_image(self, inputs: Inputs, normalize: bool = False) -> torch.Tensor:
        """Features of images, shape (batch, embedding)."""
        features = self.images(self.ready(inputs))
        return functional.normalize(features, dim=-1) if normalize else features

    def encode_text(self, inputs: Inputs, normalize: bool = False) -> torch.Tensor:
        """Features of texts, shape (batch, embedding)."""
        features = self.texts(self.ready(inputs))
        return functional.normalize(features, dim=-1) if normalize else features

    def _missing(self, what: str, remedy: str) -> ModelError:
        return ModelError(f"{self._name} has no {what}: {remedy}")


class _OpenClip(Clip):
    """A model of open_clip."""

    def pixels(self, image: Image) -> Inputs:
        if self._processor.preprocess is None:
            raise self._missing("image transform", "pass processor=(preprocess, tokenizer)")
        return Inputs(image=self._processor.preprocess(image).unsqueeze(0))

    def tokens(self, texts: Sequence[str]) -> Inputs:
        if self._processor.tokenizer is None:
            raise self._missing(
                "tokenizer",
                "put its files next to the model, make the hub reachable, or pass "
                "processor=(preprocess, tokenizer) along with a model in memory",
            )
        return Inputs(text=self._processor.tokenizer(list(texts)))

    def images(self, inputs: Inputs) -> torch.Tensor:
        return self._model.encode_image(inputs["image"])  # type: ignore[no-any-return]

    def texts(self, inputs: Inputs) -> torch.Tensor:
        return self._model.encode_text(inputs["text"])  # type: ignore[no-any-return]

    def run(self, images: Inputs, texts: Inputs) -> Any:
        return self._model(self.ready(images)["image"], self.ready(texts)["text"])


class _Transformers(Clip):
    """CLIP, SigLIP or SigLIP 2 of transformers."""

    def pixels(self, image: Image) -> Inputs:
        found = self._part("image_processor")(images=[image], return_tensors="pt")
        return Inputs({name: found[name] for name in found})

    def tokens(self, texts: Sequence[str]) -> Inputs:
        # All texts of one length, as SigLIP was trained: features do not depend on the batch.
        found = self._part("tokenizer")(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=self._model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        )
        return Inputs({name: found[name] for name in found})

    def _part(self, name: str) -> Any:
        part = getattr(self._processor, name, None)
        if part is None:
            raise self._missing(
                name.replace("_", " "),
                "put the files of its processor next to the model, or pass processor=PROCESSOR "
                "along with a model in memory",
            )
        return part

    def images(self, inputs: Inputs) -> torch.Tensor:
        return _pooled(self._model.get_image_features(**inputs))

    def texts(self, inputs: Inputs) -> torch.Tensor:
        return _pooled(self._model.get_text_features(**inputs))

    def run(self, images: Inputs, texts: Inputs) -> Any:
        return self._model(**self.ready(images), **self.ready(texts))


def _pooled(found: Any) -> torch.Tensor:
    """Features, which transformers wraps in an output since 5.0."""
    return found if isinstance(found, torch.Tensor) else found.pooler_output


def clip_of(loaded: LoadedModel) -> Clip:
    """The model in the form that this plugin works with."""
    kind = _Transformers if is_transformers_model(loaded.model) else _OpenClip
    return kind(loaded)
