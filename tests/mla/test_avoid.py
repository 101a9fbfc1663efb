"""Kernels that do without a behaviour of the hardware (`MlaDecodeConfig.avoid`): right, and without it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from mla.config import MlaDecodeConfig
from mla.decode import MlaDecode
from ptx_emulator.units.tcgen05 import mma_native
from tests.wrappers.emulation import launch, launch_with_reports
from wrappers import kernel, machines
from wrappers.backends import EMULATED_ARCH
from wrappers.decode import mla_decode
from wrappers.testing import MlaProblem, assert_matches, compare, make_problem

KV_LENS = (70, 129, 4, 256, 33)
CASES = [
    ("narrow", torch.bfloat16, ("nan_in_keys",)),
    ("wide", torch.float8_e4m3fn, ("nan_in_keys",)),
    ("narrow", torch.float8_e4m3fn, ("stores_over_tma",)),
    ("wide", torch.bfloat16, ("stores_over_tma", "nan_in_keys")),
]
# Heads, query tokens, page size and causal of kernels that other tests compile without anything to avoid.
SHAPES = {
    ("narrow", torch.bfloat16): (16, 1, 16, True),
    ("wide", torch.bfloat16): (16, 1, 16, True),
    ("narrow", torch.float8_e4m3fn): (1, 8, 16, False),
    ("wide", torch.float8_e4m3fn): (16, 5, 32, True),
}


def problem_of(path: str, dtype: torch.dtype, kv_lens: tuple[int, ...]) -> MlaProblem:
    num_heads, seq_len_q, page_size, is_causal = SHAPES[path, dtype]
    return make_problem(
        len(kv_lens), num_heads, seq_len_q, kv_lens, page_size=page_size, dtype=dtype, is_causal=is_causal
    )


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Makes the emulated architecture one that needs to avoid things, or is tuned."""

    def enter(avoid=(), tuning=()):
        file = tmp_path / f"machine-{len(list(tmp_path.iterdir()))}.json"
        file.write_text(json.dumps({EMULATED_ARCH: {"avoid": avoid, "tuning": tuning}}))
        monkeypatch.setenv(machines.VARIABLE, str(file))

    return enter


@pytest.mark.parametrize("path,dtype,avoid", CASES)
def test_the_result_is_right(path, dtype, avoid, machine):
    """Requests whose last tiles end anywhere, with NaN in what they do not read, in a page and in shared memory."""
    machine(avoid)
    problem = problem_of(path, dtype, KV_LENS)
    config = kernel.decode_config(problem.decode_call(), EMULATED_ARCH, path)
    assert config.avoid == tuple(sorted(avoid)) and config.is_wide == (path == "wide")
    assert_matches(problem, *launch(problem, path=path))


def executed(problem, path: str, role: str, start: str) -> int:
    """How often a role's warp executes opcodes that start so."""
    *_, reports = launch_with_reports(problem, path=path)
    warps = MlaDecode(kernel.decode_config(problem.decode_call(), EMULATED_ARCH, path)).plan.warps
    counts = reports.decode.by_opcode([getattr(warps, role)])
    return sum(number for opcode, number in counts.items() if opcode.startswith(start))


def operands_with_nan(problem, path: str, monkeypatch) -> int:
    """How many operands B of the launch hold a NaN. Not in order: then none goes past the function that is watched."""
    found, execute = [], mma_native.execute

    def watched(plan, segments, place, a_address, keep, scale, zero, members):
        for member in members:
            places = plan.b.start + plan.b.index.astype(np.int64)
            if problem.query.dtype == torch.bfloat16:
                words = member.shared[places].astype(np.uint16) | member.shared[places + 1].astype(np.uint16) << 8
                found.append(bool(((words & 0x7FFF) > 0x7F80).any()))
            else:
                found.append(bool(((member.shared[places] & 0x7F) == 0x7F).any()))
        execute(plan, segments, place, a_address, keep, scale, zero, members)

    with monkeypatch.context() as patch:
        patch.setattr(mma_native, "execute", watched)
        launch(problem, path=path, order="random", seed=1)
    assert found
    return sum(found)


@pytest.mark.parametrize("path,dtype", [("narrow", torch.bfloat16), ("wide", torch.float8_e4m3fn)])
def test_no_nan_reaches_the_tensor_core(path, dtype, machine, monkeypatch):
    problem = problem_of(path, dtype, (70, 4))
    assert operands_with_nan(problem, path, monkeypatch) > 0
    machine(("nan_in_keys",))
    assert operands_with_nan(problem, path, monkeypatch) == 0


@pytest.mark.parametrize("path,dtype", [("narrow", torch.float8_e4m3fn), ("wide", torch.bfloat16)])
def test_the_load_role_stores_nothing(path, dtype, machine):
    problem = problem_of(path, dtype, (70, 4))
    loads = executed(problem, path, "load", "cp.async.bulk.tensor")
    assert executed(problem, path, "load", "st.shared") > 0
    machine(("stores_over_tma",) if path == "narrow" else ("stores_over_tma", "nan_in_keys"))
    assert executed(problem, path, "load", "st.shared") == 0
    assert executed(problem, path, "load", "fence.proxy") == 0
    assert executed(problem, path, "load", "cp.async.bulk.tensor") > loads


def test_no_commit_behind_no_multiplication():
    """A tile's values lie in slots of 64 keys on this path: 4 and 33 keys, and the last of 129, leave one of two unread,
    for both halves of the latent dimensions. Of each half of a tile with both slots read: two commits and one for O. The same
    thread commits five slots of keys and S of each tile, and two slots of the query, which it copies by 16 bytes of four
    chunks of 128, and the rest of it of each work item.
    """
    problem = make_problem(len(KV_LENS), 16, 1, KV_LENS, page_size=16)
    tiles = sum(-(-keys // 128) for keys in KV_LENS)
    items = executed(problem, "wide", "scores", "tcgen05.cp") // (4 * 8)
    commits = tiles * (2 * 3 + 5 + 1) + items * (2 + 1) - 3 * 2
    assert executed(problem, "wide", "scores", "tcgen05.commit") == commits


def test_a_strided_query_of_few_heads_is_packed_before_the_launch(machine):
    problem = make_problem(3, 6, 2, (70, 129, 4), page_size=32, strided=True, cache_rank=4)
    call = problem.decode_call()
    assert kernel.decode_config(call, EMULATED_ARCH).query_box_rows(64) == 2
    machine(("small_boxes",))
    config = kernel.decode_config(call, EMULATED_ARCH)
    assert config.query_packed and config.query_box_rows(64) == 64
    assert kernel.packed(config, call).query.is_contiguous() and not call.query.is_contiguous()
    out, lse = mla_decode(*problem.tensors, **problem.options, return_lse=True, backend="emulator")
    assert not compare(problem, out, lse).faults
    with pytest.raises(ValueError, match="query_packed"):
        replace(config, query_packed=False)


def test_what_cannot_be_avoided_together():
    facts = {"num_heads": 16, "seq_len_q": 4, "is_causal": True, "page_size": 64}
    both = ("nan_in_keys", "stores_over_tma", "nan_in_keys")
    assert MlaDecodeConfig("bf16", **facts, avoid=both).avoid == ("nan_in_keys", "stores_over_tma")
    with pytest.raises(ValueError, match="dtype='fp8'"):
        MlaDecodeConfig("fp8", **facts, avoid=both)
    with pytest.raises(ValueError, match="isolate_drafts=True"):
        MlaDecodeConfig("bf16", **facts, avoid=both, isolate_drafts=True)
    with pytest.raises(ValueError, match="avoid="):
        MlaDecodeConfig("bf16", **facts, avoid=("everything",))
