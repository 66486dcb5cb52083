"""A tiny transformer-like model for tests, without any third-party architecture."""

from __future__ import annotations

import torch
from torch import nn

from atp_core.records import Block, Calibration, Chain, PrunableWeight

__all__ = ["TinyModel", "calibration_of", "chains_of"]


class Mixer(nn.Module):
    """Two projections that share an input, one that does not, and a fused 3-D pair."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width)
        self.experts = nn.Parameter(torch.randn(2, width + 4, width) / width)
        self.back = nn.Parameter(torch.randn(2, width + 4, width) / width)

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        """Shapes (batch, tokens, width) in and out."""
        mixed = torch.softmax(self.query(x) @ x.transpose(-1, -2), -1) @ self.value(x)
        x = x + scale * self.out(mixed)
        # Expert 1 sees the tokens with a positive first feature, expert 0 the others.
        flat = x.reshape(-1, x.shape[-1])
        result = torch.zeros_like(flat)
        route = (flat[:, 0] > 0).long()
        for expert in range(2):
            rows = torch.where(route == expert)[0]
            if len(rows):
                hidden = torch.relu(nn.functional.linear(flat[rows], self.experts[expert]))
                result[rows] = hidden @ self.back[expert]
        return x + result.view_as(x)


class TinyModel(nn.Module):
    """An embedding, blocks with something between them, and a head that may never be reached."""

    def __init__(self, blocks: int = 3, width: int = 8, vocabulary: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(Mixer(width) for _ in range(blocks))
        self.head = nn.Linear(width, vocabulary)
        self.head_calls = 0

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Token ids (batch, tokens) to logits."""
        x = self.embed(tokens)
        for i, block in enumerate(self.blocks):
            x = block(x, scale=1.0 + 0.1 * i)
            x = x * 1.01  # something that no block knows of
        self.head_calls += 1
        logits: torch.Tensor = self.head(x)
        return logits


def chains_of(model: TinyModel) -> list[Chain]:
    """The one chain of a tiny model."""
    blocks = []
    for i, block in enumerate(model.blocks):
        name = f"blocks.{i}"
        weights = [
            PrunableWeight(f"{name}.{part}.weight", getattr(block, part))
            for part in ("query", "value", "out")
        ]
        for e in range(2):
            weights.append(
                PrunableWeight(
                    f"{name}.experts[{e}]", block, "experts", index=(e,), conditional=True
                )
            )
            weights.append(
                PrunableWeight(
                    f"{name}.back[{e}]",
                    block,
                    "back",
                    index=(e,),
                    transposed=True,
                    conditional=True,
                )
            )
        blocks.append(Block(name, block, weights))
    return [Chain("main", blocks)]


def calibration_of(model: nn.Module, batches: int = 4, size: int = 2) -> Calibration:
    """Random tokens for a tiny model."""
    generator = torch.Generator().manual_seed(1)
    tokens = [torch.randint(0, 32, (size, 6), generator=generator) for _ in range(batches)]
    return Calibration(
        batches=tokens,
        forward=model,
        samples=batches * size,
        unit="sequences of 6 tokens",
        dataset="random",
        fingerprint="0",
        examples=frozenset(),
        batch_samples=[size] * batches,
    )
