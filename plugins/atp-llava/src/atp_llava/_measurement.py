"""Asking a vision-language model the questions of a split, by likelihood and by generation."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from atp_core.data import digest_of
from atp_core.measuring import Figure, distinct, metric_of, ratio, share_figure
from atp_core.records import DataRequest, LoadedModel, Metric, Observations, Split

from ._generate import generate_answers
from ._inputs import Encoder, Inputs
from ._likelihood import Asked, Scores, score_answers
from ._parts import Part
from ._pope import pope_figures, says_yes
from ._prompt import Prompts, answer_ids
from ._questions import is_yes_no, normalized

__all__ = ["OF_CATEGORY", "Measurement"]

OF_CATEGORY: Final = "accuracy/"
"""What the name of a category follows in the name of its metric."""

_BATCH: Final = 32  # at least so many questions of equal shapes go through together
_SPARE: Final = 8  # tokens that a generated answer may have beyond the longest right one


class Measurement:
    """The figures of one model on the questions of one split.

    Args:
        loaded: the model.
        data: how questions are asked, and how many at once.
        split: which split.
        part: its questions.

    Attributes:
        metrics: name → figure, of what has been measured.
        observations: name → what the figure was made of, where it is a mean over questions.
    """

    def __init__(self, loaded: LoadedModel, data: DataRequest, split: Split, part: Part) -> None:
        self._loaded, self._split, self._part = loaded, split, part
        self._prompts = Prompts(loaded, data)
        self._encode = Encoder(loaded, self._prompts)
        self._batch = max(data.batch_size, _BATCH)
        self._ids = distinct(
            digest_of("\0".join([one.identity, one.question, one.answer]).encode())
            for one in part.questions
        )
        self.metrics: dict[str, Metric] = {}
        self.observations: dict[str, Observations] = {}

    def by_likelihood(self, *, choose: bool) -> None:
        """`answer_loss`, and `accuracy`, also by category, where there is something to choose.

        Args:
            choose: score the answers to choose among too.
        """
        began = time.perf_counter()
        part = self._part
        title = f"answers on {part.dataset}"
        with self._loaded.progress.task(title, len(part.questions)) as advance:
            scores = score_answers(
                self._loaded.model,
                self._asked(choose),
                batch_size=self._batch,
                done=lambda: advance(""),
                run=None if self._loaded.stream is None else self._loaded.map,
            )
        seconds = time.perf_counter() - began
        self._answer_loss(scores, seconds)
        hits = {
            row: normalized(choices[of.choices.index(max(of.choices))])
            == normalized(question.answer)
            for row, (question, choices, of) in enumerate(
                zip(part.questions, part.choices, scores, strict=True)
            )
            if of.choices
        }
        how = "likeliest of the answers to choose among"
        groups = {"accuracy": list(hits)} if hits else {}
        for row in sorted(hits, key=lambda row: part.questions[row].category):
            if category := part.questions[row].category:
                groups.setdefault(OF_CATEGORY + category, []).append(row)
        for name, rows in groups.items():
            told = how if name == "accuracy" else f"{how}, of this category"
            ids = [self._ids[row] for row in rows]
            self._add(name, share_figure([hits[row] for row in rows], ids, told), seconds)

    def by_generation(self) -> None:
        """`exact_match`, and POPE's figures over the yes/no questions."""
        began = time.perf_counter()
        part = self._part
        tokenizer = self._encode.tokenizer
        longest = max(
            len(tokenizer(text, add_special_tokens=False).input_ids)
            for text in {question.answer for question in part.questions}
        )
        title = f"generating on {part.dataset}"
        with self._loaded.progress.task(title, len(part.questions)) as advance:
            answers = generate_answers(
                self._loaded.model,
                tokenizer,
                self._prompted(),
                count=len(part.questions),
                new_tokens=longest + _SPARE,
                batch_size=self._batch,
                done=lambda: advance(""),
            )
        seconds = time.perf_counter() - began
        right = [normalized(question.answer) for question in part.questions]
        hits = [normalized(said) == one for said, one in zip(answers, right, strict=True)]
        how = f"greedy generation of at most {longest + _SPARE} tokens"
        told = f"{how}, equal but for case and punctuation at the ends"
        self._add("exact_match", share_figure(hits, self._ids, told), seconds)
        yes_no = [row for row, question in enumerate(part.questions) if is_yes_no(question.answer)]
        if yes_no:
            figures = pope_figures(
                [says_yes(answers[row]) for row in yes_no],
                [right[row] == "yes" for row in yes_no],
                [self._ids[row] for row in yes_no],
            )
            told = f"{how}, yes unless its first sentence has no or not"
            for name, figure in figures.items():
                self._add(name, replace(figure, note=told), seconds)

    def _asked(self, choose: bool) -> Iterator[Asked]:
        tokenizer = self._encode.tokenizer
        for question, choices in zip(self._part.questions, self._part.choices, strict=True):
            prompt, inputs = self._encode(question)
            before = inputs["input_ids"][0].tolist()
            yield Asked(
                inputs,
                answer_ids(tokenizer, prompt, before, question.answer),
                [answer_ids(tokenizer, prompt, before, one) for one in choices if choose],
            )

    def _prompted(self) -> Iterator[Inputs]:
        return (self._encode(question)[1] for question in self._part.questions)

    def _answer_loss(self, scores: Sequence[Scores], seconds: float) -> None:
        nlls, tokens = [of.nll for of in scores], [of.tokens for of in scores]
        mean, error = ratio(nlls, tokens)
        each = [nll / count for nll, count in zip(nlls, tokens, strict=True)]
        figure = Figure(
            value=mean,
            stderr=error,
            n=sum(tokens),
            unit="nats per token",
            observations=Observations(self._ids, each, tokens),
            note="negative log-likelihood of the right answer's tokens",
        )
        self._add("answer_loss", figure, seconds)

    def _add(self, name: str, figure: Figure, seconds: float) -> None:
        self.metrics[name] = metric_of(
            name,
            figure,
            split=self._split,
            dataset=self._part.dataset,
            fingerprint=self._part.fingerprint,
            convention=self._prompts.described(self._part.questions),
            seconds=seconds,
        )
        if figure.observations is not None:
            self.observations[name] = figure.observations
