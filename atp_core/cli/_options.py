"""Options that several commands share, and the recipe they add up to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import rich_click as click

from .._settings import setting_value
from ..errors import UsageError

if TYPE_CHECKING:
    from ..recipe import Recipe

__all__ = [
    "data_options",
    "executor_options",
    "executor_settings",
    "inputs_option",
    "json_option",
    "label_options",
    "load_options",
    "memory_options",
    "names_of",
    "output_options",
    "overwrite_option",
    "rates_of",
    "recipe_from",
    "schedule_options",
]

F = TypeVar("F", bound=Callable[..., Any])


def _numbers(text: str) -> float | dict[str, float]:
    """A number, or ``chain=number,chain=number``; ValueError where it is neither."""
    if "=" not in text:
        return float(text)
    pairs = [pair.split("=", 1) for pair in text.split(",")]
    return {chain.strip(): float(value) for chain, value in pairs}


def names_of(text: str) -> list[str]:
    """The names in a list such as ``uniform,atp``."""
    return [name.strip() for name in text.split(",") if name.strip()]


def rates_of(option: str, text: str) -> list[float]:
    """The numbers in a list such as ``0.5,0.6,0.7``.

    Raises:
        UsageError: one is no number; names the option.
    """
    try:
        return [float(part) for part in names_of(text)]
    except ValueError:
        raise UsageError(f"{option} {text!r} is not of the form 0.5,0.6,0.7") from None


class SparsityParam(click.ParamType[Any]):
    """A rate, or ``chain=rate,chain=rate``."""

    name = "rate"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Parse ``0.7`` or ``vision=0.6,text=0.5``."""
        if not isinstance(value, str):
            return value
        try:
            return _numbers(value)
        except ValueError:
            self.fail(f"{value!r} is neither a rate such as 0.7 nor chain=rate,…", param, ctx)


class SettingsParam(click.ParamType[Any]):
    """``name=value,name=value``."""

    name = "name=value"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Parse ``estimator=mid,epsilon=0.2``."""
        if not isinstance(value, str):
            return value
        settings: dict[str, Any] = {}
        for pair in value.split(","):
            name, equals, text = (part.strip() for part in pair.partition("="))
            if not (name and equals and text):
                self.fail(f"{pair!r} is not of the form name=value", param, ctx)
            settings[name] = setting_value(text)
        return settings


class BetaParam(click.ParamType[Any]):
    """ "search", "auto", a number, or ``chain=number,chain=number``."""

    name = "search|auto|float"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Parse the two words, or ``0.005``, or ``vision=0.02,text=0.01``."""
        if value in ("search", "auto") or not isinstance(value, str):
            return value
        try:
            return _numbers(value)
        except ValueError:
            self.fail(
                f"{value!r} is neither 'search', 'auto', a number nor chain=number,…", param, ctx
            )


def _apply(options: list[Any]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object on stdout."
)

overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Replace an earlier output in -o."
)

inputs_option = click.option(
    "--inputs",
    type=click.Choice(["pruned", "dense"]),
    help="Take statistics on what pruned blocks hand on (default), or on what the dense model's "
    "do: cheaper for wanda, and often better at high sparsity.",
)

_EXECUTOR = [
    click.option(
        "--executor",
        metavar="NAME",
        help="What runs the trials of a search and the cells of a comparison: local (default), "
        "ray (atp-prune[ray]: on many cores, GPUs or machines), or a plugin's.",
    ),
    click.option(
        "--executor-options",
        type=SettingsParam(),
        help="Settings of the executor, e.g. workers=4,retries=1 for ray.",
    ),
    click.option(
        "--ray-address",
        metavar="ADDRESS",
        help="The Ray cluster to use, for --executor-options address=ADDRESS; default is "
        "RAY_ADDRESS, or else a cluster of this machine only.",
    ),
    click.option(
        "--trial-gpus",
        type=click.FloatRange(min=0),
        metavar="N",
        help="GPUs of a worker, for --executor-options trial_gpus=N.",
    ),
]

executor_options = _apply(_EXECUTOR)

schedule_options = _apply(
    [
        click.option(
            "-s",
            "--sparsity",
            type=SparsityParam(),
            help="Target sparsity S in [0, 1): "
            "share of the prunable weights to cut; or chain=rate,chain=rate.",
        ),
        click.option(
            "--method",
            metavar="NAME",
            help="Pruning method: wanda (default), sparsegpt, magnitude, or a plugin's.",
        ),
        click.option(
            "--pattern",
            metavar="N:M",
            help="Keep N of every M consecutive weights of a row, e.g. 2:4; or mixed:M, where "
            "each block has an N that follows from its rate.",
        ),
        inputs_option,
        click.option(
            "--allocation",
            metavar="NAME",
            help="How S is spread over blocks: atp (default), uniform, a rival (owl, "
            "alphapruning, dlp, …: see docs/allocation.md), or a plugin's.",
        ),
        click.option(
            "--allocation-options",
            type=SettingsParam(),
            help="Settings of the allocation, e.g. lambda=0.1; each has defaults.",
        ),
        click.option(
            "--beta",
            type=BetaParam(),
            help="Common difference of the progression: "
            "search (default), auto (from measured error growth), a number, or "
            "chain=number,chain=number.",
        ),
        click.option(
            "--beta-per-chain",
            is_flag=True,
            default=None,
            help="Search or measure a β for each chain, not one for all.",
        ),
        click.option(
            "--beta-step",
            type=float,
            metavar="STEP",
            help="Search the whole grid of this step instead (the paper's is 0.002).",
        ),
        click.option(
            "--schedule",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Use the rates of this schedule.json; nothing is searched.",
        ),
        click.option("--chains", metavar="A,B", help="Prune these chains only."),
        click.option(
            "--objective",
            metavar="NAME",
            help="What the search optimizes; default is the first metric of the plugin.",
        ),
        *_EXECUTOR,
        click.option(
            "--trial-samples",
            type=click.IntRange(min=1),
            metavar="N",
            help="Calibration samples of a search trial; default is a quarter of "
            "--samples. The winner is always judged on all.",
        ),
        click.option(
            "--baseline/--no-baseline",
            default=None,
            help="Measure uniform sparsity beside the result (default).",
        ),
    ]
)

_LABELS = [
    click.option(
        "--classes",
        metavar="FILE",
        help="Class names, one a line or JSON; folder<TAB>name where the two differ.",
    ),
    click.option(
        "--templates",
        metavar="FILE",
        help="Prompt templates, one a line, each with {} in it.",
    ),
]

data_options = _apply(
    [
        click.option(
            "--calibration",
            metavar="FILE|DIR|hf:NAME",
            help="Calibration data; part of it is held out to judge β on.",
        ),
        click.option(
            "--report-data",
            metavar="FILE|DIR|hf:NAME",
            help="Data the results are reported on; never used to choose anything.",
        ),
        click.option(
            "--samples",
            type=click.IntRange(min=1),
            metavar="N",
            help="Number of calibration samples.",
        ),
        click.option(
            "--search-samples",
            type=click.IntRange(min=1),
            metavar="N",
            help="Number of held-out samples β is judged on.",
        ),
        click.option(
            "--report-samples",
            type=click.IntRange(min=1),
            metavar="N",
            help="At most this many samples of the report data.",
        ),
        *_LABELS,
        click.option(
            "--seqlen",
            type=click.IntRange(min=2),
            metavar="N",
            help="Tokens a sample, for models of text.",
        ),
        click.option(
            "--batch-size",
            type=click.IntRange(min=1),
            metavar="N",
            help="Samples that go through the model at once (default 1).",
        ),
        click.option(
            "--seed", type=int, metavar="N", help="Seed of every random choice (default 0)."
        ),
    ]
)

load_options = _apply(
    [
        click.option(
            "--device",
            metavar="NAME",
            help="Where blocks run: auto (default), cpu, "
            "cuda, cuda:1, mps. Only the block at hand is there.",
        ),
        click.option(
            "--dtype",
            metavar="NAME",
            help="Load weights as float32, bfloat16, float16; default is the source's own.",
        ),
        click.option("--plugin", metavar="NAME", help="Let this plugin handle the source."),
        click.option("--revision", metavar="REV", help="Revision of a hub repository."),
        click.option(
            "--trust-remote-code",
            is_flag=True,
            default=None,
            help="Run code that ships with the checkpoint.",
        ),
    ]
)

memory_options = _apply(
    [
        click.option(
            "--max-memory",
            metavar="SIZE",
            help="Keep within this main memory, e.g. 6GiB: weights are streamed from disk block by "
            "block, and activations wait on disk where they do not fit.",
        ),
    ]
)

output_options = _apply(
    [
        click.option(
            "-o",
            "--output",
            type=click.Path(path_type=Path),
            metavar="DIR",
            help="Directory to write.",
        ),
        click.option(
            "--recipe",
            "recipe_file",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Take settings from this YAML file; options override it.",
        ),
        click.option(
            "--resume", is_flag=True, help="Continue the interrupted run that was writing -o."
        ),
        click.option(
            "--overwrite",
            is_flag=True,
            help="Replace an earlier output in -o, and start over where a run was interrupted.",
        ),
        json_option,
    ]
)


label_options = _apply(_LABELS)

task_options = _apply(
    [
        click.option("--tasks", metavar="A,B", help="Tasks of lm-eval, or zeroshot7."),
        click.option(
            "--task-data",
            type=click.Path(path_type=Path),
            metavar="DIR",
            help="Read the tasks' data from TASK.jsonl in this folder, not from the hub.",
        ),
        click.option(
            "--include-path",
            type=click.Path(path_type=Path),
            metavar="DIR",
            help="Folder with task definitions of your own.",
        ),
        click.option(
            "--limit",
            type=click.IntRange(min=1),
            metavar="N",
            help="At most this many documents a task.",
        ),
        click.option(
            "--num-fewshot",
            type=click.IntRange(min=0),
            metavar="N",
            help="Examples before each question; default is each task's own number.",
        ),
    ]
)


def executor_settings(
    options: Mapping[str, Any], before: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The options that were given, those of the executor in one place.

    Args:
        options: as the command got them.
        before: settings of a recipe file, on top of which they come.

    Raises:
        UsageError: an option of executors that run elsewhere is given to the local one.
    """
    given = {key: value for key, value in options.items() if value is not None}
    short = {"ray_address": "address", "trial_gpus": "trial_gpus"}
    spelt = {name: given.pop(option) for option, name in short.items() if option in given}
    if spelt:
        before = before or {}
        if given.get("executor", before.get("executor", "local")) == "local":
            raise UsageError("--ray-address and --trial-gpus are for --executor ray; add it")
        earlier = given.get("executor_options", before.get("executor_options", {}))
        given["executor_options"] = {**earlier, **spelt}
    return given


def recipe_from(source: str | None, recipe_file: Path | None, options: Mapping[str, Any]) -> Recipe:
    """The recipe that a file and the options given on top of it add up to.

    Raises:
        UsageError: a setting is missing or wrong.
    """
    from ..recipe import Recipe

    settings = Recipe.read(recipe_file) if recipe_file is not None else {}
    given = executor_settings(options, settings)
    if isinstance(chains := given.get("chains"), str):
        given["chains"] = names_of(chains)
    for key in ("schedule", "output", "task_data", "include_path"):
        if key in given:
            given[key] = str(given[key])
    settings = {**settings, **given}
    if source is not None:
        settings["source"] = source
    if "source" not in settings:
        raise UsageError("name a SOURCE to prune, or give --recipe FILE")
    if "sparsity" not in settings and settings.get("pattern") is None:
        raise UsageError("say how much to prune, e.g. --sparsity 0.5")
    return Recipe.make(settings)
