"""Finding installed plugins and registering them, each by itself.

pluggy's own loader lets one broken plugin take the application down. Here a plugin that fails is
taken out again, named once with its remedy, and stays visible as broken.
"""

from __future__ import annotations

import difflib
import inspect
import math
import os
import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, distributions
from typing import Any, Final, Literal

import pluggy

from ._contract import GROUP, hook_problems
from ._importing import StillImporting, import_in_time
from .errors import PluginError

__all__ = [
    "CORE",
    "Candidate",
    "PluginStatus",
    "given",
    "installed",
    "is_strict",
    "one_line",
    "register_all",
    "tell_once",
]

CORE: Final = "core"
"""Name of core's own plugin."""

_TIMEOUT: Final = 60.0


@dataclass(eq=False)
class PluginStatus:
    """What became of one plugin.

    Attributes:
        name: name of the entry point.
        distribution: the distribution it belongs to.
        version: that distribution's version.
        status: "ok", "broken" or "disabled".
        hooks: the hooks it implements, sorted.
        error: why it is broken, with the remedy.
        plugin: the module or object, also where it is broken; None if it could not be imported.
        cause: what importing or registering it raised.
    """

    name: str
    distribution: str
    version: str
    status: Literal["ok", "broken", "disabled"]
    hooks: list[str] = field(default_factory=list)
    error: str | None = None
    plugin: Any = field(default=None, repr=False)
    cause: BaseException | None = field(default=None, repr=False)

    def __str__(self) -> str:
        if self.version == "-":
            return f"plugin {self.name!r}, {self.distribution}"
        return f"plugin {self.name!r} of {self.distribution} {self.version}"

    def to_dict(self) -> dict[str, Any]:
        """The status as JSON-ready data."""
        return {
            "name": self.name,
            "distribution": self.distribution,
            "version": self.version,
            "status": self.status,
            "hooks": self.hooks,
            "error": self.error,
        }


def register_all(
    manager: pluggy.PluginManager, candidates: Sequence[Candidate]
) -> list[PluginStatus]:
    """Register core's plugin and then the candidates, each by itself.

    Args:
        manager: holds those that are well afterwards.
        candidates: in the order in which they get a name.

    Returns:
        What became of each, core first.

    Raises:
        PluginError: a plugin is broken and plugins are strict.
    """
    from . import _builtin

    core = Candidate(CORE, "atp-prune", _version("atp-prune"), lambda: _builtin)
    statuses = [_register(manager, core)]
    disabled = _disabled(candidates)
    for candidate in candidates:
        rival = next((status for status in statuses if status.name == candidate.name), None)
        if candidate.name in disabled or candidate.distribution in disabled:
            status = candidate.status("disabled")
        elif rival is not None:
            status = candidate.status("broken", _rivalry(candidate, rival))
        else:
            status = _register(manager, candidate)
        statuses.append(status)
    broken = [status for status in statuses if status.status == "broken"]
    if broken and is_strict():
        told = "; ".join(f"{status} is broken: {status.error}" for status in broken)
        raise PluginError(told) from broken[0].cause
    for status in broken:
        tell_once(f"{status} is broken and was left out: {status.error}", status.cause)
    return statuses


def is_strict() -> bool:
    """Whether a fault of a plugin is an error, by ``ATP_STRICT_PLUGINS``."""
    return _is_on("ATP_STRICT_PLUGINS")


def tell_once(text: str, cause: BaseException | None = None) -> None:
    """Say something on stderr, once in the life of the process however many managers are built.

    Args:
        text: what to say.
        cause: the error behind it, whose traceback ``ATP_TRACEBACK=1`` shows.
    """
    if text in _told:
        return
    _told.add(text)
    if cause is not None and _is_on("ATP_TRACEBACK"):
        traceback.print_exception(cause)
    print(f"warning: {text}", file=sys.stderr)


def _is_on(variable: str) -> bool:
    return os.environ.get(variable, "") not in ("", "0")


_told: set[str] = set()


def one_line(error: BaseException) -> str:
    """The kind and the message of an error, in one line that is not too long."""
    return textwrap.shorten(f"{type(error).__name__}: {error}", 400, placeholder=" …")


# --- what there is -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Candidate:
    """A plugin that is not imported yet.

    Attributes:
        name: its name.
        distribution: the distribution it belongs to.
        version: that distribution's version.
        load: imports it, or raises whatever is wrong.
    """

    name: str
    distribution: str
    version: str
    load: Callable[[], Any]

    def status(
        self, status: Literal["ok", "broken", "disabled"], error: str | None = None
    ) -> PluginStatus:
        """What became of it."""
        return PluginStatus(self.name, self.distribution, self.version, status, error=error)


def given(name: str, plugin: Any) -> Candidate:
    """A plugin that is a module, a class or an object of this process."""
    return Candidate(name, "given in code", "-", lambda: _made(plugin))


def installed() -> list[Candidate]:
    """Every entry point of the group but core's own, by name.

    A distribution that is found twice counts once, the first on the path.
    """
    found: list[Candidate] = []
    seen: set[str] = set()
    for distribution in distributions():
        try:
            name, version = str(distribution.metadata["Name"] or ""), distribution.version
            if not name:
                raise ValueError("it has no name")
            points = [point for point in distribution.entry_points if point.group == GROUP]
        except Exception as error:
            # What an installation that was cut off leaves behind; most of it is none of ours.
            if GROUP in (distribution.read_text("entry_points.txt") or ""):
                tell_once(
                    f"the metadata of {getattr(distribution, '_path', 'a distribution')} cannot be "
                    f"read, so its plugin is not seen ({one_line(error)}); install it again"
                )
            continue
        if name in seen:
            continue
        seen.add(name)
        if name != "atp-prune":
            found += [Candidate(p.name, name, version, _importer(p, name)) for p in points]
    return sorted(found, key=lambda candidate: (candidate.name, candidate.distribution))


def _importer(point: EntryPoint, distribution: str) -> Callable[[], Any]:
    return lambda: import_in_time(
        f"{point.name!r} of {distribution}", lambda: _made(point.load()), _seconds()
    )


def _made(plugin: Any) -> Any:
    """The plugin, made an object if it is a class."""
    return plugin() if inspect.isclass(plugin) else plugin


def _seconds() -> float:
    """How long an import may take, by ``ATP_PLUGIN_TIMEOUT``."""
    text = os.environ.get("ATP_PLUGIN_TIMEOUT", "").strip()
    if not text:
        return _TIMEOUT
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        tell_once(
            f"ATP_PLUGIN_TIMEOUT is {text!r}, which is no number of seconds above 0; {_TIMEOUT:g} "
            "is used"
        )
        return _TIMEOUT
    return seconds


def _disabled(candidates: Sequence[Candidate]) -> set[str]:
    """The names in ``ATP_DISABLE_PLUGINS``."""
    text = os.environ.get("ATP_DISABLE_PLUGINS", "")
    wanted = {name.strip() for name in text.split(",") if name.strip()}
    known = {c.name for c in candidates} | {c.distribution for c in candidates}
    for name in sorted(wanted - known):
        if name in (CORE, "atp-prune"):
            tell_once("ATP_DISABLE_PLUGINS names atp-prune's own plugin, which cannot be disabled")
            continue
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        tell_once(f"ATP_DISABLE_PLUGINS names {name!r}, and no such plugin is installed{hint}")
    return wanted


def _version(distribution: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown"


# --- registering one ---------------------------------------------------------------------------


def _register(manager: pluggy.PluginManager, candidate: Candidate) -> PluginStatus:
    """Load and register; whatever goes wrong leaves no trace in the manager."""
    plugin: Any = None
    cause: BaseException | None = None
    try:
        plugin = candidate.load()
        error = _why_unfit(manager, plugin, candidate)
        if error is None:
            manager.register(plugin, candidate.name)
            manager.check_pending()
            callers = manager.get_hookcallers(plugin) or []
            status = candidate.status("ok")
            status.hooks, status.plugin = sorted(caller.name for caller in callers), plugin
            return status
    except KeyboardInterrupt:
        raise
    except StillImporting as late:
        error = (
            f"{late}; give it longer (ATP_PLUGIN_TIMEOUT=SECONDS), or leave it out "
            f"(ATP_DISABLE_PLUGINS={candidate.name})"
        )
    except BaseException as fault:
        cause = fault
        error = f"{one_line(fault)}; {_remedy(candidate)}"
    if manager.has_plugin(candidate.name):
        manager.unregister(name=candidate.name)
    status = candidate.status("broken", error)
    status.plugin, status.cause = plugin, cause
    return status


def _why_unfit(manager: pluggy.PluginManager, plugin: Any, candidate: Candidate) -> str | None:
    """Why a plugin that could be imported cannot be used, every fault of it; or None."""
    problems = [problem for problem in hook_problems(plugin) if problem.fatal]
    if problems:
        outdated = any(problem.outdated for problem in problems)
        return f"{'; '.join(map(str, problems))}; {_remedy(candidate, upgrade=not outdated)}"
    for name, other in manager.list_name_plugin():
        if other is plugin:
            return (
                f"it is the same object as plugin {name!r}; one of the two entry points must go: "
                f"{_remedy(candidate)}"
            )
    return None


def _remedy(candidate: Candidate, *, upgrade: bool = True) -> str:
    """What a user can do about a broken plugin."""
    leave = f"leave it out (ATP_DISABLE_PLUGINS={candidate.name})"
    if not upgrade:
        return f"or {leave}"
    return f"upgrade it (pip install -U {candidate.distribution}), tell its authors, or {leave}"


def _rivalry(candidate: Candidate, rival: PluginStatus) -> str:
    """Why a second plugin of one name is broken."""
    if rival.name == CORE:
        return (
            f"the name {CORE!r} is that of atp-prune's own plugin; its authors must give the entry "
            f"point another name: leave it out (ATP_DISABLE_PLUGINS={candidate.distribution})"
        )
    return (
        f"{rival.distribution} and {candidate.distribution} both provide a plugin called "
        f"{candidate.name!r}; uninstall one: pip uninstall {candidate.distribution}"
    )
