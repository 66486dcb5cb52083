"""What perplexity is made of, and how a pruned model compares with the dense one."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from observing import check_observations
from torch.nn import functional

import atp_llm
from atp_core.errors import UnknownNameError, UsageError
from atp_core.records import DataRequest, Evaluation, LoadedModel
from atp_llm import _agreement
from atp_llm._inputs import inputs_for
from atp_llm._measured_text import measured_text

DATA = DataRequest(seqlen=32, report_samples=6, samples=8, search_samples=5)


class Notes:
    """Remembers what a user would be told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)


@pytest.fixture
def llama(tiny_llama: Callable[..., Any], in_memory: Callable[..., Any]) -> LoadedModel:
    return in_memory(tiny_llama())  # type: ignore[no-any-return]


def damaged(model: Any) -> Any:
    """The same model with half the rows of its projections at 0."""
    found = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            if parameter.dim() == 2 and "embed" not in name and "shared" not in name:
                parameter[::2] = 0
    return found


def report(loaded: LoadedModel, metrics: list[str] | None = None, **data: Any) -> Evaluation:
    request = DataRequest(**{**vars(DATA), **data})
    return atp_llm.atp_evaluate(loaded, request, "report", metrics)


def pruned_after(loaded: LoadedModel, **data: Any) -> tuple[Any, Evaluation]:
    """The dense model, and what is measured once half of it is gone."""
    report(loaded, **data)
    dense, loaded.model = loaded.model, damaged(loaded.model)
    loaded.pruned = True
    return dense, report(loaded, **data)


def logits_of(model: Any, windows: torch.Tensor) -> torch.Tensor:
    """Logits of the predicted tokens, shape (windows, predicted, vocabulary)."""
    inputs, targets = inputs_for(model, windows)
    with torch.no_grad():
        return model(**inputs).logits[:, : targets.shape[1]].float()  # type: ignore[no-any-return]


def divergences(dense: torch.Tensor, pruned: torch.Tensor) -> torch.Tensor:
    """KL(dense ‖ pruned) of each token, by torch's own function."""
    logs = (pruned.log_softmax(-1), dense.log_softmax(-1))
    return functional.kl_div(*logs, log_target=True, reduction="none").sum(-1)


# --- observations -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tiny_llama", "tiny_t5", "tiny_mixtral"])
def test_every_metric_follows_from_its_observations(
    kind: str, request: pytest.FixtureRequest, in_memory: Callable[..., Any]
) -> None:
    loaded = in_memory(request.getfixturevalue(kind)())
    alone = {"perplexity", "bits_per_byte"}
    for split in ("search", "report"):
        found = atp_llm.atp_evaluate(loaded, DATA, split, None)
        check_observations(found, alone)
        windows = 5 if split == "search" else 6
        assert len(found.observations["perplexity"].ids) == windows
    dense = found
    loaded.model, loaded.pruned = damaged(loaded.model), True
    found = report(loaded)
    check_observations(found, {*alone, "kl", "agreement"})
    for name in found.observations:
        twin = "perplexity" if name not in alone else name
        assert list(found.observations[name].ids) == list(dense.observations[twin].ids)
    only = report(loaded, ["bits_per_byte"])
    check_observations(only, {"bits_per_byte"})


def test_a_window_is_weighed_by_its_predicted_tokens(llama: LoadedModel) -> None:
    found = report(llama).observations["perplexity"]
    windows = measured_text(llama, DATA, "report").ids
    logits = logits_of(llama.model, windows)
    losses = functional.cross_entropy(logits.transpose(1, 2), windows[:, 1:], reduction="none")
    assert list(found.values) == pytest.approx(losses.mean(1).tolist(), rel=1e-5)
    assert list(found.weights or ()) == [31.0] * 6
    assert found.summary == "exp"


def test_identities_depend_on_the_text_alone(
    llama: LoadedModel, tiny_mixtral: Callable[..., Any], in_memory: Callable[..., Any],
    story_file: Path,
) -> None:  # fmt: skip
    def ids(loaded: LoadedModel, **data: Any) -> list[str]:
        found = report(loaded, report=str(story_file), calibration="builtin", **data)
        return list(found.observations["perplexity"].ids)

    known = ids(llama)
    assert ids(llama, batch_size=4) == known
    assert ids(in_memory(tiny_mixtral().bfloat16())) == known
    everything = ids(llama, report_samples=None, batch_size=64)
    assert set(known) < set(everything), "a window keeps its identity in a choice of windows"
    assert not set(known) & set(ids(llama, seqlen=16))


# --- beside the dense model ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tiny_llama", "tiny_t5"])
def test_kl_and_agreement_equal_a_plain_computation(
    kind: str, request: pytest.FixtureRequest, in_memory: Callable[..., Any]
) -> None:
    loaded = in_memory(request.getfixturevalue(kind)())
    dense, found = pruned_after(loaded)
    names = [metric.name for metric in found.metrics]
    assert names == ["perplexity", "bits_per_byte", "kl", "agreement"]
    windows = measured_text(loaded, DATA, "report").ids
    old, new = logits_of(dense, windows), logits_of(loaded.model, windows)
    each = divergences(old, new)
    kl, agreement = found.metric("kl"), found.metric("agreement")
    assert kl.value == pytest.approx(each.mean().item(), rel=1e-3) and kl.value > 1e-4
    same = (old.argmax(-1) == new.argmax(-1)).double()
    assert agreement.value == pytest.approx(100 * same.mean().item())
    assert (kl.n, kl.unit, kl.higher_is_better) == (each.numel(), "nats per token", False)
    assert (agreement.unit, agreement.higher_is_better) == ("%", True)
    # Windows are as long as each other: the error is that of the mean of their means.
    for metric, values, factor in ((kl, each.double(), 1), (agreement, same, 100)):
        spread = factor * values.mean(1).std().item() / 6**0.5
        assert metric.stderr == pytest.approx(spread, rel=1e-3)
    assert kl.convention.startswith("KL(dense ‖ pruned); ")
    assert kl.fingerprint == found.metric("perplexity").fingerprint


def test_what_was_kept_of_another_model_can_be_handed_on(
    tiny_llama: Callable[..., Any], in_memory: Callable[..., Any]
) -> None:
    one, other = in_memory(tiny_llama()), in_memory(damaged(tiny_llama()))
    report(one, batch_size=3)
    other.dense, other.pruned = one.dense, True
    found = report(other)
    _, expected = pruned_after(one, batch_size=3)
    assert found.metric("kl").value == pytest.approx(expected.metric("kl").value, rel=1e-4)
    assert found.metric("agreement").value == expected.metric("agreement").value


def test_only_the_report_is_compared_and_only_where_that_is_wanted(llama: LoadedModel) -> None:
    assert llama.compares_on("report") and not llama.compares_on("search")
    atp_llm.atp_evaluate(llama, DATA, "search", None)
    report(llama, ["perplexity"])
    assert not llama.dense, "logits are kept for nothing"
    report(llama)
    assert llama.dense
    llama.pruned = True
    found = atp_llm.atp_evaluate(llama, DATA, "search", None)
    assert [metric.name for metric in found.metrics] == ["perplexity", "bits_per_byte"]


def test_by_name(llama: LoadedModel) -> None:
    itself = report(llama, ["agreement", "kl"])
    assert {metric.name: metric.value for metric in itself.metrics} == {"agreement": 100, "kl": 0}
    assert all("with itself" in metric.convention for metric in itself.metrics)
    llama.model, llama.pruned = damaged(llama.model), True
    found = report(llama, ["kl"])
    assert [metric.name for metric in found.metrics] == ["kl"]
    assert "with itself" not in found.metric("kl").convention and found.metric("kl").value > 0
    llama.dense.clear()
    assert [metric.name for metric in report(llama).metrics] == ["perplexity", "bits_per_byte"]
    with pytest.raises(UsageError, match="dense model, which was not measured on builtin text"):
        report(llama, ["kl"])
    with pytest.raises(UnknownNameError, match="Did you mean 'agreement'"):
        report(llama, ["agrement"])


def test_another_vocabulary_is_told(
    tiny_llama: Callable[..., Any], in_memory: Callable[..., Any]
) -> None:
    one, other = in_memory(tiny_llama()), in_memory(tiny_llama(vocab_size=300))
    report(one)
    other.dense, other.pruned = one.dense, True
    notes = Notes()
    told: Any = notes
    told.task = other.progress.task
    other.progress = told
    found = report(other)
    assert [metric.name for metric in found.metrics] == ["perplexity", "bits_per_byte"]
    assert len(notes.told) == 1 and "258 tokens and LlamaForCausalLM 300" in notes.told[0]
    with pytest.raises(UsageError, match="need one vocabulary"):
        report(other, ["kl"])


# --- as many tokens as memory holds -------------------------------------------------------------


def kept_bytes(loaded: LoadedModel) -> int:
    [kept] = loaded.dense.values()
    return sum(kept.of(window).nbytes for window in range(6))


def test_memory_is_bounded_and_the_number_of_tokens_told(
    llama: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = 8
    monkeypatch.setattr(_agreement, "_KEPT", room * 258 * 4 + 100)
    dense, found = pruned_after(llama)
    assert kept_bytes(llama) == room * 258 * 4
    kl, made_of = found.metric("kl"), found.observations["kl"]
    assert kl.n == room == sum(made_of.weights or ())
    assert "at 8 of 186 predicted tokens, drawn at random" in kl.convention
    check_observations(found, ["perplexity", "bits_per_byte", "kl", "agreement"])
    # Each window's figure is the mean over some of its own tokens.
    windows = measured_text(llama, DATA, "report").ids
    each = divergences(logits_of(dense, windows), logits_of(llama.model, windows))
    place = {name: i for i, name in enumerate(found.observations["perplexity"].ids)}
    single = 0
    for name, value, weight in zip(made_of.ids, made_of.values, made_of.weights or (), strict=True):
        tokens = each[place[name]]
        assert float(tokens.min()) * 0.999 <= value <= float(tokens.max()) * 1.001
        if weight == 1:
            single += 1
            assert float((tokens - value).abs().min()) < 1e-3 * value
    assert single
    assert set(made_of.ids) < set(place), "a window without a token has no figure"


def test_a_part_stands_for_the_whole(
    llama: LoadedModel, tiny_llama: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_agreement, "_KEPT", 600 * 258 * 4)
    _, part = pruned_after(llama, report_samples=60)
    monkeypatch.undo()
    llama.pruned = False
    llama.dense.clear()
    llama.model = tiny_llama()
    _, whole = pruned_after(llama, report_samples=60)
    assert part.metric("kl").n == 600 and whole.metric("kl").n == 60 * 31
    for name in ("kl", "agreement"):
        one, other = part.metric(name), whole.metric(name)
        assert abs(one.value - other.value) < 4 * (one.stderr or 0.0), name


def test_logits_are_kept_as_precise_as_the_model_gives_them(
    tiny_llama: Callable[..., Any], in_memory: Callable[..., Any]
) -> None:
    loaded = in_memory(tiny_llama().bfloat16())
    dense, found = pruned_after(loaded)
    assert kept_bytes(loaded) == 6 * 31 * 258 * 2
    windows = measured_text(loaded, DATA, "report").ids
    old, new = logits_of(dense, windows), logits_of(loaded.model, windows)
    expected = divergences(old.double(), new.double()).mean().item()
    assert found.metric("kl").value == pytest.approx(expected, rel=0.02)


def test_chunks_do_not_matter(llama: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    _, whole = pruned_after(llama)
    monkeypatch.setattr(_agreement, "_CHUNK", 258 * 7)
    assert report(llama).metric("kl").value == pytest.approx(whole.metric("kl").value, rel=1e-12)


def test_tokens_that_a_model_excludes_count_for_nothing() -> None:
    dense = torch.tensor([[0.0, -math.inf, 1.0]])
    pruned = torch.tensor([[0.5, -math.inf, 2.0]])
    agreement = _agreement.Agreement()
    agreement.add(0, dense, pruned)
    text: Any = type("Text", (), {"names": ["a"], "ids": torch.zeros(1, 2), "predicted": 1})
    expected = divergences(dense[:, [0, 2]].double(), pruned[:, [0, 2]].double()).item()
    assert agreement.figures(text, itself=False)["kl"].value == pytest.approx(expected, rel=1e-12)


# --- through the commands -----------------------------------------------------------------------


def test_a_run_reports_both(llama_directory: Path) -> None:
    import atp_core

    result = atp_core.prune(
        llama_directory, sparsity=0.5, samples=4, search_samples=4, report_samples=4, seqlen=32,
        beta=0.0, device="cpu",
    )  # fmt: skip
    assert set(result.metrics["dense"]) == {"perplexity", "bits_per_byte"}
    pruned = result.metrics["pruned"]
    assert list(pruned) == ["perplexity", "bits_per_byte", "kl", "agreement"]
    assert pruned["kl"].value > 0 and 0 <= pruned["agreement"].value <= 100
