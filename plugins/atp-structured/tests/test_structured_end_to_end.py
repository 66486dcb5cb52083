"""From a source to a smaller model on disk, and back through every command that reads models."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import atp_core
import atp_structured
from atp_core.cli import main
from atp_core.errors import ModelError, UsageError

DATA = ("calibration", "report", "samples", "search_samples", "report_samples", "seqlen")


def settings_of(example: Any) -> dict[str, Any]:
    """The data of an example as settings."""
    told = asdict(example.data)
    given = {name: told[name] for name in DATA if told[name] is not None}
    if "report" in given:
        given["report_data"] = given.pop("report")
    return given


EXAMPLES = [
    ("llm", "llama"),
    ("timm", "vit"),
    ("timm", "convnext"),
    ("open-clip", "clip"),
    ("open-clip", "siglip"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("plugin", "name"), EXAMPLES)
def test_there_and_back(
    plugin: str, name: str, example: Callable[[str, str], Any], tmp_path: Path
) -> None:
    made = example(plugin, name)
    settings = settings_of(made)
    out = tmp_path / "out"
    result = atp_structured.slim(
        made.source.text, sparsity=0.3, beta=0.05, output=out, **settings
    )
    # The file, the report and the model agree, and so do rates where nothing had to stay.
    assert result.parameters == sum(p.numel() for p in result.model.parameters())
    lost = sum(block.parameters_dense - block.parameters for block in result.blocks)
    assert result.parameters_dense - result.parameters == lost > 0
    record = json.loads((out / "slim.json").read_text())
    assert record["parameters"] == result.parameters
    assert result.achieved == pytest.approx(0.3, abs=0.05)
    assert not list((out / "model").glob("*.safetensors"))

    again = atp_structured.load(out)
    mine, theirs = again.state_dict(), result.model.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[key]) for key, value in mine.items())
    # Measured on masked weights; the smaller model gives the same.
    settings.pop("calibration", None)
    measured = atp_core.evaluate(
        str(out), **{k: v for k, v in settings.items() if k.startswith(("report", "seqlen"))}
    )
    wanted = result.metrics["pruned"]
    shared = wanted.keys() & measured.metrics.keys()
    assert shared
    for key in shared:
        assert measured.metrics[key].value == pytest.approx(wanted[key].value, rel=2e-2), key
    told = atp_core.inspect(str(out))
    assert told.plugin == "structured"
    assert told.total_parameters == result.parameters
    assert atp_core.inspect(str(out), weights=False).total_parameters == result.parameters


@pytest.fixture
def slimmed(example: Callable[[str, str], Any], tmp_path: Path) -> tuple[Path, Any]:
    """A tiny Llama made smaller, and its example."""
    made = example("llm", "llama")
    out = tmp_path / "out"
    atp_structured.slim(
        made.source.text, sparsity=0.3, allocation="uniform", importance="magnitude", output=out,
        **settings_of(made),
    )
    return out, made


def test_tied_weights_stay_tied(slimmed: tuple[Path, Any]) -> None:
    model = atp_structured.load(slimmed[0])
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.dtype == torch.bfloat16
    assert atp_structured.load(slimmed[0], dtype="float32").dtype == torch.float32


def test_a_smaller_model_can_be_pruned_and_saved_again(
    slimmed: tuple[Path, Any], tmp_path: Path
) -> None:
    out, made = slimmed
    settings = settings_of(made)
    atp_core.prune(
        str(out), sparsity=0.5, method="magnitude", allocation="uniform",
        output=tmp_path / "both", **settings,
    )
    first, second = atp_structured.load(out), atp_structured.load(tmp_path / "both")
    weight = second.model.layers[0].mlp.down_proj.weight
    assert weight.shape == first.model.layers[0].mlp.down_proj.weight.shape
    assert float((weight == 0).float().mean()) == pytest.approx(0.5, abs=0.01)


def test_core_may_hand_on_a_bare_copy(slimmed: tuple[Path, Any]) -> None:
    """As ``atp bench`` does: the plugin of the whole model is found again."""
    from atp_core.records import LoadedModel, WorkRequest

    loaded = atp_core.load(str(slimmed[0]))
    bare = LoadedModel(loaded.model, loaded.source, processor=loaded.processor)
    asked = WorkRequest(tokens=8, steps=2)
    work = atp_structured.atp_workloads(loaded=bare, request=asked)
    assert {"prefill", "decode"} <= {one.name for one in work}
    for one in work:
        one.start()()


def _change(out: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    file = out / "slim.safetensors"
    with safe_open(file, framework="pt") as opened:
        told = opened.metadata()
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata=told)


def test_damaged_outputs_name_the_culprit(slimmed: tuple[Path, Any]) -> None:
    out = slimmed[0]
    key = "model.layers.1.mlp.up_proj.weight"
    good = (out / "slim.safetensors").read_bytes()

    _change(out, lambda tensors: tensors.__delitem__(key))
    with pytest.raises(ModelError, match=f"lacks {key}"):
        atp_structured.load(out)

    (out / "slim.safetensors").write_bytes(good)
    _change(out, lambda tensors: tensors.update(more=torch.zeros(2)))
    with pytest.raises(ModelError, match="has more besides"):
        atp_structured.load(out)

    (out / "slim.safetensors").write_bytes(good)
    _change(out, lambda tensors: tensors.update({key: tensors[key][:-1].contiguous()}))
    with pytest.raises(ModelError, match=r"model\.layers\.1\.mlp\.up_proj in .* says"):
        atp_structured.load(out)

    (out / "slim.safetensors").write_bytes(good[:100])
    with pytest.raises(ModelError, match=r"slim\.safetensors cannot be read"):
        atp_structured.load(out)

    (out / "slim.safetensors").write_bytes(good)
    record = json.loads((out / "slim.json").read_text())
    record["attributes"]["model.layers.9.mlp"] = {"width": 3}
    (out / "slim.json").write_text(json.dumps(record))
    with pytest.raises(ModelError, match=r"does not fit the model: model\.layers\.9\.mlp"):
        atp_structured.load(out)

    (out / "slim.json").write_text('{"version": 99}')
    with pytest.raises(ModelError, match="not of the form that this version reads"):
        atp_structured.load(out)


def test_no_directory_of_ours(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no slim\.json"):
        atp_structured.load(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"importance": "sparsegpt"}, "ranked by wanda or magnitude, not by 'sparsegpt'"),
        ({"beta": "auto"}, "beta 'auto' is measured for single weights"),
        ({"method": "wanda"}, "method has no effect where heads and channels go"),
        ({"sparsity": 1.5}, "range"),
    ],
)
def test_wrong_requests(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        atp_structured.slim("nothing", **{"sparsity": 0.3, **settings})


def test_an_output_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="atp did not write it"):
        atp_structured.slim("nothing", sparsity=0.3, output=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_command_searches_and_prints_json(
    example: Callable[[str, str], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = example("llm", "llama")
    out = tmp_path / "out"
    words = ["slim", made.source.text, "-s", "0.4", "-o", str(out), "--json"]
    words += ["--samples", "4", "--search-samples", "4", "--report-samples", "4"]
    assert main([*words, "--seqlen", "32"]) == 0
    told = json.loads(capsys.readouterr().out)
    betas = [trial["beta"] for trial in told["trials"]]
    assert 0.0 in betas and len(set(betas)) > 3
    finals = [trial for trial in told["trials"] if trial["stage"] == "final"]
    best = min(finals, key=lambda trial: trial["objective"])
    assert told["beta"] == best["beta"]
    assert {"dense", "pruned"} <= told["metrics"].keys()
    assert (out / "atp.json").is_file()
    capsys.readouterr()
    assert main(["eval", str(out), "--report-samples", "4", "--seqlen", "32", "--json"]) == 0


def test_a_schedule_file_is_followed(
    example: Callable[[str, str], Any], tmp_path: Path
) -> None:
    """Rates of 10, 30 and 50 % of blocks of equal size."""
    made = example("llm", "llama")
    blocks = [f"model.layers.{i}" for i in range(3)]
    rates = {"decoder": dict(zip(blocks, (0.1, 0.3, 0.5), strict=True))}
    file = tmp_path / "schedule.json"
    file.write_text(
        json.dumps({"version": 1, "allocation": "mine", "sparsity": 0.3, "rates": rates})
    )
    result = atp_structured.slim(
        made.source.text, sparsity=0.3, schedule=file, **settings_of(made)
    )
    assert [block.rate for block in result.blocks] == [0.1, 0.3, 0.5]
    # Width 16: a channel is 48 of 2304 weights, so half of one is 1.1 %.
    for block in result.blocks:
        assert block.achieved == pytest.approx(block.rate, abs=0.011)
    assert [note for note in result.notes if "asked for" in note] == []
