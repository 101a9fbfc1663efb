"""The decode kernel's numbers: its PTX executed by the emulator, and the same bodies on a device where there is one.

Every call mixes all key lengths of the grid in one batch (empty and padded requests among them), with shuffled pages,
NaN and Inf in unused slots and pages, absurd page ids in unused table entries, NaN in query rows that see no key.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace

import pytest
import torch

from mla.config import PAGE_SIZES
from scripts.mutants import MUTANTS, WIDE_MUTANTS
from scripts.slow_grid import HEADS, QUERY_LENS, VARIANTS, grid_problem
from tests.covering import covering_rows
from tests.wrappers.emulation import PATHS, is_caught, launch, run, same
from tests.wrappers.probe import visible_mask
from wrappers import kernel
from wrappers.backends import EMULATED_ARCH
from wrappers.decode import mla_decode
from wrappers.kernel import TORCH_DTYPES
from wrappers.testing import DEFAULT_SCALE, MlaProblem, assert_matches, make_problem


@pytest.fixture(params=["emulator", pytest.param("cute", marks=pytest.mark.device)])
def backend(request):
    return request.param


def call_wrapper(problem: MlaProblem, backend: str, **options) -> tuple[torch.Tensor, torch.Tensor]:
    """(out, lse) of mla_decode, to which `options` go."""
    placed = problem.to("cuda") if backend == "cute" else problem
    return mla_decode(*placed.tensors, **problem.options, return_lse=True, backend=backend, **options)


# Kernels that other tests compile too.
SHARED_ROWS = (
    (16, 4, 64, "bf16", True, "narrow"),
    (1, 1, 16, "bf16", True, "narrow"),
    (3, 2, 64, "bf16", True, "narrow"),
    (16, 8, 64, "fp8", True, "wide"),
    (40, 2, 32, "bf16", True, "wide"),
    (16, 1, 128, "bf16", True, "wide"),
    (40, 4, 64, "fp16", True, "wide"),
    (16, 5, 32, "fp8", True, "wide"),
    (3, 5, 64, "fp16", True, "narrow"),
    (1, 2, 64, "bf16", False, "narrow"),
    (128, 5, 32, "bf16", False, "wide"),
    (1, 8, 16, "fp8", False, "narrow"),
)
AXES = (HEADS, QUERY_LENS, PAGE_SIZES, tuple(TORCH_DTYPES), (True, False), PATHS)


def check(backend, num_heads, seq_len_q, page_size, dtype, is_causal, path):
    problem = grid_problem(num_heads, seq_len_q, page_size, dtype, is_causal)
    assert_matches(problem, *run(problem, backend, path))


@pytest.mark.parametrize("num_heads, seq_len_q, page_size, dtype, is_causal, path", covering_rows(AXES, SHARED_ROWS))
def test_grid(backend, num_heads, seq_len_q, page_size, dtype, is_causal, path):
    check(backend, num_heads, seq_len_q, page_size, dtype, is_causal, path)


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", list(TORCH_DTYPES))
@pytest.mark.parametrize("seq_len_q", QUERY_LENS)
@pytest.mark.parametrize("num_heads", HEADS)
def test_whole_grid(backend, num_heads, seq_len_q, dtype, path):
    """The rest of the grid to a test, so that deselecting it takes no time. `scripts.slow_grid` runs it with a table and can
    be stopped."""
    for page_size, is_causal in VARIANTS:
        check(backend, num_heads, seq_len_q, page_size, dtype, is_causal, path)


@pytest.mark.parametrize("seq_len_q, seq_len_k", [(2, 4), (5, 2), (5, 0), (5, 5), (5, 100)])
@pytest.mark.parametrize("is_causal", [True, False])
def test_exact_mask(seq_len_q, seq_len_k, is_causal):
    """Key by key, read off the output with one-hot values; on a row of the grid."""
    key, token = torch.arange(seq_len_k), torch.arange(seq_len_q)
    expected = key[None] - (seq_len_k - 1) <= token[:, None] - (seq_len_q - 1)
    if not is_causal:
        expected = torch.ones_like(expected)
    rows = (row for row in SHARED_ROWS if (row[1], row[4]) == (seq_len_q, is_causal) and row[3] != "fp8")
    num_heads, _, page_size, dtype, *_ = next(rows)
    kernel_of_row = {"num_heads": num_heads, "page_size": page_size, "dtype": TORCH_DTYPES[dtype]}
    mask = visible_mask(seq_len_q, seq_len_k, is_causal=is_causal, backend="emulator", **kernel_of_row)
    assert torch.equal(mask, expected)


@pytest.mark.parametrize(
    "num_heads, seq_len_q, path", [(3, 4, "narrow"), (16, 5, "narrow"), (3, 25, "wide"), (40, 3, "wide")]
)
def test_strided_views(backend, num_heads, seq_len_q, path):
    """Token strides that are not num_heads times the head stride, and a cache with gaps between tokens and pages."""
    problem = make_problem(3, num_heads, seq_len_q, (70, 129, 4), page_size=32, strided=True, cache_rank=4)
    assert not kernel.decode_config(problem.decode_call(), EMULATED_ARCH).query_packed
    assert_matches(problem, *run(problem, backend, path))


@pytest.mark.parametrize("width", [576, 584])
def test_strided_out(backend, width):
    """Rows at multiples of 32 bytes, a sector, and, 1168 bytes apart, at multiples of 16 only."""
    problem = make_problem(2, 16, 4, (65, 3))
    device = "cuda" if backend == "cute" else "cpu"
    wide = torch.full((2, 5, 20, width), 7.0, dtype=torch.bfloat16, device=device)
    out = wide[:, :4, 2:18, 64:576]
    returned, lse = call_wrapper(problem, backend, out=out)
    assert returned is out
    assert_matches(problem, out, lse)
    wide[:, :4, 2:18, 64:576] = 7.0
    assert (wide == 7.0).all(), "memory beside out was written"


def test_lse_base_2(backend):
    problem = make_problem(2, 16, 4, (65, 0))
    _, natural = run(problem, backend)
    _, binary = call_wrapper(problem, backend, lse_base="2")
    torch.testing.assert_close(binary * torch.log(torch.tensor(2.0)), natural, rtol=1e-6, atol=1e-6)


OF_DTYPE = {"bf16": (16, 4, 64), "fp16": (3, 5, 64), "fp8": (16, 5, 32)}  # heads, query tokens, page size


@pytest.mark.parametrize(
    "dtype, softmax_scale, output_scale",
    [
        *itertools.product(("bf16",), (1e-6, 1.0, -0.04, 0.0), (0.5,)),
        *itertools.product(("fp16", "fp8"), (0.0, 3.0, -1e-30), (1.0,)),
        *itertools.product(("fp16", "fp8"), (DEFAULT_SCALE,), (-2.5,)),
    ],
)
def test_scales(dtype, softmax_scale, output_scale, backend):
    """Masked probabilities are 0 whatever the scale; scores of some hundreds do not overflow."""
    num_heads, seq_len_q, page_size = OF_DTYPE[dtype]
    problem = make_problem(
        3, num_heads, seq_len_q, (130, 66, 2), page_size=page_size, dtype=TORCH_DTYPES[dtype],
        softmax_scale=softmax_scale, output_scale=output_scale,
    )  # fmt: skip
    assert_matches(problem, *run(problem, backend))


def problem_with_scale_tensors(*names: str) -> MlaProblem:
    """Requests that one CTA computes, that several share, and an empty one; scales `names` are tensors."""
    problem = make_problem(3, 16, 4, (1300, 70, 0), softmax_scale=0.07, output_scale=0.5)
    return replace(problem, **{name: torch.tensor([getattr(problem, name)]) for name in names})


SCALES = ("softmax_scale", "output_scale")


@pytest.mark.parametrize("names", [SCALES, SCALES[:1], SCALES[1:]], ids="+".join)
def test_scales_read_on_the_device(names):
    """As one-element tensors: the same bits as the numbers give."""
    expected, expected_lse = launch(problem_with_scale_tensors())
    out, lse = launch(problem_with_scale_tensors(*names))
    assert torch.equal(out, expected) and torch.equal(lse, expected_lse)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", SCALES)
def test_an_unread_scale_fails(name, path):
    """Of a kernel that reads both, of which one is 1 anyway."""
    (other,) = set(SCALES) - {name}
    problem = replace(problem_with_scale_tensors(name), **{other: torch.ones(1)})
    assert is_caught(problem, "unread-scales", path=path)


@pytest.mark.parametrize("num_heads, seq_len_q, path", [(16, 4, "narrow"), (40, 2, "wide")])
def test_row_maxima_that_keep_growing(num_heads, seq_len_q, backend, path):
    """Every tile raises every row's maximum: O is rescaled each time, and its first tiles fade to nothing."""
    page_size = 64 if path == "narrow" else 32
    problem = make_problem(1, num_heads, seq_len_q, (600,), page_size=page_size, hostile=False)
    ramp = torch.linspace(0.0, 3.0, problem.kv_cache.shape[0] * page_size).view(-1, page_size, 1)
    problem.query.copy_(problem.query.abs())
    problem.kv_cache.copy_(problem.kv_cache.abs() * ramp)
    assert_matches(problem, *run(problem, backend, path))


@functools.cache
def expected_in_any_order(path: str, dtype: str) -> tuple[MlaProblem, tuple[torch.Tensor, torch.Tensor]]:
    shape = (16, 5) if dtype == "fp8" else (40, 2)
    problem = make_problem(3, *shape, (260, 0, 100), page_size=32, dtype=TORCH_DTYPES[dtype])
    result = launch(problem, path=path)
    assert_matches(problem, *result)
    return problem, result


@pytest.mark.parametrize("order, seed", [("in_order", 0), ("late", 0), ("random", 0), ("random", 1), ("random", 2)])
@pytest.mark.parametrize("path, dtype", [("narrow", "bf16"), ("wide", "bf16"), ("wide", "fp8")])
def test_result_does_not_depend_on_execution_order(path, dtype, order, seed):
    """Copies, matrix products and CTAs complete when the hardware likes: a result that depends on it misses a wait."""
    problem, expected = expected_in_any_order(path, dtype)
    assert same(launch(problem, path=path, order=order, seed=seed), expected)


@pytest.mark.parametrize(
    "path, num_ctas",
    [
        *itertools.product(["narrow"], (1, 2, 3, 37, 148)),
        *itertools.product(["wide"], (2, 3, 5, 7, 36, 148)),
    ],
)
def test_any_number_of_ctas(path, num_ctas):
    """One CTA, or pair, computes whole row tiles one after the other; many split each of them."""
    problem = make_problem(4, 40, 2, (700, 0, 33, 1300), page_size=32)
    assert_matches(problem, *launch(problem, path=path, num_ctas=num_ctas))


@pytest.mark.parametrize("num_ctas", [2, 7, 148])
def test_any_number_of_ctas_of_fp8(num_ctas):
    problem = make_problem(4, 16, 5, (1300, 0, 700, 3), page_size=32, dtype=TORCH_DTYPES["fp8"])
    assert_matches(problem, *launch(problem, num_ctas=num_ctas))


def test_a_pair_needs_two_ctas():
    problem = make_problem(1, 16, 1, (64,), page_size=128)
    with pytest.raises(ValueError, match="num_ctas=1: the wide path needs at least 2"):
        launch(problem, num_ctas=1, path="wide")


# Mutants of what this problem has not: P of bf16 and fp16 is not scaled (tests/wrappers/test_emulated.py shows that on
# fp8), scales are numbers, and each of the others has a test file of its own.
OF_OTHER_PROBLEMS = (
    "unscaled-probs", "unread-scales", "ragged-", "dcp-", "tree-", "no-tree-mask", "drafts-", "merge-", "same-pages",
    "window-", "visible-",
)  # fmt: skip


# Of code that both paths run as it is, so that the other path's kernel would be caught by the same comparison.
OF_ONE_PATH = {
    "no-mtp-mask": "narrow", "top-left-mask": "wide", "off-by-one-mask": "narrow", "no-tile-mask": "wide",
    "natural-scale": "narrow", "no-rescale": "wide", "split-off-by-one": "wide", "no-merge": "narrow",
    **dict.fromkeys(WIDE_MUTANTS, "wide"),
}  # fmt: skip
MUTANTS_HERE = [
    (path, name)
    for name in MUTANTS
    for path in PATHS
    if not name.startswith(OF_OTHER_PROBLEMS) and OF_ONE_PATH.get(name, path) == path
]


@pytest.mark.parametrize("path, name", MUTANTS_HERE)
def test_mutants_fail(path, name):
    """Each wrong kernel is caught, under at least one execution order."""
    problem = make_problem(2, 16, 8, (600, 130))
    orders = ("in_order", "late", "random")
    # Few CTAs, so that each has several tiles of a row tile in turn.
    caught = (is_caught(problem, name, order=order, path=path, num_ctas=4) for order in orders)
    assert any(caught), f"{name} passes every check"
