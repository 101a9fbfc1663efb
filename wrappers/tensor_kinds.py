"""Which tensors have memory of their own to work on, and which stand for others while something is traced."""

from __future__ import annotations

import sys
from typing import Any

import torch

from wrappers.call import TENSORS, DecodeCall

# Types of almost every argument, known without a look at their classes.
PLAIN_TYPES = frozenset((torch.Tensor, torch.nn.Parameter, type(None), float))
NO_DISPATCH = torch.Tensor.__torch_dispatch__
PROXY_MODULE = "torch.fx.experimental.proxy_tensor"


def is_traced(call: DecodeCall) -> bool:
    """Whether a call is recorded (torch.compile, make_fx), or one of its tensors has a class that brings its own meaning
    to operators (FakeTensor, ...): the operator must be seen, not its parts."""
    if torch.compiler.is_compiling() or any(map(dispatches, call.given(TENSORS).values())):
        return True
    proxies = sys.modules.get(PROXY_MODULE)  # not imported: nothing is being traced with it
    return proxies is not None and proxies.get_proxy_mode() is not None


def dispatches(value: Any) -> bool:
    if type(value) in PLAIN_TYPES:
        return False
    return isinstance(value, torch.Tensor) and type(value).__torch_dispatch__ is not NO_DISPATCH


def is_plain(value: Any) -> bool:
    """Whether it is no tensor of a subclass that is not traced."""
    return type(value) in PLAIN_TYPES or not isinstance(value, torch.Tensor) or dispatches(value)


def plain(value: Any) -> Any:
    """A tensor of a subclass that is not traced as `torch.Tensor`, the same memory; anything else as it is."""
    if is_plain(value):
        return value
    with torch._C.DisableTorchFunctionSubclass():
        return value.as_subclass(torch.Tensor)


def is_in_memory(tensor: torch.Tensor) -> bool:
    """Whether it has bytes that can be looked at: not where it is traced, nor on the meta device."""
    return not torch.compiler.is_compiling() and not dispatches(tensor) and tensor.device.type != "meta"
