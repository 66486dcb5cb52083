"""The loss of a language model on windows of text, and the figures that follow from it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from atp_core.errors import NumericalError
from atp_core.measuring import Figure
from atp_core.records import Observations

from ._inputs import device_of, inputs_for
from ._measured_text import MeasuredText

__all__ = ["Look", "bits_per_byte", "perplexity", "window_losses"]

_CHUNK = 1 << 24  # logits turned to float32 at once: 64 MiB

Look = Callable[[int, torch.Tensor], None]
"""Is shown the logits of one window after another."""


def window_losses(
    model: nn.Module, ids: torch.Tensor, first: int = 0, look: Look | None = None
) -> torch.Tensor:
    """Mean negative log-likelihood of each window, in nats a predicted token.

    Args:
        model: a language model.
        ids: windows, shape (batch, seqlen).
        first: number of the first window.
        look: called with the number of each window and its logits, shape (predicted, vocabulary).

    Returns:
        Shape (batch,), float64 on the CPU; summed over tokens in float32.

    Raises:
        NumericalError: the model's output for a window is NaN.
    """
    inputs, targets = inputs_for(model, ids.to(device_of(model)))
    with torch.inference_mode():
        logits = model(**inputs, use_cache=False).logits  # (batch, seqlen, vocabulary)
        predicted = targets.shape[1]
        rows = max(1, _CHUNK // logits.shape[-1])
        total = torch.zeros(len(ids), dtype=torch.float64)
        for start in range(0, predicted, rows):
            stop = min(start + rows, predicted)
            for i in range(len(ids)):
                total[i] += functional.cross_entropy(
                    logits[i, start:stop].float(),
                    targets[i, start:stop].to(logits.device),
                    reduction="sum",
                ).item()
    broken = total.isnan().nonzero().flatten().tolist()
    if broken:
        raise NumericalError(
            f"the model's output for window {first + broken[0] + 1} is not a number; "
            "try --dtype float32, or a lower sparsity"
        )
    if look is not None:
        for i in range(len(ids)):
            look(first + i, logits[i, :predicted])
    return total / predicted


def perplexity(loss: torch.Tensor, text: MeasuredText) -> Figure:
    """exp of the mean loss a token; its standard error is by the delta method.

    Args:
        loss: of each window, shape (windows,).
        text: the windows.
    """
    value = _exp(loss.mean().item())
    stderr = _stderr(loss)
    tokens = [float(text.predicted)] * len(loss)
    return Figure(
        value=value,
        stderr=None if stderr is None else _finite(value * stderr),  # d exp(x) = exp(x) dx
        n=loss.numel() * text.predicted,
        unit="per token",
        observations=Observations(text.names, loss.tolist(), tokens, "exp"),
    )


def bits_per_byte(loss: torch.Tensor, text: MeasuredText) -> Figure:
    """The loss in bits a byte of UTF-8, which does not depend on how a text is cut into tokens.

    The bytes of a window vary by chance. So the loss of each is converted alike, by the bytes of a
    token in the whole text, as is that of the text.

    Args:
        loss: of each window, shape (windows,).
        text: the windows.
    """
    to_bits = loss.numel() * text.predicted / math.log(2) / max(text.bytes, 1)
    stderr = _stderr(loss)
    return Figure(
        value=loss.mean().item() * to_bits,
        stderr=None if stderr is None else _finite(stderr * to_bits),
        n=loss.numel() * text.predicted,
        unit="bits",
        observations=Observations(text.names, (loss * to_bits).tolist()),
    )


def _stderr(loss: torch.Tensor) -> float | None:
    return loss.std().item() / math.sqrt(len(loss)) if len(loss) > 1 else None


def _finite(error: float) -> float | None:
    return error if math.isfinite(error) else None


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
