"""From a session to a schedule, and from a schedule to a pruned model."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any, NamedTuple, cast

from ._elsewhere import Work
from ._session import Session
from ._tasks import Found, add_tasks, evaluated
from .allocation import Allocator, ScheduleJudge, SearchingAllocator
from .allocation.betas import beta_text, by_chain, shortest
from .allocation.budget import weighted_mean
from .allocation.file import from_file
from .allocation.uniform import Uniform
from .engine.pruning import PruneReport
from .errors import UsageError
from .evaluation.comparison import Comparison
from .methods import Method
from .recipe import Recipe
from .records import Beta, Chain, Metric, Schedule, Split
from .results import SearchResult, Sweep, peak_memory_bytes
from .trials import Objective, Trial, TrialJob, best
from .trials.beta import Adaptive, Grid, Strategy, search_beta
from .trials.journal import Journal

__all__ = ["Pruning", "check_settings", "given_schedule", "identity", "trial_samples"]

# A trial only has to rank β's, which a fraction of the calibration data does nearly as well as
# all of it; the winner and β = 0 are then judged again on all of it.
_TRIAL_SHARE = 4
_TRIAL_LEAST = 8
_TRIAL_FEWEST = 4


# Where the result is written, what runs the trials, and whether weights are streamed make no
# difference to it.
_WITHOUT_EFFECT = {"output", "executor", "executor_options", "max_memory"}


def identity(session: Session) -> dict[str, Any]:
    """What must be equal for two runs to be the same run."""
    recipe = session.recipe.model_dump(mode="json", exclude=_WITHOUT_EFFECT)
    method = session.method()
    return {
        **recipe,
        "source": session.source.text,
        "plugin": session.plugin,
        "parameters": sum(chain.parameters for chain in session.chains),
        "calibration": session.calibration.fingerprint if method.calibrated else None,
        "atp": version("atp-prune"),
        "torch": version("torch"),
        "provenance": session.loaded.provenance,
    }


def trial_samples(
    samples: int, recipe: Recipe, method: Method, defaults: Mapping[str, int]
) -> int:
    """Calibration samples of a trial.

    Args:
        samples: calibration samples in all.
        recipe: may ask for a number.
        method: one that wants to know a number of each input feature, and no more, does with half
            as many samples as its trials are judged on, and at least four; they then cost as much
            as judging.
        defaults: the plugin's own, where the recipe says nothing.
    """
    judged_on = recipe.search_samples or defaults.get("search_samples")
    usual = max(samples // _TRIAL_SHARE, _TRIAL_LEAST)
    if judged_on is not None and getattr(method, "small_statistics", False):
        usual = min(usual, max(judged_on // 2, _TRIAL_FEWEST))
    return min(recipe.trial_samples or usual, samples)


def check_settings(session: Session, allocator: Allocator) -> None:
    """Refuse settings that would have no effect.

    Raises:
        UsageError: β is given where nothing takes one.
    """
    recipe = session.recipe
    if recipe.beta != "search" or recipe.beta_step is not None or recipe.beta_per_chain:
        if recipe.schedule is not None:
            raise UsageError("a schedule has its rates already; drop --beta and its like")
        if not getattr(allocator, "takes_beta", False):
            raise UsageError(
                f"the {allocator.name} allocation has no β; drop --beta and its like, or use "
                "--allocation atp"
            )
    if recipe.allocation_options and recipe.schedule is not None:
        raise UsageError("a schedule has its rates already; drop --allocation-options")
    if "beta" in recipe.allocation_options:
        raise UsageError("β has an option of its own: --beta, not --allocation-options beta=…")
    if recipe.beta_per_chain and not isinstance(recipe.beta, str):
        raise UsageError(
            "--beta-per-chain is for a β that is searched or measured; to give one for each "
            "chain, write --beta chain=number,chain=number"
        )


def given_schedule(session: Session, chains: Sequence[Chain]) -> Schedule:
    """The schedule of the recipe's file.

    Raises:
        UsageError: it is for another model, or for another sparsity than the recipe asks for.
    """
    path = session.recipe.schedule
    assert path is not None
    schedule = from_file(path)
    sizes, rates = [], []
    for chain in chains:
        sizes += [block.parameters for block in chain.blocks]
        rates += schedule.of(chain)
    mean, target = weighted_mean(sizes, rates), session.target(chains)
    if abs(mean - target) > 1e-3:
        raise UsageError(
            f"the rates in {path} cut {mean:.4g} of the weights, and the sparsity asked for is "
            f"{target:.4g}; give --sparsity {mean:.4g}"
        )
    return schedule


def _best_beta(trials: Sequence[Trial], higher_is_better: bool) -> Beta:
    beta = best(trials, higher_is_better).beta
    assert beta is not None, "these are trials of a β"
    return beta


def _loss(objective: float, higher_is_better: bool) -> float:
    """An objective as `Observed.loss` gives it; infinite where it is no number."""
    if not math.isfinite(objective):
        return math.inf
    if higher_is_better:
        return -objective
    return math.log(objective) if objective > 0 else objective


_TRUSTED = 0.75
"""Share of β's range in which a measured β is taken. At its end a block is cut completely, where no
exponential describes the error."""


def _trusted(beta: float, limit: float) -> float:
    return min(max(beta, 0.0), _TRUSTED * limit)


@dataclass
class _Direction:
    name: str
    higher_is_better: bool


class _Asked(NamedTuple):
    """A schedule to judge, and what users see of it."""

    schedule: Schedule
    beta: Beta | None
    stage: str
    what: str


def _attempting(session: Session) -> Callable[[TrialJob], dict[str, Any]]:
    """What makes trials on the model of a session."""
    return Pruning(session, Journal(None, {})).attempt


class Pruning:
    """Finds a schedule for a session's model and prunes to it, writing every result down.

    Args:
        session: the model, its data and its plugins.
        journal: where results are written, and found again when a run is resumed.
    """

    def __init__(self, session: Session, journal: Journal) -> None:
        self._session = session
        self._journal = journal
        self._recipe = session.recipe
        self._method: Method = session.method()
        self._allocator: Allocator = session.allocator()
        self._objective: Objective | None = session.objective()
        self._direction: _Direction | None = None
        self._prepared = False
        self._current: tuple[str, int | None, PruneReport] | None = None
        self._work = Work(session, self.attempt, _attempting, identity)
        self.found: dict[str, Found] = {}
        """What was measured on the report split, by "dense", "uniform" and "pruned"."""
        check_settings(session, self._allocator)

    # --- the schedule ------------------------------------------------------------------------

    @property
    def takes_beta(self) -> bool:
        """Whether the allocation has a β to choose."""
        return self._recipe.schedule is None and bool(getattr(self._allocator, "takes_beta", False))

    @property
    def searches(self) -> bool:
        """Whether the allocation finds its schedule by trials of its own."""
        return self._recipe.schedule is None and hasattr(self._allocator, "search")

    def schedule(self, beta: Beta | None = None) -> Schedule:
        """The schedule of the recipe, with `beta` where the allocation takes one."""
        session = self._session
        if self._recipe.schedule is not None:
            return given_schedule(session, session.chains)
        options = {"beta": beta} if beta is not None else {}
        return session.allocate(self._allocator, session.chains, **options)

    def search(self, confirmed: Callable[[Beta], None] | None = None) -> SearchResult:
        """Settle the schedule.

        Args:
            confirmed: called with each β that was judged on all calibration data, while the
                model is pruned with it.
        """
        with contextlib.closing(self._session):
            return self._settle(confirmed)

    def _settle(self, confirmed: Callable[[Beta], None] | None) -> SearchResult:
        started = time.perf_counter()
        session = self._session
        trials: list[Trial] = []
        auto: dict[str, Any] | None = None
        limit = session.beta_limit(session.chains)
        if self.searches:
            schedule, trials = self._explore()
        elif not self.takes_beta:
            schedule = self.schedule()
        else:
            wanted = self._recipe.beta
            found: list[Beta]
            if wanted == "search":
                found, trials = self._search(limit)
            elif wanted == "auto":
                auto = self.measure()
                found = [auto["beta"]]
            else:
                found = [wanted]
            schedule = self.schedule(found[-1])
            # A searched β was judged against 0 in its trials; a measured one has had no trial.
            if self._recipe.baseline:
                final = self._contest([0.0, *found], "final", confirmed)
            else:
                final = self._contest([0.0, *found] if wanted == "auto" else [], "search")
            trials += final
            if final and isinstance(wanted, str):
                winner = best(final, self._known().higher_is_better).beta
                schedule = self.schedule(winner)
        known = self._direction
        return SearchResult(
            source=session.source.text,
            plugin=session.plugin,
            method=self._recipe.method,
            schedule=schedule,
            objective=known.name if known else "",
            higher_is_better=known.higher_is_better if known else False,
            trials=trials,
            seconds=time.perf_counter() - started,
            beta_limit=limit,
            beta_auto=auto,
        )

    def uniform(self) -> Schedule:
        """The same rate for every block."""
        return self._session.allocate(Uniform(), self._session.chains)

    def _explore(self) -> tuple[Schedule, list[Trial]]:
        """What an allocation finds by trials of its own, and the trials.

        Uniform sparsity is the first of them, and is judged again beside what was found.
        """
        session = self._session
        allocator = cast(SearchingAllocator, self._allocator)
        uniform = self.uniform()
        trials = self._judge_schedules([_Asked(uniform, None, "search", "uniform")])
        higher = self._known().higher_is_better
        request = session.request(allocator, session.chains)
        count = allocator.trials(request)
        with session.progress.task(f"{allocator.name}: {count} trials", count) as advance:

            def judge(schedules: Sequence[Schedule]) -> list[float]:
                asked = [
                    _Asked(schedule, None, "search", f"trial {len(trials) + i}")
                    for i, schedule in enumerate(schedules)
                ]
                found = self._judge_schedules(asked)
                trials.extend(found)
                for _ in found:
                    advance(f"best {best(trials, higher).objective:.4g}")
                return [_loss(trial.objective, higher) for trial in found]

            found = allocator.search(request, ScheduleJudge(judge))
        contest = {one.digest: one for one in (uniform, found)}
        finals = self._judge_schedules(
            [
                _Asked(one, None, "final", "uniform" if one is uniform else allocator.name)
                for one in contest.values()
            ]
        )
        winner = best(finals, higher)
        # Where uniform wins, the schedule still says what was asked for.
        taken = replace(contest[winner.schedule], allocation=allocator.name)
        return taken, trials + finals

    def _search(self, limit: float) -> tuple[list[Beta], list[Trial]]:
        """What was found, one β for all chains and then one for each, and the trials."""
        trials = self._try(lambda beta: (beta, "search"), limit)
        higher = self._known().higher_is_better
        joint = _best_beta(trials, higher)
        limits = self._session.beta_limits(self._session.chains)
        if not self._recipe.beta_per_chain or len(limits) < 2:
            return [joint], trials
        chains = sorted(self._session.chains, key=lambda chain: -chain.parameters)
        betas = by_chain(joint, [chain.name for chain in self._session.chains])
        for name in (chain.name for chain in chains if chain.name in limits):
            varied = self._vary(name, betas, limits[name])
            betas = by_chain(_best_beta(varied, higher), list(betas))
            trials += varied
        return [joint, shortest(betas)], trials

    def _vary(self, name: str, betas: Mapping[str, float], limit: float) -> list[Trial]:
        """Trials in which the β of one chain is varied and the others stay."""

        def varied(beta: float) -> tuple[Beta, str]:
            return {**betas, name: beta}, f"search {name}"

        trials = self._try(varied, limit)
        [start] = self._judge_all([varied(betas[name])])
        return trials if start in trials else [*trials, start]

    def _try(
        self, meant: Callable[[float], tuple[Beta, str]], limit: float
    ) -> list[Trial]:
        """Search one β; `meant` says what it stands for, and the stage of its trials."""
        strategy: Strategy
        if self._recipe.beta_step is not None:
            strategy = Grid(limit, self._recipe.beta_step)
        else:
            strategy = Adaptive(limit)
        return search_beta(
            lambda betas: self._judge_all([meant(beta) for beta in betas]),
            strategy,
            higher_is_better=lambda: self._known().higher_is_better,
        )

    def _contest(
        self,
        candidates: Sequence[Beta],
        stage: str,
        confirmed: Callable[[Beta], None] | None = None,
    ) -> list[Trial]:
        """Judge each candidate once."""
        different: dict[str, Beta] = {}
        for beta in candidates:
            different.setdefault(self.schedule(beta).digest, beta)
        asked: list[tuple[Beta, str]] = [(beta, stage) for beta in different.values()]

        def judged(position: int) -> None:
            if confirmed is not None:
                confirmed(asked[position][0])

        return self._judge_all(asked, judged)

    def measure(self) -> dict[str, Any]:
        """Error growth, the β's that follow from it, and the β to take.

        "closed_form" is ln(c)/a of one growth and one slope for all blocks; "recursion" is the β
        of the least error that the recursion predicts with each block's own figures, which is
        the one taken, up to three quarters of its range.
        """
        from .engine.diagnosis import half_step, measure_beta
        from .engine.estimates import recursion_beta

        known = self._journal.get("auto")
        if known is None:
            session = self._session
            session.restore()
            self._current = None
            chains = session.chains
            # Errors take a few more samples than ranking does.
            samples = max(self._trial_samples() or 0, _TRIAL_LEAST)
            samples = min(samples, session.calibration.samples)
            measured = measure_beta(
                chains,
                session.targets(chains),
                self._method,
                session.calibration.subset(samples),
                device=session.device,
                progress=session.progress,
                dense_inputs=self._recipe.inputs == "dense",
            )
            targets, limits = session.targets(chains), session.beta_limits(chains)
            each = {
                chain.name: recursion_beta(
                    [block for block in measured.blocks if block.chain == chain.name],
                    [block.parameters for block in chain.blocks],
                    targets[chain.name],
                    half_step(targets[chain.name]),
                )
                for chain in chains
                if chain.name in limits
            }
            # One β for all: the mean, weighted by the blocks it serves.
            depths = {chain.name: len(chain.blocks) for chain in chains if chain.name in each}
            mean = sum(depths[n] * beta for n, beta in each.items()) / sum(depths.values())
            closed: Beta = measured.beta
            recursion: Beta = mean
            taken: Beta = _trusted(mean, session.beta_limit(chains))
            if self._recipe.beta_per_chain:
                closed = {chain.name: measured.betas.get(chain.name, 0.0) for chain in chains}
                recursion = {chain.name: each.get(chain.name, 0.0) for chain in chains}
                taken = shortest({n: _trusted(b, limits.get(n, 0.0)) for n, b in recursion.items()})
            known = {
                **measured.to_dict(),
                "closed_form": closed,
                "recursion": recursion,
                "beta": taken,
            }
            self._journal.put("auto", known)
        return known

    def sweep(self, points: int) -> Sweep:
        """Judge evenly spaced β of the legal range on the search split, both ends among them.

        Trials are pruned with part of the calibration data, as those of a search are.

        Raises:
            UsageError: the allocation has no β, or there are fewer than two points.
        """
        if not self.takes_beta:
            raise UsageError(f"the {self._allocator.name} allocation has no β to vary; use atp")
        if points < 2:
            raise UsageError(f"a sweep over β takes 2 points or more, not {points}")
        limit = self._session.beta_limit(self._session.chains)
        betas = dict.fromkeys(limit * i / (points - 1) for i in range(points))
        asked: list[tuple[Beta, str]] = [(beta, "search") for beta in betas]
        with (
            contextlib.closing(self._session),
            self._session.progress.task("objective over β", len(betas)) as advance,
        ):
            trials = self._judge_all(
                asked, lambda position: advance(f"β = {beta_text(asked[position][0])}")
            )
        known = self._known()
        return Sweep(known.name, known.higher_is_better, trials)

    # --- trials ------------------------------------------------------------------------------

    def _trial_samples(self) -> int | None:
        """Calibration samples of a trial, or None where the method takes none."""
        if not self._method.calibrated:
            return None
        samples, defaults = self._session.calibration.samples, self._session.loaded.defaults
        return trial_samples(samples, self._recipe, self._method, defaults)

    def _judge(self, beta: Beta, stage: str = "search") -> Trial:
        [trial] = self._judge_all([(beta, stage)])
        return trial

    def _judge_all(
        self,
        asked: Sequence[tuple[Beta, str]],
        judged: Callable[[int], None] | None = None,
    ) -> list[Trial]:
        """Trials of several β, each with its stage."""
        return self._judge_schedules(
            [
                _Asked(
                    self.schedule(beta),
                    beta,
                    stage,
                    "uniform" if beta == 0.0 else f"β = {beta_text(beta)}",
                )
                for beta, stage in asked
            ],
            judged,
        )

    def _judge_schedules(
        self, asked: Sequence[_Asked], judged: Callable[[int], None] | None = None
    ) -> list[Trial]:
        """Trials of several schedules; the executor makes those that the journal does not have.

        Args:
            asked: the schedules.
            judged: called with the position of each as its trial ends; where trials are made in
                this process, while the model is pruned so.
        """
        positions: dict[str, list[int]] = {}
        jobs: dict[str, TrialJob] = {}
        for position, one in enumerate(asked):
            samples = self._trial_samples()
            if one.stage == "final" and samples is not None:
                samples = self._session.calibration.samples
            key = f"trial/{samples}/{one.schedule.digest}"
            positions.setdefault(key, []).append(position)
            if self._journal.get(key) is None and key not in jobs:
                title = f"{one.stage}: {one.what}"
                jobs[key] = TrialJob(one.schedule, one.beta, one.stage, samples, title)
        trials: dict[int, Trial] = {}

        def take(key: str) -> None:
            known = self._journal.get(key)
            assert known is not None
            self._direction = _Direction(**known["direction"])
            for position in positions[key]:
                one = asked[position]
                trials[position] = Trial(
                    **{**known["trial"], "beta": one.beta, "stage": one.stage}
                )
                if judged is not None:
                    judged(position)

        for key in positions:
            if key not in jobs:
                take(key)
        for key, made in self._make(jobs):
            self._journal.put(key, made)
            name, value = made["direction"]["name"], made["trial"]["objective"]
            self._session.progress.note(f"{jobs[key].title}: {name} {value:.4g}")
            take(key)
        return [trials[position] for position in range(len(asked))]

    def _make(self, jobs: Mapping[str, TrialJob]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Have the executor make trials; each with its key, as it ends."""
        keys = list(jobs)
        made = self._session.executor.run(self._work, list(jobs.values()))
        return ((keys[position], trial) for position, trial in made)

    def attempt(self, job: TrialJob) -> dict[str, Any]:
        """Prune to a schedule and measure the objective, in this process.

        Returns:
            The trial, and the name and direction of its objective, as the journal keeps them.
        """
        started = time.perf_counter()
        self._prepare()
        self.prune(job.schedule, job.title, job.samples)
        metric = self._measure()
        trial = Trial(
            beta=job.beta,
            objective=metric.value,
            seconds=time.perf_counter() - started,
            stage=job.stage,
            samples=job.samples or 0,
            schedule=job.schedule.digest,
            peak_memory_bytes=peak_memory_bytes(),
        )
        direction = {"name": metric.name, "higher_is_better": metric.higher_is_better}
        return {"trial": trial.to_dict(), "direction": direction}

    def _prepare(self) -> None:
        self._see_dense("search")
        if self._objective is not None and not self._prepared:
            self._session.restore()
            self._current = None
            self._objective.prepare(self._session.loaded, self._session.data)
        self._prepared = True

    def _see_dense(self, split: Split) -> None:
        if self._session.see_dense(split):
            self._current = None

    def _measure(self) -> Metric:
        name = self._recipe.objective
        if self._objective is not None:
            return self._session.evaluate("search", objective=self._objective).metric()
        return self._session.evaluate("search", [name] if name else None).metric(name)

    def _known(self) -> _Direction:
        if self._direction is None:
            raise UsageError("the direction of the objective is not known yet")
        return self._direction

    # --- pruning and measuring ---------------------------------------------------------------

    def prune(self, schedule: Schedule, title: str, samples: int | None = None) -> PruneReport:
        """Prune the dense model to `schedule`, unless it stands so already."""
        if self._method.calibrated and samples is None:
            samples = self._session.calibration.samples
        known = self._current is not None and self._current[:2] == (schedule.digest, samples)
        # Whoever looked at the dense model meanwhile has restored it.
        if known and self._session.snapshot.stale:
            assert self._current is not None
            return self._current[2]
        self._current = None
        report = self._session.prune(schedule, self._method, title, samples)
        self._current = (schedule.digest, samples, report)
        return report

    def search_and_report(self) -> tuple[SearchResult, dict[str, Mapping[str, Metric]]]:
        """Find the schedule, and measure the dense, uniform and pruned model on the report split.

        Uniform is measured where the recipe asks for a baseline and the schedule is another one.
        """
        recipe = self._session.recipe
        metrics: dict[str, Mapping[str, Metric]] = {"dense": self.report_metrics("dense", None)}

        def confirmed(beta: Beta) -> None:
            if beta == 0.0 and recipe.baseline:
                metrics["uniform"] = self.report_metrics("uniform", self.schedule(0.0))

        found = self.search(confirmed)
        rival = recipe.schedule is None and recipe.allocation != "uniform"
        if recipe.baseline and rival and not self.takes_beta:
            metrics["uniform"] = self.report_metrics("uniform", self.uniform())
        metrics["pruned"] = self.report_metrics("pruned", found.schedule)
        return found, metrics

    def report_metrics(self, who: str, schedule: Schedule | None) -> Mapping[str, Metric]:
        """Metrics on the report split and on tasks: of the dense model, or pruned to `schedule`."""
        found = Found()
        key = f"report/{who}"

        def stand() -> None:
            if schedule is None:
                self._session.restore()
                self._current = None
            else:
                self._see_dense("report")
                self.prune(schedule, f"pruning ({who})")

        known = self._journal.get(key)
        if known is None:
            stand()
            known = evaluated(self._session.evaluate("report"))
            self._journal.put(key, known)
        found.add(known)
        add_tasks(found, self._session, self._journal, key, stand)
        self.found[who] = found
        return found.metrics

    def comparisons(self) -> list[Comparison]:
        """The pruned model against the dense and the uniform one, on the report split."""
        pruned = self.found.get("pruned")
        if pruned is None:
            return []
        seed = self._recipe.seed
        others = [(who, found) for who, found in self.found.items() if who != "pruned"]
        return [one for who, other in others for one in pruned.against(other, who, seed)]

    def notes(self, report: PruneReport) -> Sequence[str]:
        """What a user must know of a pruning."""
        return [*report.notes, *(note for block in report.blocks for note in block.notes)]
