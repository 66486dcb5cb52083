"""Whole models: packed files that transformers loads, budgets, zeros, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import atp_core
from atp_core.errors import ModelError, UsageError
from atp_core.weights import read_header
from atp_quant._pack import packed_bytes
from atp_quant.api import Request, quantize

Shared = Callable[[str], Path]


def stories(shared: Shared) -> str:
    return str(shared("models/stories260k"))


def loaded(directory: Path) -> Any:
    """What anyone gets who knows nothing of atp."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.arange(1, 60).unsqueeze(0)).logits  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_mixed_widths_are_what_transformers_loads(
    method: Any, shared: Shared, text: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    request = Request(bits=4, method=method, beta=1.0, group_size=4)
    result = quantize(stories(shared), request, output=out, **text)
    assert [block.bits for block in result.blocks] == [6, 5, 4, 3, 2]
    assert (result.format, result.bits, result.beta) == ("compressed-tensors", 4.0, 1.0)
    assert set(result.metrics) == {"dense", "uniform", "quantized"}
    assert result.difference == 0.0
    torch.testing.assert_close(logits(loaded(out)), logits(result.model))


@pytest.mark.filterwarnings("ignore")
def test_the_output_is_read_like_any_other_model(
    shared: Shared, text: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = quantize(
        stories(shared), Request(bits=4, method="rtn", group_size=4), output=out, **text
    )
    report = {key: text[key] for key in ("report_data", "seqlen", "report_samples")}
    again = atp_core.evaluate(str(out), **report)
    assert again.metrics["perplexity"].value == pytest.approx(
        result.metrics["quantized"]["perplexity"].value, rel=1e-6
    )
    # What is pruned is what the codes stand for, and is written dense.
    pruned = tmp_path / "pruned"
    atp_core.prune(str(out), output=pruned, sparsity=0.5, method="magnitude", beta=0.0, **text)
    assert "quantization_config" not in json.loads((pruned / "config.json").read_text())
    weight = loaded(pruned).model.layers[0].mlp.up_proj.weight
    assert float((weight == 0).float().mean()) >= 0.5
    with pytest.raises(ModelError, match="cannot be streamed; leave out --max-memory"):
        atp_core.evaluate(str(out), max_memory="6GB", **report)


@pytest.mark.filterwarnings("ignore")
def test_bytes_on_disk_are_those_computed(
    shared: Shared, text: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    request = Request(bits=3, method="rtn", allocation="uniform", group_size=-1)
    result = quantize(stories(shared), request, output=out, **text)
    # A row of 64 weights is 6 words of 32 bits with 3 bits each, one of 172 is 17; float32 scales.
    rows = {"q": 64, "k": 32, "v": 32, "o": 64, "gate": 172, "up": 172}
    weights = sum(rows.values()) * (6 * 4 + 4) + 64 * (17 * 4 + 4) + 7 * 16
    stored = read_header(out / "model.safetensors")
    packed = {name for name in stored if ".weight_" in name}
    assert len(packed) == 5 * 7 * 3
    sizes = {"F32": 4, "I32": 4, "I64": 8}
    found = sum(
        sizes[stored[name].dtype] * torch.Size(stored[name].shape).numel() for name in packed
    )
    assert found == 5 * weights
    assert result.stored_bits == pytest.approx(8 * found / 226_560)
    other = sum(
        sizes[told.dtype] * torch.Size(told.shape).numel()
        for name, told in stored.items()
        if name not in packed
    )
    size = (out / "model.safetensors").stat().st_size
    assert result.bytes_on_disk == size
    assert 0 <= size - found - other <= 20_000  # the header
    assert json.loads((out / "quant.json").read_text())["bits_average"] == 3.0


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("columns", [32, 40, 172])
def test_packing_round_trip(bits: int, columns: int) -> None:
    from compressed_tensors.compressors.pack_quantized import pack_to_int32, unpack_from_int32

    from atp_quant._grid import Spec, round_to_nearest

    found = round_to_nearest(torch.randn(6, columns), Spec(bits, None))
    packed = pack_to_int32(found.codes, bits)
    assert packed.nbytes + found.scale.nbytes + 16 == packed_bytes({"a": found})
    assert torch.equal(unpack_from_int32(packed, bits, found.codes.shape), found.codes)


@pytest.mark.filterwarnings("ignore")
def test_zeros_of_a_pruned_directory_stay(
    shared: Shared, text: dict[str, Any], tmp_path: Path
) -> None:
    pruned = tmp_path / "pruned"
    atp_core.prune(stories(shared), sparsity=0.5, beta=0.02, output=pruned, **text)
    before = dict(atp_core.load(str(pruned)).model.named_parameters())
    request = Request(bits=4, allocation="uniform", group_size=4)
    result = quantize(str(pruned), request, output=tmp_path / "out", **text)
    assert 0.5 <= result.sparsity < 0.6
    model = loaded(tmp_path / "out")
    logits(model)  # unpacks
    after = dict(model.named_parameters())
    for name, weight in before.items():
        if "_proj" in name:
            assert bool((after[name][weight == 0] == 0).all()), name


def test_joint_sparsity_follows_a_schedule(
    shared: Shared, text: dict[str, Any], tmp_path: Path
) -> None:
    source = stories(shared)
    found = atp_core.search(source, sparsity=0.5, beta=0.05, **text)
    schedule = tmp_path / "schedule.json"
    schedule.write_text(json.dumps(found.schedule.to_dict()))
    request = Request(bits=8, allocation="uniform", group_size=4, schedule=schedule)
    result = quantize(source, request, **text)
    zeros = [block.zeros / block.parameters for block in result.blocks]
    assert zeros == pytest.approx([0.4, 0.45, 0.5, 0.55, 0.6], abs=0.02)
    assert result.sparsity >= 0.5


def test_the_search_tries_uniform_and_takes_the_best(
    shared: Shared, text: dict[str, Any]
) -> None:
    request = Request(bits=3, method="rtn", group_size=4, baseline=False)
    result = quantize(stories(shared), request, **text)
    assert result.trials[0].beta == 0.0
    assert result.beta in {trial.beta for trial in result.trials}
    chosen = min(trial.objective for trial in result.trials)
    assert chosen == next(t.objective for t in result.trials if t.beta == result.beta)
    assert result.bits <= 3.0
    # The bits of an output can be given again.
    assert result.to_json()["bits"]["decoder"].keys() == {f"model.layers.{i}" for i in range(5)}


def test_a_file_of_bits(shared: Shared, text: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "bits.json"
    bits = [8, 4, 2, 4, 8]
    names = {f"model.layers.{i}": width for i, width in enumerate(bits)}
    file.write_text(json.dumps({"bits": {"decoder": names}}))
    request = Request(allocation=str(file), method="rtn", group_size=4)
    result = quantize(stories(shared), request, **text)
    assert [block.bits for block in result.blocks] == bits
    assert (result.beta, result.bits) == (None, 5.2)
    assert result.settings["allocation"] == "bits.json"


def test_other_ecosystems_are_written_dense(tmp_path: Path) -> None:
    out = tmp_path / "out"
    data: dict[str, Any] = {"samples": 16, "search_samples": 32, "report_samples": 40}
    request = Request(bits=4, beta=0.25, group_size=-1)
    result = quantize("embedded:digits-vit", request, output=out, **data)
    assert result.format == "dense"
    assert any("take no less room" in note for note in result.notes)
    scales = read_header(out / "quant-scales" / "scales.safetensors")
    assert scales.keys() == {
        f"{name}.scale" for name in json.loads((out / "quant.json").read_text())["weights"]
    }
    told = json.loads((out / "quant.json").read_text())
    again = atp_core.load(str(out)).model
    for name, parameter in result.model.named_parameters():
        assert torch.equal(dict(again.named_parameters())[name], parameter)
        if name in told["weights"]:  # no more values in a row than codes
            most = max(len(row.unique()) for row in parameter.flatten(1))
            assert most <= 2 ** told["weights"][name]


def test_a_model_in_memory_is_quantized_in_place(
    tiny_llama: Any, shared: Shared, text: dict[str, Any]
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(stories(shared))
    request = Request(bits=4, method="rtn", allocation="uniform", group_size=16)
    before = tiny_llama.model.layers[0].mlp.up_proj.weight.clone()
    result = quantize(tiny_llama, request, processor=tokenizer, **text)
    after = tiny_llama.model.layers[0].mlp.up_proj.weight
    assert result.model is tiny_llama
    assert not torch.equal(before, after)
    assert max(len(group.unique()) for group in after.reshape(-1, 16)) <= 16


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "--bits 4"),
        ({"bits": 1}, "cannot be met with widths from 2 to 8"),
        ({"bits": 4, "widths": (4, 2)}, "in rising order"),
        ({"bits": 4, "widths": (4, 16)}, "give some of 2, 3"),
        ({"bits": 4, "method": "awq"}, "none of rtn, gptq"),
        ({"bits": 4, "group_size": 0}, "1 weight or more"),
        ({"bits": 4, "sparsity": 1.0}, r"range \[0, 1\)"),
        ({"bits": 4, "sparsity": 0.5, "method": "rtn"}, "--method gptq, or prune first"),
        ({"bits": 4, "sparsity": 0.5, "schedule": "a.json"}, "leave out sparsity"),
        ({"bits": 4, "allocation": "a.json"}, "leave out bits"),
        ({"bits": 4, "format": "gguf"}, "none of auto"),
        ({"bits": 4, "beta": float("nan")}, "beta must be"),
    ],
)
def test_wrong_requests(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Request(**settings)


def test_groups_that_do_not_divide_a_row_are_refused(tiny_llama: Any) -> None:
    with pytest.raises(UsageError, match=r"has 32 weights a row.*take --group-size 32 or"):
        quantize(tiny_llama, Request(bits=4))


def test_what_cannot_be_packed_is_refused(tiny_llama: Any) -> None:
    request = Request(bits=4, group_size=16, symmetric=False, format="compressed-tensors")
    with pytest.raises(UsageError, match="zero points; take --format dense"):
        quantize(tiny_llama, request)
    with pytest.raises(UsageError, match="no setting 'tasks'"):
        quantize(tiny_llama, request, tasks="piqa")
    with pytest.raises(UsageError, match="β = 9 lies outside"):
        quantize(tiny_llama, Request(bits=4, group_size=16, beta=9.0, method="rtn"))


@pytest.mark.filterwarnings("ignore")
def test_the_command(shared: Shared, text: dict[str, Any], tmp_path: Path) -> None:
    from atp_quant import atp_commands

    [command] = atp_commands()
    out = tmp_path / "out"
    words = [f"--{name.replace('_', '-')}={value}" for name, value in text.items()]
    asked = ["--bits", "4", "--method", "rtn", "--beta", "0.5", "--group-size", "4"]
    done = CliRunner().invoke(command, [stories(shared), *asked, *words, "-o", str(out), "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["bits_average"] <= 4.0
    assert told["format"] == "compressed-tensors"
    assert told["output"] == str(out)
    sidecar = json.loads((out / "atp.json").read_text())
    assert sidecar["report"]["quantization"]["bits"] == told["bits"]
    assert "bits a weight" in (out / "README.md").read_text()
    again = CliRunner().invoke(command, [stories(shared), *asked, *words, "-o", str(out)])
    assert isinstance(again.exception, UsageError)
    assert "--overwrite" in str(again.exception)


@pytest.mark.parametrize("wrong", [["--widths", "a"], ["--beta", "x"]])
def test_wrong_options(wrong: list[str]) -> None:
    from atp_quant import atp_commands

    [command] = atp_commands()
    done = CliRunner().invoke(command, ["any", "--bits", "4", *wrong, "-o", "out"])
    assert isinstance(done.exception, UsageError)
    assert wrong[0] in str(done.exception)
