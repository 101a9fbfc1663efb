"""tcgen05.ld.red against numpy, lane by lane."""

from __future__ import annotations

import numpy as np
import pytest

from ptx_emulator.errors import UnsupportedInstruction

from .test_load_store import execute, program, registers, write_registers

COUNT = 8
# Lane l holds these words, rotated by l; with NaN, both zeros, infinities and integers of both signs among them.
WORDS = np.array([0x3F800000, 0xC0000000, 0x80000000, 0, 0x7FC00000, 0xFF800000, 0x00000001, 0x40400000], np.uint32)


def load_and_reduce(modifiers: str, words: np.ndarray) -> np.ndarray:
    """(registers and result), uint32 [128, COUNT + 1]; the columns hold `words`, or in odd lanes only NaNs."""
    body = ["and.b32 %r6, %r0, 1;", "setp.ne.u32 %p5, %r6, 0;"]
    for i, word in enumerate(words):
        body += [f"mov.b32 %r{16 + i}, {word};", f"@%p5 mov.b32 %r{16 + i}, 0x7FC00001;"]
    body.append(f"""
    tcgen05.st.sync.aligned.32x32b.x{COUNT}.b32 [%r5], {registers(16, COUNT)};
    tcgen05.wait::st.sync.aligned;
    tcgen05.ld.red.sync.aligned.32x32b.x{COUNT}.{modifiers} {registers(40, COUNT)}, %r{40 + COUNT}, [%r5];
    tcgen05.wait::ld.sync.aligned;
    """)
    body.append(write_registers(40, COUNT + 1))
    text = program("\n".join(body)).replace("sm_100a", "sm_103a")  # sm_100a does not have .red (9.7.16.8.3)
    return execute(text, 128 * (COUNT + 1)).reshape(128, COUNT + 1)


@pytest.mark.parametrize(
    "modifiers,expected",
    [
        ("min.f32", 0xFF800000),
        ("max.f32", 0x40400000),
        ("max.abs.f32", 0x7F800000),
        ("min.abs.f32", 0),
        ("max.NaN.f32", 0x7FFFFFFF),
        ("min.abs.NaN.f32", 0x7FFFFFFF),
        ("max.u32", 0xFF800000),
        ("min.u32", 0),
        ("max.s32", 0x7FC00000),
        ("min.s32", 0x80000000),
        ("u32.max", 0xFF800000),
    ],
)
def test_reductions(modifiers, expected):
    found = load_and_reduce(modifiers, WORDS)
    np.testing.assert_array_equal(found[::2, :COUNT], np.broadcast_to(WORDS, (64, COUNT)))
    assert (found[::2, COUNT] == expected).all()
    nan = 0x7FFFFFFF if "f32" in modifiers else 0x7FC00001
    assert (found[1::2, COUNT] == nan).all()


@pytest.mark.parametrize("modifiers,expected", [("max.f32", 0), ("min.f32", 0x80000000)])
def test_zeros_are_ordered(modifiers, expected):
    found = load_and_reduce(modifiers, np.array([0x80000000, 0] * 4, np.uint32))
    assert (found[::2, COUNT] == expected).all()


@pytest.mark.parametrize("modifiers", ["add.f32", "max.abs.u32", "max.NaN.s32", "max.f16", "max"])
def test_what_does_not_exist(modifiers):
    with pytest.raises(UnsupportedInstruction, match="tcgen05.ld.red"):
        load_and_reduce(modifiers, WORDS)
