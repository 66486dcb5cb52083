"""Models and text for the tests: tiny random ones made here, real ones from ``ATP_SHARED``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import atp_llm
from atp_core.records import LoadedModel, LoadRequest, Source


def _byte_tokenizer() -> Any:
    """A tokenizer with one token a byte: 256 of them, then <s> and </s>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: i for i, symbol in enumerate([*alphabet, "<s>", "</s>"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>"
    )


def _tiny_llama(**changes: Any) -> Any:
    """A random Llama: 2 blocks of width 16, 258 tokens, context 64."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "vocab_size": 258,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    }
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**settings, **changes})).eval()


def _tiny_t5() -> Any:
    """A random T5: 1 block each, 258 tokens."""
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=258, d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=4,
        decoder_start_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    return transformers.T5ForConditionalGeneration(config).eval()


def _tiny_mixtral() -> Any:
    """A random Mixtral: 2 blocks of 4 experts."""
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        vocab_size=258, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, num_local_experts=4,
        max_position_embeddings=64,
    )  # fmt: skip
    return transformers.MixtralForCausalLM(config).eval()


def _in_memory(model: Any, processor: Any = None) -> LoadedModel:
    """`model` as core hands it to the hooks."""
    source = Source(type(model).__name__, model=model, processor=processor or _byte_tokenizer())
    return atp_llm.atp_load(source, LoadRequest())


@pytest.fixture
def llama_directory(tmp_path: Path) -> Path:
    """A tiny Llama with its tokenizer, as `save_pretrained` writes it."""
    directory = tmp_path / "llama"
    _tiny_llama().save_pretrained(directory)
    _byte_tokenizer().save_pretrained(directory)
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
    return _byte_tokenizer


@pytest.fixture(scope="session")
def tiny_llama() -> Callable[..., Any]:
    """Makes a random Llama."""
    return _tiny_llama


@pytest.fixture(scope="session")
def tiny_t5() -> Callable[[], Any]:
    """Makes a random T5."""
    return _tiny_t5


@pytest.fixture(scope="session")
def tiny_mixtral() -> Callable[[], Any]:
    """Makes a random Mixtral."""
    return _tiny_mixtral


@pytest.fixture(scope="session")
def in_memory() -> Callable[..., LoadedModel]:
    """Loads a model that is in memory already."""
    return _in_memory
