"""The pytest plugin: tests' kernels run in the emulator; races, and results that schedules change, fail them."""

from __future__ import annotations

from pathlib import Path

import pytest

# Loaded here because pytester forgets what its runs import, and neither the DSL nor the emulator can be loaded twice.
import ptx_emulator.check.hazards
import ptx_emulator.grid
import ptx_emulator.tool.capture  # noqa: F401

from .tool import kernels  # noqa: F401

ROOT = Path(__file__).parents[2]
pytest_plugins = ["pytester"]
TESTS = """
    import cutlass.cute as cute
    import torch
    from cutlass.cute.runtime import from_dlpack
    from tests.ptx_emulator.tool.kernels import STREAM, Add, racing_reverse

    def given(tensors):
        return [from_dlpack(tensor) for tensor in tensors]

    compiled = cute.compile(Add(64), *given(torch.randn(3, 2, 64)), 0, STREAM)

    def test_right():
        a, b, out = torch.randn(3, 2, 64)
        compiled(*given((a, b, out)), STREAM)
        assert torch.equal(out, a + b)

    def test_race():
        racing_reverse(*given(torch.randn(2, 64)))

    def test_wrong():
        test_right()
        assert False, "wrong anyway"
"""


@pytest.fixture
def run(pytester: pytest.Pytester):
    pytester.makepyfile(TESTS)

    def run(*options: str) -> pytest.RunResult:
        return pytester.runpytest_inprocess("-p", "ptx_emulator.pytest_plugin", "-p", "no:cacheprovider", *options)

    return run


def test_kernels_are_emulated(run):
    result = run("--ptx-emulate")
    result.assert_outcomes(passed=2, failed=1)


def test_a_race_fails_the_test_that_has_it(run):
    result = run("--ptx-emulate", "--ptx-races")
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(["*test_race*", "* hazards:", "error [[]race[]]*"])
    result.stdout.fnmatch_lines("*wrong anyway*")


def test_schedules_that_end_differently_fail_the_test(run):
    result = run("--ptx-emulate", "--ptx-orders", "in_order,random", "--ptx-seeds", "6")
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(
        ["schedules end with different results:", "call 0, *reverse_staged*, random, seed *: out[[]*"]
    )


def test_suppressed_hazards_pass(run, pytester):
    pytester.makefile(".ini", known="[race a]\nreason = a test\n[uninitialised b]\nreason = a test\n")
    run("--ptx-emulate", "--ptx-races", "--ptx-suppress", "known.ini").assert_outcomes(passed=2, failed=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--ptx-races",), "--ptx-races: needs --ptx-emulate"),
        (("--ptx-orders", "late"), "--ptx-orders: needs --ptx-emulate"),
        (("--ptx-emulate", "--ptx-orders", "early"), "must be of in_order, late, random, adversarial"),
        (("--ptx-emulate", "--ptx-seeds", "0"), "seeds=0"),
        (("--ptx-emulate", "--ptx-suppress", "known.ini"), "needs checks=True"),
    ],
)
def test_wrong_options(run, options, message):
    result = run(*options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert message in result.stderr.str()


def test_without_the_option_nothing_is_loaded(pytester, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makepyfile("import sys\ndef test_it():\n    assert not {'numba', 'cutlass'} & set(sys.modules)")
    result = pytester.runpytest_subprocess("-p", "ptx_emulator.pytest_plugin", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1)
