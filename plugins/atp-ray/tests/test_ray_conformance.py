"""The conformance suite on this plugin: its executor starts a cluster in most checks."""

from __future__ import annotations

import pytest

from atp_core.testing import Conformance

pytestmark = pytest.mark.slow


class TestConformance(Conformance):
    plugin = "ray"
