"""A run as data: every setting of a pruning, validated, in YAML and with a JSON schema."""

from __future__ import annotations

import difflib
import math
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PositiveInt,
    Tag,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from .errors import UsageError
from .pattern import Pattern
from .presets import task_names

__all__ = ["Recipe", "bytes_of", "without_folders"]


def _no_bool(value: Any) -> Any:
    # YAML reads `yes` as true, which would pass for 1.
    if isinstance(value, bool):
        raise ValueError(f"must be a number, not {str(value).lower()}")
    return value


def _rate(value: float) -> float:
    if not 0.0 <= value < 1.0:
        hint = f" (for {value:g} %, write {value / 100:g})" if 2.0 <= value < 100.0 else ""
        raise ValueError(f"must be in the range [0, 1), not {value:g}{hint}")
    return value


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"must be a finite number, not {value}")
    return value


def _positive(value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"must be a number above 0, not {value:g}")
    return value


_Rate = Annotated[
    float,
    BeforeValidator(_no_bool),
    AfterValidator(_rate),
    # The range is checked above, with a better message; the schema states it too.
    Field(json_schema_extra={"minimum": 0, "exclusiveMaximum": 1}),
]
_Number = Annotated[float, BeforeValidator(_no_bool), AfterValidator(_finite)]
_Step = Annotated[float, BeforeValidator(_no_bool), AfterValidator(_positive)]
_Count = Annotated[PositiveInt, BeforeValidator(_no_bool)]
_Name = Annotated[str, Field(min_length=1)]


def _size(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        value = f"{value}B"
    if isinstance(value, str):
        bytes_of(value)
    return value


def bytes_of(text: str) -> int:
    """The bytes of a size such as "6GiB", "8 GB", "500MB" or "1000000".

    Raises:
        ValueError: it is none, or not above 0.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", text.lower())
    power = "kmgt".find(found[2][:1]) + 1 if found and found[2] != "i" and found[2] else 0
    if found is None or found[2] == "i" or float(found[1]) <= 0:
        raise ValueError("must be a size above 0 with its unit, such as 6GiB, 8GB or 500MB")
    unit: int = (1024 if found[2].endswith("i") else 1000) ** power
    return round(float(found[1]) * unit)


def _pattern(value: str) -> str:
    Pattern.parse(value)
    return value.strip()


def _tasks(value: Any) -> Any:
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        value = ",".join(value)
    return task_names(value) if isinstance(value, str) else value


def _near(given: Any, value: float) -> bool:
    number = isinstance(given, (int, float)) and not isinstance(given, bool)
    return number and math.isclose(given, value, abs_tol=1e-6)


def _kind(value: Any) -> str:
    return "chains" if isinstance(value, Mapping) else "rate"


# Told apart up front, so that an error speaks of the form the user wrote and of no other.
_Sparsity = Annotated[
    Annotated[_Rate, Tag("rate")]
    | Annotated[dict[_Name, _Rate], Field(min_length=1), Tag("chains")],
    Discriminator(_kind),
]


class Recipe(BaseModel):
    """Every setting of a run. Relative paths are those of the working directory."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, title="Recipe of atp prune"
    )

    source: _Name
    """Model to prune: a name, a directory or a file."""
    sparsity: _Sparsity
    """Target sparsity S in [0, 1), or one for each chain by name."""
    method: _Name = "wanda"
    """How weights inside a block are chosen."""
    pattern: Annotated[str, AfterValidator(_pattern)] | None = None
    """Keep N of every M consecutive weights of a row: "2:4", or "mixed:8" with N by the block."""
    inputs: Literal["pruned", "dense"] = "pruned"
    """What statistics are taken on: what pruned blocks hand on, or what the dense ones do."""
    allocation: _Name = "atp"
    """How S is spread over blocks."""
    allocation_options: dict[_Name, bool | int | float | str] = {}
    """Settings of the allocation by name, e.g. {lambda: 0.1}; each has defaults."""
    beta: (
        Literal["search", "auto"]
        | _Number
        | Annotated[dict[_Name, _Number], Field(min_length=1)]
    ) = "search"
    """Common difference of the progression: searched, measured, or given, also by chain."""
    beta_per_chain: bool = False
    """Search or measure a β for each chain, not one for all."""
    beta_step: _Step | None = None
    """Search the whole grid of this step instead; the paper's is 0.002."""
    schedule: Path | None = None
    """A schedule.json whose rates are used as they are; nothing is searched."""
    chains: Annotated[list[_Name], Field(min_length=1)] | None = None
    """Prune these chains only."""
    objective: _Name | None = None
    """What the search optimizes; default is the first metric of the plugin."""
    executor: _Name = "local"
    """What runs the trials of a search; the result is the same whatever does."""
    executor_options: dict[_Name, bool | int | float | str] = {}
    """Settings of the executor by name, e.g. {address: "10.0.0.1:6379"}; they change no result."""
    trial_samples: _Count | None = None
    """Calibration samples of a search trial; the winner is always judged on all."""
    baseline: bool = True
    """Measure uniform sparsity beside the result."""
    calibration: _Name | None = None
    """Calibration data; part of it is held out to judge β on."""
    report_data: _Name | None = None
    """Data the results are reported on; never used to choose anything."""
    samples: _Count | None = None
    """Number of calibration samples."""
    search_samples: _Count | None = None
    """Number of held-out samples β is judged on."""
    report_samples: _Count | None = None
    """At most this many samples of the report data."""
    classes: _Name | None = None
    """File of class names, one a line or JSON; `folder<TAB>name` where the two differ."""
    templates: _Name | None = None
    """File of prompt templates, one a line, each with {} in it."""
    seqlen: Annotated[int, Field(ge=2), BeforeValidator(_no_bool)] | None = None
    """Tokens a sample, for models of text."""
    tasks: Annotated[
        Annotated[list[_Name], Field(min_length=1)] | None, BeforeValidator(_tasks)
    ] = None
    """Tasks of lm-eval to report on beside the plugin's own metrics; presets are spelt out."""
    task_data: Path | None = None
    """Folder with the tasks' data as JSON lines; None has lm-eval fetch it from the hub."""
    include_path: Path | None = None
    """Folder with the user's own task definitions for lm-eval."""
    limit: _Count | None = None
    """At most this many documents a task."""
    num_fewshot: Annotated[int, Field(ge=0), BeforeValidator(_no_bool)] | None = None
    """Examples before each question; None is each task's own number."""
    batch_size: _Count = 1
    """Samples that go through the model at once."""
    seed: Annotated[int, Field(ge=0), BeforeValidator(_no_bool)] = 0
    """Seed of every random choice."""
    device: _Name = "auto"
    """Where blocks run."""
    dtype: _Name = "auto"
    """Load weights as this torch dtype; "auto" is the source's own."""
    max_memory: Annotated[str, BeforeValidator(_size)] | None = None
    """Keep within this memory, such as 6GiB: weights are streamed from disk, block by block."""
    plugin: _Name | None = None
    """Let this plugin handle the source."""
    revision: _Name | None = None
    """Revision of a hub repository."""
    trust_remote_code: bool = False
    """Run code that ships with the checkpoint."""
    output: Path | None = None
    """Directory to write."""

    @model_validator(mode="before")
    @classmethod
    def _settled_by_pattern(cls, data: Any) -> Any:
        """A pattern of one N leaves nothing to allocate."""
        try:
            pattern = Pattern.parse(data["pattern"])
        except (TypeError, KeyError, ValueError, AttributeError):
            return data  # nothing to settle, or told with the field
        if pattern.sparsity is None:
            return data
        settled: dict[str, Any] = {"sparsity": pattern.sparsity, "allocation": "uniform"}
        for name, value in settled.items():
            given = data.get(name, value)
            if given != value and not (name == "sparsity" and _near(given, value)):
                raise ValueError(
                    f"`pattern` {data['pattern']} keeps the same of every group, so `{name}` can "
                    f"only be {value}, not {given}; leave it out, or use a pattern such as "
                    f"mixed:{pattern.of}"
                )
        if data.get("schedule") is not None:
            raise ValueError(
                f"`pattern` {data['pattern']} keeps the same of every group, so there is no "
                f"`schedule`; leave it out, or use a pattern such as mixed:{pattern.of}"
            )
        return {**data, **settled}

    @model_validator(mode="after")
    def _chains_agree(self) -> Self:
        if self.chains is not None and isinstance(self.sparsity, dict):
            differing = sorted(set(self.chains) ^ set(self.sparsity))
            if differing:
                raise ValueError(
                    f"chain {differing[0]!r} is named in only one of `chains` and `sparsity`; "
                    "drop `chains`, or name the same ones in both"
                )
        return self

    # --- from settings and files ------------------------------------------------------------

    @classmethod
    def make(cls, settings: Mapping[str, Any], *, origin: str | Path | None = None) -> Recipe:
        """A recipe from settings by name.

        Args:
            settings: fields of the recipe.
            origin: the file the settings came from, for the error message.

        Raises:
            UsageError: a setting is missing, unknown or wrong; names all of them.
        """
        try:
            return cls.model_validate(dict(settings))
        except ValidationError as error:
            raise _usage_error(error.errors(include_url=False), origin) from None

    @classmethod
    def read(cls, path: str | Path) -> dict[str, Any]:
        """The settings in a YAML file, checked; those that options may still add can be missing.

        Raises:
            UsageError: the file cannot be read, or a setting in it is unknown or wrong.
        """
        try:
            data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise UsageError(
                f"cannot read recipe {path}: {error.strerror or error}; give the path of a YAML "
                "file, such as the recipe.yaml of an earlier output"
            ) from None
        except (UnicodeDecodeError, yaml.YAMLError) as error:
            raise UsageError(f"recipe {path} is not YAML: {error}") from None
        if data is None:
            data = {}
        if not isinstance(data, dict):
            raise UsageError(
                f"recipe {path} holds a {type(data).__name__}; it must hold `setting: value` lines"
            )
        settings = {str(key): value for key, value in data.items()}
        try:
            cls.model_validate(settings)
        except ValidationError as error:
            wrong = [e for e in error.errors(include_url=False) if e["type"] != "missing"]
            if wrong:
                raise _usage_error(wrong, path) from None
        return settings

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """The recipe in a YAML file.

        Raises:
            UsageError: the file cannot be read, or a setting in it is missing, unknown or wrong.
        """
        return cls.make(cls.read(path), origin=path)

    # --- to files ---------------------------------------------------------------------------

    def to_yaml(self) -> str:
        """The recipe as YAML, every setting included."""
        data = self.model_dump(mode="json")
        return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """JSON schema of a recipe file, for editors and other tools."""
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            **cls.model_json_schema(),
        }

    def portable(self) -> Recipe:
        """This recipe with absolute paths shortened to their last part, and without executor.

        For publishing: a published recipe should not tell how a disk is laid out, nor what
        machines there are.
        """
        changed: dict[str, Any] = {"executor": "local", "executor_options": {}}
        for name in type(self).model_fields.keys() - changed.keys():
            value = getattr(self, name)
            if isinstance(value, (str, Path)):
                changed[name] = type(value)(without_folders(str(value)))
        return self.model_copy(update=changed)

    def command(self) -> str:
        """The command line that repeats this recipe."""
        names = [name for name in type(self).model_fields if name != "source"]
        return shlex.join(["atp", "prune", self.source, *self.options(names)])

    def options(self, names: Iterable[str]) -> list[str]:
        """The words of a command line that give some settings, those left at their default not.

        Args:
            names: the settings, in the order of the options.
        """
        words: list[str] = []
        for name in names:
            value = getattr(self, name)
            if value == type(self).model_fields[name].default:
                continue
            option = "-o" if name == "output" else "--" + name.replace("_", "-")
            if isinstance(value, bool):
                words.append(option if value else option.replace("--", "--no-", 1))
            elif isinstance(value, dict):
                words += [option, ",".join(f"{key}={_shown(one)}" for key, one in value.items())]
            elif isinstance(value, list):
                words += [option, ",".join(value)]
            else:
                words += [option, str(value)]
        return words


def _shown(value: bool | float | str) -> str:
    """A value in a list of name=value, as it is read again."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def without_folders(text: str) -> str:
    """The last part of an absolute path; anything else as it is. For what is published."""
    return Path(text).name if Path(text).is_absolute() else text


def _usage_error(errors: list[ErrorDetails], origin: str | Path | None) -> UsageError:
    """One error that names every wrong setting, in the user's words."""
    where = f" in {origin}" if origin is not None else ""
    # A union reports every branch it tried; the first says enough.
    told: dict[str, str] = {}
    for error in errors:
        location = error["loc"]
        told.setdefault(str(location[0]) if location else "", _told(error))
    lines = list(told.values())
    if len(lines) == 1:
        return UsageError(f"recipe{where}: {lines[0]}")
    return UsageError(f"recipe{where}:" + "".join(f"\n  - {line}" for line in lines))


def _told(error: ErrorDetails) -> str:
    location = error["loc"]
    if not location:
        return error["msg"].removeprefix("Value error, ")
    key = str(location[0])
    if error["type"] == "extra_forbidden":
        known = list(Recipe.model_fields)
        close = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean `{close[0]}`?" if close else f"settings are {', '.join(known)}"
        return f"unknown setting `{key}`; {hint}"
    if error["type"] == "missing":
        return f"`{key}` is missing; add it"
    if key == "beta":
        return (
            "`beta` must be 'search', 'auto', a finite number, or one for each chain, not "
            f"{error['input']!r}"
        )
    name = key
    if key == "sparsity" and location[-1] not in ("rate", "chains"):
        name = f"{key}.{location[-1]}"
    detail = error["msg"].removeprefix("Value error, ")
    given = "" if error["type"] == "value_error" else f", not {error['input']!r}"
    if error["type"] in ("float_type", "float_parsing"):
        detail = "must be a number"
        detail += " in the range [0, 1)" if key == "sparsity" else ""
    elif error["type"] in ("int_type", "int_parsing", "int_from_float"):
        detail = "must be a whole number"
    elif error["type"] == "too_short":
        detail, given = "must not be empty", ""
    return f"`{name}`: {detail[0].lower()}{detail[1:]}{given}"
