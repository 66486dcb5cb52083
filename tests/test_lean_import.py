"""Importing atp_core and showing help must be quick: no torch, nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "matplotlib", "numpy", "safetensors")


@pytest.mark.parametrize(
    "code",
    [
        "import atp_core",
        "import atp_core.hookspecs, atp_core.records, atp_core.errors",
        "from atp_core.recipe import Recipe; Recipe.make({'source': 'x', 'sparsity': 0.5})",
        "from atp_core._plugins import build_manager; build_manager()",
        "from atp_core.cli import main; main(['--help'])",
        "from atp_core.cli import main; main(['--version'])",
        "from atp_core.cli import main; main(['prune', '--help'])",
        "from atp_core.cli import main; main(['plugins', 'list'])",
    ],
)
def test_nothing_heavy_is_imported(code: str) -> None:
    check = (
        f"import sys\n{code}\n"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_functions_are_there_when_asked_for() -> None:
    code = (
        "import atp_core\n"
        "assert all(getattr(atp_core, name) is not None for name in atp_core.__all__)\n"
        "assert callable(atp_core.search) and callable(atp_core.prune)\n"
        "import atp_core.api, atp_core.cli.prune, atp_core.trials.beta\n"
        "assert callable(atp_core.search), 'no module may hide a function'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
