"""Each plugin works next to core alone, with what it declares and nothing else.

A virtual environment gets core and one plugin from their wheels, and by links exactly the
distributions these declare, followed through; whatever else the development environment holds is
not there.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
import venv
from collections import Counter
from importlib.metadata import Distribution, distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))

# What a modality brings that no other plugin may need.
FOREIGN = {
    "atp-llm": ["open_clip", "timm"],
    "atp-timm": ["gguf", "open_clip", "transformers"],
    "atp-open-clip": ["gguf"],
    "atp-llava": ["gguf", "open_clip", "timm"],
}

CHECK = """
import importlib.util, json, sys
from atp_core._plugins import build_manager
plugins = build_manager()
plugin, package, *foreign = sys.argv[1:]
before = sorted(name for name in ("torch", *foreign) if name in sys.modules)
for module in sorted(__import__("pkgutil").iter_modules(__import__(package).__path__)):
    importlib.import_module(f"{package}.{module.name}")
print(json.dumps({
    "statuses": {s.name: [s.status, s.error] for s in plugins.statuses},
    "imported_by_discovery": before,
    "imported_by_all_of_it": [name for name in foreign if name in sys.modules],
    "installed": [name for name in foreign if importlib.util.find_spec(name)],
}))
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="hatchling is not installed")
    folder = tmp_path_factory.mktemp("wheels")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "-w", str(folder), str(ROOT), *map(str, PLUGINS)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def name_of(folder: Path) -> str:
    text = (folder / "pyproject.toml").read_text(encoding="utf-8")
    return str(tomllib.loads(text)["project"]["name"])


def needed(name: str) -> dict[str, Distribution]:
    """The distribution and all that it declares, followed through, that are installed here."""
    installed = {canonicalize_name(found.metadata["Name"]): found for found in distributions()}
    result: dict[str, Distribution] = {}
    waiting = [(canonicalize_name(name), frozenset[str]())]
    while waiting:
        key, extras = waiting.pop()
        if key not in installed:
            continue
        if key in result and not extras:
            continue
        result[key] = installed[key]
        for line in installed[key].requires or []:
            requirement = Requirement(line)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": e}) for e in extras or {""}):
                waiting.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return result


def link(found: dict[str, Distribution], site: Path) -> None:
    """Make distributions visible in `site`."""
    owners: Counter[str] = Counter()
    for dist in distributions():
        owners.update({file.parts[0] for file in dist.files or [] if len(file.parts) > 1})
    for dist in found.values():
        for file in dist.files or []:
            if ".." in file.parts or "__pycache__" in file.parts:
                continue
            # A folder that several distributions share is made anew, file by file.
            own = Path(*(file.parts if owners[file.parts[0]] > 1 else file.parts[:1]))
            if not (site / own).exists():
                (site / own).parent.mkdir(parents=True, exist_ok=True)
                (site / own).symlink_to(Path(str(dist.locate_file(own))))


@pytest.mark.slow
@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.name)
def test_plugin_alone(plugin: Path, wheels: Path, tmp_path: Path) -> None:
    name, package = name_of(plugin), plugin.name.replace("-", "_")
    found = needed(name)
    ours = {name_of(folder) for folder in [ROOT, *PLUGINS]}
    assert {key for key in found if key in ours} == {name, "atp-prune"}
    home = tmp_path / "venv"
    venv.create(home, symlinks=True)
    [site] = home.glob("lib/python*/site-packages")
    link({key: dist for key, dist in found.items() if key not in ours}, site)
    install = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "install"]
    install += ["--quiet", "--no-deps", "--no-index", "--find-links", str(wheels)]
    subprocess.run([*install, "atp-prune", name], check=True, capture_output=True)
    foreign = FOREIGN[plugin.name]
    run = subprocess.run(
        [home / "bin" / "python", "-I", "-c", CHECK, name, package, *foreign],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout.splitlines()[-1])
    entry = name.removeprefix("atp-prune-")
    assert report["statuses"] == {"core": ["ok", None], entry: ["ok", None]}
    assert report["imported_by_discovery"] == []
    assert report["imported_by_all_of_it"] == report["installed"] == []
