"""The model as lm-eval sees it."""

from __future__ import annotations

from typing import Any

from atp_core.errors import ModelError
from atp_core.evaluation.harness import library
from atp_core.records import LoadedModel

from ._quiet import quiet

__all__ = ["wrap"]


def wrap(loaded: LoadedModel, batch_size: int) -> Any:
    """The model in memory as lm-eval's ``hf-multimodal``, on the device where it is.

    Raises:
        ModelError: the model came without a processor.
        UsageError: lm-eval is not installed.
    """
    if loaded.processor is None:
        raise ModelError(
            f"{loaded.source.text} has no processor: put its files next to the model, or pass "
            "processor=PROCESSOR along with a model in memory"
        )
    multimodal: Any = library("lm_eval.models.hf_vlms").HFMultimodalLM

    class InMemory(multimodal):  # type: ignore[misc]
        """lm-eval's own class reads the processor from the hub, even where it is given one."""

        def _create_tokenizer(self, pretrained: Any, tokenizer: Any, **_: Any) -> None:
            self.processor, self.tokenizer = tokenizer, tokenizer.tokenizer

    device = next(loaded.model.parameters()).device
    with quiet():
        return InMemory(
            pretrained=loaded.model,
            tokenizer=loaded.processor,
            batch_size=batch_size,
            device=str(device),
        )
