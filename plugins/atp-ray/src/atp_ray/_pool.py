"""Workers, and which of them does what: a worker that dies is replaced, and its job done again."""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from atp_core.errors import AtpError

from ._worker import Failed, Worker

__all__ = ["Pool"]

_PATIENCE_SECONDS = 60.0


@dataclass(eq=False)
class _Member:
    """A worker and what it is at: starting, a job by its position, or nothing."""

    actor: Any
    pending: Any = None
    job: int | None = None


class Pool:
    """Workers that keep their model from one round to the next.

    Args:
        limit: at most so many.
        cpus: cores that Ray reserves for each.
        gpus: GPUs of each.
        retries: how often a job is tried again after its worker died.
        variables: environment of each worker.
    """

    def __init__(
        self, limit: int, cpus: float, gpus: float, retries: int, variables: dict[str, str]
    ) -> None:
        self.limit = limit
        self._retries = retries
        self._variables = variables
        self._members: list[_Member] = []
        self._made = ray.remote(Worker).options(
            num_cpus=cpus,
            num_gpus=gpus,
            scheduling_strategy="SPREAD",
            # What died is replaced here, where it is counted and told.
            max_restarts=0,
        )

    def close(self) -> None:
        """End all workers."""
        for member in list(self._members):
            self._end(member)

    def run(self, packed: bytes, jobs: Sequence[bytes], threads: int) -> Iterator[tuple[int, Any]]:
        """Do every job; each position with its result, as jobs end.

        Raises:
            AtpError: of the jobs that failed, the error of the first, as if they had been done in
                order; or workers keep dying.
        """
        waiting = deque(range(len(jobs)))
        deaths: Counter[int | None] = Counter()
        failures: dict[int, BaseException] = {}
        try:
            while waiting or any(member.job is not None for member in self._members):
                self._grow(len(waiting))
                for member in self._members:
                    if member.pending is None and waiting:
                        member.job = waiting.popleft()
                        member.pending = member.actor.do.remote(packed, jobs[member.job], threads)
                member = self._next()
                position, ended = member.job, member.pending
                member.job = member.pending = None
                try:
                    result = ray.get(ended)
                except RayTaskError as error:
                    assert position is not None
                    failures[position] = _cause(error)
                except RayError as error:
                    # The worker is gone, or its machine is.
                    self._end(member)
                    deaths[position] += 1
                    self._tell_death(error, deaths[position])
                    if position is not None:
                        waiting.appendleft(position)
                else:
                    if isinstance(result, Failed):
                        assert position is not None
                        failures[position] = result.error
                    elif position is not None:
                        yield position, result
                if failures:
                    # Jobs before the failed one are finished: one of them may fail too, and is
                    # then the one that is told.
                    first = min(failures)
                    waiting = deque(one for one in waiting if one < first)
                    running = [one.job for one in self._members if one.job is not None]
                    if not waiting and not any(one < first for one in running):
                        raise failures[first]
        finally:
            for member in [one for one in self._members if one.job is not None]:
                self._end(member)

    def _grow(self, waiting: int) -> None:
        """Start workers for jobs that no idle or starting worker is there for."""
        free = sum(member.job is None for member in self._members)
        while free < waiting and len(self._members) < self.limit:
            actor: Any = self._made.remote(self._variables)
            self._members.append(_Member(actor, actor.ready.remote()))
            free += 1

    def _next(self) -> _Member:
        """The next worker that ends something."""
        told = False
        while True:
            pending = {one.pending: one for one in self._members if one.pending is not None}
            done, _ = ray.wait(list(pending), num_returns=1, timeout=_PATIENCE_SECONDS)
            if done:
                return pending[done[0]]
            if not told and all(one.job is None for one in self._members):
                told = True
                _tell("waiting for the Ray cluster to have room for a worker")

    def _tell_death(self, error: RayError, times: int) -> None:
        reason = _reason(error)
        if times > self._retries:
            raise AtpError(
                f"a Ray worker died {times} times at the same job: {reason}. Is atp-prune "
                "installed on every machine, with its plugins, and is there memory for every "
                "worker? --executor-options workers=1 takes the least"
            ) from error
        _tell(f"a Ray worker died ({reason}); starting another")

    def _end(self, member: _Member) -> None:
        if member in self._members:
            self._members.remove(member)
        ray.kill(member.actor)


def _cause(error: RayTaskError) -> BaseException:
    """What the work itself raised, with the worker's traceback as a note."""
    cause = error.cause
    if not isinstance(cause, Exception):
        return error
    cause.add_note(str(error))
    return cause


def _reason(error: RayError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[-1] if lines else type(error).__name__
    if isinstance(error, RayActorError) and "worker process has died" in str(error):
        text = text.partition("Worker exit detail:")[2] or text
        text = text.partition("Some common causes")[0]
    return text.strip().rstrip(".")


def _tell(text: str) -> None:
    # stdout is for data.
    print(f"ray: {text}", file=sys.stderr, flush=True)
