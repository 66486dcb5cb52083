"""The nouns that travel between core and plugins.

Plain dataclasses: importing this module does not import torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from .progress import NullProgress, Progress

if TYPE_CHECKING:
    import torch
    from torch import nn

    from .engine.placement import Placement
    from .engine.streaming import Stream
    from .store import WeightStore

__all__ = [
    "Beta",
    "Block",
    "Calibration",
    "Chain",
    "DataRequest",
    "Evaluation",
    "LoadRequest",
    "LoadedModel",
    "Metric",
    "Observations",
    "Offer",
    "PrunableWeight",
    "Recognition",
    "Schedule",
    "Source",
    "Split",
    "WorkRequest",
    "Workload",
]

Split = Literal["calibration", "search", "report"]

B = TypeVar("B")
R = TypeVar("R")

Beta = float | Mapping[str, float]
"""A common difference for all chains, or one for each by name."""


@dataclass(frozen=True)
class Source:
    """What the user asked for: a name, a path, or a model that is already in memory.

    Attributes:
        text: the source as the user wrote it, or the class name of `model`.
        model: the model when the caller already holds it.
        processor: its tokenizer or image processor, when the caller holds one.
    """

    text: str
    model: Any = None
    processor: Any = None

    @classmethod
    def of(cls, model_or_source: Any, processor: Any = None) -> Source:
        """What Python users give: a source, its text or path, or a model in memory."""
        if isinstance(model_or_source, Source):
            return model_or_source
        if isinstance(model_or_source, (str, Path)):
            return cls(str(model_or_source))
        return cls(type(model_or_source).__name__, model_or_source, processor)

    @property
    def path(self) -> Path | None:
        """The source as an existing file or directory, or None."""
        if self.model is not None:
            return None
        try:
            path = Path(self.text).expanduser()
            return path if path.exists() else None
        except (OSError, RuntimeError, ValueError):  # RuntimeError: "~name" of no known user
            return None


@dataclass(frozen=True)
class Recognition:
    """A plugin's answer to "can you handle this source?".

    Attributes:
        confidence: 0 (no) to 1 (certain). The surest plugin wins; a tie is an error.
        reason: one phrase a user can read, e.g. "config.json says LlamaForCausalLM".
        plugin: name of the plugin; filled in by core.
    """

    confidence: float
    reason: str
    plugin: str = ""


@dataclass(frozen=True)
class LoadRequest:
    """How to load a source.

    Attributes:
        dtype: "auto" (the source's own), or a torch dtype name such as "float32".
        meta: build the architecture on the meta device, without reading weights.
        stream: the same, and give the weights as `LoadedModel.store`, from which core reads those
            of one block at a time. Non-persistent buffers must be real, on the CPU.
        trust_remote_code: allow code that ships with the checkpoint to run.
        revision: revision of a hub repository.
    """

    dtype: str = "auto"
    meta: bool = False
    stream: bool = False
    trust_remote_code: bool = False
    revision: str | None = None


@dataclass
class LoadedModel:
    """A model in memory, with what its plugin needs to go on working with it.

    Attributes:
        model: the module whose weights are pruned, in eval mode, on the CPU (or meta).
        source: where it came from.
        plugin: name of the plugin that loaded it; filled in by core.
        processor: tokenizer, image transform or processor.
        base_model: hub name of the source for the model card, if it has one.
        provenance: facts worth keeping with results (revision, file hashes, formats).
        cache: the plugin's own scratch space, e.g. tokenized data.
        progress: where the plugin shows how far a long step is.
        takes: which of the data settings "seqlen", "classes" and "templates" have an effect; core
            refuses the others.
        defaults: the plugin's own defaults of data settings, e.g. {"samples": 32}, for estimates.
        card: front matter for the model card, e.g. {"library_name": "transformers"}.
        compares: evaluations compare with the dense model, on every split or on those named. Core
            then evaluates such a split on the dense model first, whose outputs the plugin keeps
            in `dense`.
        dense: the dense model's outputs, kept by the plugin while `pruned` is False. Where two
            sources are compared, core hands on what the plugin kept of the other one.
        pruned: the weights are not those that were loaded, or another model stands for the dense
            one; kept by core.
        store: where the weights are, if the model is on the meta device to be streamed.
        stream: what brings them into memory while they are needed; kept by core.
    """

    model: nn.Module
    source: Source
    plugin: str = ""
    processor: Any = None
    base_model: str | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    cache: dict[Any, Any] = field(default_factory=dict)
    progress: Progress = field(default_factory=NullProgress)
    takes: frozenset[str] = frozenset()
    defaults: dict[str, int] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)
    compares: bool | frozenset[Split] = False
    dense: dict[Any, Any] = field(default_factory=dict)
    pruned: bool = False
    store: WeightStore | None = None
    stream: Stream | None = field(default=None, repr=False)

    def map(self, step: Callable[[B], R], batches: Sequence[B]) -> list[R]:
        """What `step`, which runs the model, gives for every batch, in order.

        Of a model that is streamed, each block is read once for many batches and not once for
        each: their steps run side by side, from block to block. So `step` must not rely on an
        earlier one having ended.
        """
        if self.stream is not None:
            return self.stream.map(step, batches)
        return [step(batch) for batch in batches]

    def compares_on(self, split: Split) -> bool:
        """Whether evaluations of `split` compare with the dense model."""
        return self.compares if isinstance(self.compares, bool) else split in self.compares


@dataclass(eq=False)
class PrunableWeight:
    """One 2-D view, (out_features, in_features), of a parameter.

    The view is described, not stored, so that it stays right when a module moves between
    devices. Statistics are taken from whatever matrix product or convolution consumes the
    memory of the view, so no module has to be called for it.

    Attributes:
        name: unique and readable, e.g. ``model.layers.0.mlp.down_proj.weight`` or
            ``model.layers.0.mlp.experts.gate_up_proj[3]``.
        module: the module that owns the parameter.
        parameter: the parameter's name in `module`.
        index: leading indices into a fused tensor (one expert of a 3-D parameter).
        transposed: the parameter (after `index`) is stored (in_features, out_features).
        rows: output rows [start, stop) when the view is a slice of a fused matrix.
        conditional: the model may leave this weight unused for some inputs (an expert).
        reader: finds the parameter where the model is streamed; set by core. While its block is
            not in memory that is a copy, to look at.
    """

    name: str
    module: nn.Module
    parameter: str = "weight"
    index: tuple[int, ...] = ()
    transposed: bool = False
    rows: tuple[int, int] | None = None
    conditional: bool = False
    reader: Callable[[PrunableWeight], torch.Tensor] | None = field(default=None, repr=False)

    @property
    def tensor(self) -> torch.Tensor:
        """The whole parameter, detached."""
        if self.reader is not None:
            return self.reader(self)
        return getattr(self.module, self.parameter).detach()  # type: ignore[no-any-return]

    def matrix(self) -> torch.Tensor:
        """The view itself, shape (out_features, in_features); writing to it writes the model.

        k×k convolutions are flattened to (out_channels, in_channels · k · k).
        """
        view = self.tensor
        for i in self.index:
            view = view[i]
        if self.transposed:
            view = view.transpose(0, 1)
        if self.rows is not None:
            view = view[self.rows[0] : self.rows[1]]
        return view if view.dim() == 2 else view.view(view.shape[0], -1)

    @property
    def shape(self) -> tuple[int, int]:
        """(out_features, in_features)."""
        reader, self.reader = self.reader, None  # nothing need be read to know it
        try:
            out_features, in_features = self.matrix().shape
        finally:
            self.reader = reader
        return int(out_features), int(in_features)

    @property
    def numel(self) -> int:
        """Number of weights in the view."""
        out_features, in_features = self.shape
        return out_features * in_features


@dataclass(eq=False)
class Block:
    """The unit that gets one sparsity rate; all its weights share the rate.

    Attributes:
        name: qualified module name, e.g. ``model.layers.0``.
        module: the module whose forward is one step of the chain.
        weights: its prunable weights.
    """

    name: str
    module: nn.Module
    weights: Sequence[PrunableWeight]

    @property
    def parameters(self) -> int:
        """Number of prunable weights in the block."""
        return sum(weight.numel for weight in self.weights)


@dataclass(eq=False)
class Chain:
    """Blocks in execution order, through which reconstruction error accumulates.

    Attributes:
        name: e.g. "decoder", "vision", "text".
        blocks: in the order in which the forward pass reaches them.
        dense: what stays dense and why, for the user, e.g. {"lm_head": "output layer"}.
        default: pruned where the user names no chains (a vision tower often is not).
        placement: brings the blocks into memory where the model is streamed; set by core.
    """

    name: str
    blocks: Sequence[Block]
    dense: Mapping[str, str] = field(default_factory=dict)
    default: bool = True
    placement: Placement | None = field(default=None, repr=False)

    @property
    def parameters(self) -> int:
        """Number of prunable weights in the chain."""
        return sum(block.parameters for block in self.blocks)


@dataclass(frozen=True)
class DataRequest:
    """Which data to use, and how much of it.

    Attributes:
        calibration: FILE, DIR, hf:DATASET or a name the plugin knows; None is its default.
            The plugin holds part of it out as the search split.
        report: data for the report split, in the same forms; None is the plugin's default.
        samples: number of calibration samples (sequences, images, pairs).
        at_most: where the data holds fewer calibration samples than `samples`, take those; else
            that is an error.
        search_samples: number of samples in the search split.
        report_samples: at most this many samples (windows) in the report split; None is all.
        seqlen: tokens a sample, where the modality has tokens; None is the plugin's default.
        classes: file of class names (`atp_core.data.read_classes`), where classes are named.
        templates: file of prompt templates (`atp_core.data.read_templates`).
        batch_size: samples that go through the model at once.
        seed: seed of every random choice of samples.
    """

    calibration: str | None = None
    report: str | None = None
    samples: int | None = None
    search_samples: int | None = None
    report_samples: int | None = None
    seqlen: int | None = None
    classes: str | None = None
    templates: str | None = None
    batch_size: int = 1
    seed: int = 0
    at_most: bool = False


@dataclass
class Calibration:
    """Calibration batches and the forward call that drives every chain.

    Attributes:
        batches: whatever `forward` takes, one entry a batch.
        forward: runs one batch through the model, reaching every block of every chain.
        samples: number of samples in all batches.
        unit: what a sample is, e.g. "sequences of 512 tokens".
        dataset: what the samples came from, for the user.
        fingerprint: hash of the samples.
        examples: identities of the documents or images used, to prove splits disjoint.
        batch_samples: samples in each batch, in order.
        targets: gives, for each batch, the index of the output that is right for each of its
            samples, shape (samples,), int64; raises `DataError` where that is not known. None
            where it follows from the batch, or nothing is right. For training.
    """

    batches: Sequence[Any]
    forward: Callable[[Any], Any]
    samples: int
    unit: str
    dataset: str
    fingerprint: str
    examples: frozenset[str]
    batch_samples: Sequence[int]
    targets: Callable[[], Sequence[torch.Tensor]] | None = None

    def subset(self, samples: int) -> Calibration:
        """The first batches that together hold at least `samples` samples."""
        taken = kept = 0
        for size in self.batch_samples:
            if taken >= samples:
                break
            taken, kept = taken + size, kept + 1
        digest = hashlib.sha256(f"{self.fingerprint}:{kept}".encode()).hexdigest()[:16]
        targets = self.targets
        return Calibration(
            batches=self.batches[:kept],
            forward=self.forward,
            samples=taken,
            unit=self.unit,
            dataset=self.dataset,
            fingerprint=self.fingerprint if kept == len(self.batches) else digest,
            examples=self.examples,
            batch_samples=self.batch_samples[:kept],
            targets=None if targets is None else lambda: targets()[:kept],
        )


@dataclass(frozen=True)
class WorkRequest:
    """How large the work is that a model is timed on.

    Attributes:
        batch_sizes: samples that go through at once; one workload of each kind for each.
        tokens: length of a prompt; None is the plugin's default.
        steps: tokens that are decoded one after another; None is the plugin's default.
        seed: of the random inputs.
    """

    batch_sizes: Sequence[int] = (1,)
    tokens: int | None = None
    steps: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Workload:
    """Work that a model is timed on, with random inputs.

    Attributes:
        name: what is done, e.g. "decode", "prefill", "images".
        unit: what is counted, e.g. "tokens".
        items: how many of them one pass does.
        batch: samples that go through at once.
        start: makes one pass ready, which is not timed, and returns the function that does it.
            It runs the model as it stands then, where it stands then.
        convention: what a pass is, for the user, e.g. "32 tokens after a prompt of 128".
    """

    name: str
    unit: str
    items: int
    batch: int
    start: Callable[[], Callable[[], Any]]
    convention: str


@dataclass(frozen=True)
class Metric:
    """One measured figure, with all that is needed to compare it.

    Attributes:
        name: e.g. "perplexity", "top1".
        value: the figure, in `unit`.
        stderr: its standard error, or None where there is none.
        n: number of observations (tokens, images, questions).
        unit: e.g. "per token", "%".
        higher_is_better: direction.
        split: "search" or "report".
        dataset: what it was measured on, for the user.
        fingerprint: hash of the data.
        convention: how it was measured, e.g. "windows of 512 tokens over …".
        seconds: wall time of the measurement.
    """

    name: str
    value: float
    stderr: float | None
    n: int
    unit: str
    higher_is_better: bool
    split: Split
    dataset: str
    fingerprint: str
    convention: str
    seconds: float = 0.0

    def better_than(self, other: Metric) -> bool:
        """Whether this figure beats `other`; NaN never does."""
        if self.higher_is_better:
            return self.value > other.value
        return self.value < other.value


@dataclass(frozen=True)
class Observations:
    """What a metric was made of, one figure a document or image, so that two models can be paired.

    Attributes:
        ids: identity of each; equal for all models that are measured on the same data.
        values: the figure of each.
        weights: how much each counts in the mean, e.g. its tokens; None counts all alike.
        summary: how the metric follows from the weighted mean of the values: the "mean" itself,
            100 times it ("percent"), or "exp" of it.
    """

    ids: Sequence[str]
    values: Sequence[float]
    weights: Sequence[float] | None = None
    summary: Literal["mean", "percent", "exp"] = "mean"


@dataclass(frozen=True)
class Evaluation:
    """What `atp_evaluate` returns.

    Attributes:
        metrics: the first is the default objective. Empty on the report split where no report
            data is given and the plugin has no default: core then says that nothing was measured.
        examples: identities of the documents or images used, to prove splits disjoint.
        observations: metric name → what it was made of. Metrics that are no mean over documents
            or images have none, and get no confidence interval when models are compared.
    """

    metrics: Sequence[Metric]
    examples: frozenset[str]
    observations: Mapping[str, Observations] = field(default_factory=dict)

    def metric(self, name: str | None = None) -> Metric:
        """The metric called `name`, or the first.

        Raises:
            UnknownNameError: no metric has this name.
        """
        if name is None:
            return self.metrics[0]
        for metric in self.metrics:
            if metric.name == name:
                return metric
        from .errors import UnknownNameError

        raise UnknownNameError("metric", name, [metric.name for metric in self.metrics])


@dataclass(frozen=True)
class Schedule:
    """How the target sparsity is spread: a rate for every block of every chain.

    Attributes:
        rates: chain name → block name → rate in [0, 1], blocks in order.
        sparsity: target average sparsity S, weighted by parameters.
        allocation: name of the allocator.
        beta: common difference, where the allocation has one; by chain where they differ.
    """

    rates: Mapping[str, Mapping[str, float]]
    sparsity: float
    allocation: str
    beta: Beta | None = None

    def of(self, chain: Chain) -> list[float]:
        """Rates of a chain's blocks, in order.

        Raises:
            UsageError: the schedule was made for another model.
        """
        from .errors import UsageError

        try:
            known = self.rates[chain.name]
            return [known[block.name] for block in chain.blocks]
        except KeyError as missing:
            raise UsageError(
                f"the schedule has no rate for {missing.args[0]!r} of chain {chain.name!r}; "
                "it was made for another model: run `atp search` on this one"
            ) from None

    def __iter__(self) -> Iterator[tuple[str, str, float]]:
        for chain, blocks in self.rates.items():
            for block, rate in blocks.items():
                yield chain, block, rate

    def to_dict(self) -> dict[str, Any]:
        """The schedule as JSON-ready data."""
        return {
            "version": 1,
            "allocation": self.allocation,
            "sparsity": self.sparsity,
            "beta": dict(self.beta) if isinstance(self.beta, Mapping) else self.beta,
            "rates": {chain: dict(blocks) for chain, blocks in self.rates.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Schedule:
        """The inverse of `to_dict`.

        Raises:
            UsageError: the data is not a schedule, or a rate lies outside [0, 1].
        """
        from .errors import UsageError

        try:
            rates = {
                str(chain): {str(block): float(rate) for block, rate in blocks.items()}
                for chain, blocks in data["rates"].items()
            }
            beta = data.get("beta")
            if isinstance(beta, Mapping):
                beta = {str(chain): float(value) for chain, value in beta.items()}
            elif beta is not None:
                beta = float(beta)
            schedule = cls(
                rates=rates,
                sparsity=float(data["sparsity"]),
                allocation=str(data["allocation"]),
                beta=beta,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(f"not a schedule: {error!r}") from None
        for chain, block, rate in schedule:
            if not 0.0 <= rate <= 1.0:
                raise UsageError(f"rate {rate} of {chain}/{block} lies outside [0, 1]")
        return schedule

    @property
    def digest(self) -> str:
        """Hash of the rates, to tell schedules apart in a journal."""
        text = json.dumps(self.to_dict()["rates"], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Offer:
    """Something a plugin registers by name: a method, an allocator, an executor, a runtime…

    Attributes:
        name: what the user writes, e.g. "wanda".
        target: a callable that builds it (without arguments, but for an example), or
            "module:attribute" of one, imported when first used so that discovery stays fast.
        summary: one line for listings.
        origin: distribution that offers it; filled in by core.
    """

    name: str
    target: str | Callable[..., Any]
    summary: str
    origin: str = ""
