"""Executing pruned models by runtimes: chosen by name, told in results, undone bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conforming import WIDTH, GoodPlugin, Residual
from jsonschema import Draft202012Validator
from runtimes import Coo, CooLinear, Plugin, Refusing
from torch import nn

import atp_core
from atp_core.benched import BenchedWorkload
from atp_core.cli import main
from atp_core.errors import ModelError, PluginError, UnknownNameError, UsageError
from atp_core.evaluation.schema import EvaluationRecord
from atp_core.hookspecs import hookimpl
from atp_core.loading import shared_copy
from atp_core.records import LoadedModel
from atp_core.runtime import Acceleration
from atp_core.runtime.dense import Dense
from atp_core.testing.fixtures import IsolatedPlugins


@pytest.fixture
def pruned(isolated_plugins: IsolatedPlugins, tmp_path: Path) -> Path:
    """A model whose first blocks are seven tenths zeros."""
    plugin = GoodPlugin()
    isolated_plugins.register("mine", plugin)
    directory = tmp_path / "pruned"
    directory.mkdir()
    plugin.three(directory)
    loaded = atp_core.load(str(directory))
    for block in (0, 1):
        weight = loaded.model.get_parameter(f"blocks.{block}.weight").data
        weight.view(-1)[torch.randperm(weight.numel())[: int(0.7 * weight.numel())]] = 0.0
    weight.view(-1)[0] = -0.0
    for file in directory.iterdir():
        file.unlink()
    plugin.atp_save(loaded, directory)
    return directory


@pytest.fixture
def coo(isolated_plugins: IsolatedPlugins, monkeypatch: pytest.MonkeyPatch) -> type[Coo]:
    isolated_plugins.register("kernels", Plugin(Coo))
    monkeypatch.setattr(Coo, "runs", 0)
    return Coo


# --- choosing -------------------------------------------------------------------------------------


def test_without_a_sparse_runtime_auto_says_what_to_install(pruned: Path) -> None:
    with pytest.raises(PluginError, match="pip install atp-prune-sparse-cpu"):
        atp_core.accelerate(str(pruned))
    with pytest.raises(UnknownNameError, match="dense"):
        atp_core.accelerate(str(pruned), runtime="sparse-cpu")


def test_auto_passes_over_what_cannot_run(
    pruned: Path, coo: type[Coo], isolated_plugins: IsolatedPlugins
) -> None:
    class Elsewhere(Coo):
        name = "a-gpu"
        devices = ("cuda",)

    isolated_plugins.register("others", Plugin(Elsewhere, Refusing))
    assert atp_core.accelerate(str(pruned)).runtime.name == "coo"
    with pytest.raises(ModelError, match="needs a machine"):
        atp_core.accelerate(str(pruned), runtime="refusing")


def test_auto_tells_why_none_can_run(pruned: Path, isolated_plugins: IsolatedPlugins) -> None:
    isolated_plugins.register("others", Plugin(Refusing))
    with pytest.raises(PluginError, match="refusing: it needs a machine that is not there"):
        atp_core.accelerate(str(pruned))


def test_a_runtime_that_fails_is_named_and_undone(
    pruned: Path, isolated_plugins: IsolatedPlugins
) -> None:
    class Broken(Coo):
        name = "broken"

        def accelerate(self, model: nn.Module, weights: Any = None) -> Acceleration:
            super().accelerate(model)
            raise ZeroDivisionError("by zero")

    class Silent(Coo):
        name = "silent"

        def accelerate(self, model: nn.Module, weights: Any = None) -> Any:
            super().accelerate(model)

    isolated_plugins.register("others", Plugin(Broken, Silent))
    model = atp_core.load(str(pruned)).model
    for name, told in (("broken", "ZeroDivisionError: by zero"), ("silent", "gave NoneType")):
        with pytest.raises(PluginError, match=f"'{name}'.*{told}"):
            atp_core.accelerate(model, runtime=name)
        assert not any(isinstance(part, CooLinear) for part in model.modules())


# --- accelerating ---------------------------------------------------------------------------------


def test_a_model_is_accelerated_in_place_and_restored(pruned: Path, coo: type[Coo]) -> None:
    model = atp_core.load(str(pruned)).model
    inputs = torch.randn(5, WIDTH)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    dense = model(inputs)
    found = atp_core.accelerate(model)
    assert found.model is model and isinstance(model.get_submodule("blocks.0"), CooLinear)
    torch.testing.assert_close(model(inputs), dense)
    kernels = {layer.name: layer.kernel for layer in found.acceleration.layers}
    assert [name for name, kernel in kernels.items() if kernel == "coo"] == ["blocks.0", "blocks.1"]
    told = found.to_json()
    assert (told["name"], told["sparse_layers"], told["layers"][1]["shape"]) == ("coo", 2, [8, 8])
    assert told["dense_bytes"] == 4 * (4 * 64 + 16)
    assert found.restore() is model
    after = model.state_dict()
    assert list(after) == list(before)
    for name, tensor in before.items():
        assert torch.equal(after[name].view(torch.int32), tensor.view(torch.int32))


def test_settings_are_for_sources(pruned: Path, coo: type[Coo]) -> None:
    assert atp_core.accelerate(str(pruned), dtype="float32").processor is None
    with pytest.raises(UsageError, match="drop dtype"):
        atp_core.accelerate(Residual(), dtype="float32")


def test_the_dense_runtime_changes_nothing() -> None:
    model = Residual()
    modules = list(model.modules())
    runtime = Dense()
    done = runtime.accelerate(model)
    assert [layer.name for layer in done.layers][:2] == ["enter", "blocks.0"]
    assert done.sparse_layers == 0 and done.bytes == done.dense_bytes
    runtime.restore(model)
    assert all(one is other for one, other in zip(modules, model.modules(), strict=True))
    with pytest.raises(UsageError, match="takes no weights"):
        runtime.accelerate(model, {"enter.weight": torch.zeros(8, 8)})


def test_a_shared_copy_takes_other_modules_and_the_same_memory() -> None:
    model = Residual()
    model.tied = model.enter
    model.register_buffer("scale", torch.ones(3))
    twin = shared_copy(model)
    pairs = list(zip(model.state_dict().values(), twin.state_dict().values(), strict=True))
    assert all(one.data_ptr() == other.data_ptr() for one, other in pairs)
    assert twin.tied is twin.enter and twin.enter is not model.enter
    assert twin.enter.weight.requires_grad
    twin.leave = nn.Identity()  # type: ignore[assignment]
    twin.enter.weight = nn.Parameter(torch.zeros(8, 8))
    assert isinstance(model.leave, nn.Linear) and model.enter.weight.abs().sum() > 0


# --- measuring ------------------------------------------------------------------------------------


def test_eval_measures_what_a_runtime_executes(
    pruned: Path, coo: type[Coo], tmp_path: Path, capsys: Any
) -> None:
    dense = atp_core.evaluate(str(pruned))
    assert coo.runs == 0 and dense.runtime == {} and dense.to_json()["runtime"] is None
    words = ["eval", str(pruned), "--runtime", "auto", "--compare", str(pruned)]
    assert main([*words, "-o", str(tmp_path / "out"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert coo.runs == 1, "what it is compared with runs dense"
    assert told["runtime"]["name"] == "coo" and told["others"][0]["runtime"] is None
    assert told["runtime"]["info"] == {"format": "list of entries"}
    assert told["runtime"]["sparse_layers"] == 2
    square = dense.metrics["square"].value
    assert told["metrics"]["square"]["value"] == pytest.approx(square)
    written = json.loads((tmp_path / "out" / "eval.json").read_text())
    assert written["runtime"] == told["runtime"]
    assert "--runtime auto" in written["command"] and written["settings"]["runtime"] == "auto"
    Draft202012Validator(EvaluationRecord.json_schema()).validate(written)
    assert main(["eval", str(pruned), "--runtime", "coo"]) == 0
    assert "executed by coo: 2 of 5 layers sparse" in capsys.readouterr().out


def test_bench_times_both_in_pairs(
    pruned: Path, coo: type[Coo], tmp_path: Path, capsys: Any
) -> None:
    words = ["bench", str(pruned), "--batch", "1,3", "--rounds", "4", "--modes", "rows"]
    assert main([*words, "-o", str(tmp_path / "bench.json"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "bench.json").read_text()) == told
    assert [(work["name"], work["batch"]) for work in told["workloads"]] == [
        ("rows", 1),
        ("rows", 3),
    ]
    assert all(len(work["dense_seconds"]) == len(work["sparse_seconds"]) == 4
               for work in told["workloads"])
    assert (told["runtime"], told["acceleration"]["sparse_layers"]) == ("coo", 2)
    parameters = 4 * (4 * (64 + 8) + 16 + 2)
    layers = told["acceleration"]
    assert told["dense_bytes"] == parameters
    assert told["sparse_bytes"] == parameters - layers["dense_bytes"] + layers["bytes"]
    assert main([*words, "--threads", "1"]) == 0
    shown = capsys.readouterr().out
    assert "2 of 5 layers run sparse" in shown and "fewer than half" in shown


def test_bench_leaves_a_model_in_memory_as_it_was(
    coo: type[Coo], pruned: Path, isolated_plugins: IsolatedPlugins
) -> None:
    class InMemory(GoodPlugin):
        @hookimpl
        def atp_recognize(self, source: Any) -> Any:
            from atp_core.records import Recognition

            return Recognition(1.0, "in memory") if source.model is not None else None

        @hookimpl
        def atp_load(self, source: Any, request: Any) -> LoadedModel:
            return LoadedModel(source.model.eval(), source)

    isolated_plugins.register("memory", InMemory())
    model = atp_core.load(str(pruned)).model
    kinds = [type(part) for part in model.modules()]
    found = atp_core.bench(model, rounds=1)
    assert [work.name for work in found.workloads] == ["rows", "more"]
    assert [type(part) for part in model.modules()] == kinds


def test_bench_refuses_what_cannot_be_timed(
    pruned: Path, coo: type[Coo], isolated_plugins: IsolatedPlugins, tmp_path: Path
) -> None:
    with pytest.raises(UnknownNameError, match="decode"):
        atp_core.bench(str(pruned), modes=["decode"])
    with pytest.raises(UsageError, match="batch sizes of 1 and more"):
        atp_core.bench(str(pruned), batch_sizes=[0])
    assert main(["bench", str(pruned), "--batch", "x"]) == 2
    with pytest.raises(UsageError, match="there is no folder"):
        atp_core.bench(str(pruned), output=tmp_path / "none" / "bench.json")


def test_bench_needs_the_hook(isolated_plugins: IsolatedPlugins, tmp_path: Path) -> None:
    class Untimed(GoodPlugin):
        atp_workloads = None

    plugin = Untimed()
    isolated_plugins.register("untimed", plugin)
    plugin.three(tmp_path)
    with pytest.raises(UsageError, match="does not say what its models are timed on"):
        atp_core.bench(str(tmp_path), runtime="dense")


def test_ratios_are_of_pairs() -> None:
    work = BenchedWorkload("decode", 1, "tokens", 32, "", [2.0, 4.0, 9.0], [1.0, 1.0, 3.0])
    assert work.ratios == [2.0, 4.0, 3.0]
    assert (work.speedup, work.spread) == (3.0, (2.5, 3.5))
    assert (work.dense_rate, work.sparse_rate) == (8.0, 32.0)


@pytest.mark.parametrize("answer", [[], [3], None])
def test_wrong_workloads_are_told(
    answer: Any, isolated_plugins: IsolatedPlugins, tmp_path: Path
) -> None:
    class Wrong(GoodPlugin):
        @hookimpl
        def atp_workloads(self, loaded: Any, request: Any) -> Any:
            return answer

    isolated_plugins.register("wrong", Wrong())
    Wrong().three(tmp_path)
    with pytest.raises(PluginError, match="atp_workloads"):
        atp_core.bench(str(tmp_path), runtime="dense")
