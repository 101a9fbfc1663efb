"""What the isolated processes run: a micro-kernel or a program that is timed, on the GPU or in the emulator."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

import numpy as np

from scripts import crosscheck_gpu
from scripts.crosscheck_cases import Case, placed, replay_in_emulator

NOT_HERE = "not applicable here"
LAUNCHES = 7  # of a timed program, of which the quickest counts: all of its code is there by then
FLUSH_BYTES = 256 << 20  # twice a B200's L2
WARMUP, REPEATS = 20, 101  # of a chain of kernels


def on_emulator(case: Case) -> list[bytes]:
    """The bytes of the case's buffers afterwards."""
    return replay_in_emulator(case)


def on_gpu(case: Case) -> list[bytes] | str:
    """As on_emulator; or why this GPU has not what the case needs."""
    gpu = crosscheck_gpu.Gpu()
    return why_not(case, gpu) or gpu.replay(case)


def why_not(case: Case, gpu: crosscheck_gpu.Gpu) -> str:
    if case.needs_blackwell and not gpu.has_tcgen05:
        return f"needs tcgen05 and CTA pairs, the GPU is {gpu.target}"
    return ""


def timed_on_emulator(program: Mapping[str, Any], pretended: Mapping[str, float]) -> list[list[float]]:
    """(end, mark) of each launch of a program of bench.micro.measure, in the timed mode with these constants changed."""
    from ptx_emulator.grid import prepare_launch
    from ptx_emulator.timing import Constants, time_launch

    constants = Constants.of(**pretended)
    found = []
    for launch in program["launches"]:
        case = case_of(program, launch)
        arrays, params = placed(case)
        grid = prepare_launch(
            case.ptx, case.kernel, grid=case.grid, block=case.block, cluster=case.cluster,
            shared_bytes=case.shared_bytes, params=params, buffers=arrays,
        )  # fmt: skip
        time_launch(grid, constants if program["cold"] else constants.with_code_there, clusters=[0])
        end, mark = clocks(arrays[0].tobytes(), case)
        found.append([end, mark / constants["clock"] if program["timer"] else mark])
    return found


def timed_on_gpu(program: Mapping[str, Any], pretended: Mapping[str, float]) -> list[list[float]] | str:
    """The same on the GPU, the first launch of cold code and the quickest of LAUNCHES of other code."""
    gpu = crosscheck_gpu.Gpu()
    found = []
    for launch in program["launches"]:
        case = case_of(program, launch)
        if reason := why_not(case, gpu):
            return reason
        flush = FLUSH_BYTES if program["flushed"] else 0
        launches = gpu.replays(case, 1 if program["cold"] else LAUNCHES, flush)
        found.append(min(clocks(content, case) for content in launches))
    return found


def case_of(program: Mapping[str, Any], launch: Mapping[str, Any]) -> Case:
    before = tuple(bytes(content) for content in launch["before"])
    fields = {name: value for name, value in launch.items() if name != "before"}
    return Case(program["name"], before=before, after=(), holds_pointers=True, **fields)


def clocks(content: bytes, case: Case) -> list[float]:
    """(end, mark) from the buffer of clocks: of the slowest warp of a CTA, the median CTA that has any."""
    of_ctas = np.frombuffer(content, np.uint64).reshape(case.grid[0], -1, 2).max(axis=1)
    return [float(value) for value in np.median(of_ctas[of_ctas[:, 0] > 0], axis=0)]


def chain_on_emulator(programs: Mapping[str, Any], name: str, pretended: Mapping[str, float]) -> float:
    """Seconds of a chain of launches of bench.micro.measure, in the timed mode with these constants changed."""
    from ptx_emulator.grid import prepare_launch
    from ptx_emulator.timing import Constants, chain_seconds, time_launch

    constants = Constants.of(**pretended)
    found: list = []
    for entry, dependent in programs["chains"][name]:
        grid = prepare_launch(
            programs["ptx"], entry, grid=(1, 1, 1), block=(programs["threads"],), cluster=(1, 1, 1), shared_bytes=0,
            params=(), buffers=(), dependent=dependent,
        )  # fmt: skip
        found.append(time_launch(grid, constants, before=found[-1] if found else None))
    return chain_seconds(found, constants)


def chain_on_gpu(programs: Mapping[str, Any], name: str, pretended: Mapping[str, float]) -> float:
    """The same on the GPU: the median of the replays of a graph."""
    gpu = crosscheck_gpu.Gpu()
    chain = programs["chains"][name]
    return statistics.median(gpu.chain_seconds(programs["ptx"], chain, programs["threads"], WARMUP, REPEATS))


def sms_on_emulator(pretended: Mapping[str, float]) -> float:
    from ptx_emulator.timing import Constants

    return Constants.of(**pretended)["sms"]


def sms_on_gpu(pretended: Mapping[str, float]) -> float:
    return crosscheck_gpu.Gpu().num_sms
