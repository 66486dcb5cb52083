"""Whole runs on a cluster of this machine: what they find, and what becomes of it on trouble."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
SMALL = ["--samples", "16", "--search-samples", "32", "--report-samples", "40"]
RAY = ["--executor", "ray"]


class Machine:
    """Runs commands with a plugin installed that fails on request.

    Args:
        folder: for the plugin and its marks.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.marks = folder / "marks"
        self.marks.mkdir()
        site = folder / "site"
        info = site / "atp_killing-1.0.dist-info"
        info.mkdir(parents=True)
        shutil.copy(HERE / "_killing.py", site / "atp_killing.py")
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: atp-killing\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[atp_prune]\nkilling = atp_killing\n")
        path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
        self.environment = {
            **os.environ,
            "PYTHONPATH": path,
            "OMP_NUM_THREADS": "1",
            "ATP_TEST_MARKS": str(self.marks),
            "ATP_TEST_DEATHS": "0 0",
        }
        self.environment.pop("RAY_ADDRESS", None)

    def start(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "atp_core", *command],
            env={**self.environment, **environment},
            cwd=self.folder,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *command: str, **environment: str) -> tuple[int, str, str]:
        with self.start(*command, **environment) as process:
            try:
                out, err = process.communicate(timeout=300)
            finally:
                process.kill()
        return process.returncode, out, err

    def told(self, *command: str, **environment: str) -> dict[str, Any]:
        code, out, err = self.run(*command, "--json", **environment)
        assert code == 0, err
        return dict(json.loads(out))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def trials(found: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [
        (t["stage"], t["beta"], t["objective"], t["samples"], t["schedule"])
        for t in found["trials"]
    ]


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run some seconds later."""
    _, left = psutil.wait_procs(processes, timeout=20)
    return list(left)


def test_a_search_finds_what_the_local_one_does(machine: Machine, digits: str) -> None:
    command = ["search", digits, "-s", "0.6", *SMALL]
    local, there = machine.told(*command), machine.told(*command, *RAY)
    assert len(trials(local)) >= 6
    assert trials(there) == trials(local)
    assert there["beta"] == local["beta"]
    assert all(t["seconds"] > 0 and t["peak_memory_bytes"] > 1e8 for t in there["trials"])


def test_a_pruned_model_is_the_same_byte_for_byte(machine: Machine, digits: str) -> None:
    command = ["prune", digits, "-s", "0.6", *SMALL, "-o"]
    local, there = machine.told(*command, "a"), machine.told(*command, "b", *RAY)
    metrics = [
        {
            who: {name: metric["value"] for name, metric in found.items()}
            for who, found in told["metrics"].items()
        }
        for told in (local, there)
    ]
    assert metrics[0] == metrics[1] and set(metrics[0]) == {"dense", "uniform", "pruned"}
    first, second = (machine.folder / name / "model.safetensors" for name in "ab")
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("allocation", ["bayes-tpe", "bayes-gp"])
def test_a_batch_of_proposals_does_not_depend_on_who_judges_it(
    allocation: str, machine: Machine, digits: str
) -> None:
    pytest.importorskip("optuna")
    options = ["--allocation-options", "trials=14,batch=4"]
    command = ["search", digits, "-s", "0.6", *SMALL, "--allocation", allocation, *options]
    local, there = machine.told(*command), machine.told(*command, *RAY)
    assert len(trials(local)) == 1 + 14 + len({t[-1] for t in trials(local) if t[0] == "final"})
    assert trials(there) == trials(local)


def test_a_comparison_fills_the_same_cells(machine: Machine, digits: str) -> None:
    command = ["compare", digits, "-s", "0.5,0.7", *SMALL]
    # One cell that fails must not cost the others theirs.
    command += ["--allocations", "uniform,atp,er,lamp,unsuited"]

    def cells(found: dict[str, Any]) -> Any:
        def plain(value: Any) -> Any:
            if isinstance(value, dict):
                times = {"seconds", "search_seconds", "peak_memory_bytes"}
                return {k: plain(v) for k, v in value.items() if k not in times}
            return [plain(one) for one in value] if isinstance(value, list) else value

        return plain(found["cells"]), plain(found["dense"])

    local, there = machine.told(*command), machine.told(*command, *RAY)
    assert len(local["cells"]) == 10
    assert cells(there) == cells(local)
    assert sum("no spectrum" in (cell.get("error") or "") for cell in there["cells"]) == 2


def test_a_worker_that_dies_is_replaced(machine: Machine, digits: str) -> None:
    command = ["search", digits, "-s", "0.6", *SMALL, "--objective", "killing"]
    local = machine.told(*command)
    code, out, err = machine.run(*command, *RAY, "--json", ATP_TEST_DEATHS="1 1")
    assert code == 0, err
    assert trials(json.loads(out)) == trials(local)
    assert 1 <= len(list(machine.marks.iterdir())) <= 2
    assert "a Ray worker died" in err and "starting another" in err


def test_workers_that_keep_dying_end_the_search(machine: Machine, digits: str) -> None:
    command = ["search", digits, "-s", "0.6", *SMALL, "--objective", "killing", *RAY]
    options = ["--executor-options", "retries=1,workers=1"]
    code, _, err = machine.run(*command, *options, ATP_TEST_DEATHS="99 0")
    assert code == 1
    assert "error: a Ray worker died 2 times at the same job" in err
    assert "Traceback" not in err
    assert len(list(machine.marks.iterdir())) == 2


def test_an_error_in_a_trial_is_told_once_and_as_ever(machine: Machine, digits: str) -> None:
    command = ["search", digits, "-s", "0.6", *SMALL, "--objective", "failing"]
    local, there = machine.run(*command), machine.run(*command, *RAY)
    assert local[0] == there[0] == 4
    told = "error: this model has nothing to be judged on; give it something"
    assert local[2].count(told) == there[2].count(told) == 1
    assert "Traceback" not in there[2]


def test_ctrl_c_leaves_nothing_and_the_search_goes_on(machine: Machine, digits: str) -> None:
    command = ["search", digits, "-s", "0.6", *SMALL, "--beta-step", "0.004"]
    whole = machine.told(*command)
    process = machine.start(*command, *RAY, "-o", "out")
    assert process.stderr is not None
    lines: list[str] = []
    for line in process.stderr:
        lines.append(line)
        if sum("cross_entropy" in one for one in lines) == 3:
            break
    children = psutil.Process(process.pid).children(recursive=True)
    assert any("raylet" in child.name() for child in children)
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130, "".join(lines) + rest
    assert "interrupted" in rest and "Traceback" not in rest
    assert alive(children) == []
    journal = machine.folder / ".out.atp-work" / "journal.jsonl"
    known = journal.read_text().count('"trial/')
    assert 3 <= known < len(trials(whole))
    # Resumed without Ray: what is known is not done again, and the result is the same.
    resumed = machine.told(*command, "-o", "out", "--resume")
    assert trials(resumed) == trials(whole)


@pytest.fixture
def cluster(machine: Machine) -> Iterator[tuple[subprocess.Popen[str], str, dict[str, str]]]:
    """A cluster of another process, its address, and what it takes to use it."""
    code = (
        "import os, sys, ray; from atp_ray._cluster import Cluster\n"
        "cluster = Cluster(None)\n"
        "print(ray.get_runtime_context().gcs_address, os.environ['RAY_AUTH_TOKEN'], flush=True)\n"
        "sys.stdin.readline(); print(len(ray.nodes()), flush=True); cluster.close()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=machine.environment,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    address, token = process.stdout.readline().split()
    try:
        yield process, address, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    finally:
        if process.poll() is None:
            process.communicate("\n", timeout=60)


def test_a_cluster_by_address_is_used_and_left_alone(
    machine: Machine, digits: str, cluster: tuple[subprocess.Popen[str], str, dict[str, str]]
) -> None:
    process, address, secret = cluster
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    listening = {
        connection.laddr.ip
        for one in family
        for connection in one.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening and listening <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    command = ["search", digits, "-s", "0.6", *SMALL]
    local = machine.told(*command)
    there = machine.told(*command, *RAY, "--ray-address", address, **secret)
    assert trials(there) == trials(local)
    there = machine.told(*command, *RAY, "--trial-gpus", "0", **secret, RAY_ADDRESS=address)
    assert trials(there) == trials(local)
    code, _, err = machine.run(
        *command, *RAY, "--ray-address", address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 64
    )
    assert code == 2 and f"no Ray cluster answers at {address}" in err, err
    assert process.stdin is not None
    out, _ = process.communicate("\n", timeout=60)
    assert out.split() == ["1"], "its owner still has it"
    assert alive(family[1:]) == []


def test_no_cluster_at_the_address(machine: Machine, digits: str) -> None:
    began = time.monotonic()
    code, _, err = machine.run(
        "search", digits, "-s", "0.6", *SMALL, *RAY, "--ray-address", "127.0.0.1:9"
    )
    assert code == 2
    assert "error: no Ray cluster answers at 127.0.0.1:9" in err and "Traceback" not in err
    assert time.monotonic() - began < 120


def test_more_gpus_than_there_are(machine: Machine, digits: str) -> None:
    code, _, err = machine.run(
        "search", digits, "-s", "0.6", *SMALL, *RAY, "--trial-gpus", "64"
    )
    assert code == 2
    assert "a trial asks for 64 GPUs and this machine has" in err
