"""Writing what a run made: the model in its ecosystem's layout, and what atp adds to it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ._json import without_non_finite
from ._session import Session
from .allocation.betas import beta_text
from .allocation.uniform import Uniform
from .checkpoint import (
    Sidecar,
    atomic_directory,
    check_target,
    collect_provenance,
    model_card,
    write_sidecar,
)
from .records import Schedule
from .report.curves import beta_curves
from .report.figures import objective_figure, rates_figure
from .results import PruneResult, SearchResult

__all__ = ["prepare_output", "write_findings", "write_output", "write_search"]


def prepare_output(output: Path, *, overwrite: bool) -> None:
    """Refuse an output directory that must not be written, before costly work begins.

    Raises:
        UsageError: it exists and is not ours, or holds an earlier output and `overwrite` is False.
    """
    check_target(output, overwrite_ok=overwrite)


def write_output(
    session: Session, result: PruneResult, output: Path, *, overwrite: bool
) -> PruneResult:
    """Write the pruned model, ``atp.json``, the recipe, a model card and figures.

    Returns:
        The result with the size of the weight files.
    """
    loaded = session.loaded
    with atomic_directory(output, overwrite_ok=overwrite, needed_bytes=_bytes(session)) as work:
        weights = session.save(work)
        result = replace(result, bytes_on_disk=sum(file.stat().st_size for file in weights))
        figures = _figures(session, result.search, work)
        report = result.to_json()
        _write_common(session, result.search, work, report, report["metrics"])
        card = model_card(
            result,
            session.recipe,
            base_model=loaded.base_model,
            library_name=loaded.card.get("library_name"),
            license_name=loaded.card.get("license"),
            plugin_distribution=session.plugins.distribution(session.plugin),
            figures=[figure.name for figure in figures if figure.suffix == ".png"],
            extra={
                key: value
                for key, value in loaded.card.items()
                if key not in ("library_name", "license")
            },
        )
        (work / "README.md").write_text(card, encoding="utf-8")
    return result


def write_search(session: Session, result: SearchResult, output: Path, *, overwrite: bool) -> None:
    """Write ``schedule.json``, ``trials.jsonl``, ``atp.json``, the recipe and figures."""
    with atomic_directory(output, overwrite_ok=overwrite) as work:
        _write_json(work / "schedule.json", result.schedule.to_dict())
        lines = "".join(json.dumps(trial.to_dict()) + "\n" for trial in result.trials)
        (work / "trials.jsonl").write_text(lines, encoding="utf-8")
        _figures(session, result, work)
        _write_common(session, result, work, result.to_json(), {})


def write_findings(session: Session, work: Path, name: str, data: Mapping[str, Any]) -> None:
    """Write what was found out about a model, with what atp says about it in ``atp.json``.

    Args:
        session: the model, and what all findings have in common.
        work: the directory.
        name: of the file that gets `data`.
        data: JSON-ready but for NaN and infinity.
    """
    text = json.dumps(without_non_finite(data), indent=2, allow_nan=False)
    (work / name).write_text(text + "\n", encoding="utf-8")
    recipe = session.recipe.portable()
    distribution = session.plugins.distribution(session.plugin)
    provenance = collect_provenance(seed=recipe.seed, plugin_distribution=distribution)
    provenance["model"] = session.loaded.provenance
    write_sidecar(work, Sidecar(recipe=recipe.model_dump(mode="json"), provenance=provenance))


def _write_common(
    session: Session,
    result: SearchResult,
    work: Path,
    report: Mapping[str, Any],
    metrics: Mapping[str, Any],
) -> None:
    # The recipe file repeats the run on this machine; what may be published names no folders.
    (work / "recipe.yaml").write_text(session.recipe.to_yaml(), encoding="utf-8")
    recipe = session.recipe.portable()
    distribution = session.plugins.distribution(session.plugin)
    provenance = {
        **collect_provenance(seed=recipe.seed, plugin_distribution=distribution),
        "model": session.loaded.provenance,
        "base_model": session.loaded.base_model,
        "command": recipe.command(),
    }
    if session.method().calibrated:
        calibration = session.calibration
        provenance["calibration"] = {
            "dataset": calibration.dataset,
            "fingerprint": calibration.fingerprint,
            "samples": calibration.samples,
            "unit": calibration.unit,
        }
    write_sidecar(
        work,
        Sidecar(
            recipe=recipe.model_dump(mode="json"),
            schedule=result.schedule.to_dict(),
            provenance=provenance,
            metrics=dict(metrics),
            trials=[trial.to_dict() for trial in result.trials],
            report={key: value for key, value in report.items() if key not in _ELSEWHERE},
        ),
    )


_ELSEWHERE = ("schedule", "trials", "metrics", "output")
"""Parts of a result that the sidecar keeps at its top level."""


def _figures(session: Session, result: SearchResult, work: Path) -> Sequence[Path]:
    shown: dict[str, Schedule] = {"uniform": session.allocate(Uniform(), session.chains)}
    label = result.schedule.allocation
    if result.beta is not None:
        label += f", β = {beta_text(result.beta)}"
    if result.beta != 0.0:
        shown[label] = result.schedule
    figures = [rates_figure(shown, work / f"rates{suffix}") for suffix in (".png", ".svg")]
    trials = [trial.to_dict() for trial in result.trials]
    for chain, curve in beta_curves(trials, result.beta).items():
        name = f"objective-{chain}" if chain else "objective"
        figures += [
            objective_figure(
                curve.trials,
                work / f"{name}{suffix}",
                result.objective,
                chosen=curve.chosen,
                higher_is_better=result.higher_is_better,
            )
            for suffix in (".png", ".svg")
        ]
    return figures


def _bytes(session: Session) -> int:
    """Estimate of what will be written: the weights, and a little beside them."""
    model = session.loaded.model
    tensors = {
        # Without numbers there is no address to tell tensors apart by.
        (t.untyped_storage().data_ptr() or id(t)): t.numel() * t.element_size()
        for t in model.parameters()
    }
    store = session.loaded.store
    written = 0 if store is None else store.replaced_bytes
    return max(sum(tensors.values()) - written, 0) + 50_000_000


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
