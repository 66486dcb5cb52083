"""Images with captions, or with a class each: reading them and cutting them into splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from atp_core.data import (
    SHARES,
    ImageFile,
    digest_of,
    find_images,
    partition,
    read_jsonl,
    same_source,
    take,
)
from atp_core.errors import DataError
from atp_core.records import DataRequest, LoadedModel, Split

from ._source import DIGITS

__all__ = [
    "SAMPLES",
    "SEARCH_SAMPLES",
    "Example",
    "Kind",
    "Part",
    "fingerprint",
    "part_of",
]

Kind = Literal["classes", "captions"]
"""What comes with the images: a class folder each, or captions."""

SAMPLES: Final = 128
"""Calibration images where no number is given, as in the literature."""

SEARCH_SAMPLES: Final = 256
"""Images of the search split where no number is given."""


@dataclass(frozen=True)
class Example:
    """An image and what it shows.

    Attributes:
        image: the file; `image.label` is its class folder.
        captions: its captions, where it has any.
    """

    image: ImageFile
    captions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """The examples of one split.

    Attributes:
        name: where they come from, for the user.
        kind: what comes with the images.
        examples: in a fixed order.
    """

    name: str
    kind: Kind
    examples: tuple[Example, ...]

    @property
    def identities(self) -> frozenset[str]:
        """Hashes of the images."""
        return frozenset(example.image.identity for example in self.examples)


def fingerprint(*told: object) -> str:
    """Hash of what a figure was measured on."""
    return digest_of(repr(told).encode())[:16]


def part_of(loaded: LoadedModel, data: DataRequest, split: Split) -> Part | None:
    """The examples of one split, read once and kept; None where there are none for the report.

    Calibration and search are cut from the calibration data, and the report too where it names
    the same data. Drawn evenly from the classes.

    Raises:
        DataError: there is no calibration data, it cannot be read, or it is too little.
    """
    calibration, report = (_spec(loaded, data, name) for name in ("calibration", "report"))
    spec = report if split == "report" else calibration
    if spec is None:
        if split == "report":
            return None
        raise DataError(
            "a CLIP model is calibrated on images with texts: give --calibration with a directory "
            "of class folders, or with a JSONL file of images and captions"
        )
    sizes = (data.samples, data.search_samples, data.report_samples, data.seed)
    key = ("atp_open_clip.part", split, calibration, report, sizes)
    if key not in loaded.cache:
        shared = calibration is not None and report is not None and same_source(calibration, report)
        kind, examples = _read(loaded, spec)
        name = spec if _spec_given(data, split) else f"handwritten digits ({Path(spec).name})"
        if split != "report" or shared:
            parts = partition(examples, SHARES[shared], lambda one: one.image.identity)
            examples, total = parts[split], len(examples)
            name = f"{name}, {split} part"
            if not examples:
                raise DataError(
                    f"{spec} has {total} images, too few to hold out a {split} part of them; "
                    "give data with more images"
                )
        loaded.cache[key] = Part(name, kind, _chosen(loaded, data, split, name, examples))
    found: Part = loaded.cache[key]
    return found


def _spec_given(data: DataRequest, split: Split) -> bool:
    return (data.report if split == "report" else data.calibration) is not None


def _spec(loaded: LoadedModel, data: DataRequest, split: Split) -> str | None:
    """Where the data of a split is: as asked, or the default of the embedded model."""
    asked = data.report if split == "report" else data.calibration
    if asked is None and loaded.source.model is None and loaded.source.text == DIGITS:
        from atp_core.digits import folder

        return str(folder() / ("report" if split == "report" else "calibration"))
    return asked


def _chosen(
    loaded: LoadedModel, data: DataRequest, split: Split, name: str, examples: Sequence[Example]
) -> tuple[Example, ...]:
    """As many examples as asked for.

    A number that was asked for is met exactly, but for the report and where `data.at_most`, where
    it is a limit; a default takes what there is and says so.
    """
    asked, usual, option = {
        "calibration": (data.samples, SAMPLES, "--samples"),
        "search": (data.search_samples, SEARCH_SAMPLES, "--search-samples"),
        "report": (data.report_samples, None, "--report-samples"),
    }[split]
    wanted = asked or usual
    found = take(examples, wanted, seed=data.seed, group=lambda one: one.image.label)
    if split != "report" and wanted is not None and len(found) < wanted:
        if split == "calibration" and data.at_most:
            return tuple(found)
        if asked:
            raise DataError(
                f"{name} has {len(found)} images and {option} asks for {asked}; give more data or "
                f"lower {option}"
            )
        loaded.progress.note(f"{name} has {len(found)} images, not the usual {wanted}")
    return tuple(found)


def _read(loaded: LoadedModel, spec: str) -> tuple[Kind, list[Example]]:
    key = ("atp_open_clip.data", spec)
    if key not in loaded.cache:
        path = Path(spec).expanduser()
        captions = path.is_file() and path.suffix in (".jsonl", ".json", ".txt", ".csv", ".tsv")
        loaded.cache[key] = (
            ("captions", _captioned(path)) if captions else ("classes", _labelled(spec))
        )
    found: tuple[Kind, list[Example]] = loaded.cache[key]
    return found


def _labelled(spec: str) -> list[Example]:
    if spec.startswith("hf:"):
        raise DataError(
            f"{spec}: datasets of the hub are not read here; give a directory of class folders, "
            "or a JSONL file of images and captions"
        )
    images = find_images(spec)
    if images[0].label is None:
        raise DataError(
            f"the images of {spec} have neither classes nor captions, and the text tower needs "
            "text: give a directory with a folder for each class, or a JSONL file whose lines "
            'have "image" and "text"'
        )
    return [Example(image) for image in images]


def _captioned(path: Path) -> list[Example]:
    """Images of a JSONL file, with all captions that its lines give for each."""
    images: dict[str, ImageFile] = {}
    captions: dict[str, list[str]] = {}
    for number, (_, record) in enumerate(read_jsonl(path, ["image"]), 1):
        where = f"record {number} of {path}"
        found = record.get("text", record.get("caption"))
        texts = [found] if isinstance(found, str) else found
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            texts = []
        if not texts:
            raise DataError(
                f'{where} has no caption: expected "text" or "caption" with a string or a list of '
                f"strings; it has {', '.join(map(repr, record))}"
            )
        if not isinstance(record["image"], str):
            raise DataError(f'"image" must be a path in {where}')
        image = ImageFile(path.parent / record["image"])
        images.setdefault(image.identity, image)
        captions.setdefault(image.identity, []).extend(texts)
    return [
        Example(image, tuple(dict.fromkeys(captions[identity])))
        for identity, image in images.items()
    ]
