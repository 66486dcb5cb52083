"""What the model's forward takes for a question, and how questions are put in batches.

A batch holds only inputs of equal shapes, so nothing is ever padded: padding would enter the
statistics, and shift what is measured.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import Any, Final, TypeVar

import torch
from torch import nn

from atp_core.data import open_image
from atp_core.errors import DataError
from atp_core.loading import first_line
from atp_core.records import LoadedModel

from ._load import processor_of
from ._prompt import Prompts
from ._questions import Question

__all__ = ["Encoder", "Inputs", "batched", "extended", "keeps_logits", "moved"]

Inputs = dict[str, Any]
"""Arguments of the forward call by name, tensors for a batch of one."""

Key = TypeVar("Key")

_KEPT: Final = 2 << 30  # bytes of encoded questions kept in memory


class Encoder:
    """Reads and encodes questions, each once as long as memory allows.

    Args:
        loaded: the model with its processor.
        prompts: how prompts are written.
    """

    def __init__(self, loaded: LoadedModel, prompts: Prompts) -> None:
        self._processor = processor_of(loaded)
        self._prompts = prompts
        self._kept: dict[Question, tuple[str, Inputs]] = loaded.cache.setdefault(
            ("atp_llava.encoded", prompts.convention), {}
        )
        self._bytes = sum(map(_size, (inputs for _, inputs in self._kept.values())))

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer."""
        return self._processor.tokenizer

    def __call__(self, question: Question) -> tuple[str, Inputs]:
        """The prompt's text, and what the forward takes for it.

        Raises:
            DataError: the image cannot be read, or the processor does not take it; the message
                names file and line.
        """
        if question in self._kept:
            return self._kept[question]
        prompt = self._prompts.of(question)
        try:
            image = open_image(question.image.path)
        except DataError as error:
            raise DataError(f"{question.where}: {error}") from None
        inputs = self.encoded(prompt, image, question.where)
        size = _size(inputs)
        if self._bytes + size <= _KEPT:
            self._bytes += size
            self._kept[question] = (prompt, inputs)
        return prompt, inputs

    def encoded(self, prompt: str, image: Any, where: str) -> Inputs:
        """What the forward takes for a prompt and an image.

        Args:
            prompt: up to where the answer begins.
            image: of PIL.
            where: what they are from, for errors.

        Raises:
            DataError: the processor does not take them.
        """
        bos = getattr(self.tokenizer, "bos_token", None)
        # A prompt that begins with it would get it twice.
        options = {"add_special_tokens": False} if bos and prompt.startswith(bos) else {}
        try:
            found = self._processor(text=[prompt], images=[image], return_tensors="pt", **options)
        except Exception as error:
            # Whatever a processor of the model's raises is told with the line it is about.
            reason = first_line(error)
            raise DataError(
                f"{where}: the model's processor does not take it ({reason})"
            ) from error
        return dict(found)


def extended(inputs: Inputs, ids: list[int]) -> Inputs:
    """Inputs with further tokens of text at the end."""
    if not ids:
        return inputs
    length = inputs["input_ids"].shape[1]
    found: Inputs = {}
    for name, value in inputs.items():
        of_tokens = isinstance(value, torch.Tensor) and value.dim() >= 2
        if not of_tokens or value.shape[:2] != (1, length) or "pixel" in name:
            found[name] = value
        elif name == "input_ids":
            found[name] = torch.cat([value, torch.tensor([ids], dtype=value.dtype)], 1)
        elif "attention_mask" in name:  # new tokens see what the last one sees
            last = value[:, -1:].expand(-1, len(ids), *value.shape[2:])
            found[name] = torch.cat([value, last], 1)
        else:  # kinds of tokens, of which text is 0
            found[name] = torch.cat([value, value.new_zeros(1, len(ids), *value.shape[2:])], 1)
    return found


def batched(items: Iterable[tuple[Key, Inputs]], size: int) -> Iterator[tuple[list[Key], Inputs]]:
    """Inputs in batches of at most `size`, each of equal shapes, with the keys of its members."""
    waiting: dict[Any, list[tuple[Key, Inputs]]] = {}
    for key, inputs in items:
        shapes = _shapes(inputs)
        group = waiting.setdefault(shapes, [])
        group.append((key, inputs))
        if len(group) >= size or shapes is None:
            yield _stacked(waiting.pop(shapes))
    for group in waiting.values():
        yield _stacked(group)


def moved(inputs: Inputs, model: nn.Module) -> Inputs:
    """Inputs on the model's device, floating ones in its dtype."""
    first = next(model.parameters())
    found: Inputs = {}
    for name, value in inputs.items():
        if isinstance(value, torch.Tensor):
            dtype = first.dtype if value.is_floating_point() else value.dtype
            value = value.to(first.device, dtype)
        found[name] = value
    return found


def keeps_logits(model: nn.Module, count: int) -> dict[str, int]:
    """The option that computes only the last `count` logits, where the model has it."""
    known = "logits_to_keep" in inspect.signature(model.forward).parameters
    return {"logits_to_keep": count} if known else {}


def _stacked(group: list[tuple[Key, Inputs]]) -> tuple[list[Key], Inputs]:
    keys = [key for key, _ in group]
    first = group[0][1]
    if len(group) == 1:
        return keys, first
    return keys, {name: torch.cat([inputs[name] for _, inputs in group]) for name in first}


def _shapes(inputs: Inputs) -> tuple[Any, ...] | None:
    """What must be equal in a batch; None where the inputs go alone."""
    if not all(isinstance(value, torch.Tensor) and value.dim() > 0 for value in inputs.values()):
        return None
    return tuple(sorted((name, tuple(value.shape)) for name, value in inputs.items()))


def _size(inputs: Inputs) -> int:
    return sum(value.nbytes for value in inputs.values() if isinstance(value, torch.Tensor))
