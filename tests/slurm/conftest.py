"""The cluster, started once for all tests that leave its nodes alone, and one for each file whose tests end nodes."""

import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from lab import started  # noqa: E402


@pytest.fixture(scope="session")
def lab():
    yield from started()


@pytest.fixture(scope="module")
def fragile():
    yield from started()
