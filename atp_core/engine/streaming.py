"""A model whose weights stay on disk: those of a block are in memory while the block is at hand.

Hooks on the modules bring weights in before they are used and let go of them afterwards, so the
model's own forward runs as ever. Where many batches are run, the lockstep of `lockstep.py` holds a
block for all of them, and each weight is read once a pass.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import torch
from torch import nn

from ..errors import ModelError, NumericalError
from ..progress import NullProgress, Progress
from ..records import Chain, PrunableWeight
from ..store import WeightStore
from ._libc import return_large_blocks
from .lockstep import Lockstep
from .parking import Parking
from .placement import Placement
from .snapshot import Snapshot

__all__ = ["Stream", "StreamPlacement", "StreamSnapshot"]

B = TypeVar("B")
R = TypeVar("R")

_SMALL: Final = 1 << 20
"""Bytes of a module outside all blocks from which on it is worth reading when it is called."""


@dataclass
class _Tensor:
    """A parameter or persistent buffer of the model.

    Attributes:
        name: in the store.
        empty: what stands in its place while it is on disk: one NaN, as large as need be.
        places: modules and names it is found under; several where it is tied.
    """

    name: str
    empty: torch.Tensor
    places: list[tuple[nn.Module, str]]

    @property
    def nbytes(self) -> int:
        return int(self.empty.numel() * self.empty.element_size())

    def put(self, value: torch.Tensor) -> None:
        for module, name in self.places:
            table = module._parameters if name in module._parameters else module._buffers
            table[name] = value  # type: ignore[assignment]

    @property
    def value(self) -> torch.Tensor:
        module, name = self.places[0]
        return getattr(module, name)  # type: ignore[no-any-return]

    @property
    def away(self) -> bool:
        return self.value is self.empty


class Stream:
    """Brings the weights of a model on the meta device into memory and out again.

    In memory are the block at hand; of what lies outside blocks the modules that have been called
    since the last block, where they are large; and the small ones always.

    Args:
        model: on the meta device, with real non-persistent buffers.
        store: its weights.
        chains: all its chains, located while it was on the meta device.
        scratch: a directory on disk, for pruned blocks and activations.
        device: where blocks run; None is the CPU.
        small: bytes up to which a module outside all blocks stays in memory.

    Attributes:
        chains: the same; their weights are found wherever they are.
        placement: for `atp_core.engine.placement.Placement.of`.
        progress: where passes over the model are shown.
        resident: bytes of weights in memory.
        peak: the most there have been.
        room: bytes of activations that `map` may hold; None is no limit.

    Raises:
        ModelError: a weight is not stored, has another shape there, or a buffer has no numbers.
    """

    def __init__(
        self,
        model: nn.Module,
        store: WeightStore,
        chains: Sequence[Chain],
        scratch: Path,
        *,
        device: torch.device | None = None,
        small: int = _SMALL,
    ) -> None:
        self.store = store
        self.progress: Progress = NullProgress()
        self.resident = self.peak = 0
        self.room: int | None = None
        self._device = device or torch.device("cpu")
        self._scratch = scratch
        self.chains = chains
        self._names = {
            module: name for name, module in model.named_modules(remove_duplicate=False)
        }
        self._tensors = _tensors(model, store)
        self._at = {
            (module, name): tensor for tensor in self._tensors for module, name in tensor.places
        }
        for tensor in self._tensors:
            tensor.put(tensor.empty)
        self._blocks = {
            block.module: self._inside(block.module) for chain in chains for block in chain.blocks
        }
        self._held: Counter[str] = Counter()
        self._checked: set[str] = set()
        self._lazy: dict[nn.Module, list[_Tensor]] = {}
        self._loaded: list[nn.Module] = []
        self._calls: Counter[nn.Module] = Counter()
        self._handles: list[Any] = []
        self.placement = StreamPlacement(self, self._device)
        for chain in chains:
            chain.placement = self.placement
            for block in chain.blocks:
                for weight in block.weights:
                    weight.reader = self.look
        return_large_blocks()
        self._hook(model, small)

    def _hook(self, model: nn.Module, small: int) -> None:
        within = {part for block in self._blocks for part in block.modules()}
        inner = {tensor.name for own in self._blocks.values() for tensor in own}
        for module in model.modules():
            if module in self._blocks:
                self._handles += [
                    module.register_forward_pre_hook(self._before_block),
                    module.register_forward_hook(self._after_block, always_call=True),
                ]
            if module in within:
                continue
            own = self._inside(module, deep=False)
            size = sum(tensor.nbytes for tensor in own)
            leaf = next(module.children(), None) is None
            if own and leaf and size > small and not any(t.name in inner for t in own):
                self._lazy[module] = own
                self._handles += [
                    module.register_forward_pre_hook(self._before_lazy, with_kwargs=True),
                    module.register_forward_hook(self._after_lazy),
                ]
        later = {tensor.name for own in self._lazy.values() for tensor in own}
        always = [t for t in self._tensors if t.name not in inner and t.name not in later]
        # They meet activations between blocks, which wait on the CPU.
        self._bring(always, torch.device("cpu"))

    def export(self, directory: Path) -> list[Path]:
        """Write the model as it stands, in the layout of transformers; nothing is read after it.

        Returns:
            The files that hold weights.
        """
        dtypes = {tensor.name: tensor.empty.dtype for tensor in self._tensors}
        return self.store.export(directory, dtypes)

    @property
    def largest_block(self) -> int:
        """Bytes."""
        return max(sum(t.nbytes for t in own) for own in self._blocks.values())

    @property
    def largest_outside(self) -> int:
        """Bytes of the largest module outside all blocks that is not always in memory."""
        return max((sum(t.nbytes for t in own) for own in self._lazy.values()), default=0)

    @property
    def always(self) -> int:
        """Bytes of what is always in memory."""
        moving = {t.name for own in (*self._blocks.values(), *self._lazy.values()) for t in own}
        return sum(t.nbytes for t in self._tensors if t.name not in moving)

    # --- in and out ------------------------------------------------------------------------------

    @contextmanager
    def held(self, module: nn.Module) -> Iterator[None]:
        """Keep the weights of a block in memory inside the context; changes are let go of after it.

        Raises:
            NumericalError: one holds NaN or infinity.
        """
        self.evict()
        own = self._blocks[module]
        self._bring(own)
        try:
            self._check(module, own)
            yield
        finally:
            self._drop(own)

    def keep(self, module: nn.Module) -> None:
        """Write a block that is in memory as it stands; it is read so from now on."""
        values = {tensor.name: tensor.value for tensor in self._blocks[module]}
        self.store.replace(values, self._scratch)

    def evict(self) -> None:
        """Let go of what was read for modules outside all blocks."""
        for module in self._loaded:
            self._drop(self._lazy[module])
        self._loaded.clear()

    def reset(self) -> None:
        """Let all weights be those of the source again."""
        self.evict()
        self.store.reset()

    def look(self, weight: PrunableWeight) -> torch.Tensor:
        """The parameter that holds a weight; a copy of it, on the CPU, if it is on disk."""
        tensor = self._at[weight.module, weight.parameter]
        return self._read(tensor) if tensor.away else tensor.value.detach()

    def close(self) -> None:
        """Take the hooks away, and all weights out of memory."""
        self.evict()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._drop(tensor for tensor in self._tensors if not tensor.away)

    def _inside(self, module: nn.Module, *, deep: bool = True) -> list[_Tensor]:
        found: dict[str, _Tensor] = {}
        for part in module.modules() if deep else [module]:
            for name in (*part._parameters, *part._buffers):
                if (tensor := self._at.get((part, name))) is not None:
                    found[tensor.name] = tensor
        return list(found.values())

    def _bring(self, tensors: Iterable[_Tensor], device: torch.device | None = None) -> None:
        # Parameters made under inference mode would be unusable outside it.
        with torch.inference_mode(False), torch.no_grad():
            for tensor in tensors:
                self._held[tensor.name] += 1
                if self._held[tensor.name] > 1:
                    continue
                value = self._read(tensor).to(device or self._device)
                if isinstance(tensor.empty, nn.Parameter):
                    value = nn.Parameter(value, tensor.empty.requires_grad)
                tensor.put(value)
                self.resident += tensor.nbytes
                self.peak = max(self.peak, self.resident)

    def _drop(self, tensors: Iterable[_Tensor]) -> None:
        for tensor in tensors:
            self._held[tensor.name] -= 1
            if self._held[tensor.name] == 0:
                tensor.put(tensor.empty)
                self.resident -= tensor.nbytes

    def _read(self, tensor: _Tensor) -> torch.Tensor:
        value = self.store.read(tensor.name)
        if value.shape != tensor.empty.shape:
            raise ModelError(
                f"{tensor.name} is {tuple(value.shape)} in the checkpoint and "
                f"{tuple(tensor.empty.shape)} in the model; check its config.json"
            )
        return value.to(tensor.empty.dtype)

    def _check(self, module: nn.Module, tensors: Sequence[_Tensor]) -> None:
        block = self._names[module]
        if block in self._checked:
            return
        for tensor in tensors:
            value = tensor.value
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise NumericalError(
                    f"{tensor.name} in block {block} holds NaN or infinity; "
                    "the checkpoint is damaged, or overflowed in its dtype"
                )
        self._checked.add(block)

    # --- hooks ------------------------------------------------------------------------------------

    def _before_block(self, module: nn.Module, args: Any) -> None:
        """A block that nobody holds is read for one call."""
        self._calls[module] += 1
        self._bring(self._blocks[module])

    def _after_block(self, module: nn.Module, args: Any, output: Any) -> None:
        # Also called where the call failed, perhaps before the block was read for it.
        if self._calls[module]:
            self._calls[module] -= 1
            self._drop(self._blocks[module])

    def _before_lazy(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        if module not in self._loaded:
            self._loaded.append(module)
            self._bring(self._lazy[module])
        return self.placement.to_device((args, kwargs))

    def _after_lazy(self, module: nn.Module, args: Any, output: Any) -> Any:
        return self.placement.to_home(output)

    # --- running ----------------------------------------------------------------------------------

    def map(self, step: Callable[[B], R], batches: Sequence[B]) -> list[R]:
        """What `step` gives for every batch, with each block read once for many batches.

        Args:
            step: runs the model on one batch, reaching every block of every chain.
            batches: what it takes.

        Raises:
            ModelError: a step fails, or blocks are reached in another order than they were
                located in.
        """
        found: list[R] = []
        groups = list(self._groups(batches))
        total = len(groups) * len(self._blocks)
        # Steps that turn inference mode on and off interleave; they must find it on already.
        with torch.inference_mode(), self.progress.task("streaming the model", total) as advance:
            for group in groups:
                lockstep = Lockstep(step, group, self.chains, self.placement, to_end=True)
                with lockstep:
                    for stop in lockstep:
                        advance(stop.block.name)
                found += lockstep.results
        self.evict()
        return found

    def _groups(self, batches: Sequence[B]) -> Iterator[Sequence[B]]:
        """Batches in groups whose activations fit."""
        if self.room is None:
            yield batches
            return
        group: list[B] = []
        size = 0
        for batch in batches:
            own = self.activations(batch)
            if group and size + own > self.room:
                yield group
                group, size = [], 0
            group.append(batch)
            size += own
        if group:
            yield group

    def activations(self, batch: object) -> int:
        """Bytes of the activations that wait before a block, of a batch with tokens by number."""
        weight = self.chains[0].blocks[0].weights[0]
        leaves = torch.utils._pytree.tree_leaves(batch)
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        tokens = sum(one.numel() for one in tensors if not one.is_floating_point())
        item = self._at[weight.module, weight.parameter].empty.element_size()
        return int(tokens * weight.shape[1] * item)


class StreamPlacement(Placement):
    """The placement of a model that is streamed.

    Args:
        stream: what brings blocks into memory.
        device: where they run.

    Attributes:
        parking: where activations wait; None is in memory.
    """

    def __init__(self, stream: Stream, device: torch.device) -> None:
        super().__init__(device)
        self.parking: Parking | None = None
        self._stream = stream
        self._remote = self.moves

    def park_in(self, directory: Path) -> None:
        """Let activations wait on disk from now on."""
        self.parking = Parking(directory)
        self.moves = True

    @contextmanager
    def on_device(self, module: nn.Module) -> Iterator[None]:
        """Keep `module` in memory, on the device, inside the context."""
        with self._stream.held(module):
            yield

    def keep(self, module: nn.Module) -> None:
        """Write what was done to the weights of a module that is on the device."""
        self._stream.keep(module)

    def park(self, tree: Any) -> None:
        """Put activations on disk, if that is where they wait."""
        if self.parking is not None:
            self.parking.park(tree)

    def to_device(self, tree: Any) -> Any:
        """`tree` with every tensor in memory, on the device."""
        if self.parking is not None:
            tree = self.parking.fetch(tree)
        return self._map(tree, self.device) if self._remote else tree

    def to_home(self, tree: Any) -> Any:
        """`tree` with every tensor back on the CPU."""
        return self._map(tree, self.home) if self._remote else tree


class StreamSnapshot(Snapshot):
    """The weights as they were loaded: those of the source, which nothing writes to.

    Args:
        stream: the model.
    """

    def __init__(self, stream: Stream) -> None:
        super().__init__([])
        self._stream = stream

    def restore(self) -> None:
        """Put every weight back, if anything may have changed one."""
        if self.stale:
            self._stream.reset()
        self.stale = False


def _tensors(model: nn.Module, store: WeightStore) -> list[_Tensor]:
    """The parameters and persistent buffers on the meta device, those that are tied once."""
    found: dict[int, _Tensor] = {}
    modules = dict(model.named_modules(remove_duplicate=False))
    parameters = model.named_parameters(remove_duplicate=False)
    for name, value in (*parameters, *model.named_buffers(remove_duplicate=False)):
        if not value.is_meta:
            continue
        parent, _, own = name.rpartition(".")
        place = (modules[parent], own)
        known = found.setdefault(id(value), _Tensor(name, _placeholder(value), []))
        # Of a tied tensor only one name may be stored.
        if known.name not in store and name in store:
            known.name = name
        known.places.append(place)
    missing = store.missing(tensor.name for tensor in found.values())
    if missing:
        raise ModelError(
            f"the checkpoint has no {missing[0]} ({len(missing)} of {len(found)} weights of "
            f"{type(model).__name__} are not stored under their names); prune this model in "
            "memory, without --max-memory"
        )
    return list(found.values())


def _placeholder(like: torch.Tensor) -> torch.Tensor:
    """What stands for a weight on disk: of its shape and dtype, and of a single number.

    On the meta device it would take no memory either. But models ask their parameters where to make
    further tensors, and what is made there is without numbers too, some of it without an error. A
    weight that is used although nobody brought it in makes all that depends on it NaN.
    """
    value = math.nan if like.is_floating_point() else 0
    found = torch.full((), value, dtype=like.dtype).expand(like.shape)
    return nn.Parameter(found, like.requires_grad) if isinstance(like, nn.Parameter) else found
