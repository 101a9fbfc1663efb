from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.wrappers.compat.peers import LENGTHS, hostile_problem, in_base
from wrappers.call import KeyShard
from wrappers.compat import use_backend
from wrappers.compat.tokenspeed import get_num_sm, tokenspeed_mla_decode, warmup_compile_prefill
from wrappers.decode import workspace_bytes
from wrappers.partials import merge_partials
from wrappers.testing import assert_matches, shard


def call(problem, **changes):
    query, kv_cache, block_tables, seq_lens = problem.tensors
    arguments = {
        "query": query, "kv_cache": kv_cache, "workspace_buffer": torch.zeros(0, dtype=torch.int8), "kv_lora_rank": 512,
        "qk_rope_head_dim": 64, "block_tables": block_tables, "seq_lens": seq_lens, "max_seq_len": max(LENGTHS),
        "softmax_scale": problem.softmax_scale, **changes,
    }  # fmt: skip
    return tokenspeed_mla_decode(**arguments)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("causal", [True, False])
def test_output_and_binary_lse(dtype, causal):
    problem = hostile_problem(dtype, causal)
    out, lse = call(problem, causal_mask=causal, return_lse=True)
    assert out.dtype == (torch.bfloat16 if dtype == torch.float8_e4m3fn else dtype)
    assert lse.shape == (3, 2, 3)
    assert_matches(problem, out, lse / in_base(torch.ones(()), "2"))
    with pytest.raises(AssertionError):
        assert_matches(problem, out, lse)
    assert torch.equal(call(problem, causal_mask=causal), out)


@pytest.mark.parametrize("size", ["none", "enough"])
def test_through_the_kernel(size):
    problem = hostile_problem(torch.float8_e4m3fn, cache_rank=4)
    workspace = torch.zeros(0 if size == "none" else workspace_bytes(), dtype=torch.int8)
    out = torch.empty(problem.out_shape, dtype=torch.bfloat16)
    with use_backend("emulator"):
        result, lse = call(
            problem, workspace_buffer=workspace, out=out, return_lse=True, is_var_seq=False, enable_pdl=True,
            seq_lens=problem.seq_lens.long(),
        )  # fmt: skip
    assert result is out
    assert_matches(problem, out, lse / in_base(torch.ones(()), "2"))


@pytest.mark.parametrize(
    ("dtype", "interleave"), [(torch.bfloat16, 1), (torch.bfloat16, 16), (torch.float8_e4m3fn, 5)], ids=str
)
@pytest.mark.parametrize("causal", [True, False])
def test_context_parallel_ranks_merge_to_the_whole(dtype, interleave, causal):
    """The peer passes a rank's own lengths and the global bound, which is the same on every rank."""
    problem = hostile_problem(dtype, causal)
    parts = []
    for rank in range(3):
        own = shard(problem, 3, rank, interleave)
        local = KeyShard(3, rank, interleave).local_keys(problem.seq_lens)
        parts.append(call(
            own, seq_lens=local, causal_seqs=problem.seq_lens, cp_world=3, cp_rank=rank, causal_mask=causal,
            return_lse=True, cp_interleave_size=interleave,
        ))  # fmt: skip
        if rank == 1:
            assert_matches(own, parts[-1][0], parts[-1][1] / in_base(torch.ones(()), "2"))
    out, lse = merge_partials([out.float() for out, _ in parts], [lse for _, lse in parts], lse_base="2")
    whole, whole_lse = call(problem, causal_mask=causal, return_lse=True)
    torch.testing.assert_close(out, whole.float(), rtol=4e-2, atol=4e-2)
    torch.testing.assert_close(lse, whole_lse, rtol=1e-4, atol=1e-4)


def test_a_world_of_one_is_no_context_parallelism():
    problem = hostile_problem()
    alone = call(problem, return_lse=True)
    assert all(map(torch.equal, alone, call(problem, return_lse=True, causal_seqs=problem.seq_lens)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("causal", [True, False])
def test_windows_and_visible_lengths(dtype, causal):
    """Rows that see no key are 0 and -inf, keys that none sees are NaN, in pages that are none."""
    for options in ({"window_left": 9}, {"visible_lens": True}):
        problem = hostile_problem(dtype, causal, **options)
        given = {"local_visible_lens": problem.local_visible_lens}
        given |= {} if problem.window_left is None else {"window_left": np.int64(problem.window_left)}
        out, lse = call(problem, causal_mask=causal, return_lse=True, **given)
        assert_matches(problem, out, lse / in_base(torch.ones(()), "2"))


def test_windows_and_visible_lengths_through_the_kernel():
    for options in ({"window_left": 9}, {"visible_lens": True}):
        problem = hostile_problem(torch.float8_e4m3fn, **options)
        given = {"local_visible_lens": problem.local_visible_lens, "window_left": problem.window_left or -1}
        with use_backend("emulator"):
            out, lse = call(problem, return_lse=True, **given)
        assert_matches(problem, out, lse / in_base(torch.ones(()), "2"))


def test_hints_and_integers_of_any_kind():
    problem = hostile_problem()
    given = {"max_seq_len": 0, "kv_lora_rank": np.int64(512), "cp_world": np.int64(1), "cp_rank": np.int32(0)}
    given |= {"min_split_kv": 256, "window_left": -1, "local_visible_lens": None, "cp_interleave_size": 16}
    assert torch.equal(call(problem, **given), call(problem))


def test_output_scale():
    problem = hostile_problem()
    torch.testing.assert_close(call(problem, output_scale=-2.0), -2.0 * call(problem))


def test_an_e4m3_output():
    problem = hostile_problem(torch.float8_e4m3fn)
    out = torch.empty(problem.out_shape, dtype=torch.float8_e4m3fn)
    assert call(problem, out=out) is out
    torch.testing.assert_close(out.float(), call(problem).float(), rtol=2**-3, atol=2**-9)


def test_what_engines_call_beside_the_decode():
    assert get_num_sm(torch.device("cpu")) == 148
    with pytest.warns(UserWarning, match="nothing was compiled"):
        warmup_compile_prefill(q_dtype=torch.bfloat16, d_qk=192, d_v=128, enable_pdl=False)


REFUSED = {
    "window_left": ({"window_left": -2}, ValueError, "window_left=-2: must be at least -1"),
    "window_left of a float": ({"window_left": 7.0}, TypeError, "window_left is a float: must be an int"),
    "window_left within the query": ({"window_left": 0}, ValueError, r"window_left=0: must be None, -1 or 1\.\."),
    "window_left with context parallelism": (
        {"window_left": 7, "causal_seqs": torch.tensor(LENGTHS, dtype=torch.int32)}, ValueError,
        "window_left=7: must be -1 with causal_seqs",
    ),
    "local_visible_lens": (
        {"local_visible_lens": torch.ones(3, 1, dtype=torch.int32)}, ValueError,
        r"local_visible_lens has shape \[3, 1\]: must be \[3, 2\]",
    ),
    "local_visible_lens with a window": (
        {"local_visible_lens": torch.zeros(3, 2, dtype=torch.int32), "window_left": 7}, ValueError,
        "local_visible_lens: must be None with window_left=7",
    ),
    "local_visible_lens with context parallelism": (
        {
            "local_visible_lens": torch.zeros(3, 2, dtype=torch.int32),
            "causal_seqs": torch.tensor(LENGTHS, dtype=torch.int32),
        },
        ValueError, "local_visible_lens=a Tensor: must be None with causal_seqs",
    ),
    "min_split_kv": ({"min_split_kv": 0}, ValueError, "min_split_kv=0: must be at least 1"),
    "min_split_kv of too many": ({"min_split_kv": 257}, ValueError, "min_split_kv=257: must be at most 256"),
    "cp_interleave_size": ({"cp_interleave_size": 0}, ValueError, "cp_interleave_size=0: must be at least 1"),
    "kv_lora_rank": ({"kv_lora_rank": 256}, ValueError, "kv_lora_rank=256: must be 512"),
    "qk_rope_head_dim": ({"qk_rope_head_dim": 0}, ValueError, "qk_rope_head_dim=0: must be 64"),
    "max_seq_len": ({"max_seq_len": -1}, ValueError, "max_seq_len=-1: must be at least 0"),
    "max_seq_len of a tensor": ({"max_seq_len": torch.tensor(5)}, TypeError, "max_seq_len is a Tensor: must be an int"),
    "workspace_buffer": ({"workspace_buffer": None}, TypeError, "workspace_buffer is a NoneType"),
    "seq_lens": ({"seq_lens": torch.ones(3)}, TypeError, "seq_lens has dtype torch.float32"),
    "cp_world": ({"cp_world": 0}, ValueError, "cp_world=0: must be at least 1"),
    "cp_world without bound": ({"cp_world": 2}, TypeError, "causal_seqs is None: cp_world=2 needs it"),
    "cp_rank": (
        {"cp_world": 2, "cp_rank": 2, "causal_seqs": torch.zeros(3, dtype=torch.int32)}, ValueError,
        "cp_rank=2: must be 0..1",
    ),
    "cp_rank without world": ({"cp_rank": 1}, ValueError, "cp_rank=1: needs cp_world above 1"),
    "causal_seqs beyond the rank's keys": (
        {"cp_world": 2, "causal_seqs": torch.full((3,), 200, dtype=torch.int32)}, ValueError,
        r"seq_lens=\[5, 0, 70\]: must be at least \[100, 100, 100\], the share of rank 0 of 2 in causal_seqs=",
    ),
    "causal_seqs of another batch": (
        {"cp_world": 2, "causal_seqs": torch.zeros(2, dtype=torch.int32)}, ValueError, r"causal_seqs has shape \[2\]",
    ),
    "causal_mask": ({"causal_mask": None}, TypeError, "^causal_mask is a NoneType"),
    "causal_seqs of a page too many": (
        {"cp_world": 1, "causal_seqs": torch.tensor([5, 0, 9999]).int(), "seq_lens": torch.tensor([5, 0, 9999]).int()},
        ValueError, r"causal_seqs\[2\]=9999",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    changes, error, message = REFUSED[name]
    out = torch.full((3, 2, 3, 512), 7.0, dtype=torch.bfloat16)
    with pytest.raises(error, match=message):
        call(hostile_problem(), out=out, **changes)
    assert (out == 7).all()
