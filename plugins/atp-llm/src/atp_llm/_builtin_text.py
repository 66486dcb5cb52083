"""Text that every Python installation carries: the language reference behind ``help()``."""

from __future__ import annotations

import importlib
import platform

from atp_core.errors import DataError

from ._plain import paragraph_groups

__all__ = ["builtin_documents"]


def builtin_documents() -> tuple[str, list[str]]:
    """Name and documents: ``pydoc_data.topics``, about 465,000 characters in 79 topics.

    Long topics are cut between paragraphs into documents of 2,000 characters and more. It is
    technical prose of one kind: enough to try things out, to compare schedules and to run without
    a network, not a stand-in for the text a model will meet.

    Raises:
        DataError: this Python was installed without it.
    """
    try:
        topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    except (ImportError, AttributeError):
        raise DataError(
            "the builtin text (pydoc_data.topics) is missing from this Python installation; "
            "give text of your own with --calibration FILE and --report-data FILE"
        ) from None
    version = ".".join(platform.python_version_tuple()[:2])
    found = [group for name in sorted(topics) for group in paragraph_groups(topics[name])]
    return f"builtin text (documentation of Python {version})", found
