"""What a call does on the host around the launch, which decides whether a CUDA graph can capture it.

The tensors are on torch's `meta` device, which has shapes and no values: reading one there, as a synchronisation would,
is an error. Every torch operator that runs is recorded: one that allocates shows.
"""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mla import compile as mla_compile
from mla.store import CompiledDecode
from wrappers import backends, kernel
from wrappers.compat import flashinfer, flashmla, tokenspeed, use_backend
from wrappers.decode import mla_decode
from wrappers.testing import make_problem

VIEWS = {"as_strided", "slice", "view", "squeeze", "unsqueeze", "detach", "alias"}
CTAS = 4


class Recorder(TorchDispatchMode):
    """Names of the operators that run inside."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that captures, as far as `mla_decode` can tell, with every kernel compiled; the launches' arguments."""
    launches = []

    class Compiled(dict):
        def __contains__(self, config):
            return True

        def __getitem__(self, config):
            return CompiledDecode(config, lambda *arguments: launches.append(arguments), "", "", b"")

    monkeypatch.setattr(mla_compile, "_compiled", Compiled())
    monkeypatch.setattr(backends, "device_arch", lambda device: "sm_100a")
    monkeypatch.setattr(kernel, "num_ctas", lambda device: CTAS)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    return launches


def arguments(**options):
    """A call whose memory is all the caller's."""
    problem = make_problem(2, 4, 3, [5, 40], **options).to("meta")
    return {
        **dict(zip(("query", "kv_cache", "block_tables", "seq_lens"), problem.tensors)),
        **problem.options,
        "out": torch.empty(problem.out_shape, dtype=problem.out_dtype, device="meta"),
        "return_lse": True,
        "lse": torch.empty(problem.out_shape[:-1], device="meta"),
        "workspace": torch.empty(kernel.workspace_bytes(CTAS), dtype=torch.uint8, device="meta"),
        "backend": "cute",
    }


def test_a_captured_call_launches_and_neither_allocates_nor_waits(gpu):
    call = arguments()
    with Recorder() as recorder:
        out, lse = mla_decode(**call)
    assert len(gpu) == 1 and out is call["out"] and lse is call["lse"]
    assert set(recorder.names) <= VIEWS


FEATURES = {
    "ragged": lambda: arguments(query_lens=[3, 1]),
    "tree": lambda: {**arguments(), "tree_mask": torch.zeros(2, 3, 1, dtype=torch.int32, device="meta")},
    "context parallel": lambda: {**arguments(), "dcp_world": 2, "dcp_rank": 1, "dcp_interleave": 4},
    "window": lambda: {**arguments(), "window_left": 9},
    "visible lengths": lambda: {
        **arguments(),
        "local_visible_lens": torch.zeros(2, 3, dtype=torch.int32, device="meta"),
    },
    "scales": lambda: {**arguments(), "softmax_scale": torch.ones(1, device="meta")},
}


@pytest.mark.parametrize("name", FEATURES)
def test_every_feature_can_be_captured(name, gpu):
    call = FEATURES[name]()
    with Recorder() as recorder:
        mla_decode(**call)
    assert len(gpu) == 1
    assert set(recorder.names) <= VIEWS


@pytest.mark.parametrize("name", ["out", "lse", "workspace"])
def test_what_the_caller_does_not_bring_is_allocated(name, gpu):
    call = arguments()
    call[name] = None
    with Recorder() as recorder:
        mla_decode(**call)
    assert set(recorder.names) - VIEWS == {"empty"}


def test_values_are_read_only_where_asked_for(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    with pytest.raises(ValueError, match="check_values=True: query is on meta"):
        mla_decode(**arguments(), check_values=True)
    mla_decode(**arguments(), check_values=False)
    assert len(gpu) == 1


def test_cpu_values_can_go_unchecked():
    problem = make_problem(1, 2, 1, [5], page_size=16)
    problem.seq_lens[0] = -1
    options = {**problem.options, "backend": "torch"}
    for checked in (None, True):
        with pytest.raises(ValueError, match=r"seq_lens\[0\]=-1"):
            mla_decode(*problem.tensors, **options, check_values=checked)
    assert not mla_decode(*problem.tensors, **options, check_values=False).any(), "a length below 0 is no keys"


def test_nothing_is_compiled_while_a_graph_is_captured(gpu, monkeypatch):
    monkeypatch.setattr(mla_compile, "_compiled", {})
    monkeypatch.setattr(mla_compile, "compile_kernel", lambda kernel: pytest.fail("compiled"))
    with pytest.raises(ValueError, match="during CUDA graph capture: MlaDecodeConfig.*is not compiled; call wrappers"):
        mla_decode(**arguments())
    assert not gpu


def peer_calls():
    """Each adapter's call with all the memory its signature has a place for, and the operators it may need beside."""
    call = arguments()
    tensors = [call[name] for name in ("query", "kv_cache", "workspace", "block_tables", "seq_lens")]
    query, cache, workspace, table, lengths = tensors
    dims, out, lse = (512, 64), call["out"], call["lse"]
    yield (
        set(),
        lambda: tokenspeed.tokenspeed_mla_decode(query, cache, workspace, *dims, table, lengths, 40, 0.1, out=out),
    )
    yield (
        set(),
        lambda: flashinfer.trtllm_batch_decode_with_kv_cache_mla(
            query, cache, workspace, 128, *dims, table, lengths, 40, out=out, lse=lse, return_lse=True
        ),
    )
    yield (
        {"empty", "transpose", "eq", "masked_fill_"},
        lambda: flashmla.flash_mla_with_kvcache(
            query, cache.unsqueeze(2), table, lengths, 512, flashmla.get_mla_metadata()[0]
        ),
    )


@pytest.mark.parametrize("index", range(3), ids=["tokenspeed", "flashinfer", "flashmla"])
def test_the_adapters_can_be_captured_too(index, gpu):
    allowed, call = list(peer_calls())[index]
    with Recorder() as recorder, use_backend("cute"):
        call()
    assert len(gpu) == 1
    assert set(recorder.names) <= VIEWS | allowed
