"""Diagnosis: errors against an explicit computation, weights left alone, files and messages."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from towers import Towers, TowersPlugin

from atp_core.allocation.uniform import Uniform
from atp_core.api import diagnose
from atp_core.cli import main
from atp_core.errors import UnknownNameError, UsageError
from atp_core.testing.fixtures import IsolatedPlugins

FEW = ["--samples", "4", "--seqlen", "32", "--search-samples", "2", "--trial-samples", "2"]


@pytest.fixture
def towers(isolated_plugins: IsolatedPlugins) -> Towers:
    """Two chains, handled by a plugin of this test's own."""
    isolated_plugins.register("towers", TowersPlugin())
    return Towers(left=4, right=5)


@contextmanager
def watched(model: Towers, seen: dict[str, list[torch.Tensor]]) -> Iterator[None]:
    """Keep what every block gives."""

    def keep(name: str) -> Callable[[nn.Module, Any, torch.Tensor], None]:
        return lambda module, args, output: seen.setdefault(name, []).append(output)

    handles = [
        block.register_forward_hook(keep(f"{chain}.{i}"))
        for chain in ("left", "right")
        for i, block in enumerate(getattr(model, chain))
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def test_errors_are_those_of_two_models_run_apart(towers: Towers) -> None:
    import atp_core

    found = diagnose(towers, sparsity=0.6, beta=0.05)
    assert [one.allocation for one in found.allocations] == ["uniform", "atp"]
    calibration = TowersPlugin().atp_calibrate(
        loaded=type("Loaded", (), {"model": towers})(), data=None  # type: ignore[arg-type]
    )
    for one in found.allocations:
        assert one.schedule is not None and one.error == ""
        pruned = copy.deepcopy(towers)
        given: dict[str, Any] = {}
        if one.schedule.beta is not None:
            given["beta"] = one.schedule.beta
        made = atp_core.prune(
            pruned, sparsity=0.6, allocation=one.allocation, baseline=False, **given
        )
        assert made.schedule.digest == one.schedule.digest
        dense: dict[str, list[torch.Tensor]] = {}
        sparse: dict[str, list[torch.Tensor]] = {}
        with torch.inference_mode():
            for model, seen in ((towers, dense), (pruned, sparse)):
                with watched(model, seen):
                    for batch in calibration.batches:
                        model(batch)
        assert [block.name for block in one.blocks] == list(dense)
        for block in one.blocks:
            pairs = list(zip(dense[block.name], sparse[block.name], strict=True))
            error = sum(float((y - z).double().pow(2).sum()) for y, z in pairs)
            assert block.error == pytest.approx(error, rel=1e-5)
            assert block.norm == pytest.approx(sum(float(y.pow(2).sum()) for y, _ in pairs))
            assert block.rate == one.schedule.rates[block.chain][block.name]
            assert block.error > 0
        for chain in ("left", "right"):
            own = [block for block in one.blocks if block.chain == chain]
            assert one.last(chain) == own[-1].error / own[-1].norm
            assert one.total(chain) == pytest.approx(
                sum(block.error for block in own) / sum(block.norm for block in own)
            )


def test_weights_are_left_as_they_were(towers: Towers) -> None:
    before = {name: value.clone() for name, value in towers.state_dict().items()}
    diagnose(towers, sparsity=0.6, points=3)
    after = towers.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_weights_are_left_as_they_were_where_it_fails(
    towers: Towers, monkeypatch: pytest.MonkeyPatch
) -> None:
    from atp_core.engine import errors, pruning

    before = {name: value.clone() for name, value in towers.state_dict().items()}
    left = iter(range(3))
    whole = pruning.prune_block

    def fails(*args: Any) -> Any:
        whole(*args)
        if next(left) == 2:
            raise RuntimeError("in the middle")

    monkeypatch.setattr(errors, "prune_block", fails)
    with pytest.raises(RuntimeError, match="in the middle"):
        diagnose(towers, sparsity=0.6)
    after = towers.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_schedules_and_the_sweep(towers: Towers) -> None:
    found = diagnose(towers, sparsity=0.6, points=3)
    assert [one.sparsity for one in found.schedules] == pytest.approx([0.5, 0.6, 0.7])
    assert all(one.schedule is not None for one in found.schedules)
    assert found.sweep is not None
    betas = [trial.beta for trial in found.sweep.trials]
    assert betas == [0.0, found.beta_limit / 2, found.beta_limit]
    assert found.sweep.objective == "norm"
    named = diagnose(towers, sparsity=0.6, sparsities=[0.8, 0.6])
    assert [one.sparsity for one in named.schedules] == pytest.approx([0.6, 0.8])


def test_a_beta_that_is_given_is_taken(towers: Towers) -> None:
    found = diagnose(towers, sparsity=0.6, beta=0.01)
    _, atp = found.allocations
    assert atp.schedule is not None and atp.schedule.beta == 0.01
    with pytest.raises(UsageError, match="lies outside"):
        diagnose(towers, sparsity=0.6, beta=0.9)


def test_an_allocation_that_fails_is_recorded(
    towers: Towers, monkeypatch: pytest.MonkeyPatch
) -> None:
    from atp_core.allocation.owl import OWL

    def fails(self: OWL, request: Any) -> Any:
        raise UsageError("not on this model")

    monkeypatch.setattr(OWL, "allocate", fails)
    found = diagnose(towers, sparsity=0.6, allocations=["atp", "owl"])
    assert [one.error for one in found.allocations] == ["", "", "not on this model"]
    assert found.allocations[2].blocks == ()
    monkeypatch.setattr(Uniform, "allocate", fails)
    with pytest.raises(UsageError, match="not on this model"):
        diagnose(towers, sparsity=0.6, allocations=["owl"])


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"sparsity": 0.0}, "no errors to diagnose"),
        ({"sparsity": 0.5, "points": 1}, "2 points or more"),
        ({"sparsity": 0.5, "allocation": "owl"}, "among the allocations"),
        ({"sparsity": 0.5, "schedule": "x.json"}, "among the allocations"),
    ],
)
def test_what_has_no_place_in_a_diagnosis(
    towers: Towers, settings: dict[str, Any], told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        diagnose(towers, **settings)


def test_an_unknown_allocation_names_the_near_one(towers: Towers) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'uniform'"):
        diagnose(towers, sparsity=0.5, allocations=["unifrom"])


@pytest.fixture
def model(shared: Callable[[str], Path]) -> str:
    """The TinyStories model."""
    pytest.importorskip("atp_llm", reason="the plugin for language models is not installed")
    return str(shared("models/stories260k"))


def test_the_command_writes_data_and_figures(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["diagnose", model, "-s", "0.6", "--at", "0.5", "--beta-points", "2", "-o", str(out)]
    assert main([*words, *FEW]) == 0
    told = capsys.readouterr().out
    for part in ("last block", "uniform", "chain ", "predicted β", str(out)):
        assert part in told
    data = json.loads((out / "diagnose.json").read_text("utf-8"))
    assert [one["allocation"] for one in data["allocations"]] == ["uniform", "atp"]
    for name in ("errors", "schedules", "allocations", "objective"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (out / f"{name}.svg").exists()
    assert main([*words, *FEW]) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_json_is_one_object(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", model, "-s", "0.6", "--json", *FEW]) == 0
    data = json.loads(capsys.readouterr().out)
    uniform = data["allocations"][0]
    assert len(uniform["blocks"]) == len(data["growth"]["blocks"])
    [(chain, fit)] = data["growth"]["fit"].items()
    assert {"growth_stderr", "growth_r2", "slope_stderr", "slope_r2", "beta_stderr"} <= set(fit)
    assert data["betas"][chain] == pytest.approx(data["growth"]["closed_form"])
    assert data["sweep"] is None
