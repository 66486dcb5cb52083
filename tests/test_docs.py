"""The documentation says what the code does."""

from __future__ import annotations

import ast
import inspect
import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import click
import pytest

from atp_core import hookspecs
from atp_core.cli._main import group

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def generated() -> dict[Path, Any]:
    pages: dict[Path, Any] = runpy.run_path(str(ROOT / "docs" / "generate.py"))["PAGES"]
    return pages


@pytest.mark.parametrize("path", generated(), ids=lambda path: path.name)
def test_generated_pages_are_current(path: Path) -> None:
    assert path.read_text("utf-8") == generated()[path](), "run `make docs`"


def test_every_hook_is_documented_with_its_exact_signature() -> None:
    page = (ROOT / "docs" / "hooks.md").read_text("utf-8")
    flat = re.sub(r"\s+", "", page).replace(",)", ")")
    for node in ast.parse(inspect.getsource(hookspecs)).body:
        if isinstance(node, ast.FunctionDef):
            arguments = ast.unparse(node.args)
            returns = ast.unparse(node.returns) if node.returns else "None"
            signature = re.sub(r"\s+", "", f"def {node.name}({arguments})->{returns}")
            assert signature in flat, node.name
    named = set(re.findall(r"^## (atp_\w+)", page, re.MULTILINE))
    assert named == {name for name in vars(hookspecs) if name.startswith("atp_")}


def test_the_hookspec_file_is_short() -> None:
    assert len(inspect.getsource(hookspecs).splitlines()) <= 200


def commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for block in re.findall(r"```(?:sh|bash)\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
            found += [(page.name, line) for line in block.splitlines() if line.startswith("atp ")]
    return found


@pytest.mark.parametrize(("page", "line"), commands())
def test_documented_commands_parse(page: str, line: str) -> None:
    """Every `atp …` line of the documentation names commands and options that exist."""
    words = shlex.split(line, comments=True)[1:]
    context = click.Context(group, info_name="atp")
    command: click.Command = group
    while isinstance(command, click.Group):
        found = command.get_command(context, words.pop(0))
        assert found is not None, line
        command = found
    parsed = command.make_context("atp", words)
    assert parsed.params


def test_make_targets_in_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"^make (\w+)", (ROOT / "README.md").read_text("utf-8"), re.M):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8")):
            if not link.startswith(("http", "mailto")):
                assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_environment_variables_are_documented() -> None:
    text = "".join(page.read_text("utf-8") for page in PAGES)
    code = "".join(path.read_text("utf-8") for path in (ROOT / "atp_core").rglob("*.py"))
    for name in set(re.findall(r"environ\.get\(\s*\"(ATP_\w+)\"", code)):
        assert f"`{name}" in text, name
