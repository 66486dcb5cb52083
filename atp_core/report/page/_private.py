"""What must not be in anything that is published: the folders of a disk, and passwords."""

from __future__ import annotations

import re
from typing import Any, Final

__all__ = ["printable", "shortened"]

# One folder, or the last part; what stands around a path is no part of it.
_PART: Final = r"[^/\s'\"|,;()<>]"
# A path from the root or a home, of which the last part may be told.
_PATH: Final = re.compile(
    rf"(?<![\w.:/~\\-])(?:file://)?(?:~[\w.-]*/|/(?={_PART}+/))(?:{_PART}*/)*(?P<name>{_PART}*)"
)
_TRAILING: Final = re.compile(r"/+$")
_LOGIN: Final = re.compile(r"(?<=://)[^/@\s]+@")
# What neither HTML nor XML can hold.
_UNPRINTABLE: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def shortened(data: Any) -> Any:
    """`data` with paths in its strings cut to their last part, and without logins in addresses.

    What a page cannot hold becomes U+FFFD, the replacement character.

    Args:
        data: as JSON gives it.
    """
    if isinstance(data, dict):
        return {shortened(key): shortened(value) for key, value in data.items()}
    if isinstance(data, list):
        return [shortened(value) for value in data]
    return _text(data) if isinstance(data, str) else data


def printable(text: str) -> str:
    """`text` with U+FFFD in the place of what a page cannot hold."""
    return _UNPRINTABLE.sub("\ufffd", text)


def _text(text: str) -> str:
    text = _LOGIN.sub("", printable(text))
    if text.startswith("/") and "\n" not in text:
        # All of it is a path, whose folders may have spaces in their names.
        return _TRAILING.sub("", text).rpartition("/")[2] or "/"
    return _PATH.sub(_last, text)


def _last(path: re.Match[str]) -> str:
    return path["name"] or _TRAILING.sub("", path[0]).rpartition("/")[2]
