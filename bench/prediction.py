"""A decode call's modelled time: its kernels' PTX executed with time (ptx_emulator/timing), a few clusters for all."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field

import torch

from bench.counts import cuts, roles_of, work_items
from bench.hardware import B200
from bench.traffic import traffic_of
from bench.workloads import Workload
from mla import split_kv
from mla.compile import compile_decode
from mla.config import FLOAT_BYTES, HEAD_DIM, LATENT_DIM, MlaDecodeConfig
from mla.decode import MlaDecode
from ptx_emulator.engine import state
from ptx_emulator.timing import Constants, CtaTiming, LaunchTiming, chain_seconds, time_host_function
from ptx_emulator.timing.cubin import code_sizes, register_counts
from wrappers.call import OUTPUT_DTYPES
from wrappers.kernel import EMULATED_CTAS, TORCH_DTYPES, workspace_bytes

POOL_PAGES = 3072  # distinct pages that tables walk through in a circle; more than one cluster reads
TARGET_FACTOR, TARGET_MICROSECONDS = 1.05, 8.0


@dataclass(frozen=True)
class Prediction:
    """Modelled microseconds. hbm, mma, port: what each takes by itself. waits: of the longest cluster, see named_waits.
    busy: unit -> share of its time."""

    workload: str
    path: str
    clock: float
    hbm: float
    mma: float
    port: float
    decode: float
    merge: float
    total: float
    target: float
    busy: dict[str, float] = field(default_factory=dict)
    waits: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def bound(self) -> float:
        return max(self.hbm, self.mma)


def config_of(workload: Workload, path: str = "auto") -> MlaDecodeConfig:
    return MlaDecodeConfig(
        workload.dtype, workload.num_heads, workload.seq_len_q, True, workload.page_size, path=path,
        isolate_drafts=workload.isolate_drafts,
        rescale_threshold=workload.rescale_threshold, ragged_query=workload.ragged_query,
        avoid=workload.avoid, uncut_tiles=workload.uncut_tiles, stages=workload.stages,
    )  # fmt: skip


def write_cuts(workspace: torch.Tensor, config: MlaDecodeConfig, kv_lens: Sequence[int]) -> None:
    """What every unit tells the merge, of which only some are executed."""
    plan = MlaDecode(config).plan
    of_units = [astuple(cut) for cut in cuts(config, kv_lens, EMULATED_CTAS)]
    offset = split_kv.cuts_offset(len(of_units), plan.tile.rows, LATENT_DIM, config.partial_bytes)
    begin = offset // workspace.element_size()
    table = workspace[begin : begin + len(of_units) * split_kv.CUT_INTS].view(torch.int32)
    fields = torch.tensor(of_units, dtype=torch.int32)
    table.view(-1, split_kv.CUT_INTS)[:, : fields.shape[1]] = fields


@functools.lru_cache(maxsize=1)
def host_arguments(workload: Workload, config: MlaDecodeConfig, seed: int = 0) -> tuple[object, ...]:
    """Normal data; block tables walk through a pool of pages in a circle, so that no cluster reads a page twice."""
    generator = torch.Generator().manual_seed(seed)
    width = -(-max(workload.kv_lens) // workload.page_size)
    pages = min(POOL_PAGES * 64 // workload.page_size, width * workload.batch)
    dtype = TORCH_DTYPES[workload.dtype]
    cache = torch.randn(pages, workload.page_size, HEAD_DIM, generator=generator).to(dtype)
    shape = (workload.batch, workload.seq_len_q, workload.num_heads)
    starts = None
    if workload.ragged_query:
        starts = torch.arange(workload.batch + 1, dtype=torch.int32) * workload.seq_len_q
        shape = (1, workload.batch * workload.seq_len_q, workload.num_heads)
    query = torch.randn(*shape, HEAD_DIM, generator=generator).to(dtype)
    tables = (torch.arange(workload.batch * width, dtype=torch.int32) % pages).reshape(workload.batch, width)
    out = torch.zeros(*shape, LATENT_DIM, dtype=OUTPUT_DTYPES[dtype])
    workspace = torch.zeros(workspace_bytes(EMULATED_CTAS) // FLOAT_BYTES)
    write_cuts(workspace, config, workload.kv_lens)
    seq_lens = torch.tensor(workload.kv_lens, dtype=torch.int32)
    scale = HEAD_DIM**-0.5
    return query, cache, tables, seq_lens, out, None, workspace, EMULATED_CTAS, scale, 1.0, starts, None, None


def units_to_execute(config: MlaDecodeConfig, kv_lens: Sequence[int]) -> tuple[list[int], int]:
    """(units that stand for all: the first, the last with work, the one with most key tiles, the one with most work
    items, of these the most tiles), and how many have work."""
    tiles: dict[int, list[int]] = {}
    for item in work_items(config, kv_lens, EMULATED_CTAS):
        count = tiles.setdefault(item.unit, [0, 0])
        count[0] += item.phases.num_tiles
        count[1] += 1
    longest = max(tiles, key=lambda unit: (tiles[unit][0], tiles[unit][1]))
    most_items = max(tiles, key=lambda unit: (tiles[unit][1], tiles[unit][0]))
    return sorted({0, max(tiles), longest, most_items}), len(tiles)


def timed_launches(
    config: MlaDecodeConfig, workload: Workload, constants: Constants, seed: int = 0, trace_rows: int = 0
) -> list[LaunchTiming]:
    """The decode kernel and the merge of split row tiles."""
    kernel = compile_decode(config)
    units, active = units_to_execute(config, workload.kv_lens)
    busy = active * MlaDecode(config).plan.tile.cluster_size
    options = [
        {"clusters": units, "busy_sms": busy, "trace_rows": trace_rows, "traffic": traffic_of(config, workload)},
        {"cached": True},
    ]
    arguments = host_arguments(workload, config, seed)
    return time_host_function(
        kernel.ir, kernel.ptx, arguments, constants, options=options, registers=register_counts(kernel.cubin),
        code_bytes=code_sizes(kernel.cubin),
    )  # fmt: skip


def predict(workload: Workload, constants: Constants, path: str = "auto", seed: int = 0) -> Prediction:
    began = time.perf_counter()
    config = config_of(workload, path)
    description = MlaDecode(config)
    plan = description.plan
    decode, merge = timed_launches(config, workload, constants, seed)
    us = constants.microseconds
    hand_over = constants["next_launch_pdl" if merge.dependent else "next_launch"] * 1e6
    hbm = (workload.kv_bytes + workload.row_bytes) / constants["hbm"] * 1e6
    per_second = constants.cycles_per_second * constants["sms"]
    mma = workload.flop(plan.tile.rows) / B200.mma_flop_per_clock[workload.dtype] / per_second * 1e6
    tiles = sum(item.phases.num_tiles for item in work_items(config, workload.kv_lens, EMULATED_CTAS))
    port = us(plan.traffic_cycles(plan.tile.tokens) * tiles / (EMULATED_CTAS // plan.tile.cluster_size))
    longest = max(decode.clusters, key=lambda cluster: cluster.cycles)
    return Prediction(
        workload=workload.name,
        path="wide" if config.is_wide else "narrow",
        clock=constants["clock"],
        hbm=hbm,
        mma=mma,
        port=port,
        decode=us(decode.cycles),
        merge=us(merge.cycles) + hand_over,
        total=chain_seconds([decode, merge], constants) * 1e6,
        target=TARGET_FACTOR * max(hbm, mma) + TARGET_MICROSECONDS,
        busy={name: cycles / longest.cycles for name, cycles in longest.busy.items()},
        waits=named_waits(description, longest),
        seconds=time.perf_counter() - began,
    )


def named_waits(description: MlaDecode, cluster: CtaTiming) -> dict[str, float]:
    """Shares of the cluster's time, by role, of a pair by role and CTA: "role <- edge (what completed it)" where it
    waits, "role works" for what it does not wait. The mean over the role's warps."""
    plan = description.plan
    roles = roles_of(plan.warps)
    role_of = {warp: role for role, warps in roles.items() for warp in warps}
    found: dict[tuple[str, str], float] = {}

    def add(warp: int, what: str, cycles: float) -> None:
        cta, number = divmod(warp, plan.warps.num_warps)
        role = role_of[number]
        label = role if plan.tile.cluster_size == 1 else f"{role} of CTA {cta}"
        found[label, what] = found.get((label, what), 0.0) + cycles / cluster.cycles / len(roles[role])

    for warp, end in enumerate(cluster.ended):
        add(warp, "works", end)
    for (warp, offset, by), cycles in cluster.waits.items():
        add(warp, f"<- {edge_at(plan, offset - state.SHARED_START)} ({by})", cycles)
        add(warp, "works", -cycles)
    for (warp, kind), cycles in cluster.blocked.items():
        add(warp, "<- code" if kind == "code" else f"<- {kind} barrier", cycles)
        add(warp, "works", -cycles)
    return {f"{label} {what}": share for (label, what), share in sorted(found.items(), key=lambda i: (i[0][0], -i[1]))}


def edge_at(plan, offset: int) -> str:
    """The edge, and which of its barriers, at an offset of dynamic shared memory."""
    position = (offset - plan.barrier_offset) // 8
    for edge in plan.barriers.edges:
        first = plan.barriers.offset(edge.name) // 8
        if first <= position < first + edge.num_barriers:
            return f"{edge.name} {'full' if position - first < edge.stages else 'empty'}"
    return f"barrier +{offset}"
