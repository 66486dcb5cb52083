"""The form in which measurements are written, with a version and a JSON schema."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ..records import Metric
from .comparison import Comparison

__all__ = [
    "EVALUATION_NAME",
    "SCHEMA_VERSION",
    "ComparisonRecord",
    "EvaluationRecord",
    "LayerRecord",
    "MetricRecord",
    "ModelRecord",
    "RuntimeRecord",
    "TaskRecord",
]

EVALUATION_NAME: Final = "eval.json"
"""File of a measurement in its directory."""

SCHEMA_VERSION: Final = 1
"""Raised when a reader of the old form would misread the new one."""


def _number(value: Any) -> Any:
    # JSON has neither; they are written as strings that `float` reads back.
    return float(value) if value in ("NaN", "Infinity", "-Infinity") else value


_Float = Annotated[float, BeforeValidator(_number)]


class _Record(BaseModel):
    # What a later version adds is kept and ignored.
    model_config = ConfigDict(
        extra="allow", frozen=True, use_attribute_docstrings=True, ser_json_inf_nan="strings"
    )


class MetricRecord(_Record):
    """One figure, with all that is needed to compare it."""

    name: str
    """E.g. "perplexity", "top1", "boolq/acc"."""
    value: _Float
    """The figure, in `unit`."""
    stderr: _Float | None = None
    """Its standard error, where it has one."""
    n: int
    """Number of observations: tokens, images, questions, documents."""
    unit: str
    """E.g. "per token", "%", "fraction"."""
    higher_is_better: bool
    """Direction."""
    split: Literal["search", "report"]
    """Split it was measured on."""
    dataset: str
    """What it was measured on, for people."""
    fingerprint: str
    """Hash of the data."""
    convention: str
    """How it was measured: windows, templates, task version, examples."""
    seconds: float = 0.0
    """Wall time of the measurement."""

    @classmethod
    def of(cls, metric: Metric) -> Self:
        """The record of a metric."""
        return cls(**asdict(metric))


class TaskRecord(_Record):
    """A task of lm-eval."""

    version: float | str | None = None
    """Version of its definition."""
    hash: str | None = None
    """Hash of its documents, as lm-eval makes it."""
    shots: int | None = None
    """Examples before each question."""
    documents: int | None = None
    """Documents that were scored."""
    lm_eval: str | None = None
    """Version of lm-eval."""


class ComparisonRecord(_Record):
    """A figure of the model against that of another one, paired by document or image."""

    metric: str
    """Name of the metric."""
    reference: str
    """Source of the other model."""
    value: _Float
    """Of the model."""
    reference_value: _Float
    """Of the other model."""
    difference: _Float
    """value − reference_value."""
    stderr: _Float | None = None
    """Standard error of the paired difference."""
    interval: tuple[_Float, _Float] | None = None
    """Confidence interval of the difference, by the paired bootstrap."""
    level: float
    """Of the interval."""
    n: int
    """Documents or images in the pairing."""
    unit: str
    """Of all figures."""
    verdict: Literal["better", "worse", "within noise", "not comparable"]
    """Better or worse where the interval excludes 0."""
    text: str
    """The verdict in words."""

    @classmethod
    def of(cls, comparison: Comparison) -> Self:
        """The record of a comparison."""
        return cls(**asdict(comparison))


class LayerRecord(_Record):
    """A layer that a runtime looked at."""

    name: str
    """Name of the module."""
    shape: tuple[int, int]
    """(out_features, in_features)."""
    sparsity: float
    """Share of zeros in its weight."""
    kernel: str
    """What executed it; "dense" where it was left as it was."""
    reason: str
    """Why."""
    dense_bytes: int
    """Of its weight when dense."""
    bytes: int
    """Of its weight as it was executed."""


class RuntimeRecord(_Record):
    """What executed a model."""

    name: str
    """Of the runtime, e.g. "sparse-cpu"."""
    info: dict[str, str] = Field(default_factory=dict)
    """What was live: instruction set, compiler, threads, device."""
    sparse_layers: int = 0
    """Number of layers that did not run dense."""
    dense_bytes: int = 0
    """Of the weights of all layers when dense."""
    bytes: int = 0
    """Of these weights as they were executed."""
    layers: list[LayerRecord] = Field(default_factory=list)
    """Every layer the runtime looked at."""


class ModelRecord(_Record):
    """A model and what was measured of it."""

    source: str
    """The source as the user wrote it, without folders of the machine."""
    plugin: str
    """The plugin that handled it."""
    base_model: str | None = None
    """Name of its repository on the hub, if it has one."""
    provenance: dict[str, Any] = Field(default_factory=dict)
    """Revision or git hash of the source, hashes of its files, formats, where known."""
    metrics: dict[str, MetricRecord]
    """Figures by name."""
    tasks: dict[str, TaskRecord] = Field(default_factory=dict)
    """Tasks of lm-eval by name."""
    seconds: float = 0.0
    """Wall time of all measurements."""
    runtime: RuntimeRecord | None = None
    """What executed the model, where a runtime was asked for."""


class EvaluationRecord(ModelRecord):
    """What ``atp eval`` measured: ``eval.json``, and what ``--json`` prints."""

    version: Literal[1] = SCHEMA_VERSION
    """Version of this form."""
    others: list[ModelRecord] = Field(default_factory=list)
    """The models of ``--compare``, in their order."""
    comparisons: list[ComparisonRecord] = Field(default_factory=list)
    """The model against each of them, metric by metric."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """What was asked for."""
    environment: dict[str, Any] = Field(default_factory=dict)
    """Versions of packages, machine, seed."""
    command: str = ""
    """The command that repeats it."""
    peak_memory_bytes: int = 0
    """Peak resident size of the process."""

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """JSON schema of the form."""
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            **cls.model_json_schema(mode="serialization"),
        }
