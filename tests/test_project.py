"""The project's own promises: target names, the form of plugin folders, nothing of one machine."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PLUGINS = sorted(path for path in (ROOT / "plugins").iterdir() if path.is_dir())
# Folders of users and of build machines; "me" stands for anyone in examples.
MACHINE_PATHS = re.compile(r"(?<![\w./-])/(home|Users|root|work)/(?!me\b)[\w.-]")


def project(path: Path) -> dict[str, Any]:
    return tomllib.loads((path / "pyproject.toml").read_text(encoding="utf-8"))


def tracked() -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listing.stdout.split("\0") if name]


@pytest.mark.parametrize("target", ["install", "demo", "test", "lint", "bench", "docs", "clean"])
def test_makefile_has_target(target: str) -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:", text, re.MULTILINE)
    assert re.search(rf"^\.PHONY:.*\b{target}\b", text, re.MULTILINE)
    assert f"make {target} " in text, f"`make help` does not tell of {target}"


def test_ci_is_executable() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_tracked_files_name_no_machine() -> None:
    found = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue
        if match := MACHINE_PATHS.search(text):
            line = text.count("\n", 0, match.start()) + 1
            found.append(f"{path.relative_to(ROOT)}:{line}: {match[0]}…")
    assert not found, "\n".join(found)


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.name)
def test_plugin_folder_is_complete(plugin: Path) -> None:
    package = plugin.name.replace("-", "_")
    for name in ("pyproject.toml", "README.md", f"src/{package}/__init__.py", "tests"):
        assert (plugin / name).exists(), f"plugins/{plugin.name} has no {name}"
    assert (plugin / "src" / package / "py.typed").exists(), "its types would not be seen"
    assert list((plugin / "tests").glob("test_*.py")), f"plugins/{plugin.name} has no tests"


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.name)
def test_plugin_metadata(plugin: Path) -> None:
    data = project(plugin)["project"]
    assert data["name"] == plugin.name.replace("atp-", "atp-prune-", 1)
    assert list(data["entry-points"]) == ["atp_prune"]
    assert any(line.startswith("atp-prune>=") for line in data["dependencies"])


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.name)
def test_import_linter_knows_every_plugin(plugin: Path) -> None:
    package = plugin.name.replace("-", "_")
    config = project(ROOT)["tool"]["importlinter"]
    above = config["contracts"][0]["layers"][0].split(" | ")
    assert package in config["root_packages"], f"add {package!r} to root_packages"
    assert package in above, f"add '| {package}' to the first contract's first layer"


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.name)
def test_core_offers_every_plugin_as_an_extra(plugin: Path) -> None:
    name = project(plugin)["project"]["name"]
    extras = project(ROOT)["project"]["optional-dependencies"]
    [extra] = [extra for extra, names in extras.items() if names == [name]]
    [everything] = extras["all"]
    assert extra in everything.removeprefix("atp-prune[").removesuffix("]").split(",")
