"""What is checked of single threads: who fenced, who issued, who takes part, and waits that may time out."""

from __future__ import annotations

import pytest

from ptx_emulator.engine import native
from ptx_emulator.errors import Deadlock
from ptx_emulator.units.tma.tensormap import TensorMap

from ...helpers import ORDERS, aligned, kernel, pointer, run, wait
from .patterns import DESCRIPTOR, END, IDESC, ISSUER, OPERANDS, START, inits

ONE_WARP = {"block": (32, 1, 1)}


def hazards(body: str, *, params: str = ".param .b64 out", **options):
    out = aligned(4096)
    given = [pointer(out)] if params else []
    return run(kernel(params, body), given, [out], **({"checks": True} | ONE_WARP | options))


def kinds(*arguments, **options) -> set[str]:
    return {hazard.kind for hazard in hazards(*arguments, **options).hazards}


# All lanes write, one copies what they have written.
STORE = (
    START
    + """
    ld.param.b64 %rd1, [out];
    shl.b32 %r4, %r2, 2;
    add.u32 %r4, %r4, %r3;
    {write}
    {fence}
    @%p3 cp.async.bulk.global.shared::cta.bulk_group [%rd1], [%r3], 128;
    @{commits} cp.async.bulk.commit_group;
    @{waits} cp.async.bulk.wait_group 0;
    {after}
    cp.async.bulk.commit_group;
    cp.async.bulk.wait_group 0;
"""
)
WRITE, SYNC, FENCE = "st.shared.b32 [%r4], %r0;", "bar.warp.sync -1;\n", "fence.proxy.async.shared::cta;\n"


@pytest.mark.parametrize("write, fence, expected", [
    (WRITE, FENCE + SYNC, set()),
    (WRITE, SYNC + "@%p3 " + FENCE, set()),
    (WRITE, "@%p3 " + FENCE + SYNC, {"proxy-lanes"}),
    (WRITE, FENCE, {"lanes"}),
    (WRITE, SYNC, {"proxy"}),
    (WRITE, "", {"proxy"}),
    ("@%p3 st.shared.v4.b32 [%r4], {%r0, %r0, %r0, %r0};", "@%p3 " + FENCE, set()),
])  # fmt: skip
def test_one_lane_copies_what_all_have_written(write, fence, expected):
    text = STORE.format(write=write, fence=fence, commits="%p3", waits="%p3", after="")
    assert kinds(text) == expected


@pytest.mark.parametrize("sync, expected", [
    (FENCE + SYNC, set()), (SYNC, {"proxy-read"}), (FENCE, {"lanes"}), ("", {"lanes"}),
])  # fmt: skip
def test_one_lane_copies_over_what_all_have_read(sync, expected):
    """What hides behind the proxy-read warning that CUTLASS' pipelines have too."""
    body = (
        START
        + inits(1)
        + f"""
    ld.param.b64 %rd1, [out];
    shl.b32 %r4, %r2, 2;
    add.u32 %r4, %r4, %r3;
    {WRITE}
    bar.warp.sync -1;
    xor.b32 %r5, %r4, 4;
    fence.proxy.async.shared::cta;
    ld.shared.b32 %r6, [%r5];
    {sync}
    @%p3 mbarrier.arrive.expect_tx.shared.b64 %rd0, [%r3+1024], 128;
    @%p3 cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [%r3], [%rd1], 128, [%r3+1024];
"""
        + wait("%r3+1024")
    )
    assert kinds(body) == expected


OTHER = "setp.eq.u32 %p7, %r2, 5;\n"


@pytest.mark.parametrize("order", ["in_order", "late"])
def test_only_the_issuer_can_wait_for_its_group(order):
    text = STORE.format(write=OTHER + WRITE, fence=FENCE + SYNC, commits="%p3", waits="%p7", after=SYNC + WRITE)
    assert kinds(text, order=order) == {"other-lane", "race"}
    text = STORE.format(write=OTHER + WRITE, fence=FENCE + SYNC, commits="%p3", waits="%p3", after=SYNC + WRITE)
    assert kinds(text, order=order) == set()


def test_only_the_issuer_can_commit_its_copies():
    """The copies of lane 0 are in no group when lane 0 waits; the last commit and wait are theirs."""
    text = STORE.format(write=OTHER + WRITE, fence=FENCE + SYNC, commits="%p7", waits="%p3", after=SYNC + WRITE)
    assert kinds(text) == {"other-lane", "race"}


@pytest.mark.parametrize("waits, expected", [("", set()), ("@%p3 ", {"race"}), ("@%p4 ", {"race"})])
def test_every_thread_waits_for_its_own_cp_async(waits, expected):
    body = f"""
    setp.lt.u32 %p4, %r2, 16;
    ld.param.b64 %rd1, [out];
    mul.wide.u32 %rd2, %r2, 4;
    add.u64 %rd1, %rd1, %rd2;
    shl.b32 %r4, %r2, 2;
    add.u32 %r4, %r4, %r3;
    cp.async.ca.shared.global [%r4], [%rd1], 4;
    cp.async.commit_group;
    {waits}cp.async.wait_group 0;
    bar.warp.sync -1;
    xor.b32 %r4, %r4, 64;
    ld.shared.b32 %r5, [%r4];
"""
    assert kinds(START + body) == expected


COMMIT = (
    OPERANDS
    + OTHER
    + """
    setp.eq.u32 %p8, %r0, 5;
    st.shared.v4.b32 [%r4+8192], {%r6, %r6, %r6, %r6};
    fence.proxy.async.shared::cta;
    bar.sync 0;
    tcgen05.fence::after_thread_sync;
"""
    + ISSUER
    + f"""
    or.b64 %rd3, %rd3, {DESCRIPTOR};
    add.u64 %rd4, %rd3, 256;
    mov.b32 %r8, {IDESC};
    setp.eq.u32 %p6, %r8, 0;
    tcgen05.mma.cta_group::1.kind::f16 [%r10], %rd3, %rd4, %r8, %p6;
ISSUED:
    @WHO tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [%r3+1024];
    mbarrier.try_wait.parity.shared.b64 %p15, [%r3+1024], 0;
    tcgen05.fence::after_thread_sync;
"""
    + END
)


@pytest.mark.parametrize("order", ["in_order", "late"])
def test_only_the_issuer_can_commit_its_products(order):
    for who, expected in (("%p0", set()), ("%p8", {"other-lane"})):
        found = kinds(COMMIT.replace("WHO", who), params="", block=(128, 1, 1), order=order)
        assert found == expected, who


GLOBAL = (
    START
    + inits(1)
    + """
    ld.param.b64 %rd1, [out];
    @%p0 st.global.v4.b32 [%rd1], {{%r0, %r0, %r0, %r0}};
    @%p0 fence.proxy.async{space};
    @%p0 mbarrier.arrive.expect_tx.shared.b64 %rd0, [%r3+1024], 16;
    @%p0 cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [%r3], [%rd1], 16, [%r3+1024];
"""
    + wait("%r3+1024")
)
SHARED = (
    START
    + """
    ld.param.b64 %rd1, [out];
    @%p0 st.shared.v4.b32 [%r3], {{%r0, %r0, %r0, %r0}};
    @%p0 fence.proxy.async{space};
    @%p0 cp.async.bulk.global.shared::cta.bulk_group [%rd1], [%r3], 16;
    cp.async.bulk.commit_group;
    cp.async.bulk.wait_group 0;
"""
)


@pytest.mark.parametrize("space, of_global, of_shared", [
    ("", set(), set()), (".global", set(), {"proxy"}), (".shared::cta", {"proxy"}, set()),
    (".shared::cluster", {"proxy"}, set()),
])  # fmt: skip
def test_a_proxy_fence_is_for_a_state_space(space, of_global, of_shared):
    assert kinds(GLOBAL.format(space=space)) == of_global
    assert kinds(SHARED.format(space=space)) == of_shared


@pytest.mark.parametrize("order", ORDERS)
def test_try_wait_may_time_out_at_any_time(order):
    """A loop stands it; a single try_wait, as if it waited for ever, is found by the checks or by what it reads."""
    body = (
        START
        + inits(1)
        + """
    ld.param.b64 %rd1, [out];
    mov.u32 %r9, 0;
    mov.u32 %r8, 0;
    @%p1 bra WRITER;
ROUND:
{wait}
    ld.shared.b32 %r7, [%r3];
    add.u32 %r9, %r9, %r7;
    bar.sync 1;
    bar.sync 2;
    xor.b32 %r8, %r8, 1;
    setp.lt.u32 %p4, %r9, 200;
    @%p4 bra ROUND;
    bra DONE;
WRITER:
    mov.u32 %r10, 0;
SLOWLY:
    add.u32 %r10, %r10, 1;
    setp.lt.u32 %p5, %r10, 300;
    @%p5 bra SLOWLY;
    @%p3 st.shared.b32 [%r3], 10;
    @%p3 mbarrier.arrive.shared.b64 %rd0, [%r3+1024];
    bar.sync 1;
    @%p3 st.shared.b32 [%r3], -1;
    add.u32 %r9, %r9, 10;
    bar.sync 2;
    setp.lt.u32 %p4, %r9, 200;
    @%p4 bra WRITER;
DONE:
"""
    )
    once = "    mbarrier.try_wait.parity.shared.b64 %p15, [%r3+1024], %r8;"
    loop = wait("%r3+1024", "%r8", "AGAIN")
    options = {"block": (64, 1, 1), "order": order, "step_limit": 400_000}
    assert kinds(body.replace("{wait}", loop), **options) == set()
    assert kinds(body.replace("{wait}", loop), spurious_timeouts=True, **options) == set()
    assert kinds(body.replace("{wait}", once), **options) == set()
    assert "race" in kinds(body.replace("{wait}", once), spurious_timeouts=True, **options)


PEER = """
    mov.u32 %r4, %cluster_ctarank;
    xor.b32 %r5, %r4, 1;
    mapa.shared::cluster.u32 %r6, %r3, %r5;
"""
CLUSTER = {"params": "", "grid": (2, 1, 1), "cluster": (2, 1, 1)}
BARRIER = "barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;\n"


@pytest.mark.parametrize("access", [
    "@%p0 st.shared::cluster.b32 [%r6], 1;", "@%p0 ld.shared::cluster.b32 %r9, [%r6];",
    "@%p0 red.shared::cluster.add.u32 [%r6], 1;",
])  # fmt: skip
def test_a_peer_must_have_started(access):
    for first in (BARRIER, ""):
        found = kinds(START + PEER + inits(1, extra=first) + access + BARRIER, **CLUSTER)
        assert ("unstarted-peer" in found) == (first == "")


@pytest.mark.parametrize("body, expected", [
    ("bar.sync 0;", set()),
    ("@%p7 bra DONE;\nbar.sync 0;\nDONE:", {"absent-lanes"}),
    ("@%p7 bra DONE;\nshfl.sync.idx.b32 %r5, %r0, 0, 31, -1;\nDONE:", {"absent-lanes"}),
    ("@%p7 bra DONE;\nshfl.sync.idx.b32 %r5, %r0, 0, 31, 0xFFFFFFDF;\nDONE:", set()),
    ("@%p7 bra DONE;\nbar.warp.sync -1;\nDONE:", {"absent-lanes"}),
])  # fmt: skip
def test_lanes_that_have_exited_take_part_in_nothing(body, expected):
    assert kinds(START + OTHER + body, params="") == expected


@pytest.mark.parametrize("body, lines", [
    ("@%p7 bra OTHER;\nbar.sync 0;\nbra DONE;\nOTHER:\nbar.sync 0;\nDONE:", 2),
    ("@%p7 bra OTHER;\nbar.sync 0;\nOTHER:\nbar.warp.sync -1;", 2),
    ("@%p7 bra OTHER;\nST: ld.volatile.shared.b32 %r5, [%r3];\nsetp.ne.u32 %p2, %r5, 7;\n@%p2 bra ST;\nOTHER:\n"
     "bar.sync 0;\n", 0),
])  # fmt: skip
@pytest.mark.parametrize("checks", [True, False])
def test_a_warp_whose_parts_wait_for_one_another(body, lines, checks):
    """The last one is a deadlock as well, but what the lanes that spin wait for could come from elsewhere."""
    body = START + OTHER + "@%p0 st.shared.b32 [%r3], 1;\nbar.sync 0;\n" + body
    with pytest.raises(Deadlock) as caught:
        run(kernel("", body), [], [], block=(64, 1, 1), checks=checks)
    assert ("warp 0 has diverged: line" in str(caught.value)) == (lines > 0)
    found = [hazard for hazard in caught.value.hazards if hazard.kind == "diverged-warp"]
    assert len({hazard.line for hazard in found}) == (lines if checks else 0)
    assert all("only lanes 0x" in hazard.message and hazard.severity == "error" for hazard in found)


def test_a_last_warp_that_is_not_full():
    """The lanes that a block does not have are not missing."""
    assert (
        kinds("bar.sync 0;\nshfl.sync.idx.b32 %r5, %r0, 0, 31, -1;\nbar.sync 0;", params="", block=(40, 1, 1)) == set()
    )


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("row, notes", [(0, []), (12, []), (16, ["box-outside"]), (-8, ["box-outside"])])
def test_a_box_that_lies_outside_is_a_note(row, notes, level, monkeypatch):
    if not level:
        monkeypatch.setattr(native, "LEVELS", {})
    data = aligned(16 * 32)
    tensor = TensorMap(data.ctypes.data, "u8", (32, 16), (32,), (32, 8))
    body = (
        START
        + inits(1)
        + f"""
    @%p0 mbarrier.arrive.expect_tx.shared.b64 %rd0, [%r3+1024], 256;
    mov.b32 %r8, {row};
    mov.b32 %r9, 0;
    mov.b64 %rd5, map;
    @%p0 cp.async.bulk.tensor.2d.shared::cta.global.mbarrier::complete_tx::bytes [%r3], [%rd5, {{%r9, %r8}}], [%r3+1024];
"""
        + wait("%r3+1024")
    )
    ptx = kernel(".param .align 64 .b8 map[128]", body)
    result = run(ptx, [tensor.to_bytes()], [data], checks=True, **ONE_WARP)
    assert result.hazards == [] and [note.kind for note in result.notes] == notes
    assert all(note.severity == "note" for note in result.notes)
