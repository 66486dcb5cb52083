"""A model that a runtime executes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ._protocol import Runtime
from ._records import Acceleration

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Accelerated"]


@dataclass(frozen=True)
class Accelerated:
    """A model that a runtime executes, and the way back.

    Attributes:
        model: the model, accelerated in place.
        processor: its tokenizer or image processor, where one was loaded with it.
        runtime: what executes it.
        acceleration: which layers run sparse, and why others do not.
    """

    model: nn.Module
    processor: Any
    runtime: Runtime
    acceleration: Acceleration

    @property
    def info(self) -> Mapping[str, str]:
        """What is live, as the runtime tells it."""
        return self.runtime.info()

    def restore(self) -> nn.Module:
        """The model with its dense layers again, bit for bit."""
        self.runtime.restore(self.model)
        return self.model

    def to_json(self) -> dict[str, Any]:
        """Runtime and layers as JSON-ready data."""
        return {
            "name": self.runtime.name,
            "info": dict(self.info),
            **self.acceleration.to_json(),
        }
