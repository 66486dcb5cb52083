"""Loading: what is read, in which dtype, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import safetensors.torch
import torch
from PIL import Image

import atp_open_clip
from atp_core.errors import ModelError
from atp_core.records import LoadedModel, LoadRequest, Source
from atp_open_clip._clip import clip_of

WEIGHTS = "open_clip_model.safetensors"


def load(source: object, **request: Any) -> LoadedModel:
    return atp_open_clip.atp_load(Source(str(source)), LoadRequest(**request))


def test_a_directory_is_what_open_clip_makes_of_it(directory: Path) -> None:
    loaded = load(directory)
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{directory}")
    theirs, ours = model.state_dict(), loaded.model.state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    image = Image.new("RGB", (40, 30), (200, 10, 90))
    clip = clip_of(loaded)
    assert torch.equal(clip.pixels(image)["image"][0], preprocess(image))
    texts = ["a photo of a cat.", "zwölf Boxkämpfer"]
    tokenizer = open_clip.get_tokenizer(f"local-dir:{directory}")
    assert torch.equal(clip.tokens(texts)["text"], tokenizer(texts))
    assert not loaded.model.training
    assert loaded.compares
    assert loaded.defaults == {"samples": 128, "search_samples": 256}
    assert loaded.card["library_name"] == "open_clip"
    assert loaded.card["pipeline_tag"] == "zero-shot-image-classification"
    told = loaded.provenance
    assert told["format"] == "safetensors" and told["architecture"] == "CLIP"
    assert told["weights"][0]["file"] == WEIGHTS and len(told["weights"][0]["sha256"]) == 64


def test_meta_reads_no_weights(directory: Path) -> None:
    (directory / WEIGHTS).unlink()
    loaded = load(directory, meta=True)
    assert all(parameter.is_meta for parameter in loaded.model.parameters())
    assert len(atp_open_clip.atp_locate(loaded)) == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_dtype_is_the_files(
    tmp_path: Path,
    write_clip: Callable[..., Path],
    make_config: Callable[..., dict[str, Any]],
    dtype: torch.dtype,
) -> None:
    directory = write_clip(tmp_path / "half", make_config(), dtype)
    assert {p.dtype for p in load(directory).model.parameters()} == {dtype}
    wide = load(directory, dtype="float32").model
    assert {p.dtype for p in wide.parameters()} == {torch.float32}
    with pytest.raises(ModelError, match=r"no dtype for weights"):
        load(directory, dtype="int8")


class TestNames:
    """``open_clip:NAME`` and what may follow it."""

    def test_random_weights_are_seeded(self) -> None:
        before = torch.get_rng_state()
        one, other = (load("open_clip:ViT-S-32-alt@random").model for _ in range(2))
        assert torch.equal(before, torch.get_rng_state()), "the caller's random state is kept"
        pairs = zip(one.parameters(), other.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)

    def test_a_name_alone_has_no_weights(self) -> None:
        with pytest.raises(ModelError, match=r"no weights; give .*/TAG with TAG one of openai"):
            load("open_clip:ViT-B-32")
        assert load("open_clip:ViT-B/32", meta=True).provenance["architecture"] == "CLIP"

    def test_an_unknown_name_is_told_with_near_ones(self) -> None:
        with pytest.raises(ModelError, match=r"no architecture 'ViT-B-33'.*ViT-B-32"):
            load("open_clip:ViT-B-33@random")

    def test_an_unknown_tag_is_told_with_known_ones(self) -> None:
        with pytest.raises(ModelError, match=r"no pretrained weights 'laion9b'.*laion2b_s34b_b79k"):
            load("open_clip:ViT-B-32/laion9b")

    def test_a_tag_offline(self) -> None:
        with pytest.raises(ModelError, match=r"cannot be had from the Hugging Face hub.*network"):
            load("open_clip:ViT-B-32/laion2b_s34b_b79k")

    def test_a_tag_that_is_only_a_pickle_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        only = {"url": "https://example.com/weights.pt", "hf_hub": ""}
        monkeypatch.setattr("open_clip.get_pretrained_cfg", lambda name, tag: only)
        with pytest.raises(ModelError, match=r"only as a pickle .*weights.pt"):
            load("open_clip:ViT-B-32/old")

    def test_a_tag_brings_its_activation(self) -> None:
        plain = load("open_clip:ViT-B-32/laion2b_s34b_b79k", meta=True)
        quick = load("open_clip:ViT-B-32/openai", meta=True)
        kinds = [type(one.model.visual.transformer.resblocks[0].mlp.gelu) for one in (plain, quick)]
        assert [kind.__name__ for kind in kinds] == ["GELU", "QuickGELU"]
        assert quick.processor.config["model_cfg"]["quick_gelu"] is True

    def test_a_tag_brings_its_image_transform(self) -> None:
        squashed = load("open_clip:ViT-L-14-CLIPA/datacomp1b", meta=True)
        assert squashed.model.visual.preprocess_cfg["resize_mode"] == "squash"
        assert squashed.model.visual.preprocess_cfg["interpolation"] == "bilinear"

    def test_a_file(self, tmp_path: Path) -> None:
        source = load("open_clip:ViT-S-32-alt@random")
        file = tmp_path / "weights.safetensors"
        safetensors.torch.save_file(source.model.state_dict(), file)
        loaded = load(f"open_clip:ViT-S-32-alt={file}")
        assert loaded.provenance["weights"][0]["bytes"] == file.stat().st_size
        ours, theirs = loaded.model.state_dict(), source.model.state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        with pytest.raises(ModelError, match=r"does not fit .*: text pos_embed width"):
            load(f"open_clip:RN50={file}")
        with pytest.raises(ModelError, match=r"there is no weight file"):
            load(f"open_clip:ViT-S-32-alt={tmp_path}/none.safetensors")

    def test_a_hub_repository_offline(self) -> None:
        with pytest.raises(ModelError, match=r"config.json of a/b cannot be had.*network"):
            load("hf-hub:a/b")


class TestBadCheckpoints:
    """Nothing is pruned on weights that are not what they should be."""

    def test_truncated(self, directory: Path) -> None:
        file = directory / WEIGHTS
        file.write_bytes(file.read_bytes()[:-100])
        with pytest.raises(ModelError, match=r"truncated"):
            load(directory)
        file.write_bytes(b"\x00\x01")
        with pytest.raises(ModelError, match=r"truncated or no safetensors file"):
            load(directory)

    @pytest.mark.parametrize("name", ["open_clip_pytorch_model.bin", "model.pth", "clip.pt"])
    def test_pickles_are_refused(self, directory: Path, name: str) -> None:
        (directory / WEIGHTS).rename(directory / name)
        with pytest.raises(ModelError, match=r"run code.*refused.*safetensors"):
            load(directory)

    def test_no_weights(self, directory: Path) -> None:
        (directory / WEIGHTS).unlink()
        with pytest.raises(ModelError, match=rf"no weights: expected {WEIGHTS}"):
            load(directory)

    def test_a_missing_and_an_unknown_weight(self, directory: Path) -> None:
        tensors = safetensors.torch.load_file(directory / WEIGHTS)
        tensors["visual.nonsense"] = tensors.pop("visual.proj")
        safetensors.torch.save_file(tensors, directory / WEIGHTS)
        told = r"lacks 1 weights, among them visual.proj and has 1 .* visual.nonsense"
        with pytest.raises(ModelError, match=told):
            load(directory)

    def test_a_wrong_shape(self, directory: Path) -> None:
        tensors = safetensors.torch.load_file(directory / WEIGHTS)
        tensors["visual.proj"] = tensors["visual.proj"][:, :3].contiguous()
        safetensors.torch.save_file(tensors, directory / WEIGHTS)
        told = r"does not fit the architecture: size mismatch for visual.proj"
        with pytest.raises(ModelError, match=told):
            load(directory)

    @pytest.mark.parametrize("text", ["{broken", "[]", '{"model_cfg": {"embed_dim": 4}}'])
    def test_a_bad_config(self, directory: Path, text: str) -> None:
        (directory / "open_clip_config.json").write_text(text)
        with pytest.raises(ModelError, match=r"not a config of open_clip"):
            load(directory)

    def test_transformers_pickles_and_damage(
        self, tmp_path: Path, tiny_transformers: Callable[[str], Any]
    ) -> None:
        tiny_transformers("clip").save_pretrained(tmp_path)
        file = tmp_path / "model.safetensors"
        tensors = safetensors.torch.load_file(file)
        lacking = {k: v for k, v in tensors.items() if k != "text_projection.weight"}
        safetensors.torch.save_file(lacking, file, metadata={"format": "pt"})
        with pytest.raises(ModelError, match=r"lacks 1 weights .* text_projection.weight"):
            load(tmp_path)
        file.write_bytes(file.read_bytes()[:1000])
        with pytest.raises(ModelError, match=r"truncated"):
            load(tmp_path)
        shutil.move(file, tmp_path / "pytorch_model.bin")
        with pytest.raises(ModelError, match=r"refused"):
            load(tmp_path)
        (tmp_path / "pytorch_model.bin").unlink()
        with pytest.raises(ModelError, match=r"no weights: expected model.safetensors"):
            load(tmp_path)

    def test_no_clip_at_all(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
        with pytest.raises(ModelError, match=r"is no CLIP model"):
            load(tmp_path)


class TestTransformers:
    """Local directories that transformers wrote."""

    @pytest.mark.parametrize("kind", ["clip", "siglip", "siglip2"])
    def test_features_equal_those_of_the_library(
        self,
        tmp_path: Path,
        tiny_transformers: Callable[[str], Any],
        tiny_processor: Callable[[str], Any],
        kind: str,
    ) -> None:
        model, processor = tiny_transformers(kind), tiny_processor(kind)
        model.save_pretrained(tmp_path)
        processor.save_pretrained(tmp_path)
        loaded = load(tmp_path)
        clip = clip_of(loaded)
        image, texts = Image.new("RGB", (16, 16), (250, 20, 30)), ["a red photo", "the image"]
        # As transformers loads it again: for SigLIP 2 that is a tokenizer of another class.
        processor = loaded.processor
        inputs = {
            **processor.image_processor(images=[image], return_tensors="pt"),
            **processor.tokenizer(texts, padding="max_length", max_length=10, return_tensors="pt"),
        }
        with torch.inference_mode():
            expected = model(**inputs).logits_per_image
            images = clip.encode_image(clip.pixels(image), normalize=True)
            words = clip.encode_text(clip.tokens(texts), normalize=True)
        assert images @ words.T * clip.scale + clip.bias == pytest.approx(expected, abs=1e-4)
        assert loaded.card["library_name"] == "transformers"
        meta = load(tmp_path, meta=True)
        assert all(parameter.is_meta for parameter in meta.model.parameters())


class TestMemory:
    """Models the caller holds."""

    def test_a_copy_on_the_meta_device(self, loaded: LoadedModel) -> None:
        source = Source("mine", model=loaded.model)
        meta = atp_open_clip.atp_load(source, LoadRequest(meta=True))
        assert all(parameter.is_meta for parameter in meta.model.parameters())
        assert not any(parameter.is_meta for parameter in loaded.model.parameters())

    def test_its_processor_in_all_forms(self, loaded: LoadedModel) -> None:
        tokenizer, preprocess = object(), object()
        forms: list[Any] = [
            tokenizer,
            (preprocess, tokenizer),
            {"tokenizer": tokenizer, "preprocess": preprocess, "model_cfg": "ViT-B-32"},
        ]
        for form in forms:
            source = Source("mine", model=loaded.model, processor=form)
            found = atp_open_clip.atp_load(source, LoadRequest()).processor
            assert found.tokenizer is tokenizer
            assert (found.preprocess is preprocess) == (form is not tokenizer)
        assert found.config["model_cfg"]["embed_dim"] == 512

    def test_the_processor_of_a_loaded_model_serves_again(self, loaded: LoadedModel) -> None:
        source = Source("mine", model=loaded.model, processor=loaded.processor)
        assert atp_open_clip.atp_load(source, LoadRequest()).processor is loaded.processor

    def test_without_a_processor_it_is_open_clips_own(self, loaded: LoadedModel) -> None:
        source = Source("mine", model=loaded.model)
        found = atp_open_clip.atp_load(source, LoadRequest()).processor
        assert found.tokenizer(["a cat"]).shape == (1, 10)
        assert found.preprocess(Image.new("RGB", (9, 9))).shape == (3, 16, 16)
