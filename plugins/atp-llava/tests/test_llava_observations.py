"""What the figures of questions are made of, and accuracy by category."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from observing import check_observations

import atp_llava
from atp_core.errors import DataError, UnknownNameError
from atp_core.records import DataRequest, Evaluation, LoadedModel
from atp_llava._pope import pope_figures
from atp_llava._questions import read_questions

sys.path.append(str(Path(__file__).parent))  # the helpers beside this file

from _llava_tiny import in_memory, tiny, write_questions

LIKELIHOOD = {"answer_loss", "accuracy"}
POPE_MEANS = {"pope_accuracy", "pope_recall", "pope_yes_ratio"}


def report(
    loaded: LoadedModel, file: Path, metrics: list[str] | None = None, **request: Any
) -> Evaluation:
    data = DataRequest(report=str(file), **request)
    return atp_llava.atp_evaluate(loaded, data, "report", metrics)


def damage(loaded: LoadedModel) -> None:
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if "mlp" in name and parameter.dim() == 2:
                parameter[::2] = 0
    loaded.pruned = True


def rewritten(file: Path, change: Any) -> None:
    """The file with `change` applied to the list of its records."""
    records = change([json.loads(line) for line in file.read_text().splitlines()])
    file.write_text("".join(json.dumps(record) + "\n" for record in records))


# --- observations -------------------------------------------------------------------------------


def test_every_mean_follows_from_its_observations(tmp_path: Path) -> None:
    file = write_questions(tmp_path, 6)
    loaded = in_memory(*tiny())
    found = report(loaded, file)
    check_observations(found, {*LIKELIHOOD, "exact_match", *POPE_MEANS})
    search = atp_llava.atp_evaluate(
        loaded, DataRequest(calibration=str(file), search_samples=4), "search", None
    )
    check_observations(search, LIKELIHOOD)
    ids = {name: list(made_of.ids) for name, made_of in found.observations.items()}
    assert len(ids["answer_loss"]) == 18 and len(ids["pope_accuracy"]) == 6
    assert ids["answer_loss"] == ids["accuracy"] == ids["exact_match"]
    assert set(ids["pope_recall"]) <= set(ids["pope_accuracy"]) < set(ids["answer_loss"])
    damage(loaded)
    pruned = report(loaded, file, batch_size=50)
    check_observations(pruned, {*LIKELIHOOD, "exact_match", *POPE_MEANS})
    assert {name: list(made_of.ids) for name, made_of in pruned.observations.items()} == ids


def test_a_question_is_weighed_by_the_tokens_of_its_answer(tmp_path: Path) -> None:
    file = write_questions(tmp_path, 5)
    loaded = in_memory(*tiny())
    made_of = report(loaded, file, ["answer_loss"]).observations["answer_loss"]
    tokenizer = loaded.processor.tokenizer
    expected = [
        len(tokenizer(one.answer, add_special_tokens=False).input_ids)
        for one in read_questions(file)
    ]
    assert list(made_of.weights or ()) == expected and len(set(expected)) > 1


def test_identities_are_those_of_the_questions(tmp_path: Path) -> None:
    file = write_questions(tmp_path, 4)
    one, other = in_memory(*tiny()), in_memory(*tiny("llava_next", chat=None))

    def ids(loaded: LoadedModel, **request: Any) -> list[str]:
        found = report(loaded, file, ["answer_loss"], **request)
        loaded.cache.clear()
        return list(found.observations["answer_loss"].ids)

    known = ids(one)
    assert len(set(known)) == 12, "three questions on one image are three"
    assert ids(other) == known
    assert set(ids(one, report_samples=5)) < set(known)
    rewritten(file, lambda records: [*records, records[3]])
    assert ids(one) == [*known, f"{known[3]}#2"], "the same question twice counts twice"
    rewritten(file, lambda records: [{**record, "answer": "ship"} for record in records[:2]])
    assert not set(ids(one)) & set(known), "another right answer is another question"


def test_plain_text(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    words = ["cat", "dog", "ship", "red", "blue", "is", "the", "a"]
    file.write_text(" ".join(words[(i * i + i // 7) % 8] for i in range(700)))
    loaded = in_memory(*tiny())
    found = report(loaded, file, seqlen=64)
    check_observations(found, {"perplexity"})
    made_of = found.observations["perplexity"]
    assert list(made_of.weights or ()) == [63.0] * 10 and made_of.summary == "exp"
    damage(loaded)
    assert list(report(loaded, file, seqlen=64).observations["perplexity"].ids) == list(made_of.ids)


def test_shares_of_what_a_model_says_have_no_observations() -> None:
    """Precision is over the answers that are yes, and those are others for another model."""
    found = pope_figures([True, False, True], [True, True, False], ["a", "b", "c"])
    assert found["pope_precision"].observations is None
    assert found["pope_f1"].observations is None
    recall = found["pope_recall"].observations
    assert recall is not None
    assert (list(recall.ids), list(recall.values)) == (["a", "b"], [1.0, 0.0])
    nothing = pope_figures([True], [False], ["a"])["pope_recall"]
    assert (nothing.value, nothing.n, nothing.observations) == (0.0, 0, None)


# --- by category --------------------------------------------------------------------------------


def test_accuracy_by_category(tmp_path: Path) -> None:
    file = write_questions(tmp_path, 8)
    loaded = in_memory(*tiny())
    found = report(loaded, file, ["per_category", "accuracy"])
    names = ["accuracy/class", "accuracy/existence", "accuracy/look"]
    assert [metric.name for metric in found.metrics] == [*names, "accuracy"]
    check_observations(found, [*names, "accuracy"])
    for name in names:
        part = tmp_path / f"{name.partition('/')[2]}.jsonl"
        part.write_text(file.read_text())
        rewritten(
            part, lambda records, part=part: [r for r in records if r["category"] == part.stem]
        )
        alone = report(loaded, part, ["accuracy"]).metrics[0]
        metric = found.metric(name)
        assert (metric.value, metric.n, metric.stderr) == (alone.value, 8, alone.stderr)
        share = metric.value / 100
        assert metric.stderr == pytest.approx(100 * math.sqrt(share * (1 - share) / 8))
        assert "of this category" in metric.convention
    total = sum(found.metric(name).value for name in names) / 3
    assert found.metric("accuracy").value == pytest.approx(total)
    one = report(loaded, file, ["answer_loss", "accuracy/look"])
    assert [metric.name for metric in one.metrics] == ["answer_loss", "accuracy/look"]


def test_categories_that_there_are_not(tmp_path: Path) -> None:
    file = write_questions(tmp_path, 3)
    loaded = in_memory(*tiny())
    assert not [m for m in report(loaded, file).metrics if "/" in m.name]
    with pytest.raises(DataError, match=r"no answers to choose among in category 'colour'"):
        report(loaded, file, ["accuracy/colour"])
    with pytest.raises(UnknownNameError, match="Did you mean 'per_category'"):
        report(loaded, file, ["per_categorie"])
    rewritten(file, lambda records: [{**record, "category": ""} for record in records])
    loaded.cache.clear()
    with pytest.raises(DataError, match="has no categories with answers to choose among, so"):
        report(loaded, file, ["per_category"])
