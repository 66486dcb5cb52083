"""What enters each weight, found out without the engine's taps.

Autograd keeps both operands of every product, to differentiate it. So a block is run with
gradients on, its graph is walked, and wherever a kept operand holds the numbers of a located
weight, the other operand is what entered it. Weights are told by their numbers, which are made
random for the purpose, and not by their memory as the taps tell them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils._pytree import tree_flatten, tree_map

from ..records import Block, Calibration, Chain

__all__ = ["Inputs", "block_inputs", "execution_order", "randomize"]


@dataclass
class Inputs:
    """What entered one weight.

    Attributes:
        gram: XᵀX over all rows, shape (in_features, in_features), float64.
        tokens: number of rows.
    """

    gram: torch.Tensor
    tokens: int


Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def randomize(chains: Sequence[Chain]) -> None:
    """Give every located weight random numbers that all differ, of the size it had."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for chain in chains:
            for block in chain.blocks:
                for weight in block.weights:
                    view = weight.matrix()
                    noise = torch.randn(view.shape, generator=generator) / math.sqrt(view.shape[1])
                    view.copy_(noise)


def execution_order(chains: Sequence[Chain], calibration: Calibration) -> list[str]:
    """Names of the blocks as the forward of the first batch enters them, repeats included."""
    order: list[str] = []
    with _hooked(chains, lambda block, *_: order.append(block.name)), torch.no_grad():
        calibration.forward(calibration.batches[0])
    return order


def block_inputs(chains: Sequence[Chain], calibration: Calibration) -> dict[str, Inputs]:
    """What enters each located weight on all batches, by the weight's name.

    The model is dense while it runs: each block gets what the blocks before it give as they are.
    """
    found: dict[str, Inputs] = {}
    for batch in calibration.batches:
        calls: dict[int, Arguments] = {}

        def keep(block: Block, args: Any, kwargs: Any, calls: dict[int, Arguments] = calls) -> None:
            # A block that is called again is judged by its first call, as the engine does.
            if id(block) not in calls:
                calls[id(block)] = tree_map(_own, (args, kwargs))

        with _hooked(chains, keep), torch.no_grad():
            calibration.forward(batch)
        for chain in chains:
            for block in chain.blocks:
                args, kwargs = calls[id(block)]
                for name, rows in _rows(block, args, kwargs):
                    rows = rows.double()
                    known = found.setdefault(
                        name, Inputs(rows.new_zeros(rows.shape[1], rows.shape[1]), 0)
                    )
                    known.gram += rows.T @ rows
                    known.tokens += len(rows)
    return found


def _own(value: Any) -> Any:
    """A copy that autograd can work with, also of a tensor made in inference mode."""
    if not isinstance(value, torch.Tensor):
        return value
    with torch.inference_mode(False):
        copy = value.clone()
        # Only where an operand itself is differentiated does autograd keep the other one.
        return copy.requires_grad_() if copy.is_floating_point() else copy


@contextmanager
def _hooked(chains: Sequence[Chain], hook: Any) -> Iterator[None]:
    handles = []
    for chain in chains:
        for block in chain.blocks:

            def before(_: nn.Module, args: Any, kwargs: Any, block: Block = block) -> None:
                hook(block, args, kwargs)

            handles.append(block.module.register_forward_pre_hook(before, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _rows(
    block: Block, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Iterator[tuple[str, torch.Tensor]]:
    """(weight, rows) for each product of the block with a located weight."""
    parameters = [getattr(weight.module, weight.parameter) for weight in block.weights]
    wanted = [parameter.requires_grad for parameter in parameters]
    for parameter in parameters:
        parameter.requires_grad_()
    try:
        with torch.inference_mode(False), torch.enable_grad():
            output = block.module(*args, **kwargs)
            roots = [
                value.grad_fn
                for value in tree_flatten(output)[0]
                if isinstance(value, torch.Tensor) and value.grad_fn is not None
            ]
            for matrix, rows in _products(roots):
                for weight in block.weights:
                    if _holds(matrix, weight.matrix()):
                        yield weight.name, rows.reshape(-1, matrix.shape[1])
    finally:
        for parameter, before in zip(parameters, wanted, strict=True):
            parameter.requires_grad_(before)


def _holds(matrix: torch.Tensor, view: torch.Tensor) -> bool:
    """Whether consecutive rows of `matrix` are `view`, number by number."""
    count, width = view.shape
    if matrix.shape[1] != width or matrix.shape[0] < count or matrix.dtype != view.dtype:
        return False
    starts = (matrix[: matrix.shape[0] - count + 1] == view[0]).all(1).nonzero().flatten()
    return any(torch.equal(matrix[int(i) : int(i) + count], view) for i in starts)


def _products(roots: Sequence[Any]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(matrix, rows) for each product rows @ matrix.T in a graph, either operand as the matrix."""
    waiting, seen = list(roots), set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]
        for left, right in _operands(node):
            yield right.T, left
            yield left, right.T


def _operands(node: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The operands of each 2-D product left @ right that a node stands for."""
    kind = type(node).__name__
    if kind == "MmBackward0":
        pairs = [(node._saved_self, node._saved_mat2)]
    elif kind == "AddmmBackward0":
        pairs = [(node._saved_mat1, node._saved_mat2)]
    elif kind in ("BmmBackward0", "BaddbmmBackward0"):
        left = node._saved_self if kind == "BmmBackward0" else node._saved_batch1
        right = node._saved_mat2 if kind == "BmmBackward0" else node._saved_batch2
        pairs = [] if left is None or right is None else list(zip(left, right, strict=True))
    elif kind == "GroupedMmBackward0":
        pairs = list(_grouped(node))
    elif kind == "ConvolutionBackward0":
        pairs = list(_convolved(node))
    else:
        pairs = []
    for left, right in pairs:
        if left is not None and right is not None:
            yield left.detach(), right.detach()


def _grouped(node: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    rows, weights, ends = node._saved_self, node._saved_mat2, node._saved_offs
    if rows is None or weights is None or ends is None:
        return
    start = 0
    for expert, stop in enumerate(ends.tolist()):
        if stop > start:
            yield rows[start:stop], weights[expert]
        start = stop


def _convolved(node: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    inputs, kernel = node._saved_input, node._saved_weight
    if inputs is None or kernel is None or node._saved_transposed or kernel.dim() > 4:
        return
    settings = [tuple(getattr(node, f"_saved_{n}")) for n in ("stride", "padding", "dilation")]
    if kernel.dim() == 3:  # a row of pixels
        inputs, kernel = inputs.unsqueeze(-2), kernel.unsqueeze(-2)
        settings = [(one, *value) for one, value in zip((1, 0, 1), settings, strict=True)]
    stride, padding, dilation = settings
    groups = node._saved_groups
    for part, weight in zip(inputs.chunk(groups, 1), kernel.chunk(groups, 0), strict=True):
        columns = functional.unfold(
            part.detach(), weight.shape[2:], dilation=dilation, padding=padding, stride=stride
        )
        yield columns.transpose(1, 2).flatten(0, 1), weight.detach().flatten(1).T
