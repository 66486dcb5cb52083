"""Writing the trained model, and reading it again to make sure of its zeros."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
import yaml

from atp_core.checkpoint import (
    Sidecar,
    atomic_directory,
    collect_provenance,
    has_sidecar,
    read_sidecar,
    write_sidecar,
)
from atp_core.recipe import without_folders
from atp_core.records import LoadRequest, Source
from atp_core.session import Session

from ._card import tuned_card
from ._result import TuneResult
from ._settings import TuneSettings
from ._zeros import check_kept

__all__ = ["write_tuned"]

_DISTRIBUTION: Final = "atp-prune-tune"
# What `atp prune` wrote and is still true; measurements of the old weights are not.
_CARRIED: Final = re.compile(r"recipe\.yaml|(rates|objective)[\w.-]*\.(png|svg)")


def write_tuned(
    session: Session,
    settings: TuneSettings,
    result: TuneResult,
    zeros: Mapping[str, torch.Tensor],
    *,
    overwrite: bool,
) -> None:
    """Write the model as its plugin does, ``atp.json`` and a model card.

    Args:
        session: the trained model.
        settings: how it was trained.
        result: what training did.
        zeros: of the model before, which those of the written one must hold.
        overwrite: replace an output of ours.

    Raises:
        ModelError: a zero was lost; nothing is written then.
    """
    loaded = session.loaded
    tensors = [*loaded.model.parameters(), *loaded.model.buffers()]
    needed = sum(one.numel() * one.element_size() for one in tensors) + 10_000_000
    with atomic_directory(
        result.output, overwrite_ok=overwrite, needed_bytes=needed
    ) as work:
        session.save(work)
        _verify(session, work, zeros)
        source = session.source.path
        if source is not None and source.is_dir() and has_sidecar(source):
            for file in sorted(source.iterdir()):
                if _CARRIED.fullmatch(file.name) and not (work / file.name).exists():
                    shutil.copyfile(file, work / file.name)
            sidecar = read_sidecar(source)
        else:
            sidecar = Sidecar(provenance={"model": loaded.provenance})
        command = _command(session, settings)
        write_sidecar(work, _with_tuning(sidecar, session, settings, result, command))
        (work / "README.md").write_text(
            tuned_card(_card_of(source, session), result, settings, command), encoding="utf-8"
        )


def _verify(session: Session, work: Path, zeros: Mapping[str, torch.Tensor]) -> None:
    """Read back what was written, as anyone would, and compare zeros."""
    plugins, recipe = session.plugins, session.recipe
    loaded = plugins.caller("atp_load", session.plugin)(
        source=Source(str(work)),
        request=LoadRequest(trust_remote_code=recipe.trust_remote_code),
    )
    chains = plugins.caller("atp_locate", session.plugin)(loaded=loaded)
    check_kept(zeros, chains, "the model as it was written")


def _with_tuning(
    sidecar: Sidecar,
    session: Session,
    settings: TuneSettings,
    result: TuneResult,
    command: str,
) -> Sidecar:
    told = result.to_json()
    recipe = session.recipe.portable()
    tuning = {
        "settings": _told(settings),
        "data": {
            "dataset": without_folders(result.dataset),
            "samples": result.samples,
            "seqlen": recipe.seqlen,
            "calibration": recipe.calibration,
            "report_data": recipe.report_data,
        },
        "steps": result.steps,
        "trained_parameters": result.trained,
        "losses": told["losses"],
        "sparsity_before": result.sparsity_before,
        "sparsity_achieved": result.sparsity,
        "metrics": told["metrics"],
        "comparisons": told["comparisons"],
        "notes": told["notes"],
        "source": without_folders(result.source),
        "command": command,
        "provenance": collect_provenance(seed=recipe.seed, plugin_distribution=_DISTRIBUTION),
    }
    data = sidecar.model_dump(mode="python")
    data["tuning"] = tuning
    if result.metrics:
        # "pruned" stays what pruning gave, and this is the model at hand.
        data["metrics"] = {**data["metrics"], "tuned": told["metrics"]["after"]}
    return Sidecar.model_validate(data)


def _told(settings: TuneSettings) -> dict[str, Any]:
    """Settings as they were used, defaults spelt out."""
    told: dict[str, Any] = {
        "mode": settings.mode,
        "batch": settings.batch,
        "lr": settings.learning_rate,
        "weight_decay": settings.weight_decay,
        "biases": settings.biases,
        "norms": settings.norms,
    }
    if settings.mode == "lora":
        told |= {"rank": settings.lora_rank, "alpha": settings.lora_alpha}
    if settings.teacher is not None:
        told |= {
            "teacher": without_folders(settings.teacher),
            "teacher_weight": settings.share,
        }
    return told


_DATA: Final = (
    *("calibration", "report_data", "samples", "report_samples", "classes", "templates"),
    *("seqlen", "chains", "seed", "device", "dtype", "plugin", "revision", "trust_remote_code"),
    "output",
)


def _command(session: Session, settings: TuneSettings) -> str:
    """The command line that repeats the training, without folders of this machine."""
    recipe = session.recipe.portable()
    words = ["atp", "tune", recipe.source]
    for name in ("mode", "steps", "epochs", "lr", "batch", "rank", "alpha", "weight_decay",
                 "teacher", "teacher_weight"):  # fmt: skip
        value = getattr(settings, name)
        if value != getattr(TuneSettings(), name):
            text = without_folders(value) if name == "teacher" else str(value)
            words += ["--" + name.replace("_", "-"), text]
    for name, option in (("biases", "--biases"), ("norms", "--norms"), ("measure", "--eval")):
        words += [option] if getattr(settings, name) else []
    return shlex.join([*words, *recipe.options(_DATA)])


def _card_of(source: Path | None, session: Session) -> str:
    """The model card of the pruned model, or the front matter of one where it has none."""
    if source is not None and source.is_dir() and (source / "README.md").is_file():
        return (source / "README.md").read_text(encoding="utf-8")
    loaded = session.loaded
    matter = {"base_model": loaded.base_model, **loaded.card, "tags": ["pruned", "sparse", "atp"]}
    front = yaml.safe_dump(
        {key: value for key, value in matter.items() if value is not None},
        sort_keys=False,
        allow_unicode=True,
    )
    name = loaded.base_model or without_folders(session.source.text)
    return f"---\n{front}---\n\n# {name}, pruned\n"
