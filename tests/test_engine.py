"""The engine against explicit computations on a model small enough to do by hand."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tiny import TinyModel, calibration_of, chains_of
from torch import nn

from atp_core.engine.lockstep import Lockstep
from atp_core.engine.observation import BlockStatistics
from atp_core.engine.placement import Placement
from atp_core.engine.pruning import PruneOptions, _zero, prune_model
from atp_core.engine.snapshot import Snapshot
from atp_core.engine.taps import WeightTap
from atp_core.errors import DataError, ModelError, NumericalError
from atp_core.methods import Pruned
from atp_core.records import (
    Block,
    Calibration,
    Chain,
    LoadedModel,
    PrunableWeight,
    Schedule,
    Source,
)


class Inputs:
    """Keeps every row it is given."""

    def __init__(self) -> None:
        self.rows: list[torch.Tensor] = []
        self.sequences = 0

    def add(self, inputs: torch.Tensor, sequences: int) -> None:
        self.rows.append(inputs.clone())
        self.sequences += sequences

    @property
    def tokens(self) -> int:
        return sum(len(rows) for rows in self.rows)

    def finite(self) -> bool:
        return all(bool(rows.isfinite().all()) for rows in self.rows)


class Recorder:
    """Prunes by the norms of the inputs, and remembers what it was given."""

    name = "recorder"
    calibrated = True

    def __init__(self) -> None:
        self.seen: list[Inputs | None] = []
        self.made = 0

    def statistics(self, in_features: int, device: torch.device) -> Inputs:
        self.made += 1
        return Inputs()

    def prune(self, weight: torch.Tensor, rate: float, statistics: Any) -> Pruned:
        self.seen.append(statistics)
        norms = (
            torch.ones(weight.shape[1])
            if statistics is None
            else torch.cat(statistics.rows).pow(2).sum(0).sqrt()
        )
        score = weight.abs() * norms
        count = round(rate * weight.numel())
        mask = torch.ones(weight.numel(), dtype=torch.bool)
        mask[score.flatten().argsort(stable=True)[:count]] = False
        return Pruned(mask.view_as(weight))


@pytest.fixture
def model() -> TinyModel:
    torch.manual_seed(0)
    return TinyModel().eval()


def uniform(chains: list[Chain], rate: float) -> Schedule:
    rates = {chain.name: {block.name: rate for block in chain.blocks} for chain in chains}
    return Schedule(rates, rate, "uniform")


def run(model: TinyModel, chains: list[Chain], rate: float, method: Any = None) -> Any:
    loaded = LoadedModel(model, Source("tiny"))
    return prune_model(
        loaded,
        chains,
        uniform(chains, rate),
        method or Recorder(),
        calibration_of(model),
        PruneOptions(),
    )


def test_lockstep_inputs_equal_the_plain_forward(model: TinyModel) -> None:
    calibration = calibration_of(model)
    plain: dict[str, list[torch.Tensor]] = {}
    handles = [
        block.register_forward_pre_hook(
            lambda module, args, name=f"blocks.{i}": plain.setdefault(name, []).append(args[0])
        )
        for i, block in enumerate(model.blocks)
    ]
    with torch.inference_mode():
        for batch in calibration.batches:
            model(batch)
    for handle in handles:
        handle.remove()
    calls = model.head_calls
    order = []
    with torch.inference_mode(), Lockstep(model, calibration.batches, chains_of(model)) as steps:
        for stop in steps:
            order.append(stop.block.name)
            for call, expected in zip(stop.calls, plain[stop.block.name], strict=True):
                assert torch.equal(call.args[0], expected)
                assert call.kwargs["scale"] == pytest.approx(1.0 + 0.1 * (len(order) - 1))
    assert order == ["blocks.0", "blocks.1", "blocks.2"]
    assert model.head_calls == calls, "what follows the last block is never computed"
    assert not any(block._forward_pre_hooks for block in model.blocks), "hooks are removed"


def test_statistics_equal_an_explicit_computation(model: TinyModel) -> None:
    calibration = calibration_of(model)
    chains = chains_of(model)
    block = chains[0].blocks[0]
    with torch.inference_mode(), Lockstep(model, calibration.batches, chains) as steps:
        stop = next(iter(steps))
        statistics = BlockStatistics(block, Recorder())
        statistics.run(stop.calls, calibration.batch_samples, Placement(None))
        x = torch.cat([call.args[0] for call in stop.calls])
        module = model.blocks[0]
        mixed = torch.softmax(module.query(x) @ x.transpose(-1, -2), -1) @ module.value(x)
        after = (x + module.out(mixed)).flatten(0, 1)
        route = after[:, 0] > 0
        expected = {
            "query.weight": x.flatten(0, 1),
            "value.weight": x.flatten(0, 1),
            "out.weight": mixed.flatten(0, 1),
        }
        for e, chosen in enumerate((~route, route)):
            expected[f"experts[{e}]"] = after[chosen]
            expected[f"back[{e}]"] = torch.relu(after[chosen] @ module.experts[e].T)
        for weight in block.weights:
            own = statistics.of(weight)
            assert isinstance(own, Inputs)
            rows = torch.cat(own.rows)
            wanted = expected[weight.name.removeprefix("blocks.0.")]
            torch.testing.assert_close(rows, wanted, rtol=1e-5, atol=1e-6)


def test_weights_with_the_same_input_share_statistics(model: TinyModel) -> None:
    method = Recorder()
    run(model, chains_of(model), 0.5, method)
    query, value, out = method.seen[:3]
    assert query is value and query is not out
    assert method.made == 3 * 6, "seven weights a block, two of which share"


def test_pruning_propagates_block_by_block(model: TinyModel) -> None:
    """The same as calibrating and pruning each block in turn with whole forwards."""
    reference = copy.deepcopy(model)
    report = run(model, chains_of(model), 0.5)
    chains = chains_of(reference)
    calibration = calibration_of(reference)
    for block in chains[0].blocks:
        method = Recorder()
        taken: dict[str, Inputs] = {weight.name: Inputs() for weight in block.weights}

        def observe(weight: PrunableWeight, rows: torch.Tensor, _: Any, t: Any = taken) -> None:
            t[weight.name].add(rows, 1)

        with torch.inference_mode():
            for batch in calibration.batches:
                tap = WeightTap(block.weights, observe)
                block.module.register_forward_pre_hook(lambda *_, tap=tap: tap.__enter__() and None)
                block.module.register_forward_hook(
                    lambda *_, tap=tap: tap.__exit__(None, None, None)
                )
                reference(batch)
                block.module._forward_pre_hooks.clear()
                block.module._forward_hooks.clear()
            for weight in block.weights:
                verdict = method.prune(weight.matrix().float(), 0.5, taken[weight.name])
                weight.matrix().masked_fill_(~verdict.mask, 0)
    for (name, mine), theirs in zip(model.named_parameters(), reference.parameters(), strict=True):
        assert torch.equal(mine, theirs), name
    assert report.achieved == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_what_is_cut_is_zero_whatever_it_was(dtype: torch.dtype) -> None:
    matrix = torch.tensor([[-1.0, torch.nan, torch.inf], [-torch.inf, 2.0, -0.0]], dtype=dtype)
    kept = torch.tensor([[True, False, False], [False, True, False]])
    wanted = torch.tensor([[-1.0, 0.0, 0.0], [0.0, 2.0, 0.0]], dtype=dtype)
    for one in (matrix.clone(), matrix.T.clone().T):  # also where rows do not lie together
        _zero(one, kept)
        assert torch.equal(one, wanted)
        assert not one.signbit()[~kept].any()


def test_same_seed_same_bits(model: TinyModel) -> None:
    other = copy.deepcopy(model)
    run(model, chains_of(model), 0.6)
    run(other, chains_of(other), 0.6)
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_rate_zero_changes_nothing_and_rate_one_leaves_nothing(model: TinyModel) -> None:
    before = copy.deepcopy(model.state_dict())
    run(model, chains_of(model), 0.0)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    run(model, chains_of(model), 1.0)
    for chain in chains_of(model):
        for block in chain.blocks:
            assert all(not weight.matrix().any() for weight in block.weights)
    assert torch.equal(model.head.weight, before["head.weight"])


def test_snapshot_restores_every_bit(model: TinyModel) -> None:
    before = copy.deepcopy(model.state_dict())
    snapshot = Snapshot(chains_of(model))
    run(model, chains_of(model), 0.7)
    assert any(not torch.equal(before[n], v) for n, v in model.state_dict().items())
    snapshot.stale = True
    snapshot.restore()
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())


def test_half_precision_weights_get_float32_statistics(model: TinyModel) -> None:
    model.bfloat16()
    method = Recorder()
    run(model, chains_of(model), 0.5, method)
    assert all(s is None or s.rows[0].dtype == torch.float32 for s in method.seen)
    assert model.blocks[0].query.weight.dtype == torch.bfloat16


def test_an_input_written_in_place_is_another_input() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.clone()
            y = self.a(x)
            x += 1.0
            return y + self.b(x)

    module = InPlace()
    weights = [PrunableWeight("a", module.a), PrunableWeight("b", module.b)]
    seen: dict[str, tuple[int, ...]] = {}
    x = torch.randn(3, 4)
    for guard in (torch.inference_mode, torch.no_grad):
        with guard(), WeightTap(weights, lambda w, rows, key: seen.__setitem__(w.name, key)):
            module(x)
        assert seen["a"] != seen["b"]


@pytest.mark.parametrize("guard", [torch.inference_mode, torch.no_grad])
@pytest.mark.parametrize(
    "product",
    [
        lambda x, w: torch.nn.functional.linear(x, w),
        lambda x, w: x @ w.T,
        lambda x, w: torch.einsum("bti,oi->bto", x, w),
        lambda x, w: torch.addmm(torch.zeros(5), x.flatten(0, 1), w.T),
        lambda x, w: (w @ x.transpose(-1, -2)).transpose(-1, -2),
        lambda x, w: torch.bmm(x, w.T.expand(2, 4, 5)),
        lambda x, w: torch.baddbmm(torch.zeros(1), x, w.T.expand(2, 4, 5)),
    ],
    ids=["linear", "matmul", "einsum", "addmm", "left", "bmm", "baddbmm"],
)
def test_every_kind_of_product_is_seen(product: Any, guard: Any) -> None:
    holder = nn.Module()
    holder.weight = nn.Parameter(torch.randn(5, 4))
    x = torch.randn(2, 3, 4)
    rows: list[torch.Tensor] = []
    with (
        guard(),
        WeightTap([PrunableWeight("w", holder)], lambda w, r, key: rows.append(r.clone())),
    ):
        product(x, holder.weight)
    assert torch.equal(torch.cat(rows), x.flatten(0, 1))
    assert torch.backends.mha.get_fastpath_enabled()


def test_slices_of_a_fused_matrix_are_told_apart() -> None:
    holder = nn.Module()
    holder.qkv = nn.Parameter(torch.randn(12, 4))
    weights = [
        PrunableWeight(name, holder, "qkv", rows=(start, start + 4))
        for name, start in (("q", 0), ("k", 4), ("v", 8))
    ]
    x, y = torch.randn(3, 4), torch.randn(2, 4)
    seen: list[str] = []
    with torch.inference_mode(), WeightTap(weights, lambda w, rows, key: seen.append(w.name)):
        torch.nn.functional.linear(x, holder.qkv)
        torch.nn.functional.linear(y, holder.qkv[4:8])
    assert seen == ["q", "k", "v", "k"]


def test_grouped_products_are_seen_per_expert() -> None:
    holder = nn.Module()
    holder.weight = nn.Parameter(torch.randn(3, 16, 8).bfloat16())
    weights = [
        PrunableWeight(f"w[{e}]", holder, "weight", index=(e,), transposed=True, conditional=True)
        for e in range(3)
    ]
    x = torch.randn(6, 16).bfloat16()
    ends = torch.tensor([2, 2, 6], dtype=torch.int32)
    seen: dict[str, torch.Tensor] = {}
    with (
        torch.inference_mode(),
        WeightTap(weights, lambda w, rows, key: seen.__setitem__(w.name, rows)),
    ):
        torch._grouped_mm(x, holder.weight, ends)
    assert set(seen) == {"w[0]", "w[2]"}
    assert torch.equal(seen["w[2]"], x[2:])


class TestClearErrors:
    """Each names the block or weight at fault."""

    def test_unused_weight(self, model: TinyModel) -> None:
        chains = chains_of(model)
        block = chains[0].blocks[1]
        extra = nn.Linear(8, 8)
        block.weights = [*block.weights, PrunableWeight("blocks.1.extra.weight", extra)]
        with pytest.raises(ModelError, match=r"blocks\.1\.extra\.weight"):
            run(model, chains, 0.5)

    def test_nan_weight(self, model: TinyModel) -> None:
        with torch.no_grad():
            model.blocks[1].out.weight[0, 0] = float("nan")
        with pytest.raises(NumericalError, match=r"blocks\.1"):
            Snapshot(chains_of(model))

    def test_infinite_activation(self, model: TinyModel) -> None:
        with torch.no_grad():
            model.blocks[0].out.bias[0] = float("inf")
        with pytest.raises(NumericalError, match=r"blocks\.(0|1)"):
            run(model, chains_of(model), 0.5)

    def test_blocks_located_out_of_order(self, model: TinyModel) -> None:
        chains = chains_of(model)
        chains[0].blocks = list(reversed(chains[0].blocks))
        with pytest.raises(ModelError, match="in order of execution"):
            run(model, chains, 0.5)

    def test_block_that_is_never_called(self, model: TinyModel) -> None:
        chains = chains_of(model)
        stray = nn.Linear(8, 8)
        chains[0].blocks = [
            *chains[0].blocks,
            Block("stray", stray, [PrunableWeight("stray.weight", stray)]),
        ]
        with pytest.raises(ModelError, match="without calling stray"):
            run(model, chains, 0.5)

    def test_order_that_depends_on_the_input(self) -> None:
        class Fickle(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                first = int(x[0, 0] > 0)
                y: torch.Tensor = self.blocks[1 - first](self.blocks[first](x))
                return y

        model = Fickle()
        chain = Chain(
            "main",
            [
                Block(f"b{i}", b, [PrunableWeight(f"b{i}.weight", b)])
                for i, b in enumerate(model.blocks)
            ],
        )
        batches = [torch.ones(1, 4), -torch.ones(1, 4)]
        with (
            pytest.raises(ModelError, match="depends on the input"),
            torch.inference_mode(),
            Lockstep(model, batches, [chain]) as steps,
        ):
            list(steps)

    def test_no_calibration_data(self, model: TinyModel) -> None:
        chains = chains_of(model)
        with pytest.raises(DataError, match="needs calibration data"):
            prune_model(
                LoadedModel(model, Source("tiny")),
                chains,
                uniform(chains, 0.5),
                Recorder(),
                None,
                PruneOptions(),
            )

    def test_a_failing_block_is_named(self, model: TinyModel) -> None:
        chains = chains_of(model)
        model.blocks[2].out = nn.Linear(3, 3)
        chains[0].blocks[2].weights = chains[0].blocks[2].weights[:1]
        with pytest.raises(ModelError, match=r"blocks\.2"):
            run(model, chains, 0.5)


def test_a_block_called_twice_is_pruned_once_and_reported() -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.last = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.last(self.block(self.block(x)))
            return y

    model = Loop()
    chain = Chain(
        "main",
        [
            Block("block", model.block, [PrunableWeight("block.weight", model.block)]),
            Block("last", model.last, [PrunableWeight("last.weight", model.last)]),
        ],
    )
    calibration = Calibration([torch.randn(3, 4)], model, 1, "", "", "", frozenset(), [1])
    report = prune_model(
        LoadedModel(model, Source("loop")),
        [chain],
        uniform([chain], 0.5),
        Recorder(),
        calibration,
        PruneOptions(),
    )
    assert report.achieved == 0.5
    assert any("block is called more than once" in note for note in report.notes)
    assert sum(int((p == 0).sum()) for p in (model.block.weight, model.last.weight)) == 16


def test_an_expert_without_tokens_is_given_no_statistics(model: TinyModel) -> None:
    with torch.no_grad():
        model.embed.weight[:, 0] = 5.0
        for block in model.blocks:
            block.out.weight[0] = 0.0
            block.out.bias[0] = 0.0
            block.back[:, :, 0] = 0.0
    method = Recorder()
    run(model, chains_of(model), 0.5, method)
    by_name = dict(
        zip(
            [w.name for block in chains_of(model)[0].blocks for w in block.weights],
            method.seen,
            strict=True,
        )
    )
    assert by_name["blocks.0.experts[0]"] is None
    assert by_name["blocks.0.experts[1]"] is not None


def test_placement_moves_only_the_block_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = TinyModel().eval()
    reference = copy.deepcopy(model)
    moves: list[tuple[str, str]] = []
    names = {id(block): f"blocks.{i}" for i, block in enumerate(model.blocks)}

    def record(module: nn.Module, device: torch.device) -> None:
        moves.append((names[id(module)], str(device)))

    monkeypatch.setattr(Placement, "_move", staticmethod(record))
    # A device without hardware stands in for an accelerator: tensors are not really moved.
    monkeypatch.setattr(Placement, "_map", lambda self, tree, device: tree)
    chains = chains_of(model)
    prune_model(
        LoadedModel(model, Source("tiny")),
        chains,
        uniform(chains, 0.5),
        Recorder(),
        calibration_of(model),
        PruneOptions(torch.device("meta")),
    )
    assert moves == [(f"blocks.{i}", device) for i in range(3) for device in ("meta", "cpu")]
    run(reference, chains_of(reference), 0.5)
    for mine, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_weight_that_multiplies_another_input_too_gets_its_own_statistics() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            other = x.flip(1) + 1
            return self.q(x) + self.k(x) + self.k(other)

    torch.manual_seed(0)
    model = nn.Sequential(Two())
    module = model[0]
    weights = [PrunableWeight("q", module.q), PrunableWeight("k", module.k)]
    chain = Chain("main", [Block("0", module, weights)])
    batches = [torch.randn(1, 3, 4) for _ in range(3)]
    with torch.inference_mode(), Lockstep(model, batches, [chain]) as steps:
        stop = next(iter(steps))
        statistics = BlockStatistics(stop.block, Recorder())
        statistics.run(stop.calls, [1] * 3, Placement(None))
        q, k = (statistics.of(weight) for weight in weights)
    assert isinstance(q, Inputs) and isinstance(k, Inputs)
    flat = [x.flatten(0, 1) for x in batches]
    assert torch.equal(torch.cat(q.rows), torch.cat(flat))
    both = [rows for x in batches for rows in (x.flatten(0, 1), (x.flip(1) + 1).flatten(0, 1))]
    assert torch.equal(torch.cat(k.rows), torch.cat(both))
