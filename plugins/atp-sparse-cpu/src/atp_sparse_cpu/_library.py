"""The compiled kernels: found in the wheel or the cache, else compiled; loaded with ctypes."""

from __future__ import annotations

import ctypes
import hashlib
import platform
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# torch brings the OpenMP runtime that the kernels are to share: it must be loaded first.
import torch

from . import _cache
from ._compile import (
    LIBRARY,
    CannotCompile,
    compile_to,
    find_compiler,
    source_key,
)

__all__ = ["WEIGHT", "Library", "forget", "library", "runtime_info", "unavailable"]

_FEATURES = {1: "avx512-vbmi2", 2: "avx512-bf16", 4: "avx512-vnni", 8: "amx-bf16"}
_I64, _INT, _PTR = ctypes.c_int64, ctypes.c_int, ctypes.c_void_p


class WEIGHT(ctypes.Structure):
    """`atp_weight` of sparse.h."""

    _fields_ = (
        ("n", _I64),
        ("k", _I64),
        ("masks", _PTR),
        ("values", _PTR),
        ("offsets", _PTR),
        ("scales", _PTR),
    )


_SIGNATURES: dict[str, list[Any]] = {
    "atp_features": [],
    "atp_linear": [_INT, _PTR, _PTR, _I64, _I64, _PTR, _PTR, _INT, _INT],
    "atp_spmm": [_PTR, _PTR, _I64, _I64, _PTR, _PTR, _INT, _INT],
    "atp_amx": [_PTR, _PTR, _I64, _I64, _PTR, _PTR, _INT, _INT],
    "atp_count": [_PTR, _I64, _I64, _INT, _PTR],
    "atp_pack": [_PTR, _I64, _I64, _INT, _PTR, _PTR],
    "atp_pack_int8": [_PTR, _I64, _I64, _PTR, _PTR, _PTR],
    "atp_unpack": [_PTR, _INT, _I64, _I64, _PTR, _INT],
    "atp_unpack_int8": [_PTR, _INT, _I64, _I64, _PTR, _INT],
    "atp_huge_pages": [_PTR, _I64],
}


@dataclass(frozen=True)
class Library:
    """Loaded kernels.

    Attributes:
        call: the C functions.
        features: bits of atp_features().
        origin: "wheel", "cache", "compiled now".
        compiler: what compiled it, where that is known.
        key: hash of sources and flags; part of what measured choices are kept by.
    """

    call: Any
    features: int
    origin: str
    compiler: str
    key: str

    @property
    def names(self) -> list[str]:
        """Instruction sets that the kernels use here."""
        return [name for bit, name in _FEATURES.items() if self.features & bit]


_lock = threading.Lock()
_found: Library | str | None = None


def library() -> Library | None:
    """The kernels, or None where there are none; `unavailable` then says why. Asked once."""
    found = _once()
    return found if isinstance(found, Library) else None


def unavailable() -> str:
    """Why there are no kernels, with a remedy; empty where there are."""
    found = _once()
    return found if isinstance(found, str) else ""


def forget() -> None:
    """Look again at the next call, e.g. after a compiler was installed."""
    global _found
    with _lock:
        _found = None


def runtime_info() -> Mapping[str, str]:
    """What is live in this process.

    Returns:
        `path` ("avx512" or "dense") and `reason`; `instructions`, `compiler`, `library` where
        there are kernels; `threads` as of now, and `cpu`.
    """
    found = _once()
    info = {"cpu": cpu_name(), "threads": str(torch.get_num_threads())}
    if isinstance(found, str):
        return {"path": "dense", "reason": found, **info}
    return {
        "path": "avx512",
        "reason": "this processor expands packed weights in registers (AVX-512 VBMI2)",
        "instructions": ", ".join(found.names),
        "compiler": found.compiler,
        "library": found.origin,
        **info,
    }


def cpu_name() -> str:
    """Model of the processor, with its family and stepping: names alone are reused in clouds."""
    wanted = ("vendor_id", "cpu family", "model", "model name", "stepping", "cache size")
    found: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in wanted:
                found.setdefault(name.strip(), value.strip())
    except OSError:
        return platform.processor() or platform.machine()
    return " / ".join(found.get(name, "?") for name in wanted)


def _once() -> Library | str:
    global _found
    with _lock:
        if _found is None:
            try:
                _found = _find()
            except CannotCompile as error:
                _found = str(error)
        return _found


def _find() -> Library | str:
    key = source_key()
    prebuilt = Path(__file__).parent / "_prebuilt" / LIBRARY
    stamp = prebuilt.with_suffix(".key")
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == key:
        try:
            return _load(prebuilt, "wheel", "the wheel's", key)
        except OSError:
            pass  # built for another C library: compile here
    compiler = find_compiler()
    full = hashlib.sha256(f"{key} {compiler.command} {compiler.version}".encode()).hexdigest()[:24]
    try:
        target = _cache.folder() / f"kernels-{full}.so"
    except OSError:
        # No place that lasts: compile for this process alone.
        with tempfile.TemporaryDirectory(prefix="atp-sparse-cpu-") as work:
            compile_to(Path(work) / LIBRARY, compiler)
            return _load(Path(work) / LIBRARY, "compiled now", compiler.version, key)
    if _is_whole(target):
        try:
            return _load(target, "cache", compiler.version, key)
        except OSError:
            pass  # whole, yet of another machine (a home directory that several share)
    with tempfile.TemporaryDirectory(prefix=".compiling-", dir=target.parent) as work:
        fresh = Path(work) / LIBRARY
        compile_to(fresh, compiler)
        content = fresh.read_bytes()
    # The sum last: without it, or with another one, the library counts as broken.
    _cache.write(target, content)
    _cache.write(target.with_suffix(".sha256"), hashlib.sha256(content).hexdigest().encode())
    return _load(target, "compiled now", compiler.version, key)


def _is_whole(target: Path) -> bool:
    """Loading a truncated library could end the process."""
    try:
        told = target.with_suffix(".sha256").read_text(encoding="utf-8").strip()
        return hashlib.sha256(target.read_bytes()).hexdigest() == told
    except (OSError, UnicodeDecodeError):
        return False


def _load(path: Path, origin: str, compiler: str, key: str) -> Library | str:
    """Load a library.

    Raises:
        OSError: the system cannot load it.
    """
    call = ctypes.CDLL(str(path))
    for name, arguments in _SIGNATURES.items():
        function = getattr(call, name)
        function.argtypes = arguments
        function.restype = None if name == "atp_huge_pages" else _INT
    features = int(call.atp_features())
    if not features & 1:
        return (
            "this processor lacks AVX-512 with VBMI2 (Intel since Ice Lake, AMD since Zen 4), and "
            "older instructions do not gain enough"
        )
    return Library(call, features, origin, compiler, key)
