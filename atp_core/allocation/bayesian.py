"""Bayesian search over the rate of every block, on Optuna."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..records import Schedule
from . import AllocationRequest, ScheduleJudge
from ._scores import uniform_as
from .budget import solve_intercept

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler

__all__ = ["GaussianProcess", "ParzenEstimator"]

_DEFAULTS: dict[str, int] = {"trials": 100, "seed": 0, "batch": 1}


class _Bayesian:
    """Rates of all blocks as the parameters of one search.

    Every proposal is shifted to the budget, chain by chain, before it is judged. Rates are proposed
    within min(S, 1 − S) of S, which is as far as the steepest progression of ATP goes, so both
    search the same room. Uniform sparsity is the first trial.

    The ATP paper compares with such a search (Section 4.6, Table 6) without naming its sampler.

    Options: "trials" (100), "seed" (0) and "batch" (1): how many schedules are proposed at once,
    each with the others of its batch taken for running trials. An executor judges a batch side by
    side. Proposals depend on the batch and not on the executor.
    """

    name = ""
    takes_beta = False

    def allocate(self, request: AllocationRequest) -> Schedule:
        """Uniform sparsity, where the search starts.

        Raises:
            UsageError: an option is unknown or outside its range.
        """
        self._options(request)
        return uniform_as(self.name, request)

    def trials(self, request: AllocationRequest) -> int:
        """How many schedules are tried, uniform among them."""
        return self._options(request)["trials"]

    def search(self, request: AllocationRequest, judge: ScheduleJudge) -> Schedule:
        """The best of so many trials.

        Raises:
            UsageError: an option is unknown or outside its range, or Optuna is not installed.
        """
        options = self._options(request)
        try:
            import optuna
        except ImportError as error:
            raise UsageError(
                f"the {self.name} allocation needs Optuna: pip install 'atp-prune[bayes]' ({error})"
            ) from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with warnings.catch_warnings():
            # Parts of Optuna that it calls experimental say so at every use.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study = optuna.create_study(sampler=self._sampler(optuna, options))
            distributions: dict[str, BaseDistribution] = {
                key: optuna.distributions.FloatDistribution(low, high)
                for key, low, high in _room(request)
            }
            study.enqueue_trial({key: (low + high) / 2 for key, low, high in _room(request)})
            best, least = self.allocate(request), math.inf
            for first in range(0, options["trials"], options["batch"]):
                count = min(options["batch"], options["trials"] - first)
                trials = [study.ask(distributions) for _ in range(count)]
                schedules = [self._schedule(request, trial.params) for trial in trials]
                if first == 0:
                    schedules[0] = best  # exactly uniform, not but for rounding
                for trial, schedule, cost in zip(
                    trials, schedules, judge.all(schedules), strict=True
                ):
                    if cost < least:
                        best, least = schedule, cost
                    if math.isfinite(cost):
                        study.tell(trial, cost)
                    else:
                        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return best

    def _sampler(self, optuna: Any, options: dict[str, int]) -> BaseSampler:
        raise NotImplementedError

    def _schedule(self, request: AllocationRequest, proposed: dict[str, float]) -> Schedule:
        rates = {}
        for chain in request.chains:
            names = [block.name for block in chain.blocks]
            solved = solve_intercept(
                [block.parameters for block in chain.blocks],
                [proposed[_key(chain.name, name)] for name in names],
                request.sparsity[chain.name],
            )
            rates[chain.name] = dict(zip(names, solved, strict=True))
        return Schedule(rates, request.target, self.name)

    def _options(self, request: AllocationRequest) -> dict[str, int]:
        options = {**_DEFAULTS, **request.options}
        for name in request.options:
            if name not in _DEFAULTS:
                raise UsageError(
                    f"the {self.name} allocation has no option {name!r}; it has "
                    f"{', '.join(sorted(_DEFAULTS))}"
                )
        for name, least in (("trials", 1), ("seed", 0), ("batch", 1)):
            value = options[name]
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UsageError(
                    f"{name} of the {self.name} allocation must be a whole number from {least}, "
                    f"not {value!r}"
                )
        return options


class ParzenEstimator(_Bayesian):
    """Bayesian search with Optuna's tree-structured Parzen estimator, over all blocks jointly."""

    name = "bayes-tpe"

    def _sampler(self, optuna: Any, options: dict[str, int]) -> BaseSampler:
        return optuna.samplers.TPESampler(  # type: ignore[no-any-return]
            seed=options["seed"],
            multivariate=True,
            # a batch keeps away from what it already holds
            constant_liar=options["batch"] > 1,
        )


class GaussianProcess(_Bayesian):
    """Bayesian search with Optuna's Gaussian process."""

    name = "bayes-gp"

    def _sampler(self, optuna: Any, options: dict[str, int]) -> BaseSampler:
        return optuna.samplers.GPSampler(seed=options["seed"])  # type: ignore[no-any-return]


def _key(chain: str, block: str) -> str:
    return f"{chain}/{block}"


def _room(request: AllocationRequest) -> Sequence[tuple[str, float, float]]:
    """Of every block, its key and the lowest and highest rate that is proposed."""
    room = []
    for chain in request.chains:
        target = request.sparsity[chain.name]
        reach = min(target, 1.0 - target)
        room += [
            (_key(chain.name, block.name), target - reach, target + reach) for block in chain.blocks
        ]
    return room
