"""Compiling the kernels; for the first use, and for the building of a wheel. Nothing but Python."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

__all__ = ["BUILT", "compile_into", "compiler", "into_package", "source_key"]

BUILT = "_built"
"""Folder of the package with a library that was compiled when it was installed."""
_FLAGS = ("-std=c11", "-O3", "-fPIC", "-shared", "-fopenmp", "-fvisibility=hidden")
_SOURCES = ("linear.c", "pack.c")
_COMPILERS = ("cc", "gcc", "clang")


def source_key(source: Path) -> str:
    """Tells these sources and flags from others."""
    files = sorted(source.iterdir(), key=lambda file: file.name)
    parts = [" ".join(_FLAGS).encode(), *(file.read_bytes() for file in files if file.is_file())]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def compiler() -> str | None:
    """The C compiler: what CC names, or the first there is."""
    asked = os.environ.get("CC")
    for name in (asked,) if asked else _COMPILERS:
        found = shutil.which(name)
        if found is not None:
            return found
    return None


def compile_into(name: str, source: Path, target: Path) -> None:
    """Compile beside the target and rename, so that no other process sees half a library.

    Args:
        name: the compiler.
        source: folder of the C files.
        target: the library.

    Raises:
        OSError: the compiler cannot be run, or nothing be written.
        ValueError: the compiler fails; says what it said.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / "kernels.so"
        words = [name, *_FLAGS, *(str(source / file) for file in _SOURCES), "-o", str(made), "-lm"]
        try:
            ran = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
        except subprocess.TimeoutExpired:
            raise ValueError(f"{name} did not end within 5 minutes") from None
        if ran.returncode:
            lines = [line for line in ran.stderr.splitlines() if "error" in line]
            raise ValueError(f"{name} failed: {lines[0] if lines else ran.stderr.strip()}")
        made.replace(target)


def into_package(package: Path) -> Path:
    """Compile into the package itself.

    Returns:
        The library.

    Raises:
        OSError, ValueError: it cannot be compiled.
    """
    name = compiler()
    if name is None:
        raise ValueError("there is no C compiler")
    source = package / "_csrc"
    target = package / BUILT / f"kernels-{source_key(source)}.so"
    if not target.exists():
        shutil.rmtree(target.parent, ignore_errors=True)
        compile_into(name, source, target)
    return target
