"""Instruction fetch: straight-line loops smaller and larger than the instruction cache, cold code, rings of jumps."""

from __future__ import annotations

from bench.micro.base import MARK, consume, program

INSTRUCTION_BYTES, LINE = 16, 8  # bytes; instructions of a line
BODY = "lop3.b32 %r{r}, %r{r}, %r0, %r1, 0x6A;"  # two cycles of a scheduler each, as a NOP takes


def loop(passes: int, path_bytes: int, warps: int = 1) -> tuple[str, dict]:
    """Every warp passes so often over its own straight line of `path_bytes`; one warm pass before the clock."""
    count = path_bytes // INSTRUCTION_BYTES - 3
    blocks = []
    for warp in range(warps):
        body = "\n".join(BODY.format(r=100 + i % 8) for i in range(count))
        blocks.append(f"""
        setp.ne.u32 %p1, %r2, {warp};
        @%p1 bra SKIP{warp};
        mov.b32 %r10, 0;
    PATH{warp}:
        {body}
        add.u32 %r10, %r10, 1;
        setp.ne.u32 %p2, %r10, {passes + 1};
        @%p2 bra PATH{warp};
    SKIP{warp}:""")
    setup = "\n".join(f"add.u32 %r{100 + i}, %r0, {i};" for i in range(8))
    return program(setup, "\n".join([*blocks, consume([f"%r{100 + i}" for i in range(8)])]), warps=warps)


def cold_chain(count: int) -> tuple[str, dict]:
    """`count` dependent multiply-adds, executed once."""
    setup = "cvt.rn.f32.u32 %f0, %r0;\nmov.f32 %f1, 0f3F000000;"
    chain = "\n".join(["fma.rn.f32 %f0, %f0, %f1, %f1;"] * count)
    return program(setup, f"{chain}\nmov.b32 %r100, %f0;\n{consume(['%r100'])}")


def ring(rounds: int, targets: int, apart: int) -> tuple[str, dict]:
    """One warp jumps round a ring of `targets` places that are `apart` lines of code from each other. Each is a
    backward jump but for one: they are visited from the last to the first."""
    filler = "\n".join(BODY.format(r=100 + i % 8) for i in range(apart * LINE - 1))
    lines = ["mov.b32 %r10, 0;", "setp.eq.u32 %p3, %r10, 0;", f"@%p3 bra PLACE{targets - 1};"]
    for place in range(targets):
        if place:
            lines.append(f"PLACE{place}:\n@%p3 bra PLACE{place - 1};\n{filler}")
        else:
            lines.append(
                f"PLACE0:\nadd.u32 %r10, %r10, 1;\nsetp.ne.u32 %p2, %r10, {rounds + 1};\n"
                f"@%p2 bra PLACE{targets - 1};\nbra OUT;\n{filler}"
            )
    lines.append(f"OUT:\n{consume(['%r10'])}")
    setup = "\n".join(f"add.u32 %r{100 + i}, %r0, {i};" for i in range(8))
    return program(setup, "\n".join(lines))


def twice(path_bytes: int) -> tuple[str, dict]:
    """One warp goes over its straight line of `path_bytes` two times; the mark is between them."""
    body = "\n".join(BODY.format(r=100 + i % 8) for i in range(path_bytes // INSTRUCTION_BYTES - 3))
    setup = "\n".join(f"add.u32 %r{100 + i}, %r0, {i};" for i in range(8))
    used = consume([f"%r{100 + i}" for i in range(8)])
    timed = f"""
    mov.b32 %r10, 0;
    bra PATH;
AGAIN:
    {MARK}
PATH:
    {body}
    {used}
    add.u32 %r10, %r10, 1;
    setp.eq.u32 %p2, %r10, 1;
    @%p2 bra AGAIN;"""
    return program(setup, timed)
