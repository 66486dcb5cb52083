"""What the hooks of a plugin must look like, as far as it can be told without calling any."""

from __future__ import annotations

import difflib
import inspect
import reprlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import pluggy
from packaging.version import Version

from . import hookspecs
from .hookspecs import HOOK_API_VERSION

__all__ = ["GROUP", "MODEL_HOOKS", "OLDEST_HOOK_API", "Problem", "hook_problems", "missing_hooks"]

GROUP: Final = "atp_prune"
"""Name of the entry-point group, and of the marker on hooks."""

OLDEST_HOOK_API: Final = 1
"""The lowest hook API that plugins may still be written for."""

MODEL_HOOKS: Final = (
    "atp_recognize",
    "atp_load",
    "atp_locate",
    "atp_calibrate",
    "atp_evaluate",
    "atp_save",
)
"""The hooks that handling models takes, in the order in which they are asked."""


@dataclass(frozen=True)
class Problem:
    """Something about a plugin that is not as the hook specifications ask for.

    Attributes:
        fault: what is wrong, half a sentence about the plugin.
        remedy: what its author has to do.
        fatal: the plugin cannot be used.
        outdated: it is atp-prune that is too old, not the plugin.
    """

    fault: str
    remedy: str
    fatal: bool = True
    outdated: bool = False

    def __str__(self) -> str:
        return f"{self.fault}; {self.remedy}"


def hook_problems(plugin: object) -> list[Problem]:
    """Every problem of a plugin that shows without calling it, the fatal ones first.

    Args:
        plugin: a module or an object; not a class, which has to be made an object first.
    """
    marked = list(_marked(plugin))
    unmarked = list(_unmarked(plugin))
    found = [*_version_problems(plugin), *_identity_problems(plugin)]
    for implementation in marked:
        found += _implementation_problems(implementation)
    found += unmarked
    if not marked and not unmarked:
        found.append(
            Problem(
                "it implements no hook",
                "write functions with the names of hooks and mark them with "
                "atp_core.hookspecs.hookimpl",
            )
        )
    missing = missing_hooks([implementation.hook for implementation in marked])
    if missing:
        found.append(
            Problem(
                f"it handles models by half: it lacks {', '.join(missing)}",
                "implement them too, or none of the hooks for models",
                fatal=False,
            )
        )
    return sorted(found, key=lambda problem: not problem.fatal)


def missing_hooks(hooks: Sequence[str]) -> list[str]:
    """The hooks for models that `hooks` lacks; none where it has no hook for models at all."""
    missing = [hook for hook in MODEL_HOOKS if hook not in hooks]
    return missing if len(missing) < len(MODEL_HOOKS) else []


# --- the plugin as a whole ---------------------------------------------------------------------


def _version_problems(plugin: object) -> Iterator[Problem]:
    declare = f"add ATP_HOOK_API = {HOOK_API_VERSION}"
    nothing = "it does not declare the hook API it was written for"
    if not hasattr(plugin, "ATP_HOOK_API"):
        yield Problem(nothing, declare)
        return
    wanted = plugin.ATP_HOOK_API
    if isinstance(wanted, bool) or not isinstance(wanted, int):
        yield Problem(
            f"{nothing}: ATP_HOOK_API is {reprlib.repr(wanted)}, no whole number", declare
        )
    elif wanted > HOOK_API_VERSION:
        yield Problem(
            f"it needs hook API {wanted} and this atp-prune offers {HOOK_API_VERSION}",
            "upgrade atp-prune (pip install -U atp-prune)",
            outdated=True,
        )
    elif wanted < OLDEST_HOOK_API:
        yield Problem(
            f"it was written for hook API {wanted} and this atp-prune supports "
            f"{OLDEST_HOOK_API} to {HOOK_API_VERSION}",
            "it must be brought up to date with atp_core/hookspecs.py",
        )


def _identity_problems(plugin: object) -> Iterator[Problem]:
    try:
        hash(plugin)
    except TypeError:
        yield Problem(
            f"the plugin, a {type(plugin).__name__}, cannot be hashed, by which plugins are told "
            "apart",
            "give its class no __eq__ (a dataclass: eq=False)",
        )


# --- its hooks ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Implementation:
    """A function that is marked as a hook.

    Attributes:
        plugin: what it belongs to.
        name: the function's name.
        hook: the hook it implements.
        function: what is called.
        options: what it was marked with.
    """

    plugin: object
    name: str
    hook: str
    function: Callable[..., Any]
    options: Any


@cache
def _specifications() -> pluggy.PluginManager:
    """A manager without plugins, which knows the specifications and what is marked how."""
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    return manager


@cache
def _hooks() -> dict[str, tuple[str, ...]]:
    """Every hook and its arguments."""
    relay = vars(_specifications().hook)
    return {
        name: tuple(caller.spec.argnames)
        for name, caller in relay.items()
        if isinstance(caller, pluggy.HookCaller) and caller.spec is not None
    }


def _marked(plugin: object) -> Iterator[_Implementation]:
    for name in dir(plugin):
        if isinstance(inspect.getattr_static(plugin, name, None), property):
            continue  # whose code older versions of pluggy would run
        options = _specifications().parse_hookimpl_opts(plugin, name)
        if options is not None:
            hook = options.get("specname") or name
            yield _Implementation(plugin, name, hook, getattr(plugin, name), options)


def _unmarked(plugin: object) -> Iterator[Problem]:
    """Functions that look like hooks and will never be called."""
    marked = {implementation.name for implementation in _marked(plugin)}
    for name in dir(plugin):
        found = inspect.getattr_static(plugin, name, None)
        if isinstance(found, staticmethod | classmethod):
            found = found.__func__
        if not name.startswith("atp_") or name in marked or not inspect.isroutine(found):
            continue
        if name in _hooks():
            how = "is not marked as a hook"
            if hasattr(found, f"{GROUP}_spec"):
                how = "is marked with hookspec, which is for specifications"
            yield Problem(
                f"{name} {how} and would never be called",
                "mark it with atp_core.hookspecs.hookimpl",
            )
        else:
            yield Problem(
                f"there is no hook {name}{_meant(name, _hooks())}",
                "rename it, and mark it with atp_core.hookspecs.hookimpl if it is to be one",
                fatal=False,
            )


def _implementation_problems(found: _Implementation) -> Iterator[Problem]:
    name, hook = found.name, found.hook
    if hook not in _hooks():
        # "optionalhook" is how a plugin says that another atp-prune may have the hook.
        if not found.options.get("optionalhook"):
            yield Problem(
                f"there is no hook {hook}{_meant(hook, _hooks())}",
                f"the hooks are {', '.join(_hooks())}",
            )
        return
    yield from _kind_problems(found)
    known = _hooks()[hook]
    takes = f"its arguments are {', '.join(known)}" if known else "it has no arguments"
    raw = getattr(found.function, "__func__", None)
    if inspect.ismethod(found.function) and raw is not None:
        first = next(iter(inspect.signature(raw).parameters.values()), None)
        if first is None or (first.name in known and first.kind is not first.VAR_POSITIONAL):
            yield Problem(
                f"{name} is a method whose first argument is not self",
                "put self first, or make it a staticmethod",
            )
            return
    for parameter in inspect.signature(found.function).parameters.values():
        argument = parameter.name
        required = parameter.default is parameter.empty
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            if known:
                yield Problem(
                    f"{name} takes {_starred(parameter)}, which stays empty",
                    f"name the arguments it needs; {takes}",
                    fatal=False,
                )
        elif argument not in known:
            if required:
                yield Problem(
                    f"{name} takes an argument {argument!r} that {hook} does not have"
                    f"{_meant(argument, known)}",
                    takes,
                )
        elif parameter.kind is parameter.KEYWORD_ONLY:
            yield Problem(
                f"{name} takes {argument!r} as a keyword only, and hooks are called by position",
                "take away the *",
            )
        elif not required:
            # Under a newer pluggy it does no harm, but the plugin's users may have an older one.
            yield Problem(
                f"{name} has a default for {argument!r}, which pluggy before 1.7 never replaces",
                "take away the default",
                fatal=Version(pluggy.__version__) < Version("1.7"),
            )


def _kind_problems(found: _Implementation) -> Iterator[Problem]:
    wraps = bool(found.options.get("wrapper") or found.options.get("hookwrapper"))
    generates = inspect.isgeneratorfunction(found.function)
    if inspect.iscoroutinefunction(found.function) or inspect.isasyncgenfunction(found.function):
        yield Problem(f"{found.name} is async", "hooks are called as plain functions: write def")
    elif wraps and not generates:
        yield Problem(f"{found.name} is marked as a wrapper and does not yield", "yield once in it")
    elif generates and not wraps:
        yield Problem(f"{found.name} yields", "return a list instead")


def _starred(parameter: inspect.Parameter) -> str:
    return f"{'*' if parameter.kind is parameter.VAR_POSITIONAL else '**'}{parameter.name}"


def _meant(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""
