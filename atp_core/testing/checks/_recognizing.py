"""Checks of `atp_recognize` and `atp_load`: what is handled, and what is refused, and how."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

from ...errors import AtpError
from ...records import Source
from .._check import CheckFailed, CheckSkipped, checker, named, python, require
from .._walk import Walk, no_pickles, weights_of

__all__ = ["CHECKS"]

CHECKS: list[tuple[str, Callable[[Walk], None]]] = []
_check = checker(CHECKS)

_WITHOUT_TORCH = """
import sys
from atp_core._plugins import build_manager
from atp_core.records import Source
build_manager().recognize(Source(sys.argv[1]), plugin=sys.argv[2])
heavy = [name for name in ("torch", "numpy", "transformers") if name in sys.modules]
sys.exit(f"it imported {', '.join(heavy)}" if heavy else 0)
"""


class _Foreign(nn.Module):
    """An architecture that no plugin knows."""

    def __init__(self) -> None:
        super().__init__()
        self.only = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape (…, 4) in and out."""
        result: torch.Tensor = self.only(x)
        return result


@_check("is recognized, with a reason")
def _recognized(walk: Walk) -> None:
    found = walk.plugins.recognize(walk.source, plugin=walk.plugin)
    require(0 < found.confidence <= 1, f"the confidence is {found.confidence}, not in (0, 1]")
    require(bool(found.reason.strip()), "the reason is empty; say what the answer rests on")


@_check("is recognized without torch")
def _without_torch(walk: Walk) -> None:
    if walk.example.source.model is not None:
        raise CheckSkipped("a model in memory has imported torch already")
    if walk.plugins.distribution(walk.plugin) == "given in code":
        raise CheckSkipped("the plugin is not installed, so no other process finds it")
    why, _ = python(_WITHOUT_TORCH, walk.source.text, walk.plugin)
    require(why is None, f"atp_recognize is asked before anything is loaded, and {why}")


@_check("loads in eval mode on the CPU, finite, from safetensors")
def _loads(walk: Walk) -> None:
    with no_pickles():
        loaded = walk.session().loaded
    training = [name or "the model" for name, part in loaded.model.named_modules() if part.training]
    require(not training, f"{named(training)} is in training mode; call .eval() in atp_load")
    for name, value in loaded.model.state_dict().items():
        require(value.device.type == "cpu", f"{name} is on {value.device}, not on the CPU")
        if value.is_floating_point():
            require(bool(torch.isfinite(value).all()), f"{name} is not finite")


@_check("is the same architecture on the meta device")
def _on_meta(walk: Walk) -> None:
    session = walk.session()
    loaded = session.load(meta=True)
    for name, value in loaded.model.named_parameters():
        require(value.device.type == "meta", f"{name} has numbers although meta was asked for")
    chains = session.locate(loaded, every=True)
    there = {weight.name: weight.shape for weight in weights_of(chains)}
    here = {weight.name: weight.shape for weight in weights_of(walk.chains)}
    require(
        there == here,
        "the weights located on the meta device differ from those of the loaded model, e.g. "
        f"{named(sorted(n for n in {*there, *here} if there.get(n) != here.get(n)))}",
    )


@_check("refuses what it does not support with a clear error")
def _refuses(walk: Walk) -> None:
    for source, what in _strangers(walk):
        try:
            session = walk.session(source)
            session.locate(session.loaded)
        except AtpError as error:
            _clear(error, what)
            continue
        except Exception as error:
            raise CheckFailed(
                f"{what} ended in {type(error).__name__}: {error}; raise ModelError instead, or "
                "return None from atp_recognize"
            ) from error
        raise CheckFailed(f"{what} was taken for a model: {session.recognition.reason}")


def _strangers(walk: Walk) -> Iterator[tuple[Source, str]]:
    for source in walk.example.unsupported:
        yield source, f"the unsupported source {source.text!r}"
    yield Source("Foreign", model=_Foreign()), "a module of an unknown class"
    yield Source("no such model: 0"), "a name that is no path"
    empty = walk.directory("empty")
    yield Source(str(empty)), "an empty directory"
    text = walk.directory("text") / "notes.txt"
    text.write_text("not a model\n", encoding="utf-8")
    yield Source(str(text)), "a text file"


@_check("is refused with a clear error where its files are damaged")
def _damaged(walk: Walk) -> None:
    path = walk.path
    whole = {
        file.relative_to(path) if path.is_dir() else Path(file.name): file
        for file in ([path] if path.is_file() else sorted(path.rglob("*")))
        if file.suffix in (".safetensors", ".json", ".gguf") and file.is_file()
    }
    weights = [name for name in whole if name.suffix != ".json"]
    configs = [name for name in whole if name.name.endswith("config.json") and not name.parent.name]
    if not weights and not configs:
        raise CheckSkipped("the example has no weights in safetensors and no config.json")
    for i, (name, how) in enumerate(
        [*((n, "cut in half") for n in weights), *((n, "removed") for n in weights[:1])]
    ):
        target = walk.directory(f"damaged-{i}") / path.name
        if path.is_dir():
            shutil.copytree(path, target)
        else:
            shutil.copyfile(path, target)
        broken = target / name if path.is_dir() else target
        if how == "removed":
            broken.unlink()
            if not path.is_dir():
                continue
        else:
            broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
        _must_refuse(walk, target, f"a checkpoint whose {name} is {how}")
    for i, name in enumerate(configs):
        for how, text in (("no JSON", "{"), ("without content", json.dumps({}))):
            target = walk.directory(f"config-{i}-{how[:2]}") / path.name
            shutil.copytree(path, target)
            (target / name).write_text(text, encoding="utf-8")
            _must_fail_well(walk, target, f"a {name} that is {how}")


def _must_refuse(walk: Walk, path: Path, what: str) -> None:
    if _must_fail_well(walk, path, what):
        return
    raise CheckFailed(f"{what} was loaded without an error")


def _must_fail_well(walk: Walk, path: Path, what: str) -> bool:
    """Whether the source was refused; if so, in one clear error."""
    try:
        walk.session(Source(str(path))).load()
    except AtpError as error:
        _clear(error, what)
        return True
    except Exception as error:
        raise CheckFailed(
            f"{what} ended in {type(error).__name__}: {error}; raise ModelError instead "
            "(atp_core.loading.explained does)"
        ) from error
    return False


def _clear(error: AtpError, what: str) -> None:
    text = str(error)
    require(
        bool(text.strip()) and text.count("\n") < 12,
        f"{what} ended in an error of {len(text.splitlines())} lines; say the culprit and the "
        "remedy in one or two",
    )
    require(
        "report it to" not in text and "failed in atp_" not in text,
        f"{what} ended in a fault of the plugin: {text}",
    )
