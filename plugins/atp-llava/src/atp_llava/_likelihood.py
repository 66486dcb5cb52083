"""How likely the model finds answers, given image and prompt."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import nn

from atp_core.errors import NumericalError

from ._inputs import Inputs, batched, extended, keeps_logits, moved

__all__ = ["Asked", "Run", "Scores", "score_answers"]


@dataclass(frozen=True)
class Asked:
    """One question, ready to be scored.

    Attributes:
        inputs: its image and prompt.
        answer: tokens of the right answer.
        choices: tokens of each answer to choose among.
    """

    inputs: Inputs
    answer: Sequence[int]
    choices: Sequence[Sequence[int]] = ()


Run = Callable[[Callable[[Any], None], Sequence[Any]], Any]
"""Gives every batch to a step, such as `LoadedModel.map`."""

_TOGETHER: Final = 64
"""Batches that are encoded and held at once, where many are run side by side."""


@dataclass
class Scores:
    """What the model thinks of the answers to one question.

    Attributes:
        nll: negative log-likelihood of the right answer, in nats, summed over its tokens.
        tokens: number of them.
        choices: log-likelihood of each answer to choose among.
    """

    nll: float = float("nan")
    tokens: int = 0
    choices: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class _Row:
    """One forward: the answer's tokens, and other answers of one token read off beside it."""

    question: int
    target: tuple[int, ...]
    beside: tuple[tuple[int, int], ...]
    choices: tuple[int, ...]
    right: bool


def score_answers(
    model: nn.Module,
    questions: Iterator[Asked],
    *,
    batch_size: int,
    done: Callable[[], None] = lambda: None,
    run: Run | None = None,
) -> list[Scores]:
    """Score the right answer of every question, and each of its choices.

    log p(answer) = Σ_t log p(token_t | image, prompt, tokens before t), in float32. Answers of a
    single token are all read off the same forward.

    Args:
        model: the model.
        questions: what to score, encoded when it is their turn.
        batch_size: answers of equal shapes that go through together.
        done: called for each question.
        run: runs many batches, by a step for each; None runs one after another.

    Raises:
        NumericalError: the model's output is not a number.
    """
    scores: list[Scores] = []

    def rows() -> Iterator[tuple[_Row, Inputs]]:
        for number, asked in enumerate(questions):
            answer = tuple(asked.answer)
            scores.append(Scores(tokens=len(answer), choices=[float("nan")] * len(asked.choices)))
            beside = [(i, ids[0]) for i, ids in enumerate(asked.choices) if len(ids) == 1]
            same = [i for i, ids in enumerate(asked.choices) if tuple(ids) == answer]
            yield (
                _Row(number, answer, tuple(beside), tuple(same), True),
                extended(asked.inputs, list(answer[:-1])),
            )
            for i, ids in enumerate(asked.choices):
                if len(ids) > 1 and tuple(ids) != answer:
                    row = _Row(number, tuple(ids), (), (i,), False)
                    yield row, extended(asked.inputs, list(ids[:-1]))
            done()

    def step(of: tuple[list[_Row], Inputs]) -> None:
        members, batch = of
        # Rows of equal shapes may still have answers of unequal length, after unequal prompts.
        longest = max(len(row.target) for row in members)
        with torch.inference_mode():
            logits = model(
                **moved(batch, model), use_cache=False, **keeps_logits(model, longest)
            ).logits
        for row, of_row in zip(members, logits, strict=True):
            _read(row, of_row[-len(row.target) :], scores[row.question])

    batches = batched(rows(), batch_size)
    if run is None:
        for batch in batches:
            step(batch)
    while run is not None and (together := list(itertools.islice(batches, _TOGETHER))):
        run(step, together)
    return scores


def _read(row: _Row, logits: torch.Tensor, to: Scores) -> None:
    """Take from the logits, shape (answer tokens, vocabulary), what the row is for."""
    logs = torch.log_softmax(logits.float(), -1)
    target = torch.tensor(row.target, device=logs.device)
    total = float(logs.gather(1, target[:, None]).double().sum())
    if total != total:
        raise NumericalError(
            "the model's output is not a number; try --dtype float32, or a lower sparsity"
        )
    if row.right:
        to.nll = -total
    for choice, token in row.beside:
        to.choices[choice] = float(logs[0, token])
    for choice in row.choices:
        to.choices[choice] = total
