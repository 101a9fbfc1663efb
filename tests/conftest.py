"""Shared set-up: one thread (CI has two cores and as many workers), and device tests skipped where no Blackwell GPU is."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

import pytest
import torch

from wrappers.backends import KERNEL_ARCHS

if "PYTEST_XDIST_WORKER" not in os.environ:
    # Every run compiles anew, each kernel once: the workers share this folder. Tests of the compile cache name their own.
    os.environ["MLA_COMPILE_CACHE"] = tempfile.mkdtemp(prefix="mla-test-kernels-")
    atexit.register(shutil.rmtree, os.environ["MLA_COMPILE_CACHE"], ignore_errors=True)
# One thread each, here and in the commands that tests start: tensors are small, so that more of them only spin.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--order", help="emulate each kernel in this order too (ptx_emulator.machine.asyncs), with the same result"
    )
    parser.addoption("--seeds", type=int, default=1, help="how many schedules of --order")


def pytest_configure(config: pytest.Config) -> None:
    order = config.getoption("--order")
    if not order:
        return
    # Only here: other runs need not load the compiler and the emulator.
    from ptx_emulator.machine.asyncs import ORDERS
    from tests.wrappers import emulation

    if order not in ORDERS:
        raise pytest.UsageError(f"--order {order}: must be one of {', '.join(ORDERS)}")
    emulation.SCHEDULES = [(order, seed) for seed in range(config.getoption("--seeds"))]


def no_device_reason() -> str | None:
    if not torch.cuda.is_available():
        return "no CUDA GPU"
    capability = torch.cuda.get_device_capability()
    if capability not in KERNEL_ARCHS:
        return f"GPU of compute capability {capability[0]}.{capability[1]}, not {sorted(KERNEL_ARCHS)}"
    return None


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("device") and (reason := no_device_reason()):
        pytest.skip(reason)
