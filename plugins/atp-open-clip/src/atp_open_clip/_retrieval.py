"""Retrieval between images and their captions, and the loss such models are trained with."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from atp_core.data import digest_of
from atp_core.errors import DataError
from atp_core.measuring import Figure, distinct, mean_figure, share_figure
from atp_core.records import DataRequest, LoadedModel, Split

from ._clip import Clip
from ._data import Part, fingerprint
from ._features import Features, image_features, text_features
from ._measured import Measured

__all__ = ["contrastive_losses", "recalls", "retrieval"]

_BATCH = 64
_RANKS = (1, 5, 10)


def retrieval(
    loaded: LoadedModel, clip: Clip, data: DataRequest, part: Part, split: Split
) -> Measured:
    """Rank all texts for every image, and all images for every text.

    Equal texts count as one, which is right for every image that has it.

    Raises:
        DataError: there are fewer than two images or texts, or an image cannot be read.
        NumericalError: features are not finite.
    """
    texts = list(dict.fromkeys(text for one in part.examples for text in one.captions))
    if len(part.examples) < 2 or len(texts) < 2:
        raise DataError(
            f"{part.name} has {len(part.examples)} images with {len(texts)} different captions; "
            "retrieval needs two or more of both"
        )
    features = Features(
        image_features(loaded, clip, data, part, "retrieval"),
        text_features(clip, texts),
        clip.scale,
        clip.bias,
    )
    place = {text: i for i, text in enumerate(texts)}
    owned = [[place[text] for text in one.captions] for one in part.examples]
    first = [texts_of_image[0] for texts_of_image in owned]
    losses, size = contrastive_losses(features, torch.tensor(first))
    identities = [one.image.identity for one in part.examples]
    ids = distinct(identities)
    loss = {"contrastive_loss": mean_figure(losses, ids, "nats")}
    found = recalls(features, owned, ids, [digest_of(text.encode()) for text in texts])
    return Measured(
        figures={**loss, **found} if split == "search" else {**found, **loss},
        features=features,
        images=ids,
        fingerprint=fingerprint(identities, [one.captions for one in part.examples]),
        convention=(
            f"{len(part.examples)} images, {len(texts)} different captions, equal ones counted "
            f"once; loss over batches of {size} images, each with its first caption"
        ),
    )


def recalls(
    features: Features, owned: list[list[int]], images: Sequence[str], texts: Sequence[str]
) -> dict[str, Figure]:
    """Recall at 1, 5 and 10, in both directions, of as many as there is a choice of.

    Args:
        features: of all images and all different texts.
        owned: for each image the texts that are right for it.
        images: identity of each image.
        texts: identity of each text.
    """
    right = torch.zeros(len(features.images), len(features.texts), dtype=torch.bool)
    for image, own in enumerate(owned):
        right[image, own] = True
    to_text = _best_ranks(features.images, features.texts, right)
    to_image = _best_ranks(features.texts, features.images, right.T)
    found = {}
    for name, ids, ranks, choices in (
        ("image_to_text_recall", images, to_text, len(texts)),
        ("text_to_image_recall", texts, to_image, len(images)),
    ):
        for k in (k for k in _RANKS if k < choices):
            found[f"{name}@{k}"] = share_figure((ranks < k).tolist(), ids)
    return found


def _best_ranks(queries: torch.Tensor, choices: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """How many wrong choices are as similar to each query as the best of its right ones, or more.

    A tie counts against the model: where all outputs are the same, nothing is found.
    """
    ranks = []
    for start in range(0, len(queries), 1024):
        similarity = queries[start : start + 1024] @ choices.T
        own = right[start : start + 1024]
        best = similarity.masked_fill(~own, -torch.inf).amax(1)
        ranks.append(((similarity >= best[:, None]) & ~own).sum(1))
    return torch.cat(ranks)


def contrastive_losses(features: Features, text_of: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Symmetric InfoNCE of each image with its text, within fixed batches of about 64.

    Where two images of a batch have the same text, either is right for it.

    Args:
        features: of all images and all different texts.
        text_of: for each image the number of its text.

    Returns:
        The losses in nats, shape (images,), and the size of a batch.
    """
    count = len(text_of)
    batches = max(1, round(count / _BATCH))
    losses = []
    for rows in torch.tensor_split(torch.arange(count), batches):
        texts = text_of[rows]
        part = Features(
            features.images[rows], features.texts[texts], features.scale, features.bias
        )
        logits = part.logits()
        same = texts[:, None] == texts[None, :]
        sides = [
            side.masked_fill(~same, -torch.inf).logsumexp(1) - side.logsumexp(1)
            for side in (logits, logits.T)
        ]
        losses.append(-(sides[0] + sides[1]) / 2)
    return torch.cat(losses), round(count / batches)
