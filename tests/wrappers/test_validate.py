"""Every wrong input: which error it gets, what the message says, and that nothing was written."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from wrappers import fallback, validate
from wrappers.call import DecodeCall
from wrappers.decode import mla_decode
from wrappers.testing import make_problem

BATCH, TOKENS, HEADS, PAGE = 2, 3, 4, 32
POISON = 12345.0


def good_call() -> dict[str, object]:
    """A call that works, its output poisoned."""
    problem = make_problem(BATCH, HEADS, TOKENS, [40, 70], page_size=PAGE)
    return {
        "query": problem.query,
        "kv_cache": problem.kv_cache,
        "block_tables": problem.block_tables,
        "seq_lens": problem.seq_lens,
        **problem.options,
        "out": torch.full(problem.out_shape, POISON, dtype=torch.bfloat16),
        "workspace": torch.full((64,), 7, dtype=torch.uint8),
        "return_lse": True,
        "lse": torch.full(problem.out_shape[:3], POISON),
        "lse_base": "e",
        "backend": "torch",
    }


def replace(name, change):
    def apply(call):
        call[name] = change(call[name])

    return apply


def edit(name, index, value):
    def apply(call):
        call[name][index] = value

    return apply


def to_list(value):
    return value.tolist()


def padded_last(tensor):
    """Same shape, last stride 2."""
    return torch.zeros(*tensor.shape[:-1], 2 * tensor.shape[-1], dtype=tensor.dtype)[..., ::2]


def ragged(**changes):
    """The good call's tokens as a ragged query, with `changes`."""

    def apply(call):
        call.update(query=call["query"].flatten(0, 1), out=call["out"].flatten(0, 1), lse=None, max_seq_len_q=TOKENS)
        call.update({"cu_seqlens_q": torch.tensor([0, 3, 6]).int(), **changes})

    return apply


def tree(dtype=torch.bool):
    return lambda call: call.update(tree_mask=torch.ones(BATCH, TOKENS, TOKENS, dtype=dtype))


def lens(dtype=torch.int32, more=None):
    """One key for every query token, and other values at some places."""

    def apply(call):
        call["local_visible_lens"] = torch.ones(BATCH, TOKENS, dtype=dtype)
        for place, value in (more or {}).items():
            call["local_visible_lens"][place] = value

    return apply


BAD = {
    # query
    "query_not_a_tensor": (replace("query", to_list), TypeError, "query is a list: must be a torch.Tensor"),
    "query_numpy": (replace("query", lambda t: t.float().numpy()), TypeError, "query is a ndarray"),
    "query_fp32": (
        replace("query", torch.Tensor.float),
        TypeError,
        "query has dtype torch.float32: must be torch.bfloat16, torch.float16, torch.float8_e4m3fn",
    ),
    "query_sparse": (
        replace("query", torch.Tensor.to_sparse),
        TypeError,
        "query has layout torch.sparse_coo: must be torch.strided",
    ),
    "query_rank_3": (
        replace("query", lambda t: t[:, 0]),
        ValueError,
        r"query has shape \[2, 4, 576\]: must be \[batch, seq_len_q, num_heads, 576\]",
    ),
    "query_head_dim": (
        replace("query", lambda t: t[..., :512]),
        ValueError,
        r"query.shape\[3\]=512: must be 576",
    ),
    "query_no_heads": (
        replace("query", lambda t: t[:, :, :0]),
        ValueError,
        r"query.shape\[2\]=0: num_heads must be 1..128",
    ),
    "query_129_heads": (
        replace("query", lambda t: t[:, :, :1].repeat(1, 1, 129, 1)),
        ValueError,
        r"query.shape\[2\]=129: num_heads must be 1..128",
    ),
    "query_no_tokens": (
        replace("query", lambda t: t[:, :0]),
        ValueError,
        r"query.shape\[1\]=0: seq_len_q must be at least 1",
    ),
    "query_last_stride": (
        replace("query", padded_last),
        ValueError,
        "query has strides .*: the last dimension must be contiguous",
    ),
    # kv_cache
    "cache_not_a_tensor": (replace("kv_cache", lambda t: None), TypeError, "kv_cache is a NoneType"),
    "cache_of_another_dtype": (
        replace("kv_cache", torch.Tensor.half),
        TypeError,
        "kv_cache has dtype torch.float16: must be torch.bfloat16",
    ),
    "cache_rank_2": (
        replace("kv_cache", lambda t: t[0]),
        ValueError,
        r"kv_cache has shape \[32, 576\]: must be \[",
    ),
    "cache_rank_5": (
        replace("kv_cache", lambda t: t[:, None, None]),
        ValueError,
        r"kv_cache has shape .* \[pages, page_size, 576\]",
    ),
    "cache_of_two_kv_heads": (
        replace("kv_cache", lambda t: t[:, None].repeat(1, 2, 1, 1)),
        ValueError,
        r"kv_cache has shape \[\d+, 2, 32, 576\]: must be",
    ),
    "cache_head_dim": (
        replace("kv_cache", lambda t: t[..., :512]),
        ValueError,
        "its last dimension must be 576",
    ),
    "cache_page_size_48": (
        replace("kv_cache", lambda t: torch.zeros(9, 48, 576, dtype=t.dtype)),
        ValueError,
        "kv_cache has page_size=48: must be one of 16, 32, 64, 128",
    ),
    "cache_page_size_256": (
        replace("kv_cache", lambda t: torch.zeros(9, 256, 576, dtype=t.dtype)),
        ValueError,
        "page_size=256",
    ),
    "cache_without_pages": (replace("kv_cache", lambda t: t[:0]), ValueError, "must hold at least one page"),
    "cache_last_stride": (replace("kv_cache", padded_last), ValueError, "kv_cache has strides"),
    "cache_on_another_device": (
        replace("kv_cache", lambda t: t.to("meta")),
        ValueError,
        "kv_cache is on meta: must be on the device of query, cpu",
    ),
    # block_tables
    "table_not_a_tensor": (replace("block_tables", to_list), TypeError, "block_tables is a list"),
    "table_int64": (
        replace("block_tables", torch.Tensor.long),
        TypeError,
        "block_tables has dtype torch.int64: must be torch.int32",
    ),
    "table_rank_1": (
        replace("block_tables", lambda t: t[0]),
        ValueError,
        r"block_tables has shape \[\d+\]: must be",
    ),
    "table_of_another_batch": (
        replace("block_tables", lambda t: t[:1]),
        ValueError,
        r"block_tables.shape\[0\]=1: must be the batch of query, 2",
    ),
    "table_too_narrow": (
        replace("block_tables", lambda t: t[:, :2]),
        ValueError,
        r"block_tables.shape\[1\]=2: seq_lens\[1\]=70 with page_size=32 needs at least 3 entries",
    ),
    "table_last_stride": (
        replace("block_tables", lambda t: t.T.contiguous().T),
        ValueError,
        "block_tables has strides",
    ),
    "table_on_another_device": (
        replace("block_tables", lambda t: t.to("meta")),
        ValueError,
        "block_tables is on meta",
    ),
    "page_id_negative": (
        edit("block_tables", (1, 2), -1),
        ValueError,
        r"block_tables\[1, 2\]=-1: an entry in use \(seq_lens\[1\]=70\) must be 0..\d+",
    ),
    "page_id_past_the_cache": (
        edit("block_tables", (0, 1), 2147480000),
        ValueError,
        r"block_tables\[0, 1\]=2147480000",
    ),
    # seq_lens
    "lengths_not_a_tensor": (replace("seq_lens", to_list), TypeError, "seq_lens is a list"),
    "lengths_int64": (replace("seq_lens", torch.Tensor.long), TypeError, "seq_lens has dtype torch.int64"),
    "lengths_rank_2": (replace("seq_lens", lambda t: t[None]), ValueError, r"seq_lens has shape \[1, 2\]"),
    "lengths_of_another_batch": (
        replace("seq_lens", lambda t: t.repeat(2)),
        ValueError,
        r"seq_lens.shape\[0\]=4: must be the batch of query, 2",
    ),
    "lengths_on_another_device": (
        replace("seq_lens", lambda t: t.to("meta")),
        ValueError,
        "seq_lens is on meta",
    ),
    "length_negative": (edit("seq_lens", 0, -1), ValueError, r"seq_lens\[0\]=-1: must be 0\.\."),
    "length_past_the_limit": (
        edit("seq_lens", 1, 2**31 - 1),
        ValueError,
        r"seq_lens\[1\]=2147483647: must be 0\.\.",
    ),
    # scalars
    "scale_a_float64_tensor": (
        replace("softmax_scale", lambda v: torch.tensor(v, dtype=torch.float64)),
        TypeError,
        "softmax_scale has dtype torch.float64: must be torch.float32",
    ),
    "scale_of_two_elements": (
        replace("output_scale", lambda v: torch.ones(2)),
        ValueError,
        r"output_scale has shape \[2\]: a tensor must have one element",
    ),
    "scale_on_another_device": (
        replace("output_scale", lambda v: torch.ones(1, device="meta")),
        ValueError,
        "output_scale is on meta: must be on the device of query, cpu",
    ),
    "scale_a_list": (
        replace("softmax_scale", lambda v: [v]),
        TypeError,
        "softmax_scale is a list: must be a float or a one-element float32 tensor",
    ),
    "scale_a_bool": (replace("softmax_scale", bool), TypeError, "softmax_scale is a bool"),
    "scale_nan": (
        replace("softmax_scale", lambda v: math.nan),
        ValueError,
        "softmax_scale=nan: must be finite",
    ),
    "scale_beyond_float32": (
        replace("softmax_scale", lambda v: 1e39),
        ValueError,
        r"softmax_scale=1e\+39: must be finite in float32",
    ),
    "output_scale_infinite": (replace("output_scale", lambda v: math.inf), ValueError, "output_scale=inf"),
    "output_scale_a_string": (replace("output_scale", str), TypeError, "output_scale is a str"),
    "causal_an_int": (replace("is_causal", int), TypeError, "is_causal is a int: must be a bool"),
    "return_lse_none": (replace("return_lse", lambda v: None), TypeError, "return_lse is a NoneType"),
    "lse_base_10": (
        replace("lse_base", lambda v: "10"),
        ValueError,
        "lse_base='10': must be one of 'e', '2'",
    ),
    "lse_base_an_int": (replace("lse_base", lambda v: 2), ValueError, "lse_base=2"),
    "backend_unknown": (
        replace("backend", lambda v: "cuda"),
        ValueError,
        "backend='cuda': must be one of 'auto', 'cute', 'emulator', 'torch'",
    ),
    # ragged query
    "ragged_query_rank_4": (
        lambda call: call.update(cu_seqlens_q=torch.tensor([0, 3, 6]).int(), max_seq_len_q=3),
        ValueError,
        r"query has shape \[2, 3, 4, 576\]: must be \[total_q, num_heads, 576\] with cu_seqlens_q",
    ),
    "ragged_without_the_most": (ragged(max_seq_len_q=None), TypeError, "max_seq_len_q is a NoneType: must be an int"),
    "ragged_of_no_tokens_at_most": (ragged(max_seq_len_q=0), ValueError, r"max_seq_len_q=0: must be 1\.\."),
    "the_most_without_ragged": (
        lambda call: call.update(max_seq_len_q=3),
        ValueError,
        "max_seq_len_q=3: must be None without cu_seqlens_q",
    ),
    "starts_a_list": (ragged(cu_seqlens_q=[0, 3, 6]), TypeError, "cu_seqlens_q is a list"),
    "starts_int64": (ragged(cu_seqlens_q=torch.tensor([0, 3, 6])), TypeError, "cu_seqlens_q has dtype torch.int64"),
    "starts_of_another_batch": (
        ragged(cu_seqlens_q=torch.tensor([0, 6]).int()),
        ValueError,
        r"block_tables.shape\[0\]=2: must be the batch of cu_seqlens_q, 1",
    ),
    "starts_not_at_0": (
        ragged(cu_seqlens_q=torch.tensor([1, 3, 6]).int()),
        ValueError,
        r"cu_seqlens_q\[0\]=1: must be 0",
    ),
    "starts_descend": (
        ragged(cu_seqlens_q=torch.tensor([0, 3, 2]).int()),
        ValueError,
        r"cu_seqlens_q\[2\]=2, -1 more than the entry before it: must be 0 to max_seq_len_q=3 more",
    ),
    "more_tokens_than_declared": (
        ragged(max_seq_len_q=2),
        ValueError,
        r"cu_seqlens_q\[1\]=3, 3 more than the entry before it: must be 0 to max_seq_len_q=2 more",
    ),
    "more_tokens_than_there_are": (
        ragged(cu_seqlens_q=torch.tensor([0, 3, 7]).int(), max_seq_len_q=4),
        ValueError,
        r"cu_seqlens_q\[2\]=7: must be at most query.shape\[0\]=6",
    ),
    # tree mask
    "tree_of_floats": (tree(torch.float32), TypeError, "tree_mask has dtype torch.float32: must be torch.bool"),
    "tree_of_another_shape": (
        lambda call: call.update(tree_mask=torch.ones(BATCH, TOKENS, 4, dtype=torch.bool)),
        ValueError,
        r"tree_mask has shape \[2, 3, 4\] of torch.bool: must be \[2, 3, 3\], 1 query token to an element",
    ),
    "tree_of_too_many_words": (
        lambda call: call.update(tree_mask=torch.ones(BATCH, TOKENS, 2, dtype=torch.int32)),
        ValueError,
        r"tree_mask has shape \[2, 3, 2\] of torch.int32: must be \[2, 3, 1\], 32 query tokens to an element",
    ),
    "tree_and_dense": (
        lambda call: (tree()(call), call.update(is_causal=False)),
        ValueError,
        "tree_mask: must be None with is_causal=False",
    ),
    "tree_and_context_parallelism": (
        lambda call: (tree()(call), call.update(dcp_world=2)),
        ValueError,
        "tree_mask: must be None with dcp_world=2",
    ),
    "tree_of_too_many_tokens": (
        lambda call: call.update(
            query=torch.zeros(BATCH, 257, HEADS, 576, dtype=torch.bfloat16),
            out=None,
            lse=None,
            tree_mask=torch.ones(BATCH, 257, 257, dtype=torch.bool),
        ),
        ValueError,
        r"query.shape\[1\]=257: must be at most 256 with a tree_mask",
    ),
    # sliding window
    "window_a_float": (
        lambda call: call.update(window_left=7.0),
        TypeError,
        "window_left is a float: must be an int or None",
    ),
    "window_a_bool": (lambda call: call.update(window_left=True), TypeError, "window_left is a bool"),
    "window_within_the_tokens": (
        lambda call: call.update(window_left=1),
        ValueError,
        r"window_left=1: must be None, -1 or 2\.\.2147482624, with query.shape\[1\]=3",
    ),
    "window_below_none": (lambda call: call.update(window_left=-2), ValueError, "window_left=-2: must be None, -1 or"),
    "window_too_long": (lambda call: call.update(window_left=2**31), ValueError, "window_left=2147483648: must be"),
    "window_within_the_tokens_of_a_ragged_query": (
        ragged(window_left=1),
        ValueError,
        r"window_left=1: must be None, -1 or 2\.\.2147482624, with max_seq_len_q=3",
    ),
    "window_and_tree": (
        lambda call: (tree()(call), call.update(window_left=7)),
        ValueError,
        "window_left=7: must be None or -1 with a tree_mask",
    ),
    # visible lengths
    "lens_a_list": (
        lambda call: call.update(local_visible_lens=[[1, 2, 3]] * BATCH),
        TypeError,
        "local_visible_lens is a list: must be a torch.Tensor",
    ),
    "lens_of_int64": (lens(torch.int64), TypeError, "local_visible_lens has dtype torch.int64: must be torch.int32"),
    "lens_on_another_device": (
        lambda call: (lens()(call), call.update(local_visible_lens=call["local_visible_lens"].to("meta"))),
        ValueError,
        "local_visible_lens is on meta: must be on the device of query, cpu",
    ),
    "lens_of_another_shape": (
        lambda call: call.update(local_visible_lens=torch.ones(BATCH, 2, dtype=torch.int32)),
        ValueError,
        r"local_visible_lens has shape \[2, 2\]: must be \[2, 3\]",
    ),
    "lens_of_another_shape_of_a_ragged_query": (
        ragged(local_visible_lens=torch.ones(BATCH, TOKENS, dtype=torch.int32)),
        ValueError,
        r"local_visible_lens has shape \[2, 3\]: must be \[6\]",
    ),
    "lens_and_tree": (
        lambda call: (tree()(call), lens()(call)),
        ValueError,
        "local_visible_lens: must be None with a tree_mask",
    ),
    "lens_and_window": (
        lambda call: (lens()(call), call.update(window_left=7)),
        ValueError,
        "local_visible_lens: must be None with window_left=7",
    ),
    "lens_and_context_parallelism": (
        lambda call: (lens()(call), call.update(dcp_world=2)),
        ValueError,
        "local_visible_lens: must be None with dcp_world=2",
    ),
    "lens_beyond_the_keys": (
        lens(more={(1, 2): 71}),
        ValueError,
        r"local_visible_lens\[1, 2\]=71: must be 0\.\.seq_lens\[1\]=70",
    ),
    "lens_below_0": (lens(more={(0, 1): -1}), ValueError, r"local_visible_lens\[0, 1\]=-1: must be 0\.\.seq_lens"),
    "lens_beyond_the_keys_of_a_ragged_query": (
        ragged(local_visible_lens=torch.tensor([1, 1, 1, 1, 71, 1]).int()),
        ValueError,
        r"local_visible_lens\[4\]=71: must be 0\.\.seq_lens\[1\]=70",
    ),
    # decode context parallelism
    "world_of_none": (lambda call: call.update(dcp_world=0), ValueError, r"dcp_world=0: must be 1\.\."),
    "world_a_float": (lambda call: call.update(dcp_world=2.0), TypeError, "dcp_world is a float: must be an int"),
    "rank_past_the_world": (
        lambda call: call.update(dcp_world=2, dcp_rank=2),
        ValueError,
        r"dcp_rank=2: must be 0\.\.1",
    ),
    "rank_without_a_world": (lambda call: call.update(dcp_rank=1), ValueError, r"dcp_rank=1: must be 0\.\.0"),
    "isolate_drafts": (
        lambda call: call.update(isolate_drafts=1),
        TypeError,
        "isolate_drafts is a int: must be a bool",
    ),
    "interleave_of_none": (lambda call: call.update(dcp_interleave=0), ValueError, r"dcp_interleave=0: must be 1\.\."),
    "table_too_narrow_for_the_rank": (
        lambda call: call.update(dcp_world=2, seq_lens=torch.tensor([40, 500], dtype=torch.int32)),
        ValueError,
        r"seq_lens\[1\]=500 on rank 0 of 2 with page_size=32 needs at least 8 entries",
    ),
    # out
    "out_not_a_tensor": (
        lambda call: call.update(out=np.zeros((BATCH, TOKENS, HEADS, 512))),
        TypeError,
        "out is a ndarray",
    ),
    "out_fp32": (
        replace("out", torch.Tensor.float),
        TypeError,
        "out has dtype torch.float32: must be torch.bfloat16",
    ),
    "out_of_the_query_shape": (
        replace("out", lambda t: torch.zeros(BATCH, TOKENS, HEADS, 576, dtype=t.dtype)),
        ValueError,
        r"out has shape \[2, 3, 4, 576\]: must be \[2, 3, 4, 512\]",
    ),
    "out_flattened": (
        replace("out", lambda t: t.flatten(0, 1)),
        ValueError,
        r"out has shape \[6, 4, 512\]: must be \[2, 3, 4, 512\]",
    ),
    "out_last_stride": (replace("out", padded_last), ValueError, "out has strides"),
    "out_expanded": (
        replace("out", lambda t: t[:, :1].expand(-1, TOKENS, -1, -1)),
        ValueError,
        "out has shape .* and strides .*: its elements must not share memory",
    ),
    "out_on_another_device": (replace("out", lambda t: t.to("meta")), ValueError, "out is on meta"),
    # lse
    "lse_not_a_tensor": (lambda call: call.update(lse=[0.0]), TypeError, "lse is a list: must be a torch.Tensor"),
    "lse_bf16": (
        replace("lse", torch.Tensor.bfloat16),
        TypeError,
        "lse has dtype torch.bfloat16: must be torch.float32",
    ),
    "lse_of_flashmla's_layout": (
        replace("lse", lambda t: torch.full((BATCH, HEADS, TOKENS), POISON)),
        ValueError,
        r"lse has shape \[2, 4, 3\]: must be \[2, 3, 4\]",
    ),
    "lse_expanded": (
        replace("lse", lambda t: t[:, :1].expand(-1, TOKENS, -1)),
        ValueError,
        "lse has shape .* and strides .*: its elements must not share memory",
    ),
    "lse_on_another_device": (replace("lse", lambda t: t.to("meta")), ValueError, "lse is on meta"),
    "lse_without_return_lse": (
        replace("return_lse", lambda v: False),
        ValueError,
        "lse is a Tensor: must be None without return_lse=True",
    ),
    "check_values_an_int": (
        lambda call: call.update(check_values=1),
        TypeError,
        "check_values is a int: must be a bool",
    ),
    # workspace
    "workspace_not_a_tensor": (
        replace("workspace", lambda t: bytearray(8)),
        TypeError,
        "workspace is a bytearray",
    ),
    "workspace_fp32": (
        replace("workspace", torch.Tensor.float),
        TypeError,
        "workspace has dtype torch.float32: must be torch.uint8, torch.int8",
    ),
    "workspace_rank_2": (
        replace("workspace", lambda t: t.view(8, 8)),
        ValueError,
        r"workspace has shape \[8, 8\]: must have one dimension",
    ),
    "workspace_strided": (replace("workspace", lambda t: t[::2]), ValueError, "workspace has strides"),
    "workspace_on_another_device": (
        replace("workspace", lambda t: t.to("meta")),
        ValueError,
        "workspace is on meta",
    ),
    "out_requires_grad": (replace("out", torch.Tensor.requires_grad_), ValueError, "out requires grad: must not"),
    "lse_requires_grad": (replace("lse", torch.Tensor.requires_grad_), ValueError, "lse requires grad: must not"),
    "all_on_meta": (
        lambda call: call.update(
            {name: value.to("meta") for name, value in call.items() if isinstance(value, torch.Tensor)}
        ),
        ValueError,
        "query is on meta: there are no values to compute with",
    ),
    "all_on_meta_with_backend_auto": (
        lambda call: call.update(
            {name: value.to("meta") for name, value in call.items() if isinstance(value, torch.Tensor)},
            backend="auto",
            check_values=None,
        ),
        ValueError,
        "query is on meta: there are no values to compute with",
    ),
    # backends on this machine's CPU tensors
    "cute_on_cpu": (
        replace("backend", lambda v: "cute"),
        ValueError,
        "query is on cpu: backend='cute' needs an SM100, SM103 or SM107 GPU",
    ),
    "emulator_off_cpu": (
        lambda call: call.update(
            {name: value.to("meta") for name, value in call.items() if isinstance(value, torch.Tensor)},
            backend="emulator",
            seq_lens=torch.zeros(0, dtype=torch.int32, device="meta"),
            query=torch.zeros(0, TOKENS, HEADS, 576, dtype=torch.bfloat16, device="meta"),
            block_tables=torch.zeros(0, 3, dtype=torch.int32, device="meta"),
            out=None,
            lse=None,
        ),
        ValueError,
        "query is on meta: backend='emulator' takes CPU tensors",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name, monkeypatch):
    apply, error, message = BAD[name]
    call = good_call()
    apply(call)
    given = [call[key] for key in ("out", "lse", "workspace") if isinstance(call[key], torch.Tensor)]
    outputs = [(tensor, tensor.clone()) for tensor in given if tensor.device.type == "cpu"]
    ran = []
    monkeypatch.setattr(fallback, "attend", lambda *args: ran.append(args))
    with pytest.raises(error, match=message):
        mla_decode(**call)
    assert not ran
    for tensor, before in outputs:
        assert torch.equal(tensor, before)


def test_the_unchanged_call_works():
    call = good_call()
    out, lse = mla_decode(**call)
    assert out is call["out"] and not (out == POISON).any()
    assert lse is call["lse"] and not (lse == POISON).any()
    assert (call["workspace"] == 7).all()


def test_unused_entries_and_padded_requests_are_no_error():
    call = good_call()
    call["block_tables"][0, 2:] = -1
    call["block_tables"][1] = 2147480000
    call["seq_lens"][1] = 0
    out, lse = mla_decode(**call)
    assert not out[1].any() and (lse[1] == -math.inf).all()


def test_a_table_of_width_zero_serves_empty_requests():
    call = good_call()
    call["block_tables"] = call["block_tables"][:, :0]
    call["seq_lens"][:] = 0
    assert not mla_decode(**call)[0].any()


def checked(**changes):
    call = {**good_call(), **changes}
    return validate.checked(DecodeCall(**call))


def shifted(tensor, elements):
    """The same values, starting `elements` elements into a fresh allocation."""
    room = torch.zeros(tensor.numel() + elements, dtype=tensor.dtype)
    view = room[elements:].view(tensor.shape)
    view.copy_(tensor)
    return view


def test_an_e4m3_call_has_a_bfloat16_or_an_e4m3_output():
    problem = make_problem(2, 4, 3, [40, 70], page_size=PAGE, dtype=torch.float8_e4m3fn)
    call = {**good_call(), "query": problem.query, "kv_cache": problem.kv_cache}
    assert mla_decode(**call)[0] is call["out"]
    call["out"] = call["out"].to(torch.float8_e4m3fn)
    assert mla_decode(**call)[0] is call["out"]
    call["out"] = call["out"].to(torch.float16)
    with pytest.raises(TypeError, match="out has dtype torch.float16: must be torch.bfloat16, torch.float8_e4m3fn"):
        mla_decode(**call)
    with pytest.raises(TypeError, match="out has dtype torch.float8_e4m3fn: must be torch.bfloat16"):
        mla_decode(**{**good_call(), "out": good_call()["out"].to(torch.float8_e4m3fn)})


def test_e4m3_strides_must_be_multiples_of_16_elements():
    wide = torch.zeros(2, 3, 4, 592, dtype=torch.float8_e4m3fn)
    cache = torch.zeros(6, PAGE, 576, dtype=torch.float8_e4m3fn)
    validate.check_kernel_operands(checked(query=wide[..., :576], kv_cache=cache))
    narrow = torch.zeros(2, 3, 4, 584, dtype=torch.float8_e4m3fn)
    with pytest.raises(ValueError, match=r"query.stride\(2\)=584 elements \(584 bytes\)"):
        validate.check_kernel_operands(checked(query=narrow[..., :576], kv_cache=cache))


def odd_rows(tensor):
    """The same values, rows one element further apart than compact."""
    return torch.cat([tensor, tensor[..., :1]], dim=-1)[..., :-1]


@pytest.mark.parametrize("name", ["query", "kv_cache", "out"])
def test_kernel_operands_must_be_addressable_by_tma(name):
    tensor = good_call()[name]
    validate.check_kernel_operands(checked(**{name: shifted(tensor, 8)}))
    with pytest.raises(ValueError, match=f"{name} starts at address 0x[0-9a-f]+: must be a multiple of 16 bytes"):
        validate.check_kernel_operands(checked(**{name: shifted(tensor, 4)}))
    with pytest.raises(ValueError, match=rf"{name}.stride\(\d\)=\d+ elements .*multiple of 16 bytes below 2\^40"):
        validate.check_kernel_operands(checked(**{name: odd_rows(tensor)}))


def test_a_batch_whose_tiles_the_kernel_cannot_count():
    """More requests than a grid dimension of 65535 are no matter: the grid is one-dimensional."""

    def call_of(batch, width):
        query = torch.zeros(1, 1, 1, 576, dtype=torch.bfloat16).expand(batch, TOKENS, HEADS, -1)
        zero = torch.zeros(1, dtype=torch.int32)
        good = checked(out=None, lse=None)
        tables, lengths = zero.expand(batch, width), zero.expand(batch)
        return dataclasses.replace(good, query=query, seq_lens=lengths, block_tables=tables)

    for batch, width in ((1 << 31, 1), (70000, 70000)):
        with pytest.raises(ValueError, match=r"query and block_tables, .* must be at most 2147418112 for this backend"):
            validate.check_kernel_operands(call_of(batch, width))
    for batch, width in ((70000, 1), (70000, 10000)):
        with pytest.raises(ValueError, match="query.stride"):
            validate.check_kernel_operands(call_of(batch, width))


def test_the_torch_backend_takes_what_tma_cannot_address():
    call = good_call()
    expected = mla_decode(**call)[0].clone()
    call["query"], call["kv_cache"] = odd_rows(call["query"]), odd_rows(call["kv_cache"])
    assert torch.equal(mla_decode(**call)[0], expected)
    call["backend"] = "emulator"
    with pytest.raises(ValueError, match=r"query.stride\(0\)"):
        mla_decode(**call)
