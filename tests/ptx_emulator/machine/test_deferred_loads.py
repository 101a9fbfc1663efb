"""When tcgen05.ld reads: late without a wait, but never after its registers are touched."""

from __future__ import annotations

import random

import numpy as np
import pytest

from ptx_emulator import Program
from ptx_emulator.engine import microcode as mc
from ptx_emulator.front import load_uses

from ..helpers import ORDERS, wait
from ..units.tcgen05.test_load_store import POISON, execute, fill, program, write_registers

SEEDS = range(8)
LATE = ("random", "adversarial")
WAIT = "tcgen05.wait::ld.sync.aligned;"


def results(body: str, count: int, order: str, seed: int, **options) -> np.ndarray:
    threads = options.get("block", (128, 1, 1))[0]
    return execute(program(body), threads * count, order, seed=seed, **options).reshape(threads, count)


def overwritten(between: str, load: str = "tcgen05.ld.sync.aligned.32x32b.x1.b32 {%r16}, [%r5];") -> str:
    """Column 0 holds lane << 16; it is loaded, overwritten by 7 after `between`, and what was loaded is written out."""
    return (
        fill(2)
        + f"""
    mov.u32 %r18, 7;
    {load}
    {between}
    tcgen05.st.sync.aligned.32x32b.x1.b32 [%r5], {{%r18}};
    tcgen05.wait::st.sync.aligned;
    """
        + write_registers(16, 1)
    )


LANES = (np.arange(128, dtype=np.uint32) << 16)[:, None]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    "between",
    [
        WAIT,
        "add.u32 %r17, %r16, 1;",
        "mov.b32 %r17, %r16;\nadd.u32 %r19, %r17, 1;",
        "setp.eq.u32 %p1, %r16, 0;\n@%p1 mov.u32 %r17, 1;",
    ],
)
def test_a_load_precedes_what_waits_for_it_or_uses_it(order, between):
    for seed in SEEDS:
        np.testing.assert_array_equal(results(overwritten(between), 1, order, seed), LANES)


@pytest.mark.parametrize("order", LATE)
@pytest.mark.parametrize("load", [
    "tcgen05.ld.sync.aligned.32x32b.x1.b32 {%r16}, [%r5];",
    "tcgen05.ld.red.sync.aligned.32x32b.x2.min.u32 {%r20, %r21}, %r16, [%r5];",
])  # fmt: skip
def test_a_missing_wait_shows(order, load):
    """Nothing but the wait stops the store: some warp of some seed loads what was stored later."""
    late = [results(overwritten("", load), 1, order, seed) for seed in SEEDS]
    assert all(((out <= 7) | (out == LANES)).all() for out in late)
    assert any((out != LANES).any() for out in late)
    np.testing.assert_array_equal(results(overwritten("", load), 1, "in_order", 0), LANES)
    for seed in SEEDS:
        np.testing.assert_array_equal(results(overwritten(WAIT, load), 1, order, seed), LANES)


@pytest.mark.parametrize("order", LATE)
@pytest.mark.parametrize("move, back", [
    ("mov.b32 %r30, %r16;", "mov.b32 %r16, %r30;"),
    ("mov.b64 %rd8, {%r16, %r16};", "mov.b64 {%r16, %r31}, %rd8;"),
])  # fmt: skip
def test_a_copy_is_no_use(order, move, back):
    """As the compiler's moves before a wait: without the wait they do not make the load read."""

    def stored(between: str, seed: int) -> np.ndarray:
        body = overwritten(move + between).replace("ld.param.u64 %rd1", back + "\nld.param.u64 %rd1")
        return results(body, 1, order, seed)

    for seed in SEEDS:
        np.testing.assert_array_equal(stored(WAIT, seed), LANES)
    assert any((stored("", seed) != LANES).any() for seed in SEEDS)


def handed_over(wait_ld: str) -> str:
    """Warps 0 to 3 load column 0 and free it; warp 4, of the same lanes as warp 0, waits and overwrites it."""
    return (
        fill(1)
        .replace("tcgen05.st", "@!%p5 tcgen05.st")
        .replace("and.b32 %r6", "setp.eq.u32 %p5, %r2, 4;\nand.b32 %r6")
        + f"""
    setp.eq.u32 %p1, %r0, 0;
    @%p1 mbarrier.init.shared.b64 [%r1+64], 32;
    mov.u32 %r18, 7;
    bar.sync 0;
    @%p5 bra OVERWRITE;
    tcgen05.ld.sync.aligned.32x32b.x1.b32 {{%r16}}, [%r5];
    {wait_ld}
    @%p0 bra LOADED;
    mbarrier.arrive.shared.b64 %rd3, [%r1+64];
    bra LOADED;
OVERWRITE:
    {wait("%r1+64")}
    tcgen05.st.sync.aligned.32x32b.x1.b32 [%r5], {{%r18}};
    tcgen05.wait::st.sync.aligned;
    mov.u32 %r16, 0;
LOADED:
    bar.sync 1;
    """
        + write_registers(16, 1)
    )


def test_a_buffer_freed_without_a_wait():
    expected = np.vstack([LANES, np.zeros((32, 1), np.uint32)])
    wrong = 0
    for seed in SEEDS:
        out = results(handed_over(WAIT), 1, "adversarial", seed, block=(160, 1, 1))
        np.testing.assert_array_equal(out, expected)
        wrong += (results(handed_over(""), 1, "adversarial", seed, block=(160, 1, 1)) != expected).any()
    assert wrong


def test_columns_given_back_before_the_load_has_read():
    """Registers that nobody has touched are poison: Tensor Memory is another's when they are."""
    body = (
        program(fill(1) + "tcgen05.ld.sync.aligned.32x32b.x1.b32 {%r16}, [%r5];\n{wait}\n").rpartition("ret;")[0]
        + write_registers(16, 1)
        + "\nret;\n}\n"
    )
    late = [execute(body.replace("{wait}", ""), 128, "adversarial", seed=seed) for seed in SEEDS]
    assert any((out == POISON).any() for out in late)
    for seed in SEEDS:
        out = execute(body.replace("{wait}", WAIT), 128, "adversarial", seed=seed)
        np.testing.assert_array_equal(out[:, None], LANES)


def settles(body: str) -> int:
    kernel = Program(program(body)).kernel()
    return int((kernel.code[:, 0] == mc.SETTLE).sum())


LOAD = "tcgen05.ld.sync.aligned.32x32b.x2.b32 {%r16, %r17}, [%r5];\n"
MOVES = "mov.b64 %rd8, {%r16, %r17};\nmov.b32 %r21, %r16;\n"
USE = "add.u32 %r20, %r20, %r17;\n"


@pytest.mark.parametrize("body, count", [
    (LOAD + WAIT + USE, 0),
    (LOAD + USE + USE, 1),
    (LOAD + "@%p1 tcgen05.wait::ld.sync.aligned;\n" + USE, 1),
    (LOAD + "@%p1 bra OVER;\n" + USE + "bra OUT;\nOVER:\n" + USE + "OUT:\n" + USE, 2),
    (LOAD + "@%p1 bra OVER;\n" + WAIT + "OVER:\n" + USE, 1),
    ("AGAIN:\n" + USE + WAIT + LOAD + "@%p1 bra AGAIN;\n", 2),
    ("AGAIN:\n" + LOAD + "@%p1 bra AGAIN;\n" + WAIT + USE, 1),
    (LOAD + MOVES + WAIT + "add.u64 %rd9, %rd8, 1;\n", 1),
    (LOAD + MOVES + "add.u64 %rd9, %rd8, 1;\n" + USE, 2),
    (LOAD + "@%p1 " + MOVES + WAIT, 1),
    (LOAD + "mov.b32 %r21, %r16;\nmov.b32 %r22, %r21;\nmov.b32 %r23, %r22;\n" + WAIT, 3),
])  # fmt: skip
def test_where_a_load_must_have_read_or_is_copied(body, count):
    assert settles("mov.u32 %r17, 0;\nmov.u32 %r20, 0;\nsetp.eq.u32 %p1, %r0, 0;\n" + body + USE) == count


def random_program(rng: random.Random, kinds: int = 14) -> str:
    """Loads, arithmetic, loops and divergence on few registers, no waits; Tensor Memory is never overwritten."""
    names = [f"%r{i}" for i in range(16, 26)]
    lines = [f"mov.u32 {name}, {i};" for i, name in enumerate(names)]
    for label in range(kinds):
        a, b, c = rng.choice(names), rng.choice(names), rng.choice(names)
        load = f"tcgen05.ld.sync.aligned.32x32b.x1.b32 {{{a}}}, [%r5+{rng.randrange(4)}];"
        lines.append(
            f"tcgen05.ld.sync.aligned.32x32b.x2.b32 {{{b}, {c if c != b else a if a != b else '%r30'}}}, [%r5];"
        )
        kind = rng.choice(["plain", "dead", "lanes", "loop", "moves", "moves"])
        if kind == "plain":
            lines += [load, f"mad.lo.u32 {b}, {a}, 3, {c};"]
        elif kind == "dead":
            lines += [f"tcgen05.ld.sync.aligned.32x32b.x1.b32 {{%r{50 + label}}}, [%r5];"]
            lines += [f"add.u32 %r{80 + label}, {b}, 5;", f"xor.b32 {a}, %r{80 + label}, {c};"]
        elif kind == "moves":
            # Registers used for nothing but the moves, and some that are used later.
            first, pair, single = 50 + 2 * label, f"%rd{20 + label}", f"%r{110 + label}"
            source = rng.choice([f"%r{first}", a])
            lines += [f"tcgen05.ld.sync.aligned.32x32b.x2.b32 {{%r{first}, %r{first + 1}}}, [%r5+{rng.randrange(4)}];"]
            lines += [f"mov.b64 {pair}, {{{source}, %r{first + 1}}};", f"mov.b32 {single}, {source};"]
            lines += [f"mov.b32 {b}, {single};"]
            if rng.randrange(2):
                lines += [f"add.u32 %r{140 + label}, {c}, {label};", f"xor.b32 {c}, {c}, %r{140 + label};"]
            lines += [
                f"mov.b64 {{%r27, %r28}}, {pair};",
                f"mad.lo.u32 {a}, %r27, 7, %r28;",
                f"add.u32 {b}, {b}, {single};",
            ]
        elif kind == "lanes":
            lines += [f"and.b32 %r27, %r0, {rng.choice([1, 2, 4])};", "setp.ne.u32 %p1, %r27, 0;", load]
            lines += [f"@%p1 bra L{label};", f"add.u32 {c}, {a}, 9;", f"L{label}:", f"add.u32 {b}, {b}, {a};"]
        else:
            lines += ["mov.u32 %r28, 0;", f"L{label}:", load, f"add.u32 {c}, {c}, %r28;", "add.u32 %r28, %r28, 1;"]
            lines += ["setp.lt.u32 %p2, %r28, 3;", f"@%p2 bra L{label};"]
    return fill(6) + "\n".join(lines) + "\n" + write_registers(16, 10)


@pytest.mark.parametrize("order", LATE)
def test_random_programs_do_not_depend_on_when_loads_read(order, monkeypatch):
    """True dependencies alone order them, whichever rows registers share; without SETTLE they would not."""
    bodies = [random_program(random.Random(seed)) for seed in range(6)]
    expected = [results(body, 10, "in_order", 0) for body in bodies]
    for seed, (body, right) in enumerate(zip(bodies, expected, strict=True)):
        np.testing.assert_array_equal(results(body, 10, order, seed), right)
    monkeypatch.setattr(load_uses, "mark", lambda *arguments: None)
    monkeypatch.setattr(Program, "_cache", {})
    for body, right in zip(bodies, expected, strict=True):
        if (results(body, 10, order, 3) != right).any():
            return
    pytest.fail("nothing depends on SETTLE")
