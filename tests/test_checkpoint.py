"""Atomic output directories, the sidecar, provenance and the model card."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from atp_core.checkpoint import _rename
from atp_core.checkpoint.atomic import atomic_directory, atomic_write_text, check_target
from atp_core.checkpoint.provenance import collect_provenance
from atp_core.checkpoint.sidecar import Sidecar, has_sidecar, read_sidecar, write_sidecar
from atp_core.errors import DataError, ModelError, UsageError


def ours(target: Path, text: str) -> None:
    """A directory that atp wrote earlier."""
    target.mkdir(parents=True)
    write_sidecar(target, Sidecar())
    (target / "weights").write_text(text)


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if ".atp-" in path.name)


# --- directories -------------------------------------------------------------------------------


def test_directory_appears_complete(tmp_path: Path) -> None:
    target = tmp_path / "missing" / "parents" / "out"
    with atomic_directory(target, overwrite_ok=False) as work:
        (work / "sub").mkdir()
        (work / "sub" / "file").write_text("new")
        assert work.parent == target.parent
        assert not target.exists()
    assert (target / "sub" / "file").read_text() == "new"
    assert leftovers(target.parent) == []


def test_directory_has_ordinary_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    with atomic_directory(tmp_path / "out", overwrite_ok=False):
        pass
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_empty_directory_is_taken(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    with atomic_directory(target, overwrite_ok=False) as work:
        (work / "file").touch()
    assert (target / "file").exists()


@pytest.mark.parametrize("overwrite_ok", [False, True])
def test_foreign_directory_is_never_touched(tmp_path: Path, overwrite_ok: bool) -> None:
    target = tmp_path / "photos"
    target.mkdir()
    (target / "cat.jpg").write_text("meow")
    with (
        pytest.raises(UsageError, match=r"photos.*did not write it.*choose another"),
        atomic_directory(target, overwrite_ok=overwrite_ok),
    ):
        pytest.fail("the body must not run")
    assert (target / "cat.jpg").read_text() == "meow"
    assert leftovers(tmp_path) == []


def test_file_in_the_way(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.touch()
    with pytest.raises(UsageError, match="is a file"):
        check_target(target, overwrite_ok=True)
    with pytest.raises(UsageError, match="is a file, not a directory"):
        check_target(target / "below", overwrite_ok=True)


def test_earlier_output_is_replaced_only_when_asked(tmp_path: Path) -> None:
    target = tmp_path / "out"
    ours(target, "old")
    with (
        pytest.raises(UsageError, match="--overwrite"),
        atomic_directory(target, overwrite_ok=False),
    ):
        pytest.fail("the body must not run")
    with atomic_directory(target, overwrite_ok=True) as work:
        (work / "weights").write_text("new")
        assert (target / "weights").read_text() == "old"
    assert (target / "weights").read_text() == "new"
    assert not has_sidecar(target)
    assert leftovers(tmp_path) == []


def test_replacing_without_an_exchanging_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_rename, "_exchange", lambda *_: False)
    test_earlier_output_is_replaced_only_when_asked(tmp_path)


def test_old_output_comes_back_when_the_last_rename_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_rename, "_exchange", lambda *_: False)
    target = tmp_path / "out"
    ours(target, "old")
    rename = Path.rename

    def failing(self: Path, to: Path) -> Path:
        if ".atp-tmp-" in self.name:
            raise KeyboardInterrupt
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(KeyboardInterrupt), atomic_directory(target, overwrite_ok=True):
        pass
    assert (target / "weights").read_text() == "old"
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_early_end_leaves_the_old_output(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "out"
    ours(target, "old")
    with pytest.raises(error), atomic_directory(target, overwrite_ok=True) as work:
        (work / "weights").write_text("half")
        raise error
    assert (target / "weights").read_text() == "old"
    assert leftovers(tmp_path) == []


class ForeignError(Exception):
    """Stands for safetensors' own error type."""


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), ForeignError(os.strerror(errno.ENOSPC))],
)
def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    target = tmp_path / "out"
    ours(target, "old")

    def full(*_: Any, **__: Any) -> int:
        raise error

    monkeypatch.setattr(Path, "write_bytes", full)
    with (
        pytest.raises(DataError, match=r"disk filled up while writing .*out.*Free some space"),
        atomic_directory(target, overwrite_ok=True) as work,
    ):
        (work / "weights").write_bytes(b"new")
    assert (target / "weights").read_text() == "old"
    assert leftovers(tmp_path) == []


def test_too_little_space_is_told_before_anything_is_written(tmp_path: Path) -> None:
    with (
        pytest.raises(DataError, match=r"not enough disk space .*1000000000\.00 GB needed, .*free"),
        atomic_directory(tmp_path / "out", overwrite_ok=False, needed_bytes=10**18),
    ):
        pytest.fail("the body must not run")
    assert list(tmp_path.iterdir()) == []


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "mkdir", denied)
    with (
        pytest.raises(UsageError, match=r"cannot write .*out.*Permission denied"),
        atomic_directory(tmp_path / "out", overwrite_ok=False),
    ):
        pytest.fail("the body must not run")


def test_link_keeps_pointing(tmp_path: Path) -> None:
    ours(tmp_path / "real", "old")
    link = tmp_path / "link"
    link.symlink_to("real")
    with atomic_directory(link, overwrite_ok=True) as work:
        (work / "weights").write_text("new")
    assert link.is_symlink()
    assert (tmp_path / "real" / "weights").read_text() == "new"


def test_leftovers_of_killed_runs_are_swept(tmp_path: Path) -> None:
    dead = tmp_path / ".out.atp-tmp-dead"
    alive = tmp_path / ".out.atp-tmp-alive"
    other = tmp_path / ".other.atp-tmp-dead"
    for folder in (dead, alive, other):
        folder.mkdir()
        (folder / "half").touch()
    holder = os.open(alive, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    try:
        with atomic_directory(tmp_path / "out", overwrite_ok=False):
            pass
    finally:
        os.close(holder)
    assert leftovers(tmp_path) == [other.name, alive.name]


def test_what_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with (
        pytest.raises(UsageError, match="did not write it"),
        atomic_directory(target, overwrite_ok=False),
    ):
        target.mkdir()
        (target / "theirs").touch()
    assert (target / "theirs").exists()
    assert leftovers(tmp_path) == []


# --- files -------------------------------------------------------------------------------------


def test_file_keeps_its_old_content_on_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    atomic_write_text(path, "old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="disk filled up"):
        atomic_write_text(path, "new")
    assert path.read_text() == "old"
    assert leftovers(tmp_path) == []


# --- sidecar -----------------------------------------------------------------------------------


def test_sidecar_round_trip(tmp_path: Path) -> None:
    sidecar = Sidecar(
        recipe={"source": "m", "sparsity": 0.5},
        schedule={"version": 1, "rates": {"decoder": {"0": 0.5}}},
        metrics={"pruned": {"perplexity": {"value": math.inf, "stderr": math.nan}}},
        trials=[{"beta": 0.0, "objective": -math.inf}],
    )
    path = write_sidecar(tmp_path, sidecar)

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is not JSON")

    json.loads(path.read_text(), parse_constant=refuse)
    found = read_sidecar(tmp_path)
    assert found.recipe == sidecar.recipe
    assert found.schedule == sidecar.schedule
    assert float(found.metrics["pruned"]["perplexity"]["value"]) == math.inf
    assert math.isnan(float(found.metrics["pruned"]["perplexity"]["stderr"]))


def test_sidecar_keeps_what_it_does_not_know(tmp_path: Path) -> None:
    (tmp_path / "atp.json").write_text('{"version": 1, "plugin_says": [1]}')
    write_sidecar(tmp_path, read_sidecar(tmp_path))
    assert json.loads((tmp_path / "atp.json").read_text())["plugin_says"] == [1]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "damaged"),
        ("[]", "damaged"),
        ("", "damaged"),
        ("{}", "has no version"),
        ('{"version": "1"}', "damaged"),
        ('{"version": 1, "trials": 3}', "damaged .*trials"),
        ('{"version": 99}', "version 99.*up to version 1.*upgrade"),
    ],
)
def test_unfit_sidecars(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "atp.json").write_text(text)
    with pytest.raises(ModelError, match=rf"atp\.json.*{told}"):
        read_sidecar(tmp_path)


def test_missing_sidecar(tmp_path: Path) -> None:
    assert not has_sidecar(tmp_path)
    with pytest.raises(ModelError, match=r"no atp\.json"):
        read_sidecar(tmp_path)


# --- provenance --------------------------------------------------------------------------------


def test_provenance_has_versions_and_seed() -> None:
    found = collect_provenance(seed=3, plugin_distribution="atp-prune-llm")
    json.dumps(found)
    assert found["seed"] == 3
    assert {"atp-prune", "torch", "atp-prune-llm", "transformers"} <= set(found["versions"])
    assert found["cpu"]


def test_provenance_of_an_unknown_plugin() -> None:
    versions = collect_provenance(seed=0, plugin_distribution="no-such-plugin")["versions"]
    assert "no-such-plugin" not in versions
    assert "torch" in versions


def test_provenance_names_no_user_and_no_machine() -> None:
    text = json.dumps(collect_provenance(seed=0))
    assert str(Path.home()) not in text
    assert os.uname().nodename not in text


def test_checkpoint_imports_are_light() -> None:
    code = (
        "import sys, atp_core.checkpoint as c; c.collect_provenance(seed=0); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_disk_usage_is_asked_of_the_right_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    usage = shutil.disk_usage

    def spy(path: Path) -> Any:
        asked.append(path)
        return usage(path)

    monkeypatch.setattr(shutil, "disk_usage", spy)
    with atomic_directory(tmp_path / "deep" / "out", overwrite_ok=False):
        pass
    assert asked == [tmp_path / "deep"]
