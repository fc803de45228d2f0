from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.distributed.processes import Processes


@pytest.fixture(scope="session")
def two() -> Iterator[Processes]:
    """Two processes of one process group."""
    processes = Processes(2)
    yield processes
    processes.stop()


@pytest.fixture(scope="session")
def four() -> Iterator[Processes]:
    """Four processes of one process group."""
    processes = Processes(4)
    yield processes
    processes.stop()
