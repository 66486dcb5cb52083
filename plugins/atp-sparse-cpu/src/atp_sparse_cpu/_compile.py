"""Compiling the kernels with the C compiler of the machine.

Needs the standard library only: the build of a wheel loads this file by its path.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "FLAGS",
    "LIBRARY",
    "SOURCES",
    "CannotCompile",
    "Compiler",
    "compile_to",
    "find_compiler",
    "source_key",
    "sources",
]

LIBRARY = "libatp_sparse.so"
SOURCES = ("linear.c", "pack.c", "spmm.c", "amx.c")
FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-shared", "-fopenmp", "-fvisibility=hidden")
_FOLDER = Path(__file__).parent / "_csrc"
_TIMEOUT = 120  # seconds


class CannotCompile(Exception):
    """There is no compiler, or it failed; the message says which."""


@dataclass(frozen=True)
class Compiler:
    """A C compiler.

    Attributes:
        command: the program and its first arguments.
        version: the first line of what it says about itself.
    """

    command: tuple[str, ...]
    version: str


def sources() -> list[Path]:
    """The files to compile."""
    return [_FOLDER / name for name in SOURCES]


def source_key() -> str:
    """A hash of everything in the folder of sources, and of the flags."""
    digest = hashlib.sha256(" ".join(FLAGS).encode())
    for path in sorted(_FOLDER.glob("*.[ch]")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:24]


def find_compiler() -> Compiler:
    """The compiler that ``$CC`` names, or the first of cc, gcc, clang.

    Raises:
        CannotCompile: none is there, or this processor is of another family.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        raise CannotCompile(f"the kernels are for x86-64, and this is {platform.machine()}")
    asked = shlex.split(os.environ.get("CC", ""))
    for command in [asked] if asked else [["cc"], ["gcc"], ["clang"]]:
        if found := shutil.which(command[0]):
            told = _run([found, *command[1:], "--version"])
            if told.returncode == 0 and told.stdout.strip():
                return Compiler((found, *command[1:]), told.stdout.splitlines()[0])
    wanted = f"CC={asked[0]} does not work" if asked else "no C compiler (cc, gcc, clang) is there"
    raise CannotCompile(f"{wanted}; install one, e.g. gcc, or set CC")


def compile_to(target: Path, compiler: Compiler) -> None:
    """Compile the kernels into the file `target`.

    Raises:
        CannotCompile: the compiler failed; the message ends with what it said.
    """
    done = _run([*compiler.command, *FLAGS, "-o", str(target), *map(str, sources())])
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        errors = [line for line in said if "error" in line] or said or ["it said nothing"]
        raise CannotCompile(f"{compiler.command[0]} failed: {errors[0]}")


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_TIMEOUT
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))
