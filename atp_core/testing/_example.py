"""What a plugin gives the conformance suite: a tiny model, and data to walk it with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..records import DataRequest, Source

__all__ = ["Example"]


@dataclass(frozen=True)
class Example:
    """A tiny model that a plugin handles, offered through `atp_examples`.

    A few blocks of width 16 and a few dozen samples are enough; everything has to run in seconds
    on a CPU, without a network.

    Attributes:
        source: the model; a directory that holds it, or a model in memory.
        data: calibration and report data, and how much of them.
        alone: Python that loads the directory named by the variable `directory` with the
            ecosystem's own library and leaves the module in `model`, e.g. ``"import transformers;
            model = transformers.AutoModel.from_pretrained(directory)"``. It runs where neither
            atp-prune nor the plugin can be imported.
        unsupported: sources that the plugin must refuse with a clear error.
    """

    source: Source
    data: DataRequest = field(default_factory=DataRequest)
    alone: str | None = None
    unsupported: Sequence[Source] = ()
