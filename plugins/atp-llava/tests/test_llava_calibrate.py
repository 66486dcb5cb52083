"""Calibration: which questions, in which batches, and what the engine sees of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import atp_llava
from atp_core.engine.lockstep import Lockstep
from atp_core.engine.observation import BlockStatistics
from atp_core.engine.placement import Placement
from atp_core.engine.pruning import PruneOptions, prune_model
from atp_core.errors import DataError, ModelError
from atp_core.methods.wanda import Wanda
from atp_core.records import Block, Calibration, Chain, DataRequest, LoadedModel, Schedule

sys.path.append(str(Path(__file__).parent))  # the helpers beside this file

from _llava_tiny import KINDS, in_memory, tiny, write_questions

SIZES = [(28, 28), (60, 30), (30, 60)]


def _calibrated(kind: str, directory: Path, **request: Any) -> tuple[LoadedModel, Calibration]:
    file = write_questions(directory, 16, sizes=SIZES)
    loaded = in_memory(*tiny(kind))
    settings = {"samples": 12, "search_samples": 6, **request}
    return loaded, atp_llava.atp_calibrate(loaded, DataRequest(calibration=str(file), **settings))


def _schedule(chains: Sequence[Chain], rate: float) -> Schedule:
    rates = {chain.name: {block.name: rate for block in chain.blocks} for chain in chains}
    return Schedule(rates, rate, "uniform")


@pytest.mark.parametrize("kind", KINDS)
def test_no_batch_is_padded(kind: str, tmp_path: Path) -> None:
    loaded, calibration = _calibrated(kind, tmp_path)
    pad = loaded.processor.tokenizer.pad_token_id
    assert calibration.samples == sum(calibration.batch_samples) == 12
    for batch, size in zip(calibration.batches, calibration.batch_samples, strict=True):
        assert len(batch["input_ids"]) == size
        assert not (batch["input_ids"] == pad).any()
        assert batch["attention_mask"].all()
        assert batch["attention_mask"].shape == batch["input_ids"].shape
    if kind == "llava":
        assert max(calibration.batch_samples) > 1
    # Every text ends with its answer.
    last = {loaded.processor.tokenizer.decode(b["input_ids"][0, -1]) for b in calibration.batches}
    assert last <= {"cat", "dog", "ship", "yes", "no", "dark", "one"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("names", [["language"], ["vision", "language"]])
def test_lockstep_inputs_equal_the_plain_forward(
    kind: str, names: list[str], tmp_path: Path
) -> None:
    loaded, calibration = _calibrated(kind, tmp_path)
    chains = [chain for chain in atp_llava.atp_locate(loaded) if chain.name in names]
    plain: dict[str, list[torch.Tensor]] = {}
    handles = [
        block.module.register_forward_pre_hook(
            lambda module, args, name=block.name: plain.setdefault(name, []).append(args[0])
        )
        for chain in chains
        for block in chain.blocks
    ]
    with torch.inference_mode():
        for batch in calibration.batches:
            calibration.forward(batch)
        for handle in handles:
            handle.remove()
        seen: list[str] = []
        with Lockstep(calibration.forward, calibration.batches, chains) as lockstep:
            for stop in lockstep:
                seen.append(stop.block.name)
                for call, expected in zip(stop.calls, plain[stop.block.name], strict=True):
                    assert torch.equal(call.args[0], expected)
    assert seen == [block.name for chain in chains for block in chain.blocks]


@pytest.mark.parametrize("kind", KINDS)
def test_pruning_at_rate_0_changes_no_bit(kind: str, tmp_path: Path) -> None:
    loaded, calibration = _calibrated(kind, tmp_path)
    chains = atp_llava.atp_locate(loaded)
    with torch.inference_mode():
        before = [calibration.forward(batch).logits for batch in calibration.batches]
        prune_model(
            loaded, chains, _schedule(chains, 0.0), Wanda(), calibration, PruneOptions()
        )
        after = [calibration.forward(batch).logits for batch in calibration.batches]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_equal_an_explicit_computation(kind: str, tmp_path: Path) -> None:
    """Sums of squares of every weight's inputs, held against forward hooks on nn.Linear."""
    loaded, calibration = _calibrated(kind, tmp_path)
    chains = atp_llava.atp_locate(loaded)
    inputs: dict[str, list[torch.Tensor]] = {}
    weights = {w.name: w for c in chains for b in c.blocks for w in b.weights}
    handles = [
        weight.module.register_forward_pre_hook(
            lambda module, args, name=name: inputs.setdefault(name, []).append(args[0])
        )
        for name, weight in weights.items()
    ]
    with torch.inference_mode():
        for batch in calibration.batches:
            calibration.forward(batch)
        for handle in handles:
            handle.remove()
        checked = 0
        with Lockstep(calibration.forward, calibration.batches, chains) as lockstep:
            for stop in lockstep:
                statistics = BlockStatistics(stop.block, Wanda())
                statistics.run(stop.calls, calibration.batch_samples, Placement(None))
                checked += _compare(stop.block, statistics, inputs)
    assert checked == len(weights)


def _compare(block: Block, statistics: BlockStatistics, inputs: dict[str, Any]) -> int:
    for weight in block.weights:
        rows = torch.cat([x.reshape(-1, x.shape[-1]) for x in inputs[weight.name]])
        found: Any = statistics.of(weight)
        assert found.tokens == len(rows)
        assert torch.allclose(found.squares, rows.square().sum(0), rtol=1e-4), weight.name
    return len(block.weights)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("names", [["language"], ["vision", "language"]])
def test_pruned_weights_are_those_of_the_chains(
    kind: str, names: list[str], tmp_path: Path
) -> None:
    loaded, calibration = _calibrated(kind, tmp_path)
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    chains = [chain for chain in atp_llava.atp_locate(loaded) if chain.name in names]
    report = prune_model(
        loaded, chains, _schedule(chains, 0.5), Wanda(), calibration, PruneOptions()
    )
    assert report.achieved == pytest.approx(0.5, abs=1e-3)
    located = {w.name for chain in chains for block in chain.blocks for w in block.weights}
    for name, value in loaded.model.state_dict().items():
        kept = value != 0
        assert torch.equal(value[kept], before[name][kept])
        if name in located:
            assert float(kept.float().mean()) == pytest.approx(0.5, abs=0.02), name
        else:
            assert torch.equal(value, before[name]), name


def test_splits_share_no_image(tmp_path: Path) -> None:
    file = write_questions(tmp_path, 20)
    loaded = in_memory(*tiny())
    data = DataRequest(calibration=str(file), report=str(file), samples=6, search_samples=4)
    calibration = atp_llava.atp_calibrate(loaded, data).examples
    search = atp_llava.atp_evaluate(loaded, data, "search", ["answer_loss"]).examples
    report = atp_llava.atp_evaluate(loaded, data, "report", ["answer_loss"]).examples
    assert calibration and search and report
    assert not calibration & search and not calibration & report and not search & report
    assert atp_llava.atp_calibrate(in_memory(*tiny()), data).examples == calibration
    other = DataRequest(calibration=str(file), report=str(file), samples=6, seed=5)
    assert atp_llava.atp_calibrate(loaded, other).fingerprint != calibration


def test_numbers_of_samples(tmp_path: Path) -> None:
    file = write_questions(tmp_path, 10)
    loaded = in_memory(*tiny())
    assert loaded.defaults == {"samples": 64, "search_samples": 64}
    few = atp_llava.atp_calibrate(loaded, DataRequest(calibration=str(file)))
    assert 0 < few.samples < 30
    with pytest.raises(DataError, match=r"has \d+ questions, and 500 are asked for"):
        atp_llava.atp_calibrate(loaded, DataRequest(calibration=str(file), samples=500))
    part = few.subset(1)
    assert part.samples == few.batch_samples[0]


def test_a_directory_with_one_list(tmp_path: Path) -> None:
    write_questions(tmp_path, 10)
    loaded = in_memory(*tiny())
    found = atp_llava.atp_calibrate(loaded, DataRequest(calibration=str(tmp_path), samples=4))
    assert found.dataset == "questions.jsonl, calibration part"
    (tmp_path / "other.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=r"has 2 \.jsonl files"):
        atp_llava.atp_calibrate(loaded, DataRequest(calibration=str(tmp_path), samples=4))


def _texts(loaded: LoadedModel, records: list[dict[str, Any]], **request: Any) -> set[str]:
    """The calibration texts that records give, image tokens once."""
    directory = Path(request.pop("directory"))
    file = directory / "records.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    data = DataRequest(calibration=str(file), search_samples=1, **request)
    loaded.cache.clear()  # the same file had other records before
    found = atp_llava.atp_calibrate(loaded, data)
    texts = set()
    for batch in found.batches:
        for row in batch["input_ids"]:
            words = loaded.processor.tokenizer.decode(row).split()
            texts.add(" ".join(w for i, w in enumerate(words) if words[i - 1 : i] != [w]))
    return texts


def test_forms_of_records_and_prompts(tmp_path: Path) -> None:
    write_questions(tmp_path, 12)
    names = [f"images/{i:03d}.png" for i in range(12)]
    asked = {"question": "what is this ?", "answer": "a dog"}
    pope = {"text": "is there a cat in the image ?", "label": "yes"}
    directory = {"directory": tmp_path, "samples": 2}
    chat = in_memory(*tiny())
    plain = in_memory(*tiny(chat=None))

    def records(fields: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"image": name, **fields} for name in names]

    assert _texts(chat, records(asked), **directory) == {
        "<s> user : <image> what is this ? assistant : a dog"
    }
    assert _texts(chat, records(pope), **directory) == {
        "<s> user : <image> is there a cat in the image ? assistant : yes"
    }
    assert _texts(chat, records({"text": "a red bird"}), **directory) == {
        "<s> user : <image> assistant : a red bird"
    }
    assert _texts(plain, records(asked), **directory) == {
        "<s> USER: <image> what is this ? ASSISTANT: a dog"
    }
    own = {**asked, "prompt": "<s> <image> this is"}  # with its <s>, which is not doubled
    assert _texts(plain, records(own), **directory) == {"<s> <image> this is a dog"}
    template = tmp_path / "template.txt"
    template.write_text("user : {} <image> not\n")
    found = _texts(chat, records(asked), templates=str(template), **directory)
    assert found == {"<s> user : what is this ? <image> not a dog"}


def test_plain_text_reaches_the_language_model_alone(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    paragraphs = [f"the cat is a red dog . {'the ship is one ' * i}" for i in range(99)]
    file.write_text("\n\n".join(paragraphs))
    loaded = in_memory(*tiny())
    data = DataRequest(calibration=str(file), samples=8, search_samples=4, seqlen=32)
    found = atp_llava.atp_calibrate(loaded, data)
    assert found.unit == "sequences of 32 tokens"
    assert all(set(batch) == {"input_ids"} for batch in found.batches)
    vision, language = atp_llava.atp_locate(loaded)
    report = prune_model(
        loaded, [language], _schedule([language], 0.5), Wanda(), found, PruneOptions()
    )
    assert report.achieved == pytest.approx(0.5, abs=1e-3)
    with pytest.raises(ModelError, match=r"ended without calling model\.vision_tower"):
        prune_model(loaded, [vision], _schedule([vision], 0.5), Wanda(), found, PruneOptions())


def test_an_encoder_decoder_is_refused(tmp_path: Path) -> None:
    loaded = in_memory(*tiny())
    loaded.model.config.is_encoder_decoder = True
    with pytest.raises(ModelError, match="encoder-decoder"):
        atp_llava.atp_calibrate(loaded, DataRequest(calibration=str(tmp_path)))
