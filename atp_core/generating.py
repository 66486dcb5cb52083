"""Timing text generation, for plugins whose models keep the conventions of transformers.

That is: forward takes ``use_cache`` and a cache, and gives ``logits`` and the cache.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from .errors import ModelError
from .records import Workload

__all__ = ["generation"]


def generation(
    model: nn.Module,
    inputs: Callable[[int], Mapping[str, Any]],
    batch_sizes: Sequence[int],
    *,
    tokens: int,
    steps: int,
    prompt: str,
) -> list[Workload]:
    """Prefill and decode of a model that generates text.

    Prefill reads the prompt and predicts its next token. Decode takes the most likely token of
    each step as the next input, with the cache of keys and values that prefill left.

    Args:
        model: in eval mode.
        inputs: batch size → arguments of the forward call for the prompts.
        batch_sizes: one pair of workloads for each.
        tokens: length of a prompt.
        steps: tokens that are decoded.
        prompt: what a prompt is, for the user, e.g. "a prompt of 128 tokens".
    """
    found = []
    for batch in batch_sizes:
        # Counted as throughput of all sequences together.
        what = f"{steps} tokens a sequence after {prompt}, with the cache of keys and values"
        decode, fill = _decode(model, inputs, batch, steps), _fill(model, inputs, batch)
        found += [
            Workload("decode", "tokens", batch * steps, batch, decode, what),
            Workload("prefill", "tokens", batch * tokens, batch, fill, prompt),
        ]
    return found


def _read(model: Any, given: Mapping[str, Any]) -> Any:
    """Run the prompt through the model, computing logits of its last position where it can."""
    last = "logits_to_keep" in inspect.signature(model.forward).parameters
    return model(**given, use_cache=True, **({"logits_to_keep": 1} if last else {}))


def _cache_name(model: Any) -> str:
    """What forward calls the cache: transformers renamed it in 5.24."""
    known = inspect.signature(model.forward).parameters
    return "cache" if "cache" in known else "past_key_values"


def _fill(
    model: nn.Module, inputs: Callable[[int], Mapping[str, Any]], batch: int
) -> Callable[[], Callable[[], Any]]:
    def start() -> Callable[[], Any]:
        given = inputs(batch)
        return lambda: _read(model, given)

    return start


def _decode(
    model: Any, inputs: Callable[[int], Mapping[str, Any]], batch: int, steps: int
) -> Callable[[], Callable[[], Any]]:
    def start() -> Callable[[], Any]:
        given = inputs(batch)
        first = _read(model, given)
        held = _cache_name(model)
        cache = getattr(first, held, None)
        if cache is None:
            raise ModelError(
                f"{type(model).__name__} keeps no keys and values, so decoding cannot be timed; "
                "use --modes prefill"
            )
        name = "input_ids"
        more: dict[str, Any] = {}
        if "decoder_input_ids" in given:
            name = "decoder_input_ids"
            more = {"encoder_outputs": (first.encoder_last_hidden_state,)}
        token = first.logits[:, -1:].argmax(-1)

        def run() -> Any:
            nonlocal token, cache
            for _ in range(steps):
                found = model(**{name: token, held: cache}, **more, use_cache=True)
                token, cache = found.logits[:, -1:].argmax(-1), getattr(found, held)
            return token

        return run

    return start
