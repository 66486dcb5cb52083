"""Calibration batches: questions about images with their answers, or windows of text."""

from __future__ import annotations

from typing import Any

from atp_core.errors import DataError, ModelError
from atp_core.records import Calibration, DataRequest, LoadedModel

from ._inputs import Encoder, Inputs, batched, extended, moved
from ._parts import check_settings, file_for, part_for, spec_for
from ._prompt import Prompts, answer_ids
from ._text import windows_for

__all__ = ["calibrate", "check_decoder"]

_BATCH = 8  # at least so many questions of equal shapes go through together


def calibrate(loaded: LoadedModel, data: DataRequest) -> Calibration:
    """Prompts with image and answer (or text alone), and the forward call.

    Raises:
        DataError: there is no calibration data, or it is unfit.
        UsageError: a setting has no effect on the data.
        ModelError: the model has no processor, or its text goes through an encoder of its own.
    """
    check_decoder(loaded)
    spec = spec_for(loaded, data, "calibration")
    if spec is None:
        raise DataError(
            f"{loaded.source.text} needs calibration data: give --calibration FILE.jsonl with "
            '"image", "question" and "answer" in every line'
        )
    check_settings(loaded, data)
    file = file_for(spec)
    size = max(data.batch_size, _BATCH)
    if file is None:
        windows = windows_for(loaded, data, "calibration", spec)
        inputs = [(i, {"input_ids": row[None]}) for i, row in enumerate(windows.ids)]
        unit = f"sequences of {windows.ids.shape[1]} tokens"
        dataset, digest, examples = windows.dataset, windows.fingerprint, windows.examples
    else:
        part = part_for(loaded, data, "calibration", spec, file)
        encoder = Encoder(loaded, Prompts(loaded, data))
        inputs = []
        with loaded.progress.task("reading images", len(part.questions)) as advance:
            for i, question in enumerate(part.questions):
                prompt, encoded = encoder(question)
                ids = encoded["input_ids"][0].tolist()
                answer = answer_ids(encoder.tokenizer, prompt, ids, question.answer)
                inputs.append((i, extended(encoded, answer)))
                advance("")
        unit = "questions with image and answer"
        dataset, digest, examples = part.dataset, part.fingerprint, part.examples
    batches = list(batched(inputs, size))
    model = loaded.model

    def forward(batch: Inputs) -> Any:
        return model(**moved(batch, model), use_cache=False)

    return Calibration(
        batches=[batch for _, batch in batches],
        forward=forward,
        samples=len(inputs),
        unit=unit,
        dataset=dataset,
        fingerprint=digest,
        examples=examples,
        batch_samples=[len(keys) for keys, _ in batches],
    )


def check_decoder(loaded: LoadedModel) -> None:
    """Refuse models whose prompt goes through an encoder.

    Raises:
        ModelError: the model is one.
    """
    if getattr(loaded.model.config, "is_encoder_decoder", False) or getattr(
        getattr(loaded.model.config, "text_config", None), "is_encoder_decoder", False
    ):
        raise ModelError(
            f"{type(loaded.model).__name__} is an encoder-decoder model: it can be inspected, but "
            "calibrating and measuring it is not supported"
        )
