"""Each plugin works next to core alone, with what it declares and nothing else.

A virtual environment gets core and one plugin from their wheels, and by links exactly the
distributions these declare, followed through; whatever else the development environment holds is
not there.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from venvs import Environment, build_wheels, name_of, needed

ROOT = Path(__file__).parents[1]
PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))

# What a modality brings that no other plugin may need.
FOREIGN = {
    "atp-llm": ["open_clip", "timm"],
    "atp-timm": ["gguf", "open_clip", "transformers"],
    "atp-open-clip": ["gguf"],
    "atp-quant": ["gguf", "open_clip", "timm"],
    "atp-ray": ["gguf", "open_clip", "timm", "transformers"],
    "atp-llava": ["gguf", "open_clip", "timm"],
    "atp-sparse-cpu": ["gguf", "open_clip", "timm", "transformers"],
    "atp-sparse-gpu": ["gguf", "open_clip", "timm", "transformers"],
    "atp-structured": ["gguf", "open_clip", "timm", "transformers"],
    "atp-tune": ["gguf", "open_clip", "timm"],
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
    return build_wheels(tmp_path_factory.mktemp("wheels"), [ROOT, *PLUGINS])


@pytest.mark.venv
@pytest.mark.slow
@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.name)
def test_plugin_alone(plugin: Path, wheels: Path, tmp_path: Path) -> None:
    name, package = name_of(plugin), plugin.name.replace("-", "_")
    found = needed(name)
    ours = {name_of(folder) for folder in [ROOT, *PLUGINS]}
    assert {key for key in found if key in ours} == {name, "atp-prune"}
    environment = Environment(tmp_path / "venv")
    environment.give(name, without=ours)
    environment.install("atp-prune", name, wheels=wheels)
    run = environment.python(CHECK, name, package, *FOREIGN[plugin.name])
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout.splitlines()[-1])
    entry = name.removeprefix("atp-prune-")
    assert report["statuses"] == {"core": ["ok", None], entry: ["ok", None]}
    assert report["imported_by_discovery"] == []
    assert report["imported_by_all_of_it"] == report["installed"] == []
