"""A small plugin that does everything right, for tests that make it do one thing wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from atp_core.errors import ModelError, UnknownNameError
from atp_core.hookspecs import hookimpl
from atp_core.loading import explained
from atp_core.packed import open_weights, weights_file
from atp_core.records import (
    Block,
    Calibration,
    Chain,
    DataRequest,
    Evaluation,
    LoadedModel,
    LoadRequest,
    Metric,
    Observations,
    Offer,
    PrunableWeight,
    Recognition,
    Source,
    Split,
    Workload,
    WorkRequest,
)
from atp_core.testing import Example

__all__ = ["GoodPlugin", "Residual"]

WIDTH = 8


class Residual(nn.Module):
    """Residual linear layers between an input and an output layer."""

    def __init__(self, blocks: int = 3) -> None:
        super().__init__()
        self.enter = nn.Linear(WIDTH, WIDTH)
        self.blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(blocks))
        self.leave = nn.Linear(WIDTH, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape (samples, 8) to (samples, 2)."""
        x = self.enter(x)
        for block in self.blocks:
            x = x + torch.relu(block(x))
        result: torch.Tensor = self.leave(x)
        return result


ALONE = """
import json, pathlib
from safetensors.torch import load_file
class Residual(torch.nn.Module):
    def __init__(self, blocks):
        super().__init__()
        self.enter = torch.nn.Linear(8, 8)
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(blocks))
        self.leave = torch.nn.Linear(8, 2)
folder = pathlib.Path(directory)
model = Residual(json.loads((folder / "config.json").read_text())["blocks"])
model.load_state_dict(load_file(folder / "model.safetensors"))
"""


class GoodPlugin:
    """Handles directories of `Residual`, and measures on noise."""

    ATP_HOOK_API = 1

    @hookimpl
    def atp_recognize(self, source: Source) -> Recognition | None:
        """Directories whose config says so."""
        path = source.path
        if path is None or not (path / "config.json").is_file():
            return None
        try:
            kind = json.loads((path / "config.json").read_text()).get("model_type")
        except ValueError:
            return Recognition(0.1, "a directory whose config cannot be read")
        return Recognition(0.9, "config.json says residual") if kind == "residual" else None

    @hookimpl
    def atp_load(self, source: Source, request: LoadRequest) -> LoadedModel:
        """Weights from safetensors."""
        path = source.path
        assert path is not None
        with explained(source.text, "Is it whole?"):
            config = json.loads((path / "config.json").read_text())
            model = Residual(config["blocks"])
            if request.meta:
                model = model.to("meta")
            else:
                weights = weights_file(path / "model.safetensors")
                model.load_state_dict(open_weights(weights or path).state_dict())
        return LoadedModel(model.eval(), source)

    @hookimpl
    def atp_locate(self, loaded: LoadedModel) -> Sequence[Chain]:
        """One chain."""
        if not isinstance(loaded.model, Residual):
            raise ModelError(f"{type(loaded.model).__name__} is no Residual")
        return [Chain("main", self.blocks_of(loaded.model), {"enter": "the input layer"})]

    def blocks_of(self, model: Residual) -> list[Block]:
        """The blocks in order."""
        return [
            Block(f"blocks.{i}", block, [PrunableWeight(f"blocks.{i}.weight", block)])
            for i, block in enumerate(model.blocks)
        ]

    def noise(self, split: str, seed: int, samples: int) -> torch.Tensor:
        """Samples of a split."""
        offset = {"calibration": 1, "search": 2, "report": 3}[split]
        generator = torch.Generator().manual_seed(seed + 1000 * offset)
        return torch.randn(samples, WIDTH, generator=generator)

    @hookimpl
    def atp_calibrate(self, loaded: LoadedModel, data: DataRequest) -> Calibration:
        """Two batches."""
        rows = self.noise("calibration", data.seed, data.samples or 8)
        batches = list(rows.chunk(2))
        return Calibration(
            batches=batches,
            forward=loaded.model,
            samples=len(rows),
            unit="vectors",
            dataset="noise",
            fingerprint=f"calibration {data.seed}",
            examples=frozenset({"calibration"}),
            batch_samples=[len(batch) for batch in batches],
        )

    @hookimpl
    def atp_evaluate(
        self, loaded: LoadedModel, data: DataRequest, split: Split, metrics: Any
    ) -> Evaluation:
        """The mean square and the mean absolute value of the output."""
        with torch.inference_mode():
            output = loaded.model(self.noise(split, 0, 16))
        found = {"square": output.pow(2).mean(), "size": output.abs().mean()}
        for name in metrics or ():
            if name not in found:
                raise UnknownNameError("metric", name, found)
        return Evaluation(
            [
                self.metric(name, float(value), split)
                for name, value in found.items()
                if metrics is None or name in metrics
            ],
            frozenset({split}),
            {"square": Observations([f"v{i}" for i in range(16)], self.squares(output))},
        )

    def squares(self, output: torch.Tensor) -> list[float]:
        """The mean square of each vector's output."""
        found: list[float] = output.pow(2).mean(-1).tolist()
        return found

    def metric(self, name: str, value: float, split: Split) -> Metric:
        """A figure with all that belongs to it."""
        return Metric(name, value, None, 16, "1", False, split, "noise", split, "of 16 vectors")

    @hookimpl
    def atp_workloads(self, loaded: LoadedModel, request: WorkRequest) -> Sequence[Workload]:
        """Random vectors, under two names."""
        model = loaded.model

        def work(name: str, batch: int) -> Workload:
            def start() -> Any:
                rows = torch.randn(batch, WIDTH)
                return lambda: model(rows)

            return Workload(name, "vectors", batch, batch, start, "random vectors")

        return [work(name, batch) for name in ("rows", "more") for batch in request.batch_sizes]

    @hookimpl
    def atp_save(self, loaded: LoadedModel, directory: Path) -> Sequence[Path]:
        """Config and safetensors."""
        assert isinstance(loaded.model, Residual)
        config = {"model_type": "residual", "blocks": len(loaded.model.blocks)}
        (directory / "config.json").write_text(json.dumps(config))
        file = directory / "model.safetensors"
        save_file({n: t.contiguous() for n, t in loaded.model.state_dict().items()}, file)
        return [file]

    @hookimpl
    def atp_examples(self) -> Sequence[Offer]:
        """Three blocks."""
        return [Offer("three", self.three, "3 blocks")]

    def three(self, directory: Path) -> Example:
        """A model with random weights."""
        torch.manual_seed(0)
        model = Residual()
        self.atp_save(LoadedModel(model, Source("made here")), directory)
        return Example(Source(str(directory)), DataRequest(samples=8), alone=ALONE)
