"""Training by transformers' `Trainer`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from torch.nn.utils import parametrize
from torch.utils.data import Dataset
from transformers.trainer_callback import PrinterCallback

from atp_core.errors import NumericalError, UsageError
from atp_core.progress import Advance

from ._attached import Attached
from ._objective import Objective
from ._quiet import quiet
from ._settings import TuneSettings

__all__ = ["check_device", "train"]

# Its classes are typed for arguments that are written out, and here they come in tables.
hf: Any = transformers


def check_device(device: torch.device) -> None:
    """Make sure that `Trainer` would train there too.

    Raises:
        UsageError: it takes the first GPU only.
    """
    if device.type == "cuda" and device.index not in (None, 0):
        raise UsageError(
            f"training takes the first GPU that it sees; for {device}, set CUDA_VISIBLE_DEVICES="
            f"{device.index} and give --device cuda"
        )


class _Trainee(nn.Module):
    """What `Trainer` sees: the parameters that are trained, and nothing else of the model.

    So its checkpoints hold these alone, as safetensors.
    """

    def __init__(self, trained: Mapping[str, nn.Parameter], objective: Objective) -> None:
        super().__init__()
        for name, parameter in trained.items():
            self.register_parameter(name.replace(".", "/"), parameter)
        self._objective = objective

    def forward(self, index: torch.Tensor) -> dict[str, torch.Tensor]:
        """The loss of the samples with these numbers, shape (batch,)."""
        with parametrize.cached():
            loss = self._objective(index.tolist())
        if not bool(torch.isfinite(loss)):
            raise NumericalError(
                f"the loss became {float(loss.detach())}; lower --lr, or give --dtype float32"
            )
        return {"loss": loss}


class _Numbers(Dataset[int]):
    """The numbers of the samples."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> int:
        return index


class _Follow(transformers.TrainerCallback):
    """Keeps zeros after each step, shows how far training is, and tells of checkpoints."""

    def __init__(
        self, attached: Attached, advance: Advance, saved: Callable[[int], None]
    ) -> None:
        self._attached, self._advance, self._saved = attached, advance, saved
        self.loss = math.nan

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Reapply the mask: momentum and weight decay may have moved what is pruned."""
        self._attached.mask()

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Show the step."""
        losses = _losses(state)
        self._advance(f"loss {losses[-1]:.4g}" if losses else "")

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Tell that a checkpoint is complete."""
        self._saved(state.global_step)


def _losses(state: Any) -> list[float]:
    return [float(entry["loss"]) for entry in state.log_history if "loss" in entry]


def train(
    attached: Attached,
    objective: Objective,
    settings: TuneSettings,
    *,
    samples: int,
    steps: int,
    seed: int,
    device: torch.device,
    folder: Path,
    checkpoint: Path | None,
    saved: Callable[[int], None],
    advance: Advance,
    drop_last: bool,
) -> Sequence[float]:
    """Train what is attached to a model.

    Args:
        attached: what is trained, on `device`.
        objective: what is made small.
        settings: how.
        samples: that there are.
        steps: optimizer steps in all.
        seed: of the order of samples.
        device: where the model is.
        folder: for checkpoints.
        checkpoint: one of them to go on from.
        saved: called with the step of each complete checkpoint.
        advance: called after each step.
        drop_last: leave out an incomplete batch at the end of an epoch.

    Returns:
        The loss of every step.

    Raises:
        NumericalError: the loss is not finite.
    """
    every = settings.save_every or max(1, math.ceil(steps / 10))
    args = hf.TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=settings.batch,
        max_steps=steps,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        lr_scheduler_type="linear",
        warmup_steps=steps // 20,
        logging_steps=1,
        # A loss that is no number is an error here, not something to smooth over.
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        seed=seed,
        data_seed=seed,
        use_cpu=device.type == "cpu",
        dataloader_pin_memory=False,
        dataloader_drop_last=drop_last,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
    )
    # One process and one device: others would each train a copy.
    args._n_gpu = min(args.n_gpu, 1)
    follow = _Follow(attached, advance, saved)
    trainer = hf.Trainer(
        model=_Trainee(attached.trained, objective),
        args=args,
        train_dataset=_Numbers(samples),
        data_collator=lambda numbers: {"index": torch.tensor(numbers)},
        callbacks=[follow],
    )
    trainer.remove_callback(PrinterCallback)  # it writes to stdout
    with quiet():
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return _losses(trainer.state)
