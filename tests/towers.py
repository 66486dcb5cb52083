"""Two towers of plain blocks, and the plugin that handles them, for tests of several chains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from atp_core.hookspecs import hookimpl
from atp_core.records import (
    Block,
    Calibration,
    Chain,
    DataRequest,
    Evaluation,
    LoadedModel,
    LoadRequest,
    Metric,
    PrunableWeight,
    Recognition,
    Source,
    Split,
)

__all__ = ["Towers", "TowersPlugin"]


class Towers(nn.Module):
    """Two stacks of residual layers whose outputs are added."""

    def __init__(self, left: int = 3, right: int = 4, width: int = 16) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.left = nn.ModuleList(nn.Linear(width, width) for _ in range(left))
        self.right = nn.ModuleList(nn.Linear(width, width) for _ in range(right))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape (samples, width) in and out."""
        y = x
        for layer in self.left:
            x = x + torch.relu(layer(x))
        for layer in self.right:
            y = y + torch.relu(layer(y))
        return x + y


class TowersPlugin:
    """Handles `Towers` in memory; counts what it is asked.

    Args:
        default: chains pruned where none is named.
        compares: whether, or on which splits, it compares with the dense model.
        report: whether it has data to report on.
    """

    ATP_HOOK_API = 1

    def __init__(
        self,
        default: Sequence[str] = ("left", "right"),
        *,
        compares: bool | frozenset[Split] = False,
        report: bool = True,
    ) -> None:
        self.default, self.compares, self.report = default, compares, report
        self.evaluated: list[tuple[str, bool]] = []

    @hookimpl
    def atp_recognize(self, source: Source) -> Recognition | None:
        """Towers, and nothing else."""
        return Recognition(1.0, "two towers") if source.model is not None else None

    @hookimpl
    def atp_load(self, source: Source, request: LoadRequest) -> LoadedModel:
        """The model in memory."""
        return LoadedModel(source.model, source, compares=self.compares)

    @hookimpl
    def atp_locate(self, loaded: LoadedModel) -> Sequence[Chain]:
        """A chain a tower."""
        return [
            Chain(
                name,
                [
                    Block(f"{name}.{i}", layer, [PrunableWeight(f"{name}.{i}.weight", layer)])
                    for i, layer in enumerate(getattr(loaded.model, name))
                ],
                default=name in self.default,
            )
            for name in ("left", "right")
        ]

    @hookimpl
    def atp_calibrate(self, loaded: LoadedModel, data: DataRequest) -> Calibration:
        """Seeded noise."""
        generator = torch.Generator().manual_seed(1)
        batches = [torch.randn(8, 16, generator=generator) for _ in range(2)]
        return Calibration(
            batches, loaded.model, 16, "vectors", "noise", "0", frozenset(["calibration"]), [8, 8]
        )

    @hookimpl
    def atp_evaluate(
        self, loaded: LoadedModel, data: DataRequest, split: Split, metrics: Any
    ) -> Evaluation:
        """Squared distance from a target that the dense model meets."""
        self.evaluated.append((split, loaded.pruned))
        if split == "report" and not self.report:
            return Evaluation([], frozenset())
        x = torch.randn(32, 16, generator=torch.Generator().manual_seed(len(split)))
        with torch.inference_mode():
            output = loaded.model(x)
        found = [self._metric("norm", float(output.pow(2).mean()), split)]
        if loaded.compares_on(split):
            known = loaded.dense[split] if loaded.pruned else loaded.dense.setdefault(split, output)
            found.insert(0, self._metric("distance", float((output - known).pow(2).sum()), split))
        wanted = [metric for metric in found if metrics is None or metric.name in metrics]
        return Evaluation(wanted, frozenset([split]))

    def _metric(self, name: str, value: float, split: Split) -> Metric:
        return Metric(name, value, None, 32, "", False, split, "noise", "0", "")

    @hookimpl
    def atp_save(self, loaded: LoadedModel, directory: Path) -> Sequence[Path]:
        """One file."""
        from safetensors.torch import save_file

        file = directory / "model.safetensors"
        save_file(loaded.model.state_dict(), file)
        return [file]
