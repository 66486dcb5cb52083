"""The fixtures for authors of plugins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conforming import GoodPlugin

import atp_core
from atp_core._plugins import build_manager
from atp_core.cli import main
from atp_core.errors import PluginError
from atp_core.testing.fixtures import IsolatedPlugins


def test_discovery_is_refused(isolated_plugins: IsolatedPlugins) -> None:
    assert [s.name for s in build_manager().statuses] == ["core"]
    isolated_plugins.register("mine", GoodPlugin())
    assert [s.name for s in isolated_plugins.build().statuses] == ["core", "mine"]


def test_the_api_and_the_command_line_see_what_is_registered(
    isolated_plugins: IsolatedPlugins, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = GoodPlugin()
    isolated_plugins.register("mine", plugin)
    plugin.three(tmp_path)
    result = atp_core.prune(str(tmp_path), sparsity=0.5, samples=8)
    assert result.search.plugin == "mine"
    assert main(["plugins", "list", "--json"]) == 0
    listed = {entry["name"]: entry["status"] for entry in json.loads(capsys.readouterr().out)}
    assert listed == {"core": "ok", "mine": "ok"}


def test_a_broken_plugin_is_an_error(isolated_plugins: IsolatedPlugins) -> None:
    isolated_plugins.register("mine", object())
    with pytest.raises(PluginError, match=r"'mine'.* is broken: .*ATP_HOOK_API"):
        isolated_plugins.build()


CODE = """
    from atp_core.hookspecs import hookimpl
    from atp_core.records import Offer
    ATP_HOOK_API = 1
    @hookimpl
    def atp_methods():
        return [Offer("mine", "atp_prune_mine:None", "cuts nothing")]
"""


def test_a_throw_away_plugin_is_found_like_an_installed_one(
    tmp_plugin: Callable[..., Path],
) -> None:
    folder = tmp_plugin("mine", CODE, version="2.5")
    status = build_manager().status("mine")
    assert (status.distribution, status.version, status.status) == ("atp-prune-mine", "2.5", "ok")
    assert "mine" in build_manager().offers("methods")
    assert "atp_prune_mine" in sys.modules and str(folder) in sys.path


def test_it_is_gone_afterwards() -> None:
    assert "atp_prune_mine" not in sys.modules
    assert "mine" not in [status.name for status in build_manager().statuses]


def test_pytest_finds_the_fixtures_by_itself_and_without_torch(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(
        "import sys\n"
        "def test_mine(isolated_plugins, tmp_plugin):\n"
        "    assert isolated_plugins.found() == []\n"
        "    assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTEST_ADDOPTS": ""},
    )
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout
