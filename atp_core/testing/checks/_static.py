"""Checks of a plugin as a package: how it is found, what it declares, what it costs to import."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ..._plugins import Plugins, PluginStatus
from .._check import CheckSkipped, checker, named, python, require

__all__ = ["CHECKS", "PluginSubject"]

CHECKS: list[tuple[str, Callable[[PluginSubject], None]]] = []
_check = checker(CHECKS)

_HEAVY = ("torch", "numpy", "transformers", "timm", "open_clip", "matplotlib")
_IMPORT = """
import sys
from importlib.metadata import entry_points
[point] = [p for p in entry_points(group="atp_prune") if p.name == sys.argv[1]]
before = set(sys.modules)
point.load()
found = [name for name in {heavy!r} if name in set(sys.modules) - before]
sys.exit(f"importing it imports {{', '.join(found)}}" if found else 0)
"""


@dataclass(frozen=True)
class PluginSubject:
    """A plugin, well or broken.

    Attributes:
        status: what became of it.
        plugins: core and this plugin.
    """

    status: PluginStatus
    plugins: Plugins

    @property
    def installed(self) -> bool:
        """Whether it is a distribution, and not given in code."""
        return self.status.distribution != "given in code"


@_check("is found, imported and registered")
def _well(subject: PluginSubject) -> None:
    require(subject.status.status == "ok", f"it is {subject.status.status}: {subject.status.error}")


@_check("declares its hook API, and has hooks as the specifications ask for")
def _hooks(subject: PluginSubject) -> None:
    if subject.status.plugin is None:
        raise CheckSkipped("it could not be imported")
    from ..._contract import hook_problems

    problems = [str(problem) for problem in hook_problems(subject.status.plugin)]
    require(not problems, "; ".join(problems))


@_check("imports nothing heavy when it is found")
def _light(subject: PluginSubject) -> None:
    if subject.status.status != "ok" or not subject.installed:
        raise CheckSkipped("it is not installed, or not well")
    why, _ = python(_IMPORT.format(heavy=_HEAVY), subject.status.name)
    require(
        why is None,
        f"{why}; import such packages inside the hooks, or every `atp` command pays for them",
    )


@_check("depends on atp-prune")
def _depends(subject: PluginSubject) -> None:
    if not subject.installed or subject.status.distribution == "atp-prune":
        raise CheckSkipped("it is not installed, or atp-prune itself")
    try:
        lines = requires(subject.status.distribution) or []
    except PackageNotFoundError:
        raise CheckSkipped("its distribution has no metadata") from None
    names = {canonicalize_name(Requirement(line).name) for line in lines}
    require(
        "atp-prune" in names,
        f"{subject.status.distribution} does not list atp-prune among its dependencies",
    )


@_check("offers things by name, each with a summary")
def _offers(subject: PluginSubject) -> None:
    if subject.status.status != "ok":
        raise CheckSkipped("it is not well")
    for kind in ("methods", "allocators", "objectives", "executors", "runtimes", "examples"):
        offers = subject.plugins.offers(kind, subject.status.name)
        without = [name for name, offer in offers.items() if not offer.summary.strip()]
        require(not without, f"{named(without)} of its {kind} have no summary")


@_check("offers an example, if it handles models")
def _examples(subject: PluginSubject) -> None:
    if "atp_load" not in subject.status.hooks:
        raise CheckSkipped("it handles no models")
    require(
        bool(subject.plugins.offers("examples", subject.status.name)),
        "it handles models and offers no example: add atp_examples, so that the suite has a tiny "
        "model to walk",
    )
