"""The compiled kernel, through the wrapper: executed by the emulator, and on the GPU where there is one.

One body, two backends. Every batch mixes all key lengths of the grid with a padded request, so one compilation and
one launch cover a column of shapes.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn.attention.bias import causal_lower_right

from tests.wrappers.probe import visible_mask
from wrappers import emulated, kernel, validate
from wrappers.decode import mla_decode
from wrappers.testing import MlaProblem, assert_matches, make_problem

HEADS = (1, 3, 16, 40, 64, 128)
TOKENS = (1, 2, 4, 5, 8)
PAGES = (16, 32, 64, 128)
DTYPES = (torch.bfloat16, torch.float16)
# Around the 64-key tile, around two of them, primes, and lengths shorter than the query; 0 is a padded request.
LENGTHS = (1, 63, 64, 65, 127, 128, 129, 200, 513, 0)

# Every head count, token count, page size, mask and dtype at least once, odd row counts (15, 80, 200) in causal and
# dense, small enough for two cores: rows x keys decides what a launch costs.
THIN_GRID = [
    (1, 1, 16, True, torch.bfloat16),
    (3, 5, 32, True, torch.float16),
    (16, 8, 64, True, torch.bfloat16),
    (16, 4, 128, False, torch.float16),
    (40, 2, 16, True, torch.bfloat16),
    (64, 1, 32, False, torch.bfloat16),
    (128, 1, 64, True, torch.float16),
    (40, 5, 128, False, torch.bfloat16),
]

SEED_USING_PAGE_4 = 1


@pytest.fixture(params=["emulator", pytest.param("cute", marks=pytest.mark.device)])
def backend(request):
    return request.param


def run(problem: MlaProblem, backend: str, **options) -> tuple[torch.Tensor, torch.Tensor]:
    """`(out, lse)` on the CPU."""
    placed = problem.to("cuda") if backend == "cute" else problem
    out, lse = mla_decode(*placed.tensors, **placed.options, return_lse=True, backend=backend, **options)
    return out.cpu(), lse.cpu()


def check_shapes(num_heads, seq_len_q, page_size, is_causal, dtype, backend):
    problem = make_problem(
        len(LENGTHS), num_heads, seq_len_q, LENGTHS, page_size=page_size, dtype=dtype, is_causal=is_causal,
        seed=num_heads * seq_len_q,
    )  # fmt: skip
    assert_matches(problem, *run(problem, backend))


@pytest.mark.parametrize("num_heads, seq_len_q, page_size, is_causal, dtype", THIN_GRID)
def test_shapes(num_heads, seq_len_q, page_size, is_causal, dtype, backend):
    check_shapes(num_heads, seq_len_q, page_size, is_causal, dtype, backend)


@pytest.mark.slow
@pytest.mark.parametrize(
    "num_heads, seq_len_q, page_size, is_causal, dtype",
    list(itertools.product(HEADS, TOKENS, PAGES, (True, False), DTYPES)),
)
def test_all_shapes(num_heads, seq_len_q, page_size, is_causal, dtype, backend):
    check_shapes(num_heads, seq_len_q, page_size, is_causal, dtype, backend)


@pytest.mark.filterwarnings("ignore:Lower right causal bias will produce NaNs")
@pytest.mark.parametrize("seq_len_q, kv_len", [(2, 4), (5, 3), (5, 70)])
def test_causal_mask_is_exact(seq_len_q, kv_len, backend):
    mask = visible_mask(seq_len_q, kv_len, backend=backend)
    assert torch.equal(mask, causal_lower_right(seq_len_q, kv_len)._materialize())


def test_dense_sees_every_key(backend):
    assert visible_mask(5, 70, is_causal=False, backend=backend).all()


def test_strided_query_cache_and_output(backend):
    problem = make_problem(2, 3, 2, [40, 7], page_size=16, strided=True, cache_rank=4)
    device = "cuda" if backend == "cute" else "cpu"
    wide = torch.full((2, 3, 4, 640), 7.0, dtype=torch.bfloat16, device=device)
    assert_matches(problem, *run(problem, backend, out=wide[:, :2, :3, :512]))
    assert (wide[:, 2:] == 7).all() and (wide[..., 512:] == 7).all() and (wide[:, :, 3:] == 7).all()


def test_a_query_whose_heads_are_part_of_more_heads(backend):
    """Token stride larger than num_heads x head stride: (token, head) is not one TMA mode."""
    whole = make_problem(2, 6, 3, [40, 90])
    part = MlaProblem(whole.query[:, :, :4], *whole.tensors[1:])
    assert_matches(part, *run(part, backend))


def test_lse_base_2(backend):
    problem = make_problem(2, 3, 2, [1, 90])
    lse = run(problem, backend, lse_base="2")[1]
    assert_matches(problem, *(run(problem, backend)[0], lse * torch.log(torch.tensor(2.0))))


@pytest.mark.parametrize(
    "options",
    [
        {"output_scale": -2.5},
        {"softmax_scale": 0.0},
        {"softmax_scale": -(576**-0.5)},
        {"softmax_scale": 3.0, "dtype": torch.float16},
        {"softmax_scale": 1e-30},
    ],
    ids=str,
)
def test_scales(options, backend):
    """Hidden keys stay hidden whatever the scale; large scores do not overflow."""
    problem = make_problem(2, 3, 5, [3, 130], **options)
    assert_matches(problem, *run(problem, backend))


def test_a_cache_beyond_2_to_the_31_elements(backend):
    """Pages a little more than 2^29 elements apart: the fifth one's offset does not fit in 32 bits."""
    if backend == "cute":
        pytest.skip("would copy 4 GiB to the GPU: the emulated run covers the addressing")
    problem = make_problem(1, 2, 2, [40], page_size=16, seed=SEED_USING_PAGE_4)
    apart = (1 << 29) + 576
    # Only the pages themselves are ever touched, the rest of the memory is merely reserved.
    pool = torch.empty(4 * apart + 16 * 576, dtype=torch.bfloat16)
    cache = pool.as_strided(problem.kv_cache.shape, (apart, 576, 1))
    cache.copy_(problem.kv_cache)
    assert 4 in problem.block_tables[0, :3] and 4 * apart > 2**31
    far = MlaProblem(problem.query, cache, *problem.tensors[2:])
    assert_matches(far, *run(far, backend))


def test_a_table_of_width_zero(backend):
    problem = make_problem(2, 2, 2, [0, 0])
    narrow = MlaProblem(problem.query, problem.kv_cache, problem.block_tables[:, :0], problem.seq_lens)
    assert_matches(narrow, *run(narrow, backend))


def launch(problem: MlaProblem, **options) -> tuple[torch.Tensor, torch.Tensor]:
    call = validate.check_decode_call(
        *problem.tensors, **problem.options, out=None, return_lse=True, lse_base="e", workspace=None
    )
    out, lse = torch.empty(problem.out_shape, dtype=problem.query.dtype), torch.empty(problem.out_shape[:3])
    emulated.launch(kernel.compiled(call, "sm_100a"), call, out, lse, **options)
    return out, lse


@pytest.mark.parametrize("order, seed", [("late", 0), ("random", 1), ("random", 2)])
def test_the_order_of_asynchronous_work_changes_nothing(order, seed):
    """Copies and matrix products complete when the hardware likes: a result that depends on it misses a wait."""
    problem = make_problem(3, 16, 5, [0, 200, 300])
    expected, expected_lse = launch(problem)
    out, lse = launch(problem, order=order, seed=seed)
    assert torch.equal(out, expected) and torch.equal(lse, expected_lse)
    assert_matches(problem, out, lse)
