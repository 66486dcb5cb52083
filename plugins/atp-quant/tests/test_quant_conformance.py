"""The conformance suite on this plugin."""

from __future__ import annotations

import pytest

from atp_core.testing import Conformance

pytestmark = pytest.mark.slow


class TestConformance(Conformance):
    plugin = "quant"
