"""Names of classes in words, and the sentences they are put in."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import open_clip

from atp_core.data import read_classes, read_templates
from atp_core.errors import DataError
from atp_core.records import DataRequest

from ._data import Part

__all__ = ["TEMPLATES", "Labels", "Template", "labels_of"]

Template = Callable[[str], str]
"""Puts the name of a class in a sentence."""

TEMPLATES: Final = ("{}", "a photo of a {}.", "a picture of a {}.", "an image of a {}.")
"""Sentences for classes that come without any."""

_WORDNET = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class Labels:
    """The classes of labelled images.

    Attributes:
        names: class folder → name in words, in the order of the logits.
        templates: the sentences.
        origin: where both come from, for the user.
    """

    names: dict[str, str]
    templates: tuple[Template, ...]
    origin: str

    @property
    def sentences(self) -> list[str]:
        """Every sentence with every class, to tell one set of labels from another."""
        return [template(name) for name in self.names.values() for template in self.templates]


def labels_of(data: DataRequest, part: Part, *, full: bool) -> Labels:
    """Classes and templates for labelled images.

    Classes come from ``--classes``; else WordNet ids are looked up among the 1,000 of ImageNet,
    in open_clip's wording; else the names of the folders are the names of the classes.

    Args:
        data: may name files of classes and templates.
        part: the images.
        full: use all of open_clip's 80 templates for ImageNet, as published figures do, not the
            seven that serve nearly as well.

    Raises:
        DataError: a folder has no class, or an id is not one of ImageNet's.
    """
    folders = sorted({str(example.image.label) for example in part.examples})
    imagenet = all(_WORDNET.fullmatch(folder) for folder in folders)
    if data.classes is not None:
        names, origin = read_classes(data.classes), f"classes of {data.classes}"
        unknown = [folder for folder in folders if folder not in names]
        if unknown:
            raise DataError(
                f"{data.classes} names {len(names)} classes, and {len(unknown)} of {len(folders)} "
                f"class folders are not among them, e.g. {unknown[0]!r}; give a line "
                "FOLDER<TAB>NAME for each with --classes"
            )
    elif imagenet:
        names, origin = _imagenet(folders), f"{len(folders)} classes of ImageNet"
    else:
        names = {folder: folder.replace("_", " ") for folder in folders}
        origin = f"{len(names)} classes named as their folders"
    if len(names) < 2:
        raise DataError(
            f"{part.name} has one class only; zero-shot classification needs two or more"
        )
    templates: Sequence[Template]
    if data.templates is not None:
        templates = [text.format for text in read_templates(data.templates)]
    elif imagenet and data.classes is None:
        templates = (
            open_clip.OPENAI_IMAGENET_TEMPLATES if full else open_clip.SIMPLE_IMAGENET_TEMPLATES
        )
    else:
        templates = [text.format for text in TEMPLATES]
    return Labels(dict(names), tuple(templates), f"{origin}, {len(templates)} templates")


def _imagenet(folders: Sequence[str]) -> dict[str, str]:
    """WordNet id → open_clip's name; its list is in the order of the sorted ids."""
    import timm.data

    library: Any = timm.data
    ids = sorted(library.ImageNetInfo("imagenet-1k").label_names())
    known = dict(zip(ids, open_clip.IMAGENET_CLASSNAMES, strict=True))
    unknown = [folder for folder in folders if folder not in known]
    if unknown:
        raise DataError(
            f"the class folders are named by WordNet ids, and {len(unknown)} of {len(folders)} "
            f"are not among ImageNet's 1,000, e.g. {unknown[0]}; name the classes with --classes"
        )
    return {folder: known[folder] for folder in folders}
