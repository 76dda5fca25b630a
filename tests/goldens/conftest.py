"""A golden file in which no case was recognised fails its tests instead of passing none."""

from __future__ import annotations

import pytest
from golden_files import NO_CASES


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fails a test that stands for the cases of a file which has none."""
    parameters = getattr(item, "callspec", None)
    if parameters is not None and NO_CASES in parameters.params.values():
        pytest.fail("the golden file of this test holds no case that the test recognises", pytrace=False)
