"""Answers by greedy generation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ._inputs import Inputs, batched, moved

__all__ = ["generate_answers"]


def generate_answers(
    model: Any,
    tokenizer: Any,
    questions: Iterator[Inputs],
    *,
    count: int,
    new_tokens: int,
    batch_size: int,
    done: Callable[[], None] = lambda: None,
) -> list[str]:
    """What the model answers to every question, without special tokens.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        questions: images and prompts, encoded when it is their turn.
        count: number of questions.
        new_tokens: at most so many tokens an answer.
        batch_size: questions of equal shapes that go through together.
        done: called for each question.
    """
    settings = copy.deepcopy(model.generation_config)
    settings.update(
        do_sample=False, num_beams=1, temperature=None, top_p=None, top_k=None,
        max_new_tokens=new_tokens, max_length=None, min_length=0, use_cache=True,
    )  # fmt: skip
    if settings.pad_token_id is None:
        settings.pad_token_id = tokenizer.pad_token_id
    if settings.pad_token_id is None:
        ends = settings.eos_token_id
        settings.pad_token_id = ends[0] if isinstance(ends, list) else ends
    answers = [""] * count
    for numbers, batch in batched(enumerate(questions), batch_size):
        inputs = moved(batch, model)
        with torch.inference_mode():
            output = model.generate(**inputs, generation_config=settings)
        new = output[:, inputs["input_ids"].shape[1] :]
        for number, text in zip(
            numbers, tokenizer.batch_decode(new, skip_special_tokens=True), strict=True
        ):
            answers[number] = text.strip()
            done()
    return answers
