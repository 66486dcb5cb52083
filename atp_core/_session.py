"""One model on its way through the hooks: what every function of the API shares."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ._observed import ModelObserved
from ._plugins import Plugins, build_manager
from ._runtimes import choose_runtime, run_accelerated
from .allocation import AllocationRequest, Allocator
from .allocation.budget import beta_max
from .engine.placement import resolve_device
from .engine.pruning import PruneOptions, PruneReport
from .engine.snapshot import Snapshot
from .errors import AtpError, DataError, ModelError, UnknownNameError, UsageError
from .methods import Method
from .progress import NullProgress, Progress
from .recipe import Recipe
from .records import (
    Calibration,
    Chain,
    DataRequest,
    Evaluation,
    LoadedModel,
    LoadRequest,
    Schedule,
    Source,
    Split,
)

if TYPE_CHECKING:
    from .runtime import Accelerated, Runtime
    from .trials import Executor, Objective

__all__ = ["Session"]


class Session:
    """A source, the plugin that handles it, and the model once it is loaded.

    Args:
        recipe: what to do.
        source: the model, by name or in memory.
        progress: where long steps are shown.
        plugins: the plugins to use; found by discovery if None.

    Raises:
        AtpError: nothing handles the source, or a name in the recipe is unknown.
    """

    def __init__(
        self,
        recipe: Recipe,
        source: Source,
        *,
        progress: Progress | None = None,
        plugins: Plugins | None = None,
    ) -> None:
        self.recipe = recipe
        self.source = source
        self.progress = progress or NullProgress()
        self.plugins = plugins or build_manager()
        # Wrong names are told before anything costly happens.
        self.plugins.offers("methods").check(recipe.method)
        self.plugins.offers("allocators").check(recipe.allocation)
        self.plugins.offers("executors").check(recipe.executor)
        self.recognition = self.plugins.recognize(source, plugin=recipe.plugin)
        self.device: torch.device | None = (
            None
            if source.model is not None and recipe.device == "auto"
            else resolve_device(recipe.device)
        )
        self._loaded: LoadedModel | None = None
        self._chains: Sequence[Chain] | None = None
        self._calibration: Calibration | None = None
        self._snapshot: Snapshot | None = None
        self._observed: ModelObserved | None = None
        self._examples: dict[Split, frozenset[str]] = {}
        self._seen: set[Split] = set()
        self._runtime: Runtime | None = None
        self.accelerated: Accelerated | None = None
        """What the runtime of `use_runtime` did, once the whole model ran."""

    def again(self, recipe: Recipe) -> Session:
        """A session for another recipe on the same model, which is loaded and copied once.

        Args:
            recipe: differs in what is done to the model, not in how it is loaded.
        """
        self.restore()
        other = Session(recipe, self.source, progress=self.progress, plugins=self.plugins)
        other._loaded, other._snapshot = self.loaded, self.snapshot
        other._chains = other.locate(self.loaded)
        other.learn(self)
        return other

    def learn(self, other: Session) -> None:
        """Take over what another session on the same model has read and seen, if it suits."""
        if other.data != self.data:
            return
        self._calibration = self._calibration or other._calibration
        self._examples.update(other._examples)
        self._seen |= other._seen
        same = [chain.name for chain in self.chains] == [chain.name for chain in other.chains]
        if self._observed is None and other._observed is not None and same:
            self._observed = other._observed.shared(self)

    @property
    def plugin(self) -> str:
        """Name of the plugin that handles the source."""
        return self.recognition.plugin

    def method(self) -> Method:
        """The pruning method of the recipe."""
        return self.plugins.offers("methods").create(self.recipe.method)  # type: ignore[no-any-return]

    def allocator(self) -> Allocator:
        """The allocation of the recipe."""
        return self.plugins.offers("allocators").create(self.recipe.allocation)  # type: ignore[no-any-return]

    def executor(self) -> Executor:
        """What runs the trials of a search."""
        return self.plugins.offers("executors").create(self.recipe.executor)  # type: ignore[no-any-return]

    def objective(self) -> Objective | None:
        """The registered objective of the recipe, or None where it names a metric."""
        name = self.recipe.objective
        offers = self.plugins.offers("objectives")
        return offers.create(name) if name is not None and name in offers else None

    # --- the model ---------------------------------------------------------------------------

    def load(self, *, meta: bool = False) -> LoadedModel:
        """A model from the source; every call loads anew."""
        request = LoadRequest(
            dtype=self.recipe.dtype,
            meta=meta,
            trust_remote_code=self.recipe.trust_remote_code,
            revision=self.recipe.revision,
        )
        loaded: LoadedModel = self.plugins.caller("atp_load", self.plugin)(
            source=self.source, request=request
        )
        for name in ("seqlen", "classes", "templates"):
            if getattr(self.recipe, name) is not None and name not in loaded.takes:
                raise UsageError(
                    f"--{name} has no effect on {self.source.text}, which plugin {self.plugin!r} "
                    "handles; leave it out"
                )
        loaded.plugin = self.plugin
        loaded.progress = self.progress
        return loaded

    @property
    def loaded(self) -> LoadedModel:
        """The model, loaded when first asked for."""
        if self._loaded is None:
            with self.progress.task(f"loading {self.source.text}", 1) as advance:
                self._loaded = self.load()
                advance("")
        return self._loaded

    def locate(self, loaded: LoadedModel, *, every: bool = False) -> Sequence[Chain]:
        """The chains the recipe asks for; where it names none, those pruned by default.

        Args:
            loaded: the model.
            every: where the recipe names none, all chains.

        Raises:
            UnknownNameError: the recipe names a chain the model does not have.
            ModelError: the model has no prunable weights.
        """
        found: Sequence[Chain] = self.plugins.caller("atp_locate", self.plugin)(loaded=loaded)
        names = [chain.name for chain in found]
        sparsity = self.recipe.sparsity
        usual = [chain.name for chain in found if chain.default or every] or names
        asked = self.recipe.chains or (list(sparsity) if isinstance(sparsity, Mapping) else usual)
        for name in asked:
            if name not in names:
                raise UnknownNameError("chain", name, names)
        chains = [chain for chain in found if chain.name in asked]
        if not any(chain.parameters for chain in chains):
            raise ModelError(f"plugin {self.plugin!r} located no prunable weights in {names}")
        return chains

    @property
    def chains(self) -> Sequence[Chain]:
        """The chains of the loaded model."""
        if self._chains is None:
            self._chains = self.locate(self.loaded)
        return self._chains

    def targets(self, chains: Sequence[Chain]) -> dict[str, float]:
        """Target sparsity S of every chain."""
        sparsity = self.recipe.sparsity
        if isinstance(sparsity, Mapping):
            missing = [chain.name for chain in chains if chain.name not in sparsity]
            if missing:
                raise UsageError(f"no sparsity is given for chain {missing[0]!r}")
            return {chain.name: float(sparsity[chain.name]) for chain in chains}
        return {chain.name: float(sparsity) for chain in chains}

    def target(self, chains: Sequence[Chain]) -> float:
        """Target sparsity over all chains together, weighted by parameters."""
        targets = self.targets(chains)
        total = sum(chain.parameters for chain in chains)
        return sum(targets[chain.name] * chain.parameters for chain in chains) / total

    def beta_limits(self, chains: Sequence[Chain]) -> dict[str, float]:
        """The largest legal β of each chain that has two blocks or more."""
        targets = self.targets(chains)
        return {
            chain.name: beta_max(targets[chain.name], len(chain.blocks))
            for chain in chains
            if len(chain.blocks) > 1
        }

    def beta_limit(self, chains: Sequence[Chain]) -> float:
        """The largest β that is legal for every chain; 0 where no chain has two blocks."""
        return min(self.beta_limits(chains).values(), default=0.0)

    def allocate(self, allocator: Allocator, chains: Sequence[Chain], **options: Any) -> Schedule:
        """The schedule `allocator` makes for the recipe's sparsity.

        Raises:
            UsageError: it looks at weights or activations, and none are loaded.
        """
        return allocator.allocate(self.request(allocator, chains, **options))

    def request(
        self, allocator: Allocator, chains: Sequence[Chain], **options: Any
    ) -> AllocationRequest:
        """What `allocator` decides on: the dense model, and the recipe's options for it."""
        needs: frozenset[str] = getattr(allocator, "needs", frozenset())
        if allocator.name == self.recipe.allocation:
            options = {**self.recipe.allocation_options, **options}
        observed = None
        if needs:
            if self._chains is None or chains is not self._chains:
                raise UsageError(
                    f"the {allocator.name} allocation looks at the weights, and none are loaded"
                )
            self.restore()
            observed = self._observed = self._observed or ModelObserved(self)
            if "loss" in needs:
                observed.prepare()
        return AllocationRequest(chains, self.targets(chains), options, observed)

    # --- data --------------------------------------------------------------------------------

    @property
    def data(self) -> DataRequest:
        """The recipe's data settings."""
        recipe = self.recipe
        return DataRequest(
            calibration=recipe.calibration,
            report=recipe.report_data,
            samples=recipe.samples,
            search_samples=recipe.search_samples,
            report_samples=recipe.report_samples,
            seqlen=recipe.seqlen,
            classes=recipe.classes,
            templates=recipe.templates,
            batch_size=recipe.batch_size,
            seed=recipe.seed,
        )

    @property
    def calibration(self) -> Calibration:
        """The calibration data, read once."""
        if self._calibration is None:
            found: Calibration = self.plugins.caller("atp_calibrate", self.plugin)(
                loaded=self.loaded, data=self.data
            )
            self._check_disjoint("calibration", found.examples)
            self._calibration = found
        return self._calibration

    def evaluate(
        self,
        split: Split,
        metrics: Sequence[str] | None = None,
        objective: Objective | None = None,
    ) -> Evaluation:
        """Measure the model as it stands.

        Raises:
            DataError: the split shares data with calibration, or with the other split.
        """
        with self.whole_model_on_device():
            found: Evaluation
            if objective is not None:
                found = objective.measure(self.loaded, self.data)
            else:
                found = self.plugins.caller("atp_evaluate", self.plugin)(
                    loaded=self.loaded, data=self.data, split=split, metrics=metrics
                )
        self._check_disjoint(split, found.examples)
        if metrics is None and objective is None and not self.loaded.pruned:
            self._seen.add(split)
        return found

    def see_dense(self, split: Split) -> bool:
        """Show the dense model to a plugin that compares with it, once a split.

        Returns:
            Whether the weights were restored for it.
        """
        if not self.loaded.compares_on(split) or split in self._seen:
            return False
        self.restore()
        self.evaluate(split)
        return True

    def _check_disjoint(self, split: Split, examples: frozenset[str]) -> None:
        for other, known in self._examples.items():
            if other != split and (shared := examples & known):
                raise DataError(
                    f"{len(shared)} of {len(examples)} examples of the {split} split are in the "
                    f"{other} split too; figures on data that was used to choose something mean "
                    "nothing: give other data with --calibration or --report-data"
                )
        self._examples[split] = examples

    def use_runtime(self, name: str) -> None:
        """Have the whole model executed by a runtime from now on.

        Raises:
            AtpError: nobody offers it, or it cannot run here.
        """
        device = self.device or next(self.loaded.model.parameters()).device
        self._runtime = choose_runtime(self.plugins, name, device.type)

    @contextlib.contextmanager
    def whole_model_on_device(self) -> Iterator[None]:
        """The model where `--device` says, for what needs all of it at once; then back home.

        It is executed by the runtime of `use_runtime`, where there is one.

        Raises:
            AtpError: it does not fit.
        """
        with self._moved():
            if self._runtime is None:
                yield
                return
            with run_accelerated(self.loaded.model, self._runtime) as self.accelerated:
                yield

    @contextlib.contextmanager
    def _moved(self) -> Iterator[None]:
        model = self.loaded.model
        home = next(model.parameters()).device
        if self.device is None or self.device == home:
            yield
            return
        try:
            model.to(self.device)
            yield
        except torch.OutOfMemoryError as error:
            raise AtpError(
                f"the model does not fit on {self.device} for evaluation: "
                f"{str(error).splitlines()[0]} Use --device cpu, or a smaller --batch-size."
            ) from error
        finally:
            model.to(home)

    # --- pruning -----------------------------------------------------------------------------

    @property
    def snapshot(self) -> Snapshot:
        """The weights as they were loaded; sessions on one model share it, and so what it knows."""
        if self._snapshot is None:
            self._snapshot = Snapshot(self.chains)
        return self._snapshot

    def restore(self) -> None:
        """Put the weights back as they were loaded, if anything has changed them."""
        if self._snapshot is not None:
            self._snapshot.restore()
            self.loaded.pruned = False

    def prune(
        self, schedule: Schedule, method: Method, title: str, samples: int | None = None
    ) -> PruneReport:
        """Prune the dense model to `schedule`.

        Args:
            schedule: the rates.
            method: what chooses the weights.
            title: name of the step in the progress display.
            samples: calibrate on the first so many samples only; None is all of them.
        """
        snapshot = self.snapshot  # taken while the weights are still those that were loaded
        self.restore()
        calibration = None
        if method.calibrated:
            calibration = self.calibration
            if samples is not None and samples < calibration.samples:
                calibration = calibration.subset(samples)
        snapshot.stale = True
        self.loaded.pruned = True
        report: PruneReport = self.plugins.caller("atp_prune", self.plugin)(
            loaded=self.loaded,
            chains=self.chains,
            schedule=schedule,
            method=method,
            calibration=calibration,
            options=PruneOptions(self.device, self.progress, title),
        )
        return report

    def save(self, directory: Path) -> Sequence[Path]:
        """Write the model in its ecosystem's own layout."""
        files: Sequence[Path] = self.plugins.caller("atp_save", self.plugin)(
            loaded=self.loaded, directory=directory
        )
        return files
