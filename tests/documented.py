"""What the pages of the documentation hold, and running what they tell their reader to run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Step", "anchors", "commands", "content", "fenced", "run", "steps"]

# Code that needs something of the reader's own stands behind such a comment.
_BLOCK = re.compile(
    r"(?P<skip><!-- not run.*?-->\n)?```(?P<kind>sh|python)\n(?P<code>.*?)```", re.DOTALL
)
# What stands for the reader's own model, data or machine.
_READERS = re.compile(r"\./my-|meta-llama/|^(make|pip|python -m venv|\.) ", re.M)
_MARK = "--- here ---"


@dataclass(frozen=True)
class Step:
    """A piece of code of a page.

    Attributes:
        kind: "sh" or "python".
        code: what to run.
    """

    kind: str
    code: str


# --- what a page holds ---------------------------------------------------------------------------


def content(page: Path) -> str:
    """The text of a page, with the pages that it includes."""
    text = page.read_text("utf-8")

    def included(directive: re.Match[str]) -> str:
        return content(page.parent / directive[1])

    return re.sub(r"```\{include\} (\S+)\n.*?```", included, text, flags=re.S)


def fenced(text: str, *kinds: str) -> list[str]:
    """The code blocks of these kinds."""
    return re.findall(rf"^```(?:{'|'.join(kinds)})\n(.*?)^```", text, re.S | re.M)


def commands(text: str) -> Iterator[str]:
    """Every `atp …` line that a reader is told to type, continued lines joined."""
    typed = fenced(text, "sh", "bash")
    typed += re.findall(r"^    (atp .*)$", text, re.M)
    typed += [line[2:] for block in fenced(text, "console") for line in block.splitlines()
              if line.startswith("$ ")]  # fmt: skip
    for block in typed:
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            found = re.match(r"(?:[A-Z_]+=\S+ )*(atp .*?)\s*(?:[&>|].*|#.*)?$", _quoted(line))
            if found is not None:
                yield found[1].replace("\0", ">").replace("\1", "<")


def _quoted(line: str) -> str:
    """The line, its comparisons within quotes out of the way of redirections."""
    return re.sub(r"'[^']*'", lambda m: m[0].replace(">", "\0").replace("<", "\1"), line)


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as code hosts and MyST make them."""
    without_code = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    found: Counter[str] = Counter()
    result = set()
    for heading in re.findall(r"^#{1,6} (.+)$", without_code, re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")
        result.add(f"{slug}-{found[slug]}" if found[slug] else slug)
        found[slug] += 1
    return result


# --- running it ----------------------------------------------------------------------------------


def steps(page: Path) -> list[Step]:
    """What a page says to run, without what needs the reader's own model or data."""
    found = []
    for block in _BLOCK.finditer(page.read_text("utf-8")):
        if not block["skip"] and not _READERS.search(block["code"]):
            found.append(Step(block["kind"], block["code"]))
    return found


def run(found: list[Step], directory: Path) -> list[str]:
    """Run steps in a directory, as a reader would.

    Python goes on where the last Python of the page stopped: all of it so far is run again.

    Returns:
        What each step printed on stdout.
    """
    programs = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONUTF8": "1",
    }
    printed = []
    so_far = ""
    for step in found:
        if step.kind == "sh":
            command = ["bash", "-eu", "-c", step.code]
        else:
            command = [sys.executable, "-c", f"{so_far}\nprint({_MARK!r})\n{step.code}"]
            so_far += step.code
        done = subprocess.run(
            command, cwd=directory, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{step.code}\n{done.stdout}\n{done.stderr}"
        printed.append(done.stdout.split(f"{_MARK}\n")[-1])
    return printed
