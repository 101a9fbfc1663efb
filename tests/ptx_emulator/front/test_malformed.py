"""Malformed PTX: whatever is wrong with a text, what comes out is an EmulationError that says where."""

from __future__ import annotations

import random
import re

import pytest

from ptx_emulator.errors import EmulationError, PtxSyntaxError
from ptx_emulator.front.decode import Program

from ..check.hazards.patterns import PATTERNS
from ..helpers import aligned, kernel, pointer, run

DECLARATIONS = """
.file 1 "kernel.py"
.const .align 4 .b32 table[4] = {1, 2, 0x3, -4};
.shared .align 8 .b8 buffer[256];
.extern .func (.param .b32 result) vprintf (.param .b64 a, .param .b64 b);
.visible .entry more(.param .align 16 .b8 p[32], .param .u64 .ptr .global .align 16 q)
.reqntid 128, 1, 1
.maxntid 128
.minnctapersm 1
{
    .reg .pred %p<3>;
    .reg .f32 %f<4>;
    .reg .b64 %d<4>, %e;
    .reg .b128 %q;
    .reg .b32 %r<8>;
    .shared .align 16 .b8 own[64];
    .loc 1 2 3
    ld.param.v2.u64 {%d1, %d2}, [p+16];
    mov.f32 %f1, 0f3F800000;
    fma.rn.ftz.f32 %f2, %f1, 0d4000000000000000, 1.5e3;
    { .reg .b32 t; mov.b32 t, own; st.shared.f32 [t+4], %f2; }
    setp.lt.and.f32 %p1|%p2, %f1, %f2, !%p0;
    @!%p1 bra.uni END;
    mov.b128 %q, {%d1, %d2};
    /* a comment */ prmt.b32 %r1, 1, 2, 0x3210;
    call (r0), vprintf, (%d1, %d2);
END: ret;
}
"""
PIECES = ["", " ", ",", ";", "{", "}", "[", "]", "(", ")", "|", "!", "@", "%", ".", "_", "0x", "-", '"', "\n", "%r0",
          "%p1", "%rd1", "7", "0f3F800000", ".b32", ".v4", "[%r0]", "{%r0, %r1}", "%tid.x", "::", "<",
          "99999999999999999999", "smem", "END", "/*", "1.5", "%r0|%p1", ".align", ".reg", ".shared"]  # fmt: skip
OPERANDS = ["%r0", "%p1", "%rd1", "%rs1", "!%p2", "{%r0, %r1}", "[%r0]", "[%rd1+16]", "[smem]", "smem", "7", "-1", "_",
            "0f3F800000", "1.5", "%tid.x", "%r0|%p1", "END", "[%r0+99999999999]", "99999999999999999999", "{}", "[]",
            "[%r0, {%r1, %r2}]", "%clock64"]  # fmt: skip
MODIFIERS = [
    "b32",
    "u64",
    "f16",
    "v2",
    "v9",
    "shared",
    "global",
    "sync",
    "aligned",
    "cta_group::2",
    "x64",
    "rn",
    "b128",
]
TEXTS = 1500


def texts() -> list[str]:
    found = [kernel(pattern.params, re.sub("//@.*", "", pattern.body)) for pattern in PATTERNS.values()]
    return [*found, kernel("", "").split(".visible")[0] + DECLARATIONS]


def mutated(text: str, rng: random.Random) -> str:
    """`text` with one to three tokens or characters dropped, doubled, exchanged or replaced, or its end cut off."""
    if rng.random() < 0.5:
        return with_other_operand(text, rng)
    for _ in range(rng.choice((1, 1, 2, 3))):
        tokens = re.findall(r"[\w.%:]+|\s+|.", text) or [" "]
        i, j = rng.randrange(len(tokens)), rng.randrange(len(tokens))
        kind = rng.randrange(6)
        if kind == 0:
            del tokens[i]
        elif kind == 1:
            tokens[i] = tokens[i] * 2
        elif kind == 2:
            tokens[i], tokens[j] = tokens[j], tokens[i]
        elif kind == 3:
            tokens[i] = rng.choice(PIECES)
        elif kind == 4:
            place = rng.randrange(len(tokens[i]) + 1)
            tokens[i] = tokens[i][:place] + rng.choice(PIECES) + tokens[i][place + rng.randrange(2) :]
        elif rng.random() < 0.3:
            tokens = tokens[:i]
        text = "".join(tokens)
    return text


def with_other_operand(text: str, rng: random.Random) -> str:
    """`text` with one operand or modifier of an instruction replaced, dropped or added."""
    places = list(re.finditer(r"(?<=[ ,{\[!|])(%\w[\w.]*|\d[\w.]*|\[[^\]]*\]|\{[^}\n]*\})(?=[^\n]*;)", text))
    modifiers = list(re.finditer(r"\.([a-z]\w*(::\w+)*)(?=[.\s][^\n]*;)", text))
    if rng.random() < 0.3:
        place, new = rng.choice(modifiers), rng.choice(("", "." + rng.choice(MODIFIERS), "." + rng.choice(MODIFIERS)))
    else:
        place, new = rng.choice(places), rng.choice(OPERANDS)
        if rng.random() < 0.2:
            new = f"{place[0]}, {new}"
    return text[: place.start()] + new + text[place.end() :]


def outcome(text: str) -> EmulationError | None:
    """What reading and decoding every entry of the text raises."""
    try:
        program = Program(text)
        for name in program.module.entries:
            program.kernel(name)
    except EmulationError as error:
        return error
    return None


def test_the_texts_themselves_are_right():
    for text in texts()[:-1]:
        assert outcome(text) is None


@pytest.mark.parametrize("part", range(5))
def test_malformed_texts_end_in_an_error_that_says_where(part):
    sources, refused = texts(), 0
    for seed in range(part * TEXTS // 5, (part + 1) * TEXTS // 5):
        rng = random.Random(seed)
        text = mutated(rng.choice(sources), rng)
        error = outcome(text)
        if error is None:
            continue
        refused += 1
        assert 1 <= error.line <= text.count("\n") + 1, (seed, str(error))
        if isinstance(error, PtxSyntaxError):
            line = text.split("\n")[error.line - 1]
            assert 1 <= error.column <= len(line) + 1 and f"column {error.column}" in str(error), (seed, str(error))
    assert refused > TEXTS // 10


def test_malformed_texts_that_run_end_in_errors_that_say_where():
    """What decoding lets through, for instance an operand of the wrong kind that only the handler reads."""
    found = 0
    for seed in range(500):
        rng = random.Random(seed)
        pattern = rng.choice(list(PATTERNS.values()))
        text = with_other_operand(kernel(pattern.params, re.sub("//@.*", "", pattern.body)), rng)
        buffers = [aligned(256), aligned(256)]
        params = [pointer(buffer) for buffer in buffers][: pattern.params.count(".param")]
        try:
            run(text, params, buffers, step_limit=20_000, **pattern.options)
        except EmulationError as error:
            found += error.line is not None
    assert found > 250


@pytest.mark.parametrize("body, column, words", [
    ("mov.u32 %r0, %tid.w;", 14, "%tid.w"),
    ("\n  add.u32  %r0, %r1,  %r9999;", 23, "%r9999"),
    (".reg .b33 %x;", 1, "b33"),
    ("@%r0 bra END;", 1, "guard %r0"),
    ("ld.shared.b32 %r0, [%r1+%r2];", 20, "%r1+%r2"),
    ("add.u32 %r0, , %r1;", 8, "missing"),
])  # fmt: skip
def test_the_column_is_that_of_what_is_wrong(body, column, words):
    text = kernel("", body)
    error = outcome(text)
    assert isinstance(error, PtxSyntaxError) and words in str(error)
    assert (error.line, error.column) == (text[: text.index(body)].count("\n") + 1 + body.startswith("\n"), column)
