"""Asking the right plugin, and telling its faults from those of others."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import pluggy

from . import hookspecs
from ._contained import contained
from ._contract import GROUP, MODEL_HOOKS, missing_hooks
from ._discovery import (
    CORE,
    PluginStatus,
    given,
    installed,
    is_strict,
    register_all,
    tell_once,
)
from ._judging import judge, watch
from ._offers import Offers
from .errors import AtpError, ModelError, PluginError, UnknownNameError
from .records import Offer, Recognition, Source

__all__ = ["Kind", "PluginStatus", "Plugins", "build_manager"]

Kind = Literal["methods", "allocators", "objectives", "executors", "runtimes", "examples"]
"""What plugins register by name."""

_KINDS = {
    "methods": ("atp_methods", "pruning method"),
    "allocators": ("atp_allocators", "allocation"),
    "objectives": ("atp_objectives", "objective"),
    "executors": ("atp_executors", "executor"),
    "runtimes": ("atp_runtimes", "runtime"),
    "examples": ("atp_examples", "example"),
}
_REGISTER = ("atp_commands", *(hook for hook, _ in _KINDS.values()))


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

    def alone(self, name: str) -> Plugins:
        """Core and the plugin called `name`, as if nothing else were installed.

        Raises:
            UnknownNameError: there is none.
        """
        kept = (self.status(CORE), self.status(name))
        return Plugins(self._manager, list(dict.fromkeys(kept)))

    def probed(self) -> list[PluginStatus]:
        """The plugins, those as broken that cannot say what they offer.

        Raises:
            PluginError: there is one, and plugins are strict.
        """
        found = []
        for status in self.statuses:
            faults = [fault for hook in _REGISTER if (fault := self._probe(hook, status))]
            if faults:
                status = replace(status, status="broken", error="; ".join(faults))
            found.append(status)
        return found

    # --- which plugin handles a source -------------------------------------------------------

    def recognize(self, source: Source, plugin: str | None = None) -> Recognition:
        """The surest plugin's answer.

        A plugin that fails is passed over with a warning where another one knows the source.

        Args:
            source: what the user asked for.
            plugin: let this plugin handle it, whatever others say.

        Raises:
            PluginError: the plugin asked for is broken, does not handle models or does not know
                the source; or two plugins are equally sure; or nobody knows it and one failed.
            ModelError: no plugin handles the source.
        """
        if plugin is not None:
            self._answering("atp_recognize", plugin)
        answers: list[Recognition] = []
        failures: list[tuple[PluginStatus, AtpError]] = []
        for status in self.statuses:
            if status.status != "ok" or "atp_recognize" not in status.hooks:
                continue
            if plugin is not None and status.name != plugin:
                continue
            try:
                answer = self._recognition(source, status)
            except AtpError as failure:
                if plugin is not None:
                    raise
                failures.append((status, failure))
                continue
            if answer is not None and answer.confidence > 0:
                answers.append(replace(answer, plugin=status.name))
        if not answers:
            raise self._nobody(source, plugin, failures)
        for status, error in failures:
            told = "" if isinstance(error, PluginError) else f"{status}: "
            warnings.warn(f"{told}{error}; it was passed over", stacklevel=2)
        best = max(answers, key=lambda answer: answer.confidence)
        rivals = [a.plugin for a in answers if a.confidence == best.confidence]
        if len(rivals) > 1:
            raise PluginError(
                f"plugins {' and '.join(map(repr, sorted(rivals)))} are equally sure that they "
                f"handle {source.text!r}; say which with --plugin NAME"
            )
        self._answering("atp_load", best.plugin)
        return best

    def _recognition(self, source: Source, status: PluginStatus) -> Recognition | None:
        with contained(status, "atp_recognize"):
            found = self._subset("atp_recognize", status.name)(source=source)
            for answer in found:
                judge(status, "atp_recognize", answer, {"source": source})
        return found[0] if found else None

    def _nobody(
        self,
        source: Source,
        plugin: str | None,
        failures: Sequence[tuple[PluginStatus, AtpError]],
    ) -> AtpError:
        # What a plugin says of a source on purpose is the best answer there is.
        for _, error in failures:
            if not isinstance(error, PluginError):
                return error
        asked = f"plugin {plugin!r} does not handle" if plugin else "no plugin handles"
        handlers = [s.name for s in self.statuses if s.status == "ok" and "atp_load" in s.hooks]
        told = f"{asked} {source.text!r}. Plugins for models: {', '.join(handlers) or 'none'}."
        if source.model is None and source.path is None:
            told += " It is no existing path either."
        for status in self.statuses:
            if status.status == "broken":
                told += f" {status} is broken: {status.error}."
            elif "atp_load" in status.hooks and "atp_recognize" not in status.hooks:
                told += f" {_half(status, 'atp_recognize')}."
        told += "".join(f" {error}." for _, error in failures)
        if not handlers:
            told += " Install one, e.g. pip install atp-prune-llm."
        return PluginError(told) if plugin or failures else ModelError(told)

    # --- asking ------------------------------------------------------------------------------

    def caller(self, hook: str, plugin: str) -> Callable[..., Any]:
        """A function that calls `hook` on `plugin`, and on core where the plugin has none.

        It raises `PluginError` if the answer is not what the specifications ask for, or the
        plugin raises anything but an `AtpError`.

        Raises:
            PluginError: neither has the hook.
        """
        status = self._answering(hook, plugin)
        call = self._subset(hook, plugin)

        def ask(**arguments: Any) -> Any:
            with contained(status, hook, using=self._method(hook, arguments)):
                watched = watch(hook, arguments)
                found = call(**arguments)
                judge(status, hook, found, arguments, watched)
            return found

        return ask

    def _method(self, hook: str, arguments: Mapping[str, Any]) -> str:
        """The pruning method that a hook works with, where it is a plugin's."""
        if hook != "atp_prune":
            return ""
        name = getattr(arguments.get("method"), "name", "")
        origins = {offer.origin for offer in self.offers("methods").all(name)}
        foreign = sorted(origins - {"atp-prune"})
        return f" with the method {name!r} of {' or '.join(foreign)}" if foreign else ""

    def _answering(self, hook: str, plugin: str) -> PluginStatus:
        """Who answers when `hook` is asked of `plugin`.

        Raises:
            PluginError: the plugin is not well, handles no models, or lacks the hook.
        """
        status = self.status(plugin)
        if status.status != "ok":
            raise PluginError(f"{status} is {status.status}: {status.error or 'by request'}")
        if hook in status.hooks:
            return status
        if hook == "atp_prune":
            return self.status(CORE)
        if not set(MODEL_HOOKS) & set(status.hooks):
            raise PluginError(
                f"{status} handles no models; it has {', '.join(status.hooks)}. Choose another "
                "with --plugin NAME"
            )
        raise PluginError(_half(status, hook))

    # --- what is registered by name ----------------------------------------------------------

    def offers(self, kind: Kind, plugin: str | None = None) -> Offers:
        """Everything of one kind that plugins register.

        A plugin that cannot say what it offers is left out and told once, and so is a name that
        several offer.

        Args:
            kind: what is offered.
            plugin: only what the plugin of this name offers; None is everyone's.

        Raises:
            PluginError: the plugin asked for cannot say what it offers, or any cannot and plugins
                are strict.
        """
        hook, what = _KINDS[kind]
        found: list[tuple[str, Offer]] = []
        silent = [str(status) for status in self.statuses if status.status == "broken"]
        for status, offers in self._registered(hook, plugin):
            if offers is None:
                silent.append(str(status))
                continue
            found += [(status.name, replace(o, origin=status.distribution)) for o in offers]
        made = Offers(what, found, silent if plugin is None else ())
        for clash in made.clashes():
            tell_once(clash)
        return made

    def commands(self, plugin: str | None = None) -> list[tuple[PluginStatus, Any]]:
        """Subcommands that plugins offer; arguments and errors are those of `offers`."""
        return [
            (status, command)
            for status, commands in self._registered("atp_commands", plugin)
            for command in commands or ()
        ]

    def _registered(
        self, hook: str, plugin: str | None
    ) -> Iterator[tuple[PluginStatus, Sequence[Any] | None]]:
        """What each plugin answers; None for one that fails, which is told once."""
        for status in self.statuses:
            if plugin is not None and status.name != plugin:
                continue
            if status.status != "ok" or hook not in status.hooks:
                continue
            try:
                yield status, self._ask_what(hook, status)
            except PluginError as error:
                if plugin is not None or is_strict():
                    raise
                tell_once(f"{error}; what it offers is left out", error)
                yield status, None

    def _ask_what(self, hook: str, status: PluginStatus) -> list[Any]:
        """What one plugin offers through a registration hook."""
        # Nothing that goes wrong here is a matter of what the user asked for.
        with contained(status, hook, passing=False):
            answers = self._subset(hook, status.name)()
        with contained(status, hook):
            # pluggy leaves out None.
            for answer in answers or [None]:
                judge(status, hook, answer, {})
        return [offer for answer in answers for offer in answer]

    def _probe(self, hook: str, status: PluginStatus) -> str | None:
        """Why a plugin cannot say what it offers, or None."""
        if status.status != "ok" or hook not in status.hooks:
            return None
        try:
            self._ask_what(hook, status)
        except PluginError as error:
            if is_strict():
                raise
            return str(error).removeprefix(f"{status}: ").removeprefix(f"{status} ")
        return None

    def _subset(self, hook: str, plugin: str) -> pluggy.HookCaller:
        """`hook` of one plugin; `atp_prune` falls back to core's."""
        kept = {plugin, CORE} if hook == "atp_prune" else {plugin}
        others = [p for name, p in self._manager.list_name_plugin() if name not in kept]
        return self._manager.subset_hook_caller(hook, others)


def build_manager(*, discover: bool = True, extra: Sequence[tuple[str, Any]] = ()) -> Plugins:
    """Load core's plugin and every installed one. A new manager each time: nothing is global.

    Environment: ``ATP_DISABLE_PLUGINS`` names plugins (or distributions) to leave out, separated
    by commas; ``ATP_STRICT_PLUGINS=1`` makes a broken plugin an error; ``ATP_PLUGIN_TIMEOUT`` is
    how many seconds an import may take.

    Args:
        discover: look for installed plugins; False gives core alone, for tests.
        extra: further plugins as (name, module or object).

    Raises:
        PluginError: a plugin is broken and plugins are strict.
    """
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    candidates = [given(name, plugin) for name, plugin in extra]
    if discover:
        candidates += installed()
    return Plugins(manager, register_all(manager, candidates))


def _half(status: PluginStatus, hook: str) -> str:
    """Why a plugin that lacks a hook for models cannot go on."""
    others = [name for name in missing_hooks(status.hooks) if name != hook]
    also = f" (and no {', '.join(others)})" if others else ""
    half = ", and so handles models by half" if hook in MODEL_HOOKS else ""
    return (
        f"{status} has no {hook}{also}{half}; upgrade it (pip install -U {status.distribution}), "
        "tell its authors, or let another plugin handle the source (--plugin NAME)"
    )
