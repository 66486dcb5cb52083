"""Which output of the model each class folder stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import nn

from atp_core.data import read_classes
from atp_core.errors import DataError

__all__ = ["Labels", "labels_for"]


@dataclass(frozen=True)
class Labels:
    """What class folders stand for.

    Attributes:
        index: folder → index of the model's output.
        told: how that was found out, for the convention of a metric.
    """

    index: Mapping[str, int]
    told: str


def labels_for(
    model: nn.Module, folders: Sequence[str], source: str, classes: str | None
) -> Labels:
    """Match class folders with the outputs of `model`.

    By the file `classes`, by the label names in the model's config, by WordNet ids as ImageNet
    models order them, or by sorted order where there are as many folders as outputs.

    Args:
        model: with `num_classes` outputs.
        folders: names of the class folders.
        source: where the folders are, for messages.
        classes: file of class names in the order of the outputs, or None.

    Raises:
        DataError: the folders do not match.
    """
    outputs = int(getattr(model, "num_classes", 0))
    if classes is not None:
        names = list(read_classes(classes))
        if len(names) != outputs:
            raise DataError(
                f"{classes} names {len(names)} classes and the model has {outputs} outputs; give "
                "one class an output, in their order"
            )
        return Labels(_all(names, folders, source, classes), f"classes of {Path(classes).name}")
    known = _label_names(model)
    if len(known) == outputs and set(folders) <= set(known):
        return Labels(_index(known, folders), "classes by the model's label names")
    subset = infer_imagenet_subset(model)
    if subset is not None:
        synsets = ImageNetInfo(subset).label_names()
        if set(folders) <= set(synsets):
            return Labels(_index(synsets, folders), f"classes by WordNet id ({subset})")
    if len(folders) == outputs:
        return Labels(_index(sorted(folders), folders), "class folders in sorted order")
    raise DataError(
        f"the {len(folders)} class folders of {source} ({', '.join(folders[:3])}…) do not match "
        f"the model's {outputs} classes; give --classes FILE, with a folder name a line in the "
        "order of the model's outputs"
    )


def _label_names(model: nn.Module) -> list[str]:
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    names = config.get("label_names") or ()
    if isinstance(names, dict):  # by index, where there are gaps
        names = [names.get(i, names.get(str(i))) for i in range(len(names))]
    return [str(name) for name in names]


def _index(names: Sequence[str], folders: Sequence[str]) -> dict[str, int]:
    place = {name: i for i, name in enumerate(names)}
    return {folder: place[folder] for folder in folders}


def _all(
    names: Sequence[str], folders: Sequence[str], source: str, classes: str
) -> dict[str, int]:
    for folder in folders:
        if folder not in names:
            raise DataError(
                f"{source} has a class folder {folder!r} that {classes} does not name; it must "
                "name the folders in the order of the model's outputs, FOLDER or FOLDER<TAB>NAME a "
                "line"
            )
    return _index(names, folders)
