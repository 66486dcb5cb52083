"""How commands end: one message, one exit code."""

from __future__ import annotations

import errno
import math
import os
import subprocess
import sys

import pytest

import atp_core.cli._main as frame
from atp_core.cli import main
from atp_core.cli._console import emit_json
from atp_core.errors import (
    AtpError,
    DataError,
    GateError,
    ModelError,
    NumericalError,
    PluginError,
    UnknownNameError,
    UsageError,
)
from atp_core.gates import check_gates, parse_gate
from atp_core.records import Metric


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(frame.group, "main", fail)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (AtpError("x"), 1),
        (UsageError("x"), 2),
        (UnknownNameError("method", "a", ["b"]), 2),
        (PluginError("x"), 3),
        (ModelError("x"), 4),
        (NumericalError("x"), 4),
        (DataError("x"), 4),
        (GateError("x"), 5),
        (KeyboardInterrupt(), 130),
        (OSError(errno.ENOSPC, "No space left on device", "/somewhere"), 1),
        (RuntimeError("surprise"), 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_exit_codes(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
) -> None:
    raising(monkeypatch, error)
    assert main(["prune"]) == code
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: ")
    assert "Traceback" not in told.err


def test_a_surprise_says_how_to_see_more(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raising(monkeypatch, RuntimeError("surprise"))
    main([])
    assert "RuntimeError: surprise (set ATP_TRACEBACK=1" in capsys.readouterr().err
    monkeypatch.setenv("ATP_TRACEBACK", "1")
    main([])
    assert "Traceback" in capsys.readouterr().err


def test_version_and_help() -> None:
    for words, expected in ((["--version"], "0.1.0"), (["--help"], "prune")):
        done = subprocess.run(
            [sys.executable, "-m", "atp_core", *words], capture_output=True, text=True, check=True
        )
        assert expected in done.stdout
        assert done.stderr == ""


def test_a_reader_that_goes_away_is_no_crash() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "atp_core", "plugins", "list"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(write)
    assert "Traceback" not in done.stderr


def test_json_without_nan(capsys: pytest.CaptureFixture[str]) -> None:
    emit_json({"a": math.nan, "b": [math.inf, -math.inf], "c": 1.5, "β": "é"})
    out = capsys.readouterr().out
    assert '"NaN"' in out and '"Infinity"' in out and '"-Infinity"' in out and '"β": "é"' in out


def metric(value: float) -> Metric:
    return Metric("perplexity", value, None, 1, "", False, "report", "", "", "")


@pytest.mark.parametrize(
    ("gate", "value", "missed"),
    [
        ("perplexity>30", 31.0, True),
        ("perplexity > 30", 30.0, False),
        ("perplexity>=30", 30.0, True),
        ("perplexity<1e1", 9.0, True),
        ("perplexity<=10", 11.0, False),
        ("perplexity>30", math.nan, True),
        ("perplexity>30", math.inf, True),
    ],
)
def test_gates(gate: str, value: float, missed: bool) -> None:
    metrics = {"perplexity": metric(value)}
    if missed:
        with pytest.raises(GateError, match="perplexity"):
            check_gates([parse_gate(gate)], metrics)
    else:
        check_gates([parse_gate(gate)], metrics)


def test_a_gate_on_what_was_not_measured() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'perplexity'"):
        check_gates([parse_gate("perplexty>30")], {"perplexity": metric(1.0)})


@pytest.mark.parametrize("text", ["perplexity", "perplexity>", ">30", "a=3", "a>b", "a>1-2"])
def test_what_is_no_gate(text: str) -> None:
    with pytest.raises(UsageError, match="--fail-if"):
        parse_gate(text)
