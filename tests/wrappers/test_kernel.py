"""The glue to the compiled kernel: compile keys, launch views, and the host function, compiled for real."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from wrappers import kernel, validate
from wrappers.call import DecodeCall
from wrappers.testing import make_problem, shard


def checked(problem, **options):
    return validate.checked(DecodeCall(*problem.tensors, **problem.options, **options))


def test_the_compile_key_of_a_call():
    problem = make_problem(2, 6, 3, [9, 40], page_size=16, dtype=torch.float16, is_causal=False)
    config = kernel.decode_config(checked(problem), "sm_103a")
    assert (config.dtype, config.num_heads, config.seq_len_q, config.page_size) == ("fp16", 6, 3, 16)
    assert (config.is_causal, config.lse_base, config.arch) == (False, None, "sm_103a")
    assert (config.kv_lora_rank, config.qk_rope_head_dim) == (512, 64)
    for base in ("e", "2"):
        assert kernel.decode_config(checked(problem, return_lse=True, lse_base=base), "sm_100a").lse_base == base


def test_e4m3_is_the_kernels_fp8():
    assert kernel.decode_config(checked(make_problem(1, 2, 1, 5, dtype=torch.float8_e4m3fn)), "sm_100a").dtype == "fp8"


def test_a_query_is_packed_where_tokens_follow_heads_without_a_gap():
    def packed(query):
        problem = make_problem(query.shape[0], query.shape[2], query.shape[1], 20, hostile=False)
        call = checked(problem)
        return kernel.decode_config(replace(call, query=query), "sm_100a").query_packed

    rows = torch.zeros(2, 3, 8, 576, dtype=torch.bfloat16)
    assert packed(rows)
    assert packed(rows[:, :, :, :].clone()[:, :1])
    assert packed(rows[:, :, :1])
    assert packed(torch.zeros(2, 3, 8, 640, dtype=torch.bfloat16)[..., :576])
    assert not packed(rows[:, :, :7])
    assert not packed(torch.zeros(2, 3, 9, 576, dtype=torch.bfloat16)[:, :, :8])


@pytest.mark.parametrize("shape", [(1, 1, 1, 576), (2, 1, 4, 576), (2, 3, 1, 576), (1, 3, 4, 576), (1, 16, 576)])
def test_launch_view_gives_dimensions_of_size_1_a_stride_of_whole_rows(shape):
    base = torch.arange(2 * torch.Size(shape).numel(), dtype=torch.float32)
    strides, step = [], 576
    for size in reversed(shape[:-1]):
        strides.insert(0, 3 if size == 1 else step)
        step *= size
    odd = base.as_strided(shape, [*strides, 1])
    view = kernel.launch_view(odd)
    assert view.data_ptr() == odd.data_ptr() and torch.equal(view, odd)
    assert all(stride % 576 == 0 for stride in view.stride()[:-1])


def test_arguments_are_in_the_host_functions_order():
    problem = make_problem(2, 2, 1, [5, 6], output_scale=0.25)
    call, workspace = problem.decode_call(), torch.empty(8)
    arguments = kernel.kernel_arguments(call, workspace, 148)
    for given, expected in zip(arguments, (*problem.tensors, call.out, call.lse, workspace), strict=False):
        assert given.data_ptr() == expected.data_ptr() and given.shape == expected.shape
    assert arguments[7:] == (148, problem.softmax_scale, 0.25, *[None] * 5)


def test_arguments_of_the_modes():
    def arguments_of(problem):
        return kernel.kernel_arguments(problem.decode_call(), torch.empty(8), 148)

    ragged = make_problem(3, 2, 4, [5, 6, 7], query_lens=[4, 0, 1], tree=True)
    (query, *_, out, lse), (cu_seqlens_q, tree_mask, *others) = arguments_of(ragged)[:6], arguments_of(ragged)[10:]
    assert query.shape == (1, 5, 2, 576) and out.shape == (1, 5, 2, 512) and lse.shape == (1, 5, 2)
    assert cu_seqlens_q is ragged.cu_seqlens_q and tree_mask.shape == (1, 5, 1) and others == [None] * 3
    part = shard(make_problem(1, 2, 2, [50]), 4, 3, 8)
    assert arguments_of(part)[-3:] == (3, None, None)
    config = kernel.decode_config(checked(part), "sm_100a")
    assert (config.dcp_world, config.dcp_interleave, config.tree_mask, config.ragged_query) == (4, 8, False, False)
    windowed = make_problem(1, 2, 2, [50], window_left=7)
    assert arguments_of(windowed)[-3:] == (None, 7, None)
    config = kernel.decode_config(checked(windowed), "sm_100a")
    assert config.sliding_window and config == kernel.decode_config(
        checked(replace(windowed, window_left=9)), "sm_100a"
    )
    assert kernel.decode_config(checked(replace(windowed, window_left=-1)), "sm_100a") == replace(
        config, sliding_window=False
    )
    with_lens = make_problem(3, 2, 4, [5, 6, 7], query_lens=[4, 0, 1], visible_lens=True)
    assert arguments_of(with_lens)[-1].shape == (1, 5)
    configs = [kernel.decode_config(checked(replace(with_lens, is_causal=c)), "sm_100a") for c in (True, False)]
    assert configs[0] == configs[1] and configs[0].visible_lens, "one kernel, whatever is_causal is"


@pytest.mark.parametrize("most, compiled_for", [(1, 1), (2, 2), (3, 4), (9, 16)])
def test_a_ragged_kernel_is_compiled_for_a_power_of_two(most, compiled_for):
    problem = make_problem(1, 2, most, [50], query_lens=[1])
    config = kernel.decode_config(checked(problem), "sm_100a")
    assert config.ragged_query and config.seq_len_q == compiled_for


HOST_CALL = """
import sys
from wrappers import kernel
from wrappers.testing import make_problem
import torch

problem = make_problem(2, 16, 8, [100, 7], page_size=32, dtype=getattr(torch, sys.argv[2]))
call = problem.decode_call()
compiled = kernel.compiled(call, sys.argv[1])
assert f".target {sys.argv[1]}" in compiled.ptx and compiled.cubin[:4] == b"\\x7fELF"
try:
    compiled.host(*kernel.kernel_arguments(call, kernel.workspace_of(call, 2), 2))
except ValueError as error:
    print(error)
"""


@pytest.mark.parametrize("arch, dtype", [("sm_103a", "bfloat16"), ("sm_100a", "float8_e4m3fn")])
def test_the_host_function_is_compiled_and_checks_its_arguments(arch, dtype):
    """The real host function, given CPU tensors, gets as far as refusing their device.

    In a process of its own: the compiler loads host functions for one architecture per process, which it takes from
    the GPU, or, without one, from CUTE_DSL_ARCH.
    """
    done = subprocess.run(
        [sys.executable, "-c", HOST_CALL, arch, dtype],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "CUTE_DSL_ARCH": arch},
        capture_output=True,
        text=True,
        check=True,
    )
    signature = (
        f"__call__(query: Tensor([n0, 8, 16, 576], {dtype}), kv_cache: Tensor([n1, 32, 576], {dtype}), "
        "block_tables: Tensor([n0, n2], int32), seq_lens: Tensor([n0], int32), "
        "out: Tensor([n0, 8, 16, 512], bfloat16), lse: Tensor([n0, 8, 16], float32), "
        "workspace: Tensor([n3], float32), num_ctas: int32, softmax_scale: float32, output_scale: float32, "
        "cu_seqlens_q: None, tree_mask: None, dcp_rank: None, window_left: None, visible_lens: None)"
    )
    assert signature in done.stdout and "expected device_type=cuda" in done.stdout
