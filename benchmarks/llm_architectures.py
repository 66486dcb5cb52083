"""Coverage of transformers' language models by atp-llm, measured on small random models.

Every architecture of the causal and sequence-to-sequence mappings is built small, located, run
once on the CPU to see that its blocks consume the located weights as located and in the located
order, and pruned with Wanda by the engine. Nothing is downloaded. Writes a Markdown table:

    python benchmarks/llm_architectures.py [--output docs/llm-architectures.md] [MODEL_TYPE …]

Exits with 1 if an architecture is not covered that the tests do not list, or the reverse.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers

from atp_llm._locate import locate

# The tests' small configs and checks.
sys.path.append(str(Path(__file__).parents[1] / "plugins" / "atp-llm" / "tests"))

from _consumed import check_forward, check_pruning
from _tiny_configs import UNCOVERED, UNPRUNABLE, Entry, build, entries, run

ROOT = Path(__file__).parents[1]
RATE = 0.5
KNOWN = {**UNCOVERED, **UNPRUNABLE}
ORDINARY = frozenset({"embedding", "normalization", "output layer", "vector", "outside the blocks"})


@dataclass(frozen=True)
class Row:
    """What was found for one architecture.

    Attributes:
        entry: the architecture.
        chains: e.g. "encoder 2, decoder 2": blocks of each chain of the small model.
        weights: number of prunable weights (matrices), and how many are experts.
        dense: unusual things that stay dense.
        notes: blocks that run more than once.
        problem: why it is not covered, or None.
    """

    entry: Entry
    chains: str = ""
    weights: str = ""
    dense: str = ""
    notes: str = ""
    problem: str | None = None

    @property
    def expected(self) -> bool:
        """Whether it is covered, or listed as uncovered."""
        return (self.problem is not None) == (self.entry.type in KNOWN)


def examine(entry: Entry) -> Row:
    """Build, locate, run and prune one architecture."""
    torch.manual_seed(0)
    try:
        model = build(entry)
    except ImportError as error:
        return Row(entry, problem=_short(error))
    try:
        chains = locate(model)
    except Exception as error:
        return Row(entry, problem=_short(error))
    weights = [w for chain in chains for block in chain.blocks for w in block.weights]
    experts = sum(w.conditional for w in weights)
    reasons = {
        f"{re.sub(r'^.*[*][.]', '', name)}: {reason}"
        for chain in chains
        for name, reason in chain.dense.items()
        if reason not in ORDINARY
    }
    described = {
        "chains": ", ".join(f"{chain.name} {len(chain.blocks)}" for chain in chains),
        "weights": f"{len(weights)}" + (f" ({experts} experts')" if experts else ""),
        "dense": "; ".join(sorted(reasons)),
    }
    try:
        findings = check_forward(chains, lambda: run(entry, model))
        problem = findings.problem(chains)
        repeated = [name for name, calls in findings.calls.items() if calls > 1]
        described["notes"] = f"{len(repeated)} blocks run repeatedly" if repeated else ""
        if problem is None:
            problem = check_pruning(chains, lambda: run(entry, model), RATE)
    except Exception as error:
        problem = _short(error)
    return Row(entry, **described, problem=problem)


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:160]}"


def table(rows: Sequence[Row]) -> str:
    """The Markdown page."""
    covered = [row for row in rows if row.problem is None]
    kinds = Counter(row.entry.kind for row in rows)
    lines = [
        "# Language-model architectures",
        "",
        "Written by `python benchmarks/llm_architectures.py`; do not edit.",
        "",
        f"Every architecture that transformers {transformers.__version__} knows as a causal "
        f"({kinds['causal']}) or sequence-to-sequence ({kinds['seq2seq']}) language model, built "
        "small with random weights. *Covered* means: its blocks were located, one forward pass on "
        "the CPU consumed every located weight in the located orientation (experts: most of "
        "them, as the routing goes), the blocks ran in the located order, and the engine pruned "
        f"the model with Wanda to {RATE:.0%}. It says nothing about the quality of the pruned "
        "model.",
        "",
        f"**{len(covered)} of {len(rows)} covered ({len(covered) / len(rows):.1%}).**",
        "",
        "## Not covered",
        "",
        "| model type | class | why |",
        "|---|---|---|",
    ]
    for row in rows:
        if row.problem is not None:
            reason = KNOWN.get(row.entry.type, row.problem)
            lines.append(f"| {row.entry.type} | {row.entry.architecture} | {_cell(reason)} |")
    lines += [
        "",
        "## Covered",
        "",
        "Blocks and weights are those of the small model. Embeddings, normalization, biases and "
        "the output layer always stay dense; other things that do are named.",
    ]
    for kind, title in (("causal", "Causal"), ("seq2seq", "Sequence-to-sequence mapping")):
        lines += [
            "",
            f"### {title}",
            "",
            "| model type | class | blocks | prunable weights | also dense | notes |",
            "|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {row.entry.type} | {row.entry.architecture} | {row.chains} | {row.weights} "
            f"| {_cell(row.dense)} | {_cell(row.notes)} |"
            for row in covered
            if row.entry.kind == kind
        ]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> int:
    """Run, write the page, and tell what is not as expected."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("types", nargs="*", help="only these model types; writes no page")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "llm-architectures.md")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    warnings.simplefilter("ignore")  # of transformers, about configs this small

    started = time.perf_counter()
    rows: list[Row] = []
    for entry in entries():
        if arguments.types and entry.type not in arguments.types:
            continue
        row = examine(entry)
        rows.append(row)
        if row.problem is not None or arguments.types:
            print(f"{entry.kind} {entry.type}: {row.problem or 'covered'}", file=sys.stderr)
    if not arguments.types:
        arguments.output.write_text(table(rows), encoding="utf-8")
    unexpected = [row.entry.type for row in rows if not row.expected]
    covered = sum(row.problem is None for row in rows)
    print(f"{covered} of {len(rows)} covered, {time.perf_counter() - started:.0f} s")
    if unexpected:
        print(f"not as the tests list them: {', '.join(unexpected)}", file=sys.stderr)
    return 1 if unexpected else 0


if __name__ == "__main__":
    sys.exit(main())
