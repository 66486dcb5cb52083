"""Recovery training from a pruned directory to a trained one."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch

from atp_core.checkpoint import check_target
from atp_core.errors import AtpError, UsageError
from atp_core.progress import Progress
from atp_core.recipe import Recipe
from atp_core.records import Source
from atp_core.session import Session
from atp_core.trials.journal import Journal, journal_beside

from ._adapters import check_peft
from ._attached import attach
from ._measure import compared, measured, metrics_of
from ._objective import objective_for
from ._result import TuneResult
from ._samples import Samples, read_samples
from ._settings import Mode, TuneSettings
from ._train import check_device, train
from ._write import write_tuned
from ._zeros import check_kept, share_of, zeros_of

__all__ = ["tune"]

_CHECKPOINT: Final = "checkpoint/"
_BEFORE: Final = "before"


def tune(
    source: str | Path,
    *,
    output: str | Path,
    mode: Mode = "lora",
    steps: int | None = None,
    epochs: float | None = None,
    lr: float | None = None,
    batch: int = 8,
    rank: int | None = None,
    alpha: float | None = None,
    weight_decay: float = 0.0,
    biases: bool = False,
    norms: bool = False,
    teacher: str | Path | None = None,
    teacher_weight: float | None = None,
    save_every: int | None = None,
    evaluate: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> TuneResult:
    """Train a pruned model so that it recovers, with every zero kept.

    It is trained on the calibration part of the data, never on what β was searched or results are
    reported on. It stays in eval mode: no dropout, and statistics of batch normalization as they
    are. In half precision, what is trained is kept in float32, and the model computes with it
    rounded, so that what is saved is what was trained.

    Args:
        source: the pruned model: a directory that `atp prune` wrote, or any other source.
        output: directory to write.
        mode: "lora" trains masked low-rank updates of the prunable weights, "full" all kept ones.
        steps: optimizer steps.
        epochs: passes over the samples instead; without either, one.
        lr: peak of the learning rate, which falls linearly to 0 after a twentieth of the steps;
            1e-3 for "lora" and 2e-4 for "full" where it is not given.
        batch: samples a step.
        rank: of the low-rank updates; 16.
        alpha: they are scaled by alpha / rank; 2 · rank.
        weight_decay: of AdamW.
        biases: train biases too.
        norms: train the parameters of normalizations too.
        teacher: a model whose outputs are learned too, usually the dense one.
        teacher_weight: share of the teacher in the loss; 0.5.
        save_every: steps between checkpoints; a tenth of all.
        evaluate: measure on the report split, before and after.
        resume: take up the interrupted training that was writing `output`.
        overwrite: replace an output of ours, and start over where a training was interrupted.
        progress: where long steps are shown.
        **settings: fields of `atp_core.Recipe`: calibration, report_data, samples, seqlen,
            chains, seed, device, dtype…

    Raises:
        AtpError: anything that is wrong with the request, the model or the data.
    """
    asked = TuneSettings(
        mode=mode,
        steps=steps,
        epochs=epochs,
        lr=lr,
        batch=batch,
        rank=rank,
        alpha=alpha,
        weight_decay=weight_decay,
        biases=biases,
        norms=norms,
        teacher=None if teacher is None else str(teacher),
        teacher_weight=teacher_weight,
        save_every=save_every,
        measure=evaluate,
    )
    if asked.mode == "lora":
        check_peft()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("atp tune trains in one process; start it without torchrun or its like")
    target = Path(output)
    if target.exists() and Path(source).exists() and target.samefile(source):
        raise UsageError(f"{output} is the source itself; choose another output directory")
    check_target(target, overwrite_ok=overwrite)
    recipe = Recipe.make(
        {
            "batch_size": batch,
            **settings,
            "source": str(source),
            "output": str(output),
            "sparsity": 0.0,
        }
    )
    if recipe.max_memory is not None:
        raise UsageError("training takes the whole model in memory; leave out max_memory")
    with Session(recipe, Source(str(source)), progress=progress) as session:
        return _Tuning(session, asked, target).run(resume=resume, overwrite=overwrite)


class _Tuning:
    """One training: a model, its data, and where it goes."""

    def __init__(self, session: Session, settings: TuneSettings, output: Path) -> None:
        self._began = time.perf_counter()
        self._session, self._settings, self._output = session, settings, output
        self._folder = output.parent / f".{output.name}.atp-work" / "tune"
        if session.device is not None:
            check_device(session.device)

    def run(self, *, resume: bool, overwrite: bool) -> TuneResult:
        session = self._session
        chains = session.locate(session.loaded, every=True)
        zeros = zeros_of(chains, session.source.text)
        samples = read_samples(session, self._settings)
        steps = self._settings.total_steps(len(samples))
        with journal_beside(
            self._output,
            "tune.jsonl",
            lambda: self._identity(samples),
            worth=_CHECKPOINT,
            resume=resume,
            overwrite=overwrite,
        ) as journal:
            if not resume:
                self._discard()
            try:
                result = self._train_and_write(journal, zeros, samples, steps, overwrite)
            except AtpError:
                if not journal.has(_CHECKPOINT):
                    self._discard()
                raise
            self._discard()
        return result

    def _train_and_write(
        self,
        journal: Journal,
        zeros: Mapping[str, torch.Tensor],
        samples: Samples,
        steps: int,
        overwrite: bool,
    ) -> TuneResult:
        session, settings = self._session, self._settings
        before = self._measured(samples, journal, _BEFORE)
        losses, trained = self._trained(journal, samples, steps)
        chains = session.locate(session.loaded, every=True)
        check_kept(zeros, chains, "the trained model")
        after = self._measured(samples, None, "after")
        metrics = {}
        if before is not None and after is not None:
            metrics = {"before": metrics_of(before), "after": metrics_of(after)}
        now = {
            weight.name: weight.matrix() == 0
            for chain in chains
            for block in chain.blocks
            for weight in block.weights
        }
        result = TuneResult(
            source=session.source.text,
            plugin=session.plugin,
            mode=settings.mode,
            steps=steps,
            dataset=samples.dataset,
            samples=len(samples),
            trained=trained,
            losses=losses,
            sparsity_before=share_of(zeros),
            sparsity=share_of(now),
            metrics=metrics,
            comparisons=[]
            if before is None or after is None
            else compared(after, before, session.recipe.seed),
            seconds=time.perf_counter() - self._began,
            output=self._output,
            notes=samples.notes,
        )
        write_tuned(session, settings, result, zeros, overwrite=overwrite)
        return result

    def _measured(
        self, samples: Samples, journal: Journal | None, key: str
    ) -> Mapping[str, Any] | None:
        if not self._settings.measure:
            return None
        known = None if journal is None else journal.get(key)
        if known is None:
            known = measured(self._session, samples)
            if journal is not None:
                journal.put(key, known)
        return known

    def _trained(
        self, journal: Journal, samples: Samples, steps: int
    ) -> tuple[list[float], int]:
        """Train the model of the session; the losses, and how many parameters were trained."""
        session, settings, seed = self._session, self._settings, self._session.recipe.seed
        model = session.loaded.model
        home = next(model.parameters()).device
        device = session.device or home
        checkpoint, done = self._checkpoint(journal)
        objective = objective_for(session, samples, settings)
        attached = attach(model, session.chains, settings, seed)
        count = attached.parameters
        model.to(device)
        attached.to(device)
        try:
            with (
                torch.random.fork_rng(devices=[]),
                session.progress.task(f"training ({settings.mode})", steps) as advance,
            ):
                for _ in range(done):
                    advance("")
                losses = train(
                    attached,
                    objective,
                    settings,
                    samples=len(samples),
                    steps=steps,
                    seed=seed,
                    device=device,
                    folder=self._folder,
                    checkpoint=checkpoint,
                    saved=lambda step: journal.put(f"{_CHECKPOINT}{step}", {"step": step}),
                    advance=advance,
                    drop_last=samples.kind == "pairs",
                )
        except torch.OutOfMemoryError as error:
            raise AtpError(
                f"training does not fit on {device}: {str(error).splitlines()[0]} Use a smaller "
                "--batch or --seqlen, or --device cpu."
            ) from error
        attached.merge()
        model.to(home)
        return list(losses), count

    def _checkpoint(self, journal: Journal) -> tuple[Path | None, int]:
        """The last complete checkpoint and its step."""
        steps = [
            int(entry["step"])
            for key, entry in journal.entries().items()
            if key.startswith(_CHECKPOINT)
        ]
        for step in sorted(steps, reverse=True):
            path = self._folder / f"checkpoint-{step}"
            if path.is_dir():
                return path, step
        return None, 0

    def _discard(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _identity(self, samples: Samples) -> dict[str, Any]:
        """What must be equal for two trainings to be the same one."""
        session, settings = self._session, self._settings
        packages = ("accelerate", "atp-prune", "peft", "torch", "transformers")
        used = [name for name in packages if name != "peft" or settings.mode == "lora"]
        return {
            **session.recipe.model_dump(mode="json", exclude={"output"}),
            **{f"tune {name}": value for name, value in vars(settings).items()},
            "plugin": session.plugin,
            "data": samples.fingerprint,
            "model": session.loaded.provenance,
            **{name: version(name) for name in used},
        }
