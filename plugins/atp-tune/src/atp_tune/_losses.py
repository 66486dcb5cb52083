"""What training makes small, for each kind of model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional

from atp_core.errors import ModelError

from ._samples import Kind

__all__ = ["contrastive", "distillation", "likelihood", "predictions"]

_IGNORED = -100


def predictions(
    kind: Kind, outputs: Any, batch: Any, targets: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What the model predicts, and what is right.

    Args:
        kind: "language" or "classes".
        outputs: of the model's forward.
        batch: what it ran on.
        targets: as in `Samples.targets`, joined.

    Returns:
        Logits, shape (predictions, choices), float32, and the right choice of each, shape
        (predictions,), or None where it is not known.

    Raises:
        ModelError: the model's outputs have another form.
    """
    if kind == "classes":
        if not isinstance(outputs, torch.Tensor) or outputs.dim() != 2:
            raise ModelError(
                "the model does not return one row of logits an image; only image classifiers "
                "are trained"
            )
        return outputs.float(), None if targets is None else targets.to(outputs.device)
    logits: torch.Tensor = outputs.logits
    if targets is None:
        targets = batch.get("decoder_input_ids", batch["input_ids"])
    assert targets is not None
    right = targets[:, 1:].to(logits.device)
    told = right != _IGNORED
    return logits[:, :-1][told].float(), right[told]


def likelihood(logits: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy, in nats."""
    return functional.cross_entropy(logits, right)


def distillation(logits: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Mean Kullback-Leibler divergence of the model from its teacher, in nats.

    At temperature 1 (Hinton et al., "Distilling the Knowledge in a Neural Network", 2015).

    Args:
        logits: of the model, shape (predictions, choices).
        teacher: of the teacher, same shape.
    """
    return functional.kl_div(
        logits.log_softmax(-1), teacher.log_softmax(-1), reduction="batchmean", log_target=True
    )


def contrastive(
    outputs: Any, texts: Mapping[str, torch.Tensor], *, sigmoid: bool
) -> torch.Tensor:
    """The loss that a CLIP model was trained with, on a batch of pairs.

    Cross entropy over the texts of an image and over the images of a text (Radford et al., ICML
    2021, fig. 3), or the pairwise sigmoid loss (Zhai et al., ICCV 2023, alg. 1). A text that
    occurs twice in a batch is right for the images of both.

    Args:
        outputs: of a model of open_clip or transformers.
        texts: of the batch, as the model takes them.
        sigmoid: take the sigmoid loss, for models with a bias of the logits (SigLIP).
    """
    logits = _similarities(outputs)
    ids = next(one for one in texts.values() if not one.is_floating_point()).to(logits.device)
    same = (ids[:, None] == ids[None]).flatten(2).all(-1)
    if sigmoid:
        sign = 2.0 * same.float() - 1.0
        return -functional.logsigmoid(sign * logits).sum() / len(logits)
    right = same.float() / same.sum(1, keepdim=True)
    to_text = functional.cross_entropy(logits, right)
    to_image = functional.cross_entropy(logits.T, right)
    return (to_text + to_image) / 2


def _similarities(outputs: Any) -> torch.Tensor:
    """Logits, shape (images, texts), float32."""
    found = getattr(outputs, "logits_per_image", None)
    if isinstance(found, torch.Tensor):  # of transformers
        return found.float()
    if isinstance(outputs, Mapping):  # of open_clip
        names = ("image_features", "text_features", "logit_scale", "logit_bias")
        outputs = [outputs.get(name) for name in names]
    if not isinstance(outputs, (tuple, list)) or len(outputs) < 3:
        raise ModelError(
            "the model returns no features of images and texts; only models such as CLIP are "
            "trained on pairs"
        )
    images, texts, scale, *bias = outputs
    logits: torch.Tensor = scale.float() * images.float() @ texts.float().T
    return logits + bias[0].float() if bias and bias[0] is not None else logits
