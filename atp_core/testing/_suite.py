"""All checks that apply to a plugin, in the order of the way of the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from .._plugins import Kind, Plugins, build_manager
from ._check import Check
from ._example import Example

__all__ = ["suite"]

# Any: what a check is given differs from kind to kind.
_Checks = list[tuple[str, Callable[[Any], None]]]


def suite(
    name: str, plugins: Plugins | None = None, extra: Example | None = None
) -> list[Check]:
    """The checks of one plugin.

    Args:
        name: the plugin's name.
        plugins: where to find it; installed ones if None. No other plugin takes part.
        extra: a further model to walk, beside the plugin's own examples.

    Raises:
        UnknownNameError: there is no such plugin.
    """
    found = plugins or build_manager()
    return list(_checks(name, found.alone(name), extra))


def _checks(name: str, plugins: Plugins, extra: Example | None) -> Iterator[Check]:
    from .checks import _others, _static

    # A plugin whose offers cannot be had fails a check, and is checked no further.
    [status] = [status for status in plugins.probed() if status.name == name]
    subject = _static.PluginSubject(status, plugins)
    yield from _of(f"plugin {name}", _static.CHECKS, subject)
    if status.status != "ok":
        return
    yield from _examples(name, plugins, extra)
    yield from _offered(name, plugins)
    if "atp_commands" in status.hooks:
        for _, command in plugins.commands(name):
            told = getattr(command, "name", type(command).__name__)
            yield from _of(f"command {told}", _others.COMMAND_CHECKS, command)


def _examples(name: str, plugins: Plugins, extra: Example | None) -> Iterator[Check]:
    makers: dict[str, Callable[[Path], Example]] = {}
    offers = plugins.offers("examples", name)
    for example in offers:
        makers[f"example {example}"] = partial(offers.create, example)
    if extra is not None:
        makers[f"source {extra.source.text}"] = partial(_given, extra)
    if not makers:
        return
    from ._walk import Walk
    from .checks import (
        _calibrating,
        _evaluating,
        _locating,
        _pruning,
        _recognizing,
        _saving,
        _workloads,
    )

    parts = (
        *(_recognizing, _locating, _calibrating, _pruning, _evaluating, _workloads, _saving),
    )
    for group, make in makers.items():
        walk = Walk(plugins, name, group.split(" ", 1)[1], make)
        for part in parts:
            for title, function in part.CHECKS:
                yield Check(group, title, partial(_walked, walk, function))


def _walked(
    walk: Any, function: Callable[[Any], None], directory: Callable[[str], Path]
) -> None:
    function(walk.at(directory))


def _given(example: Example, directory: Path) -> Example:
    return example


def _offered(name: str, plugins: Plugins) -> Iterator[Check]:
    from .checks import _allocators, _executors, _methods, _others, _runtimes
    from .checks._offered import OfferSubject

    kinds: list[tuple[str, Kind, _Checks, type[OfferSubject]]] = [
        ("method", "methods", _methods.CHECKS, _methods.MethodSubject),
        ("allocation", "allocators", _allocators.CHECKS, _allocators.AllocatorSubject),
        ("executor", "executors", _executors.CHECKS, OfferSubject),
        ("runtime", "runtimes", _runtimes.CHECKS, OfferSubject),
        ("objective", "objectives", _others.OBJECTIVE_CHECKS, OfferSubject),
    ]
    for what, kind, checks, subject in kinds:
        offers = plugins.offers(kind, name)
        for offer in offers:
            yield from _of(f"{what} {offer}", checks, subject(offers, offer))


def _of(group: str, checks: _Checks, subject: Any) -> Iterator[Check]:
    for title, function in checks:
        yield Check(group, title, partial(_checked, function, subject))


def _checked(
    function: Callable[[Any], None], subject: Any, directory: Callable[[str], Path]
) -> None:
    function(subject)
