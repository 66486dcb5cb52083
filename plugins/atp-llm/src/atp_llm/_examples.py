"""Tiny random language models that show the plugin at work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from atp_core.records import DataRequest, Source
from atp_core.testing import Example

from ._quiet import quiet

__all__ = ["byte_tokenizer", "llama", "mixtral", "t5", "tiny_llama", "tiny_mixtral", "tiny_t5"]

_DATA = DataRequest(samples=6, search_samples=4, report_samples=4, seqlen=32)

# Its constructors are typed for arguments that are written out, and here they come in tables.
hf: Any = transformers


def byte_tokenizer() -> Any:
    """A tokenizer with one token a byte: 256 of them, then <s> and </s>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: i for i, symbol in enumerate([*alphabet, "<s>", "</s>"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>"
    )


def tiny_llama(**changes: Any) -> Any:
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
    return hf.LlamaForCausalLM(hf.LlamaConfig(**{**settings, **changes})).eval()


def tiny_t5(**changes: Any) -> Any:
    """A random T5: 1 block each, 258 tokens."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "vocab_size": 258,
        "d_model": 16,
        "d_kv": 4,
        "d_ff": 32,
        "num_layers": 1,
        "num_heads": 4,
        "decoder_start_token_id": 0,
        "tie_word_embeddings": False,
    }
    config = hf.T5Config(**{**settings, **changes})
    return hf.T5ForConditionalGeneration(config).eval()


def tiny_mixtral() -> Any:
    """A random Mixtral: 2 blocks of 4 experts."""
    torch.manual_seed(0)
    config = hf.MixtralConfig(
        vocab_size=258,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        max_position_embeddings=64,
    )
    return hf.MixtralForCausalLM(config).eval()


def llama(directory: Path) -> Example:
    """A Llama in bfloat16, as most checkpoints are."""
    made = tiny_llama(num_hidden_layers=3, tie_word_embeddings=True).to(torch.bfloat16)
    return _example(directory, made, "AutoModelForCausalLM")


def mixtral(directory: Path) -> Example:
    """A mixture of experts, whose weights are fused into 3-D tensors."""
    return _example(directory, tiny_mixtral(), "AutoModelForCausalLM")


def t5(directory: Path) -> Example:
    """An encoder and a decoder: two chains."""
    return _example(directory, tiny_t5(num_layers=2), "AutoModelForSeq2SeqLM")


def _example(directory: Path, model: Any, loader: str) -> Example:
    with quiet():
        model.save_pretrained(directory)
    byte_tokenizer().save_pretrained(directory)
    return Example(
        Source(str(directory)),
        _DATA,
        alone=(
            f"import transformers; model = transformers.{loader}.from_pretrained(directory, "
            'dtype="auto")'
        ),
        unsupported=[Source("GPT2Model", model=_headless())],
    )


def _headless() -> Any:
    """A language model without a head, which has no perplexity."""
    with quiet():
        config = hf.GPT2Config(
            vocab_size=258, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
        )
        return hf.GPT2Model(config).eval()
