"""Measuring a vision-language model on questions about images."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import Final

from atp_core.errors import DataError, UnknownNameError
from atp_core.records import DataRequest, Evaluation, LoadedModel, Metric, Split

from ._calibrate import check_decoder
from ._generate import generate_answers
from ._inputs import Encoder, Inputs
from ._likelihood import Asked, Scores, score_answers
from ._parts import Part, check_settings, file_for, part_for, spec_for
from ._pope import POPE, Figure, pope_figures, says_yes, share
from ._prompt import Prompts, answer_ids
from ._questions import is_yes_no, normalized
from ._text import evaluate_text

__all__ = ["METRICS", "evaluate"]

METRICS: Final = ("answer_loss", "accuracy", "exact_match", *POPE)
"""Figures of questions; those after the second by generation."""

_BATCH: Final = 32  # at least so many questions of equal shapes go through together
_SPARE: Final = 8  # tokens that a generated answer may have beyond the longest right one


def evaluate(
    loaded: LoadedModel, data: DataRequest, split: Split, metrics: Sequence[str] | None = None
) -> Evaluation:
    """Figures of one split, `answer_loss` first.

    By default the search split gets what one forward a question gives, the report split answers
    by generation too. Figures that the questions have no use for are left out: accuracy where
    there is nothing to choose among, POPE's where no right answer is yes or no. Plain text gives
    the perplexity of the language model. Without report data nothing is measured.

    Raises:
        UnknownNameError: `metrics` names one that is not measured here.
        UsageError: a setting has no effect on the data.
        DataError: the data are missing or unfit, or have no use for a figure that is asked for.
        NumericalError: the model's output is not a number.
    """
    check_decoder(loaded)
    spec = spec_for(loaded, data, split)
    if spec is None:
        if split == "report":
            return Evaluation([], frozenset())
        raise DataError(
            f"{loaded.source.text} needs data to search on: give --calibration FILE.jsonl with "
            '"image", "question" and "answer" in every line'
        )
    check_settings(loaded, data)
    file = file_for(spec)
    if file is None:
        return evaluate_text(loaded, data, split, spec, metrics)
    for name in metrics or ():
        if name not in METRICS:
            raise UnknownNameError("metric", name, METRICS)
    part = part_for(loaded, data, split, spec, file)
    wanted = list(metrics or (METRICS[:2] if split == "search" else METRICS))
    measure = _Measurement(loaded, data, split, part)
    found: dict[str, Metric] = {}
    if {"answer_loss", "accuracy"} & set(wanted):
        found |= measure.by_likelihood("accuracy" in wanted)
    if {"exact_match", *POPE} & set(wanted):
        found |= measure.by_generation()
    for name in metrics or ():
        if name not in found:
            lacking = "no answers to choose among" if name == "accuracy" else "no yes/no answers"
            raise DataError(f"{part.dataset} has {lacking}, so {name} cannot be measured on it")
    return Evaluation([found[name] for name in wanted if name in found], part.examples)


class _Measurement:
    """One pass over one part."""

    def __init__(self, loaded: LoadedModel, data: DataRequest, split: Split, part: Part) -> None:
        self._loaded, self._split, self._part = loaded, split, part
        self._prompts = Prompts(loaded, data)
        self._encode = Encoder(loaded, self._prompts)
        self._batch = max(data.batch_size, _BATCH)

    def by_likelihood(self, choose: bool) -> dict[str, Metric]:
        """`answer_loss`, and `accuracy` where there is something to choose among."""
        began = time.perf_counter()
        part = self._part
        title = f"answers on {part.dataset}"
        with self._loaded.progress.task(title, len(part.questions)) as advance:
            scores = score_answers(
                self._loaded.model,
                self._asked(choose),
                batch_size=self._batch,
                done=lambda: advance(""),
            )
        seconds = time.perf_counter() - began
        found = {"answer_loss": self._answer_loss(scores, seconds)}
        hits = [
            normalized(choices[of.choices.index(max(of.choices))]) == normalized(question.answer)
            for question, choices, of in zip(part.questions, part.choices, scores, strict=True)
            if of.choices
        ]
        if hits:
            how = "likeliest of the answers to choose among"
            found["accuracy"] = self._metric("accuracy", share(sum(hits), len(hits)), how, seconds)
        return found

    def by_generation(self) -> dict[str, Metric]:
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
        pairs = list(zip(part.questions, answers, strict=True))
        hits = sum(normalized(said) == normalized(question.answer) for question, said in pairs)
        how = f"greedy generation of at most {longest + _SPARE} tokens"
        found = {
            "exact_match": self._metric(
                "exact_match",
                share(hits, len(pairs)),
                f"{how}, equal but for case and punctuation at the ends",
                seconds,
            )
        }
        yes_no = [(said, question) for question, said in pairs if is_yes_no(question.answer)]
        if yes_no:
            figures = pope_figures(
                [says_yes(said) for said, _ in yes_no],
                [normalized(question.answer) == "yes" for _, question in yes_no],
            )
            how = f"{how}, yes unless its first sentence has no or not"
            for name, figure in figures.items():
                found[name] = self._metric(name, figure, how, seconds)
        return found

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

    def _answer_loss(self, scores: Sequence[Scores], seconds: float) -> Metric:
        tokens = sum(of.tokens for of in scores)
        mean = sum(of.nll for of in scores) / tokens
        error = None
        if len(scores) > 1:
            # Standard error of a ratio of two sums over questions.
            squares = sum((of.nll - mean * of.tokens) ** 2 for of in scores)
            error = math.sqrt(squares * len(scores) / (len(scores) - 1)) / tokens
        how = "negative log-likelihood of the right answer's tokens"
        return self._metric("answer_loss", Figure(mean, error, tokens), how, seconds)

    def _metric(self, name: str, figure: Figure, how: str, seconds: float) -> Metric:
        loss = name == "answer_loss"
        return Metric(
            name=name,
            value=figure.value,
            stderr=figure.stderr,
            n=figure.n,
            unit="nats per token" if loss else "%",
            higher_is_better=not loss,
            split=self._split,
            dataset=self._part.dataset,
            fingerprint=self._part.fingerprint,
            convention=f"{how}; {self._prompts.described(self._part.questions)}",
            seconds=seconds,
        )
