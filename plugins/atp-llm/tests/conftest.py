"""Models and text for the tests: tiny random ones made here, real ones from ``ATP_SHARED``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import atp_llm
from atp_core.records import LoadedModel, LoadRequest, Source
from atp_llm import _examples
from atp_llm._examples import byte_tokenizer as make_tokenizer


def _in_memory(model: Any, processor: Any = None) -> LoadedModel:
    """`model` as core hands it to the hooks."""
    source = Source(type(model).__name__, model=model, processor=processor or make_tokenizer())
    return atp_llm.atp_load(source, LoadRequest())


@pytest.fixture
def llama_directory(tmp_path: Path) -> Path:
    """A tiny Llama with its tokenizer, as `save_pretrained` writes it."""
    directory = tmp_path / "llama"
    _examples.tiny_llama().save_pretrained(directory)
    make_tokenizer().save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def stories(shared: Callable[[str], Path]) -> LoadedModel:
    """The TinyStories model, trained, with 260,000 parameters."""
    return atp_llm.atp_load(Source(str(shared("models/stories260k"))), LoadRequest())


@pytest.fixture
def story_file(tmp_path: Path) -> Path:
    """60 stories as JSON lines, about 300 characters each."""
    import json

    names, things = ["Lily", "Tom", "Sue", "Ben", "Mia", "Max"], ["ball", "cat", "tree", "boat"]
    moods = ["happy", "sad", "big", "red", "small"]
    lines = []
    for i in range(60):
        name, thing, mood = names[i % 6], things[i % 4], moods[i % 5]
        text = (
            f"Once upon a time, there was a little girl named {name}. She had {i + 2} toys and a "
            f"{mood} {thing}. One day, {name} went to the park with her mom. They saw a {thing} "
            f'and {name} said, "Look, mom! What a {mood} {thing}!" Her mom smiled and said, "Yes, '
            f'it is very {mood}." They played all day and {name} was very happy.'
        )
        lines.append(json.dumps({"text": text}))
    path = tmp_path / "stories.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


# Fixtures, not imports: with pytest's importlib mode, test files cannot import one another.


@pytest.fixture(scope="session")
def byte_tokenizer() -> Callable[[], Any]:
    """Makes a tokenizer with one token a byte."""
    return make_tokenizer


@pytest.fixture(scope="session")
def tiny_llama() -> Callable[..., Any]:
    """Makes a random Llama."""
    return _examples.tiny_llama


@pytest.fixture(scope="session")
def tiny_t5() -> Callable[[], Any]:
    """Makes a random T5."""
    return _examples.tiny_t5


@pytest.fixture(scope="session")
def tiny_mixtral() -> Callable[[], Any]:
    """Makes a random Mixtral."""
    return _examples.tiny_mixtral


@pytest.fixture(scope="session")
def in_memory() -> Callable[..., LoadedModel]:
    """Loads a model that is in memory already."""
    return _in_memory
