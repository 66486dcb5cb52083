"""The kernels as a shared library: compiled once, found again, loaded without torch's headers."""

from __future__ import annotations

import ctypes
import functools
import os
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from ._build import BUILT, compile_into, compiler, source_key

__all__ = ["Kernels", "Weight", "cache_directory", "kernels"]


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

    package = Path(str(files("atp_sparse_cpu")))
    source = package / "_csrc"
    key = source_key(source)
    built = package / BUILT / f"kernels-{key}.so"
    library = _load(built) if built.exists() else None
    if library is None:
        name = compiler()
        if name is None:
            return Kernels(
                None, reason="there is no C compiler: install gcc or clang, or set CC to one"
            )
        built = cache_directory() / f"kernels-{key}.so"
        try:
            library = _load(built) if built.exists() else None
            if library is None:
                compile_into(name, source, built)
                library = _load(built)
        except (OSError, ValueError) as error:
            return Kernels(None, reason=f"the kernels cannot be built: {error}")
    if library is None:
        return Kernels(None, reason=f"the kernels in {built} cannot be loaded; remove the file")
    features = int(library.atp_features())
    if not features:
        return Kernels(None, reason="this processor lacks AVX-512 with VBMI2")
    return Kernels(library, features, str(built), key)


def _load(path: Path) -> ctypes.CDLL | None:
    """The library, or None where the file is damaged; it is then made anew."""
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
        return None
    return library

