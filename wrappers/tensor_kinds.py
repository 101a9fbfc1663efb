"""Which tensors have memory of their own to work on, and which stand for others while something is traced."""

from __future__ import annotations

import sys
from typing import Any

import torch

NO_DISPATCH = torch.Tensor.__torch_dispatch__
PROXY_MODULE = "torch.fx.experimental.proxy_tensor"


def is_traced(*values: Any) -> bool:
    """Whether a call with these arguments is recorded (torch.compile, make_fx), or one of them is a tensor whose class
    brings its own meaning to operators (FakeTensor, ...): the operator must be seen, not its parts."""
    if torch.compiler.is_compiling() or any(map(dispatches, values)):
        return True
    proxies = sys.modules.get(PROXY_MODULE)  # not imported: nothing is being traced with it
    return proxies is not None and proxies.get_proxy_mode() is not None


def dispatches(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and type(value).__torch_dispatch__ is not NO_DISPATCH


def plain(value: Any) -> Any:
    """A tensor of a subclass that is not traced as `torch.Tensor`, the same memory; anything else as it is."""
    if not isinstance(value, torch.Tensor) or type(value) in (torch.Tensor, torch.nn.Parameter):
        return value
    with torch._C.DisableTorchFunctionSubclass():
        return value.as_subclass(torch.Tensor)


def is_in_memory(tensor: torch.Tensor) -> bool:
    """Whether it has bytes that can be looked at: not where it is traced, nor on the meta device."""
    return not torch.compiler.is_compiling() and not dispatches(tensor) and tensor.device.type != "meta"
