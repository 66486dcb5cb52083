"""All allocations × S = 0.5, 0.6, 0.7 on the models at hand, by `atp compare`.

    python benchmarks/allocations.py [--root DIR] [--work DIR] [MODEL …]

Each model is one `atp compare`, whose command is recorded beside its figures. What is in --work is
taken up again. Paths are laid out as for modality_grid.py; `c4.utf8` and `wiki.test.raw` are those
of docs/results.md.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
from pathlib import Path
from typing import Any

from _cifar10 import laid_out
from modality_grid import MODELS as OTHERS
from smollm2_grid import Lines

import atp_core
from atp_core.results import metrics_to_dict

OUTPUT = Path(__file__).resolve().parent / "results" / "allocations.json"
TEXTS = {
    "calibration": "data/c4-cal/c4.utf8",
    "report_data": "data/wikitext-2-raw/wiki.test.raw",
    "seqlen": 512,
    "report_samples": 40,
}
BAYES = "bayes-tpe"
_SHOWN = ("name", "value", "stderr", "n", "unit", "higher_is_better", "split")
SMOLLM2 = {
    "source": "embedded:smollm2-135m",
    **TEXTS,
    "samples": 16,
    "trial_samples": 8,
    "search_samples": 8,
    # On CPUs with AVX-512 BF16 three times as fast as float32.
    "dtype": "bfloat16",
}
MODELS: dict[str, dict[str, Any]] = {
    "stories260k": {
        "source": "models/stories260k",
        **TEXTS,
        "samples": 32,
        "trial_samples": 8,
        "search_samples": 16,
    },
    "vit-cifar10": OTHERS["vit-cifar10"],
    "efficientnet-lite0": OTHERS["efficientnet-lite0"],
    "clip-cifar10": OTHERS["clip-cifar10"],
    "smollm2-135m": SMOLLM2,
    "smollm2-135m, SparseGPT": {**SMOLLM2, "allocations": ["all"], "methods": ["sparsegpt"]},
}


def main() -> None:
    """Compare on every model asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="MODEL")
    parser.add_argument("--root", type=Path, required=True, help="holds models/ and data/")
    parser.add_argument("--work", type=Path, required=True, help="outputs and journals")
    parser.add_argument("--allocations", help="these only, added to what is recorded of a model")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    folder = args.work.resolve()
    with laid_out(args.root):
        for name in args.names or MODELS:
            print(name, flush=True)
            _compare(name, dict(MODELS[name]), folder, args.allocations)


def _compare(name: str, settings: dict[str, Any], folder: Path, only: str | None) -> None:
    source = settings.pop("source")
    asked = {
        "allocations": settings.pop("allocations", ["all", BAYES]),
        "sparsities": settings.pop("sparsities", [0.5, 0.6, 0.7]),
        "methods": settings.pop("methods", ["wanda"]),
    }
    if only is not None:
        asked["allocations"] = only.split(",")
    output = folder / name
    if output.exists():
        shutil.rmtree(output)
    result = atp_core.compare(
        source, **asked, **settings, output=output, resume=True, progress=Lines()
    )
    data = result.to_json()
    data["cells"] = [_short(cell) for cell in data["cells"]]
    data["dense"] = metrics_to_dict(result.dense)
    data["command"] = _command(source, asked, settings)
    found = json.loads(OUTPUT.read_text("utf-8")) if OUTPUT.exists() else {}
    if only is not None and name in found:
        data = _merged(found[name], data)
    found[name] = data
    ordered = {known: found[known] for known in MODELS if known in found}
    OUTPUT.write_text(_written(ordered), "utf-8")


def _merged(known: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """What is recorded of a model, with further cells; those there already stay."""

    def key(cell: dict[str, Any]) -> tuple[Any, ...]:
        return cell["method"], cell["sparsity"], cell["allocation"]

    def order(one: tuple[Any, ...]) -> tuple[Any, ...]:
        method, sparsity, allocation = one
        return method, sparsity, allocation != "uniform", "bayes" in allocation, allocation

    cells = {key(cell): cell for cell in [*more["cells"], *known["cells"]]}
    return {
        **known,
        "cells": [cells[one] for one in sorted(cells, key=order)],
        "command": f"{known['command']}\n{more['command']}",
    }


def _short(cell: dict[str, Any]) -> dict[str, Any]:
    """What the tables need, and the rates by chain."""
    schedule: dict[str, Any] = cell.pop("schedule") or {"rates": {}}
    rates = {
        chain: [round(rate, 4) for rate in own.values()]
        for chain, own in schedule["rates"].items()
    }
    metrics = {
        name: {key: metric[key] for key in _SHOWN} for name, metric in cell["metrics"].items()
    }
    return {
        **cell,
        "trials": len(cell["trials"]),
        "metrics": metrics,
        "beta": schedule.get("beta"),
        "rates": rates,
    }


def _written(found: dict[str, Any]) -> str:
    """JSON with a line a cell."""
    text = json.dumps(
        {name: {**data, "cells": []} for name, data in found.items()}, indent=1, ensure_ascii=False
    )
    for data in found.values():
        cells = ",\n   ".join(json.dumps(cell, ensure_ascii=False) for cell in data["cells"])
        text = text.replace('"cells": []', f'"cells": [\n   {cells}\n  ]', 1)
    return text + "\n"


def _command(source: str, asked: dict[str, Any], settings: dict[str, Any]) -> str:
    words = ["atp", "compare", source, "--allocations", ",".join(asked["allocations"])]
    words += ["-s", ",".join(f"{s:g}" for s in asked["sparsities"])]
    words += ["--methods", ",".join(asked["methods"])]
    for key, value in settings.items():
        words += ["--" + key.replace("_", "-"), str(value)]
    return shlex.join([*words, "-o", "OUT"])


if __name__ == "__main__":
    main()
