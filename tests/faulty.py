"""Plugins that are well, for tests that break them: one for models, and one with a method."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

from atp_core._plugins import Plugins, build_manager

__all__ = ["GOOD", "NAMED", "WELL", "Write", "atp", "found_with", "hook"]

Write = Callable[..., Path]

NAMED = "plugin 'mine' of atp-prune-mine 1.2"

# The whole way of a model, and a method.
WELL = textwrap.dedent("""
    import math
    import sys
    from pathlib import Path
    from atp_core.hookspecs import hookimpl
    from atp_core.records import *
    ATP_HOOK_API = 1

    def towers():
        from towers import TowersPlugin
        return TowersPlugin()

    @hookimpl
    def atp_recognize(source):
        return towers().atp_recognize(source)
    @hookimpl
    def atp_load(source, request):
        return towers().atp_load(source, request)
    @hookimpl
    def atp_locate(loaded):
        return towers().atp_locate(loaded)
    @hookimpl
    def atp_calibrate(loaded, data):
        return towers().atp_calibrate(loaded, data)
    @hookimpl
    def atp_evaluate(loaded, data, split, metrics):
        return towers().atp_evaluate(loaded, data, split, metrics)
    @hookimpl
    def atp_save(loaded, directory):
        return towers().atp_save(loaded, directory)
    @hookimpl
    def atp_methods():
        return [Offer("mine", "atp_core.methods.magnitude:Magnitude", "as magnitude")]
""")

GOOD = textwrap.dedent("""
    from atp_core.hookspecs import hookimpl
    from atp_core.records import Offer
    ATP_HOOK_API = 1
    @hookimpl
    def atp_methods():
        return [Offer("good", "atp_core.methods.magnitude:Magnitude", "as magnitude")]
""")


def found_with(write: Write, changes: str = "", code: str = WELL) -> Plugins:
    """Write the plugin that is well, with changes on top, and see what is found then."""
    write("mine", code + textwrap.dedent(changes), version="1.2")
    return build_manager()


def hook(signature: str, body: str) -> str:
    """A hook of one line; several statements are separated by semicolons."""
    lines = "".join(f"\n    {line.strip()}" for line in body.split(";"))
    return f"\n@hookimpl\ndef {signature}:{lines}\n"


def atp(*words: str, path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, with a folder on its path."""
    return subprocess.run(
        [sys.executable, "-m", "atp_core", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(path), "NO_COLOR": "1", **environment},
    )
