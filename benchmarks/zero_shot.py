"""Zero-shot accuracy of SmolLM2-135M: dense, uniform, ATP and rivals, paired by document.

    python benchmarks/zero_shot.py --calibration c4.utf8 --task-data DIR --work DIR -o FILE

The schedules are those of benchmarks/results/smollm2_grid.json, whose β was chosen on the search
split of C4; the tasks play no part in it. Each model is pruned and run as the commands written
beside it do; here the model is loaded once. What is in --work already is kept.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from smollm2_grid import Lines

from atp_core._session import Session
from atp_core._tasks import Found, average, run_tasks, unit
from atp_core._workflow import Pruning
from atp_core.evaluation.schema import ComparisonRecord
from atp_core.presets import task_names
from atp_core.recipe import Recipe
from atp_core.records import Source
from atp_core.results import metrics_to_dict
from atp_core.trials.journal import Journal

GRID = Path(__file__).parent / "results" / "smollm2_grid.json"


def main() -> None:
    """Run what is missing, and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", default="embedded:smollm2-135m")
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--task-data", type=Path, required=True)
    parser.add_argument("--tasks", default="zeroshot7")
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--cells", default="wanda 0.5,wanda 0.6,sparsegpt 0.5,sparsegpt 0.6")
    parser.add_argument("--rivals", default="losa,dlp,alphapruning", help="in cells of Wanda")
    parser.add_argument("--reverse", action="store_true", help="begin at the end, as a second one")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    args.work.mkdir(exist_ok=True)
    tasks = task_names(args.tasks)
    grid = json.loads(GRID.read_text())["cells"]
    first: Session | None = None
    models: dict[str, Found] = {}
    commands: dict[str, str] = {}
    wanted = [("dense", "wanda 0.5", 0.0)]
    rivals = args.rivals.split(",") if args.rivals else []
    for cell in args.cells.split(","):
        wanted += [(f"{cell} uniform", cell, 0.0), (f"{cell} atp", cell, grid[cell]["beta"])]
        if cell.startswith("wanda"):
            wanted += [(f"{cell} {rival}", cell, 0.0) for rival in rivals]
    for name, cell, beta in reversed(wanted) if args.reverse else wanted:
        method, sparsity = cell.split()
        file = args.work / f"{name.replace(' ', '-')}.json"
        settings = {
            "source": args.source,
            "sparsity": 0.0 if name == "dense" else float(sparsity),
            "method": method,
            "calibration": args.calibration,
            "samples": grid[cell]["trials"][-1]["samples"],
            "seqlen": 512,
            "allocation": "uniform" if name == "dense" else name.split()[-1],
            "beta": "search" if beta == 0.0 else beta,
            "tasks": tasks,
            "task_data": args.task_data,
            "limit": args.limit,
            "output": "OUT",
        }
        recipe = Recipe.make(settings)
        commands[name] = recipe.portable().command()
        if not file.exists():
            if first is None:
                first = Session(recipe, Source(args.source), progress=Lines())
            session = first.again(recipe)
            if name != "dense":
                pruning = Pruning(session, Journal(None, {}))
                pruning.prune(pruning.schedule(beta if beta else None), name)
            units = [unit(result) for _, result in run_tasks(session, tasks)]
            file.write_text(json.dumps(units))
        models[name] = Found()
        for known in json.loads(file.read_text()):
            models[name].add(known)
        average(models[name], tasks)
        told = {metric: found.value for metric, found in models[name].metrics.items()}
        print(name, {k: round(v, 3) for k, v in told.items() if k.endswith("/acc")}, flush=True)
    models = {name: models[name] for name, _, _ in wanted}

    def compared(name: str, reference: str) -> list[dict[str, Any]]:
        found = models[name].against(models[reference], reference)
        return [ComparisonRecord.of(one).model_dump(mode="json") for one in found]

    result: dict[str, Any] = {
        "limit": args.limit,
        "tasks": models["dense"].tasks,
        "models": {
            name: {"metrics": metrics_to_dict(found.metrics), "command": commands[name]}
            for name, found in models.items()
        },
        "comparisons": [
            {"model": f"{cell} atp", **one}
            for cell in args.cells.split(",")
            for reference in (f"{cell} uniform", "dense", *(f"{cell} {r}" for r in rivals))
            if reference in models
            for one in compared(f"{cell} atp", reference)
        ],
    }
    args.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
