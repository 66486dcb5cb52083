"""Writing a smaller model: what its own library needs to build it whole, and how it was cut.

::

    OUT/model/            config and tokenizer, as the model's plugin writes them; no weights
    OUT/slim.safetensors  the weights
    OUT/slim.json         sizes that changed, and what each block lost
    OUT/atp.json          recipe, schedule, metrics, provenance
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from atp_core._json import without_non_finite
from atp_core.checkpoint import (
    Sidecar,
    atomic_directory,
    check_target,
    collect_provenance,
    write_sidecar,
)
from atp_core.session import Session

from ._layout import MODEL, RECORD, VERSION, WEIGHTS
from ._result import SlimResult
from ._state import hidden_state

__all__ = ["check_output", "write", "write_weights"]

Written = Callable[[SlimResult, Mapping[str, Mapping[str, Any]]], None]


def check_output(output: Path, *, overwrite: bool) -> None:
    """Refuse an output directory that must not be written, before costly work begins.

    Raises:
        UsageError: it exists and is not ours, or holds an earlier output and `overwrite` is False.
    """
    check_target(output, overwrite_ok=overwrite)


@contextlib.contextmanager
def write(session: Session, output: Path | None, *, overwrite: bool) -> Iterator[Written]:
    """Write what surrounds the weights while the model is whole; the rest comes when it is cut.

    Args:
        session: its model is dense, at the start.
        output: the directory; None writes nothing.
        overwrite: replace an output of ours.

    Yields:
        A function of the result and the attributes that changed, to call once the units are gone.
    """
    if output is None:
        yield lambda result, attributes: None
        return
    loaded = session.loaded
    size = sum(value.numel() * value.element_size() for value in loaded.model.parameters())
    with atomic_directory(output, overwrite_ok=overwrite, needed_bytes=2 * size) as work:
        # Its plugin writes a model only whole; the weights among the files are of no use here.
        session.restore()
        place = work / MODEL
        place.mkdir()
        for file in session.save(place):
            file.unlink()
        for index in place.glob("*.safetensors.index.json"):
            index.unlink()

        def finish(result: SlimResult, attributes: Mapping[str, Mapping[str, Any]]) -> None:
            write_weights(loaded.model, work / WEIGHTS)
            record = {
                "version": VERSION,
                "plugin": session.plugin,
                "source": session.recipe.portable().source,
                "attributes": attributes,
                **{key: value for key, value in result.to_json().items() if key in _TOLD},
            }
            text = json.dumps(without_non_finite(record), indent=2, allow_nan=False)
            (work / RECORD).write_text(text + "\n", encoding="utf-8")
            _write_sidecar(session, result, work)

        yield finish


_TOLD = (
    "importance",
    "sparsity_target",
    "sparsity_achieved",
    "parameters_dense",
    "parameters",
    "blocks",
    "notes",
)


def write_weights(model: nn.Module, file: Path) -> None:
    """Write every tensor of a model once, those that no state dict holds among them."""
    tensors: dict[str, torch.Tensor] = {}
    seen: dict[tuple[int, tuple[int, ...], tuple[int, ...]], str] = {}
    shared: dict[str, str] = {}
    hidden = hidden_state(model)
    for name, value in {**model.state_dict(keep_vars=True), **hidden}.items():
        own = value.detach()
        key = (own.data_ptr(), tuple(own.shape), tuple(own.stride()))
        if own.numel() and key in seen:
            shared[name] = seen[key]
            continue
        seen[key] = name
        tensors[name] = own.to("cpu").contiguous()
    told = {"shared": json.dumps(shared), "hidden": json.dumps(sorted(hidden))}
    save_file(tensors, file, metadata={"format": "pt", **told})


def _write_sidecar(session: Session, result: SlimResult, work: Path) -> None:
    recipe = session.recipe.portable()
    # The recipe file repeats the run on this machine; what may be published names no folders.
    (work / "recipe.yaml").write_text(session.recipe.to_yaml(), encoding="utf-8")
    told = result.to_json()
    distribution = session.plugins.distribution(session.plugin)
    provenance = {
        **collect_provenance(seed=recipe.seed, plugin_distribution=distribution),
        "model": session.loaded.provenance,
        "base_model": session.loaded.base_model,
    }
    write_sidecar(
        work,
        Sidecar(
            recipe=recipe.model_dump(mode="json"),
            schedule=told["schedule"],
            provenance=provenance,
            metrics=told["metrics"],
            trials=told["trials"],
            report={key: told[key] for key in ("blocks", "notes", "importance")},
        ),
    )
