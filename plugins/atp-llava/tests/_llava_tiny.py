"""The plugin's tiny models and questions, and a model in memory as core hands it on."""

from __future__ import annotations

from typing import Any

import atp_llava
from atp_core.records import LoadedModel, LoadRequest, Source
from atp_llava._examples import KINDS, tiny, tokenizer, write_questions

__all__ = ["KINDS", "in_memory", "tiny", "tokenizer", "write_questions"]


def in_memory(model: Any, processor: Any = None) -> LoadedModel:
    """`model` as core hands it to the hooks."""
    source = Source(type(model).__name__, model=model, processor=processor)
    return atp_llava.atp_load(source, LoadRequest())
