"""Which program separates which constant of the timed mode, in an order in which each needs only those before it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from bench.micro import arithmetic, code, memory, mma, sync, tma, tmem
from bench.micro.timed import MARK, Timed

SMS = 148  # CTAs of programs that occupy the whole chip
LOAD_ROUNDS = 4000  # of 16 MMAs each under which the clock is read: about 4 ms


@dataclass(frozen=True)
class Recipe:
    """constants: what is found, one, or several that no program tells apart: they keep their ratio. how: in words."""

    constants: tuple[str, ...]
    how: str
    timed: Timed

    @property
    def name(self) -> str:
        return " + ".join(self.constants)


def _recipe(names: str, how: str, build: Callable, *given, runs=(8, 24), **options) -> Recipe:
    """`build` takes the number of `runs` and the keywords among `given`."""
    timed = {name: options.pop(name) for name in ("column", "cold", "flushed", "timer") if name in options}
    return Recipe(tuple(names.split()), how, Timed(functools.partial(build, *given, **options), runs, **timed))


def _sequence(build: Callable, *before, **options) -> Callable:
    """`build` with the number of `runs` behind other arguments."""
    return functools.partial(_last, build, before, tuple(options.items()))


def _last(build: Callable, before: tuple, options: tuple, n: int) -> tuple[str, dict]:
    return build(*before, n, **dict(options))


def _chain(names: str, how: str, m: int, n: int, runs=(8, 24), **options) -> Recipe:
    return _recipe(names, how, mma.chain, m=m, n=n, runs=runs, **options)


def _contended(loads: int) -> tuple[str, dict]:
    return mma.chain(480, 128, 64, loads=loads)


def _loaded(rounds: int) -> tuple[str, dict]:
    return mma.chain(16, 128, 256, a_tmem=True, rounds=rounds, ctas=SMS)


def _arithmetic() -> list[Recipe]:
    rates = (
        ("fma", "fma_f32x2", "fma.f32x2, each two of the pipe's"),
        ("alu", "lop3", "lop3"),
        ("issue", "fma_fma_lop3", "two fma to one lop3, which leaves both pipes idle for a third"),
        ("minmax", "max_lop3", "max to lop3, which share a pipe"),
        ("mufu", "ex2", "ex2"),
    )
    found = [
        _recipe(
            name, f"{how}: independent, one warp a scheduler", _sequence(arithmetic.rate, operation), runs=(64, 192)
        )
        for name, operation, how in rates
    ]
    for name, operation in (
        ("alu_latency", "lop3"), ("fma_latency", "add"), ("mufu_latency", "ex2"), ("shuffle_latency", "shuffle"),
    ):  # fmt: skip
        build = _sequence(arithmetic.rate, operation, warps=1, chains=1)
        found.append(_recipe(name, f"{operation}, each of the last one's result", build, runs=(16, 48)))
    return found


def _code() -> list[Recipe]:
    return [
        _recipe("branch", "a ring of 16 jumps, 6 lines of code apart", code.ring, targets=16, apart=6, runs=(2, 4)),
        _recipe(
            "code_line", "64 KiB straight on, the first time", _sequence(_straight), runs=(65536,), column=MARK, cold=True
        ),
        _recipe(
            "code_latency", "a ring of 96 jumps through 72 KiB", code.ring, targets=96, apart=6, runs=(2, 4), cold=True
        ),
    ]  # fmt: skip


def _straight(nbytes: int) -> tuple[str, dict]:
    return code.twice(nbytes)


def _memory() -> list[Recipe]:
    chains = [
        _recipe(f"{level}_latency", f"a chain of loads: {where}", _level, level=level_of, flushed=level_of == "dram")
        for level, level_of, where in (
            ("l1", "l1", "in L1"), ("l2", "l2", "in L2"), ("hbm", "dram", "neither in L1 nor in L2"),
        )
    ]  # fmt: skip
    return [
        *chains,
        _recipe("tags", "loads of 32 lines in L1 each", memory.scattered_loads, runs=(4, 32)),
        _recipe("shared_latency", "a chain of ld.shared, with its addition", memory.shared_loads, dependent=True),
    ]


def _level(count: int, level: str) -> tuple[str, dict]:
    return memory.global_chain(count, level, 128 if level == "l1" else 4096)


def _barriers() -> list[Recipe]:
    return [
        _recipe("test", "waits for a phase that is over", sync.passed),
        _recipe("arrive wake", "arrive on an mbarrier, then wait for it", sync.self_arrival),
        _recipe("remote", "ping-pong of two CTAs of a cluster, two hand-overs", sync.remote_ping_pong),
        _recipe("named", "bar.sync of 128 threads", sync.named_barrier),
        _recipe("cluster_barrier", "barrier.cluster of two CTAs", sync.cluster_barrier),
        _recipe("proxy_fence", "fence.proxy.async", _sequence(sync.fences, "proxy")),
        _recipe("tcgen_fence", "tcgen05.fence, the pair", _sequence(sync.fences, "tcgen05")),
        _recipe("gpu_fence", "fence.acq_rel.gpu", _sequence(sync.fences, "gpu")),
    ]


def _transfers() -> list[Recipe]:
    again = {"again": True, "ctas": 1}
    found = [
        _recipe("tma_issue", "issue of boxes of 128 bytes, before any is there", _many_boxes, runs=(16, 48), column=MARK),
        _recipe("l2_bytes", "8 KiB boxes in L2, eight in flight, one SM", tma.loads, 8192, 8, runs=(16, 32), **again),
        _recipe(
            "hbm", f"8 KiB boxes, 128 KiB in flight on each of {SMS} SMs", tma.loads, 8192, 16,
            runs=(32, 64), ctas=SMS, flushed=True,
        ),
    ]  # fmt: skip
    sizes = (("tma_512", 512), ("tma_4k", 4096), ("tma_8k", 8192), ("tma_16k", 16384), ("tma_32k", 32768))
    for name, nbytes in sizes:
        how = f"round trip of {nbytes} bytes, one in flight on each of {SMS} SMs"
        found.append(_recipe(name, how, tma.loads, nbytes, 1, runs=(2, 6), ctas=SMS, flushed=True))
    return [
        *found,
        _recipe(
            "hbm_queue", f"8 KiB boxes, 32 KiB in flight on each of {SMS} SMs", tma.loads, 8192, 4,
            runs=(16, 48), ctas=SMS, flushed=True,
        ),
        _recipe("bulk_store_rate", "bulk stores of 4 KiB, one SM", _sequence(tma.stores, 4096)),
        _recipe("bulk_store_latency", "one bulk store of 128 bytes", _sequence(tma.stores, 128), runs=(1,)),
    ]  # fmt: skip


def _many_boxes(count: int) -> tuple[str, dict]:
    return tma.loads(128, count, count, again=True)


def _tensor_memory() -> list[Recipe]:
    return [
        _recipe("tmem_wait", "waits for nothing", tmem.waits),
        _recipe("tmem_load", "tcgen05.ld of 32 columns, one warp", tmem.load, runs=(2, 6)),
        _recipe("tmem_store", "tcgen05.st of 32 columns, one warp", tmem.store),
        _recipe("tmem_load_latency", "tcgen05.ld of 32 columns, each with its wait", tmem.load, wait_each=True),
        _recipe("tmem_store_latency", "tcgen05.st of 32 columns, each with its wait", tmem.store, wait_each=True),
        _recipe("tmem_alloc", "alloc and dealloc of 32 columns", tmem.allocations),
        _recipe("cp_bytes", "tcgen05.cp 128x256b", tmem.copies),
    ]


def _tensor_core() -> list[Recipe]:
    tmem_a = {"a_tmem": True}
    return [
        _chain("mma_macs", "M=128 N=256, A in Tensor Memory, back to back", 128, 256, **tmem_a),
        _chain("mma_issue", "issue of M=128 N=256, before any is done", 128, 256, column=MARK, **tmem_a),
        _chain("shared_port", "M=128 N=64, both operands in shared memory: their bytes", 128, 64),
        _chain("mma_floor", "M=128 N=16, A in Tensor Memory, back to back", 128, 16, **tmem_a),
        _chain("ws_floor", ".ws M=64 N=64, A in Tensor Memory, back to back", 64, 64, ws=True, **tmem_a),
        _chain("ws_column", ".ws M=64 N=256, A in Tensor Memory, back to back", 64, 256, ws=True, **tmem_a),
        _chain("mma_latency", "one M=128 N=128, A in Tensor Memory, commit and wait", 128, 128, (1,), **tmem_a),
        _chain("mma_latency_shared", "the same with A in shared memory", 128, 128, (1,)),
        _chain("mma_latency_pair", "one M=256 N=128 of a pair, A in Tensor Memory", 256, 128, (1,), group=2, **tmem_a),
        _recipe(
            "clock", f"M=128 N=256 on {SMS} SMs: cycles a nanosecond of %globaltimer", _loaded,
            runs=(LOAD_ROUNDS,), timer=True,
        ),
    ]  # fmt: skip


def _code_size(passes: int, kib: int) -> tuple[str, dict]:
    return code.loop(passes, kib * 1024)


RECIPES = (
    *_arithmetic(), *_code(), *_memory(), *_barriers(), *_tensor_memory(), *_tensor_core(), *_transfers(),
)  # fmt: skip
# Loops of so many KiB: the largest that takes no longer an instruction than the smallest is what the cache holds.
CODE_KIB = (16, 24, 32, 48, 64, 96, 128, 192)
CODE_SIZES = {kib: _recipe("code_cache", f"a loop of {kib} KiB", _code_size, kib=kib, runs=(2, 4), cold=True).timed
              for kib in CODE_KIB}  # fmt: skip
# Told beside the model's figure, and no constant follows: what is modelled in another way than as a number.
BY_NAME = {recipe.name: recipe for recipe in RECIPES}
OBSERVED = {
    "ld.shared chain beside MMAs that take the whole port": Timed(_contended, (192, 320)),
    "64 KiB of code straight on, twice": Timed(_straight, (65536,), cold=True),
}
# Of the table, not written: window, code_ahead, hbm_burst, shared_patience, mma_start (part of mma_latency) are how the
# model is made, which no program shows by itself. Launches are timed by the host (launches.py).
