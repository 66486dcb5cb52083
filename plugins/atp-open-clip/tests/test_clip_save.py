"""What is saved loads without this package and gives the same outputs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import safetensors
import safetensors.torch
import torch
import transformers

import atp_open_clip
from atp_core.errors import ModelError
from atp_core.records import LoadedModel, LoadRequest, Source

WEIGHTS = "open_clip_model.safetensors"


def load(source: object, **request: Any) -> LoadedModel:
    return atp_open_clip.atp_load(Source(str(source)), LoadRequest(**request))


def zero_some(loaded: LoadedModel) -> None:
    """Stand in for pruning: zeros in every located weight."""
    with torch.no_grad():
        for chain in atp_open_clip.atp_locate(loaded):
            for block in chain.blocks:
                for weight in block.weights:
                    weight.matrix()[:, ::2] = 0


def test_open_clip_loads_it_and_gives_the_same_outputs(
    loaded: LoadedModel, directory: Path, tmp_path: Path
) -> None:
    zero_some(loaded)
    out = tmp_path / "out"
    out.mkdir()
    assert atp_open_clip.atp_save(loaded, out) == [out / WEIGHTS]
    assert sorted(file.name for file in out.iterdir()) == ["open_clip_config.json", WEIGHTS]
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{out}")
    model.eval()
    images, texts = torch.randn(2, 3, 16, 16), torch.randint(1, 400, (2, 10))
    with torch.inference_mode():
        theirs, ours = model(images, texts), loaded.model(images, texts)
    assert all(torch.equal(a, b) for a, b in zip(theirs, ours, strict=True))
    original = json.loads((directory / "open_clip_config.json").read_text())
    assert json.loads((out / "open_clip_config.json").read_text()) == original
    assert str(preprocess) == str(loaded.processor.preprocess)


def test_each_tensor_keeps_its_dtype(
    tmp_path: Path, write_clip: Callable[..., Path], make_config: Callable[..., dict[str, Any]]
) -> None:
    directory = write_clip(tmp_path / "mixed", make_config(), torch.bfloat16)
    tensors = safetensors.torch.load_file(directory / WEIGHTS)
    tensors["logit_scale"] = tensors["logit_scale"].float()
    safetensors.torch.save_file(tensors, directory / WEIGHTS)
    loaded = load(directory)
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    out = tmp_path / "out"
    out.mkdir()
    atp_open_clip.atp_save(loaded, out)
    saved = safetensors.torch.load_file(out / WEIGHTS)
    assert saved.keys() == tensors.keys()
    assert all(torch.equal(saved[name], tensors[name]) for name in tensors)
    assert all(saved[name].dtype == tensors[name].dtype for name in tensors)
    wide = tmp_path / "wide"
    wide.mkdir()
    atp_open_clip.atp_save(load(directory, dtype="float32"), wide)
    kinds = {value.dtype for value in safetensors.torch.load_file(wide / WEIGHTS).values()}
    assert kinds == {torch.float32}


def test_a_named_architecture_brings_its_config(tmp_path: Path) -> None:
    loaded = load("open_clip:ViT-S-32-alt@random")
    atp_open_clip.atp_save(loaded, tmp_path)
    told = json.loads((tmp_path / "open_clip_config.json").read_text())
    assert told["model_cfg"] == open_clip.get_model_config("ViT-S-32-alt")
    assert told["preprocess_cfg"]["mean"] == list(open_clip.OPENAI_DATASET_MEAN)
    model = open_clip.create_model(f"local-dir:{tmp_path}")
    ours = loaded.model.state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in model.state_dict().items())


def test_a_tokenizer_of_its_own_is_saved(
    tmp_path: Path,
    write_clip: Callable[..., Path],
    make_config: Callable[..., dict[str, Any]],
    word_tokenizer: Callable[..., Any],
) -> None:
    config = make_config()
    config["text_cfg"] |= {"vocab_size": 16, "hf_tokenizer_name": "of-its-own"}
    directory = tmp_path / "clip"
    word_tokenizer().save_pretrained(directory)
    loaded = load(write_clip(directory, config))
    out = tmp_path / "out"
    out.mkdir()
    atp_open_clip.atp_save(loaded, out)
    texts = ["a red photo", "the image of something blue ."]
    expected = open_clip.get_tokenizer(f"local-dir:{directory}")(texts)
    assert torch.equal(open_clip.get_tokenizer(f"local-dir:{out}")(texts), expected)


@pytest.mark.parametrize("kind", ["clip", "siglip", "siglip2"])
def test_transformers_loads_it_and_gives_the_same_outputs(
    tmp_path: Path,
    tiny_transformers: Callable[[str], Any],
    tiny_processor: Callable[[str], Any],
    kind: str,
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    tiny_transformers(kind).save_pretrained(source)
    tiny_processor(kind).save_pretrained(source)
    loaded = load(source)
    zero_some(loaded)
    out.mkdir()
    assert [file.name for file in atp_open_clip.atp_save(loaded, out)] == ["model.safetensors"]
    model = transformers.AutoModel.from_pretrained(out).eval()
    theirs, ours = model.state_dict(), loaded.model.state_dict()
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)
    assert type(model) is type(loaded.model)
    processor = transformers.AutoProcessor.from_pretrained(out)
    assert processor.tokenizer(["a red photo"])["input_ids"] == (
        loaded.processor.tokenizer(["a red photo"])["input_ids"]
    )


def test_a_model_in_memory_needs_its_config(loaded: LoadedModel, tmp_path: Path) -> None:
    bare = atp_open_clip.atp_load(Source("mine", model=loaded.model), LoadRequest())
    with pytest.raises(ModelError, match=r"pass processor=\{\"model_cfg\""):
        atp_open_clip.atp_save(bare, tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))
    told = {"model_cfg": loaded.processor.config["model_cfg"]}
    known = atp_open_clip.atp_load(
        Source("mine", model=loaded.model, processor=told), LoadRequest()
    )
    out = tmp_path / "out"
    out.mkdir()
    atp_open_clip.atp_save(known, out)
    model = open_clip.create_model(f"local-dir:{out}")
    ours = loaded.model.state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in model.state_dict().items())


def test_tied_weights_are_saved_under_each_name(loaded: LoadedModel, tmp_path: Path) -> None:
    model: Any = loaded.model
    blocks = model.transformer.resblocks
    blocks[1].mlp.c_fc.weight = blocks[0].mlp.c_fc.weight
    chains = atp_open_clip.atp_locate(loaded)
    counts = [len(block.weights) for block in chains[1].blocks]
    assert counts == [6, 5], "a shared weight belongs to the first block"
    [file] = atp_open_clip.atp_save(loaded, tmp_path)
    with safetensors.safe_open(file, "pt") as saved:
        assert set(saved.keys()) == set(model.state_dict())
