"""Chats: JSON lines with ``messages``, in the model's own chat template, answers marked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from atp_core.data import SHARES, digest_of, partition, read_jsonl, same_source, take
from atp_core.errors import DataError, ModelError
from atp_core.recipe import Recipe
from atp_core.records import LoadedModel

__all__ = ["Chat", "chat_samples", "is_chat"]

_IGNORED = -100
"""Label of a token that is not learned."""


@dataclass(frozen=True)
class Chat:
    """Chats as tokens.

    Attributes:
        ids: of each, shape (1, tokens).
        labels: the same, −100 where it is not the assistant who speaks.
        dataset: where they come from, for the user.
        fingerprint: hash of ids and labels.
        examples: identities of the chats.
        notes: what the user must know.
    """

    ids: list[torch.Tensor]
    labels: list[torch.Tensor]
    dataset: str
    fingerprint: str
    examples: frozenset[str]
    notes: list[str] = field(default_factory=list)


def is_chat(spec: str | None) -> bool:
    """Whether a calibration argument is a JSONL file whose first line has ``messages``."""
    if spec is None:
        return False
    path = Path(spec).expanduser()
    if path.suffix != ".jsonl" or not path.is_file():
        return False
    try:
        with path.open(encoding="utf-8-sig") as file:
            first = json.loads(next((line for line in file if line.strip()), "null"))
    except (OSError, ValueError):
        return False  # what reads the file tells what is wrong with it
    return isinstance(first, dict) and isinstance(first.get("messages"), list)


def chat_samples(loaded: LoadedModel, recipe: Recipe, wanted: int) -> Chat:
    """The chats of the calibration part, at most `wanted`, cut at `recipe.seqlen` tokens.

    The part is the one that the same file is cut into as plain text, so that the search split
    which β was chosen on stays untouched.

    Raises:
        DataError: a record is no chat, or none of the assistant's words are within reach.
        ModelError: the tokenizer has no chat template.
    """
    assert recipe.calibration is not None
    if getattr(loaded.processor, "chat_template", None) is None:
        raise ModelError(
            f"the tokenizer of {loaded.source.text} has no chat template, so {recipe.calibration} "
            'cannot be read as chats; give plain text, or records with "text"'
        )
    chats = [
        (number, _messages(record, f"{recipe.calibration}, line {number}"))
        for number, record in read_jsonl(recipe.calibration, ["messages"])
    ]
    shared = recipe.report_data is not None and same_source(
        recipe.calibration, recipe.report_data
    )
    parts = partition(chats, SHARES[shared], lambda one: _identity(one[1]), lambda one: _size(one))
    part = parts["calibration"]
    name = f"{Path(recipe.calibration).name}, calibration part"
    limit = recipe.seqlen or _context(loaded)
    ids, labels, examples = [], [], set()
    silent = 0
    for number, messages in take(part, wanted, seed=recipe.seed):
        tokens, spoken = _tokens(
            loaded.processor, messages, f"{recipe.calibration}, line {number}"
        )
        row, right = tokens[:limit], spoken[:limit]
        if not any(right[1:]):
            silent += 1
            continue
        ids.append(torch.tensor([row]))
        labels.append(
            torch.tensor([[t if s else _IGNORED for t, s in zip(row, right, strict=True)]])
        )
        examples.add(_identity(messages))
    if not ids:
        raise DataError(
            f"in {name}, the assistant says nothing within {limit} tokens of a chat; give chats "
            "with an assistant, or raise --seqlen"
        )
    notes = []
    if silent:
        notes.append(f"{silent} chats are left out: no answer in their first {limit} tokens")
    digest = digest_of(repr([(i.tolist(), k.tolist()) for i, k in zip(ids, labels, strict=True)])
                       .encode())[:16]  # fmt: skip
    return Chat(ids, labels, name, digest, frozenset(examples), notes)


def _messages(record: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    messages = record["messages"]
    if not isinstance(messages, list) or not messages:
        raise DataError(f'"messages" must be a list with a message or more in {where}')
    for message in messages:
        known = isinstance(message, dict) and isinstance(message.get("role"), str)
        if not known or not isinstance(message.get("content"), str):
            raise DataError(f'every message of {where} must have a "role" and a "content" of text')
    return messages


def _text(messages: Sequence[Mapping[str, Any]]) -> str:
    return "\n\n".join(text for message in messages if (text := message["content"]))


def _identity(messages: Sequence[Mapping[str, Any]]) -> str:
    return digest_of(_text(messages).strip().encode("utf-8", "surrogatepass"))


def _size(chat: tuple[int, Sequence[Mapping[str, Any]]]) -> int:
    return len(_text(chat[1]))


def _context(loaded: LoadedModel) -> int:
    found = getattr(getattr(loaded.model, "config", None), "max_position_embeddings", None)
    return min(found, 2048) if isinstance(found, int) and found > 0 else 2048


def _tokens(
    tokenizer: Any, messages: list[dict[str, Any]], where: str
) -> tuple[list[int], list[bool]]:
    """Tokens of a chat, and which of them the assistant says.

    A template with a ``generation`` block says it itself. For others, an answer is what the chat
    up to and with it has more than the chat before it with the prompt for an answer.

    Raises:
        DataError: the template rewrites what was said before.
    """
    if "{% generation" in tokenizer.chat_template or "{%- generation" in tokenizer.chat_template:
        found = tokenizer.apply_chat_template(
            messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        return list(found["input_ids"]), [bool(one) for one in found["assistant_masks"]]

    def tokens(upto: int, prompt: bool = False) -> list[int]:
        given = tokenizer.apply_chat_template(
            messages[:upto], tokenize=True, return_dict=True, add_generation_prompt=prompt
        )
        return list(given["input_ids"])

    whole = tokens(len(messages))
    spoken = [False] * len(whole)
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before, after = tokens(i, prompt=True) if i else [], tokens(i + 1)
        for one, other in pairwise((before, after, whole)):
            if other[: len(one)] != one:
                raise DataError(
                    f"the chat template changes earlier turns as a chat grows ({where}), so it is "
                    "not known which tokens are the assistant's; give it a generation block"
                )
        spoken[len(before) : len(after)] = [True] * (len(after) - len(before))
    return whole, spoken
