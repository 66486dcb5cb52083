"""DeepSparse 1.8.0 on linear layers, as a point of reference for atp-sparse-cpu.

It is archived, has a licence of its own, and needs old NumPy and ONNX, so it runs in an environment
of its own, which needs nothing else:

    python3.11 -m venv ENV && ENV/bin/pip install deepsparse==1.8.0
    ENV/bin/python benchmarks/deepsparse_reference.py [--threads 1]

Models are eight layers of 4096 × 4096 in float32, one after another, with random weights cut to a
share of zeros: more than caches hold. Each runs in DeepSparse dense and sparse, in turn; ratios are
medians of those paired by round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

OUTPUT = Path(__file__).resolve().parent / "results" / "deepsparse_reference.json"
LAYERS, WIDTH = 8, 4096
TOKENS = (1, 4, 16, 64, 256)
SPARSITIES = (0.5, 0.7)


def main() -> None:
    """Time every number of tokens and sparsity, and write the ratios."""
    import deepsparse
    import numpy as np

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        files = {s: _model(Path(folder) / f"{s}.onnx", s) for s in (0.0, *SPARSITIES)}
        for tokens in TOKENS:
            x = np.random.default_rng(0).standard_normal((tokens, WIDTH)).astype(np.float32)
            engines = {
                s: deepsparse.Engine(str(file), batch_size=tokens, num_cores=args.threads)
                for s, file in files.items()
            }
            seconds: dict[float, list[float]] = {s: [] for s in engines}
            for turn in range(args.rounds + 2):
                for s, engine in engines.items():
                    began = time.perf_counter()
                    engine.run([x])
                    if turn >= 2:
                        seconds[s].append(time.perf_counter() - began)
            for s in SPARSITIES:
                ratio = statistics.median(
                    a / b for a, b in zip(seconds[0.0], seconds[s], strict=True)
                )
                rows.append(
                    {
                        "tokens": tokens,
                        "sparsity": s,
                        "dense_ms": statistics.median(seconds[0.0]) / LAYERS * 1e3,
                        "sparse_ms": statistics.median(seconds[s]) / LAYERS * 1e3,
                        "speedup": ratio,
                    }
                )
                print(json.dumps(rows[-1]), flush=True)
    about = {"deepsparse": deepsparse.__version__, "threads": args.threads, "width": WIDTH}
    OUTPUT.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n", "utf-8")


def _model(file: Path, sparsity: float) -> Path:
    """A chain of MatMul nodes, written as ONNX."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    nodes, weights = [], []
    for i in range(LAYERS):
        weight = random.standard_normal((WIDTH, WIDTH)).astype(np.float32) / WIDTH**0.5
        weight[random.random(weight.shape) < sparsity] = 0
        weights.append(numpy_helper.from_array(weight, f"w{i}"))
        nodes.append(helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]))
    shape: list[Any] = ["batch", WIDTH]
    graph = helper.make_graph(
        nodes,
        "layers",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(f"x{LAYERS}", TensorProto.FLOAT, shape)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, file)
    return file


if __name__ == "__main__":
    main()
