"""Images in a folder: with a class folder each (ImageFolder), or without labels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import DataError
from .splits import digest_of

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ImageFile", "find_images", "open_image"]

_SUFFIXES: Final = frozenset(
    [".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"]
)
# What data sets carry beside their images.
_COMPANIONS: Final = frozenset([".csv", ".json", ".jsonl", ".md", ".txt", ".yaml", ".yml"])


@dataclass(frozen=True)
class ImageFile:
    """One image.

    Attributes:
        path: its file.
        label: name of its class folder, or None where images lie in one folder without labels.
    """

    path: Path
    label: str | None = None

    @cached_property
    def identity(self) -> str:
        """Hash of the file's content."""
        try:
            return digest_of(self.path.read_bytes())
        except OSError as error:
            raise DataError(f"cannot read image {self.path}: {error.strerror}") from None


def find_images(source: str | Path) -> list[ImageFile]:
    """The images of an ImageFolder directory, of a directory of images, or one image file.

    A directory with sub-directories is an ImageFolder: each sub-directory is a class, searched to
    any depth. Hidden files are left out, and so are lists and documents beside the class folders.

    Returns:
        Images sorted by path.

    Raises:
        DataError: there is nothing at `source`, it holds no images, a file among the images is
            not one, a class folder is empty, or images lie both in class folders and beside them.
    """
    root = Path(source).expanduser()
    if not root.exists():
        raise DataError(f"there is no image file or directory {source}; check the path")
    if root.is_file():
        _check_suffix(root)
        return [ImageFile(root)]
    entries = sorted(entry for entry in root.iterdir() if not entry.name.startswith("."))
    folders = [entry for entry in entries if entry.is_dir()]
    loose = [entry for entry in entries if entry.is_file() and entry.suffix not in _COMPANIONS]
    if not folders:
        for file in loose:
            _check_suffix(file)
        if not loose:
            raise DataError(f"{root} holds no images; give a directory of images or class folders")
        return [ImageFile(file) for file in loose]
    if loose:
        raise DataError(
            f"{root} holds {loose[0].name} beside class folders; an image must lie in the folder "
            "of its class, so move or remove it"
        )
    found: list[ImageFile] = []
    for folder in folders:
        files = sorted(
            file
            for file in folder.rglob("*")
            if file.is_file()
            and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        )
        for file in files:
            _check_suffix(file)
        if not files:
            raise DataError(f"class folder {folder} holds no images; fill or remove it")
        found += [ImageFile(file, folder.name) for file in files]
    return found


def open_image(path: str | Path) -> Image:
    """The image in RGB, its orientation tag applied.

    Raises:
        DataError: the file is missing, empty, truncated or no image.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    file = Path(path)
    remedy = "replace or remove it"
    try:
        if file.stat().st_size == 0:
            raise DataError(f"image {file} is empty (0 bytes); {remedy}")
        with Image.open(file) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
            return upright.convert("RGB")
    except UnidentifiedImageError:
        raise DataError(f"{file} is not an image that Pillow can read; {remedy}") from None
    except FileNotFoundError:
        raise DataError(f"there is no image {file}; check the path") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"image {file} cannot be read ({error}); {remedy}") from None


def _check_suffix(file: Path) -> None:
    if file.suffix.lower() not in _SUFFIXES:
        raise DataError(
            f"{file} is not an image (expected {', '.join(sorted(_SUFFIXES))}); remove it, or "
            "give another path"
        )
