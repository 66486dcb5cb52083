"""The digits and what is trained on them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from atp_core import digits
from atp_core.data import find_images

pytest.importorskip("sklearn", reason="scikit-learn is not installed")
pytest.importorskip("PIL", reason="Pillow is not installed")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATP_CACHE", str(tmp_path))
    return tmp_path


def test_folder_is_three_disjoint_image_folders_with_captions_and_questions(cache: Path) -> None:
    folder = digits.folder()
    assert folder.parent == cache
    identities: set[str] = set()
    for split, count in digits.SPLITS.items():
        images = find_images(folder / split)
        assert len(images) == count
        assert {image.label for image in images} == set(digits.CLASSES)
        own = {image.identity for image in images}
        # A few of the digits are equal to the pixel.
        assert len(own & identities) == 0
        identities |= own
        captions = (folder / f"captions-{split}.jsonl").read_text("utf-8").splitlines()
        assert len(captions) == count
        first = json.loads(captions[0])
        assert (folder / first["image"]).exists()
        assert first["text"].split()[-1] == Path(first["image"]).parent.name
        lines = (folder / f"questions-{split}.jsonl").read_text("utf-8").splitlines()
        asked = [json.loads(line) for line in lines]
        assert len(asked) == 4 * count
        yes = [q["answer"] == "yes" for q in asked if q["category"] == "existence"]
        assert 0.4 < sum(yes) / len(yes) < 0.6


def test_a_build_that_fails_leaves_nothing(cache: Path) -> None:
    def build(directory: Path) -> None:
        (directory / "half").write_text("x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        digits.cached("model-1", build)
    assert not [path for path in cache.iterdir() if path.suffix != ".lock"]


def test_a_build_runs_once(cache: Path) -> None:
    calls = []
    for _ in range(2):
        found = digits.cached("model-1", lambda directory: calls.append(directory))
    assert len(calls) == 1 and found == cache / "model-1"


def test_fit_learns_and_is_seeded() -> None:
    x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    y = x @ torch.tensor([1.0, -2.0, 0.5, 0.0])

    def train() -> tuple[float, torch.Tensor]:
        torch.manual_seed(0)
        model = nn.Linear(4, 1)
        last = digits.fit(
            model,
            len(x),
            lambda i: (model(x[i])[:, 0] - y[i]).pow(2).mean(),
            steps=200,
            batch_size=20,
            learning_rate=0.05,
        )
        assert not model.training
        return last, model.weight.detach().clone()

    loss, weights = train()
    assert loss < 0.05
    assert torch.equal(weights, train()[1])
