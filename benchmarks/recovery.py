"""Recovery curves: what a pruned model shows after so many steps of training, uniform against ATP.

    python benchmarks/recovery.py --root DIR -o FILE [--steps N,N] [--modes lora,full] [MODEL …]

Each model is pruned by Wanda, uniform and with ATP's β as ``--beta auto`` measures it, and trained
from there anew for each number of steps, so that every learning rate ends at 0. Trained on the
calibration part of the data, measured on the report split. What is in FILE already is kept.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from _cifar10 import laid_out

import atp_core
import atp_tune

_TEXT: Final[dict[str, Any]] = {
    "calibration": "data/c4-cal/c4.utf8",
    "report_data": "data/wikitext-2-raw/wiki.test.raw",
}
_IMAGES: Final[dict[str, Any]] = {
    "calibration": "data/cifar10-jpeg/train",
    "report_data": "data/cifar10-jpeg/test",
}
MODELS: Final[dict[str, dict[str, Any]]] = {
    "stories260k": {
        "source": "models/stories260k",
        "data": {**_TEXT, "seqlen": 128, "report_samples": 100},
        "tune": {"batch": 8},
    },
    "smollm2-135m": {
        "source": "embedded:smollm2-135m",
        "data": {**_TEXT, "seqlen": 256, "report_samples": 40, "dtype": "bfloat16"},
        "tune": {"batch": 4, "lr": 3e-4},
    },
    "vit-cifar10": {
        "source": "models/vit-cifar10",
        "data": _IMAGES,
        "tune": {"batch": 32},
    },
}
SPARSITIES: Final = (0.6, 0.7)
SCHEDULES: Final[dict[str, dict[str, Any]]] = {
    "uniform": {"allocation": "uniform"},
    "atp": {"allocation": "atp", "beta": "auto"},
}


def main() -> None:
    """Prune and train every model asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="MODEL")
    parser.add_argument("--root", type=Path, required=True, help="holds models/ and data/")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON of the figures")
    parser.add_argument("--steps", default="50,200", help="numbers of steps")
    parser.add_argument("--modes", default="lora,full")
    parser.add_argument("--sparsities", default=",".join(map(str, SPARSITIES)))
    args = parser.parse_args()
    output = args.output.resolve()
    found: dict[str, Any] = json.loads(output.read_text("utf-8")) if output.exists() else {}
    with laid_out(args.root), tempfile.TemporaryDirectory() as folder:
        for name in args.names or MODELS:
            for sparsity in map(float, args.sparsities.split(",")):
                for schedule in SCHEDULES:
                    pruned = Path(folder) / f"{name}-{sparsity:g}-{schedule}"
                    for mode in args.modes.split(","):
                        for steps in map(int, args.steps.split(",")):
                            key = f"{name}/{sparsity:g}/{schedule}/{mode}/{steps}"
                            if key in found:
                                continue
                            found[key] = _row(name, sparsity, schedule, mode, steps, pruned)
                            print(key, found[key], flush=True)
                            text = json.dumps(found, indent=1)
                            output.write_text(text + "\n", "utf-8")


def _row(
    name: str, sparsity: float, schedule: str, mode: Any, steps: int, pruned: Path
) -> dict[str, Any]:
    model = MODELS[name]
    dense = None
    if not pruned.exists():
        made = atp_core.prune(
            model["source"],
            sparsity=sparsity,
            output=pruned,
            baseline=False,
            **SCHEDULES[schedule],
            **model["data"],
        )
        dense = next(iter(made.metrics["dense"].values())).value
    began = time.perf_counter()
    result = atp_tune.tune(
        pruned,
        output=pruned.with_name(f"{pruned.name}-tuned"),
        mode=mode,
        steps=steps,
        evaluate=True,
        overwrite=True,
        **model["data"],
        **model["tune"],
    )
    one = result.comparisons[0]
    return {
        "metric": one.metric,
        "before": one.reference_value,
        "after": one.value,
        "difference_stderr": one.stderr,
        "verdict": one.verdict,
        "loss": [result.loss_first, result.loss_last],
        "trained_parameters": result.trained,
        "sparsity": result.sparsity,
        "seconds": time.perf_counter() - began,
        **({} if dense is None else {"dense": dense}),
    }


if __name__ == "__main__":
    main()
