"""Where a result came from, and how to get it again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import yaml

from ..._document import Code, Column, Details, Facts, Listing, Paragraph, Part, Table, Text
from ...records import Metric
from ._run import Run, figures_of

__all__ = ["provenance", "repeat"]

_CORE: Final = "atp-prune"
# What a phone shows of a command without scrolling.
_LONG: Final = 40


def provenance(run: Run) -> Iterator[Part]:
    """Versions, machine, seeds, and hashes of the model and of the data."""
    facts = [*_machine(run.provenance)]
    if run.evaluation is not None and run.recipe:
        # It may have been measured later, elsewhere.
        told = [f"{name} {fact}" for name, fact in _machine(run.evaluation.environment)]
        facts += [("atp eval with", "; ".join(told))] if told else []
    if facts:
        yield Facts(facts)
    data = [*_data(run)]
    if data:
        columns = [Column(title) for title in ("used for", "data", "fingerprint")]
        yield Table("Data; an equal fingerprint means equal data", columns, data)
    model = [*_flat(run.provenance.get("model") or {})]
    if model:
        yield Details("The dense model", [Facts([(key, Code(value)) for key, value in model])])
    versions = _mapping(run.provenance.get("versions"))
    if versions:
        rows = [[name, str(version)] for name, version in versions.items()]
        table = Table("Versions of the packages used", [Column("package"), Column("version")], rows)
        yield Details("Versions", [table])


def _machine(known: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    versions = _mapping(known.get("versions"))
    for name in dict.fromkeys((_CORE, str(known.get("plugin_distribution")), "torch")):
        if name in versions:
            yield name, str(versions[name])
    if known.get("python"):
        yield "Python", str(known["python"])
    if known.get("platform"):
        yield "System", str(known["platform"])
    if known.get("cpu"):
        counts = {"cores": known.get("cpu_count"), "threads": known.get("threads")}
        told = [f"{what}: {count}" for what, count in counts.items() if count]
        yield "CPU", ", ".join([str(known["cpu"]), *told])
    if known.get("gpus"):
        yield "GPUs", ", ".join(str(gpu) for gpu in known["gpus"])
    if known.get("seed") is not None:
        yield "Seed", str(known["seed"])


def _data(run: Run) -> Iterator[Sequence[Text]]:
    used = _mapping(run.provenance.get("calibration"))
    if used:
        amount = f", {used['samples']} {used.get('unit', 'samples')}" if "samples" in used else ""
        yield ["calibration", f"{used.get('dataset', '')}{amount}", _hash(used.get("fingerprint"))]
    found: dict[tuple[str, str, str], list[str]] = {}
    for use, metric in _metrics(run):
        names = found.setdefault((use, metric.dataset, metric.fingerprint), [])
        if metric.name not in names:
            names.append(metric.name)
    uses = [use for use, *_ in found]
    for (use, dataset, fingerprint), names in found.items():
        # With one set of data for all, there is nothing to tell apart.
        told = f"{use}: {', '.join(names)}" if uses.count(use) > 1 else use
        yield [told, dataset, _hash(fingerprint)]


def _metrics(run: Run) -> Iterator[tuple[str, Metric]]:
    """What each metric was measured for, and the metric."""
    for by_name in run.metrics.values():
        yield from ((metric.split, metric) for metric in by_name.values())
    if run.evaluation is not None:
        found = figures_of(run.evaluation).values()
        yield from ((f"atp eval, {metric.split}", metric) for metric in found)


def _hash(fingerprint: Any) -> Text:
    return Code(str(fingerprint)) if fingerprint else "-"


def _mapping(found: Any) -> Mapping[str, Any]:
    return found if isinstance(found, Mapping) else {}


def _flat(found: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Nested facts, a line each."""
    if isinstance(found, Mapping):
        for key, value in found.items():
            yield from _flat(value, f"{path} {key}".strip())
    elif isinstance(found, list):
        for i, value in enumerate(found, 1):
            yield from _flat(value, f"{path} {i}" if len(found) > 1 else path)
    elif found is not None:
        yield path, str(found)


# --- again ---------------------------------------------------------------------------------------


def repeat(run: Run) -> Iterator[Part]:
    """The commands that make the same again, and every setting."""
    versions = _mapping(run.provenance.get("versions"))
    names = dict.fromkeys((_CORE, str(run.provenance.get("plugin_distribution"))))
    pinned = [f"{name}=={versions[name]}" for name in names if name in versions]
    lines = [f"pip install {' '.join(pinned)}"] if pinned else []
    asked = "prune" if run.pruned else "search"
    if command := str(run.provenance.get("command") or ""):
        lines.append(_broken(command.replace("atp prune ", f"atp {asked} ", 1)))
    if run.evaluation is not None and run.evaluation.command:
        lines.append(_broken(run.evaluation.command))
    if lines:
        yield Listing("\n".join(lines), "sh", "Commands")
        yield Paragraph(
            "Files are named without their folders, which are those of the machine the run was "
            "made on."
        )
    if run.recipe:
        recipe = yaml.safe_dump(dict(run.recipe), sort_keys=False, allow_unicode=True)
        use = Paragraph(["Saved as a file, ", Code(f"atp {asked} --recipe FILE"), " takes it."])
        yield Details("recipe.yaml, every setting", [use, Listing(recipe, "yaml", "Recipe")])


def _broken(command: str) -> str:
    """A long command with an option a line, as a shell takes it."""
    try:
        words = shlex.split(command)
    except ValueError:  # not ours
        return command
    if len(command) <= _LONG:
        return command
    text = ""
    for word in words:
        quoted = shlex.quote(word)
        text += f" \\\n  {quoted}" if word.startswith("-") else f" {quoted}"
    return text.strip()
