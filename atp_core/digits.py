"""Handwritten digits: small models that have learnt something, for demos and tests.

The images are those of the UCI handwritten digits data set that scikit-learn carries (1797 of
8×8 pixels, ten classes), so nothing is downloaded. They are written out once as an ordinary image
folder with captions and questions beside it, and models trained on them are saved in the layout
of their own library: from there on they go the way of any user's model and data.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .errors import DataError

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["CLASSES", "SIZE", "SPLITS", "cached", "fit", "folder"]

SIZE: Final = 16
"""Width and height of the images written, in pixels."""

CLASSES: Final = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine",
)  # fmt: skip
"""Names of the class folders, in the order of the digits."""

SPLITS: Final = {"train": 1000, "calibration": 397, "report": 400}
"""Images of each part. Nothing is trained on the last two."""

_VERSION = 1


def cached(name: str, build: Callable[[Path], None]) -> Path:
    """A directory that `build` fills once; later calls find it.

    It lies in ``$ATP_CACHE``, else ``$XDG_CACHE_HOME/atp-prune``, else ``~/.cache/atp-prune``.
    Processes that want the same directory wait for the one that builds it.

    Args:
        name: of the directory; put a version in it.
        build: fills the empty directory it is given.
    """
    from filelock import FileLock

    root = _cache_root()
    target = root / name
    if target.is_dir():
        return target
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f"{name}.lock"):
        if not target.is_dir():
            work = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=root))
            try:
                build(work)
                os.replace(work, target)
            except BaseException:
                shutil.rmtree(work, ignore_errors=True)
                raise
    return target


def _cache_root() -> Path:
    if asked := os.environ.get("ATP_CACHE"):
        return Path(asked).expanduser()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "atp-prune"


def folder() -> Path:
    """The digits as files.

    ::

        train/zero/0000.png …      also calibration/ and report/
        captions-train.jsonl       {"image": "train/zero/0000.png", "text": "a bold zero"}
        questions-train.jsonl      {"image": …, "question": "which digit is this ?",
                                    "answer": "zero", "category": "class"}

    Raises:
        DataError: scikit-learn is not installed.
    """
    return cached(f"digits-{_VERSION}", _write)


def _write(directory: Path) -> None:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataError(
            "the digits come with scikit-learn, which is not installed; run: "
            "pip install scikit-learn"
        ) from None
    import random

    import numpy as np
    from PIL import Image

    data = load_digits()
    ink = data.images.mean(axis=(1, 2))
    thin, bold = np.quantile(ink, [1 / 3, 2 / 3])
    order = list(range(len(data.images)))
    random.Random(_VERSION).shuffle(order)
    start = 0
    for split, count in SPLITS.items():
        captions: list[dict[str, str]] = []
        questions: list[dict[str, str]] = []
        for i in order[start : start + count]:
            digit = int(data.target[i])
            image = f"{split}/{CLASSES[digit]}/{i:04d}.png"
            file = directory / image
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = (255 - data.images[i] * (255 / 16)).round().astype(np.uint8)
            scaled = Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
            scaled.convert("RGB").save(file)
            stroke = "thin" if ink[i] < thin else "bold" if ink[i] >= bold else "plain"
            captions.append({"image": image, "text": f"a {stroke} {CLASSES[digit]}"})
            questions += [{"image": image, **asked} for asked in _questions(digit, i)]
        for name, records in (("captions", captions), ("questions", questions)):
            lines = "".join(json.dumps(record) + "\n" for record in records)
            (directory / f"{name}-{split}.jsonl").write_text(lines, encoding="utf-8")
        start += count


def _questions(digit: int, index: int) -> list[dict[str, str]]:
    """Four questions about a digit; the yes/no ones are balanced over the data set."""
    other = digit if index % 2 else (digit + 1 + index % 9) % 10
    return [
        {"question": "which digit is this ?", "answer": CLASSES[digit], "category": "class"},
        {"question": f"is this a {CLASSES[other]} ?", "answer": "yes" if other == digit else "no",
         "category": "existence"},
        {"question": "is it even or odd ?", "answer": "odd" if digit % 2 else "even",
         "category": "parity"},
        {"question": "is it larger than four ?", "answer": "yes" if digit > 4 else "no",
         "category": "size"},
    ]  # fmt: skip


def fit(
    model: nn.Module,
    examples: int,
    loss: Callable[[torch.Tensor], torch.Tensor],
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int = 0,
    weight_decay: float = 0.05,
    title: str = "training",
    progress: Any = None,
) -> float:
    """Train with AdamW, a short warm-up and a cosine; the model is in eval mode afterwards.

    Args:
        model: built after ``torch.manual_seed``, so that all of it is reproducible.
        examples: how many training examples there are.
        loss: the loss of a batch, given the indices of its examples, shape (batch_size,).
        steps: optimizer steps.
        batch_size: examples a step.
        learning_rate: the highest.
        seed: of the order of examples.
        weight_decay: of AdamW.
        title: of the progress display.
        progress: an `atp_core.progress.Progress`, or None.

    Returns:
        The loss of the last step.
    """
    import math

    import torch

    from .progress import NullProgress

    generator = torch.Generator().manual_seed(seed)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, learning_rate, weight_decay=weight_decay)
    warmup = max(1, steps // 20)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    model.train()
    last = math.inf
    with (progress or NullProgress()).task(title, steps) as advance:
        for _ in range(steps):
            chosen = torch.randint(examples, (batch_size,), generator=generator)
            optimizer.zero_grad(set_to_none=True)
            value = loss(chosen)
            value.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
            last = float(value.detach())
            advance(f"loss {last:.3f}")
    model.eval()
    return last
