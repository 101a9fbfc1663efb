"""Register allocation and relaunching of decoded programs."""

from __future__ import annotations

import random

import numpy as np
import pytest

from ptx_emulator import Program

from ..lanes import compute_one, program, run


def test_programs_are_decoded_once_per_text():
    text = program("mov.u32 %r1, 1;", 0)
    assert Program.parse(text) is Program.parse(text)
    assert Program.parse(text).kernel() is Program.parse(text).kernel("k")


def test_the_kernel_must_be_named_when_there_are_several():
    text = program("", 0) + program("", 0, entry="other").split(".address_size 64\n")[1]
    with pytest.raises(ValueError, match="2 entries"):
        Program.parse(text).kernel()
    assert Program.parse(text).kernel("other").name == "other"
    with pytest.raises(ValueError, match="'third': not an entry"):
        Program.parse(text).kernel("third")


def test_rows_are_shared_by_values_that_do_not_live_together():
    chain = "mov.u32 %r0, %i0;" + "".join(
        f".reg .b32 t{i}; add.u32 t{i}, %r0, {i}; add.u32 %r0, %r0, t{i};" for i in range(300)
    )
    x = np.arange(64, dtype=np.uint32)
    got = compute_one(chain + "mov.u32 %o0, %r0;", [x], np.uint32)
    expected = x.copy()
    for i in range(300):
        expected = expected + (expected + np.uint32(i))
    np.testing.assert_array_equal(got, expected)
    kernel = Program.parse(program(chain.replace("%i0", "%thread"), 0)).kernel()
    assert kernel.n_virtual > 300
    # Besides constants, a handful of rows serve the whole chain.
    assert kernel.rows32 - len(kernel.fixed32) < 12


@pytest.mark.parametrize("seed", range(6))
def test_random_divergent_programs_against_python(seed):
    """Branches, loops and guarded writes on few names: each lane's registers must keep their own values."""
    rng = random.Random(seed)
    names = [f"%r{i}" for i in range(1, 9)]
    lines = [f"add.u32 {name}, %i0, {i};" for i, name in enumerate(names)]
    steps = []
    for label in range(14):
        kind = rng.choice(["guard", "branch", "loop", "plain"])
        a, b, c = rng.choice(names), rng.choice(names), rng.choice(names)
        bit, constant = rng.randrange(4), rng.randrange(1, 100)
        steps.append((kind, a, b, c, bit, constant))
        test = f"shr.u32 %r20, {b}, {bit}; and.b32 %r20, %r20, 1; setp.ne.u32 %p1, %r20, 0;"
        if kind == "plain":
            lines.append(f"mad.lo.u32 {a}, {b}, {constant}, {c};")
        elif kind == "guard":
            lines.append(f"{test} @%p1 add.u32 {a}, {c}, {constant}; @!%p1 xor.b32 {c}, {a}, {constant};")
        elif kind == "branch":
            lines.append(
                f"{test} @%p1 bra T{label}; sub.u32 {a}, {c}, {constant}; bra E{label};"
                f"T{label}: mul.lo.u32 {a}, {c}, {constant}; E{label}:"
            )
        else:
            lines.append(
                f"and.b32 %r21, {b}, 7; L{label}: setp.eq.u32 %p1, %r21, 0; @%p1 bra D{label};"
                f"add.u32 {a}, {a}, {constant}; sub.u32 %r21, %r21, 1; bra L{label}; D{label}:"
            )
    lines.append("mov.u32 %o0, 0;" + "".join(f"mad.lo.u32 %o0, %o0, 31, {name};" for name in names))
    x = np.array([rng.randrange(2**32) for _ in range(64)], np.uint32)
    got = compute_one("\n".join(lines), [x], np.uint32)
    assert got.tolist() == [simulate(int(v), names, steps) for v in x]


def simulate(value: int, names: list[str], steps: list[tuple]) -> int:
    m = 0xFFFFFFFF
    r = {name: value + i & m for i, name in enumerate(names)}
    for kind, a, b, c, bit, constant in steps:
        taken = r[b] >> bit & 1
        if kind == "plain":
            r[a] = r[b] * constant + r[c] & m
        elif kind == "guard":
            if taken:
                r[a] = r[c] + constant & m
            else:
                r[c] = r[a] ^ constant
        elif kind == "branch":
            r[a] = (r[c] * constant if taken else r[c] - constant) & m
        else:
            r[a] = r[a] + (r[b] & 7) * constant & m
    total = 0
    for name in names:
        total = total * 31 + r[name] & m
    return total


def test_uninitialised_registers_hold_poison():
    got = compute_one("add.u32 %o0, %r5, 0;", [np.zeros(32, np.uint32)], np.uint32)
    assert (got == 0xFFFFFFFF).all()


def test_unused_results_do_not_disturb_others():
    """A dead destination still needs a row of its own while it is written."""
    y = np.zeros(32, np.uint32)
    run(
        program(
            """mov.u32 %r1, 5; shfl.sync.idx.b32 %r2|%p1, %r1, 0, 31, -1; ld.global.v2.u32 {%r3, %r4}, [%ptr0];
        mad.wide.u32 %rd1, %thread, 4, %ptr0; st.global.u32 [%rd1], %r1;""",
            1,
        ),
        [y],
    )
    assert (y == 5).all()
