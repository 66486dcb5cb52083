"""The conformance suite on this plugin's examples."""

from __future__ import annotations

from atp_core.testing import Conformance


class TestConformance(Conformance):
    plugin = "llava"
