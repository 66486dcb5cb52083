"""Finding plugins, containing their faults, and asking the right one.

pluggy's own loader lets one broken plugin take the application down. Here every entry point is
loaded by itself: a plugin that fails is taken out again, named once with its remedy, and stays
visible as broken.
"""

from __future__ import annotations

import difflib
import inspect
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import EntryPoint, distributions
from types import ModuleType
from typing import Any, Literal

import pluggy

from . import hookspecs
from ._offers import Offers
from .errors import AtpError, ModelError, PluginError, UnknownNameError
from .hookspecs import HOOK_API_VERSION
from .records import Calibration, Evaluation, LoadedModel, Offer, Recognition, Source

__all__ = ["Kind", "PluginStatus", "Plugins", "build_manager"]

GROUP = "atp_prune"
OLDEST_HOOK_API = 1
_CORE = "core"

Kind = Literal["methods", "allocators", "objectives", "executors", "examples"]
"""What plugins register by name."""

_RESULTS: dict[str, type | tuple[type, ...]] = {
    "atp_load": LoadedModel,
    "atp_locate": (list, tuple),
    "atp_calibrate": Calibration,
    "atp_evaluate": Evaluation,
    "atp_save": (list, tuple),
}
_KINDS = {
    "methods": ("atp_methods", "pruning method"),
    "allocators": ("atp_allocators", "allocation"),
    "objectives": ("atp_objectives", "objective"),
    "executors": ("atp_executors", "executor"),
    "examples": ("atp_examples", "example"),
}


@dataclass
class PluginStatus:
    """What became of one plugin.

    Attributes:
        name: name of the entry point.
        distribution: the distribution it belongs to.
        version: that distribution's version.
        status: "ok", "broken" or "disabled".
        hooks: the hooks it implements, sorted.
        error: why it is broken, with the remedy.
    """

    name: str
    distribution: str
    version: str
    status: Literal["ok", "broken", "disabled"]
    hooks: list[str] = field(default_factory=list)
    error: str | None = None

    def __str__(self) -> str:
        return f"plugin {self.name!r} of {self.distribution} {self.version}"


class Plugins:
    """The plugins of one run.

    Args:
        manager: holds the plugins that are well.
        statuses: all plugins found, by name; core first.
    """

    def __init__(self, manager: pluggy.PluginManager, statuses: Sequence[PluginStatus]) -> None:
        self._manager = manager
        self.statuses = list(statuses)

    def status(self, name: str) -> PluginStatus:
        """The plugin called `name`.

        Raises:
            UnknownNameError: there is none.
        """
        for status in self.statuses:
            if status.name == name:
                return status
        raise UnknownNameError("plugin", name, [status.name for status in self.statuses])

    def distribution(self, name: str) -> str:
        """Distribution of the plugin called `name`."""
        return self.status(name).distribution

    # --- which plugin handles a source -------------------------------------------------------

    def recognize(self, source: Source, plugin: str | None = None) -> Recognition:
        """The surest plugin's answer.

        Args:
            source: what the user asked for.
            plugin: let this plugin handle it, whatever others say.

        Raises:
            PluginError: the plugin asked for is broken, does not handle models or does not know
                the source; or two plugins are equally sure.
            ModelError: no plugin handles the source.
        """
        if plugin is not None:
            status = self.status(plugin)
            if status.status != "ok":
                raise PluginError(f"{status} is {status.status}: {status.error or 'by request'}")
            if "atp_load" not in status.hooks:
                raise PluginError(f"{status} handles no models; it has {status.hooks}")
        answers = list(self._answers(source, plugin))
        if not answers:
            raise self._nobody(source, plugin)
        best = max(answers, key=lambda answer: answer.confidence)
        rivals = [a.plugin for a in answers if a.confidence == best.confidence]
        if len(rivals) > 1:
            raise PluginError(
                f"plugins {' and '.join(map(repr, sorted(rivals)))} are equally sure that they "
                f"handle {source.text!r}; say which with --plugin NAME"
            )
        return best

    def _answers(self, source: Source, plugin: str | None) -> Iterator[Recognition]:
        for status in self.statuses:
            if status.status != "ok" or "atp_recognize" not in status.hooks:
                continue
            if plugin is not None and status.name != plugin:
                continue
            try:
                answer = self._subset("atp_recognize", status.name)(source=source)[0:1]
            except AtpError:
                raise
            except Exception as error:
                message = f"{status} failed in atp_recognize: {type(error).__name__}: {error}"
                if plugin is not None:
                    raise PluginError(message) from error
                warnings.warn(message + "; it was passed over", stacklevel=2)
                continue
            for found in answer:
                if not isinstance(found, Recognition):
                    raise PluginError(
                        f"{status}: atp_recognize returned {type(found).__name__}, not Recognition "
                        "or None"
                    )
                if found.confidence > 0:
                    yield replace(found, plugin=status.name)

    def _nobody(self, source: Source, plugin: str | None) -> AtpError:
        asked = f"plugin {plugin!r} does not handle" if plugin else "no plugin handles"
        handlers = [s.name for s in self.statuses if s.status == "ok" and "atp_load" in s.hooks]
        told = f"{asked} {source.text!r}. Plugins for models: {', '.join(handlers) or 'none'}."
        if source.model is None and source.path is None:
            told += " It is no existing path either."
        broken = [s for s in self.statuses if s.status == "broken"]
        for status in broken:
            told += f" {status} is broken: {status.error}"
        if not handlers:
            told += " Install one, e.g. pip install atp-prune-llm."
        return PluginError(told) if plugin else ModelError(told)

    # --- asking ------------------------------------------------------------------------------

    def caller(self, hook: str, plugin: str) -> Callable[..., Any]:
        """A function that calls `hook` on `plugin`, and on core where the plugin has none.

        It raises `PluginError` if nobody answers, the answer is of the wrong type, or the plugin
        raises anything but an `AtpError`.
        """
        status = self.status(plugin)
        call = self._subset(hook, plugin)

        def ask(**arguments: Any) -> Any:
            try:
                found = call(**arguments)
            except (AtpError, MemoryError, OSError):
                raise
            except Exception as error:
                if type(error).__name__ == "OutOfMemoryError":
                    raise
                raise PluginError(
                    f"{status} failed in {hook}: {type(error).__name__}: {error}"
                ) from error
            wanted = _RESULTS.get(hook)
            if found is None or (wanted is not None and not isinstance(found, wanted)):
                raise PluginError(
                    f"{status}: {hook} gave {type(found).__name__}, which is not what "
                    "atp_core.hookspecs asks for; report it to the plugin's authors"
                )
            return found

        return ask

    def offers(self, kind: Kind, plugin: str | None = None) -> Offers:
        """Everything of one kind that plugins register.

        Args:
            kind: what is offered.
            plugin: only what the plugin of this name offers; None is everyone's.

        Raises:
            PluginError: a plugin returns something else, or two offer the same name.
        """
        hook, what = _KINDS[kind]
        found: list[Offer] = []
        for status, offer in self._registered(hook, plugin):
            if not isinstance(offer, Offer):
                raise PluginError(f"{status}: {hook} gave {type(offer).__name__}, not Offer")
            found.append(replace(offer, origin=status.distribution))
        return Offers(what, found)

    def commands(self) -> list[tuple[PluginStatus, Any]]:
        """Subcommands that plugins offer."""
        return list(self._registered("atp_commands"))

    def _registered(
        self, hook: str, plugin: str | None = None
    ) -> Iterator[tuple[PluginStatus, Any]]:
        for status in self.statuses:
            if plugin is not None and status.name != plugin:
                continue
            if status.status == "ok" and hook in status.hooks:
                try:
                    for offers in self._subset(hook, status.name)():
                        for offer in offers:
                            yield status, offer
                except AtpError:
                    raise
                except Exception as error:
                    raise PluginError(
                        f"{status} failed in {hook}: {type(error).__name__}: {error}; set "
                        f"ATP_DISABLE_PLUGINS={status.name} to go on without it"
                    ) from error

    def _subset(self, hook: str, plugin: str) -> pluggy.HookCaller:
        """`hook` of one plugin; `atp_prune` falls back to core's."""
        kept = {plugin, _CORE} if hook == "atp_prune" else {plugin}
        others = [p for name, p in self._manager.list_name_plugin() if name not in kept]
        return self._manager.subset_hook_caller(hook, others)


def build_manager(*, discover: bool = True, extra: Sequence[tuple[str, Any]] = ()) -> Plugins:
    """Load core's plugin and every installed one. A new manager each time: nothing is global.

    Environment: ``ATP_DISABLE_PLUGINS`` names plugins (or distributions) to leave out, separated
    by commas; ``ATP_STRICT_PLUGINS=1`` makes a broken plugin an error.

    Args:
        discover: look for installed plugins; False gives core alone, for tests.
        extra: further plugins as (name, module or object).

    Raises:
        PluginError: a plugin is broken and plugins are strict.
    """
    from . import _builtin

    manager = pluggy.PluginManager("atp_prune")
    manager.add_hookspecs(hookspecs)
    statuses: list[PluginStatus] = []
    core = _Candidate(_CORE, "atp-prune", _version("atp-prune"), lambda: _builtin)
    statuses.append(_register(manager, core))
    candidates = [
        _Candidate(name, "given in code", "-", partial(_given, plugin))
        for name, plugin in extra
    ]
    if discover:
        candidates += sorted(_installed(), key=lambda c: (c.name, c.distribution))
    disabled = _disabled(candidates)
    for candidate in candidates:
        rival = next((s for s in statuses if s.name == candidate.name), None)
        if candidate.name in disabled or candidate.distribution in disabled:
            status = candidate.status("disabled")
        elif rival is not None:
            status = candidate.status(
                "broken",
                f"{rival.distribution} and {candidate.distribution} both provide a plugin called "
                f"{candidate.name!r}; uninstall one: pip uninstall {candidate.distribution}",
            )
        else:
            status = _register(manager, candidate)
        statuses.append(status)
    broken = [status for status in statuses if status.status == "broken"]
    if broken and os.environ.get("ATP_STRICT_PLUGINS", "") not in ("", "0"):
        raise PluginError("; ".join(f"{status} is broken: {status.error}" for status in broken))
    for status in broken:
        _tell_once(f"{status} is broken and was left out: {status.error}")
    return Plugins(manager, statuses)


# --- loading one plugin ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Candidate:
    name: str
    distribution: str
    version: str
    load: Callable[[], Any]

    def status(
        self, status: Literal["ok", "broken", "disabled"], error: str | None = None
    ) -> PluginStatus:
        return PluginStatus(self.name, self.distribution, self.version, status, error=error)


def _installed() -> Iterator[_Candidate]:
    """Every entry point of the group but core's own; a distribution found twice counts once."""
    seen: set[str] = set()
    for distribution in distributions():
        name = distribution.metadata["Name"] or "unknown distribution"
        if name in seen:
            continue
        seen.add(name)
        if name == "atp-prune":
            continue
        for point in distribution.entry_points:
            if point.group == GROUP:
                yield _Candidate(point.name, name, distribution.version, _loader(point))


def _given(plugin: Any) -> Any:
    return plugin


def _loader(point: EntryPoint) -> Callable[[], Any]:
    return lambda: point.load()


def _register(manager: pluggy.PluginManager, candidate: _Candidate) -> PluginStatus:
    """Load and register; whatever goes wrong leaves no trace in the manager."""
    remedy = (
        f"upgrade it (pip install -U {candidate.distribution}), or leave it out "
        f"(ATP_DISABLE_PLUGINS={candidate.name})"
    )
    plugin: Any = None
    try:
        plugin = candidate.load()
        if inspect.isclass(plugin):
            plugin = plugin()
        _check_version(plugin)
        _check_hook_names(plugin)
        manager.register(plugin, candidate.name)
        manager.check_pending()
        hooks = sorted(caller.name for caller in manager.get_hookcallers(plugin) or [])
        if not hooks:
            raise PluginError("it implements no hook; mark functions with atp_core's hookimpl")
    except (Exception, SystemExit) as error:
        if plugin is not None and manager.is_registered(plugin):
            manager.unregister(plugin)
        what = str(error) if isinstance(error, AtpError) else f"{type(error).__name__}: {error}"
        return candidate.status("broken", f"{' '.join(what.split())}; {remedy}")
    status = candidate.status("ok")
    status.hooks = hooks
    return status


def _check_version(plugin: Any) -> None:
    wanted = getattr(plugin, "ATP_HOOK_API", None)
    if isinstance(wanted, bool) or not isinstance(wanted, int):
        raise PluginError(
            "it does not declare the hook API it was written for; add "
            f"ATP_HOOK_API = {HOOK_API_VERSION}"
        )
    if wanted > HOOK_API_VERSION:
        raise PluginError(
            f"it needs hook API {wanted} and this atp-prune offers {HOOK_API_VERSION}; upgrade "
            "atp-prune"
        )
    if wanted < OLDEST_HOOK_API:
        raise PluginError(
            f"it was written for hook API {wanted} and this atp-prune supports "
            f"{OLDEST_HOOK_API} to {HOOK_API_VERSION}"
        )


def _check_hook_names(plugin: Any) -> None:
    """A misspelt hook would never be called; find it before its author wonders why."""
    known = [name for name in vars(hookspecs) if name.startswith("atp_")]
    for name in dir(plugin):
        if not name.startswith("atp_") or name in known:
            continue
        found = inspect.getattr_static(plugin, name, None)
        if isinstance(found, ModuleType) or not hasattr(
            getattr(plugin, name, None), "atp_prune_impl"
        ):
            continue
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise PluginError(f"there is no hook {name}{hint}")


def _disabled(candidates: Sequence[_Candidate]) -> set[str]:
    text = os.environ.get("ATP_DISABLE_PLUGINS", "")
    wanted = {name.strip() for name in text.split(",") if name.strip()}
    known = {c.name for c in candidates} | {c.distribution for c in candidates}
    for name in sorted(wanted - known):
        if name in (_CORE, "atp-prune"):
            _tell_once("ATP_DISABLE_PLUGINS names atp-prune's own plugin, which cannot be disabled")
            continue
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        _tell_once(f"ATP_DISABLE_PLUGINS names {name!r}, and no such plugin is installed{hint}")
    return wanted


_told: set[str] = set()


def _tell_once(text: str) -> None:
    """Say something on stderr, once in the life of the process however many managers are built."""
    if text not in _told:
        _told.add(text)
        print(f"warning: {text}", file=sys.stderr)


def _version(distribution: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown"
