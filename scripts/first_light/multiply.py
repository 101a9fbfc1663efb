"""Micro-kernels of the rows of docs/silicon-assumptions.md that are about the tensor core, one CTA each."""

from __future__ import annotations

import numpy as np

from scripts.crosscheck_cases import Case
from scripts.first_light.ptx import (
    DATA,
    Load,
    Tensor,
    bits_of,
    by_thread_0,
    case,
    chunks,
    commit,
    descriptor,
    expect,
    folded,
    instruction_descriptor,
    integers,
    mma,
    mma_ws,
    tensor_core,
    tma,
    wait,
)

ROWS = 64  # M of every instruction here
STEP_BYTES = 32  # of K, one instruction
CHUNK_BYTES = 128
SHARED_BYTES = 160 * 1024
NAN_FROM = 53  # first key behind the last: not a multiple of 8 or of an instruction's K


def scores(
    dtype: str, column: int, a: int, b: int, keys: int, dims: int, accumulate: bool = False, swizzle: str = "128B"
) -> str:
    """D at `column` = A[64, dims] B[keys, dims]^T, both K-major, in chunks of a swizzle's row from offsets a and b."""
    row_bytes = {"128B": 128, "64B": 64}[swizzle]
    row_elements = row_bytes // (2 if dtype == "bf16" else 1)
    idesc = instruction_descriptor(dtype, ROWS, keys)
    text = []
    for chunk in range(dims // row_elements):
        for step in range(0, row_bytes, STEP_BYTES):
            left = descriptor("%rd20", a + chunk * ROWS * row_bytes + step, swizzle=swizzle)
            right = descriptor("%rd21", b + chunk * keys * row_bytes + step, swizzle=swizzle)
            text.append(mma_ws(dtype, column, left, right, idesc, accumulate or bool(text)))
    return "\n".join(text)


def output(dtype: str, column: int, p: int, v: int, tokens: int, dims: int) -> str:
    """D at `column` = P[64, tokens] V[tokens, dims]: P K-major in one chunk, V the K-major tile of the scores at offset
    v, read as MN-major: its chunks are `tokens` rows of 128 bytes behind each other."""
    idesc = instruction_descriptor(dtype, ROWS, dims, b_is_mn_major=True)
    step_tokens = STEP_BYTES // (2 if dtype == "bf16" else 1)
    text = []
    for token in range(0, tokens, step_tokens):
        left = descriptor("%rd20", p + token // step_tokens * STEP_BYTES)
        right = descriptor("%rd21", v + token * CHUNK_BYTES, leading=tokens * CHUNK_BYTES)
        text.append(mma_ws(dtype, column, left, right, idesc, bool(text)))
    return "\n".join(text)


def matrix(
    seed: int, rows: int, elements: int, dtype: str = "bf16", swizzle: str = "128B"
) -> tuple[np.ndarray, Tensor]:
    values = integers(seed, (rows, elements))
    return values, Tensor(bits_of(values, dtype), dtype, rows, swizzle)


def of_scores(name: str, keys: int, dtype: str = "bf16", swizzle: str = "128B", dims: int = 64) -> Case:
    """Q K^T of one row of the swizzle, both operands from shared memory."""
    query, a = matrix(1, ROWS, dims, dtype, swizzle)
    key, b = matrix(2, keys, dims, dtype, swizzle)
    second = DATA + ROWS * CHUNK_BYTES
    roles = by_thread_0(scores(dtype, 0, DATA, second, keys, dims, swizzle=swizzle) + "\n" + commit(1))
    loads = [*chunks(0, a, DATA), *chunks(1, b, second)]
    ptx = tensor_core(loads, [a, b], roles, keys // 2, done=[1])
    return case(name, ptx, folded(query @ key.T), [a, b], shared_bytes=SHARED_BYTES)


def fold_of_64_columns() -> Case:
    return of_scores("mma.ws M=64 N=64", 64)


def rope_of_fp8() -> Case:
    return of_scores("fp8 rows of 64 bytes, 64-byte swizzle, SBO 512", 128, "e4m3", "64B")


def tile_read_twice(dtype: str) -> Case:
    """A tile is K of the scores and, in the same kernel, V of the output: N = 256, MN-major."""
    tokens, dims = (64, 256) if dtype == "bf16" else (128, 256)
    query, q = matrix(3, ROWS, dims, dtype)
    key, k = matrix(4, tokens, dims, dtype)
    prob, p = matrix(5, ROWS, tokens, dtype)
    at_k = DATA + q.bits.nbytes
    at_p = at_k + k.bits.nbytes
    columns = tokens // 2
    roles = by_thread_0(
        "\n".join(
            [scores(dtype, 0, DATA, at_k, tokens, dims), output(dtype, columns, at_p, at_k, tokens, dims), commit(1)]
        )
    )
    loads = [*chunks(0, q, DATA), *chunks(1, k, at_k), *chunks(2, p, at_p)]
    ptx = tensor_core(loads, [q, k, p], roles, columns + dims // 2, done=[1])
    expected = np.concatenate([folded(query @ key.T), folded(prob @ key)], axis=1)
    name = f"{dtype}: a tile as K-major B (N={tokens}) and as MN-major B (N=256)"
    return case(name, ptx, expected, [q, k, p], shared_bytes=SHARED_BYTES)


def cleared_rows() -> Case:
    """TMA writes NaN behind the last key; a warp clears those rows with ordinary stores and one lane arrives; P V is
    finite."""
    prob, p = matrix(6, ROWS, 64)
    value, _ = matrix(7, 64, 256)
    hostile = value.copy()
    hostile[NAN_FROM:] = np.nan
    value[NAN_FROM:] = 0
    v = Tensor(bits_of(hostile, "bf16"), "bf16", 64)
    at_v = DATA + p.bits.nbytes
    stores = [
        f"st.shared.b32 [%r42+{at_v + chunk * 64 * CHUNK_BYTES + row * CHUNK_BYTES}], %r41;"
        for chunk in range(4)
        for row in range(NAN_FROM, 64)
    ]
    clear = "\n".join([
        "setp.ne.u32 %p6, %r2, 1;\n@%p6 bra CLEARED;\nand.b32 %r40, %r0, 31;\nsetp.ne.u32 %p7, %r40, 0;",
        "shl.b32 %r40, %r40, 2;\nadd.u32 %r42, %r1, %r40;\nmov.b32 %r41, 0;", *stores,
        "fence.proxy.async.shared::cta;\nbar.warp.sync 0xFFFFFFFF;",
        "@!%p7 mbarrier.arrive.shared.b64 _, [%r1+16];\nCLEARED:",
    ])  # fmt: skip
    issue = "\n".join([wait(2, "FILLED"), output("bf16", 0, DATA, at_v, 64, 256), commit(1)])
    loads = [*chunks(0, p, DATA), *chunks(1, v, at_v)]
    ptx = tensor_core(loads, [p, v], by_thread_0(issue), 128, done=[1], counts=(1, 1, 1), before=clear)
    name = "rows that TMA wrote, cleared by st.shared before mma.ws reads them"
    return case(name, ptx, folded(prob @ value), [p, v], shared_bytes=SHARED_BYTES)


def nan_stays_in_its_column() -> Case:
    """NaN in the rows of K behind the last key: the scores of the other keys are what they are without it."""
    query, q = matrix(8, ROWS, 64)
    key, _ = matrix(9, 64, 64)
    key[NAN_FROM:] = np.nan
    k = Tensor(bits_of(key, "bf16"), "bf16", 64)
    at_k = DATA + q.bits.nbytes
    roles = by_thread_0(scores("bf16", 0, DATA, at_k, 64, 64) + "\n" + commit(1))
    ptx = tensor_core([*chunks(0, q, DATA), *chunks(1, k, at_k)], [q, k], roles, 32, done=[1], canonical_nan=True)
    expected = (query @ np.nan_to_num(key).T).view(np.uint32)
    expected[:, NAN_FROM:] = 0x7FFFFFFF
    return case("NaN in rows of B", ptx, folded(expected.view(np.float32)), [q, k], shared_bytes=SHARED_BYTES)


def commit_without_work() -> Case:
    """Commits by a thread whose MMAs an earlier commit tracks (running, then complete), and by one that has none."""
    query, q = matrix(10, ROWS, 64)
    key, k = matrix(11, 64, 64)
    at_k = DATA + q.bits.nbytes
    issue = [scores("bf16", 0, DATA, at_k, 64, 64), commit(1), commit(2), wait(1, "COMPLETE"), commit(3)]
    other = f"setp.ne.u32 %p8, %r0, 32;\n@%p8 bra OTHER;\n{commit(4)}\nOTHER:"
    roles = by_thread_0("\n".join(issue)) + "\n" + other
    loads = [*chunks(0, q, DATA), *chunks(1, k, at_k)]
    ptx = tensor_core(loads, [q, k], roles, 32, done=[1, 2, 3, 4], counts=(1,) * 5)
    return case("tcgen05.commit with nothing to track", ptx, folded(query @ key.T), [q, k], shared_bytes=SHARED_BYTES)


def query_in_tensor_memory() -> Case:
    """Q, copied to both halves of the lanes by tcgen05.cp 64x128b.warpx2::02_13, is A of M = 64 .ws."""
    query, q = matrix(12, ROWS, 64)
    key, k = matrix(13, 128, 64)
    at_k, column = DATA + q.bits.nbytes, 256
    issue = []
    for unit in range(8):
        issue.append(descriptor("%rd22", DATA + 16 * unit))
        issue.append(f"add.u32 %r26, %r3, {column + 4 * unit};")
        issue.append("tcgen05.cp.cta_group::1.64x128b.warpx2::02_13 [%r26], %rd22;")
    idesc = instruction_descriptor("bf16", ROWS, 128)
    for step in range(4):
        keys = descriptor("%rd21", at_k + STEP_BYTES * step)
        issue.append(mma_ws("bf16", 0, f"[{column + 8 * step}]", keys, idesc, step > 0))
    loads = [*chunks(0, q, DATA), *chunks(1, k, at_k)]
    ptx = tensor_core(loads, [q, k], by_thread_0("\n".join([*issue, commit(1)])), 64, done=[1])
    return case("A in Tensor Memory, from tcgen05.cp", ptx, folded(query @ key.T), [q, k], shared_bytes=SHARED_BYTES)


def scores_over_probs(repeats: int = 16) -> Case:
    """P, in Tensor Memory, times V, `repeats` times, then scores over P's columns, with no wait between: they run behind.
    M = 128, as a pair has it."""
    rows, tokens, column = 128, 64, 256
    prob, p = matrix(17, rows, tokens)
    value, v = matrix(18, tokens, 256)
    query, q = matrix(19, rows, 64)
    key, k = matrix(20, 64, 64)
    at_v = DATA + p.bits.nbytes
    at_q = at_v + v.bits.nbytes
    at_k = at_q + q.bits.nbytes
    issue = []
    for unit in range(CHUNK_BYTES // 16):
        issue.append(descriptor("%rd22", DATA + 16 * unit))
        issue.append(f"add.u32 %r26, %r3, {column + 4 * unit};\ntcgen05.cp.cta_group::1.128x128b [%r26], %rd22;")
    idesc = instruction_descriptor("bf16", rows, 256, b_is_mn_major=True)
    for number in range(repeats):
        for step in range(4):
            right = descriptor("%rd21", at_v + 16 * step * CHUNK_BYTES, leading=tokens * CHUNK_BYTES)
            issue.append(mma("bf16", 0, f"[{column + 8 * step}]", right, idesc, number + step > 0))
    idesc = instruction_descriptor("bf16", rows, 64)
    for step in range(4):
        left = descriptor("%rd20", at_q + STEP_BYTES * step)
        right = descriptor("%rd21", at_k + STEP_BYTES * step)
        issue.append(mma("bf16", column, left, right, idesc, step > 0))
    loads = [*chunks(0, p, DATA), *chunks(1, v, at_v), *chunks(2, q, at_q), *chunks(3, k, at_k)]
    roles = by_thread_0("\n".join([*issue, commit(1)]))
    ptx = tensor_core(loads, [p, v, q, k], roles, column + 64, done=[1])
    expected = np.concatenate([repeats * (prob @ value), query @ key.T], axis=1)
    name = "scores over the P that P V before them reads"
    return case(name, ptx, expected.view(np.uint32), [p, v, q, k], shared_bytes=SHARED_BYTES)


TURNS, TILE_BYTES = 4, 64 * CHUNK_BYTES
_ISSUED, _GIVEN, _END = TURNS, TURNS + 1, TURNS + 2  # barriers behind those of the tiles


def two_elected_threads() -> Case:
    """An elected thread each of two warps, in a loop: one waits for TMA and multiplies scores; the other, which waits
    only for those, multiplies the same tile as values."""
    query, q = matrix(14, ROWS, 64)
    prob, p = matrix(15, ROWS, 64)
    values = integers(16, (TURNS * 64, 64))
    tiles = Tensor(bits_of(values, "bf16"), "bf16", 64)
    at_p = DATA + TILE_BYTES
    at_tiles = at_p + TILE_BYTES
    loads = [(0, Load(0, 0, 0, DATA)), (0, Load(1, 0, 0, at_p))]
    loads += [(turn, Load(2, 0, 64 * turn, at_tiles + turn * TILE_BYTES)) for turn in range(TURNS)]
    loaded = [expect(turn, sum(TILE_BYTES for slot, _ in loads if slot == turn)) for turn in range(TURNS)]
    loaded += [tma(load, f"%r1+{8 * slot}") for slot, load in loads]
    roles = "\n".join([_scores_role(at_tiles), _output_role(at_p, at_tiles)])
    ptx = tensor_core([], [q, p, tiles], roles, 64, done=[_END], counts=(1,) * (_END + 1), loaded="\n".join(loaded))
    total = values.reshape(TURNS, 64, 64).sum(axis=0)
    expected = np.concatenate([folded(query @ total.T), folded(prob @ total)], axis=1)
    name = "two elected threads, each a role in a loop"
    return case(name, ptx, expected, [q, p, tiles], shared_bytes=SHARED_BYTES)


def _role(name: str, warp: int, at_tiles: int, waits: str, multiply: str, after: str) -> str:
    """`multiply` once a turn by an elected thread of a warp: %r50 counts turns, %r51 is the tile's offset."""
    return f"""setp.ne.u32 %p9, %r2, {warp};
@%p9 bra {name}_END;
elect.sync _|%p10, 0xFFFFFFFF;
@!%p10 bra {name}_END;
mov.u32 %r50, 0;
mov.u32 %r51, {at_tiles};
{name}:
and.b32 %r53, %r50, 1;
{waits}
tcgen05.fence::after_thread_sync;
{multiply}
add.u32 %r50, %r50, 1;
add.u32 %r51, %r51, {TILE_BYTES};
setp.lt.u32 %p11, %r50, {TURNS};
@%p11 bra {name};
{after}
{name}_END:
bar.warp.sync 0xFFFFFFFF;"""


def _steps(tile_step: int, a: int, idesc: int, column: int) -> str:
    text = []
    for step in range(4):
        right = f"add.u32 %r52, %r51, {tile_step * step};\n" + descriptor("%rd21", "%r52", leading=TILE_BYTES)
        left = descriptor("%rd20", a + STEP_BYTES * step)
        text.append(mma_ws("bf16", column, left, right, idesc, "%r50" if step == 0 else True))
    return "\n".join(text)


def _scores_role(at_tiles: int) -> str:
    multiply = _steps(STEP_BYTES, DATA, instruction_descriptor("bf16", ROWS, 64), 0)
    waits = f"""shl.b32 %r54, %r50, 3;
add.u32 %r54, %r54, %r1;
ARRIVED:
mbarrier.try_wait.parity.shared.b64 %p15, [%r54], 0;
@!%p15 bra ARRIVED;
xor.b32 %r55, %r53, 1;
{wait(_GIVEN, "GIVEN", "%r55")}"""
    return _role("SCORES", 0, at_tiles, waits, multiply + "\n" + commit(_ISSUED), "")


def _output_role(at_p: int, at_tiles: int) -> str:
    multiply = _steps(16 * CHUNK_BYTES, at_p, instruction_descriptor("bf16", ROWS, 64, b_is_mn_major=True), 32)
    waits = wait(_ISSUED, "SCORED", "%r53")
    last = wait(_GIVEN, "LAST", str((TURNS - 1) % 2))
    return _role("OUTPUT", 1, at_tiles, waits, multiply + "\n" + commit(_GIVEN), f"{last}\n{commit(_END)}")
