"""`locate` on every language-model architecture that transformers knows.

All of them on the meta device; a real forward pass on the CPU for one of each kind. The script
`benchmarks/llm_architectures.py` runs the forward pass of all.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from atp_core.errors import ModelError
from atp_llm._locate import locate

sys.path.append(str(Path(__file__).parent))  # the helpers beside this file

from _consumed import check_forward, check_pruning
from _tiny_configs import UNCOVERED, UNPRUNABLE, Entry, build, entries, run

# Those with a forward pass that text alone cannot drive are located all the same.
UNBUILDABLE = {name for name, reason in UNCOVERED.items() if "not installed" in reason}

# One of each way in which layers and weights are stored.
REPRESENTATIVE = [
    *("llama", "gpt2", "gpt_neox", "gptj", "falcon", "bloom", "opt", "mpt", "phi3", "gemma2"),
    *("gemma4_text", "mixtral", "qwen3_moe", "gpt_oss", "llama4_text", "deepseek_v3", "dbrx"),
    *("granitemoe", "jetmoe", "longcat_flash", "deepseek_v4", "mamba", "mamba2", "jamba"),
    *("zamba", "zamba2", "nemotron_h", "recurrent_gemma", "rwkv", "qwen3_next", "xlnet", "xlm"),
    *("ctrl", "blt", "hrm_text", "bart", "gemma3", "mllama"),
]
# Stored in ways that the engine must follow too: views, groups of rows, stacks of matrices.
PRUNED = {
    "dbrx",
    "deepseek_v4",
    "gpt_oss",
    "llama4_text",
    "recurrent_gemma",
    "t5",
    "t5gemma2",
    "xlnet",
    "zamba",
    "zaya",
}
REPRESENTATIVE_SEQ2SEQ = ["t5", "bart", "switch_transformers", "nllb-moe", "led", "t5gemma2"]

_ALL = list(entries())


def _id(entry: Entry) -> str:
    return f"{entry.kind}-{entry.type}"


@pytest.mark.parametrize("entry", _ALL, ids=_id)
@pytest.mark.filterwarnings("ignore")  # of transformers, about configs this small
def test_is_located(entry: Entry) -> None:
    if entry.type in UNBUILDABLE:
        with pytest.raises(ImportError):
            build(entry, "meta")
        return
    model = build(entry, "meta")
    chains = locate(model)
    two = entry.kind == "seq2seq" and model.config.is_encoder_decoder
    assert [chain.name for chain in chains] == (["encoder", "decoder"] if two else ["decoder"])

    weights = [w for chain in chains for block in chain.blocks for w in block.weights]
    assert len({w.name for w in weights}) == len(weights)
    dense = [pattern for chain in chains for pattern in chain.dense]
    for weight in weights:
        matrix = weight.matrix()
        assert matrix.dim() == 2
        assert min(matrix.shape) > 1
        assert model.get_submodule(weight.name.partition("[")[0].rpartition(".")[0])
    # No element of a parameter is located twice, and what is not located has a reason.
    located: dict[int, int] = {}
    for weight in weights:
        key = id(getattr(weight.module, weight.parameter))
        located[key] = located.get(key, 0) + weight.numel
    prefixes = [tuple(pattern.split(".")) for pattern in dense]
    for name, parameter in model.named_parameters():
        if id(parameter) in located:
            assert located[id(parameter)] <= parameter.numel()
        elif parameter.dim() >= 2:
            parts = name.split(".")
            assert any(_covers(prefix, parts) for prefix in prefixes), (
                f"{name} is not accounted for"
            )


def _covers(prefix: tuple[str, ...], parts: list[str]) -> bool:
    return len(prefix) <= len(parts) and all(
        a in ("*", b) for a, b in zip(prefix, parts, strict=False)
    )


@pytest.mark.parametrize(
    "entry",
    [
        entry
        for entry in _ALL
        if entry.type in (REPRESENTATIVE if entry.kind == "causal" else REPRESENTATIVE_SEQ2SEQ)
    ],
    ids=_id,
)
@pytest.mark.filterwarnings("ignore")
def test_blocks_consume_the_located_weights_in_the_located_order(entry: Entry) -> None:
    torch.manual_seed(0)
    model = build(entry)
    chains = locate(model)
    findings = check_forward(chains, lambda: run(entry, model))
    assert findings.problem(chains) is None
    if entry.type in PRUNED:
        assert check_pruning(chains, lambda: run(entry, model)) is None


@pytest.mark.parametrize(
    "entry", [e for e in _ALL if e.type in UNCOVERED and e.type not in UNBUILDABLE], ids=_id
)
@pytest.mark.filterwarnings("ignore")
def test_an_uncovered_architecture_still_cannot_run_on_text(entry: Entry) -> None:
    model = build(entry)
    assert locate(model)
    with pytest.raises((ValueError, TypeError)):
        run(entry, model)


@pytest.mark.parametrize("entry", [e for e in _ALL if e.type in UNPRUNABLE], ids=_id)
@pytest.mark.filterwarnings("ignore")
def test_what_the_engine_cannot_prune_is_located_all_the_same(entry: Entry) -> None:
    model = build(entry)
    chains = locate(model)
    assert check_forward(chains, lambda: run(entry, model)).problem(chains) is None
    with pytest.raises(ModelError):
        check_pruning(chains, lambda: run(entry, model))


def test_more_than_95_percent_are_covered() -> None:
    missing = {**UNCOVERED, **UNPRUNABLE}
    assert len([entry for entry in _ALL if entry.type in missing]) < 0.05 * len(_ALL)
    assert set(missing) <= {entry.type for entry in _ALL}
