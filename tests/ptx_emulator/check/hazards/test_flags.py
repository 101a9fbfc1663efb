"""Memory order between CTAs: right forms are silent in every order of clusters, each missing part is found."""

from __future__ import annotations

import re

import pytest

from ...helpers import aligned, kernel, pointer, run

# CTA 0 writes, CTA 1 reads what it wrote, after a flag. `give` and `take` are what may go wrong.
FLAG = """
    ld.param.b64 %rd1, [out];
    mov.u32 %r0, %ctaid.x;
    mov.u32 %r5, %tid.x;
    mul.wide.u32 %rd3, %r5, 4;
    add.u64 %rd2, %rd1, %rd3;
    setp.eq.u32 %p0, %r5, 0;
    setp.eq.u32 %p1, %r0, 0;
    @!%p1 bra TAKE;
    {write} [%rd2+256], 5;
    {before}
    {give}
    bra DONE;
TAKE:
    {take}
    {after}
    {read} %r2, [%rd2+256];
DONE:
"""
SPIN = "SPIN:\n{load} %r1, [%rd1];\nsetp.eq.u32 %p3, %r1, 0;\n@%p3 bra SPIN;\n"
# All threads write, then thread 0 raises the flag; thread 0 waits, then all read.
ONE = {"before": "bar.sync 0;", "after": "bar.sync 1;"}
RELAXED_STORE = "@%p0 st.relaxed.gpu.global.b32 [%rd1], 1;"
RIGHT = {
    "release, acquire": ONE | {
        "give": "@%p0 st.release.gpu.global.b32 [%rd1], 1;", "take": SPIN.format(load="ld.acquire.gpu.global.b32")},
    "red.release, acquire.sys": ONE | {
        "give": "@%p0 red.release.gpu.global.add.u32 [%rd1], 1;",
        "take": SPIN.format(load="ld.acquire.sys.global.b32")},
    "atom.acq_rel": ONE | {
        "give": "@%p0 atom.acq_rel.gpu.global.exch.b32 %r9, [%rd1], 1;",
        "take": SPIN.format(load="atom.acq_rel.gpu.global.or.b32").replace("[%rd1]", "[%rd1], 0")},
    "fences and relaxed": ONE | {
        "give": "@%p0 fence.acq_rel.gpu;\n" + RELAXED_STORE,
        "take": SPIN.format(load="ld.relaxed.gpu.global.b32") + "fence.acq_rel.gpu;"},
    "volatile with membar": ONE | {
        "give": "@%p0 membar.gl;\n@%p0 st.volatile.global.b32 [%rd1], 1;",
        "take": SPIN.format(load="ld.volatile.global.b32") + "membar.gl;"},
    "fence.sc, barrier, relaxed": {
        "before": "fence.sc.gpu;\nbar.sync 0;", "give": RELAXED_STORE,
        "take": SPIN.format(load="ld.relaxed.gpu.global.b32"), "after": "bar.sync 1;\nfence.sc.gpu;"},
    "every thread its own fence": {
        "before": "bar.warp.sync -1;\nfence.acq_rel.gpu;", "give": "st.relaxed.gpu.global.b32 [%rd2], 1;",
        "take": SPIN.format(load="ld.relaxed.gpu.global.b32").replace("[%rd1]", "[%rd2]") + "fence.acq_rel.gpu;",
        "after": ""},
    "strong data": {
        "write": "st.relaxed.gpu.global.b32", "read": "ld.relaxed.gpu.global.b32", "before": "", "after": "",
        "give": RELAXED_STORE, "take": SPIN.format(load="ld.relaxed.gpu.global.b32")},
}  # fmt: skip
FENCED = RIGHT["fences and relaxed"]
WRONG = {
    "no fence before": ("grid-race", FENCED | {"give": RELAXED_STORE}),
    "no fence after": ("grid-race", FENCED | {"take": SPIN.format(load="ld.relaxed.gpu.global.b32")}),
    "relaxed flag": ("grid-race", RIGHT["release, acquire"] | {"give": RELAXED_STORE}),
    "relaxed load": ("grid-race", RIGHT["release, acquire"] | {"take": SPIN.format(load="ld.relaxed.gpu.global.b32")}),
    "atom without fence": ("grid-race", ONE | {
        "give": "@%p0 atom.global.add.u32 %r9, [%rd1], 1;", "take": SPIN.format(load="ld.acquire.gpu.global.b32")}),
    "no barrier before": ("grid-race", RIGHT["release, acquire"] | {"before": ""}),
    "no barrier after": ("grid-race", RIGHT["release, acquire"] | {
        "take": "@!%p0 bra NEXT;\n" + SPIN.format(load="ld.acquire.gpu.global.b32") + "NEXT:", "after": ""}),
    "release.cta": ("scope", RIGHT["release, acquire"] | {"give": "@%p0 st.release.cta.global.b32 [%rd1], 1;"}),
    "acquire.cluster": ("grid-race", RIGHT["release, acquire"] | {
        "take": SPIN.format(load="ld.acquire.cluster.global.b32")}),
    "fence.cta before": ("grid-race", FENCED | {"give": "@%p0 fence.acq_rel.cta;\n" + RELAXED_STORE}),
    "fence.cta after": ("grid-race", FENCED | {
        "take": SPIN.format(load="ld.relaxed.gpu.global.b32") + "fence.acq_rel.cta;"}),
    "acq_rel fence, barrier, relaxed": ("grid-race", RIGHT["fence.sc, barrier, relaxed"] | {
        "before": "fence.acq_rel.gpu;\nbar.sync 0;"}),
    "plain flag": ("grid-race", RIGHT["release, acquire"] | {"give": "@%p0 st.global.b32 [%rd1], 1;"}),
    "plain data, relaxed flag": ("grid-race", RIGHT["strong data"] | {"read": "ld.global.b32"}),
    "data in a narrow scope": ("scope", RIGHT["strong data"] | {"read": "ld.relaxed.cta.global.b32"}),
    "constant read": ("not-constant", RIGHT["release, acquire"] | {"read": "ld.global.nc.b32"}),
}  # fmt: skip


def found(parts: dict[str, str], **options) -> set[str]:
    parts = {"write": "st.global.b32", "read": "ld.global.b32"} | parts
    out = aligned(1024)
    ptx = kernel(".param .b64 out", FLAG.format(**parts))
    report = run(ptx, [pointer(out)], [out], **({"grid": (2, 1, 1), "block": (64, 1, 1), "checks": True} | options))
    return {hazard.kind for hazard in report.hazards}


@pytest.mark.parametrize("options", [
    {}, {"cluster_order": "descending"}, {"order": "random"}, {"order": "adversarial"},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("name", RIGHT)
def test_right_forms_are_silent(name, options):
    assert found(RIGHT[name], **options) == set()


@pytest.mark.parametrize("name", WRONG)
def test_what_is_missing_is_found(name):
    kind, parts = WRONG[name]
    for options in ({}, {"cluster_order": "descending"}):
        kinds = found(parts, **options)
        assert kind in kinds, (options, kinds)


# The last of 4 CTAs to arrive at a counter sums what all have written.
LAST_BLOCK = """
    ld.param.b64 %rd1, [out];
    mov.u32 %r0, %ctaid.x;
    mov.u32 %r5, %tid.x;
    setp.eq.u32 %p0, %r5, 0;
    mov.u32 %r6, smem;
    mul.wide.u32 %rd2, %r0, 256;
    mul.wide.u32 %rd3, %r5, 4;
    add.u64 %rd2, %rd2, %rd1;
    add.u64 %rd2, %rd2, %rd3;
    st.global.b32 [%rd2+256], %r0;
    {first}
    @!%p0 bra WAIT;
    {count}
    st.shared.b32 [%r6], %r7;
WAIT:
    bar.sync 1;
    ld.shared.b32 %r7, [%r6];
    setp.ne.u32 %p1, %r7, 3;
    @%p1 bra DONE;
    {last}
    add.u64 %rd4, %rd1, %rd3;
    ld.global.b32 %r8, [%rd4+256];
    ld.global.b32 %r8, [%rd4+512];
    ld.global.b32 %r8, [%rd4+768];
    ld.global.b32 %r8, [%rd4+1024];
DONE:
"""
COUNT = "atom.global.add.u32 %r7, [%rd1], 1;"


@pytest.mark.parametrize("first, count, last, kinds", [
    ("membar.gl;\nbar.sync 0;", COUNT, "membar.gl;", set()),
    ("bar.sync 0;", "fence.acq_rel.gpu;\n" + COUNT + "\nfence.acq_rel.gpu;", "", set()),
    ("bar.sync 0;", "atom.acq_rel.gpu.global.add.u32 %r7, [%rd1], 1;", "", set()),
    ("bar.sync 0;", COUNT, "", {"grid-race"}),
    ("membar.gl;\nbar.sync 0;", COUNT, "", {"grid-race"}),
    ("bar.sync 0;", COUNT, "membar.gl;", {"grid-race"}),
    ("bar.sync 0;", "atom.release.gpu.global.add.u32 %r7, [%rd1], 1;", "", {"grid-race"}),
    ("bar.sync 0;", "atom.acq_rel.cta.global.add.u32 %r7, [%rd1], 1;", "", {"grid-race", "scope"}),
])  # fmt: skip
@pytest.mark.parametrize("cluster_order", ["ascending", "random"])
def test_last_block_reductions(first, count, last, kinds, cluster_order):
    out = aligned(2048)
    ptx = kernel(".param .b64 out", LAST_BLOCK.format(first=first, count=count, last=last))
    options = {"grid": (4, 1, 1), "block": (64, 1, 1), "checks": True, "cluster_order": cluster_order}
    assert {h.kind for h in run(ptx, [pointer(out)], [out], **options).hazards} == kinds


def test_plain_loads_against_reductions():
    """CTA 1 polls with plain loads what CTA 0 adds to."""
    body = """
    ld.param.b64 %rd1, [out];
    mov.u32 %r0, %ctaid.x;
    setp.eq.u32 %p0, %r0, 0;
    @%p0 red.global.add.u32 [%rd1], 1;
    @!%p0 {load} %r1, [%rd1];
"""
    for order in ("ascending", "descending"):
        for load, kinds in (("ld.global.b32", ["grid-race"]), ("ld.relaxed.gpu.global.b32", [])):
            out = aligned(64)
            ptx = kernel(".param .b64 out", body.format(load=load))
            report = run(ptx, [pointer(out)], [out], grid=(2, 1, 1), block=(1, 1, 1), checks=True, cluster_order=order)
            assert [h.kind for h in report.hazards] == kinds


def test_order_is_handed_on():
    """CTA 0 to CTA 1 by one flag, CTA 1 to CTA 2 by another; without the middle's acquire nothing is."""
    body = """
    ld.param.b64 %rd1, [out];
    mov.u32 %r0, %ctaid.x;
    setp.eq.u32 %p0, %r0, 0;
    setp.eq.u32 %p1, %r0, 1;
    @%p0 st.global.b32 [%rd1+128], 5;
    @%p0 st.release.gpu.global.b32 [%rd1], 1;
    @%p1 ld.{middle}.gpu.global.b32 %r1, [%rd1];
    @%p1 st.release.gpu.global.b32 [%rd1+64], 1;
    @%p0 bra DONE;
    @%p1 bra DONE;
    ld.acquire.gpu.global.b32 %r1, [%rd1+64];
    ld.global.b32 %r2, [%rd1+128];
DONE:
"""
    for middle, kinds in (("acquire", []), ("relaxed", ["grid-race"])):
        out = aligned(256)
        ptx = kernel(".param .b64 out", body.format(middle=middle))
        report = run(ptx, [pointer(out)], [out], grid=(3, 1, 1), block=(1, 1, 1), checks=True)
        assert [h.kind for h in report.hazards] == kinds


BULK = """
    ld.param.b64 %rd1, [out];
    mov.u32 %r0, %ctaid.x;
    mov.u32 %r3, smem;
    setp.eq.u32 %p1, %r0, 0;
    @!%p1 bra TAKE;
    {write}
    st.release.gpu.global.b32 [%rd1], 1;
    bra DONE;
TAKE:
    mbarrier.init.shared.b64 [%r3+1024], 1;
    fence.mbarrier_init.release.cluster;
    ld.acquire.gpu.global.b32 %r1, [%rd1];
    {read}
DONE:
    cp.async.bulk.wait_group 0;
"""
STORE = "st.shared.b32 [%r3], 1;\nst.shared.b32 [%r3+4], 1;\nst.shared.b32 [%r3+8], 1;\nst.shared.b32 [%r3+12], 1;\n" \
        "fence.proxy.async.shared::cta;\ncp.async.bulk.global.shared::cta.bulk_group [%rd1+128], [%r3], 16;\n" \
        "cp.async.bulk.commit_group;\n"  # fmt: skip
COPY = "mbarrier.arrive.expect_tx.shared.b64 %rd0, [%r3+1024], 16;\n" \
       "cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [%r3], [%rd1+128], 16, [%r3+1024];\n" \
       "mbarrier.try_wait.parity.shared.b64 %p15, [%r3+1024], 0;"  # fmt: skip


@pytest.mark.parametrize("write, read, kinds", [
    (STORE + "cp.async.bulk.wait_group 0;", "ld.global.b32 %r2, [%rd1+128];", set()),
    (STORE, "ld.global.b32 %r2, [%rd1+128];", {"race"}),
    (STORE + "cp.async.bulk.wait_group.read 0;", "ld.global.b32 %r2, [%rd1+128];", {"race"}),
    ("st.global.b32 [%rd1+128], 1;\nfence.proxy.async;", COPY, set()),
    ("st.global.b32 [%rd1+128], 1;", "fence.proxy.async;\n" + COPY, set()),
    ("st.global.b32 [%rd1+128], 1;", COPY, {"proxy"}),
])  # fmt: skip
def test_asynchronous_accesses_between_ctas(write, read, kinds):
    out = aligned(256)
    ptx = kernel(".param .b64 out", BULK.format(write=write, read=read))
    report = run(ptx, [pointer(out)], [out], grid=(2, 1, 1), block=(1, 1, 1), checks=True)
    assert {h.kind for h in report.hazards} == kinds, [str(h) for h in report.hazards]


def test_a_flag_in_the_memory_of_the_cluster():
    """Scopes within a cluster: .cluster is enough between its CTAs, .cta is not."""
    body = """
    mov.u32 %r0, %cluster_ctarank;
    mov.u32 %r3, smem;
    mapa.shared::cluster.u32 %r4, %r3, 0;
    setp.eq.u32 %p0, %r0, 0;
    @%p0 st.shared.b32 [%r3], 0;
    @%p0 st.shared.b32 [%r3+4], 0;
    barrier.cluster.arrive.aligned;
    barrier.cluster.wait.aligned;
    @%p0 st.shared.b32 [%r3+4], 7;
    @%p0 st.release.SCOPE.shared::cluster.b32 [%r4], 1;
    @%p0 bra DONE;
SPIN:
    ld.acquire.SCOPE.shared::cluster.b32 %r1, [%r4];
    setp.eq.u32 %p1, %r1, 0;
    @%p1 bra SPIN;
    ld.shared::cluster.b32 %r2, [%r4+4];
DONE:
    barrier.cluster.arrive.aligned;
    barrier.cluster.wait.aligned;
"""
    for scope, kinds in (("cluster", set()), ("cta", {"race", "scope"})):
        ptx = kernel("", re.sub("SCOPE", scope, body))
        report = run(ptx, [], [], grid=(2, 1, 1), cluster=(2, 1, 1), block=(1, 1, 1), checks=True)
        assert {h.kind for h in report.hazards} == kinds, [str(h) for h in report.hazards]
