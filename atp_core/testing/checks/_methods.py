"""Checks of a pruning method: a verdict that is exact, pure, and robust on odd weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from ...methods import Method, Pruned, Statistics
from ...methods.selection import tail_kept
from .._check import CheckSkipped, checker, require
from ._offered import OfferSubject, built

__all__ = ["CHECKS", "MethodSubject"]

CHECKS: list[tuple[str, Callable[[MethodSubject], None]]] = []
_check = checker(CHECKS)

_SHAPES = ((7, 12), (16, 16), (1, 9), (9, 1), (33, 130), (1, 1))
_RATES = (0.0, 0.1, 0.5, 0.77, 1.0)


class MethodSubject(OfferSubject):
    """A method on offer, and inputs of the weights it is tried on."""

    def statistics(
        self, method: Method, inputs: torch.Tensor, batches: int = 1
    ) -> Statistics | None:
        """What the method wants to know of `inputs`, taken in so many batches."""
        if not method.calibrated:
            return None
        found = method.statistics(inputs.shape[1], torch.device("cpu"))
        require(found is not None, "it is calibrated, and `statistics` gave None")
        assert found is not None
        for part in inputs.chunk(batches):
            found.add(part, 1)
        return found


def _weights() -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """(what, weight, inputs): of many shapes, and degenerate ones."""
    generator = torch.Generator().manual_seed(0)
    for rows, columns in _SHAPES:
        weight = torch.randn(rows, columns, generator=generator)
        inputs = torch.randn(4 * columns, columns, generator=generator)
        yield f"{rows}x{columns} weights", weight, inputs
    inputs = torch.randn(64, 16, generator=generator)
    yield "constant weights", torch.full((8, 16), 0.5), inputs
    yield "zero weights", torch.zeros(8, 16), inputs
    dead = inputs.clone()
    dead[:, ::2] = 0.0
    yield "dead input features", torch.randn(8, 16, generator=generator), dead


@_check("is built, and has the name it is offered under")
def _built(subject: MethodSubject) -> None:
    method = built(subject)
    require(isinstance(method.calibrated, bool), "`calibrated` must be True or False")


@_check("cuts its share of a weight, within one weight")
def _share(subject: MethodSubject) -> None:
    for what, weight, inputs in _weights():
        for rate in _RATES:
            verdict = _verdict(subject, weight, inputs, rate)
            cut = int((~verdict.mask).sum())
            require(
                abs(cut - rate * weight.numel()) <= 1.0,
                f"of {weight.numel()} {what} it cut {cut} at rate {rate}",
            )


def _verdict(
    subject: MethodSubject, weight: torch.Tensor, inputs: torch.Tensor, rate: float
) -> Pruned:
    method: Method = subject.build()
    before = weight.clone()
    statistics = subject.statistics(method, inputs)
    with torch.inference_mode():
        verdict = method.prune(weight, rate, statistics)
    require(isinstance(verdict, Pruned), f"`prune` gave {type(verdict).__name__}, not Pruned")
    require(
        verdict.mask.dtype == torch.bool and verdict.mask.shape == weight.shape,
        f"the mask is {verdict.mask.dtype} of shape {tuple(verdict.mask.shape)}, not bool of "
        f"{tuple(weight.shape)}",
    )
    require(torch.equal(weight, before), "it changed the weight it was given; return new values")
    if verdict.weight is not None:
        require(verdict.weight.shape == weight.shape, "the new values have another shape")
        require(bool(torch.isfinite(verdict.weight).all()), "the new values are not finite")
    return verdict


@_check("keeps every bit at rate 0")
def _nothing(subject: MethodSubject) -> None:
    for what, weight, inputs in _weights():
        verdict = _verdict(subject, weight, inputs, 0.0)
        require(bool(verdict.mask.all()), f"it cuts {what} at rate 0")


@_check("decides the same twice")
def _repeatable(subject: MethodSubject) -> None:
    for what, weight, inputs in _weights():
        one, other = (_verdict(subject, weight, inputs, 0.5) for _ in range(2))
        require(torch.equal(one.mask, other.mask), f"it decides otherwise on {what} the next time")
        if one.weight is not None and other.weight is not None:
            require(torch.equal(one.weight, other.weight), f"new values of {what} change")


@_check("accumulates statistics batch by batch")
def _batches(subject: MethodSubject) -> None:
    method = subject.build()
    if not method.calibrated:
        require(
            method.statistics(8, torch.device("cpu")) is None,
            "it is not calibrated, and `statistics` gives some",
        )
        return
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(12, 16, generator=generator)
    inputs = torch.randn(64, 16, generator=generator)
    parts = []
    for rows in (inputs, inputs.flip(0)):
        made = subject.statistics(method, rows, batches=4)
        assert made is not None
        require(made.tokens == 64, f"of 64 rows, `tokens` counts {made.tokens}")
        require(made.finite(), "`finite` doubts statistics of healthy inputs")
        parts.append(method.prune(weight, 0.5, made).mask)
    same = float((parts[0] == parts[1]).float().mean())
    # The order of additions may tip a tie of two scores, and no more.
    require(same >= 0.98, f"another order of the batches changes {1 - same:.0%} of its decisions")
    broken = method.statistics(16, torch.device("cpu"))
    assert broken is not None
    broken.add(torch.full((4, 16), float("nan")), 1)
    require(not broken.finite(), "`finite` says that NaN is finite")


@_check("decides on a weight that no input reached")
def _unseen(subject: MethodSubject) -> None:
    method = subject.build()
    weight = torch.randn(6, 10, generator=torch.Generator().manual_seed(2))
    verdict = method.prune(weight, 0.5, None)
    cut = int((~verdict.mask).sum())
    require(abs(cut - 30) <= 1, f"without statistics it cut {cut} of 60 weights at rate 0.5")


@_check("keeps to an N:M pattern, if it knows any")
def _pattern(subject: MethodSubject) -> None:
    method = subject.build()
    prune = getattr(method, "prune_pattern", None)
    if prune is None:
        raise CheckSkipped("it has no `prune_pattern`, so --pattern refuses it")
    for what, weight, inputs in _weights():
        for keep, of in ((2, 4), (3, 8)):
            with torch.inference_mode():
                verdict = prune(weight.clone(), keep, of, subject.statistics(method, inputs))
            require(isinstance(verdict, Pruned), f"it gave {type(verdict).__name__}, not Pruned")
            for start in range(0, weight.shape[1], of):
                kept = verdict.mask[:, start : start + of].sum(1)
                size = min(of, weight.shape[1] - start)
                wanted = keep if size == of else tail_kept(size, keep, of)
                require(
                    bool((kept == wanted).all()),
                    f"of {size} consecutive {what} it keeps {kept.tolist()[0]}, not {wanted}, "
                    f"for {keep}:{of}",
                )
