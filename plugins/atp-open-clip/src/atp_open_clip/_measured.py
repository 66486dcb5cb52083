"""Figures on their way to being metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from atp_core.measuring import Figure

from ._features import Features

__all__ = ["Measured"]


@dataclass(frozen=True)
class Measured:
    """What was measured on one split.

    Attributes:
        figures: by name; the first is what a search goes by.
        features: what they were computed from, to compare models by.
        images: identity of each image.
        fingerprint: hash of the data.
        convention: how it was measured.
    """

    figures: Mapping[str, Figure]
    features: Features
    images: Sequence[str]
    fingerprint: str
    convention: str
