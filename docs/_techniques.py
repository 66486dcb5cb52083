"""Tables of docs/results.md about other techniques under a schedule, from what benchmarks wrote."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from _tables import figure, line, read

__all__ = ["tables"]

HIGHER = {"top1"}


def tables() -> dict[str, Callable[[], str]]:
    """Name of each part of the page → what makes it."""
    return {
        "patterns": patterns,
        "structured": structured,
        "bits": bits,
        "masks": masks,
        "recovery": recovery,
    }


def patterns() -> str:
    """N:M: a line a model, pattern and method."""
    found = read("patterns.json")
    rows = [_head("model", "metric", "pattern", "method", "S", "dense", "uniform", "ATP",
                  "N of the blocks")]  # fmt: skip
    for name, cells in found.items():
        for cell in (one for one in cells if one.get("allocation") != "atp"):
            atp = _where(cells, **_key(cell), allocation="atp")
            rows.append(
                _row(
                    name, cell["metric"], cell["pattern"], cell["method"],
                    f"{cell['achieved']:g}", figure(cell["dense"]), *_pair(cell, atp),
                    _runs(atp["kept"]) if atp else _runs(cell["kept"]),
                )
            )  # fmt: skip
    return "\n".join(rows)


def _key(cell: Mapping[str, Any]) -> dict[str, Any]:
    return {key: cell[key] for key in ("pattern", "method", "sparsity") if key in cell}


def structured() -> str:
    """Heads and channels: quality, size and time, a line a model and share."""
    rows = [
        _head(
            "model", "metric", "removed", "dense", "uniform", "ATP", "β", "MB", "time of one",
            "of many",
        )
    ]  # fmt: skip
    for key, cell in read("structured.json").items():
        name, _, share = key.partition("/")
        times = [f"× {one['ratio']:.2f}" for one in cell["times"].values()]
        size = f"{cell['bytes_dense'] / 1e6:.3g} → {cell['bytes'] / 1e6:.3g}"
        told = ["", "", "", "", ""]
        if "metrics" in cell:
            metric = next(iter(cell["metrics"]["dense"]))
            values = {who: found[metric] for who, found in cell["metrics"].items()}
            pair = _marked(metric, values["uniform"], values["pruned"])
            told = [metric, figure(values["dense"][0]), *pair, f"{cell['beta']:.4f}"]
        rows.append(_row(name, told[0], f"{100 * float(share):g} %", *told[1:], size, *times))
    return "\n".join(rows)


def bits() -> str:
    """Mixed precision: a line a model, budget and way of rounding."""
    rows = [
        _head(
            "model", "metric", "bits", "S", "rounding", "dense", "uniform", "ATP", "β",
            "bits of the blocks",
        )
    ]  # fmt: skip
    for name, cells in read("mixed_precision.json").items():
        for cell in (one for one in cells if one["allocation"] == "uniform"):
            key = {key: cell[key] for key in ("method", "bits", "sparsity")}
            atp = _where(cells, **key, allocation="atp")
            assert atp is not None
            rows.append(
                _row(
                    name, cell["metric"], f"{cell['bits']:g}", f"{cell['sparsity']:g}",
                    cell["method"], figure(cell["dense"]), *_pair(cell, atp),
                    f"{atp['beta']:.3f}", _runs(atp["widths"]),
                )
            )  # fmt: skip
    return "\n".join(rows)


def masks() -> str:
    """Methods beside each other, a line a model, sparsity and method."""
    rows = [_head("model", "metric", "S", "method", "dense", "uniform", "ATP", "β")]
    for name, cells in _masks().items():
        for cell in cells:
            metric = cell["metric"]
            rows.append(
                _row(
                    name, metric, f"{cell['sparsity']:g}", f"`{cell['method']}`",
                    figure(cell["dense"][0]), *_marked(metric, cell["uniform"], cell["pruned"]),
                    f"{cell['beta']:.4f}",
                )
            )  # fmt: skip
    return "\n".join(rows)


def _masks() -> dict[str, list[dict[str, Any]]]:
    """What benchmarks/masks.py wrote, with the rows of SmolLM2 that the comparison has."""
    found: dict[str, list[dict[str, Any]]] = read("masks.json")
    compared = read("allocations.json")
    order = ["wanda", "dsnot", "sparsegpt", "alps"]
    own = found.get("smollm2-135m", [])
    for model in ("smollm2-135m", "smollm2-135m, SparseGPT"):
        cells = compared.get(model, {"cells": []})["cells"]
        for atp in _all(cells, allocation="atp"):
            at = {key: atp[key] for key in ("method", "sparsity")}
            uniform = _where(cells, **at, allocation="uniform")
            if uniform is None or atp["sparsity"] not in {cell["sparsity"] for cell in own}:
                continue
            metric = next(iter(compared[model]["dense"]))
            dense = compared[model]["dense"][metric]["value"]
            told = {
                who: [one["metrics"][metric][key] for key in ("value", "stderr")]
                for who, one in (("uniform", uniform), ("pruned", atp))
            }
            own.append({**at, "metric": metric, "beta": atp["beta"], "dense": [dense], **told})
    own.sort(key=lambda cell: (cell["sparsity"], order.index(cell["method"])))
    return found


def recovery() -> str:
    """Training what is left: a line a model, sparsity, way and schedule, a column for the steps."""
    found = read("recovery.json")
    cells = {tuple(key.split("/")): cell for key, cell in found.items()}
    steps = sorted({int(key[4]) for key in cells})
    rows = [
        _head(
            "model", "metric", "S", "trained", "schedule", "dense", "pruned",
            *(f"{count} steps" for count in steps),
        )
    ]  # fmt: skip
    dense = {key[:3]: cell["dense"] for key, cell in cells.items() if "dense" in cell}
    for name, sparsity, mode in dict.fromkeys((key[0], key[1], key[3]) for key in cells):
        for schedule in ("uniform", "atp"):
            by_steps = [cells.get((name, sparsity, schedule, mode, str(n))) for n in steps]
            first = next(cell for cell in by_steps if cell is not None)
            rows.append(
                _row(
                    name, first["metric"], sparsity, mode, {"atp": "ATP"}.get(schedule, schedule),
                    figure(next(v for k, v in dense.items() if k[:2] == (name, sparsity))),
                    figure(first["before"]),
                    *("" if cell is None else figure(cell["after"]) for cell in by_steps),
                )
            )  # fmt: skip
    return "\n".join(rows)


# --- cells ---------------------------------------------------------------------------------------


def _all(cells: Iterable[dict[str, Any]], **wanted: Any) -> list[dict[str, Any]]:
    return [cell for cell in cells if all(cell.get(key) == v for key, v in wanted.items())]


def _where(cells: Iterable[dict[str, Any]], **wanted: Any) -> dict[str, Any] | None:
    return next(iter(_all(cells, **wanted)), None)


def _pair(uniform: Mapping[str, Any], atp: Mapping[str, Any] | None) -> tuple[str, str]:
    """Uniform and ATP; one alone where every block has the same anyway."""
    if atp is None:
        return figure(uniform["value"]), ""
    values = ([one["value"], one["stderr"]] for one in (uniform, atp))
    return _marked(uniform["metric"], *values)


def _marked(metric: str, uniform: Sequence[float], atp: Sequence[float]) -> tuple[str, str]:
    """Two values with their standard errors; the better is bold if it is better by two of both.

    Both are measured on the same examples, so this asks for more than a paired test would.
    """
    texts = [figure(uniform[0]), figure(atp[0])]
    difference = atp[0] - uniform[0]
    if abs(difference) > 2 * math.hypot(uniform[1], atp[1]):
        ahead = (difference > 0) == (metric in HIGHER)
        texts[ahead] = f"**{texts[ahead]}**"
    return texts[0], texts[1]


def _row(*cells: str) -> str:
    return line(cells)


def _head(*names: str) -> str:
    return _row(*names) + "\n|" + "---|" * len(names)


def _runs(numbers: Sequence[int]) -> str:
    """Whole numbers, with how often each stands in turn: 4 × 3, 3 × 5."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][0] == number:
            runs[-1][1] += 1
        else:
            runs.append([number, 1])
    if len(runs) > 12:
        return f"{min(numbers)} to {max(numbers)}, mixed"
    return ", ".join(f"{number}" if n == 1 else f"{number} (× {n})" for number, n in runs)
