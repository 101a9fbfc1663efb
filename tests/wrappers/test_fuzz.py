"""Calls with anything in any argument: the result is right, or the error is a ValueError or TypeError and nothing was
written."""

from __future__ import annotations

import math

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wrappers.decode import mla_decode
from wrappers.testing import MlaProblem, compare, make_problem, shard

POISON = 12345.0
SETTINGS = settings(
    max_examples=50, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
DTYPES = (torch.bfloat16, torch.float16, torch.float8_e4m3fn)


@st.composite
def problems(draw, hostile: bool = True) -> MlaProblem:
    """A valid problem, by default with hostile memory around it."""
    lengths = draw(st.lists(st.integers(0, 70), min_size=1, max_size=3))
    feature = draw(st.sampled_from(("plain", "ragged", "tree", "context parallel", "window", "lengths")))
    tokens = draw(st.integers(1, 4))
    is_ragged = feature == "ragged" or (feature in ("window", "lengths") and draw(st.booleans()))
    has_window = feature == "window" or (feature in ("ragged", "context parallel") and draw(st.booleans()))
    problem = make_problem(
        len(lengths), draw(st.integers(1, 4)), tokens, lengths,
        page_size=draw(st.sampled_from((16, 32, 64, 128))), dtype=draw(st.sampled_from(DTYPES)),
        is_causal=feature == "tree" or draw(st.booleans()), cache_rank=draw(st.sampled_from((3, 4))),
        softmax_scale=draw(st.sampled_from((0.0, -0.05, 1e-30, 1 / 24, 3.0))),
        output_scale=draw(st.sampled_from((1.0, 0.0, -2.5))),
        seed=draw(st.integers(0, 99)), hostile=hostile, strided=draw(st.booleans()), tree=feature == "tree",
        query_lens=[draw(st.integers(0, tokens)) for _ in lengths] if is_ragged else None,
        window_left=draw(st.integers(tokens - 1, 80)) if has_window else None, visible_lens=feature == "lengths",
    )  # fmt: skip
    if feature == "context parallel":
        world = draw(st.integers(1, 4))
        problem = shard(problem, world, draw(st.integers(0, world - 1)), draw(st.integers(1, 5)))
        if not hostile:  # which a rank's cache always is
            problem.kv_cache.copy_(problem.kv_cache.float().nan_to_num(0.5, 0.5, 0.5))
    return problem


KINDS = ("dtype", "cut", "row", "axis", "transpose", "device", "list", "none", "number", "empty")


def any_tensor(draw, tensor: torch.Tensor) -> object:
    """The tensor with one thing about it changed."""
    kind = draw(st.sampled_from(KINDS))
    if kind == "dtype":
        return tensor.to(draw(st.sampled_from((torch.float32, torch.int32, torch.int64, torch.bool, torch.bfloat16))))
    if kind == "cut":
        dim = draw(st.integers(0, tensor.dim() - 1))
        return tensor.narrow(dim, 0, draw(st.integers(0, tensor.shape[dim])))
    if kind == "row":
        return tensor[0]
    if kind == "axis":
        return tensor.unsqueeze(draw(st.integers(0, tensor.dim())))
    if kind == "transpose":
        return tensor.transpose(0, -1)
    if kind == "device":
        return tensor.to("meta")
    return {"list": tensor.tolist(), "none": None, "number": 3, "empty": tensor[:0]}[kind]


ANY_SCALAR = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.floats(-1e4, 1e4), st.text(max_size=3),
    st.sampled_from((math.nan, math.inf, -math.inf, 1e300)), st.just(torch.tensor([1.0, 2.0])),
)  # fmt: skip
INPUTS = ("query", "kv_cache", "block_tables", "seq_lens")
FEATURES = (
    "cu_seqlens_q", "max_seq_len_q", "tree_mask", "dcp_world", "dcp_rank", "dcp_interleave", "window_left",
    "local_visible_lens", "isolate_drafts",
)  # fmt: skip
TENSORS = (*INPUTS, "out", "lse", "workspace", "cu_seqlens_q", "tree_mask", "local_visible_lens")
SCALARS = (
    "softmax_scale", "output_scale", "is_causal", "return_lse", "lse_base", "check_values", "max_seq_len_q",
    "dcp_world", "dcp_rank", "dcp_interleave", "window_left", "isolate_drafts",
)  # fmt: skip


def call_of(problem: MlaProblem) -> dict[str, object]:
    return {
        **dict(zip(INPUTS, problem.tensors)), **{name: getattr(problem, name) for name in FEATURES},
        **problem.options,
        "out": torch.full(problem.out_shape, POISON, dtype=problem.out_dtype), "return_lse": True,
        "lse": torch.full(problem.out_shape[:-1], POISON), "workspace": torch.full((32,), 7, dtype=torch.uint8),
        "lse_base": "e", "check_values": None, "backend": "torch",
    }  # fmt: skip


def check(call: dict[str, object]) -> None:
    """Runs the call: a result that is right for the arguments as they are, or an error and nothing written."""
    outputs = {name: call[name] for name in ("out", "lse") if isinstance(call[name], torch.Tensor)}
    before = {name: tensor.clone() for name, tensor in outputs.items()}
    try:
        result = mla_decode(**call)
    except (ValueError, TypeError) as error:
        assert str(error), "an error says what is wrong"
        for name, tensor in outputs.items():
            assert tensor.device.type == "meta" or torch.equal(tensor, before[name]), f"{name} was written"
        return
    out, lse = result if call["return_lse"] else (result, None)
    if out.device.type == "meta":
        return
    names = ("softmax_scale", "output_scale", "is_causal", *FEATURES)
    problem = MlaProblem(*(call[name] for name in INPUTS), **{name: call[name] for name in names})
    if lse is not None and call["lse_base"] == "2":
        lse = lse * math.log(2.0)
    faults = compare(problem, out, lse).faults
    assert not faults, faults


def test_the_check_sees_a_wrong_result():
    """What the properties rest on: a result for other lengths than the call's is found."""
    problem = make_problem(1, 2, 2, [40], page_size=16)
    call = call_of(problem)
    check(call)
    shorter = MlaProblem(*problem.tensors[:3], torch.tensor([39], dtype=torch.int32), is_causal=problem.is_causal)
    out, lse = mla_decode(*shorter.tensors, **shorter.options, return_lse=True)
    assert compare(problem, out, lse).faults


@SETTINGS
@given(problems())
def test_valid_calls_are_right(problem):
    check(call_of(problem))


@SETTINGS
@given(problems(), st.data())
def test_any_change_of_a_tensor_is_right_or_refused(problem, data):
    call = call_of(problem)
    name = data.draw(st.sampled_from([name for name in TENSORS if call[name] is not None]))
    if name == "local_visible_lens":
        call["kv_cache"] = torch.zeros_like(call["kv_cache"])  # without them, NaN is visible
    call[name] = any_tensor(data.draw, call[name])
    check(call)


@SETTINGS
@given(problems(), st.data())
def test_any_scalar_is_right_or_refused(problem, data):
    call = call_of(problem)
    name = data.draw(st.sampled_from(SCALARS))
    if name.startswith("dcp_") or name == "window_left":
        # Another rank's share may be more keys than the pages hold; what lies behind them, and before a window, is NaN.
        call["kv_cache"] = torch.zeros_like(call["kv_cache"])
    call[name] = data.draw(ANY_SCALAR)
    check(call)


@settings(SETTINGS, max_examples=12)
@given(st.lists(st.integers(0, 70), min_size=1, max_size=3), st.integers(0, 99), st.data())
def test_the_kernel_is_right_or_refused(lengths, seed, data):
    """One configuration, since each is a compilation; any lengths, and one tensor or value that may be changed."""
    call = call_of(make_problem(len(lengths), 2, 2, lengths, page_size=16, seed=seed))
    call |= {"backend": "emulator", "workspace": None}
    name = data.draw(st.sampled_from(("nothing", "block_tables", "seq_lens", "out", "lse")))
    if name != "nothing":
        call[name] = any_tensor(data.draw, call[name])
    check(call)


@SETTINGS
@given(problems(hostile=False), st.data())
def test_any_length_and_page_id_is_right_or_refused(problem, data):
    call = call_of(problem)
    values = st.one_of(st.integers(-(2**31), 2**31 - 1), st.integers(-2, 12))
    target = data.draw(st.sampled_from(("seq_lens", "block_tables")))
    flat = call[target].view(-1)
    flat[data.draw(st.integers(0, len(flat) - 1))] = data.draw(values)
    check(call)
