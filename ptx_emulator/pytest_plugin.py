"""pytest: tests that compile and launch CuTe DSL kernels run them in the emulator, on a machine without a GPU.

    pytest --ptx-emulate [--ptx-races] [--ptx-suppress FILE] [--ptx-orders in_order,random] [--ptx-seeds N]
        [--ptx-time-limit S]

Installed with the emulator; from a checkout, `-p ptx_emulator.pytest_plugin`. With --ptx-emulate every test runs
within `ptx_emulator.emulate`; it fails if a hazard is found (--ptx-races), or if schedules end with different results.
The options have a prefix because they stand beside those of every other plugin and conftest (this repository's has
`--seeds`).
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("ptx-emulator", "CuTe DSL kernels in the PTX emulator")
    group.addoption("--ptx-emulate", action="store_true", help="run the tests' CuTe DSL kernels in the emulator")
    group.addoption("--ptx-orders", metavar="A,B", help="schedules of every launch, with the same result; in_order")
    group.addoption("--ptx-seeds", metavar="N", help="how many of each order that is chosen by a seed; 1")
    group.addoption("--ptx-races", action="store_true", help="a test with a hazard fails")
    group.addoption("--ptx-suppress", metavar="FILE", help="hazards that are known and accepted")
    group.addoption("--ptx-time-limit", metavar="S", help="seconds that a launch may take")


def pytest_configure(config: pytest.Config) -> None:
    given = config.option
    if given.ptx_emulate:
        config.pluginmanager.register(Emulated(config), "ptx-emulator-run")
        return
    for name in ("orders", "seeds", "races", "suppress", "time_limit"):
        if getattr(given, f"ptx_{name}"):
            raise pytest.UsageError(f"--ptx-{name.replace('_', '-')}: needs --ptx-emulate")


class Emulated:
    """The hooks of a run with --ptx-emulate. Modules and session fixtures compile too, so all of the run is within one
    `emulate`, and every test within one of its own, whose findings are the test's."""

    def __init__(self, config: pytest.Config):
        """Raises pytest.UsageError, with one line."""
        from .tool.capture import emulate  # other runs need not load numba

        given = config.option
        try:
            self.options: dict[str, Any] = {
                "orders": (given.ptx_orders or "in_order").split(","),
                "seeds": int(given.ptx_seeds or 1),
                "checks": given.ptx_races,
                "suppress": given.ptx_suppress,
                "time_limit": float(given.ptx_time_limit) if given.ptx_time_limit else None,
            }
            whole = ExitStack()
            whole.enter_context(emulate(**self.options))
        except (ImportError, ValueError) as error:
            raise pytest.UsageError(f"--ptx-emulate: {error}") from error
        config.add_cleanup(whole.close)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self) -> Generator[None, Any, Any]:
        return (yield from self._watched())

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Generator[None, Any, Any]:
        return (yield from self._watched())

    def _watched(self) -> Generator[None, Any, Any]:
        from .tool.capture import emulate

        with emulate(**self.options) as emulation:
            result = yield
        if found := [str(hazard) for hazard in emulation.hazards]:
            pytest.fail(f"{len(found)} hazards:\n" + "\n".join(dict.fromkeys(found)), pytrace=False)
        if emulation.differences:
            pytest.fail("schedules end with different results:\n" + "\n".join(emulation.differences), pytrace=False)
        return result
