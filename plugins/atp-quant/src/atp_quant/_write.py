"""Writing a quantized model: packed or dense, and what was done to it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from atp_core.checkpoint import Sidecar, atomic_directory, collect_provenance, write_sidecar
from atp_core.results import metrics_to_dict
from atp_core.session import Session

from ._blocks import Quantized
from ._pack import check_packed, pack
from ._request import SETTINGS, Request
from ._result import QuantizeResult

__all__ = ["SCALES", "write"]

SCALES = "quant-scales/scales.safetensors"
"""Scales and zero points of a dense output; in a folder of its own, where no loader looks."""


def write(
    session: Session,
    request: Request,
    done: Quantized,
    finish: Callable[[], QuantizeResult],
    output: Path,
    *,
    overwrite: bool,
) -> QuantizeResult:
    """Write the model as it stands, which appears at `output` complete or not at all.

    Args:
        session: the model.
        request: what was asked for.
        done: the codes.
        finish: gives the result so far.
        output: directory to write.
        overwrite: replace an output of ours.

    Returns:
        The result with the size of the weight files, and how the packed model compares.

    Raises:
        ModelError: transformers does not load what was packed, or loads another model.
    """
    result = finish()
    with atomic_directory(output, overwrite_ok=overwrite) as work:
        session.save(work)
        difference = None
        if result.format == "compressed-tensors":
            group_size = None if request.group_size == -1 else request.group_size
            pack(work, done.weights, group_size)
            with session.progress.task("loading it with transformers", 1) as advance:
                difference = check_packed(work, session.loaded, list(done.weights))
                advance("")
        else:
            _write_scales(work, done)
        size = sum(file.stat().st_size for file in work.glob("*.safetensors"))
        result = replace(result, bytes_on_disk=size, difference=difference, output=output)
        _describe(session, result, done, work)
    return result


def _write_scales(work: Path, done: Quantized) -> None:
    tensors: dict[str, torch.Tensor] = {}
    for name, weight in done.weights.items():
        tensors[f"{name}.scale"] = weight.scale.contiguous()
        if weight.zero is not None:
            tensors[f"{name}.zero_point"] = weight.zero.contiguous()
    (work / SCALES).parent.mkdir()
    save_file(tensors, work / SCALES)


def _describe(session: Session, result: QuantizeResult, done: Quantized, work: Path) -> None:
    data = result.to_json()
    # The sidecar keeps figures that may be no numbers; where the model lies is known to who reads.
    told = {k: v for k, v in data.items() if k not in ("metrics", "trials", "output", "seconds")}
    widths = {name: weight.bits for name, weight in done.weights.items()}
    text = json.dumps({**told, "weights": widths}, indent=2, allow_nan=False) + "\n"
    (work / "quant.json").write_text(text, encoding="utf-8")
    recipe = session.recipe.portable()
    write_sidecar(
        work,
        Sidecar(
            recipe=recipe.model_dump(mode="json", include={"source", *SETTINGS}),
            provenance={
                **collect_provenance(
                    seed=recipe.seed,
                    plugin_distribution=session.plugins.distribution(session.plugin),
                ),
                "model": session.loaded.provenance,
                "base_model": session.loaded.base_model,
            },
            metrics={who: metrics_to_dict(found) for who, found in result.metrics.items()},
            trials=data["trials"],
            report={"quantization": told},
        ),
    )
    (work / "README.md").write_text(_card(session, result), encoding="utf-8")


def _card(session: Session, result: QuantizeResult) -> str:
    base = session.loaded.base_model
    front = "".join(
        f"{key}: {value}\n"
        for key, value in (
            ("library_name", session.loaded.card.get("library_name")),
            ("license", session.loaded.card.get("license")),
            ("base_model", base),
        )
        if isinstance(value, str)
    )
    how = (
        "Packed in the format compressed-tensors, which transformers loads."
        if result.format == "compressed-tensors"
        else "Weights are dense and stand for codes of these widths: they take no less room."
    )
    rows = [
        f"| {name} | {who} | {metric.value:.4g} |"
        for who, found in result.metrics.items()
        for name, metric in found.items()
    ]
    table = "\n".join(["| metric | model | value |", "|---|---|---|", *rows]) if rows else ""
    lines = [
        f"# {base or 'A model'}, {result.bits:.2f} bits a weight",
        f"Quantized with atp-prune ({result.settings['method']}, {result.settings['allocation']} "
        f"bits by block): {result.bits:.3f} bits a weight on average, {result.stored_bits:.3f} "
        f"with scales, {result.sparsity:.1%} zeros. {how} `quant.json` has the bits of every "
        "block.",
        table,
    ]
    return f"---\n{front}---\n\n" + "\n\n".join(line for line in lines if line) + "\n"
