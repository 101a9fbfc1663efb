"""The compiled kernels, through the wrapper: executed by the emulator, and on the GPU where there is one.

What the kernel computes in all shapes is tests/mla/test_decode.py's; here are what is e4m3's alone, what the caller's
memory is like (far apart, absent, workspace), and that a result is the same, bit for bit, however it came about.
"""

from __future__ import annotations

import math
from dataclasses import replace
from unittest import mock

import pytest
import torch

from mla.compile import compile_decode, compile_kernel
from mla.decode import MlaDecode
from mla.roles import scheduler
from ptx_emulator.errors import EmulationError, LimitExceeded, OutOfBounds
from tests.wrappers import emulation
from tests.wrappers.emulation import assert_clean, same
from wrappers import emulated, kernel
from wrappers.decode import mla_decode, workspace_bytes
from wrappers.testing import DEFAULT_SCALE, MlaProblem, assert_matches, baseline_output, compare, make_problem, snr_db

FP8 = torch.float8_e4m3fn
SEED_USING_PAGE_4 = 1


@pytest.fixture(params=["emulator", pytest.param("cute", marks=pytest.mark.device)])
def backend(request):
    return request.param


def run(problem: MlaProblem, backend: str, **options) -> tuple[torch.Tensor, torch.Tensor]:
    """`(out, lse)` on the CPU, from `mla_decode`."""
    placed = problem.to("cuda") if backend == "cute" else problem
    out, lse = mla_decode(*placed.tensors, **placed.options, return_lse=True, backend=backend, **options)
    return out.cpu(), lse.cpu()


def launch(problem: MlaProblem, mutant: str | None = None, num_ctas: int = kernel.EMULATED_CTAS, **options):
    """`(out, lse)` of an emulated launch on a whole GPU; `options` are those of `emulation.launch`."""
    return emulation.launch(problem, mutant, num_ctas=num_ctas, **options)


def test_fp8_strided_query_cache_and_output(backend):
    """Tokens apart of an odd number of heads: boxes of a single row each, whose rotary part is 64 bytes."""
    problem = make_problem(2, 3, 2, [40, 130], page_size=16, dtype=FP8, strided=True, cache_rank=4)
    device = "cuda" if backend == "cute" else "cpu"
    wide = torch.full((2, 3, 4, 640), 7.0, dtype=torch.bfloat16, device=device)
    assert_matches(problem, *run(problem, backend, out=wide[:, :2, :3, :512]))
    assert (wide[:, 2:] == 7).all() and (wide[..., 512:] == 7).all() and (wide[:, :, 3:] == 7).all()


def test_fp8_tokens_apart_of_one_head(backend):
    """On a row of tests/mla/test_decode.py's grid."""
    problem = make_problem(2, 1, 8, [40, 130], page_size=16, dtype=FP8, is_causal=False, strided=True)
    assert_matches(problem, *run(problem, backend))


# Logit sigma -> SNR in dB that e4m3 probabilities must keep, and that they do not come near when left unscaled.
PEAKED = {2: (49.0, 45.0), 3: (43.0, 40.0)}


def peaked_problem(sigma: int, num_heads: int, kv_len: int) -> MlaProblem:
    """One token over keys whose few largest scores do not outweigh the many small ones; values have mean 1, so
    that probabilities lost in rounding are lost in the output."""
    return make_problem(
        1, num_heads, 1, kv_len, dtype=FP8, softmax_scale=sigma * DEFAULT_SCALE, value_mean=1.0, hostile=False
    )


@pytest.mark.parametrize("num_ctas", [1, 8])
@pytest.mark.parametrize("sigma", PEAKED)
def test_scaled_probabilities_keep_the_accuracy_of_a_peaked_softmax(sigma, num_ctas):
    """Each share has a maximum of its own, which hides part of the mutant's loss: of one key tile, all that matters; of
    the four here, not."""
    good, bad = PEAKED[sigma]
    problem = peaked_problem(sigma, 8, 4096)
    result = compare(problem, *launch(problem, num_ctas=num_ctas))
    assert not result.faults and result.snr_db > good
    mutant = compare(problem, *launch(problem, "unscaled-probs", num_ctas=num_ctas))
    assert mutant.faults and mutant.snr_db < bad


@pytest.mark.parametrize("sigma, scaled_above, unscaled_below", [(2, 50.0, 25.0), (3, 45.0, 22.0)])
def test_at_80k_keys_unscaled_probabilities_would_be_wrong(sigma, scaled_above, unscaled_below):
    """The kernel's arithmetic in torch: too many keys for the emulator."""
    problem = peaked_problem(sigma, 16, 81920)
    reference, rows = problem.reference()[0], problem.active_rows()
    scaled, unscaled = (snr_db(baseline_output(problem, scale)[0], reference, rows) for scale in (8, 0))
    assert scaled > scaled_above and unscaled < unscaled_below


def test_a_cache_beyond_2_to_the_31_elements(backend):
    """Pages a little more than 2^29 elements apart: the fifth one's offset does not fit in 32 bits."""
    if backend == "cute":
        pytest.skip("would copy 4 GiB to the GPU: the emulated run covers the addressing")
    problem = make_problem(1, 16, 1, [40], page_size=16, seed=SEED_USING_PAGE_4)
    apart = (1 << 29) + 576
    # Only the pages themselves are ever touched, the rest of the memory is merely reserved.
    pool = torch.empty(4 * apart + 16 * 576, dtype=torch.bfloat16)
    cache = pool.as_strided(problem.kv_cache.shape, (apart, 576, 1))
    cache.copy_(problem.kv_cache)
    assert 4 in problem.block_tables[0, :3] and 4 * apart > 2**31
    far = MlaProblem(problem.query, cache, *problem.tensors[2:])
    assert_matches(far, *run(far, backend))


def test_the_highest_page_ids(tmp_path, backend):
    """2^31 - 1 pages, of which only the request's own are in memory: they start 16 bytes apart and overlap, and the
    memory is a file of 32 GiB with holes.
    """
    if backend == "cute":
        pytest.skip("would copy 32 GiB to the GPU: the emulated run covers the addressing")
    problem = make_problem(1, 16, 1, [40], page_size=16)
    pages, step = 2**31 - 1, 8
    elements = pages * step + 16 * 576
    path = tmp_path / "cache"
    with path.open("wb") as file:
        file.truncate(2 * elements)
    pool = torch.from_file(str(path), shared=True, size=elements, dtype=torch.bfloat16)
    cache = pool.as_strided((pages, 16, 576), (step, 576, 1))
    ids = [pages - 1, 3, pages - 1 - 2000]
    table = problem.block_tables.clone()
    for place, page in enumerate(ids):
        cache[page] = problem.kv_cache[table[0, place]]
        table[0, place] = page
    far = MlaProblem(problem.query, cache, table, problem.seq_lens)
    assert_matches(far, *run(far, backend))


def test_a_table_of_width_zero(backend):
    problem = make_problem(2, 16, 1, [0, 0], page_size=16)
    narrow = MlaProblem(problem.query, problem.kv_cache, problem.block_tables[:, :0], problem.seq_lens)
    assert_matches(narrow, *run(narrow, backend))


@pytest.fixture(scope="module", params=[(torch.bfloat16, 40, 2), (FP8, 16, 5)], ids=str)
def split(request):
    """A problem whose row tiles are split among the CTAs, and its result."""
    dtype, *shape = request.param
    problem = make_problem(4, *shape, [1300, 0, 700, 3], page_size=32, dtype=dtype)
    return problem, *launch(problem)


@pytest.mark.parametrize("content", [math.nan, math.inf, -3e38, 0.0])
def test_the_workspace_may_hold_anything_and_be_too_large(content, split):
    problem, *expected = split
    needed, spare = workspace_bytes(), 4096
    memory = torch.full(((needed + spare) // 4,), content)
    before = memory.clone()
    assert same(launch(problem, workspace=memory.view(torch.uint8)), expected)
    assert torch.equal(memory[needed // 4 :].view(torch.int32), before[needed // 4 :].view(torch.int32))


def test_mla_decode_takes_a_workspace(backend, split):
    problem, *expected = split
    device = "cuda" if backend == "cute" else "cpu"
    workspace = torch.full((workspace_bytes(device),), -1, dtype=torch.int8, device=device)
    result = run(problem, backend, workspace=workspace)
    assert_matches(problem, *result)
    assert (workspace != -1).any(), "no partial result went through the workspace"
    assert backend == "cute" or same(result, expected)


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda needed: torch.zeros(needed + 64, dtype=torch.uint8)[: needed - 1],
            "workspace has {under} bytes: must have at least {needed}",
        ),
        (
            lambda needed: torch.zeros(needed + 64, dtype=torch.uint8)[8:],
            "workspace starts at address 0x[0-9a-f]+: must be a multiple of 16 bytes",
        ),
    ],
    ids=["too small", "misaligned"],
)
def test_a_workspace_the_kernel_cannot_use(make, message, split):
    problem, needed = split[0], workspace_bytes()
    out = torch.full(problem.out_shape, 7.0, dtype=problem.out_dtype)
    with pytest.raises(ValueError, match=message.format(under=needed - 1, needed=needed)):
        mla_decode(*problem.tensors, **problem.options, out=out, workspace=make(needed), backend="emulator")
    assert (out == 7).all()
    unused = make(needed)
    assert_matches(problem, mla_decode(*problem.tensors, **problem.options, workspace=unused, backend="torch"))
    assert not unused.any()


def test_workspace_bytes_depend_on_the_number_of_ctas_alone():
    """Two partial row tiles per CTA, 64 rows of 512 latent dimensions and one log-sum-exp, fp32; 8 integers of its cut."""
    assert workspace_bytes() == workspace_bytes("cpu") == 148 * (2 * 64 * 513 + 8) * 4
    assert kernel.workspace_bytes(1) == (2 * 64 * 513 + 8) * 4


def test_a_launch_checks_the_workspace_for_its_own_number_of_ctas(split):
    for_two = torch.empty(kernel.workspace_bytes(2), dtype=torch.uint8)
    assert_matches(split[0], *launch(split[0], workspace=for_two, num_ctas=2))
    with pytest.raises(ValueError, match=f"must have at least {kernel.workspace_bytes(4)}"):
        launch(split[0], workspace=for_two, num_ctas=4)


# Requests of several tiles, one, part of one, and none, on two CTAs: split, and several work items for each.
CHECKED_LENGTHS = (330, 65, 0, 200)
CHECKED_SCHEDULES = (("in_order", 0), ("late", 0), ("random", 1), ("adversarial", 2), ("adversarial", 3))


@pytest.mark.parametrize(
    "dtype, num_heads, seq_len_q, options",
    [
        (torch.bfloat16, 16, 4, {}),
        (FP8, 16, 8, {"path": "narrow"}),
        (torch.float16, 40, 4, {}),
        (FP8, 16, 8, {"path": "wide"}),
    ],
)
def test_no_hazards(dtype, num_heads, seq_len_q, options):
    """Every order gives the same bits, and the happens-before checker, which reads all of them alike, finds nothing."""
    problem = make_problem(len(CHECKED_LENGTHS), num_heads, seq_len_q, CHECKED_LENGTHS, dtype=dtype)
    assert_clean(problem, CHECKED_SCHEDULES, num_ctas=2, **options)


def test_no_hazards_of_isolated_drafts():
    problem = make_problem(len(CHECKED_LENGTHS), 32, 4, CHECKED_LENGTHS, page_size=16, dtype=FP8)
    assert_clean(replace(problem, isolate_drafts=True), CHECKED_SCHEDULES, num_ctas=2)


def test_rows_of_the_block_tables_are_not_overrun():
    """With their rows apart in memory; a kernel that reads more entries than a request has pages is found."""
    problem = make_problem(3, 16, 4, (330, 65, 200), page_size=16)
    call = problem.decode_call()
    config = kernel.decode_config(call, "sm_100a")

    def overruns(compiled, spread):
        try:
            reports = emulated.launch(compiled, call, num_ctas=2, checks=True, spread=spread)
            hazards = reports.merge.hazards
        except OutOfBounds as error:  # of the last row
            hazards = error.hazards
        return [hazard.place for hazard in hazards if hazard.kind == "row-overrun"]

    assert overruns(compile_decode(config), ["block_tables"]) == []
    assert_matches(problem, call.out, call.lse)

    def every_entry(ctx, batch, phases, entry):
        return ctx.args.block_tables[batch, entry]

    with mock.patch.object(scheduler, "table_entry", every_entry):
        wrong = compile_kernel(MlaDecode(config))
    assert overruns(wrong, []) == []
    assert all(place.startswith("block_tables, byte ") for place in overruns(wrong, ["block_tables"]))
    assert overruns(wrong, ["block_tables"])


@pytest.mark.parametrize("removed, kind", [("griddepcontrol.wait;", "grid-dependency"), ("bar.warp.sync", None)])
def test_removed_synchronisation_is_a_hazard(removed, kind):
    """The checker can fail on our own kernels: a dependency wait, a warp's synchronisation before one lane arrives."""
    problem = make_problem(2, 16, 4, (330, 65))
    call = problem.decode_call()
    compiled = compile_decode(kernel.decode_config(call, "sm_100a"))
    lines = [line for line in compiled.ptx.splitlines() if removed not in line]
    assert len(lines) < len(compiled.ptx.splitlines())
    reports = emulated.launch(replace(compiled, ptx="\n".join(lines)), call, num_ctas=2, checks=True)
    assert (kind or "elected-arrive") in {hazard.kind for hazard in reports.merge.hazards}


def test_limits_names_and_the_order_of_ctas():
    """What a launch is told beside its schedule: the same bits in any order of CTAs and with waits that time out."""
    problem = make_problem(2, 16, 4, (330, 65))
    call = problem.decode_call()
    compiled = compile_decode(kernel.decode_config(call, "sm_100a"))

    def launched(ptx: str = compiled.ptx, **options):
        reports = emulated.launch(replace(compiled, ptx=ptx), call, num_ctas=3, **options)
        return reports, (call.out.view(torch.uint8).numpy().tobytes(), call.lse.numpy().tobytes())

    _, expected = launched(step_limit=10**9, time_limit=600)
    for options in ({"cluster_order": "descending"}, {"spurious_timeouts": True, "order": "late"}):
        assert launched(**options)[1] == expected
    with pytest.raises(LimitExceeded, match=r"PTX line \d+"):
        launched(step_limit=1000)
    reports, _ = launched(compiled.ptx.replace("griddepcontrol.wait;", ""), checks=True)
    assert any(hazard.place.startswith("workspace[") for hazard in reports.merge.hazards), reports.merge.hazards


def test_schedules_of_the_command_line(monkeypatch):
    """pytest --order --seeds: a kernel whose result depends on the order (its merge may run early) does not pass."""
    schedules = [("adversarial", seed) for seed in range(4)]
    monkeypatch.setattr(emulation, "SCHEDULES", schedules)
    problem = make_problem(2, 16, 4, (330, 65))
    assert_matches(problem, *emulation.launch(problem, num_ctas=4))

    def without_wait(config):
        compiled = compile_decode(config)
        return replace(compiled, ptx=compiled.ptx.replace("griddepcontrol.wait;", ""))

    monkeypatch.setattr(emulation, "compile_decode", without_wait)
    # Another result, or, as it has read where to write from a workspace of NaN, none.
    with pytest.raises((AssertionError, EmulationError), match="depends on the schedule|outside every buffer"):
        emulation.launch(problem, num_ctas=4)


@pytest.mark.parametrize("any_backend", ["torch", "emulator", pytest.param("cute", marks=pytest.mark.device)])
def test_e4m3_output(any_backend):
    """A caller's e4m3 `out`: one more rounding of the same numbers, which saturates instead of giving NaN."""
    problem = make_problem(3, 16, 8, (300, 65, 0), dtype=FP8, output_scale=16.0)
    device = "cuda" if any_backend == "cute" else "cpu"
    out = torch.zeros(problem.out_shape, dtype=FP8, device=device)
    returned, lse = mla_decode(
        *problem.to(device).tensors, **problem.options, out=out, return_lse=True, backend=any_backend
    )
    assert returned is out
    assert_matches(problem, out, lse)
    assert 25 < compare(problem, out, lse).snr_db < 33
    large = {**problem.options, "output_scale": 1e6}
    mla_decode(*problem.to(device).tensors, **large, out=out, return_lse=True, backend=any_backend)
    values = out.cpu().float()[problem.active_rows()]
    assert torch.isfinite(values).all() and values.abs().max() == 448 and (values.abs() == 448).float().mean() > 0.9
