"""`atp plugins new`: names, files, and that what it writes works as it stands."""

from __future__ import annotations

import ast
import json
import keyword
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from venvs import Environment, build_wheels, name_of

from atp_core import __version__
from atp_core._plugins import Plugins, build_manager
from atp_core.cli import main
from atp_core.errors import UsageError
from atp_core.hookspecs import hookimpl
from atp_core.records import Offer
from atp_core.scaffold import KINDS, Kind, _new, names_for, new_plugin, render
from atp_core.scaffold._render import version_range

ROOT = Path(__file__).parents[1]
EVERY: tuple[Kind, ...] = get_args(Kind)
SHORTEST, LONGEST = "q", "a" + "-b2c" * 7 + "d"

COMMON = {
    ".github/workflows/test.yml",
    ".gitignore",
    "README.md",
    "pyproject.toml",
    "src/atp_my_thing/__init__.py",
    "src/atp_my_thing/py.typed",
    "tests/test_conformance.py",
}
HOOKS = {
    "model": {
        "atp_recognize",
        "atp_load",
        "atp_locate",
        "atp_calibrate",
        "atp_evaluate",
        "atp_save",
        "atp_examples",
    },
    "method": {"atp_methods"},
    "allocator": {"atp_allocators"},
    "executor": {"atp_executors"},
    "runtime": {"atp_runtimes"},
}


class Taking:
    """A plugin that offers a pruning method called "random"."""

    ATP_HOOK_API = 1

    @hookimpl
    def atp_methods(self) -> list[Offer]:
        return [Offer("random", "nowhere:Random", "cuts at random")]


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return build_manager(discover=False, extra=[("taking", Taking())])


def rendered(name: str, kind: Kind) -> dict[str, str]:
    return render(names_for(name, kind), kind)


# --- names ---------------------------------------------------------------------------------------


def test_what_a_plugin_is_called() -> None:
    names = names_for("my-whisper2", "model")
    assert names.plugin == "my-whisper2"
    assert names.distribution == "atp-prune-my-whisper2"
    assert names.package == "atp_my_whisper2"
    assert names.folder == "atp-my-whisper2"


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("wanda-plus", "method", "WandaPlusMethod"),
        ("my-method", "method", "MyMethod"),
        ("pruned", "method", "PrunedMethod"),
        ("trial", "executor", "TrialExecutor"),
        ("accelerated-layer", "runtime", "AcceleratedLayerRuntime"),
    ],
)
def test_classes_hide_no_import(name: str, kind: Kind, expected: str) -> None:
    assert names_for(name, kind).class_name == expected


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("My_Method", "'my-method' would do"),
        ("two words", "'two-words' would do"),
        ("", "a letter first"),
        ("2fast", "a letter first"),
        ("-x", "'x' would do"),
        ("a--b", "'a-b' would do"),
        ("a\n", "'a' would do"),
        ('x"; import os', "'x-import-os' would do"),
        ("{x}", "'x' would do"),
        ("@{plugin}", "'plugin' would do"),
        ("größe", "lower-case letters"),
        ("class", "word of Python"),
        ("none", "word of Python"),
        ("a" * 31, "at most 30"),
        ("atp-prune-x", "leave 'atp-prune-' out"),
        ("atp-x", "leave 'atp-' out"),
    ],
)
def test_unfit_names_are_told_with_a_better_one(name: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        new_plugin(name, "method", tmp_path)
    assert repr(name) in str(caught.value)
    assert told in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@given(st.text(max_size=12) | st.from_regex(r"[a-zA-Z0-9_.{}$@\"'-]{1,12}", fullmatch=True))
def test_a_name_is_refused_or_serves_everywhere(name: str) -> None:
    try:
        names = names_for(name, "method")
    except UsageError:
        return
    assert names.plugin == name
    for word in (names.package, names.class_name):
        assert word.isidentifier() and not keyword.iskeyword(word)
    assert Requirement(names.distribution).name == canonicalize_name(names.distribution)


@pytest.mark.parametrize(
    ("name", "kind", "told"),
    [
        ("core", "model", "already provides a plugin called 'core'"),
        ("taking", "model", "already provides a plugin called 'taking'"),
        ("wanda", "method", "atp-prune already offers a pruning method called 'wanda'"),
        ("random", "method", "given in code already offers a pruning method called 'random'"),
        ("uniform", "allocator", "already offers an allocation"),
        ("local", "executor", "already offers"),
    ],
)
def test_names_that_are_taken(
    plugins: Plugins, tmp_path: Path, name: str, kind: Kind, told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        new_plugin(name, kind, tmp_path, plugins=plugins)
    assert list(tmp_path.iterdir()) == []


def test_a_distribution_that_is_taken(tmp_path: Path) -> None:
    plugins = build_manager(discover=False, extra=[("taking", Taking())])
    plugins.status("taking").distribution = "Atp.Prune_Mine"
    with pytest.raises(UsageError, match=r"atp-prune-mine.*pip uninstall Atp\.Prune_Mine"):
        new_plugin("mine", "model", tmp_path, plugins=plugins)


def test_only_names_of_the_same_kind_are_taken(plugins: Plugins, tmp_path: Path) -> None:
    assert new_plugin("wanda", "allocator", tmp_path, plugins=plugins).directory.is_dir()


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", EVERY)
def test_the_files_of_a_plugin(kind: Kind) -> None:
    files = rendered("my-thing", kind)
    assert set(files) > COMMON
    assert len([path for path in files if path.startswith("tests/test_")]) >= 2
    assert set(KINDS) == set(HOOKS)
    for path, text in files.items():
        assert not re.search(r"@\{|\.tmpl|dot_", path + text), path
        assert text == "" or text.endswith("\n"), path
        if path.endswith(".py"):
            ast.parse(text)


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("name", [SHORTEST, LONGEST])
def test_metadata(name: str, kind: Kind) -> None:
    data = tomllib.loads(rendered(name, kind)["pyproject.toml"])
    names = names_for(name, kind)
    project = data["project"]
    assert project["name"] == names.distribution
    assert project["entry-points"] == {"atp_prune": {name: names.package}}
    assert project["optional-dependencies"]["test"] == ["pytest>=8.3"]
    assert data["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == [
        f"src/{names.package}"
    ]
    requires = {line.name: line for line in map(Requirement, project["dependencies"])}
    assert requires["atp-prune"].specifier.contains(__version__, prereleases=True)
    imported = {
        module
        for path, text in rendered(name, kind).items()
        if path.startswith("src/") and path.endswith(".py")
        for module in top_level_imports(ast.parse(text))
    }
    ours = imported - set(sys.stdlib_module_names) - {"atp_core"}
    assert ours <= set(requires), "it declares what it imports"


def top_level_imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module).partition(".")[0]


@pytest.mark.parametrize("kind", EVERY)
def test_the_entry_module_holds_hooks_and_imports_little(kind: Kind) -> None:
    tree = ast.parse(rendered("my-thing", kind)["src/atp_my_thing/__init__.py"])
    hooks = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert hooks == HOOKS[kind]
    top = ast.Module([n for n in tree.body if not isinstance(n, ast.FunctionDef)], [])
    assert set(top_level_imports(top)) <= {"__future__", "atp_core", "collections", "pathlib"}


@pytest.mark.parametrize("kind", EVERY)
def test_the_workflow_pins_actions_and_may_only_read(kind: Kind) -> None:
    workflow = yaml.safe_load(rendered("my-thing", kind)[".github/workflows/test.yml"])
    assert workflow["permissions"] == {"contents": "read"}
    [job] = workflow["jobs"].values()
    actions = [step["uses"] for step in job["steps"] if "uses" in step]
    assert actions and all(re.fullmatch(r"actions/[\w-]+@v\d+", action) for action in actions)
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands[-2:] == ["pytest", "atp plugins check my-thing"]


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("0.1.0", ">=0.1,<0.2"),
        ("0.12.3", ">=0.12,<0.13"),
        ("1.4.2", ">=1.4,<2"),
        ("0.3.0.dev4", ">=0.3.0.dev4,<0.4"),
        ("2.0.0rc1", ">=2.0.0rc1,<3"),
    ],
)
def test_the_versions_a_plugin_works_with(version: str, expected: str) -> None:
    assert version_range(version) == expected
    assert SpecifierSet(expected).contains(version, prereleases=True)


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("name", ["my-thing", SHORTEST, LONGEST, "torch", "method", "executor"])
def test_generated_code_is_clean(name: str, kind: Kind, tmp_path: Path, plugins: Plugins) -> None:
    pytest.importorskip("ruff", reason="ruff is not installed")
    made = new_plugin(name, kind, tmp_path, plugins=plugins).directory
    lint = tomllib.loads((made / "pyproject.toml").read_text())["tool"]["ruff"]
    assert lint == {
        "line-length": 100,
        "lint": {"select": ["E", "F", "I", "UP", "B", "SIM", "RUF"]},
    }
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "."],
        cwd=made,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_generated_code_is_typed(tmp_path: Path, plugins: Plugins) -> None:
    pytest.importorskip("mypy", reason="mypy is not installed")
    for kind in EVERY:
        made = new_plugin(f"my-{kind}", kind, tmp_path, plugins=plugins).directory
        assert tomllib.loads((made / "pyproject.toml").read_text())["tool"]["mypy"]["strict"]
        done = subprocess.run(
            [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path / "cache")],
            cwd=made,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout


# --- writing -------------------------------------------------------------------------------------


def test_files_are_written_as_they_are_listed(plugins: Plugins, tmp_path: Path) -> None:
    made = new_plugin("my-thing", "method", tmp_path / "new" / "place", plugins=plugins)
    assert made.directory == tmp_path / "new" / "place" / "atp-my-thing"
    written = {
        path.relative_to(made.directory).as_posix(): path.read_text("utf-8")
        for path in made.directory.rglob("*")
        if path.is_file()
    }
    assert written == rendered("my-thing", "method")
    assert list(made.files) == sorted(written)


def test_an_empty_folder_is_filled(plugins: Plugins, tmp_path: Path) -> None:
    (tmp_path / "atp-my-thing").mkdir()
    assert new_plugin("my-thing", "executor", tmp_path, plugins=plugins).files


def test_a_folder_that_holds_something_is_left_alone(plugins: Plugins, tmp_path: Path) -> None:
    # Even where it looks like an output of ours.
    file = tmp_path / "atp-my-thing" / "atp.json"
    file.parent.mkdir()
    file.write_text("{}")
    with pytest.raises(UsageError, match=r"atp-my-thing exists and is not empty.*-o"):
        new_plugin("my-thing", "method", tmp_path, plugins=plugins)
    assert [path.name for path in tmp_path.rglob("*")] == ["atp-my-thing", "atp.json"]


def test_a_file_in_the_way(plugins: Plugins, tmp_path: Path) -> None:
    (tmp_path / "atp-my-thing").write_text("mine")
    with pytest.raises(UsageError, match="is a file"):
        new_plugin("my-thing", "method", tmp_path, plugins=plugins)
    assert (tmp_path / "atp-my-thing").read_text() == "mine"


def test_nothing_is_left_of_a_failure(
    plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> dict[str, str]:
        return {"README.md": "text", "README.md/inside": "what cannot be"}

    monkeypatch.setattr(_new, "render", broken)
    with pytest.raises(OSError):
        new_plugin("my-thing", "method", tmp_path, plugins=plugins)
    assert list(tmp_path.iterdir()) == []


# --- the command ---------------------------------------------------------------------------------


def test_the_command_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plugins", "new", "my-thing", "--kind", "allocator", "-o", str(tmp_path), "--json"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told) == {"directory", "distribution", "files", "name"}
    assert told["name"] == "my-thing"
    assert told["distribution"] == "atp-prune-my-thing"
    assert set(told["files"]) >= COMMON
    assert all((Path(told["directory"]) / file).is_file() for file in told["files"])


def test_the_command_says_what_comes_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plugins", "new", "my-thing", "--kind", "model"]) == 0
    out = capsys.readouterr().out
    assert (tmp_path / "atp-my-thing" / "pyproject.toml").is_file()
    for line in ("cd atp-my-thing", "pip install -e", "pytest", "atp plugins check my-thing"):
        assert line in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["My_Thing", "--kind", "method"], "'my-thing' would do"),
        (["my-thing", "--kind", "metod"], "metod"),
        (["my-thing"], "--kind"),
    ],
)
def test_wrong_usage_ends_with_2(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plugins", "new", *words, "-o", str(tmp_path)]) == 2
    assert told in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_command_does_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from atp_core.cli import main; "
        "code = main(['plugins', 'new', 'my-thing', '--kind', 'model', '-o', sys.argv[1]]); "
        "sys.exit(code or 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


# --- what is written works -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="hatchling is not installed")
    return build_wheels(tmp_path_factory.mktemp("wheels"), [ROOT])


def printed(environment: Environment, *words: str | Path) -> Any:
    """What a command of the environment prints as JSON."""
    done = environment.run("atp", *words, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.mark.venv
@pytest.mark.slow
@pytest.mark.parametrize("kind", EVERY)
def test_a_new_plugin_works_as_it_stands(kind: Kind, wheels: Path, tmp_path: Path) -> None:
    """From the command to the plugin's own tests, with nothing there but what it declares."""
    name = f"my-{kind}x"
    environment = Environment(tmp_path / "venv")
    environment.give("atp-prune", without=["atp-prune"])
    environment.install("atp-prune", wheels=wheels)
    made = printed(environment, "plugins", "new", name, "--kind", kind, "-o", tmp_path)
    project = Path(made["directory"])
    declared = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    environment.give(*declared["dependencies"], without=["atp-prune"])
    environment.give(*declared["optional-dependencies"]["test"])
    assert name_of(project) == made["distribution"]
    build_wheels(tmp_path, [project])
    environment.install(made["distribution"], wheels=tmp_path)

    listed = {entry["name"]: entry for entry in printed(environment, "plugins", "list")}
    assert set(listed) == {"core", name}
    assert listed[name]["status"] == "ok", listed[name]["error"]
    assert set(listed[name]["hooks"]) == HOOKS[kind]
    assert listed[name]["distribution"] == made["distribution"]

    checked = printed(environment, "plugins", "check", name)
    assert checked["ok"] is True
    assert {check["outcome"] for check in checked["checks"]} <= {"passed", "skipped"}
    # What it offers was tried, not passed over.
    tried = {check["group"] for check in checked["checks"] if check["outcome"] == "passed"}
    assert tried > {f"plugin {name}"}

    done = environment.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=project)
    assert done.returncode == 0, done.stdout
