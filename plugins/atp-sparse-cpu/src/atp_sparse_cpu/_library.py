"""The kernels as a shared library: compiled once, found again, loaded without torch's headers."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

__all__ = ["Kernels", "Weight", "cache_directory", "kernels"]

_FLAGS = ("-std=c11", "-O3", "-fPIC", "-shared", "-fopenmp", "-fvisibility=hidden")
_SOURCES = ("linear.c", "pack.c")
_COMPILERS = ("cc", "gcc", "clang")


class Weight(ctypes.Structure):
    """`atp_weight` of sparse.h."""

    _fields_ = (
        ("n", ctypes.c_int64),
        ("k", ctypes.c_int64),
        ("masks", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("offsets", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
    )


@dataclass(frozen=True)
class Kernels:
    """What can be used here.

    Attributes:
        library: the loaded library, or None.
        features: bits of the instruction sets that kernels exist for.
        reason: why there is none, or where it is.
        key: tells this build from others.
    """

    library: ctypes.CDLL | None
    features: int = 0
    reason: str = ""
    key: str = ""


def cache_directory() -> Path:
    """Where compiled kernels and timings are kept: below XDG_CACHE_HOME, or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "atp-prune" / "sparse-cpu"


@functools.cache
def kernels() -> Kernels:
    """The kernels, compiled on first use; asked for once a process."""
    import torch  # noqa: F401  (its OpenMP runtime is loaded first, and then shared)

    source = files("atp_sparse_cpu") / "_csrc"
    compiler = _compiler()
    if compiler is None:
        return Kernels(
            None, reason="there is no C compiler: install gcc or clang, or set CC to one"
        )
    texts = [one.read_bytes() for one in sorted(source.iterdir(), key=lambda one: one.name)]
    told = "\0".join((compiler, _version(compiler), *_FLAGS)).encode()
    key = hashlib.sha256(b"\0".join([told, *texts])).hexdigest()[:16]
    target = cache_directory() / f"kernels-{key}.so"
    try:
        library = _load(target) if target.exists() else None
        if library is None:
            _compile(compiler, Path(str(source)), target)
            library = _load(target)
    except (OSError, subprocess.SubprocessError) as error:
        return Kernels(None, reason=f"the kernels cannot be built: {_told(error)}")
    if library is None:
        return Kernels(None, reason=f"the kernels in {target} cannot be loaded; remove the file")
    features = int(library.atp_features())
    if not features:
        return Kernels(None, reason="this processor lacks AVX-512 with VBMI2")
    return Kernels(library, features, str(target), key)


def _compiler() -> str | None:
    asked = os.environ.get("CC")
    for name in (asked,) if asked else _COMPILERS:
        found = shutil.which(name)
        if found is not None:
            return found
    return None


def _version(compiler: str) -> str:
    ran = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    return ran.stdout.partition("\n")[0]


def _compile(compiler: str, source: Path, target: Path) -> None:
    """Compile beside the target and rename, so that no other process sees half a library."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / "kernels.so"
        words = [compiler, *_FLAGS, *(str(source / name) for name in _SOURCES), "-o", str(made)]
        subprocess.run([*words, "-lm"], capture_output=True, text=True, check=True, timeout=120)
        made.replace(target)


def _load(path: Path) -> ctypes.CDLL | None:
    """The library, or None where the file is damaged."""
    try:
        library = ctypes.CDLL(str(path))
        pointer, integer, size = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
        weight = ctypes.POINTER(Weight)
        library.atp_features.argtypes = []
        library.atp_linear.argtypes = [
            integer, weight, pointer, size, size, pointer, pointer, integer, integer,
        ]  # fmt: skip
        library.atp_count.argtypes = [pointer, size, size, integer, pointer]
        library.atp_pack.argtypes = [pointer, size, size, integer, pointer, pointer]
        library.atp_pack_int8.argtypes = [pointer, size, size, pointer, pointer, pointer]
        library.atp_unpack.argtypes = [weight, integer, size, size, pointer, integer]
        library.atp_unpack_int8.argtypes = [weight, integer, size, size, pointer, integer]
        library.atp_huge_pages.argtypes = [pointer, size]
        library.atp_huge_pages.restype = None
    except (OSError, AttributeError):
        path.unlink(missing_ok=True)
        return None
    return library


def _told(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        lines = [line for line in error.stderr.splitlines() if "error" in line] or ["no message"]
        return f"{error.cmd[0]} failed: {lines[0]}"
    return str(error)
