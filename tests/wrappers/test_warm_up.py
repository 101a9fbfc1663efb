"""Warm-up and kernels as files, as a server uses them: nothing is compiled once it serves."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mla import compile as mla_compile
from mla import store
from wrappers.decode import mla_decode
from wrappers.testing import assert_matches, make_problem
from wrappers.warm_up import ServerShapes, export_kernels, load_kernels, warm_up

SHAPES = ServerShapes(torch.bfloat16, 2, 16, seq_lens_q=(1, 2), lse_bases=("e",))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The exported kernels of `SHAPES`."""
    folder = tmp_path_factory.mktemp("kernels")
    assert export_kernels(SHAPES, folder) == 2
    return folder


@pytest.fixture
def no_compiler(monkeypatch, tmp_path):
    """A new process, as far as kernels go, that must not compile; its compile cache is empty."""

    def refuse(kernel):
        raise AssertionError(f"compiled {kernel.config}")

    monkeypatch.setattr(mla_compile, "_compiled", {})
    monkeypatch.setenv(store.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(mla_compile, "compile_kernel", refuse)


def run(problem):
    return mla_decode(*problem.tensors, **problem.options, return_lse=True, backend="emulator")


def test_exported_kernels_run_without_the_compiler(folder, no_compiler):
    """Their PTX and IR, executed: what a GPU would launch is in the same files."""
    assert load_kernels(folder) == 2
    for tokens in (1, 2):
        problem = make_problem(2, 2, tokens, [37, 0], page_size=16)
        assert_matches(problem, *run(problem))
    with pytest.raises(AssertionError, match="compiled .*seq_len_q=3"):
        run(make_problem(1, 2, 3, 5, page_size=16))


def test_each_shape_has_a_kernel_of_its_own(folder):
    found = {(c.seq_len_q, c.lse_base, c.num_heads, c.dtype) for c in mla_compile.load_exported(folder)}
    assert found == {(1, "e", 2, "bf16"), (2, "e", 2, "bf16")}


def test_warm_up_makes_calls_that_need_no_compiler(folder, no_compiler, monkeypatch):
    kernels = {config: mla_compile.compile_decode(config) for config in mla_compile.load_exported(folder)}
    monkeypatch.setattr(mla_compile, "_compiled", {})
    made = []

    def compile_kernel(kernel):
        made.append(kernel.config)
        return kernels[kernel.config]

    monkeypatch.setattr(mla_compile, "compile_kernel", compile_kernel)
    monkeypatch.setattr(store, "save_cached", lambda kernel: None)
    reports = []
    assert warm_up(SHAPES, report=lambda *report: reports.append(report)) == 2
    assert reports == [(0, 2, "1 tokens, causal, lse base e"), (1, 2, "2 tokens, causal, lse base e"), (2, 2, "")]
    assert [config.seq_len_q for config in made] == [1, 2]
    problem = make_problem(1, 2, 2, 20, page_size=16)
    assert_matches(problem, *run(problem))
    assert len(made) == 2


def test_every_combination_is_a_kernel(monkeypatch):
    configs = []
    monkeypatch.setattr(mla_compile, "compile_decode", configs.append)
    shapes = ServerShapes(
        torch.float8_e4m3fn, 3, 64, seq_lens_q=(2, 5), is_causal=(True, False), lse_bases=(None, "2"),
        packed=(True, False),
    )  # fmt: skip
    assert warm_up(shapes) == 16 == len(set(configs))
    assert {config.query_packed for config in configs} == {True, False}


def test_features_are_kernels_of_their_own(monkeypatch):
    configs = []
    monkeypatch.setattr(mla_compile, "compile_decode", configs.append)
    plain = ServerShapes(torch.bfloat16, 3, 64, seq_lens_q=(4,))
    features = {
        "ragged": {"ragged": (True,)}, "tree": {"has_tree_mask": True}, "dcp": {"dcp_world": 2, "dcp_interleave": 4},
        "scales": {"scales_on_device": True}, "window": {"has_window": True}, "lens": {"has_visible_lens": True},
        "ragged window": {"ragged": (True,), "has_window": True},
        "ragged lens": {"ragged": (True,), "has_visible_lens": True}, "all": {"ragged": (True,), "has_tree_mask": True},
        "drafts": {"isolate_drafts": True},
    }  # fmt: skip
    for changes in ({}, *features.values()):
        warm_up(replace(plain, **changes))
    assert len(set(configs)) == len(features) + 1
    assert (configs[3].dcp_world, configs[3].dcp_interleave) == (2, 4)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"query.shape\[2\]=129: num_heads must be 1..128"):
        warm_up(ServerShapes(torch.bfloat16, 129, 16))
    with pytest.raises(ValueError, match="page_size=48"):
        warm_up(ServerShapes(torch.bfloat16, 4, 48))
    with pytest.raises(TypeError, match="query has dtype torch.float32"):
        warm_up(ServerShapes(torch.float32, 4, 16))
