"""Reading and splitting calibration and evaluation data, for plugins of every modality.

Nothing here imports torch. Images need Pillow, which plugins that read images depend on.
"""

from __future__ import annotations

from .images import ImageFile, find_images, open_image
from .lists import read_classes, read_jsonl, read_templates
from .splits import SHARES, digest_of, partition, same_source, take

__all__ = [
    "SHARES",
    "ImageFile",
    "digest_of",
    "find_images",
    "open_image",
    "partition",
    "read_classes",
    "read_jsonl",
    "read_templates",
    "same_source",
    "take",
]
