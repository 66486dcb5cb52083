"""All checks that apply to a plugin, in the order of the way of the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from .._plugins import Plugins, build_manager
from ._check import Check
from ._example import Example

__all__ = ["suite"]


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
    subject = _static.PluginSubject(status, plugins, plugins.imported(name))
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
    )

    parts = (_recognizing, _locating, _calibrating, _pruning, _evaluating, _saving)
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
    methods = plugins.offers("methods", name)
    if methods:
        from .checks._methods import CHECKS, MethodSubject

        for offer in methods:
            yield from _of(f"method {offer}", CHECKS, MethodSubject(methods, offer))
    allocators = plugins.offers("allocators", name)
    if allocators:
        from .checks import _allocators

        for offer in allocators:
            subject = _allocators.AllocatorSubject(allocators, offer)
            yield from _of(f"allocation {offer}", _allocators.CHECKS, subject)
    executors = plugins.offers("executors", name)
    if executors:
        from .checks import _executors

        for offer in executors:
            judged = _executors.ExecutorSubject(executors, offer)
            yield from _of(f"executor {offer}", _executors.CHECKS, judged)
    objectives = plugins.offers("objectives", name)
    if objectives:
        from .checks import _others

        for offer in objectives:
            measured = _others.ObjectiveSubject(objectives, offer)
            yield from _of(f"objective {offer}", _others.OBJECTIVE_CHECKS, measured)


def _of(
    group: str, checks: list[tuple[str, Callable[[Any], None]]], subject: Any
) -> Iterator[Check]:
    for title, function in checks:
        yield Check(group, title, partial(_checked, function, subject))


def _checked(
    function: Callable[[Any], None], subject: Any, directory: Callable[[str], Path]
) -> None:
    function(subject)
