"""Issue rates: independent chains of one operation by every warp."""

from __future__ import annotations

from bench.micro.base import consume, program

# {d}: the chain's float, {e}: the next chain's, {r}: the chain's integer, {w}: its pair of floats. Values come from %tid: nothing folds.
OPERATIONS = {
    "fma": "fma.rn.f32 {d}, {d}, %f0, %f1;",
    "ex2": "ex2.approx.ftz.f32 {d}, {d};",
    "max": "max.f32 {d}, {d}, {e};",
    "max3": "max.f32 {d}, {d}, {e}, %f0;",
    "add": "add.f32 {d}, {d}, %f0;",
    "cvt_bf16x2": "cvt.rn.bf16x2.f32 {r}, {d}, %f0;\nmov.b32 {d}, {r};",
    "cvt_e4m3x2": "cvt.rn.satfinite.e4m3x2.f32 %rs1, {d}, %f0;\nmov.b32 {d}, {{%rs1, %rs1}};",
    "lop3": "lop3.b32 {r}, {r}, %r0, %r1, 0x6A;",
    "fma_f32x2": "fma.rn.f32x2 {w}, {w}, %rd8, %rd9;",
    "shuffle": "shfl.sync.idx.b32 {r}, {r}, 1, 31, -1;",
    # Several of a kind, for what they share: two of fma to one of lop3 leave both pipes idle a third of the time.
    "fma_fma_lop3": "fma.rn.f32 {d}, {d}, %f0, %f1;\nfma.rn.f32 {e}, {e}, %f0, %f1;\nlop3.b32 {r}, {r}, %r0, %r1, 0x6A;",
    "max_lop3": "max.f32 {d}, {d}, %f0;\nlop3.b32 {r}, {r}, %r0, %r1, 0x6A;",
}


def rate(operation: str, count: int, *, warps: int = 4, chains: int = 8) -> tuple[str, dict]:
    """`count` operations per warp in `chains` independent chains; warps 0, 4, 8, ... share a scheduler."""
    if operation not in OPERATIONS:
        raise ValueError(f"operation {operation!r}: one of {', '.join(OPERATIONS)}")
    pattern = OPERATIONS[operation]
    setup = ["cvt.rn.f32.u32 %f0, %r0;", "add.f32 %f1, %f0, %f0;"]
    setup.append("mov.b64 %rd8, {%f0, %f1};\nmov.b64 %rd9, {%f1, %f0};")
    for i in range(chains):
        setup.append(f"mov.b64 %rd{20 + i}, {{%f0, %f1}};")
        setup.append(f"mad.lo.u32 %r{100 + i}, %r0, {2 * i + 3}, %r2;\ncvt.rn.f32.u32 %f{8 + i}, %r{100 + i};")
    lines = [
        pattern.format(
            d=f"%f{8 + i % chains}", e=f"%f{8 + (i + 1) % chains}", r=f"%r{100 + i % chains}", w=f"%rd{20 + i % chains}"
        )
        for i in range(count)
    ]
    if "{w}" in pattern:
        lines += [f"mov.b64 {{%f{8 + i}, %f299}}, %rd{20 + i};" for i in range(chains)]
    lines += [
        f"mov.b32 %r{200 + i}, %f{8 + i};\nmad.lo.u32 %r{200 + i}, %r{200 + i}, 3, %r{100 + i};" for i in range(chains)
    ]
    lines.append(consume([f"%r{200 + i}" for i in range(chains)]))
    return program("\n".join([*setup, "bar.sync 0;"]), "\n".join(lines), warps=warps)
