"""Tree masks: which draft tokens a draft token sees, read by the kernel where a tile reaches the drafts."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from tests.wrappers.emulation import PATHS, is_caught, launch, launch_with_reports, run, same
from wrappers.kernel import TORCH_DTYPES
from wrappers.testing import MlaProblem, assert_matches, make_problem
from wrappers.validate import MAX_TREE_TOKENS, pack_bits

# Drafts that lie in one key tile, that straddle two (of 64 keys and of 128), more drafts than keys, no keys.
KV_LENS = (200, 64, 130, 5, 0)


@pytest.fixture(params=["emulator", pytest.param("cute", marks=pytest.mark.device)])
def backend(request):
    return request.param


def make_tree(num_heads=16, seq_len_q=8, kv_lens=KV_LENS, **options) -> MlaProblem:
    return make_problem(len(kv_lens), num_heads, seq_len_q, kv_lens, tree=True, **options)


@pytest.mark.parametrize(
    "path, num_heads, seq_len_q, page_size, dtype",
    [
        ("wide", 16, 8, 64, "bf16"),
        *((path, 3, 33, 16, "fp16") for path in PATHS),
        ("narrow", 2, 64, 32, "bf16"),
        ("narrow", 1, 100, 128, "fp8"),  # wide ones: of a ragged query
    ],
)
def test_random_trees(path, num_heads, seq_len_q, page_size, dtype, backend):
    problem = make_tree(num_heads, seq_len_q, page_size=page_size, dtype=TORCH_DTYPES[dtype])
    assert_matches(problem, *run(problem, backend, path))


def test_the_largest_tree(backend):
    problem = make_tree(1, MAX_TREE_TOKENS, (400, 100))
    assert_matches(problem, *run(problem, backend))


@pytest.mark.parametrize("path, dtype", [("narrow", "bf16"), ("wide", "fp8")])
def test_trees_of_a_ragged_query(path, dtype, backend):
    problem = make_tree(16, 8, (200, 64, 130, 5, 0, 70), query_lens=(8, 0, 3, 7, 2, 1), dtype=TORCH_DTYPES[dtype])
    assert_matches(problem, *run(problem, backend, path))


def test_a_chain_is_the_causal_mask_bit_for_bit():
    causal = make_problem(len(KV_LENS), 16, 8, KV_LENS, hostile=False)
    chain = torch.ones(8, 8, dtype=torch.bool).tril().expand(len(KV_LENS), -1, -1)
    assert same(launch(replace(causal, tree_mask=chain)), launch(causal))


def test_bulk_tiles_run_the_code_of_a_kernel_without_a_mask():
    """Five more key tiles ahead of the drafts cost the softmax warps, opcode by opcode, what they do when causal."""

    def instructions(is_tree: bool, keys: int) -> Counter:
        problem = make_problem(1, 16, 4, (keys,), tree=is_tree, hostile=False)
        return launch_with_reports(problem, num_ctas=1)[2].decode.by_opcode([0, 1, 2, 3])

    tree, causal = (instructions(is_tree, 640) - instructions(is_tree, 320) for is_tree in (True, False))
    assert causal["ex2.approx.ftz.f32"] >= 5 * 4 * 32
    # A mask takes an instruction per score and more. The compiler may turn a branch round, or repeat an address.
    differences = [abs(tree[opcode] - causal[opcode]) for opcode in tree | causal]
    assert max(differences) <= 5 * 4, "more than one instruction of a kind per warp and tile"
    assert sum(differences) <= 5 * 4 * 3, "more than three instructions per warp and tile"


def packed(problem: MlaProblem, dtype: torch.dtype) -> MlaProblem:
    """Words with the bits behind the last draft set."""
    words = pack_bits(torch.nn.functional.pad(problem.tree_mask, (0, -problem.tree_mask.shape[-1] % 64), value=True))
    return replace(problem, tree_mask=words.view(dtype))


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint64])
def test_packed_bits_may_be_dirty_behind_the_last_draft(dtype):
    problem = make_tree(3, 33, (200, 30), page_size=16, dtype=torch.float16)
    assert same(launch(packed(problem, dtype)), launch(problem))


@pytest.mark.parametrize("mutant", ["no-tree-mask", "tree-off-by-one", "tree-first-word"])
def test_mutants_fail(mutant):
    assert is_caught(make_tree(2, 40, (200, 64)), mutant)
