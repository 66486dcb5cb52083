"""Rows of measurements that are written as they come, and kept by the next run."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from _cifar10 import laid_out

Row = dict[str, Any]
RESULTS = Path(__file__).resolve().parent / "results"


def arguments(about: str | None) -> argparse.ArgumentParser:
    """The arguments that these benchmarks share: models, and where their files are."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="MODEL")
    parser.add_argument("--root", type=Path, required=True, help="holds models/ and data/")
    return parser


def record(
    file: str,
    names: Sequence[str],
    root: Path,
    missing: Callable[[str, list[Row]], Iterator[Row]],
) -> None:
    """Add what is missing to a file of benchmarks/results, model by model.

    Args:
        file: its name.
        names: of the models.
        root: holds their files.
        missing: given a model and the rows that are there, measures the others.
    """
    output = RESULTS / file
    found = json.loads(output.read_text("utf-8")) if output.exists() else {}
    with laid_out(root):
        for name in names:
            rows = found.setdefault(name, [])
            for row in missing(name, rows):
                rows.append(row)
                print(name, json.dumps(row), flush=True)
                text = json.dumps(found, indent=1, ensure_ascii=False)
                output.write_text(text + "\n", "utf-8")
