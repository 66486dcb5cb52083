"""Writes the parts of the documentation that follow from the code and from recorded results.

    python docs/generate.py            write them
    python docs/generate.py --check    say which are out of date, and end with 1 if any is
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import math
import re
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).parent))
import _speed
import _techniques
from _tables import RESULTS, figure, read

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
NOTICE = "<!-- made by docs/generate.py: edit there, and run `make docs` -->\n\n"


# --- command line --------------------------------------------------------------------------------


def cli_page() -> str:
    """Reference of every command and option."""
    from atp_core._commands import COMMANDS
    from atp_core.cli._main import group

    parts = [
        "# Command line",
        "Data goes to stdout, progress and notes to stderr; `--json` prints one JSON object on "
        "stdout and nothing else there. `NO_COLOR` is respected. Errors end with one of the "
        "[exit codes](errors.md#exit-codes); [environment variables](environment.md) have a page "
        "of their own. Plugins may add commands: `atp --help` lists all that are installed.",
    ]
    context = click.Context(group, info_name="atp", **group.context_settings)
    for name in COMMANDS:
        command = group.get_command(context, name)
        assert command is not None
        parts += _command(command, f"atp {name}", context)
    return NOTICE + "\n\n".join(parts) + "\n"


def _command(command: click.Command, path: str, parent: click.Context) -> Iterator[str]:
    context = click.Context(command, info_name=path.split()[-1], parent=parent)
    yield f"## {path}" if path.count(" ") == 1 else f"### {path}"
    if isinstance(command, click.Group):
        yield _prose(command.help)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _command(inner, f"{path} {name}", context)
        return
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"```\n{path} {usage}\n```"
    yield _prose(command.help)
    rows = [
        record
        for parameter in command.get_params(context)
        if isinstance(parameter, click.Option)
        and (record := parameter.get_help_record(context)) is not None
    ]
    table = [f"| {_cell(f'`{option}`')} | {_cell(text)} |" for option, text in rows]
    yield "| option | |\n|---|---|\n" + "\n".join(table)


def _prose(text: str | None) -> str:
    return inspect.cleandoc(text or "")


def _cell(text: str) -> str:
    """Text that a table can hold: options as code, and what looks like a tag is none."""
    flat = " ".join(text.split()).replace("|", "\\|")
    pieces = re.split(r"(`[^`]*`)", flat)
    return "".join(p if p.startswith("`") else _plain(p) for p in pieces)


def _plain(text: str) -> str:
    return re.sub(r"(?<![\w-])(--[a-z][\w-]*)", r"`\1`", text.replace("<", "&lt;"))


# --- hooks ---------------------------------------------------------------------------------------


def hooks_page() -> str:
    """Every hook with its exact signature."""
    from atp_core import hookspecs

    source = inspect.getsource(hookspecs)
    parts = [
        "# Hooks",
        _prose(hookspecs.__doc__),
        f"Hook API version: **{hookspecs.HOOK_API_VERSION}**. A plugin declares the lowest version "
        "it works with as `ATP_HOOK_API`. The records in the signatures are on the page of the "
        "[Python API](python.md#records). An implementation may take fewer arguments than listed "
        "here.",
    ]
    for node in ast.parse(source).body:
        if not isinstance(node, ast.FunctionDef):
            continue
        body = node.body
        node.body = [ast.Expr(ast.Constant(...))]
        decorator = ast.unparse(node.decorator_list[0])
        node.decorator_list = []
        signature = _wrap(ast.unparse(node).replace(":\n    ...", ": ..."))
        text = ast.get_docstring(ast.Module(body=body, type_ignores=[])) or ""
        first = "firstresult" in decorator
        parts += [
            f"## {node.name}",
            f"```python\n{signature}\n```",
            text,
            "Asked of the chosen plugin alone; the first answer that is not None counts."
            if first
            else "All answers count.",
        ]
    return NOTICE + "\n\n".join(parts) + "\n"


def _wrap(signature: str) -> str:
    """One argument a line where the signature is long."""
    if len(signature) <= 100:
        return signature
    head, rest = signature.split("(", 1)
    arguments, tail = rest.rsplit(") ->", 1)
    inner = "".join(f"    {argument},\n" for argument in re.split(r", (?=\w+:)", arguments))
    return f"{head}(\n{inner}) ->{tail}"


# --- recipe --------------------------------------------------------------------------------------


def recipe_schema() -> str:
    """JSON schema of a recipe."""
    from atp_core.recipe import Recipe

    return json.dumps(Recipe.json_schema(), indent=2, ensure_ascii=False) + "\n"


def evaluation_schema() -> str:
    """JSON schema of what `atp eval` writes."""
    from atp_core.evaluation.schema import EvaluationRecord

    return json.dumps(EvaluationRecord.json_schema(), indent=2, ensure_ascii=False) + "\n"


def recipe_page() -> str:
    """The recipe page, with the table of settings put in again."""
    return _filled(DOCS / "recipe.md", {"settings": _settings_table()})


def _settings_table() -> str:
    """Every setting of a recipe: what it takes, its default and what it does."""
    from atp_core.recipe import Recipe

    rows = ["| setting | takes | default | |", "|---|---|---|---|"]
    schema = Recipe.json_schema()
    for name, setting in schema["properties"].items():
        default = "required" if name in schema["required"] else _default(setting["default"])
        takes = _cell(" or ".join(_takes(setting)))
        rows.append(f"| `{name}` | {takes} | {default} | {_cell(setting['description'])} |")
    return "\n".join(rows)


def _default(value: Any) -> str:
    return "" if value is None else f"`{json.dumps(value)}`"


def _takes(setting: dict[str, Any]) -> list[str]:
    """What a setting takes, in words; null stands for a default and is not told."""
    for several in ("anyOf", "oneOf"):
        if several in setting:
            words = [word for one in setting[several] for word in _takes(one)]
            return list(dict.fromkeys(words))
    if "enum" in setting:
        return [f"`{value}`" for value in setting["enum"]]
    kind = setting.get("type")
    if kind == "object":
        values = _takes(setting["additionalProperties"])
        if len(values) > 1:
            return ["values by name"]
        return [f"{values[0]} for each chain"]
    if kind == "array":
        return ["list of names"]
    if kind == "boolean":
        return ["`true`", "`false`"]
    if kind == "integer":
        least = setting.get("minimum", setting.get("exclusiveMinimum", -1) + 1)
        return [f"whole number from {least}"]
    if kind == "number" and "exclusiveMaximum" in setting:
        return [f"number in [{setting['minimum']}, {setting['exclusiveMaximum']})"]
    words = {"number": "number", "string": "text", "null": ""}
    if setting.get("format") == "path":
        return ["path"]
    return [words[str(kind)]] if words[str(kind)] else []


# --- errors --------------------------------------------------------------------------------------


def errors_page() -> str:
    """The page of errors, with the table of exit codes put in again."""
    return _filled(DOCS / "errors.md", {"exit-codes": _exit_codes()})


def _exit_codes() -> str:
    """Exit codes, and the errors that end with each."""
    from atp_core import errors

    meanings = {
        0: "done",
        1: "unexpected, or a model too large for the device",
        2: "usage: an option, a name or a file of settings is wrong",
        3: "a plugin is missing, broken, ambiguous or misbehaves",
        4: "the model or the data cannot be used",
        5: "a quality gate (`--fail-if`) was missed",
        130: "interrupted",
    }
    rows = ["| exit code | meaning | errors |", "|---:|---|---|"]
    for code, meaning in meanings.items():
        classes = [
            f"[`{name}`](#{name.lower()})"
            for name in errors.__all__
            if getattr(errors, name).exit_code == code
        ]
        rows.append(f"| {code} | {meaning} | {', '.join(classes)} |")
    return "\n".join(rows)


# --- testing kit ---------------------------------------------------------------------------------


def testing_page() -> str:
    """The page of the testing kit, with the list of checks put in again."""
    return _filled(DOCS / "testing.md", {"checks": _checks()})


def _checks() -> str:
    """Every check of the conformance suite, by what is checked."""
    from atp_core.testing import checks

    parts = {
        "the package": ("_static", "CHECKS"),
        "each example: source": ("_recognizing", "CHECKS"),
        "each example: locating": ("_locating", "CHECKS"),
        "each example: calibrating": ("_calibrating", "CHECKS"),
        "each example: pruning": ("_pruning", "CHECKS"),
        "each example: measuring": ("_evaluating", "CHECKS"),
        "each example: timing": ("_workloads", "CHECKS"),
        "each example: saving": ("_saving", "CHECKS"),
        "each method": ("_methods", "CHECKS"),
        "each allocation": ("_allocators", "CHECKS"),
        "each executor": ("_executors", "CHECKS"),
        "each runtime": ("_runtimes", "CHECKS"),
        "each objective": ("_others", "OBJECTIVE_CHECKS"),
        "each command": ("_others", "COMMAND_CHECKS"),
    }
    lines = ["| of | it is checked that it |", "|---|---|"]
    for what, (module, name) in parts.items():
        found = getattr(importlib.import_module(f"{checks.__name__}.{module}"), name)
        for i, (title, _) in enumerate(found):
            lines.append(f"| {what if i == 0 else ''} | {_cell(title)} |")
    return "\n".join(lines)


# --- results -------------------------------------------------------------------------------------


def _grid() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / "smollm2_grid.json").read_text("utf-8"))
    return found


def _value(metrics: dict[str, Any]) -> str:
    metric = metrics["perplexity"]
    return f"{metric['value']:.2f} ± {metric['stderr']:.2f}"


def _cells(grid: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for key, cell in grid["cells"].items():
        if "pruned" in cell:
            method, sparsity = key.split()
            yield method, sparsity, cell


def grid_table() -> str:
    """Perplexity by sparsity and method."""
    grid = _grid()
    rows = [
        "| S | method | sequences | uniform | ATP | β | ATP ÷ uniform |",
        "|---:|---|---:|---:|---:|---:|---:|",
        f"| 0 | dense | | {_value(grid['dense'])} | | | |",
    ]
    for method, sparsity, cell in _cells(grid):
        uniform, pruned = (cell[who]["perplexity"]["value"] for who in ("uniform", "pruned"))
        rows.append(
            f"| {sparsity} | {method} | {cell['trials'][-1]['samples'] or ''} | "
            f"{_value(cell['uniform'])} | {_value(cell['pruned'])} | "
            f"{cell['beta']:.4f} | {pruned / uniform:.3f} |"
        )
    return "\n".join(rows)


def results_page() -> str:
    """Everything that was measured, and the commands that measured it."""
    template = (DOCS / "results.template.md").read_text("utf-8")
    grid = _grid()
    tables: dict[str, Callable[[], str]] = {
        "grid": grid_table,
        "convention": lambda: grid["dense"]["perplexity"]["convention"],
        "commands": lambda: "\n".join(cell["command"] for _, _, cell in _cells(grid)),
        "auto": lambda: _auto_table(grid),
        "search": lambda: _search_table(grid),
        "bench": _bench_tables,
        "modalities": _modality_tables,
        "modality_commands": _modality_commands,
        "regret": _regret_table,
        "allocations": _allocations_tables,
        "allocations_commands": _allocations_commands,
        "theory": _theory_table,
        "inputs": _inputs_table,
        "trials": _trials_table,
        "zero_shot": _zero_shot_table,
        "zero_shot_differences": _zero_shot_differences,
        "zero_shot_commands": _zero_shot_commands,
        **_techniques.tables(),
    }
    return _rendered(template, tables)


def speed_page() -> str:
    """What runtimes and pruning were measured to take."""
    return _rendered((DOCS / "speed.template.md").read_text("utf-8"), _speed.tables())


def _rendered(template: str, parts: Mapping[str, Callable[[], str]]) -> str:
    return NOTICE + re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]](), template)


def _auto_table(grid: dict[str, Any]) -> str:
    rows = [
        "| S | method | c | a | drift of ln f | ln(c)/a | β of the recursion | searched β |",
        "|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for method, sparsity, cell in _cells(grid):
        auto = cell.get("auto")
        if auto is None:
            continue
        c, a, d = (auto[key]["decoder"] for key in ("growth", "slope", "drift"))
        beta = _recursion(auto, float(sparsity))
        rows.append(
            f"| {sparsity} | {method} | {c:.4f} | {a:.2f} | {d:.4f} | "
            f"{math.log(c) / a:.4f} | {beta:.4f} | {cell['beta']:.4f} |"
        )
    return "\n".join(rows)


def _recursion(auto: dict[str, Any], sparsity: float) -> float:
    """The β `--beta auto` takes, from recorded errors of blocks of equal size."""
    from atp_core.engine.diagnosis import BlockErrors, half_step
    from atp_core.engine.estimates import recursion_beta

    blocks = [BlockErrors(**block) for block in auto["blocks"]]
    return recursion_beta(blocks, [1] * len(blocks), sparsity, half_step(sparsity))


def _regret_table() -> str:
    """How much worse than the search's best each estimate of β is, on its objective."""
    found = read("beta_auto.json")
    regrets: dict[str, list[float]] = {}
    for model in found.values():
        for cell in model.values():
            regrets.setdefault("uniform (β = 0)", []).append(cell["uniform_regret"])
            for name, estimate in cell["estimates"].items():
                regrets.setdefault(name, []).append(estimate["regret"])
    rows = [
        "| β from | mean regret | median | largest | cases |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, values in regrets.items():
        mean, middle = statistics.fmean(values), statistics.median(values)
        told = (f"{100 * value:.1f} %" for value in (mean, middle, max(values)))
        rows.append(f"| {name} | {' | '.join(told)} | {len(values)} |")
    return "\n".join(rows)


def _search_table(grid: dict[str, Any]) -> str:
    rows = ["| S | method | β: perplexity on the search split | seconds |", "|---:|---|---|---:|"]
    for method, sparsity, cell in _cells(grid):
        trials = sorted(
            (t for t in cell["trials"] if t["stage"] == "search"), key=lambda t: t["beta"]
        )
        told = ", ".join(f"{t['beta']:.4f}: {t['objective']:.1f}" for t in trials)
        rows.append(f"| {sparsity} | {method} | {told} | {cell['seconds']:.0f} |")
    return "\n".join(rows)


_SHOWN = ("top1", "accuracy", "exact_match")
"""Metrics that the tables of other modalities show, beside the objective of the search."""


def _modalities() -> dict[str, Any]:
    found: dict[str, Any] = read("modality_grid.json")
    return found


def _modality_tables() -> str:
    lines = []
    for name, model in _modalities().items():
        first = next(iter(model["cells"].values()))
        blocks = ", ".join(f"{chain} {count} blocks" for chain, count in first["chains"].items())
        shown = [metric for metric in _SHOWN if metric in first["dense"]]
        example = first["dense"][shown[0]]
        lines += [
            f"### {name}",
            "",
            f"Chains: {blocks}. Report: {Path(example['dataset']).name}, n = {example['n']}; "
            f"{example['convention']}.",
            "",
            "| S | metric | dense | uniform | ATP | β | β: objective on the search split |",
            "|---:|---|---:|---:|---:|---:|---|",
        ]
        for sparsity, cell in model["cells"].items():
            for metric in shown:
                measured = (cell[who][metric] for who in ("dense", "uniform", "pruned"))
                values = " | ".join(map(_percent, measured))
                beta = f"{cell['beta']:.4f}" if metric == shown[0] else ""
                curve = _curve(cell) if metric == shown[0] else ""
                label = sparsity if metric == shown[0] else ""
                lines.append(f"| {label} | {metric} | {values} | {beta} | {curve} |")
        lines.append("")
    return "\n".join(lines)


def _percent(metric: dict[str, Any]) -> str:
    return f"{metric['value']:.1f} ± {metric['stderr']:.1f}"


def _curve(cell: dict[str, Any]) -> str:
    trials = sorted((t for t in cell["trials"] if t["stage"] == "search"), key=lambda t: t["beta"])
    return ", ".join(f"{trial['beta']:.4f}: {trial['objective']:.3g}" for trial in trials)


def _modality_commands() -> str:
    return "\n".join(
        next(iter(model["cells"].values()))["command"] for model in _modalities().values()
    )


def _allocations() -> dict[str, Any]:
    found: dict[str, Any] = read("allocations.json")
    return found


def _allocations_tables() -> str:
    """A table a model: the first metric of every allocation, a column a sparsity."""
    parts = []
    for name, found in _allocations().items():
        cells = found["cells"]
        metric = next(iter(found["dense"]))
        dense = found["dense"][metric]
        better = max if dense["higher_is_better"] else min
        sparsities = list(dict.fromkeys(cell["sparsity"] for cell in cells))
        best = {
            s: better(
                (c["metrics"][metric]["value"], c["allocation"])
                for c in cells
                if c["sparsity"] == s and metric in c["metrics"]
            )[1]
            for s in sparsities
        }
        rows = [
            f"**{name}**, {metric} ({'higher' if better is max else 'lower'} is better); dense "
            f"{_figure(dense)}",
            "",
            f"| allocation | {' | '.join(f'S = {s:g}' for s in sparsities)} | trials | search |",
            "|---|" + "---:|" * (len(sparsities) + 2),
        ]
        for allocation in dict.fromkeys(cell["allocation"] for cell in cells):
            own = {cell["sparsity"]: cell for cell in cells if cell["allocation"] == allocation}
            told = [
                _compared_cell(own[s], metric, best[s] == allocation) if s in own else ""
                for s in sparsities
            ]
            trials = sum(cell["trials"] for cell in own.values())
            seconds = sum(cell["search_seconds"] for cell in own.values())
            rows.append(f"| {allocation} | {' | '.join(told)} | {trials} | {seconds:.0f} s |")
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


def _figure(metric: Mapping[str, Any]) -> str:
    return figure(float(metric["value"]))


_VERDICTS = {"better": " +", "worse": " −", "within noise": " ≈"}


def _compared_cell(cell: Mapping[str, Any], metric: str, best: bool) -> str:
    if cell["error"]:
        return "–"
    text = _figure(cell["metrics"][metric])
    pairs = [one for one in cell["against_uniform"] if one["metric"] == metric]
    verdict = _VERDICTS.get(pairs[0]["verdict"], "") if pairs else ""
    if cell["allocation"] == "uniform":
        verdict = ""
    return (f"**{text}**" if best else text) + verdict


def _allocations_commands() -> str:
    return "\n".join(found["command"] for found in _allocations().values())


def _inputs_table() -> str:
    """Both kinds of statistics beside each other, a line a model and sparsity."""
    found = read("inputs.json")
    rows = [
        "| model | metric | S | uniform, pruned | uniform, dense | ATP, pruned | ATP, dense |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for name, cells in found.items():
        by_key = {(c["sparsity"], c["allocation"], c["inputs"]): c for c in cells}
        for sparsity in sorted({cell["sparsity"] for cell in cells}):
            told = []
            for allocation in ("uniform", "atp"):
                pair = [by_key[sparsity, allocation, way] for way in ("pruned", "dense")]
                better = max if pair[0]["higher_is_better"] else min
                best = better(cell["value"] for cell in pair)
                told += [
                    f"**{_figure(cell)}**" if cell["value"] == best else _figure(cell)
                    for cell in pair
                ]
            metric = cells[0]["metric"]
            rows.append(f"| {name} | {metric} | {sparsity:g} | {' | '.join(told)} |")
    return "\n".join(rows)


def _trials_table() -> str:
    """What short trials find, a line a model and sparsity."""

    def regret(way: Mapping[str, Any]) -> str:
        return f"{100 * way['regret']:.1f} %".replace("-0.0", "0.0")

    rows = [
        "| model | S | β of the grid | with all samples: trials | β | regret | "
        "default: samples a trial | trials | β | regret | time, of the grid's |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, found in read("trials.json").items():
        for row in found:
            grid, whole, short = row["grid"], row["all samples"], row["default"]
            rows.append(
                f"| {name} | {row['sparsity']:g} | {grid['beta']:.4f} | {whole['trials']} | "
                f"{whole['beta']:.4f} | {regret(whole)} | "
                f"{short['trial_samples']} of {row['samples']} | "
                f"{short['trials']} | {short['beta']:.4f} | "
                f"{regret(short)} | {short['seconds'] / grid['seconds']:.2f} |"
            )
    return "\n".join(rows)


def _theory_table() -> str:
    """Nested masks and sorted schedules, a line a model."""
    found = read("theory.json")
    rows = [
        "| model | steps of masks | error rose | schedules | rising wins | falling wins | "
        "random beats uniform | rising beats uniform |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, model in found.items():
        masks, orders = model["nested"].values(), model["orders"]
        steps = sum(one["steps"] for one in masks)
        rose = sum(one["steps"] * one["rose"] for one in masks) / steps
        shares = [orders[key] for key in (
            "rising wins", "falling wins", "random beats uniform", "rising beats uniform",
        )]  # fmt: skip
        told = " | ".join(f"{100 * share:.0f} %" for share in shares)
        count = len(orders["schedules"])
        rows.append(f"| {name} | {steps} | {100 * rose:.1f} % | {count} | {told} |")
    return "\n".join(rows)


def _zero_shot() -> dict[str, Any]:
    found: dict[str, Any] = read("zero_shot.json")
    return found


def _zero_shot_table() -> str:
    """A model a row: accuracy on each task, and averages."""
    models = _zero_shot()["models"]
    metrics = [name for name in models["dense"]["metrics"] if name.endswith("/acc")]
    # Models that have lost much answer BoolQ with its commoner answer, and gain by it.
    six = [m for m in metrics if not m.startswith(("boolq/", "zeroshot7/"))]
    heads = [metric.removesuffix("/acc") for metric in metrics]
    rows = [
        "| model | " + " | ".join(heads) + " | mean without boolq |",
        "|---|" + "---:|" * (len(metrics) + 1),
    ]
    for name, model in models.items():
        figures = [model["metrics"][metric] for metric in metrics]
        cells = [f"{100 * f['value']:.1f} ± {100 * f['stderr']:.1f}" for f in figures]
        mean = sum(model["metrics"][metric]["value"] for metric in six) / len(six)
        rows.append(f"| {name} | " + " | ".join(cells) + f" | {100 * mean:.1f} |")
    return "\n".join(rows)


def _zero_shot_differences() -> str:
    """ATP against uniform and dense, paired by document."""
    rows = [
        "| model | task | against | difference, points | 95 % interval | verdict |",
        "|---|---|---|---:|---:|---|",
    ]
    for one in _zero_shot()["comparisons"]:
        if not one["metric"].endswith("/acc"):
            continue
        average = one["metric"].startswith("zeroshot7")
        if not average and not one["reference"].endswith("uniform"):
            continue
        task = one["metric"].removesuffix("/acc")
        low, high = one["interval"]
        rows.append(
            f"| {one['model']} | {f'**{task}**' if average else task} | {one['reference']} | "
            f"{100 * one['difference']:+.1f} ± {100 * one['stderr']:.1f} | "
            f"{100 * low:+.1f} to {100 * high:+.1f} | {one['verdict']} |"
        )
    return "\n".join(rows)


def _zero_shot_commands() -> str:
    return "\n".join(model["command"] for model in _zero_shot()["models"].values())


def _bench_tables() -> str:
    path = RESULTS / "bench.json"
    if not path.exists():
        return "not measured yet"
    bench = json.loads(path.read_text("utf-8"))
    lines: list[str] = []
    for part in bench["parts"]:
        lines += [f"### {part['title']}", "", part["text"], ""]
        head = part["columns"]
        lines += ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
        lines += ["| " + " | ".join(map(str, row)) + " |" for row in part["rows"]]
        lines += ["", f"`{part['command']}`, on {part['machine']}", ""]
    return "\n".join(lines)


def _modality_summary() -> str:
    """A line a model, in the middle of the sparsities."""
    rows = ["| model | metric | dense | uniform | ATP | β |", "|---|---|---:|---:|---:|---:|"]
    for name, model in _modalities().items():
        cell = model["cells"]["0.6"]
        metric = next(known for known in _SHOWN if known in cell["dense"])
        values = " | ".join(_percent(cell[who][metric]) for who in ("dense", "uniform", "pruned"))
        rows.append(f"| {name} | {metric} | {values} | {cell['beta']:.4f} |")
    return "\n".join(rows)


def readme() -> str:
    """The README, with the results put in again."""
    tables = {"grid": grid_table(), "modalities": _modality_summary()}
    return _filled(ROOT / "README.md", tables)


# --- writing -------------------------------------------------------------------------------------


def _filled(path: Path, parts: dict[str, str]) -> str:
    """A page whose generated parts, each between two comments of its name, are put in again."""
    text = path.read_text("utf-8")
    for name, part in parts.items():
        text, count = re.subn(
            rf"<!-- {name} -->.*?<!-- /{name} -->",
            f"<!-- {name} -->\n{part}\n<!-- /{name} -->".replace("\\", r"\\"),
            text,
            flags=re.DOTALL,
        )
        if count != 1:
            raise ValueError(f"{path.name} has {count} parts called {name}, not one")
    return text


PAGES: dict[Path, Callable[[], str]] = {
    DOCS / "cli.md": cli_page,
    DOCS / "evaluation.schema.json": evaluation_schema,
    DOCS / "errors.md": errors_page,
    DOCS / "hooks.md": hooks_page,
    DOCS / "recipe.md": recipe_page,
    DOCS / "recipe.schema.json": recipe_schema,
    DOCS / "results.md": results_page,
    DOCS / "speed.md": speed_page,
    DOCS / "testing.md": testing_page,
    ROOT / "README.md": readme,
}


def main() -> int:
    """Write or check every page."""
    stale = []
    for path, make in PAGES.items():
        text = make()
        if path.exists() and path.read_text("utf-8") == text:
            continue
        stale.append(path.relative_to(ROOT))
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {stale[-1]}")
    if "--check" in sys.argv and stale:
        print("out of date, run `make docs`:", *stale)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
