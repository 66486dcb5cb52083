"""Fixtures for tests of plugins; pytest finds them where atp-prune is installed.

``isolated_plugins`` refuses discovery: whatever the test does, only the plugins it registers take
part. ``tmp_plugin`` writes a distribution that is found like an installed one, for this test.
"""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .._discovery import Candidate
    from .._plugins import Plugins

__all__ = ["IsolatedPlugins", "isolated_plugins", "tmp_plugin"]


class IsolatedPlugins:
    """The plugins of one test, which stand in for those that are installed."""

    def __init__(self) -> None:
        self._candidates: list[Candidate] = []

    def register(self, name: str, plugin: Any) -> None:
        """Take in a module or object with hooks under a plugin's name."""
        from .._discovery import given

        self._candidates.append(given(name, plugin))

    def found(self) -> list[Candidate]:
        """What discovery finds while the test runs."""
        return list(self._candidates)

    def build(self) -> Plugins:
        """The manager that everything in this test gets.

        Raises:
            PluginError: a registered plugin is broken; its message says why.
        """
        from .._plugins import build_manager
        from ..errors import PluginError

        plugins = build_manager()
        broken = [status for status in plugins.statuses if status.status == "broken"]
        if broken:
            raise PluginError("; ".join(f"{status} is broken: {status.error}" for status in broken))
        return plugins


@pytest.fixture
def isolated_plugins(monkeypatch: pytest.MonkeyPatch) -> IsolatedPlugins:
    """Only what this test registers: ``isolated_plugins.register("mine", atp_mine)``.

    `atp_core.prune`, the command line in this process and everything else that looks for installed
    plugins gets these, and core's.
    """
    from .. import _plugins

    made = IsolatedPlugins()
    monkeypatch.setattr(_plugins, "installed", made.found)
    return made


@pytest.fixture
def tmp_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Writes a distribution with an entry point: ``tmp_plugin("mine", code)``.

    The function takes the plugin's name, the code of its one module, and, if they matter, the
    names of the distribution and its version; it returns the folder, which is on `sys.path`. For
    another process, put it on ``PYTHONPATH``.
    """
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)

    def write(
        name: str, code: str, *, distribution: str | None = None, version: str = "1.0"
    ) -> Path:
        distribution = distribution or f"atp-prune-{name}"
        module = distribution.replace("-", "_")
        (folder / f"{module}.py").write_text(textwrap.dedent(code), encoding="utf-8")
        info = folder / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
            "Requires-Dist: atp-prune\n",
            encoding="utf-8",
        )
        (info / "entry_points.txt").write_text(
            f"[atp_prune]\n{name} = {module}\n", encoding="utf-8"
        )
        importlib.invalidate_caches()
        return folder

    yield write
    for module in set(sys.modules) - before:
        found = getattr(sys.modules[module], "__file__", None)
        if found is not None and Path(found).is_relative_to(folder):
            del sys.modules[module]
