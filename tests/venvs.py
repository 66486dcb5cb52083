"""Clean virtual environments without a network: our wheels by pip, what they need by links."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import venv
from collections import Counter
from collections.abc import Iterable
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

__all__ = ["Environment", "build_wheels", "link", "name_of", "needed"]


def build_wheels(folder: Path, projects: Iterable[Path]) -> Path:
    """Build a wheel of each project into `folder`, which is returned."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "-w", str(folder), *map(str, projects)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def name_of(project: Path) -> str:
    """Name of the distribution in a project's folder."""
    text = (project / "pyproject.toml").read_text(encoding="utf-8")
    return str(tomllib.loads(text)["project"]["name"])


def needed(name: str) -> dict[str, Distribution]:
    """The distribution and all that it declares, followed through, that are installed here.

    Args:
        name: a requirement, extras included, e.g. "atp-prune[llm]".
    """
    installed = {canonicalize_name(found.metadata["Name"]): found for found in distributions()}
    result: dict[str, Distribution] = {}
    first = Requirement(name)
    waiting = [(canonicalize_name(first.name), frozenset(first.extras))]
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


def link(found: Iterable[Distribution], site: Path) -> None:
    """Make distributions visible in `site`."""
    owners: Counter[str] = Counter()
    for dist in distributions():
        owners.update({file.parts[0] for file in dist.files or [] if len(file.parts) > 1})
    for dist in found:
        for file in dist.files or []:
            if ".." in file.parts or "__pycache__" in file.parts:
                continue
            # A folder that several distributions share is made anew, file by file.
            own = Path(*(file.parts if owners[file.parts[0]] > 1 else file.parts[:1]))
            if not (site / own).exists():
                (site / own).parent.mkdir(parents=True, exist_ok=True)
                (site / own).symlink_to(Path(str(dist.locate_file(own))))


class Environment:
    """A virtual environment that holds nothing but what it is given.

    Args:
        home: where to make it; must not exist.
    """

    def __init__(self, home: Path) -> None:
        venv.create(home, symlinks=True)
        self.bin = home / "bin"
        [self.site] = home.glob("lib/python*/site-packages")

    def give(self, *requirements: str, without: Iterable[str] = ()) -> None:
        """Link installed distributions, with all that they declare, but those in `without`."""
        left = {canonicalize_name(name) for name in without}
        for requirement in requirements:
            found = needed(requirement)
            link((dist for name, dist in found.items() if name not in left), self.site)

    def install(self, *what: str | Path, wheels: Path | None = None) -> None:
        """Install by pip, without a network and without dependencies.

        Args:
            what: names, wheels or projects' folders.
            wheels: where names are looked for.
        """
        command = [sys.executable, "-m", "pip", "--python", str(self.bin / "python"), "install"]
        command += ["--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
        if wheels is not None:
            command += ["--find-links", str(wheels)]
        done = subprocess.run(
            [*command, *map(str, what)], check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

    def run(
        self, *words: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment; its output is captured, its exit code not judged."""
        program, *arguments = map(str, words)
        return subprocess.run(
            [str(self.bin / program), *arguments],
            capture_output=True,
            text=True,
            cwd=cwd,
            env=env,
            check=False,
        )

    def python(self, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Python code in it, isolated from the working directory and the user's site."""
        return self.run("python", "-I", "-c", code, *arguments)
