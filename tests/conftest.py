"""What all tests stand on: one thread, a working directory apart, named skips."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

# Before anything loads a numeric library, and inherited by every child process: with more threads
# than cores, tests that take 2 s take a minute.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import pytest
import torch
from blockbuster import BlockBuster, blockbuster_ctx
from hypothesis import HealthCheck, settings

from agentkd.runtime import Agent
from tests.runtime_children import constant

torch.set_num_threads(1)
# How long an example or its data took says nothing about it.
settings.register_profile("any speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any speed")

# A shell's nohup ignores it, and commands leave it ignored; their tests send it.
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a program that is missing; in CI, where all should be, fail."""
    for mark in item.iter_markers("needs"):
        missing = [each for each in mark.args if shutil.which(each) is None]
        if missing:
            message = f"needs {', '.join(missing)}, not found on the PATH"
            if os.environ.get("CI"):
                pytest.fail(f"{message}; .ci/run should have installed it")
            pytest.skip(message)


@pytest.fixture(scope="session", autouse=True)
def working_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run in an empty folder, so that nothing a test leaves lands in the checkout."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("work"))
    yield
    os.chdir(before)


@pytest.fixture
def nonblocking() -> Iterator[BlockBuster]:
    """Make a blocking call inside the event loop an error, where agentkd makes it."""
    # The kernel is built by the first agent of a process, whichever test that is in.
    Agent(constant(0))
    with blockbuster_ctx("agentkd") as blockbuster:
        yield blockbuster
