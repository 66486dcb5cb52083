"""The kernels under the address and undefined-behaviour sanitizers."""

from __future__ import annotations

import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest

DRIVER = Path(__file__).with_name("driver.c")


def test_no_access_beyond_and_nothing_undefined(tmp_path: Path) -> None:
    compiler = shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler")
    source = Path(str(files("atp_sparse_cpu") / "_csrc"))
    made = tmp_path / "driver"
    words = [
        compiler, "-std=c11", "-O1", "-g", "-fopenmp", "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all", "-D_DEFAULT_SOURCE", "-D_POSIX_C_SOURCE=200809L",
        f"-I{source}", str(DRIVER), str(source / "linear.c"), str(source / "pack.c"),
        "-o", str(made), "-lm",
    ]  # fmt: skip
    built = subprocess.run(words, capture_output=True, text=True, check=False)
    if built.returncode and "sanitize" in built.stderr:
        pytest.skip(f"no sanitizers: {built.stderr.splitlines()[0]}")
    assert built.returncode == 0, built.stderr
    ran = subprocess.run(
        [str(made)], capture_output=True, text=True, check=False,
        env={"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"},
    )  # fmt: skip
    if "unsupported" in ran.stdout:
        pytest.skip("this processor lacks AVX-512 with VBMI2")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.strip() == "ok"
