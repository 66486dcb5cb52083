"""Checks of `atp_calibrate`: the batches, and that every weight's inputs are truly seen."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ...engine.lockstep import Lockstep
from ...engine.observation import BlockStatistics
from ...engine.placement import Placement
from ...engine.statistics import Gram
from ...methods import Pruned, Statistics
from .._check import CheckFailed, checker, require
from .._explicit import block_inputs, randomize
from .._walk import Walk, weights_of

__all__ = ["CHECKS"]

CHECKS: list[tuple[str, Callable[[Walk], None]]] = []
_check = checker(CHECKS)


@_check("gives calibration batches that add up")
def _batches(walk: Walk) -> None:
    found = walk.dense.calibration
    require(len(found.batches) > 0, "there are no batches")
    require(
        len(found.batch_samples) == len(found.batches),
        f"batch_samples tells of {len(found.batch_samples)} batches and there are "
        f"{len(found.batches)}",
    )
    require(
        sum(found.batch_samples) == found.samples,
        f"the batches hold {sum(found.batch_samples)} samples and `samples` says {found.samples}",
    )
    wanted = walk.example.data.samples
    require(
        wanted is None or found.samples <= wanted,
        f"{wanted} samples were asked for and {found.samples} given",
    )
    for name in ("unit", "dataset", "fingerprint"):
        require(bool(str(getattr(found, name)).strip()), f"Calibration.{name} is empty")
    require(bool(found.examples), "Calibration.examples is empty, so splits cannot be compared")


@_check("gives the same batches for the same seed")
def _seeded(walk: Walk) -> None:
    inputs = []
    for _ in range(2):
        session = walk.everything()
        inputs.append((session.calibration, session.chains))
    (first, chains), (again, others) = inputs
    require(first.fingerprint == again.fingerprint, "the fingerprint changes from run to run")
    require(first.examples == again.examples, "the examples change from run to run")
    one, other = block_inputs(chains, first), block_inputs(others, again)
    for name, found in one.items():
        require(
            torch.equal(found.gram, other[name].gram),
            f"what enters {name} changes from run to run although the seed is the same",
        )


@_check("sees every weight's inputs, equal to an explicit computation")
def _seen(walk: Walk) -> None:
    session = walk.everything()
    chains, calibration = session.chains, session.calibration
    randomize(chains)
    explicit = block_inputs(chains, calibration)
    seen: dict[str, Statistics] = {}
    with torch.inference_mode():
        lockstep = Lockstep(calibration.forward, calibration.batches, chains)
        with lockstep:
            for stop in lockstep:
                found = BlockStatistics(stop.block, _Grams())
                found.run(stop.calls, calibration.batch_samples, Placement(None))
                for weight in stop.block.weights:
                    own = found.of(weight)
                    if own is not None:
                        seen[weight.name] = own
    for weight in weights_of(chains):
        name = weight.name
        if weight.conditional and name not in seen and name not in explicit:
            continue
        if name not in explicit:
            raise CheckFailed(
                f"autograd knows of no product with {name}; is it used at all, and not copied or "
                "cast before?"
            )
        require(name in seen, f"{name} got no statistics, although it is used")
        gram, wanted = seen[name], explicit[name]
        assert isinstance(gram, Gram)
        require(
            gram.tokens == wanted.tokens,
            f"{name} saw {gram.tokens} rows of input and is multiplied by {wanted.tokens}",
        )
        size = float(wanted.gram.diagonal().mean()) or 1.0
        off = float((gram.matrix.double() - wanted.gram).abs().max()) / size
        # Statistics are float32, and the low bits of a bfloat16 model depend on the kernel.
        require(
            off < (1e-3 if weight.tensor.dtype == torch.float32 else 5e-2),
            f"the statistics of {name} are off by {off:.2g} of their size",
        )


class _Grams:
    """A method that keeps every Gram matrix and prunes nothing."""

    name = "grams"
    calibrated = True

    def statistics(self, in_features: int, device: torch.device) -> Gram:
        return Gram(in_features, device)

    def prune(self, weight: torch.Tensor, rate: float, statistics: Statistics | None) -> Pruned:
        return Pruned(torch.ones_like(weight, dtype=torch.bool))
