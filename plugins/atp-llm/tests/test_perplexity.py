"""Calibration windows, perplexity and bits per byte, against plain computations."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import atp_llm
from atp_core.errors import DataError, ModelError, NumericalError, UnknownNameError
from atp_core.records import DataRequest, LoadedModel, LoadRequest, Source
from atp_llm._inputs import inputs_for
from atp_llm._readers import read
from atp_llm._windows import sample_windows


def _plain_perplexity(loaded: LoadedModel, windows: torch.Tensor) -> float:
    """By transformers' own loss, one window at a time."""
    with torch.no_grad():
        losses = [loaded.model(row[None], labels=row[None]).loss.double() for row in windows]
    return math.exp(torch.stack(losses).mean())


def _windows(loaded: LoadedModel, text: str, seqlen: int) -> torch.Tensor:
    ids = torch.tensor(loaded.processor(text, add_special_tokens=False)["input_ids"])
    return ids[: len(ids) // seqlen * seqlen].view(-1, seqlen)


# --- perplexity ---------------------------------------------------------------------------------


def test_report_equals_a_plain_computation(
    stories: LoadedModel, story_file: Path, tmp_path: Path
) -> None:
    data = DataRequest(calibration="builtin", report=str(story_file), seqlen=128)
    found = atp_llm.atp_evaluate(stories, data, "report", None)
    text = "\n\n".join(read(str(story_file))[1])
    expected = _plain_perplexity(stories, _windows(stories, text, 128))
    assert found.metrics[0].name == "perplexity"
    assert found.metrics[0].value == pytest.approx(expected, rel=1e-5)
    assert 2 < found.metrics[0].value < 12  # trained on such stories
    assert found.metrics[0].n == len(_windows(stories, text, 128)) * 127
    assert len(found.examples) == 60


def test_wikitext_by_transformers_alone(shared: Callable[[str], Path]) -> None:
    """Perplexity on WikiText-2 raw, written down as papers do it."""
    import transformers

    path, source = shared("data/wikitext-2-raw/wiki.test.raw"), shared("models/stories260k")
    data = DataRequest(calibration="builtin", report=str(path), seqlen=256, report_samples=8)
    loaded = atp_llm.atp_load(Source(str(source)), LoadRequest())
    found = atp_llm.atp_evaluate(loaded, data, "report", None)

    model = transformers.AutoModelForCausalLM.from_pretrained(source)
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    # A row of the data set is a line, an empty one where the line is blank.
    with path.open(encoding="utf-8") as lines:
        rows = [line if line.strip() else "" for line in lines]
    tokens = tokenizer("\n\n".join(rows), add_special_tokens=False, verbose=False)["input_ids"]
    windows = len(tokens) // 256
    loss, count = 0.0, 0
    with torch.no_grad():
        for place in (i * windows // 8 for i in range(8)):
            ids = torch.tensor([tokens[256 * place : 256 * (place + 1)]])
            logs = model(ids).logits[0, :-1].log_softmax(-1)
            loss -= float(logs.gather(1, ids[0, 1:, None]).sum())
            count += 255
    perplexity = found.metric("perplexity")
    assert perplexity.value == pytest.approx(math.exp(loss / count), rel=1e-3)
    assert perplexity.n == count
    assert f"8 of {windows} windows, evenly spaced" in perplexity.convention
    assert "no BOS, first token of a window not predicted" in perplexity.convention


@pytest.mark.slow
def test_smollm2_on_wikitext(shared: Callable[[str], Path]) -> None:
    path = shared("data/wikitext-2-raw/wiki.test.raw")
    try:
        loaded = atp_llm.atp_load(Source("embedded:smollm2-135m"), LoadRequest())
    except ModelError as missing:
        pytest.skip(str(missing))
    data = DataRequest(calibration="builtin", report=str(path), seqlen=256, report_samples=4)
    found = atp_llm.atp_evaluate(loaded, data, "report", ["perplexity"]).metrics[0]
    rows = path.read_text(encoding="utf-8").splitlines(keepends=True)
    text = "\n\n".join(row if row.strip() else "" for row in rows)
    windows = _windows(loaded, text, 256)
    chosen = windows[[i * len(windows) // 4 for i in range(4)]]
    assert found.value == pytest.approx(_plain_perplexity(loaded, chosen), rel=1e-4)
    assert 10 < found.value < 80
    assert f"4 of {len(windows)} windows, evenly spaced" in found.convention


def test_a_model_that_knows_nothing_has_the_size_of_its_vocabulary(
    tiny_llama: Callable[..., Any], in_memory: Callable[..., Any]
) -> None:
    model = tiny_llama()
    nn.init.zeros_(model.lm_head.weight)
    perplexity, bits = atp_llm.atp_evaluate(
        in_memory(model), DataRequest(seqlen=64, report_samples=5), "report", None
    ).metrics
    assert perplexity.value == pytest.approx(258, rel=1e-5)
    assert perplexity.stderr == pytest.approx(0, abs=1e-3)
    assert perplexity.n == 5 * 63
    assert bits.value == pytest.approx(math.log2(258), rel=0.01)  # one token is one byte
    assert not perplexity.higher_is_better


def test_stderr_is_that_of_the_window_means(stories: LoadedModel, story_file: Path) -> None:
    data = DataRequest(report=str(story_file), calibration="builtin", seqlen=64, report_samples=6)
    found = atp_llm.atp_evaluate(stories, data, "report", None).metrics[0]
    windows = _windows(stories, "\n\n".join(read(str(story_file))[1]), 64)
    chosen = windows[[i * len(windows) // 6 for i in range(6)]]
    logs = torch.tensor([math.log(_plain_perplexity(stories, row[None])) for row in chosen])
    assert found.stderr == pytest.approx(found.value * (logs.std() / 6**0.5).item(), rel=1e-3)


def test_batches_do_not_change_the_result(stories: LoadedModel, story_file: Path) -> None:
    values = []
    for size in (1, 3, 8):
        data = DataRequest(
            calibration="builtin", report=str(story_file), seqlen=64, report_samples=8,
            batch_size=size,
        )  # fmt: skip
        values.append(atp_llm.atp_evaluate(stories, data, "report", None).metrics[0].value)
    assert values == pytest.approx([values[0]] * 3, rel=1e-5)


def test_search_windows_are_the_same_at_every_call(
    tiny_llama: Callable[..., Any], in_memory: Callable[..., Any]
) -> None:
    loaded = in_memory(tiny_llama())
    data = DataRequest(samples=10, seqlen=32)
    one = atp_llm.atp_evaluate(loaded, data, "search", None)
    loaded.cache.clear()
    two = atp_llm.atp_evaluate(loaded, data, "search", None)
    assert [m.fingerprint for m in one.metrics] == [m.fingerprint for m in two.metrics]
    assert one.metrics[0].value == two.metrics[0].value
    assert one.metrics[0].n == 8 * 31  # max(8, 10 // 2) windows
    assert one.metrics[0].split == "search"


def test_splits_share_no_document(
    tiny_llama: Callable[..., Any], in_memory: Callable[..., Any]
) -> None:
    loaded, data = in_memory(tiny_llama()), DataRequest(samples=8, seqlen=32, report_samples=4)
    sets = [
        atp_llm.atp_calibrate(loaded, data).examples,
        atp_llm.atp_evaluate(loaded, data, "search", None).examples,
        atp_llm.atp_evaluate(loaded, data, "report", None).examples,
    ]
    assert all(sets)
    assert len(frozenset().union(*sets)) == sum(map(len, sets))


def test_the_same_document_in_two_files_is_told(
    tiny_llama: Callable[..., Any], in_memory: Callable[..., Any], tmp_path: Path, story_file: Path
) -> None:
    copy = tmp_path / "copy.jsonl"
    copy.write_text(story_file.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    data = DataRequest(calibration=str(story_file), report=str(copy), samples=4, seqlen=64)
    loaded = in_memory(tiny_llama())
    shared = (
        atp_llm.atp_calibrate(loaded, data).examples
        & atp_llm.atp_evaluate(loaded, data, "report", None).examples
    )
    assert shared


def test_metrics_can_be_chosen(
    tiny_llama: Callable[..., Any], in_memory: Callable[..., Any]
) -> None:
    loaded, data = in_memory(tiny_llama()), DataRequest(seqlen=16, report_samples=2)
    found = atp_llm.atp_evaluate(loaded, data, "report", ["bits_per_byte"])
    assert [metric.name for metric in found.metrics] == ["bits_per_byte"]
    with pytest.raises(UnknownNameError, match="Did you mean 'perplexity'"):
        atp_llm.atp_evaluate(loaded, data, "report", ["perplexty"])


def test_text_shorter_than_a_window(
    tiny_llama: Callable[..., Any], in_memory: Callable[..., Any], tmp_path: Path
) -> None:
    path = tmp_path / "short.jsonl"
    path.write_text('{"text": "forty tokens or less"}', encoding="utf-8")
    data = DataRequest(calibration="builtin", report=str(path), seqlen=64)
    with pytest.raises(DataError, match=r"20 tokens, fewer than one window of 64.*--report-data"):
        atp_llm.atp_evaluate(in_memory(tiny_llama()), data, "report", None)


def test_nan_names_the_window(
    tiny_llama: Callable[..., Any], in_memory: Callable[..., Any]
) -> None:
    model = tiny_llama()
    with torch.no_grad():
        model.lm_head.weight[3] = math.nan
    with pytest.raises(NumericalError, match="window 1 is not a number"):
        atp_llm.atp_evaluate(in_memory(model), DataRequest(seqlen=32), "report", None)


def test_overflow_is_infinity(
    tiny_llama: Callable[..., Any], in_memory: Callable[..., Any]
) -> None:
    model = tiny_llama()
    with torch.no_grad():
        model.model.norm.weight.mul_(1e6)
    found = atp_llm.atp_evaluate(
        in_memory(model), DataRequest(seqlen=32, report_samples=3), "report", None
    ).metrics[0]
    assert found.value == math.inf
    assert found.stderr is None


def test_many_tokens_are_reduced_in_chunks(
    tiny_llama: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from atp_llm import _perplexity

    ids = torch.randint(0, 258, (3, 40), generator=torch.Generator().manual_seed(0))
    model = tiny_llama()
    whole = _perplexity.window_losses(model, ids)
    monkeypatch.setattr(_perplexity, "_CHUNK", 258 * 7)
    assert torch.allclose(_perplexity.window_losses(model, ids), whole, rtol=1e-6)


def test_encoder_decoder_predicts_the_second_half(
    tiny_t5: Callable[..., Any], in_memory: Callable[..., Any], story_file: Path
) -> None:
    model = tiny_t5()
    loaded = in_memory(model)
    data = DataRequest(calibration="builtin", report=str(story_file), seqlen=32, report_samples=4)
    found = atp_llm.atp_evaluate(loaded, data, "report", None).metrics[0]
    windows = _windows(loaded, "\n\n".join(read(str(story_file))[1]), 32)
    chosen = windows[[i * len(windows) // 4 for i in range(4)]]
    with torch.no_grad():  # the model shifts its labels itself
        labels = chosen[:, 16:].contiguous()
        loss = model(input_ids=chosen[:, :16], labels=labels).loss
    assert found.value == pytest.approx(math.exp(loss), rel=1e-4)
    assert found.n == 4 * 16
    assert "second half predicted by the decoder" in found.convention


# --- calibration --------------------------------------------------------------------------------


def test_calibration_batches_drive_the_model(
    tiny_llama: Callable[..., Any], in_memory: Callable[..., Any]
) -> None:
    loaded = in_memory(tiny_llama())
    found = atp_llm.atp_calibrate(loaded, DataRequest(samples=7, seqlen=24, batch_size=3))
    assert [len(batch["input_ids"]) for batch in found.batches] == [3, 3, 1]
    assert list(found.batch_samples) == [3, 3, 1]
    assert found.samples == 7
    assert found.unit == "sequences of 24 tokens"
    assert found.batches[0]["input_ids"].dtype == torch.int64
    assert found.forward(found.batches[0]).logits.shape == (3, 24, 258)
    assert found.subset(3).samples == 3


def test_calibration_of_an_encoder_decoder(
    tiny_t5: Callable[..., Any], in_memory: Callable[..., Any]
) -> None:
    found = atp_llm.atp_calibrate(in_memory(tiny_t5()), DataRequest(samples=2, seqlen=24))
    assert found.batches[0]["input_ids"].shape == (1, 12)
    assert found.batches[0]["decoder_input_ids"].shape == (1, 12)
    assert found.forward(found.batches[0]).logits.shape == (1, 12, 258)


def test_calibration_follows_the_seed(
    tiny_llama: Callable[..., Any], in_memory: Callable[..., Any]
) -> None:
    loaded = in_memory(tiny_llama())
    prints = [
        atp_llm.atp_calibrate(loaded, DataRequest(samples=8, seqlen=32, seed=seed)).fingerprint
        for seed in (0, 0, 1)
    ]
    assert prints[0] == prints[1] != prints[2]


def _sample(
    tokenizer: Any, texts: list[str], count: int, seqlen: int, at_least: int | None = None
) -> Any:
    return sample_windows(
        tokenizer, texts, count=count, at_least=count if at_least is None else at_least,
        seqlen=seqlen, seed=0, what="this test", option="--samples",
    )  # fmt: skip


def test_long_documents_give_one_window_each(byte_tokenizer: Callable[[], Any]) -> None:
    texts = [chr(97 + i) * 50 for i in range(10)]
    windows = _sample(byte_tokenizer(), texts, 6, 20)
    assert windows.ids.shape == (6, 20)
    assert all(len(set(row.tolist())) == 1 for row in windows.ids)  # none crosses a document
    assert len({row[0].item() for row in windows.ids}) == 6
    assert len(windows.examples) == 6


def test_short_documents_are_joined_with_end_of_text(byte_tokenizer: Callable[[], Any]) -> None:
    texts = [chr(97 + i) * 9 for i in range(10)]
    windows = _sample(byte_tokenizer(), texts, 5, 20)
    assert windows.ids.shape == (5, 20)
    assert (windows.ids == byte_tokenizer().eos_token_id).sum() == 10
    assert len(windows.examples) == 10


def test_too_little_text_tells_the_numbers(byte_tokenizer: Callable[[], Any]) -> None:
    texts = ["x" * 9] * 1 + ["y" * 9]
    with pytest.raises(DataError, match="3 windows of 10 tokens need 30 tokens and there are 20"):
        _sample(byte_tokenizer(), texts, 3, 10)
    assert len(_sample(byte_tokenizer(), texts, 3, 10, at_least=1).ids) == 2


def test_an_explicit_number_of_samples_is_met_or_refused(
    tiny_llama: Callable[..., Any], in_memory: Callable[..., Any], story_file: Path
) -> None:
    loaded = in_memory(tiny_llama())
    notes: list[str] = []
    loaded.progress = SimpleNamespace(note=notes.append)  # type: ignore[assignment]
    text = str(story_file)
    with pytest.raises(DataError, match=r"too little text for calibration.*--samples"):
        atp_llm.atp_calibrate(loaded, DataRequest(calibration=text, samples=1500, seqlen=64))
    found = atp_llm.atp_calibrate(loaded, DataRequest(calibration=text, samples=150, seqlen=64))
    assert found.samples == 150
    assert not notes


def test_the_default_number_takes_what_there_is_and_says_so(
    tiny_llama: Callable[..., Any], in_memory: Callable[..., Any], tmp_path: Path
) -> None:
    path = tmp_path / "small.jsonl"
    lines = [json.dumps({"text": f"{i} some words"}) for i in range(60)]
    path.write_text("\n".join(lines), encoding="utf-8")
    loaded = in_memory(tiny_llama())
    notes: list[str] = []
    loaded.progress = SimpleNamespace(note=notes.append)  # type: ignore[assignment]
    found = atp_llm.atp_calibrate(loaded, DataRequest(calibration=str(path), seqlen=32))
    assert 8 <= found.samples < 32
    assert len(notes) == 1
    assert f"gives {found.samples} calibration samples" in notes[0]


@pytest.mark.parametrize("seqlen", [1, 65])
def test_windows_that_do_not_fit_the_model(
    tiny_llama: Callable[..., Any], in_memory: Callable[..., Any], seqlen: int
) -> None:
    with pytest.raises(DataError, match="takes 2 to 64 tokens"):
        atp_llm.atp_calibrate(in_memory(tiny_llama()), DataRequest(seqlen=seqlen))


def test_default_seqlen(
    tiny_llama: Callable[..., Any], in_memory: Callable[..., Any], story_file: Path
) -> None:
    from atp_llm._windows import seqlen_for

    long = in_memory(tiny_llama(max_position_embeddings=4096))
    assert seqlen_for(long, DataRequest()) == 512
    assert seqlen_for(long, DataRequest(calibration="a.txt", report="b.txt")) == 2048
    assert seqlen_for(in_memory(tiny_llama()), DataRequest()) == 64


def test_a_model_without_tokenizer_names_the_remedy(tiny_llama: Callable[..., Any]) -> None:
    loaded = atp_llm.atp_load(Source("m", model=tiny_llama()), LoadRequest())
    with pytest.raises(ModelError, match="processor=TOKENIZER"):
        atp_llm.atp_calibrate(loaded, DataRequest())


def test_decoder_inputs_are_targets_shifted_by_one(tiny_t5: Callable[..., Any]) -> None:
    ids = torch.arange(20).view(2, 10)
    inputs, targets = inputs_for(tiny_t5(), ids)
    assert torch.equal(inputs["decoder_input_ids"][:, 1:], targets[:, :-1])
    assert (inputs["decoder_input_ids"][:, 0] == 0).all()
