"""Two clusters, one whose nodes stay up and one whose nodes are lost, started once; and the jobs of all test files,
which each file's prepare() submits, so that they wait in the queue together: a requeue alone takes six seconds."""

import concurrent.futures
import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from lab import started  # noqa: E402


@pytest.fixture(scope="session")
def lab():
    yield from started(4)


@pytest.fixture(scope="session")
def fragile():
    yield from started(8)


@pytest.fixture(scope="session")
def prepared(request, lab):
    """{module: its jobs, or a promise of them}, for the tests that were selected."""
    modules = {item.module for item in request.session.items if hasattr(item.module, "prepare")}
    with concurrent.futures.ThreadPoolExecutor(max_workers=8) as pool:
        clusters = {
            module: request.getfixturevalue("fragile") if getattr(module, "LOSES_NODES", False) else lab
            for module in modules
        }
        yield {module: pool.submit(module.prepare, clusters[module]) for module in modules}


@pytest.fixture(scope="module")
def jobs(request, prepared):
    return prepared[request.module].result()
