"""Language models that are streamed: the same output, bit for bit, as when they are in memory."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

import atp_core
import atp_llm
from atp_core._memory import Room
from atp_core.cli import main
from atp_core.engine.streaming import Stream
from atp_core.errors import ModelError, UsageError
from atp_core.records import LoadedModel, LoadRequest, Source

sys.path.append(str(Path(__file__).parent))  # the helpers beside this file

from _tiny_configs import build, entries

DATA: dict[str, Any] = {
    "sparsity": 0.6,
    "samples": 8,
    "search_samples": 4,
    "seqlen": 32,
    "report_samples": 4,
}
PLENTY = "64GB"


@pytest.fixture(scope="module")
def sharded(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_llama: Callable[..., Any],
    byte_tokenizer: Callable[[], Any],
) -> Path:
    """A random Llama in several shards, bfloat16, embeddings tied."""
    directory = tmp_path_factory.mktemp("models") / "llama"
    model = tiny_llama(num_hidden_layers=4, hidden_size=32, tie_word_embeddings=True)
    model.to(torch.bfloat16).save_pretrained(directory, max_shard_size="20KB")
    byte_tokenizer().save_pretrained(directory)
    assert len(list(directory.glob("*.safetensors"))) > 2
    return directory


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing stays in memory that could be read again, and activations wait on disk."""
    start = Stream.__init__

    def init(self: Stream, *args: Any, **options: Any) -> None:
        start(self, *args, **{**options, "small": 0})

    monkeypatch.setattr(Stream, "__init__", init)
    monkeypatch.setattr("atp_core.engine.parking._LEAST", 1)
    monkeypatch.setattr("atp_core._session.room_for", lambda need, limit: Room(True, None, 1))


def weights_of(directory: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in directory.glob("*.safetensors"):
        found.update(load_file(file))
    return found


def assert_same(one: Path, other: Path) -> None:
    first, second = weights_of(one), weights_of(other)
    assert set(first) == set(second)
    for name, value in first.items():
        assert value.dtype == second[name].dtype, name
        assert torch.equal(value, second[name]), name
    configs = [json.loads((path / "config.json").read_text("utf-8")) for path in (one, other)]
    assert configs[0] == configs[1]


def both_ways(source: Path, tmp_path: Path, **settings: Any) -> tuple[Any, Any]:
    """The results of a run in memory and of a streamed one, whose outputs are the same."""
    plain = atp_core.prune(str(source), output=tmp_path / "plain", **DATA, **settings)
    found = atp_core.prune(
        str(source), output=tmp_path / "streamed", max_memory=PLENTY, **DATA, **settings
    )
    assert_same(tmp_path / "plain", tmp_path / "streamed")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plain", "streamed"]
    for who, metrics in plain.metrics.items():
        for name, metric in metrics.items():
            assert metric.value == found.metrics[who][name].value
    return plain, found


@pytest.mark.usefixtures("strict")
def test_packed_weights_are_streamed_as_they_are(sharded: Path, tmp_path: Path) -> None:
    outputs = [tmp_path / name for name in ("pruned", "dense", "streamed")]
    settings = {**DATA, "beta": 0.02, "dtype": "bfloat16"}
    atp_core.prune(str(sharded), output=outputs[0], **settings)
    atp_core.export(outputs[0], output=tmp_path / "packed")
    settings["sparsity"] = 0.75
    atp_core.prune(str(outputs[0]), output=outputs[1], **settings)
    atp_core.prune(
        str(tmp_path / "packed"), output=outputs[2], max_memory=PLENTY, **settings
    )
    assert_same(outputs[1], outputs[2])


@pytest.mark.parametrize("method", ["wanda", "sparsegpt", "magnitude"])
def test_a_search_gives_the_same_model(sharded: Path, tmp_path: Path, method: str) -> None:
    plain, found = both_ways(sharded, tmp_path, method=method)
    assert found.model is None
    assert found.beta == plain.beta
    assert [trial.objective for trial in found.search.trials] == [
        trial.objective for trial in plain.search.trials
    ]
    loaded, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "streamed", output_loading_info=True
    )
    assert not any(info.values())
    assert loaded.dtype == torch.bfloat16
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize(
    "settings",
    [
        {"beta": "auto", "method": "sparsegpt"},
        {"allocation": "owl", "baseline": False},
        {"allocation": "alphapruning", "baseline": False},
        {"dtype": "float32", "beta": 0.05, "batch_size": 3},
    ],
    ids=["auto", "owl", "alphapruning", "dtype"],
)
def test_with_nothing_kept_in_memory(
    sharded: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    both_ways(sharded, tmp_path, **settings)


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("name", ["mixtral", "t5"])
def test_checkpoints_that_are_stored_otherwise(
    name: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    byte_tokenizer: Callable[[], Any],
) -> None:
    # Mixtral fuses experts that are stored one by one; T5 has two chains and shares embeddings.
    directory = tmp_path / "source"
    request.getfixturevalue(f"tiny_{name}")().save_pretrained(directory, max_shard_size="20KB")
    byte_tokenizer().save_pretrained(directory)
    (tmp_path / "out").mkdir()
    both_ways(directory, tmp_path / "out", beta=0.05)


@pytest.mark.filterwarnings("ignore")  # of transformers, about configs this small
@pytest.mark.parametrize(
    "kind",
    [
        *("gpt2", "gpt_neox", "gptj", "falcon", "bloom", "opt", "mpt", "phi3", "gemma2"),
        *("qwen3_moe", "gpt_oss", "dbrx", "mamba", "xlnet", "bart", "t5"),
    ],
)
def test_architectures(kind: str, tmp_path: Path) -> None:
    entry = next(one for one in entries() if one.type == kind)
    build(entry, "cpu").save_pretrained(tmp_path / "source", max_shard_size="50KB")
    source = Source(str(tmp_path / "source"))
    plain = atp_llm.atp_load(source, LoadRequest())
    streamed = atp_llm.atp_load(source, LoadRequest(stream=True))
    assert streamed.store is not None
    chains = atp_llm.atp_locate(streamed)
    stream = Stream(streamed.model, streamed.store, chains, tmp_path, small=0)
    streamed.stream = stream
    batches = [torch.randint(3, 100, (1, 12)) for _ in range(2)]
    for one, other in zip(logits(plain, batches), logits(streamed, batches), strict=True):
        assert torch.equal(one, other)
    blocks = [block.module for chain in chains for block in chain.blocks]
    assert stream.peak <= stream.always + stream.largest_block + 3 * stream.largest_outside
    assert stream.resident == stream.always
    # Every block written as it is, and the rest beside it: the checkpoint as transformers wrote it.
    for block in blocks:
        with stream.held(block):
            stream.keep(block)
    (tmp_path / "again").mkdir()
    stream.export(tmp_path / "again")
    plain.model.save_pretrained(tmp_path / "plain")
    again, expected = weights_of(tmp_path / "again"), weights_of(tmp_path / "plain")
    assert set(again) == set(expected)
    assert all(torch.equal(value, expected[name]) for name, value in again.items())


def logits(loaded: LoadedModel, batches: list[torch.Tensor]) -> list[torch.Tensor]:
    from atp_llm._inputs import inputs_for

    def step(batch: torch.Tensor) -> torch.Tensor:
        model: Any = loaded.model
        with torch.inference_mode():
            return model(**inputs_for(model, batch)[0], use_cache=False).logits  # type: ignore[no-any-return]

    return loaded.map(step, batches)


def test_peak_of_weights_is_one_block_and_what_is_outside(
    sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Stream] = []
    close = Stream.close

    def closing(self: Stream) -> None:
        seen.append(self)
        close(self)

    monkeypatch.setattr(Stream, "close", closing)
    atp_core.prune(str(sharded), output=tmp_path / "out", max_memory=PLENTY, beta=0.05, **DATA)
    [stream] = seen
    assert stream.peak == stream.always + stream.largest_block
    assert stream.resident == 0


def test_frequencies_are_those_transformers_computes(sharded: Path) -> None:
    plain = atp_llm.atp_load(Source(str(sharded)), LoadRequest())
    streamed = atp_llm.atp_load(Source(str(sharded)), LoadRequest(stream=True))
    found = dict(streamed.model.named_buffers())
    assert found
    for name, value in plain.model.named_buffers():
        assert torch.equal(found[name], value), name
    assert all(one.is_meta for one in streamed.model.parameters())


def test_an_interrupted_run_leaves_nothing_and_resumes(
    sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    kept: list[Any] = []
    keep = Stream.keep

    def interrupted(self: Stream, module: Any) -> None:
        keep(self, module)
        kept.append(module)
        if len(kept) == 10:
            raise KeyboardInterrupt

    monkeypatch.setattr(Stream, "keep", interrupted)
    settings = {"output": output, "max_memory": PLENTY, **DATA}
    with pytest.raises(KeyboardInterrupt):
        atp_core.prune(str(sharded), **settings)
    assert not output.exists()
    # The journal of what has been measured, and no weights.
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".safetensors"]
    monkeypatch.setattr(Stream, "keep", keep)
    resumed = atp_core.prune(str(sharded), resume=True, **settings)
    plain = atp_core.prune(str(sharded), output=tmp_path / "plain", **DATA)
    assert resumed.beta == plain.beta
    assert_same(tmp_path / "plain", output)


def test_a_run_in_memory_may_be_resumed_streamed(sharded: Path, tmp_path: Path) -> None:
    from atp_core._session import Session
    from atp_core._workflow import identity
    from atp_core.recipe import Recipe

    def of(**more: Any) -> dict[str, Any]:
        recipe = Recipe.make({"source": str(sharded), **DATA, **more})
        with Session(recipe, Source(recipe.source)) as session:
            return identity(session)

    assert of() == of(max_memory=PLENTY)


def test_damaged_shards_are_named(sharded: Path, tmp_path: Path) -> None:
    import shutil

    directory = tmp_path / "copy"
    shutil.copytree(sharded, directory)
    shard = sorted(directory.glob("*.safetensors"))[1]
    settings = {"output": tmp_path / "out", "max_memory": PLENTY, **DATA}
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(ModelError, match=f"{shard.name} is truncated"):
        atp_core.prune(str(directory), **settings)
    shard.unlink()
    with pytest.raises(ModelError, match=f"lacks 1 of .* shards .*{shard.name}"):
        atp_core.prune(str(directory), **settings)
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_what_cannot_be_streamed_is_refused(
    sharded: Path, tmp_path: Path, tiny_llama: Callable[..., Any], byte_tokenizer: Callable[[], Any]
) -> None:
    settings = {**DATA, "max_memory": PLENTY}
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="give an output directory"):
        atp_core.prune(str(sharded), **settings)
    with pytest.raises(UsageError, match="this model is in memory"):
        atp_core.prune(tiny_llama(), processor=byte_tokenizer(), output=out, **settings)
    with pytest.raises(ModelError, match="GGUF file, whose weights cannot be read one by one"):
        atp_core.prune("embedded:smollm2-135m", output=out, **settings)
    with pytest.raises(UsageError, match="ecoflap allocation varies weights"):
        atp_core.prune(str(sharded), output=out, allocation="ecoflap", **settings)
    with pytest.raises(UsageError, match=r"at least .* the largest block") as told:
        atp_core.prune(str(sharded), output=out, **{**settings, "max_memory": "50MB"})
    assert "--seqlen" in str(told.value)
    assert not out.exists()


def test_a_dry_run_tells_what_memory_is_for(
    sharded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["prune", str(sharded), "--sparsity", "0.6", "--samples", "8", "--seqlen", "32"]
    assert main([*words, "--max-memory", PLENTY, "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["memory_bytes"] == pytest.approx(sum(plan["memory_parts"].values()), rel=0.01)
    assert plan["memory_parts"]["the largest block"] > 0
    assert any("streamed" in note for note in plan["notes"])
    assert main([*words, "--max-memory", PLENTY, "--dry-run"]) == 0
    assert "the largest block" in capsys.readouterr().out
    assert main([*words, "--max-memory", "1 byte", "--dry-run"]) == 2
    assert "6GiB" in capsys.readouterr().err


def test_evaluation_is_streamed_too(sharded: Path) -> None:
    data = {"seqlen": 32, "report_samples": 4}
    plain = atp_core.evaluate(str(sharded), **data)
    found = atp_core.evaluate(str(sharded), max_memory=PLENTY, **data)
    for name, metric in plain.metrics.items():
        assert metric.value == found.metrics[name].value


def test_comparing_and_diagnosing_are_streamed_too(sharded: Path, tmp_path: Path) -> None:
    def figures(**more: Any) -> tuple[Any, Any]:
        data = {key: value for key, value in DATA.items() if key != "sparsity"}
        compared = atp_core.compare(
            str(sharded), allocations=["uniform", "owl"], sparsities=[0.6], **data, **more
        )
        found = atp_core.diagnose(str(sharded), **DATA, **more)
        cells = [cell["metrics"] for cell in compared.to_json()["cells"]]
        values = [{name: metric["value"] for name, metric in one.items()} for one in cells]
        return values, [one["blocks"] for one in found.to_json()["allocations"]]

    assert figures(max_memory=PLENTY) == figures()
    with pytest.raises(UsageError, match="drop max_memory"):
        atp_core.load(str(sharded), max_memory=PLENTY)
