"""Work that other processes can do: what it takes to make the session of this one over there."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Generic, TypeVar

from ._session import Session
from .errors import DataError, UsageError
from .recipe import Recipe
from .records import Source

__all__ = ["Work"]

J = TypeVar("J")
R = TypeVar("R")
Identify = Callable[[Session], Mapping[str, Any]]


class Work(Generic[J, R]):
    """Does jobs on the model of a session; pickled, on a model of its own wherever it arrives.

    Args:
        session: has the model.
        here: does a job in this process.
        elsewhere: makes the like of `here` from a session; a function of a module.
        identify: what must be equal for two sessions to give the same results, JSON-ready; a
            function of a module.
    """

    def __init__(
        self,
        session: Session,
        here: Callable[[J], R],
        elsewhere: Callable[[Session], Callable[[J], R]],
        identify: Identify,
    ) -> None:
        self._session, self._here = session, here
        self._elsewhere, self._identify = elsewhere, identify

    def __call__(self, job: J) -> R:
        """Do a job."""
        return self._here(job)

    def __reduce__(self) -> tuple[Callable[..., _Sent[J, R]], tuple[Any, ...]]:
        blueprint = _Blueprint.of(self._session, self._identify(self._session))
        return _Sent, (blueprint, self._elsewhere, self._identify)


class _Sent(Generic[J, R]):
    """Work that has arrived in another process; the model is loaded for the first job."""

    def __init__(
        self,
        blueprint: _Blueprint,
        make: Callable[[Session], Callable[[J], R]],
        identify: Identify,
    ) -> None:
        self._blueprint, self._make, self._identify = blueprint, make, identify
        self._do: Callable[[J], R] | None = None

    def __call__(self, job: J) -> R:
        """Do a job.

        Raises:
            UsageError: this machine has other versions of the software than the first.
            DataError: it finds another model or other data under the same name.
        """
        if self._do is None:
            session = self._blueprint.session()
            self._blueprint.check(self._identify(session))
            self._do = self._make(session)
        return self._do(job)


@dataclass(frozen=True)
class _Blueprint:
    """What another process needs to make an equal session.

    Attributes:
        settings: those of the recipe.
        source: the model as the user wrote it.
        folder: where relative paths start.
        versions: distribution → version.
        identity: what must be equal.
    """

    settings: Mapping[str, Any]
    source: str
    folder: str
    versions: Mapping[str, str]
    identity: Mapping[str, Any]

    @classmethod
    def of(cls, session: Session, identity: Mapping[str, Any]) -> _Blueprint:
        """That of a session.

        Raises:
            UsageError: its model or its plugins exist in this process only.
        """
        if session.source.model is not None or not session.discovered:
            raise UsageError(
                "a model in memory, or plugins that are not installed, cannot be sent to other "
                "processes: use the local executor"
            )
        settings = session.recipe.model_dump(exclude_unset=True)
        for name in ("executor", "executor_options", "output"):
            settings.pop(name, None)
        return cls(settings, session.source.text, os.getcwd(), _versions(session), identity)

    def session(self) -> Session:
        """The session, in this process.

        Raises:
            UsageError: versions of the software differ.
        """
        # A machine that has no such folder says itself what it then cannot find.
        with contextlib.suppress(OSError):
            os.chdir(self.folder)
        session = Session(Recipe.make(self.settings), Source(self.source))
        here = _versions(session)
        for name, wanted in self.versions.items():
            if here.get(name) != wanted:
                raise UsageError(
                    f"{platform.node()} has {name} {here.get(name)} and the search runs with "
                    f"{wanted}; install the same version on every machine"
                )
        return session

    def check(self, identity: Mapping[str, Any]) -> None:
        """Refuse a session that would give other results.

        Raises:
            DataError: names what differs.
        """
        for key, wanted in self.identity.items():
            if identity.get(key) != wanted:
                raise DataError(
                    f"{platform.node()} would give other results: {key} is "
                    f"{identity.get(key)!r} there and {wanted!r} here; let all machines see the "
                    "same files"
                )


def _versions(session: Session) -> dict[str, str]:
    """Versions of what results depend on."""
    plugin = session.plugins.status(session.plugin)
    return {
        "atp-prune": version("atp-prune"),
        "torch": version("torch"),
        plugin.distribution: plugin.version,
    }
