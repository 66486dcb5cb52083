"""Compiles the kernels into the wheel where there is a C compiler; else they are at first use."""

from __future__ import annotations

import importlib.util
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class KernelsHook(BuildHookInterface[Any]):
    """Adds the compiled library, and what it was made of, to the package."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile; a failure leaves it to the first use, where it is told."""
        package = Path(self.root) / "src" / "atp_sparse_cpu"
        spec = importlib.util.spec_from_file_location("_build", package / "_build.py")
        assert spec is not None and spec.loader is not None
        build = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(build)
        try:
            made = build.into_package(package)
        except (OSError, ValueError) as error:
            self.app.display_warning(f"the kernels are compiled at first use: {error}")
            return
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"
        build_data["artifacts"] += [f"/src/atp_sparse_cpu/{path.name}/*" for path in {made.parent}]
