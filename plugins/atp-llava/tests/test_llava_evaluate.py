"""Answer loss, accuracy, exact match, POPE's figures and perplexity, each computed twice."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

import atp_llava
from atp_core.data import open_image
from atp_core.errors import DataError, NumericalError, UnknownNameError
from atp_core.records import DataRequest, LoadedModel, Metric
from atp_llava._pope import POPE, pope_figures, says_yes
from atp_llava._questions import Question, choices_of, normalized, read_questions

sys.path.append(str(Path(__file__).parent))  # the helpers beside this file

from _llava_tiny import KINDS, in_memory, tiny, write_questions

SIZES = [(28, 28), (60, 30), (30, 60)]


def _measured(
    loaded: LoadedModel, file: Path, metrics: list[str] | None = None, **request: Any
) -> dict[str, Metric]:
    """Figures of all questions of `file`, on the report split."""
    data = DataRequest(report=str(file), **request)
    found = atp_llava.atp_evaluate(loaded, data, "report", metrics)
    return {metric.name: metric for metric in found.metrics}


def _log_likelihood(loaded: LoadedModel, question: Question, answer: str) -> tuple[float, int]:
    """Of one answer, from one forward over the whole text at once."""
    processor = loaded.processor
    text = f"user : <image> {question.question} assistant : {answer}"
    inputs = processor(text=[text], images=[open_image(question.image.path)], return_tensors="pt")
    with torch.inference_mode():
        logits = loaded.model(**inputs).logits[0]
    count = len(processor.tokenizer(answer, add_special_tokens=False).input_ids)
    losses = functional.cross_entropy(
        logits[-count - 1 : -1], inputs["input_ids"][0, -count:], reduction="sum"
    )
    return -float(losses), count


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_accuracy_equal_an_explicit_computation(kind: str, tmp_path: Path) -> None:
    file = write_questions(tmp_path, 5, sizes=SIZES)
    loaded = in_memory(*tiny(kind))
    found = _measured(loaded, file, ["answer_loss", "accuracy"])
    questions = read_questions(file)
    right = [_log_likelihood(loaded, one, one.answer) for one in questions]
    loss = found["answer_loss"]
    tokens = sum(count for _, count in right)
    mean = -sum(value for value, _ in right) / tokens
    assert loss.value == pytest.approx(mean, rel=1e-4)
    n = len(questions)
    spread = sum((-value - mean * count) ** 2 for value, count in right) / (n - 1)
    assert loss.stderr == pytest.approx(math.sqrt(n * spread) / tokens, rel=1e-3)
    assert (loss.n, loss.unit, loss.higher_is_better) == (tokens, "nats per token", False)
    hits = 0
    for one, choices in zip(questions, choices_of(questions), strict=True):
        scores = {choice: _log_likelihood(loaded, one, choice)[0] for choice in choices}
        hits += max(scores, key=lambda choice: scores[choice]) == one.answer
    accuracy = found["accuracy"]
    assert accuracy.value == pytest.approx(100 * hits / n)
    share = hits / n
    assert accuracy.stderr == pytest.approx(100 * math.sqrt(share * (1 - share) / n))
    assert 0 < hits < n
    assert list(found) == ["answer_loss", "accuracy"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_batch_size_does_not_matter(kind: str, tmp_path: Path) -> None:
    file = write_questions(tmp_path, 14, sizes=SIZES)
    loaded = in_memory(*tiny(kind))
    few, many = (_measured(loaded, file, batch_size=size) for size in (1, 64))
    assert list(few) == list(many)
    for name, metric in few.items():
        assert metric.value == pytest.approx(many[name].value, rel=1e-4)
        assert metric.fingerprint == many[name].fingerprint


def test_answers_are_those_of_generate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """exact_match, against `generate` called for one question at a time."""
    file = write_questions(tmp_path, 6, sizes=SIZES)
    loaded = in_memory(*tiny("llava_next"))
    said = []
    for one in read_questions(file):
        prompt = f"user : <image> {one.question} assistant :"
        inputs = loaded.processor(
            text=[prompt], images=[open_image(one.image.path)], return_tensors="pt"
        )
        with torch.inference_mode():
            output = loaded.model.generate(
                **inputs, do_sample=False, max_new_tokens=11, pad_token_id=0
            )
        new = output[0, inputs["input_ids"].shape[1] :]
        said.append(loaded.processor.tokenizer.decode(new, skip_special_tokens=True).strip())
    # With what the model really says as the right answer, every question is answered right.
    records = [json.loads(line) for line in file.read_text().splitlines()]
    for record, answer in zip(records, said, strict=True):
        record["answer"] = answer.upper() + " ."
        del record["category"]
    words = loaded.processor.tokenizer
    longest = max(len(words(answer, add_special_tokens=False).input_ids) for answer in said)
    assert longest >= 3
    file.write_text("".join(json.dumps(record) + "\n" for record in records[:-1]))
    monkeypatch.setattr("atp_llava._measurement._SPARE", 11 - longest - 1)
    found = _measured(loaded, file, ["exact_match"])
    assert found["exact_match"].value == 100.0
    records[0]["answer"] = "nothing"
    file.write_text("".join(json.dumps(record) + "\n" for record in records[:-1]))
    loaded.cache.clear()
    n = len(records) - 1
    assert _measured(loaded, file, ["exact_match"])["exact_match"].value == pytest.approx(
        100 * (n - 1) / n
    )


@pytest.mark.parametrize(
    ("answer", "yes"),
    [
        ("yes", True), ("No", False), ("Yes, there is.", True), ("There is not a cat.", False),
        ("It is a cat. No doubt.", True), ("no, there is no cat", False), ("", True),
        ("nothing", True),
    ],
)  # fmt: skip
def test_what_counts_as_yes(answer: str, yes: bool) -> None:
    assert says_yes(answer) is yes


def test_pope_figures_by_hand() -> None:
    """3 true positives, 1 false positive, 2 false negatives, 4 true negatives."""
    said = [True] * 3 + [True] + [False] * 2 + [False] * 4
    right = [True] * 3 + [False] + [True] * 2 + [False] * 4
    found = pope_figures(said, right, [str(i) for i in range(10)])
    assert found["pope_accuracy"].value == pytest.approx(70)
    assert found["pope_accuracy"].stderr == pytest.approx(100 * math.sqrt(0.7 * 0.3 / 10))
    assert found["pope_precision"].value == pytest.approx(75)
    assert found["pope_precision"].n == 4
    assert found["pope_recall"].value == pytest.approx(60)
    assert found["pope_f1"].value == pytest.approx(100 * 2 * 3 / (2 * 3 + 1 + 2))
    assert found["pope_f1"].stderr is None
    assert found["pope_yes_ratio"].value == pytest.approx(40)
    assert set(found) == set(POPE)


def test_pope_without_a_yes() -> None:
    found = pope_figures([False, False], [True, False], ["a", "b"])
    assert (found["pope_precision"].value, found["pope_precision"].stderr) == (0.0, None)
    assert (found["pope_recall"].value, found["pope_f1"].value) == (0.0, 0.0)
    assert found["pope_accuracy"].value == 50.0


def test_pope_over_the_yes_no_questions_of_a_file(tmp_path: Path) -> None:
    file = write_questions(tmp_path, 6)
    loaded = in_memory(*tiny())
    found = _measured(loaded, file)
    assert list(found)[:3] == ["answer_loss", "accuracy", "exact_match"]
    assert set(POPE) <= set(found)
    assert found["pope_accuracy"].n == 6
    assert found["exact_match"].n == 18
    said_yes = found["pope_yes_ratio"].value
    assert 0 <= said_yes <= 100


def test_pope_questions_over_coco(shared: Callable[[str], Path]) -> None:
    """A file in POPE's own form is read as it stands."""
    found = read_questions(shared("data/pope-coco256/questions.jsonl"))
    assert len(found) == 1166
    assert sum(one.answer == "yes" for one in found) == 583
    assert set(choices_of(found)) == {("yes", "no")}
    assert found[0].question.endswith("in the image?")
    assert len({one.image.path for one in found}) == 254


def test_choices() -> None:
    def ask(answer: str, category: str = "", choices: tuple[str, ...] = ()) -> Question:
        image: Any = None
        return Question(image, "?", answer, choices, category)

    questions = [
        ask("yes"), ask("No"), ask("Cat", "class"), ask("dog", "class"), ask("CAT", "class"),
        ask("red", "", ("blue", "red")), ask("alone", "single"),
    ]  # fmt: skip
    assert choices_of(questions) == [
        ("yes", "no"), ("Yes", "No"), ("Cat", "dog"), ("Cat", "dog"), ("Cat", "dog"),
        ("blue", "red"), (),
    ]  # fmt: skip
    assert choices_of([ask(str(i)) for i in range(33)]) == [()] * 33
    assert normalized(' "A  Red\tcat." ') == "a red cat"


def test_figures_that_the_questions_have_no_use_for(tmp_path: Path) -> None:
    file = write_questions(tmp_path, 3)
    records = [json.loads(line) for line in file.read_text().splitlines()]
    captions = [{"image": r["image"], "text": "a red cat"} for r in records[::3]]
    file.write_text("".join(json.dumps(record) + "\n" for record in captions))
    loaded = in_memory(*tiny())
    assert list(_measured(loaded, file)) == ["answer_loss", "exact_match"]
    with pytest.raises(DataError, match="no answers to choose among, so accuracy"):
        _measured(loaded, file, ["accuracy"])
    with pytest.raises(DataError, match="no yes/no answers, so pope_f1"):
        _measured(loaded, file, ["pope_f1"])
    with pytest.raises(UnknownNameError, match="Did you mean 'answer_loss'"):
        _measured(loaded, file, ["answr_loss"])


def test_search_is_cheap_and_report_needs_data(questions: Path) -> None:
    loaded = in_memory(*tiny())
    data = DataRequest(calibration=str(questions), samples=8, search_samples=8)
    search = atp_llava.atp_evaluate(loaded, data, "search", None)
    assert [metric.name for metric in search.metrics] == ["answer_loss", "accuracy"]
    assert search.metrics[0].dataset == "questions.jsonl, search part"
    report = atp_llava.atp_evaluate(loaded, data, "report", None)
    assert (list(report.metrics), report.examples) == ([], frozenset())
    with pytest.raises(DataError, match=r"--calibration FILE\.jsonl"):
        atp_llava.atp_evaluate(loaded, DataRequest(), "search", None)
    with pytest.raises(DataError, match=r"--calibration FILE\.jsonl"):
        atp_llava.atp_calibrate(loaded, DataRequest())


def test_every_figure_names_its_prompt(tmp_path: Path) -> None:
    file = write_questions(tmp_path, 2)
    records = [json.loads(line) for line in file.read_text().splitlines()]
    chat, plain = in_memory(*tiny()), in_memory(*tiny(chat=None))

    def told(loaded: LoadedModel, own: int) -> str:
        prompts = [{"prompt": "<image> this is"}] * own + [{}] * (len(records) - own)
        lines = [{**record, **prompt} for record, prompt in zip(records, prompts, strict=True)]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        loaded.cache.clear()
        return _measured(loaded, file, ["answer_loss"])["answer_loss"].convention

    assert told(chat, 0).endswith("; chat template of the processor")
    assert told(plain, 0).endswith("; prompt 'USER: <image>\\n{} ASSISTANT:'")
    assert told(plain, 1).endswith("ASSISTANT:', or the record's own")
    assert told(plain, len(records)).endswith("; prompts of the records")


def test_report_samples(questions: Path) -> None:
    loaded = in_memory(*tiny())
    found = _measured(loaded, questions, ["answer_loss", "exact_match"], report_samples=9)
    assert found["exact_match"].n == 9
    assert found["exact_match"].dataset == "questions.jsonl, 9 of 72 questions"


def test_not_a_number(questions: Path) -> None:
    model, processor = tiny()
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(NumericalError, match="not a number"):
        _measured(in_memory(model, processor), questions, ["answer_loss"])


def test_perplexity_of_plain_text(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    words = ["cat", "dog", "ship", "red", "blue", "is", "the", "a"]
    file.write_text(" ".join(words[(i * i + i // 7) % 8] for i in range(700)))
    loaded = in_memory(*tiny())
    found = _measured(loaded, file, seqlen=64)["perplexity"]
    ids = loaded.processor.tokenizer(file.read_text(), add_special_tokens=False).input_ids
    rows = torch.tensor(ids[:640]).view(10, 64)
    with torch.inference_mode():
        logits = loaded.model(input_ids=rows).logits
    loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), rows[:, 1:].flatten())
    assert found.value == pytest.approx(math.exp(float(loss)), rel=1e-4)
    assert found.n == 10 * 63
    with pytest.raises(UnknownNameError, match="perplexity"):
        _measured(loaded, file, ["answer_loss"], seqlen=64)
    for seqlen in (1, 1000):
        with pytest.raises(DataError, match="do not fit"):
            _measured(loaded, file, seqlen=seqlen)
    file.write_text("cat dog")
    loaded.cache.clear()
    with pytest.raises(DataError, match="which make 0 windows"):
        _measured(loaded, file, seqlen=64)
