"""Small kernels with every edge that they need. A line ends in `//@name` if leaving it out must be found out."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...helpers import wait

START = """
    mov.u32 %r0, %tid.x;
    shr.u32 %r1, %r0, 5;
    and.b32 %r2, %r0, 31;
    mov.u32 %r3, smem;
    setp.eq.u32 %p0, %r0, 0;
    setp.eq.u32 %p1, %r1, 1;
    setp.eq.u32 %p2, %r1, 0;
    setp.eq.u32 %p3, %r2, 0;
"""


def inits(*counts: int, extra: str = "") -> str:
    """mbarriers at smem+1024, +1032, ... initialised by thread 0."""
    lines = [f"@%p0 mbarrier.init.shared.b64 [%r3+{1024 + 8 * i}], {n};" for i, n in enumerate(counts)]
    return "\n".join(lines) + f"\n@%p0 fence.mbarrier_init.release.cluster; //@initfence\n{extra}bar.sync 0; //@init\n"


@dataclass(frozen=True)
class Pattern:
    """`edges`: which kind of hazard each edge's absence is."""

    body: str
    edges: dict[str, str]
    params: str = ""
    options: dict = field(default_factory=dict)


WARPS = Pattern(
    START
    + """
    shl.b32 %r4, %r2, 2;
    add.u32 %r4, %r4, %r3;
    @%p2 st.shared.b32 [%r4], %r0;
    bar.sync 0; //@after-write
    @%p1 ld.shared.b32 %r5, [%r4];
    bar.sync 1; //@after-read
    @%p2 st.shared.b32 [%r4], %r1;
""",
    {"after-write": "race", "after-read": "race"},
    options={"block": (64, 1, 1)},
)

MBARRIER = Pattern(
    START
    + inits(32)
    + """
    shl.b32 %r4, %r2, 2;
    add.u32 %r4, %r4, %r3;
    @%p1 bra READ;
    st.shared.b32 [%r4], %r0;
    mbarrier.arrive.shared.b64 %rd0, [%r3+1024];
    bra DONE;
READ:
    mbarrier.try_wait.parity.shared.b64 %p15, [%r3+1024], 0; //@wait
    ld.shared.b32 %r5, [%r4];
DONE:
""",
    {"wait": "race", "init": "mbarrier-init"},
    options={"block": (64, 1, 1)},
)

ELECTED = Pattern(
    START
    + inits(1)
    + """
    shl.b32 %r4, %r2, 2;
    add.u32 %r4, %r4, %r3;
    xor.b32 %r6, %r4, 4;
    @%p1 bra READ;
    st.shared.b32 [%r4], %r0;
    bar.warp.sync -1; //@before-read
    ld.shared.b32 %r5, [%r6];
    bar.warp.sync -1; //@before-arrive
    @%p3 mbarrier.arrive.shared.b64 %rd0, [%r3+1024];
    bra DONE;
READ:
"""
    + wait("%r3+1024")
    + """
    st.shared.b32 [%r4], %r5;
DONE:
""",
    {"before-read": "lanes", "before-arrive": "elected-arrive"},
    options={"block": (64, 1, 1)},
)

BULK = Pattern(
    START
    + inits(1)
    + """
    ld.param.b64 %rd1, [in];
    ld.param.b64 %rd2, [out];
    @%p0 mbarrier.arrive.expect_tx.shared.b64 %rd0, [%r3+1024], 256;
    @%p0 cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [%r3], [%rd1], 256, [%r3+1024];
LOADED:
    mbarrier.try_wait.parity.shared.b64 %p15, [%r3+1024], 0; //@full
    shl.b32 %r4, %r0, 2;
    add.u32 %r4, %r4, %r3;
    ld.shared.b32 %r5, [%r4];
    add.u32 %r5, %r5, 1;
    st.shared.b32 [%r4+256], %r5;
    fence.proxy.async.shared::cta; //@proxy
    bar.sync 0; //@stored
    @!%p0 bra DONE;
    cp.async.bulk.global.shared::cta.bulk_group [%rd2], [%r3+256], 256;
    cp.async.bulk.commit_group;
    cp.async.bulk.wait_group.read 0; //@reused
    st.shared.b32 [%r3+256], %r5;
    cp.async.bulk.wait_group 0;
    ld.global.b32 %r6, [%rd2];
DONE:
""",
    {"full": "race", "proxy": "proxy", "stored": "race", "reused": "race", "initfence": "mbarrier-init-fence"},
    params=".param .b64 in, .param .b64 out",
    options={"block": (64, 1, 1)},
)

CP_ASYNC = Pattern(
    START
    + """
    ld.param.b64 %rd1, [in];
    shl.b32 %r4, %r0, 2;
    cvt.u64.u32 %rd2, %r4;
    add.u64 %rd1, %rd1, %rd2;
    add.u32 %r4, %r4, %r3;
    cp.async.ca.shared.global [%r4], [%rd1], 4;
    cp.async.commit_group;
    cp.async.wait_group 0; //@wait
    bar.sync 0; //@barrier
    xor.b32 %r4, %r4, 128;
    ld.shared.b32 %r5, [%r4];
""",
    {"wait": "race", "barrier": "race"},
    params=".param .b64 in, .param .b64 out",
    options={"block": (64, 1, 1)},
)

ALLOC = """
    @%p2 tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r3+2048], 64;
    bar.sync 0; //@alloc
    ld.shared.b32 %r10, [%r3+2048];
"""
# Warps 0 and 4 reach the same lanes of Tensor Memory.
FRAGMENTS = Pattern(
    START
    + "setp.eq.u32 %p4, %r1, 4;\n"
    + ALLOC
    + """
    @%p2 tcgen05.st.sync.aligned.32x32b.x1.b32 [%r10], {%r0};
    @%p2 tcgen05.wait::st.sync.aligned; //@stored
    tcgen05.fence::before_thread_sync; //@before
    bar.sync 0; //@barrier
    tcgen05.fence::after_thread_sync; //@after
    @%p4 tcgen05.ld.sync.aligned.32x32b.x1.b32 {%r5}, [%r10];
    @%p4 tcgen05.wait::ld.sync.aligned; //@loaded
    tcgen05.fence::before_thread_sync;
    bar.sync 0; //@reuse
    tcgen05.fence::after_thread_sync;
    @%p2 tcgen05.st.sync.aligned.32x32b.x1.b32 [%r10], {%r0};
    @%p2 tcgen05.wait::st.sync.aligned; //@freed
    @%p2 tcgen05.dealloc.cta_group::1.sync.aligned.b32 %r10, 64;
""",
    {
        "stored": "race", "before": "tcgen05-fence", "barrier": "race", "after": "tcgen05-fence",
        "loaded": "tcgen05-wait", "reuse": "race", "freed": "race", "alloc": "race",
    },
    options={"block": (160, 1, 1)},
)  # fmt: skip

# The warps zero operands at smem + 4096 and on.
OPERANDS = (
    START
    + inits(1)
    + ALLOC
    + """
    shl.b32 %r4, %r0, 4;
    add.u32 %r4, %r4, %r3;
    mov.b32 %r6, 0;
    st.shared.v4.b32 [%r4+4096], {%r6, %r6, %r6, %r6};
"""
)
ISSUER = """
    @!%p0 bra ISSUED;
    add.u32 %r7, %r3, 4096;
    shr.u32 %r7, %r7, 4;
    cvt.u64.u32 %rd3, %r7;
"""
END = """
    tcgen05.fence::before_thread_sync;
    bar.sync 0;
    tcgen05.fence::after_thread_sync;
    @%p2 tcgen05.dealloc.cta_group::1.sync.aligned.b32 %r10, 64;
"""
# 64x64x16 of f16: A at smem + 4096, B at smem + 8192, rows of 16 bytes in 8-row groups, the other half 1024 on.
DESCRIPTOR = 1024 >> 4 << 16 | 128 >> 4 << 32 | 1 << 46
IDESC = 1 << 4 | 64 >> 3 << 17 | 64 >> 4 << 24
MMA = Pattern(
    OPERANDS
    + """
    st.shared.v4.b32 [%r4+8192], {%r6, %r6, %r6, %r6};
    fence.proxy.async.shared::cta; //@proxy
    bar.sync 0; //@written
    tcgen05.fence::after_thread_sync;
"""
    + ISSUER
    + f"""
    or.b64 %rd3, %rd3, {DESCRIPTOR};
    add.u64 %rd4, %rd3, 256;
    mov.b32 %r8, {IDESC};
    setp.ne.u32 %p5, %r8, 0;
    setp.eq.u32 %p6, %r8, 0;
    tcgen05.mma.cta_group::1.kind::f16 [%r10], %rd3, %rd4, %r8, %p6;
    tcgen05.mma.cta_group::1.kind::f16 [%r10], %rd3, %rd4, %r8, %p5;
    tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [%r3+1024];
ISSUED:
    mbarrier.try_wait.parity.shared.b64 %p15, [%r3+1024], 0; //@committed
    tcgen05.fence::after_thread_sync; //@after
    st.shared.b32 [%r4+4096], %r6;
    shl.b32 %r11, %r1, 21;
    add.u32 %r11, %r11, %r10;
    tcgen05.ld.sync.aligned.16x64b.x1.b32 {{%r12}}, [%r11];
    tcgen05.wait::ld.sync.aligned;
"""
    + END,
    {"proxy": "proxy", "written": "race", "committed": "race", "after": "tcgen05-fence"},
    options={"block": (128, 1, 1)},
)

# 128x32x32 of e4m3 with scale factors in columns 32 to 36, which every warp stores: A at smem + 4096, B at smem + 8192.
SCALED_DESCRIPTOR = 128 >> 4 << 32 | 1 << 46
SCALED_IDESC = 1 << 23 | 32 >> 3 << 17 | 128 >> 7 << 27
SCALED_MMA = Pattern(
    OPERANDS
    + """
    st.shared.v4.b32 [%r4+6144], {%r6, %r6, %r6, %r6};
    st.shared.v4.b32 [%r4+8192], {%r6, %r6, %r6, %r6};
    fence.proxy.async.shared::cta;
    shl.b32 %r11, %r1, 21;
    add.u32 %r11, %r11, %r10;
    tcgen05.st.sync.aligned.32x32b.x4.b32 [%r11+32], {%r6, %r6, %r6, %r6}; //@factors
    tcgen05.st.sync.aligned.32x32b.x1.b32 [%r11+36], {%r6};
    tcgen05.wait::st.sync.aligned; //@stored
    tcgen05.fence::before_thread_sync; //@before
    bar.sync 0; //@written
    tcgen05.fence::after_thread_sync;
"""
    + ISSUER
    + f"""
    or.b64 %rd4, %rd3, {SCALED_DESCRIPTOR | 512 >> 4 << 16};
    add.u64 %rd4, %rd4, 256;
    or.b64 %rd3, %rd3, {SCALED_DESCRIPTOR | 2048 >> 4 << 16};
    mov.b32 %r8, {SCALED_IDESC};
    setp.eq.u32 %p6, %r8, 0;
    tcgen05.mma.cta_group::1.kind::mxf8f6f4.block_scale [%r10], %rd3, %rd4, %r8, [%r10+32], [%r10+36], %p6;
    tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [%r3+1024];
ISSUED:
    mbarrier.try_wait.parity.shared.b64 %p15, [%r3+1024], 0; //@committed
    tcgen05.fence::after_thread_sync;
    tcgen05.st.sync.aligned.32x32b.x1.b32 [%r11+36], {{%r6}};
    tcgen05.wait::st.sync.aligned;
"""
    + END,
    {"factors": "uninitialised", "stored": "race", "before": "tcgen05-fence", "written": "race", "committed": "race"},
    options={"block": (128, 1, 1)},
)

CLUSTER = Pattern(
    START
    + """
    mov.u32 %r4, %cluster_ctarank;
    xor.b32 %r5, %r4, 1;
    mapa.shared::cluster.u32 %r6, %r3, %r5;
    barrier.cluster.arrive.aligned; //@start
    barrier.cluster.wait.aligned; //@start
    st.shared::cluster.b32 [%r6], %r4;
    barrier.cluster.arrive.release.aligned; //@arrive
    barrier.cluster.wait.acquire.aligned; //@arrive
    ld.shared.b32 %r7, [%r3];
""",
    {"arrive": "race", "start": "unstarted-peer"},
    options={"block": (1, 1, 1), "grid": (2, 1, 1), "cluster": (2, 1, 1)},
)

EXIT = Pattern(
    START
    + """
    mov.u32 %r4, %cluster_ctarank;
    mapa.shared::cluster.u32 %r6, %r3, 0;
    st.shared.b32 [%r3], %r4;
    barrier.cluster.arrive.aligned;
    barrier.cluster.wait.aligned;
    setp.eq.u32 %p4, %r4, 1;
    @%p4 ld.shared::cluster.b32 %r7, [%r6];
    barrier.cluster.arrive.aligned; //@exit
    barrier.cluster.wait.aligned; //@exit
""",
    {"exit": "exited-peer"},
    options={"block": (1, 1, 1), "grid": (2, 1, 1), "cluster": (2, 1, 1)},
)

# A CTA waits for its own copies, products and commits before it exits.
OWN_EXIT = Pattern(
    START
    + inits(1, 1, 1)
    + ALLOC
    + f"""
    ld.param.b64 %rd1, [in];
    @%p0 mbarrier.arrive.expect_tx.shared.b64 %rd0, [%r3+1024], 256;
    @%p0 cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [%r3], [%rd1], 256, [%r3+1024];
    shl.b32 %r4, %r0, 4;
    add.u32 %r4, %r4, %r3;
    mov.b32 %r6, 0;
    st.shared.v4.b32 [%r4+4096], {{%r6, %r6, %r6, %r6}};
    st.shared.v4.b32 [%r4+8192], {{%r6, %r6, %r6, %r6}};
    fence.proxy.async.shared::cta;
    tcgen05.fence::before_thread_sync;
    bar.sync 0;
    tcgen05.fence::after_thread_sync;
    @!%p0 bra ISSUED;
    add.u32 %r7, %r3, 4096;
    shr.u32 %r7, %r7, 4;
    cvt.u64.u32 %rd3, %r7;
    or.b64 %rd3, %rd3, {DESCRIPTOR};
    add.u64 %rd4, %rd3, 256;
    mov.b32 %r8, {IDESC};
    setp.eq.u32 %p6, %r8, 0;
    tcgen05.mma.cta_group::1.kind::f16 [%r10], %rd3, %rd4, %r8, %p6;
    tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [%r3+1032];
    tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [%r3+1040];
ISSUED:
    mbarrier.try_wait.parity.shared.b64 %p15, [%r3+1032], 0; //@first
    tcgen05.fence::after_thread_sync;
    bar.sync 0;
    @%p2 tcgen05.dealloc.cta_group::1.sync.aligned.b32 %r10, 64;
    mbarrier.try_wait.parity.shared.b64 %p15, [%r3+1040], 0; //@second
    mbarrier.try_wait.parity.shared.b64 %p15, [%r3+1024], 0; //@copied
""",
    {"first": "exited-commit", "second": "exited-commit", "copied": "exited-work"},
    params=".param .b64 in",
    options={"block": (128, 1, 1)},
)

# A ring of one slot: the producer must wait for the slot before it arrives for the next round.
RING = Pattern(
    START
    + inits(32, 32)
    + """
    shl.b32 %r4, %r2, 2;
    add.u32 %r4, %r4, %r3;
    @%p1 bra READ;
    st.shared.b32 [%r4], %r0;
    mbarrier.arrive.shared.b64 %rd0, [%r3+1024];
    mbarrier.try_wait.parity.shared.b64 %p15, [%r3+1032], 0; //@empty
    st.shared.b32 [%r4], %r1;
    mbarrier.arrive.shared.b64 %rd0, [%r3+1024];
    bra DONE;
READ:
"""
    + wait("%r3+1024")
    + """
    ld.shared.b32 %r5, [%r4];
    mbarrier.arrive.shared.b64 %rd0, [%r3+1032];
"""
    + wait("%r3+1024", "1", "AGAIN")
    + """
    ld.shared.b32 %r5, [%r4];
DONE:
""",
    {"empty": "mbarrier-phase"},
    options={"block": (64, 1, 1)},
)

PATTERNS = {
    "warps": WARPS, "mbarrier": MBARRIER, "elected": ELECTED, "bulk": BULK, "cp_async": CP_ASYNC,
    "fragments": FRAGMENTS, "mma": MMA, "scaled-mma": SCALED_MMA, "cluster": CLUSTER, "exit": EXIT,
    "own_exit": OWN_EXIT, "ring": RING,
}  # fmt: skip
