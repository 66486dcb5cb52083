"""Lockstep forwards: all batches stand at the same block, each in its own forward.

Every batch's forward runs in a coroutine of its own; a forward pre-hook on each block hands
control back to the driver. Between two blocks the model's own code runs, whatever it does, so
nothing here knows how a block is called or what lies between blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from greenlet import GreenletExit, getcurrent, greenlet
from torch import nn

from ..errors import AtpError, ModelError
from ..records import Block, Chain
from .placement import Placement

__all__ = ["Call", "Lockstep", "Stop"]


@dataclass
class Call:
    """The arguments one batch's forward is about to give a block."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass
class Stop:
    """All batches stand before `block`, which none of them has run yet.

    Attributes:
        chain: the chain the block belongs to.
        block: the block.
        calls: what each batch will call it with, in the order of the batches.
    """

    chain: Chain
    block: Block
    calls: list[Call]


class _Runner(greenlet):
    """The forward of one batch."""

    def __init__(self, lockstep: Lockstep, batch: Any) -> None:
        super().__init__(parent=getcurrent())
        self.lockstep = lockstep
        self.batch = batch
        self.visited: set[int] = set()
        self.result: Any = None

    def run(self) -> None:
        """Run the forward to its end; returning switches to the driver with None."""
        result = self.lockstep.forward(self.batch)
        if self.lockstep.to_end:
            self.result = result


class Lockstep:
    """Drives the forwards of all batches from block to block.

    Args:
        forward: runs one batch through the model, reaching every block.
        batches: what `forward` takes, one entry a batch.
        chains: the blocks to stop at.
        placement: brings the block at hand to the device it runs on.
        to_end: let every forward run to its end after the last block, one after another.

    Use as a context manager and iterate once. Leaving the context drops the forwards where they
    stand, so what follows the last block is never computed unless `to_end`.

    Attributes:
        results: what the forwards returned, in the order of the batches, if `to_end`.
    """

    def __init__(
        self,
        forward: Callable[[Any], Any],
        batches: Sequence[Any],
        chains: Sequence[Chain],
        placement: Placement | None = None,
        *,
        to_end: bool = False,
    ) -> None:
        self.forward = forward
        self.to_end = to_end
        self.results: list[Any] = []
        self.placement = placement or Placement(None)
        self.repeated: dict[str, int] = {}
        """Blocks that the forward called again after their stop, and how often."""
        self._batches = batches
        self._where: dict[int, tuple[Chain, int]] = {}
        for chain in chains:
            for i, block in enumerate(chain.blocks):
                if id(block.module) in self._where:
                    raise ModelError(f"block {block.name} was located twice")
                self._where[id(block.module)] = (chain, i)
        self._modules = [block.module for chain in chains for block in chain.blocks]
        self._chains = chains
        self._runners: list[_Runner] = []
        self._handles: list[Any] = []

    def __enter__(self) -> Lockstep:
        for module in self._modules:
            # Before all other hooks: those that bring a block into memory must not do so for each
            # batch on its way here.
            self._handles.append(
                module.register_forward_pre_hook(self._before, with_kwargs=True, prepend=True)
            )
            if self.placement.moves:
                self._handles.append(module.register_forward_hook(self._after))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for runner in self._runners:
            if not runner.dead:
                runner.throw(GreenletExit)
        self._runners.clear()

    def __iter__(self) -> Iterator[Stop]:
        """Stop before each block in order of execution.

        Raises:
            ModelError: batches reach blocks in different orders, a block is skipped, or blocks
                are reached in another order than they were located in.
        """
        self._runners = [_Runner(self, batch) for batch in self._batches]
        reached = dict.fromkeys((chain.name for chain in self._chains), 0)
        arrivals = self._advance()
        for stops_left in reversed(range(len(self._modules))):
            chain, block = self._agree([module for module, _ in arrivals], reached)
            stop = Stop(chain, block, [call for _, call in arrivals])
            arrivals.clear()
            with self.placement.on_device(block.module):
                yield stop
                # Held any longer, a batch's inputs would lie in memory beside its outputs.
                stop.calls.clear()
                # The forwards run the block when resumed, so while it is on the device. Nothing
                # is left to see after the last block: it is run again only for what follows it.
                if stops_left:
                    arrivals = self._advance()
                elif self.to_end:
                    self.results = [self._end(i) for i in range(len(self._runners))]

    def _agree(self, modules: list[nn.Module], reached: dict[str, int]) -> tuple[Chain, Block]:
        """The block at which all batches stand, which must be the next of its chain."""
        chain, position = self._where[id(modules[0])]
        for i, other in enumerate(modules):
            if other is not modules[0]:
                raise ModelError(
                    f"batch 0 stands at {self._name(modules[0])} and batch {i} at "
                    f"{self._name(other)}: the order of blocks depends on the input, "
                    "which cannot be pruned block by block"
                )
        expected = reached[chain.name]
        if position != expected:
            raise ModelError(
                f"the forward pass reached {chain.blocks[position].name} where chain "
                f"{chain.name!r} has {chain.blocks[expected].name}: blocks must be located "
                "in order of execution"
            )
        reached[chain.name] += 1
        return chain, chain.blocks[position]

    def _advance(self) -> list[tuple[nn.Module, Call]]:
        """Let every forward run to its next block."""
        return [self._switch(i, runner) for i, runner in enumerate(self._runners)]

    def _end(self, index: int) -> Any:
        """Let one forward run to its end."""
        runner = self._runners[index]
        self._resume(index, runner)
        result, runner.result = runner.result, None
        return result

    def _resume(self, index: int, runner: _Runner) -> Any:
        try:
            return runner.switch()
        except AtpError:
            raise
        except Exception as error:
            what = "batch" if self.to_end else "calibration batch"
            raise ModelError(
                f"the forward pass of {what} {index} failed: {type(error).__name__}: {error}"
            ) from error

    def _switch(self, index: int, runner: _Runner) -> tuple[nn.Module, Call]:
        arrival = self._resume(index, runner)
        if arrival is None:
            missing = [
                block.name
                for chain in self._chains
                for block in chain.blocks
                if id(block.module) not in runner.visited
            ]
            raise ModelError(
                f"the forward pass of calibration batch {index} ended without calling "
                f"{', '.join(missing[:3])}{' …' if len(missing) > 3 else ''}"
            )
        return arrival  # type: ignore[no-any-return]

    def _name(self, module: nn.Module) -> str:
        chain, position = self._where[id(module)]
        return chain.blocks[position].name

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        runner = getcurrent()
        if not isinstance(runner, _Runner) or runner.lockstep is not self:
            return None
        if id(module) in runner.visited:
            name = self._name(module)
            self.repeated[name] = self.repeated.get(name, 0) + 1
        else:
            runner.visited.add(id(module))
            self.placement.park((args, kwargs))
            assert runner.parent is not None
            runner.parent.switch((module, Call(args, kwargs)))
        return self.placement.to_device((args, kwargs)) if self.placement.moves else None

    def _after(self, module: nn.Module, args: Any, output: Any) -> Any:
        runner = getcurrent()
        if isinstance(runner, _Runner) and runner.lockstep is self:
            return self.placement.to_home(output)
        return None
