"""The conformance suite as tests."""

from __future__ import annotations

from typing import ClassVar

import pytest

from ._check import Check, CheckFailed, CheckSkipped
from ._suite import suite

__all__ = ["Conformance"]


class Conformance:
    """Subclass it in a test file and name the plugin; every check becomes a test.

    Attributes:
        plugin: name of the plugin's entry point. It must be installed; an editable install will
            do. No other plugin takes part, whatever else is installed.
    """

    plugin: ClassVar[str]

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """One test for each check."""
        if "conformance_check" in metafunc.fixturenames:
            checks = suite(self.plugin)
            metafunc.parametrize("conformance_check", checks, ids=[check.id for check in checks])

    def test_conforms(
        self, conformance_check: Check, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """What the check says is true of the plugin."""
        try:
            conformance_check.run(tmp_path_factory.mktemp)
        except CheckSkipped as reason:
            pytest.skip(str(reason))
        except CheckFailed as failure:
            cause = failure.__cause__
            if cause is not None:
                raise  # with the traceback of what the plugin raised
            pytest.fail(f"{conformance_check.group}: {failure}", pytrace=False)
