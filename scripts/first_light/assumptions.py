"""Item 1: a micro-kernel for each row of docs/silicon-assumptions.md, on the GPU and in the emulator, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from scripts.crosscheck_cases import Case
from scripts.first_light import move, multiply
from scripts.first_light.isolate import Crashed, isolated
from scripts.first_light.replay import NOT_HERE, on_emulator, on_gpu

HOLDS, DIFFERS, CRASHED = "holds", "differs", "crashed"
_WORST = (CRASHED, DIFFERS, HOLDS, NOT_HERE)  # a row's result is the first of these that one of its kernels has


@dataclass(frozen=True)
class Row:
    """A row of the document: its number, and what makes its micro-kernels."""

    number: int
    relies_on: str
    kernels: tuple[Callable[[], Case], ...]


ROWS = (
    Row(1, "`.ws` M=64 N=64 folds over the lanes", (multiply.fold_of_64_columns,)),
    Row(2, "a tile as K-major B and as MN-major B", (lambda: multiply.tile_read_twice("bf16"),)),
    Row(3, "boxes of 16 and 32 rows inside a chunk", (lambda: move.small_boxes(16), lambda: move.small_boxes(32))),
    Row(4, "boxes of fewer than 8 rows at multiples of 128",
        (lambda: move.small_boxes(3, 24), lambda: move.small_boxes(1, 16))),
    Row(5, "rows cleared by ordinary stores after TMA wrote them", (multiply.cleared_rows,)),
    Row(6, "NaN in rows of B stays in its columns of D", (multiply.nan_stays_in_its_column,)),
    Row(7, "dynamic shared memory starts at a multiple of 1024", (move.dynamic_shared_memory,)),
    Row(8, "fp8 `.ws` M=64 with N=128 and, MN-major, N=256", (lambda: multiply.tile_read_twice("e4m3"),)),
    Row(9, "fp8 rope span, 64-byte swizzle, as B", (multiply.rope_of_fp8,)),
    Row(10, "a commit with nothing to track arrives", (multiply.commit_without_work,)),
    Row(11, "dependent launch: writes are visible after the wait", (move.dependent_launch,)),
    Row(12, "TMA to the own barrier beside TMA to the leader's", (move.own_and_leading_barrier,)),
    Row(13, "remote expect_tx before and after the bytes",
        (lambda: move.bytes_announced(False), lambda: move.bytes_announced(True))),
    Row(14, "`.ws` M=64 with A in Tensor Memory", (multiply.query_in_tensor_memory,)),
    Row(15, "roles in elected threads of two warps", (multiply.two_elected_threads,)),
    Row(16, "scores over the P that the P V before them reads", (multiply.scores_over_probs,)),
)  # fmt: skip


def check_all(rows: Sequence[Row], is_rehearsal: bool, limit: float) -> Iterator[dict]:
    """A report row for each row, as they are done."""
    device = on_emulator if is_rehearsal else on_gpu
    for row in rows:
        kernels = [check(make(), device, limit) for make in row.kernels]
        result = min((kernel["result"] for kernel in kernels), key=_WORST.index)
        yield {"row": row.number, "relies_on": row.relies_on, "result": result, "kernels": kernels}


def check(case: Case, device: Callable[[Case], list[bytes] | str], limit: float) -> dict:
    """One micro-kernel. `device` and the emulator run it in a process each, `limit` seconds at most.

    "holds": both leave what was worked out by hand. "differs": one of them does not; `about` says which one and where.
    """
    answer = {"kernel": case.name}
    for machine, run in (("emulator", on_emulator), ("device", device)):
        try:
            found = isolated(run, case, limit=limit)
        except Crashed as error:
            return {**answer, "result": CRASHED, "about": f"{machine}: {error}"}
        if isinstance(found, str):
            return {**answer, "result": NOT_HERE, "about": found}
        if different := difference(case.after, found):
            return {**answer, "result": DIFFERS, "about": f"{machine}: {different}"}
    return {**answer, "result": HOLDS, "about": ""}


def difference(expected: Sequence[bytes], found: Sequence[bytes]) -> str:
    """Where the buffers differ, "" where nowhere: the number of 32-bit words, and the first one, expected and found."""
    for number, pair in enumerate(zip(expected, found, strict=True)):
        if pair[0] == pair[1]:
            continue
        left, right = (np.frombuffer(content[: len(content) // 4 * 4], np.uint32) for content in pair)
        wrong = np.flatnonzero(left != right)
        name = "out" if number == 0 else f"input {number}"
        first = int(wrong[0])
        return (
            f"{wrong.size} of {left.size} words of {name}, the first is word {first}: "
            f"expected {left[first]:#010x}, found {right[first]:#010x}"
        )
    return ""
