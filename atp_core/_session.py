"""One model on its way through the hooks: what every function of the API shares."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ._memory import MemoryNeed, memory_need, room_for, size_text
from ._observed import ModelObserved
from ._plugins import Plugins, build_manager
from ._runtimes import choose_runtime, run_accelerated
from .allocation import AllocationRequest, Allocator
from .allocation.budget import beta_max, weighted_mean
from .checkpoint.atomic import scratch_directory
from .engine.dense import DenseStatistics
from .engine.placement import resolve_device
from .engine.pruning import PruneOptions, PruneReport
from .engine.snapshot import Snapshot
from .engine.streaming import Stream, StreamSnapshot
from .errors import AtpError, DataError, ModelError, PluginError, UnknownNameError, UsageError
from .methods import Method
from .methods.patterned import Patterned
from .pattern import Pattern, whole_rates
from .progress import NullProgress, Progress
from .recipe import Recipe, bytes_of
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
        self.discovered = plugins is None
        """Whether the plugins are those installed, which another process finds too."""
        # Wrong names are told before anything costly happens.
        self.plugins.offers("methods").check(recipe.method)
        self.plugins.offers("allocators").check(recipe.allocation)
        self.executor: Executor = self._executor()
        self.recognition = self.plugins.recognize(source, plugin=recipe.plugin)
        self.device: torch.device | None = (
            None
            if source.model is not None and recipe.device == "auto"
            else resolve_device(recipe.device)
        )
        self._open = contextlib.ExitStack()
        self._loaded: LoadedModel | None = None
        self._chains: Sequence[Chain] | None = None
        self._calibration: Calibration | None = None
        self._snapshot: Snapshot | None = None
        self._observed: ModelObserved | None = None
        self._dense: dict[tuple[str, int], DenseStatistics] = {}
        self._examples: dict[Split, frozenset[str]] = {}
        self._seen: set[Split] = set()
        self._runtime: Runtime | None = None
        self.accelerated: Accelerated | None = None
        """What the runtime of `use_runtime` did, once the whole model ran."""

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def again(self, recipe: Recipe) -> Session:
        """A session for another recipe on the same model, which is loaded and copied once.

        Args:
            recipe: differs in what is done to the model, not in how it is loaded.
        """
        self.restore()
        other = Session(recipe, self.source, progress=self.progress, plugins=self.plugins)
        other.discovered = self.discovered
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
        if same:
            self._dense.update(other._dense)
        if self._observed is None and other._observed is not None and same:
            self._observed = other._observed.shared(self)

    @property
    def plugin(self) -> str:
        """Name of the plugin that handles the source."""
        return self.recognition.plugin

    def method(self) -> Method:
        """The pruning method of the recipe.

        Raises:
            UsageError: it cannot prune by the recipe's pattern.
        """
        method: Method = self.plugins.offers("methods").create(self.recipe.method)
        if self.recipe.pattern is None:
            return method
        return Patterned(method, Pattern.parse(self.recipe.pattern))

    def whole(self, schedule: Schedule, chains: Sequence[Chain]) -> Schedule:
        """A schedule whose rates are whole numbers of the recipe's groups, where it has any."""
        if self.recipe.pattern is None:
            return schedule
        of = Pattern.parse(self.recipe.pattern).of
        rates = {}
        for chain in chains:
            sizes, wanted = [block.parameters for block in chain.blocks], schedule.of(chain)
            found = whole_rates(wanted, sizes, weighted_mean(sizes, wanted), of)
            rates[chain.name] = {
                block.name: rate for block, rate in zip(chain.blocks, found, strict=True)
            }
        return replace(schedule, rates=rates)

    def allocator(self) -> Allocator:
        """The allocation of the recipe."""
        return self.plugins.offers("allocators").create(self.recipe.allocation)  # type: ignore[no-any-return]

    def _executor(self) -> Executor:
        """What runs the jobs of the recipe."""
        name, options = self.recipe.executor, self.recipe.executor_options
        made: Executor = self.plugins.offers("executors").create(name)
        if configure := getattr(made, "configure", None):
            configure(options)
        elif options:
            raise UsageError(
                f"the {name} executor has no options; leave out {', '.join(sorted(options))}"
            )
        if self.source.model is not None and self.remote(made):
            raise UsageError(
                f"the {name} executor works in other processes, which cannot see a model in "
                "memory: save the model and give its directory, or leave out executor"
            )
        return made

    @staticmethod
    def remote(executor: Executor) -> bool:
        """Whether an executor does jobs in other processes."""
        return bool(getattr(executor, "remote", False))

    def close(self) -> None:
        """Stop what the executor has started; it starts again when it is needed."""
        if close := getattr(self.executor, "close", None):
            close()

    def objective(self) -> Objective | None:
        """The registered objective of the recipe, or None where it names a metric."""
        name = self.recipe.objective
        offers = self.plugins.offers("objectives")
        return offers.create(name) if name is not None and name in offers else None

    # --- the model ---------------------------------------------------------------------------

    def load(self, *, meta: bool = False, stream: bool = False) -> LoadedModel:
        """A model from the source; every call loads anew."""
        request = LoadRequest(
            dtype=self.recipe.dtype,
            meta=meta,
            stream=stream,
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
                self._loaded = self._streamed() if self.recipe.max_memory else self.load()
                advance("")
        return self._loaded

    def _streamed(self) -> LoadedModel:
        """The model with its weights on disk.

        Raises:
            UsageError: it is in memory already, its plugin cannot stream it, or the memory allowed
                does not suffice.
        """
        recipe = self.recipe
        assert recipe.max_memory is not None
        if self.source.model is not None:
            raise UsageError("--max-memory is for a source on disk, and this model is in memory")
        loaded = self.load(stream=True)
        if loaded.store is None:
            raise UsageError(
                f"plugin {self.plugin!r} cannot stream {self.source.text}; leave out --max-memory"
            )
        if "loss" in getattr(self.allocator(), "needs", ()):
            raise UsageError(
                f"the {recipe.allocation} allocation varies weights and measures the loss, which "
                "takes the whole model in memory; leave out --max-memory, or choose another"
            )
        every = self._every(loaded)
        need = self.memory_need(loaded)
        found = room_for(need, bytes_of(recipe.max_memory))
        output = None if recipe.output is None else Path(recipe.output)
        size = 0
        if recipe.sparsity != 0.0:  # else it is only measured
            size = sum(one.numel() * one.element_size() for one in loaded.model.parameters())
        scratch = self._open.enter_context(scratch_directory(output, size))
        stream = Stream(loaded.model, loaded.store, every, scratch, device=self.device)
        self._open.callback(stream.close)
        stream.progress, stream.room = self.progress, found.room
        if found.on_disk:
            stream.placement.park_in(scratch)
        self.progress.note(
            f"weights are streamed from disk; activations wait "
            f"{'on disk' if found.on_disk else 'in memory'}; "
            f"about {size_text(found.peak)} of memory in all"
        )
        loaded.stream = stream
        return loaded

    def memory_need(self, loaded: LoadedModel) -> MemoryNeed:
        """What the recipe takes in memory where the model is streamed.

        Args:
            loaded: the model, streamed or on the meta device.
        """
        recipe, defaults, method = self.recipe, loaded.defaults, self.method()
        return memory_need(
            loaded.model,
            self._every(loaded),
            method,
            samples=(recipe.samples or defaults.get("samples")) if method.calibrated else 0,
            seqlen=recipe.seqlen or defaults.get("seqlen"),
            batch_size=recipe.batch_size,
            compares=loaded.compares_on("report"),
        )

    def _every(self, loaded: LoadedModel) -> Sequence[Chain]:
        """All chains of a model, whatever the recipe asks for."""
        if loaded.stream is not None:
            return loaded.stream.chains
        found: Sequence[Chain] = self.plugins.caller("atp_locate", self.plugin)(loaded=loaded)
        return found

    def locate(self, loaded: LoadedModel, *, every: bool = False) -> Sequence[Chain]:
        """The chains the recipe asks for; where it names none, those pruned by default.

        Args:
            loaded: the model.
            every: where the recipe names none, all chains.

        Raises:
            UnknownNameError: the recipe names a chain the model does not have.
            ModelError: the model has no prunable weights.
        """
        found = self._every(loaded)
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
        return self.whole(allocator.allocate(self.request(allocator, chains, **options)), chains)

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

        One that is streamed brings its blocks there itself. It is executed by the runtime of
        `use_runtime`, where there is one.

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
        if (stream := self.loaded.stream) is not None:
            try:
                yield
            finally:
                stream.evict()
            return
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
            stream = self.loaded.stream
            self._snapshot = Snapshot(self.chains) if stream is None else StreamSnapshot(stream)
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
        schedule = self.whole(schedule, self.chains)
        snapshot = self.snapshot  # taken while the weights are still those that were loaded
        self.restore()
        calibration = self._first(samples) if method.calibrated else None
        dense = self.recipe.inputs == "dense"
        statistics = None
        # Where they are small, those of all blocks are kept, for the next schedule too.
        if dense and calibration is not None and getattr(method, "small_statistics", False):
            statistics = self._dense_statistics(method, calibration)
        snapshot.stale = True
        self.loaded.pruned = True
        report: PruneReport = self.plugins.caller("atp_prune", self.plugin)(
            loaded=self.loaded,
            chains=self.chains,
            schedule=schedule,
            method=method,
            calibration=calibration,
            options=PruneOptions(self.device, self.progress, title, dense, statistics),
        )
        stream = self.loaded.stream
        if stream is not None:
            stream.evict()
            if not stream.store.replaced:
                raise PluginError(
                    f"plugin {self.plugin!r} prunes in its own way and kept nothing of a model "
                    "that is streamed; leave out --max-memory"
                )
        return report

    def _first(self, samples: int | None) -> Calibration:
        calibration = self.calibration
        if samples is None or samples >= calibration.samples:
            return calibration
        return calibration.subset(samples)

    def _dense_statistics(self, method: Method, calibration: Calibration) -> DenseStatistics:
        key = (method.name, calibration.samples)
        if key not in self._dense:
            self._dense[key] = DenseStatistics.take(
                self.chains, method, calibration, device=self.device, progress=self.progress
            )
        return self._dense[key]

    def save(self, directory: Path) -> Sequence[Path]:
        """Write the model in its ecosystem's own layout."""
        files: Sequence[Path] = self.plugins.caller("atp_save", self.plugin)(
            loaded=self.loaded, directory=directory
        )
        return files
