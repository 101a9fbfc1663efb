"""Launches of the compiled kernels on either operand path, mutants among them, for whoever tests what they compute."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mla.compile import compile_decode
from mla.config import MlaDecodeConfig
from ptx_emulator.errors import EmulationError
from scripts.mutants import compile_mutant
from wrappers import emulated, kernel
from wrappers.backends import EMULATED_ARCH, device_arch
from wrappers.call import DecodeCall
from wrappers.testing import MlaProblem, assert_matches, compare

PATHS = ("narrow", "wide")
SCHEDULES: list[tuple[str, int]] = []  # (order, seed) of the launches besides the first (pytest --order, --seeds)
NUM_CTAS = 13  # few enough that shares straddle requests, and prime so that they straddle row tiles


def run(problem: MlaProblem, backend: str, path: str = "auto") -> tuple[torch.Tensor, torch.Tensor]:
    """(out, lse) on the CPU, of an emulated launch or, `backend="cute"`, of one on the GPU."""
    if backend == "emulator":
        return launch(problem, path=path)
    call = problem.to("cuda").decode_call()
    kernel.launch(kernel.compiled(call, device_arch(call.out.device), path), call)
    return call.out.cpu(), call.lse.cpu()


def config_of(call: DecodeCall, path: str = "auto") -> MlaDecodeConfig:
    """The call's kernel; a path that it takes anyway is named "auto", as in all other tests, which share it."""
    auto = kernel.decode_config(call, EMULATED_ARCH)
    config = kernel.decode_config(call, EMULATED_ARCH, path)
    return auto if auto.is_wide == config.is_wide else config


def launch_with_reports(
    problem: MlaProblem,
    mutant: str | None = None,
    num_ctas: int = NUM_CTAS,
    path: str = "auto",
    workspace: torch.Tensor | None = None,
    **options,
) -> tuple[torch.Tensor, torch.Tensor, emulated.DecodeReports]:
    """(out, lse, reports) of the kernel, or of one of its mutants; `options` go to the emulator.

    Without an order among the options, the kernel is emulated under `SCHEDULES` too: AssertionError if a bit differs.
    """
    call = problem.decode_call(workspace=workspace)
    config = config_of(call, path)
    compiled = compile_mutant(config, mutant) if mutant else compile_decode(config)
    reports = emulated.launch(compiled, call, num_ctas=num_ctas, **options)
    for order, seed in SCHEDULES if mutant is None and "order" not in options else ():
        again = problem.decode_call(workspace=workspace)
        emulated.launch(compiled, again, num_ctas=num_ctas, order=order, seed=seed, **options)
        assert same((again.out, again.lse), (call.out, call.lse)), (
            f"the result depends on the schedule: {order}, seed {seed}"
        )
    return call.out, call.lse, reports


def launch(problem: MlaProblem, mutant: str | None = None, **options) -> tuple[torch.Tensor, torch.Tensor]:
    """`launch_with_reports` without the reports."""
    return launch_with_reports(problem, mutant, **options)[:2]


def assert_clean(problem: MlaProblem, schedules: Sequence[tuple[str, int]], num_ctas: int, path: str = "auto") -> None:
    """The checker finds nothing in any of the schedules, (order, seed), and they give the same bits, which are right."""
    results = []
    for order, seed in schedules:
        out, lse, reports = launch_with_reports(
            problem, num_ctas=num_ctas, path=path, order=order, seed=seed, checks=True
        )
        assert [str(hazard) for hazard in reports.merge.hazards] == []  # of both launches
        results.append((out, lse))
    assert_matches(problem, *results[0])
    for result in results[1:]:
        assert same(result, results[0])


def is_caught(problem: MlaProblem, mutant: str, **options) -> bool:
    """Whether the checks reject the mutant, or its emulation stops."""
    try:
        return bool(compare(problem, *launch(problem, mutant, **options)).faults)
    except EmulationError:
        return True


def same(result: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...]) -> bool:
    """Bit for bit: the same NaN are equal, zeros of different signs are not."""
    return all(torch.equal(_bytes(a), _bytes(b)) for a, b in zip(result, expected, strict=True))


def _bytes(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous().view(torch.uint8)
