"""What a user asks for, checked before a model is loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from atp_core.errors import UsageError
from atp_core.records import Schedule

from ._bits import WIDTHS

__all__ = ["FORMATS", "METHODS", "SETTINGS", "Request", "read_json"]

METHODS = ("rtn", "gptq")
FORMATS = ("auto", "compressed-tensors", "dense")
SETTINGS = frozenset(
    {
        "batch_size", "calibration", "chains", "classes", "device", "dtype", "objective", "plugin",
        "report_data", "report_samples", "revision", "samples", "search_samples", "seed", "seqlen",
        "templates", "trust_remote_code",
    }
)
"""Fields of a recipe that have a meaning here."""


@dataclass(frozen=True)
class Request:
    """What to do to a model.

    Attributes:
        bits: of a weight on average; None where a file gives them.
        method: "rtn" or "gptq".
        allocation: "uniform", "atp", or the path of a file with the bits of every block.
        beta: "search", or bits by which a block has fewer than the one before it.
        widths: that blocks can get, in rising order.
        group_size: neighbouring weights of a row that share a scale; −1 is the whole row.
        symmetric: no zero points.
        clip: choose scales by the squared error.
        sparsity: share of the weights to cut in the same pass, alike in all blocks.
        schedule: file of the rates to cut instead.
        format: "auto", "compressed-tensors" or "dense".
        baseline: measure uniform bits too.

    Raises:
        UsageError: something is wrong; says what.
    """

    bits: float | None = None
    method: Literal["rtn", "gptq"] = "gptq"
    allocation: str = "atp"
    beta: float | Literal["search"] = "search"
    widths: Sequence[int] = WIDTHS
    group_size: int = 128
    symmetric: bool = True
    clip: bool = True
    sparsity: float = 0.0
    schedule: str | Path | None = None
    format: str = "auto"
    baseline: bool = True

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(f"method {self.method!r} is none of {', '.join(METHODS)}")
        if self.format not in FORMATS:
            raise UsageError(f"format {self.format!r} is none of {', '.join(FORMATS)}")
        widths = list(self.widths)
        if not widths or widths != sorted(set(widths)) or not set(widths) <= set(WIDTHS):
            raise UsageError(
                f"widths {', '.join(map(str, widths)) or 'none'}: give some of "
                f"{', '.join(map(str, WIDTHS))}, in rising order"
            )
        if self.from_file:
            if self.bits is not None:
                raise UsageError("the file of bits says how many there are; leave out bits")
        elif self.bits is None:
            raise UsageError("say how many bits a weight gets on average, e.g. --bits 4")
        elif not widths[0] <= self.bits <= widths[-1]:
            raise UsageError(
                f"an average of {self.bits:g} bits cannot be met with widths from {widths[0]} to "
                f"{widths[-1]}; give other bits or widths"
            )
        if self.group_size != -1 and self.group_size < 1:
            raise UsageError(
                f"a group has 1 weight or more, or is a whole row (-1), not {self.group_size}"
            )
        if self.beta != "search" and not math.isfinite(self.beta):
            raise UsageError(f"beta must be 'search' or a number, not {self.beta!r}")
        if not 0.0 <= self.sparsity < 1.0:
            raise UsageError(f"sparsity must be in the range [0, 1), not {self.sparsity:g}")
        if self.schedule is not None and self.sparsity:
            raise UsageError("the schedule says how much is cut; leave out sparsity")
        if self.cuts and self.method == "rtn":
            raise UsageError(
                "rtn rounds and cuts nothing; take --method gptq, or prune first and quantize "
                "the result"
            )

    @property
    def from_file(self) -> bool:
        """Whether a file gives the bits of every block."""
        return self.allocation not in ("uniform", "atp")

    @property
    def searches(self) -> bool:
        """Whether β is searched."""
        return self.allocation == "atp" and self.beta == "search"

    @property
    def cuts(self) -> bool:
        """Whether weights are cut in the same pass."""
        return self.schedule is not None or self.sparsity > 0.0

    def rates(self, chains: Sequence[Any]) -> dict[tuple[str, str], float]:
        """The share of each block's weights to cut, by chain and block.

        Raises:
            UsageError: the schedule cannot be read, or is another model's.
        """
        if not self.cuts:
            return {}
        read = None
        if self.schedule is not None:
            read = Schedule.from_dict(read_json(self.schedule, "a schedule.json of atp search"))
        return {
            (chain.name, block.name): rate
            for chain in chains
            for block, rate in zip(
                chain.blocks,
                [self.sparsity] * len(chain.blocks) if read is None else read.of(chain),
                strict=True,
            )
        }

    def to_dict(self) -> dict[str, Any]:
        """The request as JSON-ready data; a file without its folder."""
        data = {**vars(self), "widths": list(self.widths)}
        if self.schedule is not None:
            data["schedule"] = Path(self.schedule).name
        if self.from_file:
            data["allocation"] = Path(self.allocation).name
        return data


def read_json(path: str | Path, what: str) -> Mapping[str, Any]:
    """The object in a JSON file.

    Raises:
        UsageError: it cannot be read or holds none.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise UsageError(f"cannot read {path}: {error}; give {what}") from None
    if not isinstance(data, dict):
        raise UsageError(f"{path} holds no JSON object; give {what}")
    return data
