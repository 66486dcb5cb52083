"""Refusing answers of plugins, so that nothing wrong travels on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from ._answers import answer_faults
from ._contained import remedy
from ._discovery import PluginStatus
from .errors import PluginError

if TYPE_CHECKING:
    from ._unchanged import Watch

__all__ = ["judge", "watch"]

_TOLD: Final = 3
"""How many faults of one answer are told."""


def watch(hook: str, arguments: Mapping[str, Any]) -> Watch | None:
    """What notices changes of the model, for the hook that must not make any.

    Args:
        hook: the hook that is about to be called.
        arguments: what it will be called with.
    """
    if hook != "atp_locate":
        return None
    from ._unchanged import Watch

    return Watch(arguments["loaded"].model)


def judge(
    status: PluginStatus,
    hook: str,
    answer: Any,
    arguments: Mapping[str, Any],
    watched: Watch | None = None,
) -> None:
    """Refuse an answer that is not what the specifications ask for.

    Args:
        status: the plugin that answered.
        hook: the hook that was called.
        answer: what it returned.
        arguments: what it was called with.
        watched: what `watch` made before the call.

    Raises:
        PluginError: it is not; names the plugin, the hook and the first few faults.
    """
    faults = list(islice(answer_faults(hook, answer, arguments), _TOLD))
    if watched is not None:
        model = arguments["loaded"].model
        changed = list(_changes(model, watched))
        if not faults and not changed:
            from ._located import located_faults

            faults = list(islice(located_faults(model, answer), _TOLD))
        faults += changed
    if faults:
        raise PluginError(f"{status}: {hook} {'; it '.join(faults)}; {remedy(status, hook)}")


def _changes(model: Any, watched: Watch) -> Iterator[str]:
    if model is not watched.model:
        yield "put another model into LoadedModel.model, where it must change nothing"
        return
    changes = list(watched.changes())
    if changes:
        more = f"; and {len(changes) - _TOLD} more changes" if len(changes) > _TOLD else ""
        told = "; ".join(changes[:_TOLD])
        yield f"changed the model ({told}{more}), where it must change nothing"
