"""The conformance suite passes a good plugin and tells each fault of a bad one."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conforming import GoodPlugin
from runtimes import Coo, CooLinear
from torch import nn

from atp_core._plugins import Plugins, build_manager
from atp_core.allocation import AllocationRequest
from atp_core.cli import main
from atp_core.errors import UnknownNameError
from atp_core.hookspecs import hookimpl
from atp_core.methods import Pruned
from atp_core.methods.selection import keep_highest_in_groups
from atp_core.records import (
    Block,
    Chain,
    Evaluation,
    LoadedModel,
    Offer,
    PrunableWeight,
    Recognition,
    Schedule,
    Source,
)
from atp_core.runtime import Acceleration
from atp_core.testing._check import Outcome
from atp_core.testing._suite import suite
from atp_core.testing.fixtures import IsolatedPlugins


def checked(plugin: Any, tmp_path: Path, only: str = "") -> list[Outcome]:
    """What becomes of the checks whose title contains `only`."""
    plugins: Plugins = build_manager(discover=False, extra=[("mine", plugin)])
    made: list[Path] = []

    def directory(name: str) -> Path:
        made.append(tmp_path / f"{name}-{len(made)}")
        made[-1].mkdir()
        return made[-1]

    return [
        check.outcome(directory) for check in suite("mine", plugins) if only in check.title
    ]


def test_a_good_plugin_passes(tmp_path: Path) -> None:
    outcomes = checked(GoodPlugin(), tmp_path)
    assert [o for o in outcomes if o.outcome == "failed"] == []
    skipped = {o.title: o.message for o in outcomes if o.outcome == "skipped"}
    assert set(skipped) == {
        "imports nothing heavy when it is found",
        "depends on atp-prune",
        "is recognized without torch",
    }, "what needs an installed distribution is skipped, and nothing else"
    assert len(outcomes) >= 34


# --- plugins that do one thing wrong -------------------------------------------------------------


class Training(GoodPlugin):
    @hookimpl
    def atp_load(self, source: Any, request: Any) -> Any:
        found = super().atp_load(source, request)
        found.model.blocks[0].train()
        return found


class Pickled(GoodPlugin):
    @hookimpl
    def atp_load(self, source: Any, request: Any) -> Any:
        found = super().atp_load(source, request)
        path = source.path / "pickled.pt"
        torch.save({}, path)
        torch.load(path)
        return found


class NotMeta(GoodPlugin):
    @hookimpl
    def atp_load(self, source: Any, request: Any) -> Any:
        return super().atp_load(source, replace(request, meta=False))


class Greedy(GoodPlugin):
    @hookimpl
    def atp_recognize(self, source: Any) -> Any:
        return Recognition(0.5, "everything is mine")


class Careless(GoodPlugin):
    """Lets a library's error through where a file is damaged."""

    @hookimpl
    def atp_load(self, source: Any, request: Any) -> Any:
        json.loads((source.path / "config.json").read_text())
        return super().atp_load(source, request)


class Lenient(GoodPlugin):
    """Loads what there is of damaged weights."""

    @hookimpl
    def atp_load(self, source: Any, request: Any) -> Any:
        try:
            return super().atp_load(source, request)
        except Exception:
            from conforming import Residual

            return LoadedModel(Residual().eval(), source)


class Backwards(GoodPlugin):
    def blocks_of(self, model: Any) -> list[Block]:
        return super().blocks_of(model)[::-1]


class Adding(GoodPlugin):
    """Puts a block of its own into the model."""

    def blocks_of(self, model: Any) -> list[Block]:
        if not hasattr(model, "unused"):
            model.unused = nn.Linear(8, 8).to(model.enter.weight.device).eval()
        return super().blocks_of(model)


class Missing(GoodPlugin):
    """Locates a block that the forward never calls."""

    @hookimpl
    def atp_load(self, source: Any, request: Any) -> Any:
        found = super().atp_load(source, request)
        found.model.unused = nn.Linear(8, 8).to(found.model.enter.weight.device).eval()
        return found

    def blocks_of(self, model: Any) -> list[Block]:
        unused = model.unused
        return [
            *super().blocks_of(model),
            Block("unused", unused, [PrunableWeight("unused.weight", unused)]),
        ]


class Touching(GoodPlugin):
    def blocks_of(self, model: Any) -> list[Block]:
        model.blocks[0].weight.requires_grad_(False)
        return super().blocks_of(model)


class Tied(GoodPlugin):
    """A located weight is the input layer's too."""

    @hookimpl
    def atp_load(self, source: Any, request: Any) -> Any:
        found = super().atp_load(source, request)
        found.model.blocks[0].weight = found.model.enter.weight
        return found


class Twisted(GoodPlugin):
    """Takes a square matrix for a transposed one."""

    def blocks_of(self, model: Any) -> list[Block]:
        return [
            Block(b.name, b.module, [replace(w, transposed=True) for w in b.weights])
            for b in super().blocks_of(model)
        ]


class Miscounted(GoodPlugin):
    @hookimpl
    def atp_calibrate(self, loaded: Any, data: Any) -> Any:
        return replace(super().atp_calibrate(loaded, data), samples=5)


class Unseeded(GoodPlugin):
    calls = 0

    @hookimpl
    def atp_calibrate(self, loaded: Any, data: Any) -> Any:
        self.calls += 1
        return super().atp_calibrate(loaded, replace(data, seed=self.calls))


class Spendthrift(GoodPlugin):
    """Prunes more than it should, and what was not located."""

    @hookimpl
    def atp_prune(
        self, loaded: Any, chains: Any, schedule: Any, method: Any, calibration: Any, options: Any
    ) -> Any:
        from atp_core.engine.pruning import prune_model

        report = prune_model(loaded, chains, schedule, method, calibration, options)
        with torch.no_grad():
            loaded.model.leave.weight.zero_()
        return report


class Mislabelled(GoodPlugin):
    def metric(self, name: str, value: float, split: Any) -> Any:
        return super().metric(name, value, "report")


class Nothing(GoodPlugin):
    @hookimpl
    def atp_evaluate(self, loaded: Any, data: Any, split: Any, metrics: Any) -> Any:
        return Evaluation([], frozenset())


class Deaf(GoodPlugin):
    """Measures everything, whatever is asked for."""

    @hookimpl
    def atp_evaluate(self, loaded: Any, data: Any, split: Any, metrics: Any) -> Any:
        return super().atp_evaluate(loaded, data, split, None)


class Moody(GoodPlugin):
    """Measures something else each time, and changes the model."""

    @hookimpl
    def atp_evaluate(self, loaded: Any, data: Any, split: Any, metrics: Any) -> Any:
        with torch.no_grad():
            loaded.model.leave.weight.mul_(1.01)
        return super().atp_evaluate(loaded, data, split, metrics)


class Leaking(GoodPlugin):
    @hookimpl
    def atp_evaluate(self, loaded: Any, data: Any, split: Any, metrics: Any) -> Any:
        found = super().atp_evaluate(loaded, data, split, metrics)
        return replace(found, examples=found.examples | {"calibration"})


class Unequal(GoodPlugin):
    """Its observations do not come to its figure."""

    def squares(self, output: Any) -> list[float]:
        return [2 * value for value in super().squares(output)]


class Pickling(GoodPlugin):
    @hookimpl
    def atp_save(self, loaded: Any, directory: Path) -> Any:
        torch.save(loaded.model.state_dict(), directory / "model.pt")
        return super().atp_save(loaded, directory)


class Rounding(GoodPlugin):
    @hookimpl
    def atp_save(self, loaded: Any, directory: Path) -> Any:
        loaded = LoadedModel(type(loaded.model)(len(loaded.model.blocks)), loaded.source)
        return super().atp_save(loaded, directory)


class Locked(GoodPlugin):
    """Can be loaded by the plugin alone."""

    def three(self, directory: Path) -> Any:
        made = super().three(directory)
        return replace(made, alone="import atp_core.records; model = None")


class Speechless(GoodPlugin):
    @hookimpl
    def atp_examples(self) -> Sequence[Offer]:
        return [Offer("three", self.three, "")]


class Unproved(GoodPlugin):
    @hookimpl
    def atp_examples(self) -> Sequence[Offer]:
        return []


FAULTS: list[tuple[type[GoodPlugin], str, str]] = [
    (Training, "loads in eval mode", "blocks.0 is in training mode"),
    (Pickled, "loads in eval mode", "torch.load was called"),
    (NotMeta, "on the meta device", "has numbers although meta"),
    (Greedy, "refuses what it does not support", "unknown class"),
    (Careless, "files are damaged", "JSONDecodeError"),
    (Lenient, "files are damaged", "was loaded without an error"),
    (Backwards, "order of execution", "runs as blocks.0"),
    (Adding, "has chains of blocks", "unused was added"),
    (Missing, "order of execution", "never calls unused"),
    (Touching, "left as it was by locate", "blocks.0"),
    (Tied, "outside the blocks uses too", "shares its numbers with enter.weight"),
    (Twisted, "sees every weight's inputs", "blocks.0.weight"),
    (Miscounted, "batches that add up", "whose batches hold 8 samples"),
    (Unseeded, "same batches for the same seed", "from run to run"),
    (Spendthrift, "changes nothing but located", "leave.weight, which was not located"),
    (Mislabelled, "measured on the search split", "of the split 'report' where 'search' was asked"),
    (Nothing, "measured on the search split", "nothing is measured on the search split"),
    (Deaf, "measures only what is asked for", "only 'square' was asked for"),
    (Moody, "measured the same twice", "different figures"),
    (Leaking, "search and report data apart", "calibration and search data share 1 examples"),
    (Unequal, "measured on the report split", "the observations of metric 'square' come to"),
    (Pickling, "saved as safetensors", "model.pt may be a pickle"),
    (Rounding, "loads back", "came back with other numbers"),
    (Locked, "loads without atp-prune", "loading it alone ended with"),
    (Speechless, "each with a summary", "three of its examples have no summary"),
    (Unproved, "offers an example", "add atp_examples"),
]


@pytest.mark.parametrize(
    ("plugin", "title", "told"), FAULTS, ids=[f"{p.__name__}-{t}" for p, t, _ in FAULTS]
)
def test_a_fault_is_found_and_told(
    plugin: type[GoodPlugin], title: str, told: str, tmp_path: Path
) -> None:
    [outcome] = checked(plugin(), tmp_path, title)
    assert outcome.outcome == "failed", "the check passes a bad plugin"
    assert told in outcome.message


# --- what is registered --------------------------------------------------------------------------


class Method:
    """Cuts the smallest weights of the whole matrix."""

    name = "mine"
    calibrated = False

    def statistics(self, in_features: int, device: Any) -> None:
        return None

    def prune(self, weight: torch.Tensor, rate: float, statistics: Any) -> Pruned:
        order = weight.abs().flatten().argsort(stable=True)
        mask = torch.ones(weight.numel(), dtype=torch.bool)
        mask[order[: round(rate * weight.numel())]] = False
        return Pruned(mask.view_as(weight))


class Flooring(Method):
    def prune(self, weight: torch.Tensor, rate: float, statistics: Any) -> Pruned:
        mask = torch.ones_like(weight, dtype=torch.bool)
        mask[:, : int(rate * weight.shape[1])] = False
        return Pruned(mask)


class Grouping(Method):
    def prune_pattern(
        self, weight: torch.Tensor, keep: int, of: int, statistics: Any
    ) -> Pruned:
        return Pruned(keep_highest_in_groups(weight.abs(), keep, of))


class Crowding(Grouping):
    def prune_pattern(
        self, weight: torch.Tensor, keep: int, of: int, statistics: Any
    ) -> Pruned:
        return super().prune_pattern(weight, keep + 1, of, statistics)


class Writing(Method):
    def prune(self, weight: torch.Tensor, rate: float, statistics: Any) -> Pruned:
        found = super().prune(weight, rate, statistics)
        weight.mul_(0.5)
        return found


class Renamed(Method):
    name = "other"


class Flat:
    """Everything gets S."""

    name = "mine"

    def allocate(self, request: AllocationRequest) -> Schedule:
        if request.options:
            raise UnknownNameError("option", next(iter(request.options)), [])
        return Schedule(
            {c.name: {b.name: self.rate(c, b, request) for b in c.blocks} for c in request.chains},
            request.target,
            self.name,
        )

    def rate(self, chain: Chain, block: Block, request: AllocationRequest) -> float:
        return request.sparsity[chain.name]


class Greedier(Flat):
    def rate(self, chain: Chain, block: Block, request: AllocationRequest) -> float:
        first = block is chain.blocks[0]
        return request.sparsity[chain.name] + (0.01 if first else 0.0)


class Anything(Flat):
    def allocate(self, request: AllocationRequest) -> Schedule:
        return super().allocate(replace(request, options={}))


class InOrder:
    name = "mine"

    def run(self, judge: Any, candidates: Any) -> Any:
        return [(position, judge(candidate)) for position, candidate in enumerate(candidates)]


class Backwards(InOrder):
    def run(self, judge: Any, candidates: Any) -> Any:
        return reversed(super().run(judge, candidates))


class Sorting(InOrder):
    def run(self, judge: Any, candidates: Any) -> Any:
        return super().run(judge, sorted(candidates))


class Swallowing(InOrder):
    def run(self, judge: Any, candidates: Any) -> Any:
        found = []
        for position, candidate in enumerate(candidates):
            try:
                found.append((position, judge(candidate)))
            except Exception:
                continue
        return found


class Agreeing(InOrder):
    def configure(self, options: Any) -> None:
        pass


class Exhausted(InOrder):
    ended = False

    def close(self) -> None:
        self.ended = True

    def run(self, judge: Any, candidates: Any) -> Any:
        return [] if self.ended else super().run(judge, candidates)


class Entries(Coo):
    name = "mine"


class Halving(Entries):
    def accelerate(self, model: Any, weights: Any = None) -> Any:
        found = super().accelerate(model)
        for part in model.modules():
            if isinstance(part, CooLinear):
                part.entries = part.entries * 0.5
        return found


class Forgetting(Entries):
    def restore(self, model: Any) -> None:
        super().restore(model)
        model.middle.weight.data.abs_()


class Mute(Entries):
    def accelerate(self, model: Any, weights: Any = None) -> Any:
        super().accelerate(model)
        return Acceleration()


def offering(hook: str, target: Callable[[], Any]) -> Any:
    """A plugin that offers one thing."""

    def offers(self: Any) -> Sequence[Offer]:
        return [Offer("mine", target, "one thing")]

    offers.__name__ = hook
    return type("Made", (), {"ATP_HOOK_API": 1, hook: hookimpl(offers)})()


@pytest.mark.parametrize(
    ("hook", "good", "count"),
    [
        ("atp_methods", Method, 7),
        ("atp_methods", Grouping, 7),
        ("atp_allocators", Flat, 5),
        ("atp_executors", InOrder, 6),
        ("atp_executors", Backwards, 6),
        ("atp_runtimes", Entries, 4),
    ],
)
def test_good_offers_pass(hook: str, good: Any, count: int, tmp_path: Path) -> None:
    outcomes = checked(offering(hook, good), tmp_path)
    assert [o for o in outcomes if o.outcome == "failed"] == []
    assert sum(not o.group.startswith("plugin") for o in outcomes) == count


@pytest.mark.parametrize(
    ("hook", "bad", "title", "told"),
    [
        ("atp_methods", Flooring, "cuts its share", "weights it cut"),
        ("atp_methods", Writing, "decides the same twice", "it changed the weight it was given"),
        ("atp_methods", Crowding, "N:M pattern", "keeps 3, not 2, for 2:4"),
        ("atp_methods", Renamed, "is built", "offered as 'mine' and calls itself 'other'"),
        ("atp_allocators", Greedier, "meets the budget", "was asked for"),
        ("atp_allocators", Anything, "refuses options", "was passed over"),
        ("atp_executors", Sorting, "with its position", "job 0.03"),
        ("atp_executors", Swallowing, "passes on what a job raises", "kept it to itself"),
        ("atp_executors", Agreeing, "refuses options", "was passed over"),
        ("atp_executors", Exhausted, "once it was closed", "did 0 of 5 jobs"),
        ("atp_runtimes", Halving, "gives the outputs", "outputs differ by"),
        ("atp_runtimes", Forgetting, "restores the dense model", "came back otherwise"),
        ("atp_runtimes", Mute, "tells what it did", "it told of []"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_bad_offers_are_told(
    hook: str, bad: Any, title: str, told: str, tmp_path: Path
) -> None:
    [outcome] = checked(offering(hook, bad), tmp_path, title)
    assert outcome.outcome == "failed"
    assert told in outcome.message


def test_source_in_memory_is_walked_on_copies(tmp_path: Path) -> None:
    """A model in memory is pruned in copies: the author's stays as it is."""
    from conforming import Residual

    model = Residual().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    class InMemory(GoodPlugin):
        @hookimpl
        def atp_recognize(self, source: Source) -> Any:
            return Recognition(1.0, "mine") if isinstance(source.model, Residual) else None

        @hookimpl
        def atp_load(self, source: Source, request: Any) -> Any:
            return LoadedModel(source.model, source)

        def three(self, directory: Path) -> Any:
            from atp_core.testing import Example

            return Example(Source("Residual", model=model))

    outcomes = checked(InMemory(), tmp_path, "is all zeros at rate 1")
    assert [o.outcome for o in outcomes] == ["passed"]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


# --- the command ---------------------------------------------------------------------------------


def test_the_command_tells_and_ends_with_three(
    isolated_plugins: IsolatedPlugins, capsys: pytest.CaptureFixture[str]
) -> None:
    isolated_plugins.register("mine", offering("atp_methods", Flooring))
    assert main(["plugins", "check", "mine"]) == 3
    told = capsys.readouterr().out
    assert "✗ cuts its share of a weight" in told
    assert "1 failed" in told


def test_the_command_in_json(
    isolated_plugins: IsolatedPlugins, capsys: pytest.CaptureFixture[str]
) -> None:
    isolated_plugins.register("mine", offering("atp_methods", Method))
    assert main(["plugins", "check", "mine", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["name"] == "mine" and told["ok"] is True
    assert {check["outcome"] for check in told["checks"]} == {"passed", "skipped"}
    assert {check["group"] for check in told["checks"]} == {"plugin mine", "method mine"}


def test_the_command_walks_a_model_of_the_user(
    isolated_plugins: IsolatedPlugins, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = GoodPlugin()
    isolated_plugins.register("mine", plugin)
    plugin.three(tmp_path)
    assert main(["plugins", "check", "mine", "--source", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    groups = {check["group"] for check in told["checks"]}
    assert groups == {"plugin mine", "example three", f"source {tmp_path}"}


def test_a_broken_plugin_is_checked_no_further(
    isolated_plugins: IsolatedPlugins, capsys: pytest.CaptureFixture[str]
) -> None:
    class Misspelt(GoodPlugin):
        @hookimpl
        def atp_lokate(self, loaded: Any) -> Any:
            return []

    isolated_plugins.register("mine", Misspelt())
    assert main(["plugins", "check", "mine", "--json"]) == 3
    told = json.loads(capsys.readouterr().out)
    failed = [check for check in told["checks"] if check["outcome"] == "failed"]
    assert any("did you mean atp_locate" in check["message"] for check in failed)


def test_an_unknown_plugin_and_data_without_source(
    isolated_plugins: IsolatedPlugins, capsys: pytest.CaptureFixture[str]
) -> None:
    isolated_plugins.register("mine", offering("atp_methods", Method))
    assert main(["plugins", "check", "mime"]) == 2
    assert "Did you mean 'mine'" in capsys.readouterr().err
    assert main(["plugins", "check", "mine", "--samples", "4"]) == 2
    assert "--source" in capsys.readouterr().err


def test_offers_that_cannot_be_had_fail_a_check(tmp_path: Path) -> None:
    class Raising(GoodPlugin):
        @hookimpl
        def atp_methods(self) -> Any:
            raise RuntimeError("no methods today")

    outcomes = checked(Raising(), tmp_path)
    [well] = [o for o in outcomes if o.title == "is found, imported and registered"]
    assert well.outcome == "failed"
    assert "no methods today" in well.message
    assert not any(o.group.startswith("example") for o in outcomes)
