"""The kinds of plugins there are templates for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from .._plugins import Kind as Offered

__all__ = ["KINDS", "Kind", "Template"]

Kind = Literal["model", "method", "allocator", "executor", "runtime"]
"""What a new plugin offers."""


@dataclass(frozen=True)
class Template:
    """What is particular to a kind, beside its files.

    Attributes:
        what: what the plugin offers, in words.
        description: line for its ``pyproject.toml``; ``{}`` is the plugin's name.
        requires: what it needs beside atp-prune.
        offers: where others may offer the same name already; None where nothing is named.
    """

    what: str
    description: str
    requires: tuple[str, ...] = ()
    offers: Offered | None = None


KINDS: Final[Mapping[Kind, Template]] = {
    "model": Template(
        "an architecture",
        "atp-prune plugin for {} models",
        requires=("safetensors>=0.4.5", "torch>=2.6"),
    ),
    "method": Template(
        "a pruning method",
        "Pruning method {} for atp-prune",
        requires=("torch>=2.6",),
        offers="methods",
    ),
    "allocator": Template(
        "an allocation of sparsity over blocks",
        "Allocation {} for atp-prune",
        offers="allocators",
    ),
    "executor": Template(
        "a way to run the trials of a search",
        "Executor {} for the searches of atp-prune",
        offers="executors",
    ),
    "runtime": Template(
        "a way to execute pruned models",
        "Runtime {} for models that atp-prune pruned",
        requires=("torch>=2.6",),
        offers="runtimes",
    ),
}
"""Every kind of plugin, by the word that `--kind` takes."""
