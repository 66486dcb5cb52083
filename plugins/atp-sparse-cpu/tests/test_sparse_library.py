"""Finding, compiling and caching the kernels; machines that cannot."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from atp_core.errors import ModelError
from atp_sparse_cpu import SparseLinear, _accelerate, _library, accelerate, runtime_info
from atp_sparse_cpu._compile import find_compiler
from atp_sparse_cpu._runtime import SparseCpu


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, and kernels that are looked for anew in it and after it."""
    monkeypatch.setenv("ATP_CACHE", str(tmp_path))
    monkeypatch.setattr(_accelerate, "_warned", False)
    _library.forget()
    yield tmp_path / "sparse-cpu"
    _library.forget()


@pytest.fixture
def no_compiler(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a compiler."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)


def sparse_model() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64))
    model[0].weight.data[torch.rand(64, 64) < 0.8] = 0
    return model


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_all_stays_dense_and_one_warning_says_so() -> None:
    model = sparse_model()
    layer, x = model[0], torch.randn(2, 64)
    with pytest.warns(RuntimeWarning, match=r"leaves all layers dense.*install one") as told:
        report = accelerate(model)
    assert len(told) == 1 and told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        accelerate(model)
    assert report.sparse_layers == 0 and model[0] is layer
    assert "no kernels: no C compiler" in report.layers[0].reason
    assert torch.equal(model(x), nn.functional.linear(x, layer.weight, layer.bias))
    info = runtime_info()
    assert info["path"] == "dense" and "install one" in info["reason"]
    with pytest.raises(ModelError, match="cannot run here: no C compiler"):
        SparseCpu().check()
    with pytest.raises(ModelError, match="no C compiler"):
        SparseLinear.from_linear(layer)


def test_a_compiler_that_fails_is_named(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "badcc"
    broken.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo badcc 1 && exit 0\n'
        'echo "x.c:1: error: no such flag" >&2\nexit 1\n',
        encoding="utf-8",
    )
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    assert "badcc failed: x.c:1: error: no such flag" in _library.unavailable()
    assert not list(own_cache.glob("*.so*"))
    monkeypatch.setenv("CC", "/bin/false")
    _library.forget()
    assert "CC=/bin/false does not work" in _library.unavailable()


def test_another_processor_is_told(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert "this is aarch64" in _library.unavailable()


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("damage", ["none", "truncated", "other content", "no sum"])
def test_a_damaged_library_is_compiled_again(own_cache: Path, damage: str) -> None:
    _library.forget()
    first = _library.library()
    assert first is not None and first.origin == "compiled now"
    [built] = own_cache.glob("kernels-*.so")
    content = built.read_bytes()
    # A new file each time: what is loaded must not change under the process.
    if damage == "truncated":
        built.unlink()
        built.write_bytes(content[:5000])
    elif damage == "other content":
        built.unlink()
        built.write_bytes(b"no library")
    elif damage == "no sum":
        built.with_suffix(".sha256").unlink()
    _library.forget()
    again = _library.library()
    assert again is not None
    assert again.origin == ("cache" if damage == "none" else "compiled now")
    assert built.read_bytes()[:5000] == content[:5000]
    assert sorted(path.suffix for path in own_cache.iterdir()) == [".sha256", ".so"]


@pytest.mark.usefixtures("kernels")
def test_changed_sources_are_compiled_anew(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _library.forget()
    assert _library.library() is not None
    monkeypatch.setattr(_library, "source_key", lambda: "changed")
    _library.forget()
    found = _library.library()
    assert found is not None and found.origin == "compiled now"
    assert len(list(own_cache.glob("kernels-*.so"))) == 2


@pytest.mark.usefixtures("kernels")
def test_without_a_place_to_write_it_is_compiled_for_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("", encoding="utf-8")
    monkeypatch.setenv("ATP_CACHE", str(occupied))
    _library.forget()
    found = _library.library()
    assert found is not None and found.origin == "compiled now"
    model = sparse_model()
    assert accelerate(model, tune=False).sparse_layers == 1
    _library.forget()


@pytest.mark.usefixtures("kernels")
def test_runtime_info_tells_what_is_live() -> None:
    info = runtime_info()
    assert info["path"] == "avx512" and "avx512-vbmi2" in info["instructions"]
    assert info["threads"] == str(torch.get_num_threads()) and info["compiler"] and info["cpu"]


@pytest.mark.usefixtures("tiles")
def test_runtime_info_names_the_tiles() -> None:
    assert "amx-bf16" in runtime_info()["instructions"]


@pytest.mark.usefixtures("kernels")
def test_a_compiler_that_knows_no_tiles_compiles_the_rest(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    old = tmp_path / "oldcc"
    old.write_text(
        f'#!/bin/sh\nexec {find_compiler().command[0]} "$@" -DATP_NO_AMX\n', encoding="utf-8"
    )
    old.chmod(0o755)
    monkeypatch.setenv("CC", str(old))
    _library.forget()
    found = _library.library()
    assert found is not None and "amx-bf16" not in found.names
    assert found.call.atp_amx(None, None, 0, 0, None, None, 1, 1) == 2
    assert accelerate(sparse_model(), tune=False).sparse_layers == 1


@pytest.mark.usefixtures("kernels")
def test_one_openmp_runtime_serves_torch_and_the_kernels() -> None:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("this system does not tell what is loaded")
    # In a process of its own: other packages bring OpenMP runtimes too.
    code = """if True:
        from pathlib import Path
        from atp_sparse_cpu._library import library
        assert library()
        lines = Path("/proc/self/maps").read_text().splitlines()
        print(len({line.split()[-1] for line in lines if "omp" in line.rpartition("/")[2]}))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


def test_importing_the_plugin_imports_no_torch() -> None:
    code = "import sys, atp_sparse_cpu; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(AttributeError, match="nothing"):
        import atp_sparse_cpu

        _ = atp_sparse_cpu.nothing
