"""Compiles the kernels into a wheel where that can be done; else they are compiled at first use."""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = Path(__file__).parent / "src" / "atp_sparse_cpu"


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds ``_prebuilt/libatp_sparse.so`` and the platform's tag."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile beside the package; an editable install does so at first use instead."""
        if version == "editable":
            return
        compiling = _load("_compile")
        target = Path(self.directory) / "prebuilt" / compiling.LIBRARY
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            compiling.compile_to(target, compiling.find_compiler())
        except compiling.CannotCompile as error:
            self.app.display_warning(f"kernels will be compiled at first use: {error}")
            return
        build_data["force_include"][str(target)] = f"atp_sparse_cpu/_prebuilt/{compiling.LIBRARY}"
        stamp = target.with_suffix(".key")
        stamp.write_text(compiling.source_key(), encoding="utf-8")
        build_data["force_include"][str(stamp)] = f"atp_sparse_cpu/_prebuilt/{stamp.name}"
        build_data["pure_python"] = False
        # Plain C and ctypes: any Python 3, this platform only.
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"


def _load(name: str) -> Any:
    """A module of the package that needs nothing but the standard library."""
    spec = importlib.util.spec_from_file_location(name, PACKAGE / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
