"""atp-prune's own suite, run on whatever this plugin offers."""

from __future__ import annotations

from atp_core.testing import Conformance


class TestConformance(Conformance):
    """All that core asks of a plugin."""

    plugin = "sentence-encoder"
