"""Statistics on what pruned blocks hand on, or on what the dense ones do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import atp_core
from atp_core._session import Session
from atp_core.errors import UsageError
from atp_core.methods.sparsegpt import SparseGPT
from atp_core.methods.wanda import Wanda
from atp_core.recipe import Recipe
from atp_core.records import Source

pytest.importorskip("atp_llm", reason="the plugin for language models is not installed")

FEW: dict[str, Any] = {
    "samples": 4, "seqlen": 32, "search_samples": 2, "report_samples": 2, "trial_samples": 4,
}  # fmt: skip


@pytest.fixture
def model(shared: Callable[[str], Path]) -> str:
    """The TinyStories model."""
    return str(shared("models/stories260k"))


def session_of(model: str, **settings: Any) -> Session:
    recipe = Recipe.make({"source": model, "sparsity": 0.5, "allocation": "uniform", **FEW,
                          **settings})  # fmt: skip
    return Session(recipe, Source(model))


def weights(session: Session) -> dict[str, torch.Tensor]:
    return {
        weight.name: weight.matrix().clone()
        for chain in session.chains
        for block in chain.blocks
        for weight in block.weights
    }


def pruned(session: Session, method: Any) -> dict[str, torch.Tensor]:
    schedule = session.allocate(session.allocator(), session.chains)
    session.prune(schedule, method, "pruning")
    return weights(session)


class Unkept(Wanda):
    """Wanda whose statistics count as large."""

    small_statistics = False


def test_dense_inputs_are_those_of_the_dense_model(model: str) -> None:
    session = session_of(model, inputs="dense")
    squares: dict[str, torch.Tensor] = {}

    def see(name: str) -> Any:
        def hook(_: Any, args: tuple[torch.Tensor, ...]) -> None:
            found = args[0].double().reshape(-1, args[0].shape[-1]).square().sum(0)
            squares[name] = squares.get(name, 0) + found

        return hook

    located = [w for chain in session.chains for block in chain.blocks for w in block.weights]
    handles = [w.module.register_forward_pre_hook(see(w.name)) for w in located]
    with torch.inference_mode():
        for batch in session.calibration.batches:
            session.calibration.forward(batch)
    for handle in handles:
        handle.remove()
    dense = weights(session)
    for name, found in pruned(session, Wanda()).items():
        scores = dense[name].double().abs() * squares[name].sqrt()
        kept = found != 0
        lowest = torch.where(kept, scores, torch.inf).min(1).values
        highest = torch.where(kept, -torch.inf, scores).max(1).values
        assert bool((lowest >= highest * (1 - 1e-5)).all()), name
        assert torch.equal(found[kept], dense[name][kept])


def test_both_ways_to_take_them_agree(model: str) -> None:
    session = session_of(model, inputs="dense")
    kept, unkept = pruned(session, Wanda()), pruned(session, Unkept())
    assert all(torch.equal(kept[name], unkept[name]) for name in kept)
    other = pruned(session_of(model), Wanda())
    first, *_, last = kept
    assert torch.equal(kept[first], other[first]), "nothing is pruned before the first block"
    assert not torch.equal(kept[last], other[last])


def test_a_method_with_large_statistics_takes_dense_inputs_too(model: str) -> None:
    session = session_of(model, inputs="dense")
    found = pruned(session, SparseGPT())
    assert all(abs(float((one == 0).float().mean()) - 0.5) < 0.01 for one in found.values())
    other = pruned(session_of(model), SparseGPT())
    *_, last = found
    assert not torch.equal(found[last], other[last])


def test_trials_take_them_once(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: Counter[str] = Counter()
    for inputs in ("pruned", "dense"):
        session = session_of(model, inputs=inputs)
        forward, calibration = session.calibration.forward, session.calibration

        def counted(batch: Any, forward: Any = forward, inputs: str = inputs) -> Any:
            runs[inputs] += 1
            return forward(batch)

        object.__setattr__(calibration, "forward", counted)
        for beta in (0.0, 0.01, 0.02):
            schedule = session.allocate(
                session.plugins.offers("allocators").create("atp"), session.chains, beta=beta
            )
            session.prune(schedule, session.method(), "trial", 4)
    assert runs == {"pruned": 12, "dense": 4}


def test_from_the_command_to_the_output(model: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {**FEW, "beta": "auto", "sparsity": 0.6}
    out = tmp_path / "out"
    found = atp_core.prune(model, inputs="dense", output=out, **settings)
    other = atp_core.prune(model, **settings)
    values = [one.metrics["pruned"]["perplexity"].value for one in (found, other)]
    assert values[0] != values[1]
    assert '"inputs": "dense"' in (out / "atp.json").read_text("utf-8")
    with pytest.raises(UsageError, match="inputs"):
        atp_core.prune(model, inputs="both", **settings)
