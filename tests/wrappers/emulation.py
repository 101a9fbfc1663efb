"""Launches of the compiled kernels on either operand path, mutants among them, for whoever tests what they compute."""

from __future__ import annotations

import torch

from mla.compile import compile_decode
from mla.mutants import compile_mutant
from ptx_emulator.errors import EmulationError
from wrappers import emulated, kernel
from wrappers.decode import EMULATED_ARCH, device_arch
from wrappers.testing import MlaProblem, compare

PATHS = ("narrow", "wide")
NUM_CTAS = 13  # few enough that shares straddle requests, and prime so that they straddle row tiles


def run(problem: MlaProblem, backend: str, path: str = "auto") -> tuple[torch.Tensor, torch.Tensor]:
    """(out, lse) on the CPU, of an emulated launch or, `backend="cute"`, of one on the GPU."""
    if backend == "emulator":
        return launch(problem, path=path)
    call = problem.to("cuda").decode_call()
    out = torch.empty(problem.out_shape, dtype=problem.out_dtype, device="cuda")
    lse = torch.empty(problem.out_shape[:-1], device="cuda")
    kernel.launch(kernel.compiled(call, device_arch(out.device), path), call, out, lse)
    return out.cpu(), lse.cpu()


def launch_with_reports(
    problem: MlaProblem,
    mutant: str | None = None,
    num_ctas: int = NUM_CTAS,
    path: str = "auto",
    workspace: torch.Tensor | None = None,
    **options,
) -> tuple[torch.Tensor, torch.Tensor, emulated.DecodeReports]:
    """(out, lse, reports) of the kernel, or of one of its mutants; `options` go to the emulator."""
    call = problem.decode_call(workspace=workspace)
    config = kernel.decode_config(call, EMULATED_ARCH, path)
    compiled = compile_mutant(config, mutant) if mutant else compile_decode(config)
    out, lse = torch.empty(problem.out_shape, dtype=problem.out_dtype), torch.empty(problem.out_shape[:-1])
    return out, lse, emulated.launch(compiled, call, out, lse, num_ctas=num_ctas, **options)


def launch(problem: MlaProblem, mutant: str | None = None, **options) -> tuple[torch.Tensor, torch.Tensor]:
    """`launch_with_reports` without the reports."""
    return launch_with_reports(problem, mutant, **options)[:2]


def is_caught(problem: MlaProblem, mutant: str, **options) -> bool:
    """Whether the checks reject the mutant, or its emulation stops."""
    try:
        return bool(compare(problem, *launch(problem, mutant, **options)).faults)
    except EmulationError:
        return True


def same(result: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...]) -> bool:
    """Bit for bit; the lse's -inf and the output's zeros included."""
    return all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))
