"""Sliding windows: what the kernel reads, masks and counts of the keys before a token's window.

Problems are hostile: keys before the window of a request's first token are NaN, and table entries of pages of nothing
else name no page.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from mla.config import MlaDecodeConfig
from mla.tile_scheduler import TileScheduler
from tests.mla.test_split_kv import ranges_of
from tests.wrappers.emulation import assert_clean, is_caught, launch, launch_with_reports, run, same
from wrappers import kernel
from wrappers.backends import EMULATED_ARCH
from wrappers.kernel import TORCH_DTYPES
from wrappers.testing import MlaProblem, assert_matches, make_problem, shard

KV_LENS = (330, 64, 3, 200, 0)
# Within the last tile, across tiles of 64 and of 128 keys, longer than some requests, than all.
WINDOWS = (7, 64, 133, 2**31 - 1024)


@pytest.fixture(params=["emulator", pytest.param("cute", marks=pytest.mark.device)])
def backend(request):
    return request.param


@pytest.mark.parametrize(
    "path, num_heads, seq_len_q, page_size, dtype, is_causal",
    [
        ("narrow", 16, 4, 16, "bf16", True),
        ("narrow", 3, 5, 64, "fp8", False),
        ("wide", 16, 8, 32, "bf16", False),
        ("wide", 16, 8, 16, "fp8", True),
    ],
)
def test_windows(path, num_heads, seq_len_q, page_size, dtype, is_causal, backend):
    """One kernel serves all windows."""
    configs = set()
    for window_left in WINDOWS:
        problem = make_problem(
            len(KV_LENS), num_heads, seq_len_q, KV_LENS, page_size=page_size, dtype=TORCH_DTYPES[dtype], is_causal=is_causal,
            window_left=window_left,
        )  # fmt: skip
        assert_matches(problem, *run(problem, backend, path))
        configs.add(kernel.decode_config(problem.decode_call(), EMULATED_ARCH, path))
    assert len(configs) == 1


@pytest.mark.parametrize("window_left", [3, 90])
def test_windows_of_a_ragged_query(window_left, backend):
    problem = make_problem(
        6,
        16,
        4,
        (200, 64, 130, 5, 0, 70),
        query_lens=(4, 0, 3, 4, 2, 1),
        dtype=TORCH_DTYPES["fp16"],
        window_left=window_left,
    )
    assert_matches(problem, *run(problem, backend, "narrow"))


def test_windows_of_a_rank(backend):
    """A rank that holds no key of a window gives zeros; the keys of the others may lie in one of its tiles."""
    whole = make_problem(4, 16, 8, (600, 129, 70, 2), dtype=TORCH_DTYPES["fp8"], window_left=9)
    for rank in range(4):
        part = shard(whole, 4, rank, 16)
        assert_matches(part, *run(part, backend))


def test_more_than_64_rows_of_few_heads(backend):
    """70 tokens: the windows of a row tile start in two key tiles."""
    problem = make_problem(2, 1, 70, (300, 40), window_left=100)
    assert_matches(problem, *run(problem, backend))


@pytest.mark.parametrize("path", ["narrow", "wide"])
def test_a_negative_scale_masks_every_tile(path, backend):
    shape, dtype = ((16, 8), TORCH_DTYPES["fp8"]) if path == "wide" else ((16, 4), TORCH_DTYPES["bf16"])
    problem = make_problem(2, *shape, (330, 64), page_size=16, dtype=dtype, softmax_scale=-0.05, window_left=150)
    assert_matches(problem, *run(problem, backend, path))


def test_a_window_of_all_keys_is_none_bit_for_bit():
    problem = make_problem(3, 16, 4, (330, 64, 5), page_size=16, hostile=False)
    assert same(launch(replace(problem, window_left=1000)), launch(problem))


def test_bytes_and_work_are_those_of_the_window():
    """Keys [kv - 129, kv), at the end of a tile of 64, whatever is before: nine pages of 16, three tiles."""

    def work(keys: int, window_left: int) -> tuple[int, int]:
        problem = make_problem(1, 16, 4, (keys,), page_size=16, window_left=window_left)
        report = launch_with_reports(problem, num_ctas=1)[2].decode
        return report.counters["tma_load_bytes"], report.counters["tcgen05_mma"]

    expected = (64 + 9 * 16) * 576 * 2, 3 * 576 // 16 + 9 * 2
    assert work(640, 125) == work(6400, 125) == expected
    assert work(144, 1000) == expected, "as many keys without a window"


def test_shares_of_a_launch_are_equal():
    """One long request among short ones: ten tiles of each of three windows, one of the fourth, and a gap before each
    are 35 positions, on five CTAs."""
    problem = make_problem(4, 16, 4, (6400, 640, 640, 64), page_size=16, window_left=64 * 10 - 4)
    report = launch_with_reports(problem, num_ctas=5)[2].decode
    steps_of_a_tile = 576 // 16 + 2 * 64 // 16
    assert [counters["tcgen05_mma"] / steps_of_a_tile for counters in report.by_cluster] == [6, 6, 7, 6, 6]


def test_stream_k_counts_the_tiles_of_the_window_alone():
    """Requests of very different lengths, the same window: ranges as if they were as long as it."""
    scheduler = TileScheduler.of(MlaDecodeConfig("bf16", 16, 4, True, 64, sliding_window=True), 64, 64)
    windowed = scheduler.of_window(64 * 8 - 4)
    long, short = [64 * 1000, 64 * 8, 64 * 20, 64 * 500], [64 * 8] * 4
    assert ranges_of(windowed, long, 148) == ranges_of(scheduler, short, 148)
    assert windowed.cost(0, 64 * 1000) == scheduler.gap + 8 < scheduler.cost(0, 64 * 1000)
    assert [windowed.cost(0, keys) for keys in (0, 3)] == [scheduler.cost(0, keys) for keys in (0, 3)]


def test_bulk_tiles_run_the_code_of_a_kernel_without_a_window():
    """Five more key tiles between the window's start and the last keys cost the softmax warps, opcode by opcode, what
    they do without a window."""

    def instructions(problem: MlaProblem) -> Counter:
        return launch_with_reports(problem, num_ctas=1)[2].decode.by_opcode([0, 1, 2, 3])

    problems = [make_problem(1, 16, 4, (keys,), page_size=16, hostile=False) for keys in (1280, 640, 320)]
    plain = instructions(problems[1]) - instructions(problems[2])
    windowed = instructions(replace(problems[0], window_left=700)) - instructions(replace(problems[0], window_left=380))
    assert plain["ex2.approx.ftz.f32"] >= 5 * 4 * 32
    differences = [abs(windowed[opcode] - plain[opcode]) for opcode in windowed | plain]
    # A mask takes a comparison and a selection per score, 64; how addresses are computed is the compiler's choice.
    assert max(differences) <= 2 * 5 * 4, "more than two instructions of a kind per warp and tile"
    assert sum(differences) <= 10 * 5 * 4, "more than ten instructions per warp and tile"


# Window starts in the middle of a tile, of a K step and of a page.
@pytest.mark.parametrize(
    "mutant", ["window-early", "window-late", "window-unmasked", "window-no-clear", "window-skips-tile"]
)
def test_mutants_fail(mutant):
    problem = make_problem(2, 16, 4, (333, 200), page_size=16, window_left=90)
    assert is_caught(problem, mutant)


def test_no_hazards():
    problem = make_problem(3, 16, 4, (333, 200, 64), page_size=16, window_left=90)
    assert_clean(problem, (("late", 0), ("adversarial", 1)), num_ctas=3)
