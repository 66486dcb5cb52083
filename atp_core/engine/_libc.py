"""What the C library is asked for, so that memory that is not needed does not count as in use."""

from __future__ import annotations

import ctypes
import os
from typing import Any, Final

__all__ = ["drop_pages", "return_large_blocks"]

_DONTNEED: Final = 4
"""MADV_DONTNEED of Linux and macOS."""

_MMAP_THRESHOLD: Final = -3
"""M_MMAP_THRESHOLD of glibc."""

_LARGE: Final = 1 << 20


def drop_pages(address: int, size: int) -> None:
    """Take the pages of a file's mapping out of memory; their content stays in the file.

    Raises:
        OSError: there is no such mapping.
    """
    library = _library()
    found = library.madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), _DONTNEED)
    if found != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def return_large_blocks() -> None:
    """Have memory of 1 MiB and more go back to the system as soon as it is freed, from now on.

    glibc keeps freed memory of up to 32 MiB for itself, and cannot always use it again for tensors,
    which are aligned. Other C libraries have no such setting.
    """
    library = _library()
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(_MMAP_THRESHOLD, _LARGE)


def _library() -> Any:
    return ctypes.CDLL(None, use_errno=True)
