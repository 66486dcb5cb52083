"""The windows of text that a split is measured on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from atp_core.data import digest_of
from atp_core.errors import DataError
from atp_core.records import DataRequest, LoadedModel, Split

from ._calibrate import default_samples, default_search_samples
from ._inputs import inputs_for, is_encoder_decoder
from ._text import corpus_for, digest, spec_for
from ._windows import sample_windows, seqlen_for, token_ids, tokenizer_of

__all__ = ["MeasuredText", "measured_text"]


@dataclass(frozen=True)
class MeasuredText:
    """Windows of one split, and what is told about them.

    Attributes:
        ids: shape (windows, seqlen).
        names: identity of each window: where it stands, and a hash of its tokens.
        predicted: predicted tokens of each window.
        bytes: UTF-8 bytes of the predicted tokens.
        dataset: what the text is, for the user.
        convention: how it was cut.
        examples: identities of the documents.
    """

    ids: torch.Tensor
    names: Sequence[str]
    predicted: int
    bytes: int
    dataset: str
    convention: str
    examples: frozenset[str]


def measured_text(loaded: LoadedModel, data: DataRequest, split: Split) -> MeasuredText:
    """The windows of a split; tokenized once and kept.

    Report: the documents joined by blank lines, tokenized as one, cut into windows that do not
    overlap, the tail dropped. Search: windows sampled from the search part of the calibration
    text, the same at every call; max(8, half the calibration samples) unless asked otherwise.

    Raises:
        DataError: the text cannot be had, or is shorter than a window.
        ModelError: the model has no tokenizer.
    """
    seqlen = seqlen_for(loaded, data)
    specs = tuple(spec_for(loaded.source, data, name) for name in ("calibration", "report"))
    sizes = (data.samples, data.search_samples, data.report_samples, data.seed)
    key = ("atp_llm.windows", split, specs, sizes, seqlen)
    if key not in loaded.cache:
        make = _report_text if split == "report" else _search_text
        loaded.cache[key] = make(loaded, data, seqlen)
    found: MeasuredText = loaded.cache[key]
    return found


def _report_text(loaded: LoadedModel, data: DataRequest, seqlen: int) -> MeasuredText:
    corpus = corpus_for(loaded.source, data, "report")
    [tokens] = token_ids(tokenizer_of(loaded), ["\n\n".join(corpus.documents)])
    windows = len(tokens) // seqlen
    if windows == 0:
        raise DataError(
            f"{corpus.name} has {len(tokens):,} tokens, fewer than one window of {seqlen}; "
            "give more text with --report-data, or lower --seqlen"
        )
    ids = torch.tensor(tokens[: windows * seqlen]).view(windows, seqlen)
    convention = (
        f"non-overlapping windows of {seqlen} tokens over the '\\n\\n'-joined text, no BOS, "
        + _scored(loaded)
    )
    places: Sequence[int] = range(windows)
    asked = data.report_samples
    if asked is not None and asked < windows:
        chosen = torch.arange(asked) * windows // asked
        ids, places = ids[chosen], chosen.tolist()
        convention += f"; {asked} of {windows} windows, evenly spaced"
    examples = frozenset(digest(document) for document in corpus.documents if document.strip())
    return _made(loaded, ids, places, corpus.name, convention, examples)


def _search_text(loaded: LoadedModel, data: DataRequest, seqlen: int) -> MeasuredText:
    corpus = corpus_for(loaded.source, data, "search")
    samples = data.samples or default_samples(loaded, data)
    wanted = data.search_samples or default_search_samples(samples)
    windows = sample_windows(
        tokenizer_of(loaded),
        corpus.documents,
        count=wanted,
        at_least=data.search_samples or min(4, wanted),
        seqlen=seqlen,
        seed=data.seed,
        what=f"the search split ({corpus.name})",
        option="--search-samples",
    )
    if len(windows.ids) < wanted:
        loaded.progress.note(
            f"{corpus.name} gives {len(windows.ids)} search samples of {seqlen} tokens, "
            f"not the usual {wanted}"
        )
    scored = _scored(loaded)
    convention = f"{len(windows.ids)} sampled windows of {seqlen} tokens, no BOS, {scored}"
    places = range(len(windows.ids))
    return _made(loaded, windows.ids, places, corpus.name, convention, windows.examples)


def _made(
    loaded: LoadedModel,
    ids: torch.Tensor,
    places: Sequence[int],
    dataset: str,
    convention: str,
    examples: frozenset[str],
) -> MeasuredText:
    """Windows, shape (windows, seqlen), that stand at `places`, with what follows from them."""
    rows = zip(places, ids, strict=True)
    return MeasuredText(
        ids=ids,
        names=[f"{place}:{digest_of(row.numpy().tobytes())}" for place, row in rows],
        predicted=inputs_for(loaded.model, ids)[1].shape[1],
        bytes=_bytes(loaded, ids),
        dataset=dataset,
        convention=convention,
        examples=examples,
    )


def _scored(loaded: LoadedModel) -> str:
    if is_encoder_decoder(loaded.model):
        return "first half of a window to the encoder, second half predicted by the decoder"
    return "first token of a window not predicted"


def _bytes(loaded: LoadedModel, ids: torch.Tensor) -> int:
    """UTF-8 bytes of the predicted tokens: those of a window less those before the first one."""
    tokenizer = tokenizer_of(loaded)
    given = ids.shape[1] - inputs_for(loaded.model, ids)[1].shape[1]
    total = 0
    for row in ids.tolist():
        for part, sign in ((row, 1), (row[:given], -1)):
            text = tokenizer.decode(part, clean_up_tokenization_spaces=False)
            total += sign * len(text.encode("utf-8", "surrogatepass"))
    return total
