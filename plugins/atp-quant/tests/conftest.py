"""What the tests of this plugin share: a small trained Llama with data, and a tiny one."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

MISSING = [
    name
    for name in ("compressed_tensors", "transformers", "atp_llm")
    if importlib.util.find_spec(name) is None
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a package that is not there."""
    if MISSING:
        for item in items:
            if "atp-quant" in str(item.path):
                item.add_marker(pytest.mark.skip(reason=f"needs {', '.join(MISSING)}"))


@pytest.fixture
def text(tmp_path: Path) -> dict[str, Any]:
    """Settings with a little text of our own, for calibration and report."""
    line = "the cat sat on a mat and saw one dog run to them in sun rain snow"
    words = line.split()
    paths = {}
    for name, step in (("calibration", 3), ("report_data", 5)):
        lines = [
            " ".join(words[(i * step + j * j) % len(words)] for j in range(60)) for i in range(60)
        ]
        paths[name] = tmp_path / f"{name}.txt"
        paths[name].write_text("\n\n".join(lines), encoding="utf-8")
    return {
        **{name: str(path) for name, path in paths.items()},
        "seqlen": 32,
        "samples": 8,
        "search_samples": 4,
        "report_samples": 4,
    }


@pytest.fixture
def tiny_llama() -> Any:
    """A random Llama of 3 blocks, 32 features wide, and nothing to read text with."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM(config).eval()
