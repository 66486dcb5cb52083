"""A model that is streamed does what it does in memory, with no more of it there than is needed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny import TinyModel, calibration_of, chains_of
from torch import nn

from atp_core.engine.errors import measure_errors
from atp_core.engine.parking import Parking
from atp_core.engine.placement import Placement
from atp_core.engine.pruning import PruneOptions, prune_model
from atp_core.engine.streaming import Stream, StreamSnapshot
from atp_core.errors import ModelError, NumericalError
from atp_core.loading import meta_copy
from atp_core.methods.sparsegpt import SparseGPT
from atp_core.methods.wanda import Wanda
from atp_core.packed import open_weights
from atp_core.progress import NullProgress
from atp_core.records import LoadedModel, Schedule, Source
from atp_core.store import WeightStore

SEEDED = torch.Generator().manual_seed(0)
BATCHES = [torch.randint(0, 32, (2, 6), generator=SEEDED) for _ in range(3)]


class Streamed:
    """A tiny model in memory, and the same one streamed."""

    def __init__(self, directory: Path, **options: Any) -> None:
        torch.manual_seed(0)
        self.model = TinyModel().eval()
        self.file = directory / "model.safetensors"
        save_file(self.model.state_dict(), self.file)
        self.empty: Any = meta_copy(self.model)
        self.chains = chains_of(self.empty)
        self.scratch = directory / "scratch"
        self.scratch.mkdir()
        self.store = WeightStore([open_weights(self.file)])
        self.stream = Stream(
            self.empty, self.store, self.chains, self.scratch, **{"small": 0, **options}
        )

    def nbytes(self, part: nn.Module) -> int:
        return sum(one.numel() * one.element_size() for one in part.parameters())


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Streamed]:
    """The pair, with every module outside blocks read when it is called."""
    found = Streamed(tmp_path)
    yield found
    found.stream.close()


def schedule_for(chains: Any, rate: float = 0.5) -> Schedule:
    rates = {chain.name: {block.name: rate for block in chain.blocks} for chain in chains}
    return Schedule(rates, rate, "uniform")


def pruned(chains: Any, model: nn.Module, method: Any) -> Any:
    calibration = calibration_of(model, len(BATCHES))
    loaded = LoadedModel(model, Source("tiny"))
    with torch.no_grad():
        return prune_model(
            loaded, chains, schedule_for(chains), method, calibration, PruneOptions()
        )


def test_a_plain_forward_reads_what_it_needs(both: Streamed) -> None:
    with torch.no_grad():
        wanted = both.model(BATCHES[0])
        assert torch.equal(both.empty(BATCHES[0]), wanted)
    both.stream.evict()
    assert both.stream.resident == 0
    assert all(bool(one.isnan().all()) for one in both.empty.parameters())
    assert all(one.untyped_storage().nbytes() == 4 for one in both.empty.parameters())


def test_many_batches_read_each_weight_once(both: Streamed) -> None:
    with torch.no_grad():
        wanted = [both.model(batch) for batch in BATCHES]
    found = both.stream.map(both.empty, BATCHES)
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
    assert both.store.bytes_read == both.nbytes(both.model)
    # The block at hand, and the head that is called after the last one or the embedding before it.
    most = max(both.nbytes(both.empty.embed), both.nbytes(both.empty.head))
    assert both.stream.peak <= both.nbytes(both.empty.blocks[0]) + most
    assert both.stream.peak < both.nbytes(both.model)
    assert both.stream.resident == 0


def test_batches_go_through_in_groups_that_fit(both: Streamed) -> None:
    both.stream.room = 2 * both.stream.activations(BATCHES[0])
    found = both.stream.map(both.empty, BATCHES)
    assert len(found) == 3
    assert both.store.bytes_read == 2 * both.nbytes(both.model)


def test_small_modules_outside_blocks_stay(tmp_path: Path) -> None:
    both = Streamed(tmp_path, small=1 << 20)
    outside = both.nbytes(both.empty.embed) + both.nbytes(both.empty.head)
    assert both.stream.resident == both.stream.always == outside
    both.stream.close()
    assert both.stream.resident == 0


@pytest.mark.parametrize("method", [Wanda(), SparseGPT()], ids=["wanda", "sparsegpt"])
@pytest.mark.parametrize("parks", [False, True], ids=["memory", "disk"])
def test_pruned_weights_are_those_of_the_model_in_memory(
    both: Streamed, method: Any, parks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if parks:
        monkeypatch.setattr("atp_core.engine.parking._LEAST", 1)
        both.stream.placement.park_in(both.scratch)
    report = pruned(both.chains, both.empty, method)
    expected = pruned(chains_of(both.model), both.model, method)
    assert [block.zeros for block in report.blocks] == [block.zeros for block in expected.blocks]
    for name, value in both.model.state_dict().items():
        assert torch.equal(both.store.read(name), value), name
    found = both.stream.map(both.empty, BATCHES)
    with torch.no_grad():
        assert all(
            torch.equal(one, both.model(batch)) for one, batch in zip(found, BATCHES, strict=True)
        )
    assert not [name for name in os.listdir(both.scratch) if name.startswith("activations")]


def test_a_trial_is_forgotten(both: Streamed) -> None:
    snapshot = StreamSnapshot(both.stream)
    pruned(both.chains, both.empty, Wanda())
    snapshot.stale = True
    snapshot.restore()
    assert not snapshot.stale
    for name, value in both.model.state_dict().items():
        assert torch.equal(both.store.read(name), value), name
    assert not any(both.scratch.iterdir())


def test_errors_are_measured_beside_a_dense_twin(both: Streamed) -> None:
    def errors(chains: Any, model: nn.Module) -> list[float]:
        found = measure_errors(
            chains,
            schedule_for(chains),
            Wanda(),
            calibration_of(model, len(BATCHES)),
            device=None,
            progress=NullProgress(),
        )
        return [one.error for one in found]

    assert errors(both.chains, both.empty) == errors(chains_of(both.model), both.model)
    assert not both.store.replaced
    assert both.stream.peak <= both.nbytes(both.empty.blocks[0]) + max(
        both.nbytes(both.empty.embed), both.nbytes(both.empty.head)
    )


def test_weights_can_be_looked_at_one_by_one(both: Streamed) -> None:
    for mine, theirs in zip(both.chains, chains_of(both.model), strict=True):
        for block, other in zip(mine.blocks, theirs.blocks, strict=True):
            for weight, expected in zip(block.weights, other.weights, strict=True):
                assert weight.shape == expected.shape
                assert both.stream.resident == 0
                assert torch.equal(weight.matrix(), expected.matrix())
    assert Placement.of(both.chains, None) is both.stream.placement


def test_a_step_that_fails_leaves_nothing_in_memory(both: Streamed) -> None:
    def step(batch: torch.Tensor) -> None:
        both.empty(batch)
        raise ValueError("no")

    with pytest.raises(ModelError, match="batch 0 failed: ValueError: no"):
        both.stream.map(step, BATCHES)
    both.stream.evict()
    assert both.stream.resident == 0
    assert not torch.is_inference_mode_enabled()


def damaged(both: Streamed, **changes: torch.Tensor) -> Stream:
    state = {**both.model.state_dict(), **changes}
    save_file({name: one for name, one in state.items() if one.numel()}, both.file)
    empty = meta_copy(both.model)
    chains = chains_of(empty)
    return Stream(empty, WeightStore([open_weights(both.file)]), chains, both.scratch, small=0)


def test_damage_is_named(both: Streamed) -> None:
    with pytest.raises(ModelError, match=r"no head\.bias \(1 of .* weights of TinyModel"):
        damaged(both, **{"head.bias": torch.empty(0)})
    stream = damaged(both, **{"blocks.1.out.bias": torch.zeros(3)})
    with pytest.raises(ModelError, match=r"blocks\.1\.out\.bias is \(3,\) in the checkpoint"):
        stream.map(stream_model(stream), BATCHES)
    stream = damaged(both, **{"blocks.2.out.bias": torch.full((8,), torch.nan)})
    with pytest.raises(NumericalError, match=r"blocks\.2\.out\.bias in block blocks\.2 holds NaN"):
        stream.map(stream_model(stream), BATCHES)


def stream_model(stream: Stream) -> Any:
    """The model of a stream, which keeps the names of its modules."""
    return next(module for module, name in stream._names.items() if not name)


def test_tied_weights_are_read_once(tmp_path: Path) -> None:
    model = TinyModel()
    model.head.weight = model.embed.weight
    state = {name: one for name, one in model.state_dict().items() if name != "embed.weight"}
    save_file(state, tmp_path / "tied.safetensors")
    store = WeightStore([open_weights(tmp_path / "tied.safetensors")])
    empty: Any = meta_copy(model)
    stream = Stream(empty, store, chains_of(empty), tmp_path, small=0)
    with torch.no_grad():
        assert torch.equal(empty(BATCHES[0]), model(BATCHES[0]))
    assert empty.head.weight is empty.embed.weight
    assert store.bytes_read == sum(one.nbytes for one in state.values())
    stream.close()


def test_parked_activations_are_the_same_tensors(tmp_path: Path) -> None:
    parking = Parking(tmp_path)
    large, small, whole = torch.randn(300, 100), torch.randn(3), torch.arange(40_000)
    views = (large, large[:2])
    wanted = large.clone()
    parking.park({"x": [large, small], "y": whole})
    assert large.untyped_storage().filename is not None
    assert small.untyped_storage().filename is None
    assert whole.untyped_storage().filename is None
    assert torch.equal(large, wanted)
    assert torch.equal(views[1], wanted[:2])
    fetched = parking.fetch({"x": large})["x"]
    assert fetched.untyped_storage().filename is None
    assert torch.equal(fetched, wanted)
    parking.park(large)  # once is enough
    assert torch.equal(large, wanted)
    assert not any(tmp_path.iterdir()), "the files have no names"
