"""Small images of random colours, for examples of plugins that see."""

from __future__ import annotations

from pathlib import Path

__all__ = ["image_folder"]

_COLOURS = {"blue": (20, 40, 200), "green": (40, 190, 60), "red": (210, 40, 30)}


def image_folder(directory: Path, images: int = 12, side: int = 16, seed: int = 0) -> Path:
    """Write an ImageFolder of three classes, noise around a colour each. Needs Pillow and numpy.

    Args:
        directory: is made; gets a folder a class, called blue, green and red.
        images: of each class.
        side: width and height in pixels.
        seed: other seeds give other images.

    Returns:
        `directory`.
    """
    import numpy
    from PIL import Image

    generator = numpy.random.default_rng(seed)
    for name, colour in _COLOURS.items():
        (directory / name).mkdir(parents=True)
        for i in range(images):
            noise = generator.normal(0.0, 30.0, (side, side, 3))
            pixels = numpy.clip(numpy.array(colour) + noise, 0, 255).astype(numpy.uint8)
            Image.fromarray(pixels).save(directory / name / f"{i:03}.png")
    return directory
