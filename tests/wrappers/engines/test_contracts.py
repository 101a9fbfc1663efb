"""What `wrappers.engines` overrides has the parameters that the engines' own had when they were recorded."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from wrappers.compat.changes import parameters, parameters_of
from wrappers.compat.recorded import CONTRACTS

ENGINES = Path(__file__).resolve().parents[3] / "wrappers" / "engines"
# Our method, by its class, and the recorded one.
OVERRIDES = [
    ("vllm.py", "BlackwellMLAImpl.forward_mqa", "MLACommonImpl.forward_mqa"),
    ("vllm.py", "BlackwellMLAImpl.reserve_workspace", "MLAAttentionImpl.reserve_workspace"),
    ("vllm.py", "MetadataBuilder._build_decode", "MLACommonMetadataBuilder._build_decode"),
    ("vllm.py", "BlackwellMLABackend.supports_combination", "AttentionBackend.supports_combination"),
    ("sglang.py", "BlackwellMLABackend._run_decode_kernel", "CuteDslMLABackend._run_decode_kernel"),
    ("sglang.py", "BlackwellMLACpuBackend.forward_decode", "TorchNativeAttnBackend.forward_decode"),
]


def parameters_in(file: str, name: str) -> dict[str, str]:
    """Classes may be made in functions: their parents are imported on use."""
    owner, method = name.split(".")
    nodes = ast.walk(ast.parse((ENGINES / file).read_text()))
    bodies = [node.body for node in nodes if isinstance(node, ast.ClassDef) and node.name == owner]
    (found,) = [node for body in bodies for node in body if getattr(node, "name", None) == method]
    return parameters_of(found.args, is_method=True)


@pytest.mark.parametrize(("file", "ours", "theirs"), OVERRIDES)
def test_overrides(file, ours, theirs):
    (recorded,) = [each for each in CONTRACTS if each.name == theirs]
    wanted = parameters(recorded.parameters)
    assert parameters_in(file, ours) == wanted and list(parameters_in(file, ours)) == list(wanted)


def test_the_arguments_that_the_impl_names_are_the_first_of_the_engines():
    (recorded,) = [each for each in CONTRACTS if each.name == "MLACommonImpl.__init__"]
    named = [name for name in parameters_in("vllm.py", "BlackwellMLAImpl.__init__") if not name.startswith("*")]
    assert named == list(parameters(recorded.parameters))[: len(named)] and len(named) == 10
