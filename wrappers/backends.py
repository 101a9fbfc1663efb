"""Runs a `DecodeCall`: checks it, chooses a backend for it, allocates what the caller has not, and launches."""

from __future__ import annotations

import torch

from mla.config import LATENT_DIM
from wrappers import validate
from wrappers.call import DecodeCall
from wrappers.fallback import decode_torch

# Compute capability -> the architecture the kernel is compiled for.
KERNEL_ARCHS = {(10, 0): "sm_100a", (10, 3): "sm_103a", (10, 7): "sm_107a"}
EMULATED_ARCH = "sm_100a"


def run(call: DecodeCall) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """What `mla_decode` returns for `call`, its tensors in memory."""
    validate.check_backend(call.backend)
    checked = validate.checked(call)
    chosen = choose_backend(checked.backend, checked)
    if chosen != "cute":
        validate.check_writable("out", checked.out)
        validate.check_writable("lse", checked.lse)
    query, new = checked.query, {}
    if chosen != "torch" and checked.workspace is not None:
        validate.check_kernel_workspace(checked.workspace, workspace_bytes(query.device))
    if call.out is None:
        new["out"] = torch.empty(*query.shape[:-1], LATENT_DIM, dtype=checked.output_dtype, device=query.device)
    if call.return_lse and call.lse is None:
        new["lse"] = torch.empty(query.shape[:-1], dtype=torch.float32, device=query.device)
    if checked.batch and query.numel():
        launch(chosen, checked.changed(**new) if new else checked)
    out, lse = new.get("out", call.out), new.get("lse", call.lse)
    return (out, lse) if call.return_lse else out


def choose_backend(backend: str, call: DecodeCall) -> str:
    """ "cute", "emulator" or "torch" for this call; ValueError where the backend asked for cannot run it."""
    if backend == "torch":
        if call.query.device.type == "meta":
            raise ValueError("query is on meta: there are no values to compute with (FakeTensor takes shapes alone)")
        return backend
    if backend == "auto":
        try:
            return choose_backend("cute", call)
        except ValueError:
            return choose_backend("torch", call)
    device = call.query.device
    if backend == "emulator" and device.type != "cpu":
        raise ValueError(f"query is on {device}: backend='emulator' takes CPU tensors")
    if backend == "cute":
        device_arch(device)
    validate.check_kernel_operands(call)
    return backend


def device_arch(device: torch.device) -> str:
    """Architecture to compile for on this device; ValueError where the kernel does not run on it."""
    if device.type != "cuda":
        raise ValueError(f"query is on {device}: backend='cute' needs an SM100, SM103 or SM107 GPU")
    capability = torch.cuda.get_device_capability(device)
    if capability not in KERNEL_ARCHS:
        raise ValueError(
            f"query is on {device} of compute capability {capability[0]}.{capability[1]}: backend='cute' needs 10.0, "
            "10.3 or 10.7"
        )
    return KERNEL_ARCHS[capability]


def launch(backend: str, call: DecodeCall) -> None:
    """Writes `call.out` and, where there is one, `call.lse`."""
    if backend == "torch":
        decode_torch(call)
        return
    # Imported on use, here and below: the torch backend must not need the compiler or the emulator.
    from wrappers import kernel

    if backend == "emulator":
        from wrappers import emulated

        emulated.launch(kernel.compiled(call, EMULATED_ARCH), call)
    else:
        arch = device_arch(call.query.device)
        if torch.cuda.is_current_stream_capturing() and not kernel.is_compiled(call, arch):
            raise ValueError(
                f"backend='cute' during CUDA graph capture: {kernel.decode_config(call, arch)} is not compiled; call "
                "wrappers.warm_up.warm_up with this shape first"
            )
        kernel.launch(kernel.compiled(call, arch), call)


def workspace_bytes(device: torch.device | str | int | None = None) -> int:
    """Bytes of `mla_decode`'s workspace for kernels on `device`, a CUDA device; None or "cpu" is the emulator.

    One size serves every shape, length and dtype: it depends only on the number of SMs.
    """
    from wrappers import kernel

    return kernel.workspace_bytes(kernel.num_ctas(device))


def num_ctas(device: torch.device | str | int | None = None) -> int:
    """SMs of `device`, a CUDA device; for None or "cpu" the CTAs of an emulated launch."""
    from wrappers import kernel

    return kernel.num_ctas(device)
