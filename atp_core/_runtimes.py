"""Which runtime executes a model, and running it under that one for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, cast

from ._plugins import Plugins
from .errors import AtpError, PluginError
from .runtime import Accelerated, Acceleration, Runtime

if TYPE_CHECKING:
    from torch import nn

__all__ = ["AUTO", "accelerated", "choose_runtime", "run_accelerated"]

AUTO: Final = "auto"
_DENSE: Final = "dense"
_INSTALL: Final = "pip install atp-prune-sparse-cpu (CPU) or atp-prune-sparse-gpu (NVIDIA GPU)"


def choose_runtime(plugins: Plugins, name: str, device: str) -> Runtime:
    """The runtime of a name, once it is clear that it can run here.

    Args:
        plugins: where runtimes are offered.
        name: "auto" takes the first sparse runtime, by name, that is for the device and can run.
        device: type of the device that the model is on, e.g. "cpu".

    Raises:
        UnknownNameError: nobody offers `name`.
        AtpError: it cannot run here; or "auto" finds none that can.
    """
    offers = plugins.offers("runtimes")
    if name != AUTO:
        found = cast(Runtime, offers.create(name))
        found.check()
        return found
    reasons = []
    for offered in offers:
        if offered == _DENSE:
            continue
        runtime = cast(Runtime, offers.create(offered))
        devices = tuple(getattr(runtime, "devices", ()))
        if devices and device not in devices:
            reasons.append(f"{offered} is for {', '.join(devices)}, and the model is on {device}")
            continue
        try:
            runtime.check()
        except AtpError as error:
            reasons.append(f"{offered}: {error}")
            continue
        return runtime
    if not reasons:
        raise PluginError(f"no sparse runtime is installed; install one: {_INSTALL}")
    told = "; ".join(reasons)
    raise PluginError(
        f"no sparse runtime can run here ({told}); mend that, or install another: {_INSTALL}"
    )


def accelerated(model: nn.Module, runtime: Runtime, processor: object = None) -> Accelerated:
    """A model, executed by a runtime from now on.

    Raises:
        PluginError: the runtime failed, or told nothing of what it did; the model is dense again.
    """
    done: Any  # whatever it says it gives
    try:
        done = runtime.accelerate(model)
    except AtpError:
        raise
    except Exception as error:
        with contextlib.suppress(Exception):
            runtime.restore(model)
        raise PluginError(
            f"the runtime {runtime.name!r} failed on {type(model).__name__}: "
            f"{type(error).__name__}: {error}; tell its authors, or use --runtime dense"
        ) from error
    if not isinstance(done, Acceleration):
        runtime.restore(model)
        raise PluginError(
            f"the runtime {runtime.name!r} gave {type(done).__name__}, not Acceleration; tell its "
            "authors"
        )
    return Accelerated(model, processor, runtime, done)


@contextlib.contextmanager
def run_accelerated(model: nn.Module, runtime: Runtime) -> Iterator[Accelerated]:
    """A model executed by a runtime, and dense again at the end."""
    found = accelerated(model, runtime)
    try:
        yield found
    finally:
        found.restore()
