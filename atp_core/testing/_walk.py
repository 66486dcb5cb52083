"""One example on its way through the hooks, as often as the checks want it."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from .._plugins import Plugins
from .._session import Session
from ..recipe import Recipe
from ..records import Chain, LoadedModel, PrunableWeight, Schedule, Source
from ._check import CheckSkipped
from ._example import Example

__all__ = ["Walk", "bits", "no_pickles", "state_bits", "uniform", "weights_of"]


class Walk:
    """Sessions on one example, which is made when first asked for.

    Args:
        plugins: core and the plugin under test.
        plugin: the plugin's name.
        name: name of the example.
        make: writes the example into a directory.
    """

    def __init__(
        self, plugins: Plugins, plugin: str, name: str, make: Callable[[Path], Example]
    ) -> None:
        self.plugins, self.plugin, self.name = plugins, plugin, name
        self._make = make
        self._directory: Callable[[str], Path] | None = None

    def at(self, directory: Callable[[str], Path]) -> Walk:
        """This walk, with a maker of directories if it had none yet."""
        if self._directory is None:
            self._directory = directory
        return self

    def directory(self, name: str) -> Path:
        """A fresh empty directory."""
        assert self._directory is not None
        return self._directory(name)

    @cached_property
    def example(self) -> Example:
        """The example, written once."""
        made = self._make(self.directory(f"example-{self.name}"))
        if not isinstance(made, Example):
            raise TypeError(
                f"the example {self.name!r} gave {type(made).__name__}, not an Example of "
                "atp_core.testing"
            )
        return made

    @property
    def source(self) -> Source:
        """The example's source; a model in memory is a copy of its own each time."""
        source = self.example.source
        if source.model is None:
            return source
        return replace(source, model=copy.deepcopy(source.model))

    @property
    def path(self) -> Path:
        """The file or directory that the example is.

        Raises:
            CheckSkipped: it is a model in memory, or a name.
        """
        path = self.example.source.path
        if path is None:
            raise CheckSkipped("the example is no file or directory")
        return path

    def recipe(self, source: Source, **settings: Any) -> Recipe:
        """A recipe with the example's data settings."""
        data = self.example.data
        known = {
            "source": source.text,
            "sparsity": 0.5,
            "plugin": self.plugin,
            "device": "cpu",
            "calibration": data.calibration,
            "report_data": data.report,
            "samples": data.samples,
            "search_samples": data.search_samples,
            "report_samples": data.report_samples,
            "seqlen": data.seqlen,
            "classes": data.classes,
            "templates": data.templates,
            "batch_size": data.batch_size,
            "seed": data.seed,
        }
        return Recipe.make({**known, **settings})

    def session(self, source: Source | None = None, **settings: Any) -> Session:
        """A new session: nothing is loaded yet.

        Args:
            source: another source than the example's.
            settings: of the recipe.
        """
        source = source or self.source
        return Session(self.recipe(source, **settings), source, plugins=self.plugins)

    @cached_property
    def dense(self) -> Session:
        """A session that no check may prune in."""
        return self.session()

    @cached_property
    def chains(self) -> Sequence[Chain]:
        """All chains of the dense session, also those that are pruned only on request."""
        return self.dense.locate(self.dense.loaded, every=True)

    def everything(self, **settings: Any) -> Session:
        """A new session that prunes every chain."""
        return self.session(chains=[chain.name for chain in self.chains], **settings)


def uniform(chains: Sequence[Chain], rate: float) -> Schedule:
    """The same rate for every block."""
    rates = {chain.name: {block.name: rate for block in chain.blocks} for chain in chains}
    return Schedule(rates, rate, "uniform")


def weights_of(chains: Sequence[Chain]) -> Iterator[PrunableWeight]:
    """Every located weight, in order."""
    for chain in chains:
        for block in chain.blocks:
            yield from block.weights


def bits(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """A hash of the shape, dtype and bits of each tensor."""
    found = {}
    for name, tensor in tensors.items():
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest = hashlib.sha256(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(flat.view(torch.uint8).numpy().tobytes())
        found[name] = digest.hexdigest()
    return found


def state_bits(loaded: LoadedModel) -> dict[str, str]:
    """A hash of every parameter and buffer."""
    return bits(loaded.model.state_dict())


@contextmanager
def no_pickles() -> Iterator[None]:
    """Make `torch.load` an error, for the time of a load."""
    known = torch.load

    def refuse(*arguments: Any, **settings: Any) -> Any:
        raise RuntimeError("torch.load was called: weights must be read from safetensors")

    torch.load = refuse
    try:
        yield
    finally:
        torch.load = known
