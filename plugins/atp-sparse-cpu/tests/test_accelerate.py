"""Whole models, accelerated and restored."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import atp_sparse_cpu
from atp_sparse_cpu import SparseLinear, _accelerate, _tune
from atp_sparse_cpu._library import cache_directory, kernels

needs_kernels = pytest.mark.skipif(kernels().library is None, reason=kernels().reason)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Timings of these tests are nobody else's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def thinned(model: nn.Module, share: float = 0.7) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                cut = torch.rand(module.weight.shape, generator=generator) < share
                module.weight.masked_fill_(cut, 0.0)
    return model.eval()


def llama() -> Any:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=99, max_position_embeddings=64,
    )  # fmt: skip
    return thinned(transformers.LlamaForCausalLM(config))


@needs_kernels
def test_a_language_model_gives_the_same_tokens_and_is_put_back() -> None:
    model = llama()
    before = copy.deepcopy(model.state_dict())
    tokens = torch.arange(1, 11).view(1, -1)
    with torch.inference_mode():
        logits = model(tokens).logits
        told = model.generate(tokens, max_new_tokens=12, do_sample=False)
    report = atp_sparse_cpu.accelerate(model, tune=False)
    assert report.accelerated == len(report.layers) == 2 * 7 + 1
    assert report.bytes < report.dense_bytes
    with torch.inference_mode():
        assert torch.allclose(model(tokens).logits, logits, atol=1e-5)
        assert torch.equal(model.generate(tokens, max_new_tokens=12, do_sample=False), told)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert atp_sparse_cpu.restore(model) == report.accelerated
    assert not any(isinstance(module, SparseLinear) for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.inference_mode():
        assert torch.equal(model(tokens).logits, logits)


@needs_kernels
def test_a_vision_model() -> None:
    timm = pytest.importorskip("timm")
    model = thinned(timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, num_classes=10,
    ))  # fmt: skip
    images = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        wanted = model(images)
        report = atp_sparse_cpu.accelerate(model, tune=False)
        assert report.accelerated == 2 * 4 + 1
        assert torch.allclose(model(images), wanted, atol=1e-4)


@needs_kernels
def test_layers_that_others_compute_stay_dense_and_say_why() -> None:
    attention = nn.MultiheadAttention(16, 2)
    shared, hooked, tied = (nn.Linear(16, 16) for _ in range(3))
    hooked.register_forward_hook(lambda *_: None)
    embedding = nn.Embedding(16, 16)
    tied.weight = embedding.weight
    full = nn.Linear(16, 16)
    model = nn.Sequential(attention, shared, shared, hooked, embedding, tied)
    thinned(model)
    model.append(full)
    model.append(nn.Linear(16, 16, device="meta"))
    report = atp_sparse_cpu.accelerate(model, tune=False)
    told = {layer.name: layer.reason for layer in report.layers}
    assert "reads the weight itself" in told["0.out_proj"]
    assert told["1"] == ""
    assert "hooks" in told["3"]
    assert "shared" in told["5"]
    assert "0% of its weights are zero" in told["6"]
    assert "meta" in told["7"]
    assert model[1] is model[2], "a shared module stays shared"
    assert isinstance(model[1], SparseLinear)


@needs_kernels
def test_what_is_slower_stays_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    ratios = iter([0.5, 0.6, 1.2, 1.5])  # of 1, 2 and 4 rows, and of unpacking
    monkeypatch.setattr(_tune, "_ratio", lambda *_: next(ratios))
    model = thinned(nn.Sequential(nn.Linear(40, 40)))
    dense = copy.deepcopy(model)
    report = atp_sparse_cpu.accelerate(model)
    [layer] = report.layers
    assert layer.kernel == "sparse up to 2 rows"
    assert layer.bytes > layer.dense_bytes, "the dense weight is kept for larger inputs"
    with torch.inference_mode():
        for rows in (1, 2, 3, 50):
            x = torch.randn(rows, 40)
            assert torch.allclose(model(x), dense(x), atol=1e-5)
        assert torch.equal(model(x), dense(x)), "many rows go the dense way"
    atp_sparse_cpu.restore(model)
    # The second time nothing is measured.
    assert atp_sparse_cpu.accelerate(model, keep_dense=False).layers[0].bytes < layer.dense_bytes
    file = cache_directory() / "choices.json"
    [key] = json.loads(file.read_text("utf-8"))
    file.write_text("{broken", "utf-8")
    monkeypatch.setattr(_tune, "_ratio", lambda *_: 2.0)
    atp_sparse_cpu.restore(model)
    [layer] = atp_sparse_cpu.accelerate(model).layers
    assert layer.kernel == "dense"
    assert "faster for every number" in layer.reason
    assert key in json.loads(file.read_text("utf-8"))


@needs_kernels
def test_measuring_takes_the_faster() -> None:
    calls: list[str] = []
    ratio = _tune._ratio(lambda: calls.append("a"), lambda: [calls.append("b") for _ in range(400)])
    assert ratio < 0.5
    assert {"a", "b"} == set(calls)


@needs_kernels
def test_compile_and_export() -> None:
    model = thinned(nn.Sequential(nn.Linear(40, 64), nn.GELU(), nn.Linear(64, 40)))
    x = torch.randn(5, 40)
    with torch.inference_mode():
        wanted = model(x)
    atp_sparse_cpu.accelerate(model, tune=False)
    with torch.no_grad():
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        assert torch.allclose(compiled(x), wanted, atol=1e-5)
        exported = torch.export.export(model, (x,))
        assert torch.allclose(exported.module()(x), wanted, atol=1e-5)
    assert "atp_sparse_cpu.linear" in str(exported.graph)


@needs_kernels
def test_what_is_refused() -> None:
    model = thinned(nn.Sequential(nn.Linear(40, 64)))
    atp_sparse_cpu.accelerate(model, tune=False)
    with pytest.raises(RuntimeError, match="no gradient"):
        model(torch.randn(2, 40, requires_grad=True))
    with pytest.raises(RuntimeError, match="restore"):
        model(torch.randn(2, 40).bfloat16())
    with pytest.raises(RuntimeError, match="restore"):
        model.load_state_dict(model.state_dict())
    for wrong in ({"form": "int4"}, {"min_sparsity": 2.0}):
        with pytest.raises(ValueError, match="must be"):
            atp_sparse_cpu.accelerate(model, **wrong)  # type: ignore[arg-type]


@needs_kernels
def test_int8_is_smaller_and_near() -> None:
    model = thinned(nn.Sequential(nn.Linear(512, 256)))
    x = torch.randn(4, 512)
    with torch.inference_mode():
        wanted = model(x)
        exact = atp_sparse_cpu.accelerate(model, tune=False).bytes
        atp_sparse_cpu.restore(model)
        small = atp_sparse_cpu.accelerate(model, form="int8", tune=False).bytes
        assert small < exact / 2
        assert (model(x) - wanted).abs().max() < 0.02 * wanted.abs().max()


@pytest.fixture
def unbuilt(tmp_path: Path) -> Path:
    """A copy of the package without a library that was compiled when it was installed."""
    package = Path(atp_sparse_cpu.__file__).parent
    shutil.copytree(
        package, tmp_path / "site" / package.name, ignore=shutil.ignore_patterns("_built")
    )
    return tmp_path / "site"


def test_without_a_compiler_layers_stay_dense_with_one_warning(
    unbuilt: Path, tmp_path: Path
) -> None:
    script = (
        "import warnings, torch, atp_sparse_cpu\n"
        "model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)).eval()\n"
        "torch.nn.init.zeros_(model[0].weight)\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    report = atp_sparse_cpu.accelerate(model)\n"
        "mine = [str(w.message) for w in caught if 'atp_sparse_cpu' in str(w.message)]\n"
        "assert len(mine) == 1 and 'compiler' in mine[0], mine\n"
        "assert report.accelerated == 0 and 'compiler' in report.layers[0].reason\n"
        "assert atp_sparse_cpu.runtime_info()['kernels'] == 'dense'\n"
    )
    environment = {
        **os.environ, "CC": str(tmp_path / "none"), "XDG_CACHE_HOME": str(tmp_path),
        "PYTHONPATH": str(unbuilt),
    }  # fmt: skip
    ran = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


@needs_kernels
def test_a_damaged_library_is_built_again(unbuilt: Path, tmp_path: Path) -> None:
    script = "from atp_sparse_cpu._library import kernels; assert kernels().library is not None"
    environment = {
        **os.environ, "XDG_CACHE_HOME": str(tmp_path / "own"), "PYTHONPATH": str(unbuilt)
    }  # fmt: skip
    for _ in range(2):
        # In a process of its own: a library that is loaded already would not be read again.
        subprocess.run([sys.executable, "-c", script], env=environment, check=True)
        [file] = (tmp_path / "own").rglob("kernels-*.so")
        assert file.stat().st_size > 10_000
        file.write_bytes(b"not a library")


@needs_kernels
def test_what_was_compiled_at_installation_is_used(unbuilt: Path, tmp_path: Path) -> None:
    script = (
        "from pathlib import Path; import atp_sparse_cpu\n"
        "from atp_sparse_cpu._build import into_package\n"
        "made = into_package(Path(atp_sparse_cpu.__file__).parent)\n"
        "info = atp_sparse_cpu.runtime_info()\n"
        "assert info['why'] == str(made) and info['kernels'] == 'sparse', info\n"
    )
    environment = {
        **os.environ, "XDG_CACHE_HOME": str(tmp_path / "own"), "PYTHONPATH": str(unbuilt)
    }  # fmt: skip
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)
    assert not (tmp_path / "own").exists()


def test_the_report_adds_up() -> None:
    layers = tuple(
        _accelerate.Layer(name, (2, 2), 0.5, kernel, "", 16, size)
        for name, kernel, size in (("a", "sparse", 9), ("b", "dense", 16))
    )
    report = atp_sparse_cpu.Report(layers)
    assert (report.accelerated, report.dense_bytes, report.bytes) == (1, 32, 25)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert set(atp_sparse_cpu.runtime_info()) == {"kernels", "instructions", "why", "threads"}
