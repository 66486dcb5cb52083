"""Checks of `atp_save`: what is written is whole, loads back, and loads without us."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch

from ... import api
from ..._session import Session
from ...errors import ModelError
from ...records import Source
from .._check import CheckFailed, CheckSkipped, checker, named, python, require
from .._explicit import block_inputs
from .._walk import Walk, bits, no_pickles, state_bits, uniform, weights_of

__all__ = ["CHECKS"]

CHECKS: list[tuple[str, Callable[[Walk], None]]] = []
_check = checker(CHECKS)

_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")

_ALONE = """
import hashlib, json, sys, torch
for name in {blocked!r}:
    sys.modules[name] = None
directory = sys.argv[1]
{code}
found = {{}}
for name, tensor in model.state_dict().items():
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    digest = hashlib.sha256(f"{{tuple(tensor.shape)}} {{tensor.dtype}}".encode())
    digest.update(flat.view(torch.uint8).numpy().tobytes())
    found[name] = digest.hexdigest()
print(json.dumps(found))
"""


def _saved(walk: Walk, name: str) -> tuple[Session, Path]:
    """A session whose model is pruned, and the directory it was saved to."""
    session = walk.everything(method="magnitude")
    session.prune(uniform(session.chains, 0.5), session.method(), "save")
    directory = walk.directory(name)
    files = session.save(directory)
    require(bool(files), "atp_save returned no files; return those that hold weights")
    for file in files:
        inside = Path(file).resolve().is_relative_to(directory.resolve())
        require(inside and Path(file).is_file(), f"{file} is no file in the directory")
        require(Path(file).suffix == ".safetensors", f"{file} is not safetensors")
    return session, directory


@_check("is saved as safetensors, and left as it was")
def _files(walk: Walk) -> None:
    session = walk.everything(method="magnitude")
    session.prune(uniform(session.chains, 0.5), session.method(), "save")
    before = state_bits(session.loaded)
    directory = walk.directory("files")
    session.save(directory)
    require(state_bits(session.loaded) == before, "saving changed the model")
    pickles = [str(path.relative_to(directory)) for path in directory.rglob("*")
               if path.suffix in _PICKLES]
    require(not pickles, f"{named(pickles)} may be a pickle; write safetensors only")


@_check("loads back: same weights, same outputs")
def _back(walk: Walk) -> None:
    session, directory = _saved(walk, "back")
    with no_pickles():
        again = walk.session(
            Source(str(directory)), chains=[chain.name for chain in walk.chains]
        )
        chains = again.chains
    mine = {weight.name: weight for weight in weights_of(session.chains)}
    theirs = {weight.name: weight for weight in weights_of(chains)}
    require(
        list(mine) == list(theirs),
        f"other weights are located in what was saved: {named(sorted({*mine} ^ {*theirs}))}",
    )
    for name, weight in mine.items():
        other = theirs[name].matrix()
        require(
            weight.matrix().dtype == other.dtype,
            f"{name} was {weight.matrix().dtype} and came back as {other.dtype}",
        )
        require(torch.equal(weight.matrix(), other), f"{name} came back with other numbers")
    calibration = session.calibration
    first = block_inputs(session.chains, calibration)
    # The batches are those of the first session; only the model differs.
    own = again.calibration
    require(own.fingerprint == calibration.fingerprint, "what was saved reads other data")
    second = block_inputs(chains, own)
    wrong = [name for name in first if not torch.equal(first[name].gram, second[name].gram)]
    require(not wrong, f"what was saved computes other inputs of {named(wrong)}")


@_check("loads without atp-prune, in its ecosystem's own library")
def _alone(walk: Walk) -> None:
    code = walk.example.alone
    if code is None:
        raise CheckSkipped("the example does not say how (Example.alone)")
    session, directory = _saved(walk, "alone")
    blocked = ["atp_core", *_packages(walk)]
    why, told = python(_ALONE.format(blocked=blocked, code=code), str(directory))
    if why is not None:
        raise CheckFailed(f"loading it alone ended with: {why}")
    theirs = json.loads(told.splitlines()[-1])
    mine = bits(session.loaded.model.state_dict())
    wrong = sorted(name for name in {*mine, *theirs} if mine.get(name) != theirs.get(name))
    require(not wrong, f"{named(wrong)} differs where it is loaded alone")


def _packages(walk: Walk) -> list[str]:
    """Top-level packages of the plugin under test."""
    from importlib.metadata import packages_distributions

    distribution = walk.plugins.distribution(walk.plugin)
    return [
        package for package, owners in packages_distributions().items() if distribution in owners
    ]


@_check("loads from packed weights, bit for bit")
def _packed(walk: Walk) -> None:
    session, directory = _saved(walk, "unpacked")
    packed, again = walk.directory("packed") / "out", walk.directory("again") / "out"
    api.export(directory, output=packed)
    try:
        loaded = walk.session(Source(str(packed))).loaded
    except ModelError as error:
        raise CheckSkipped(
            f"it reads dense weights only ({error}); atp_core.packed.open_weights reads both"
        ) from None
    mine, theirs = state_bits(session.loaded), state_bits(loaded)
    require(mine == theirs, "what is loaded from packed weights differs from what was packed")
    api.export(packed, output=again, format="dense")
    for file in sorted(path for path in directory.rglob("*") if path.is_file()):
        name = file.relative_to(directory)
        same = (again / name).is_file() and (again / name).read_bytes() == file.read_bytes()
        require(same, f"{name} came back otherwise when written dense again")


@_check("goes the whole way: search, prune, report, write")
def _whole(walk: Walk) -> None:
    directory = walk.directory("whole")
    source = walk.source
    recipe = walk.recipe(source, output=str(directory / "out"), trial_samples=1)
    result = api.run_prune(recipe, source, plugins=walk.plugins)
    require(result.search.plugin == walk.plugin, f"plugin {result.search.plugin!r} handled it")
    off = abs(result.report.achieved - 0.5)
    total = sum(block.parameters for block in result.report.blocks)
    require(
        off <= max(1e-4, len(result.report.blocks) / total),
        f"{result.report.achieved:.4f} of the weights were cut, and 0.5 was asked for",
    )
    written = json.loads((directory / "out" / "atp.json").read_text(encoding="utf-8"))
    require(
        written["recipe"]["source"] == recipe.portable().source,
        "atp.json tells of another source",
    )
