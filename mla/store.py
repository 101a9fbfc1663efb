"""Compiled kernels as files: what the compile cache keeps between processes and what an ahead-of-time export ships.

One folder per configuration, written through the DSL's public export interface (the compiled function's
`export_to_c`, read back by `cute.runtime.load_module`; CUTLASS documentation, "TVM FFI Compilation", exporting a
compiled module): `kernel.o` is the host function with the cubin inside, `kernel.ptx`, `kernel.mlir` and `kernel.cubin`
are what `CompiledDecode` holds beside it, `kernel.json` says what they were made from.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import shutil
import tempfile
import warnings
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import cutlass.cute as cute

from mla.config import MlaDecodeConfig

# Folder of the compile cache; "off" turns it off.
CACHE_VARIABLE = "MLA_COMPILE_CACHE"
# Fingerprints (versions of source and compiler) that the cache keeps; the ones longest unused go first.
KEPT_FINGERPRINTS = 8
FUNCTION_NAME = "mla_decode"
DESCRIPTION = "kernel.json"
FILES = ("kernel.o", "kernel.ptx", "kernel.mlir", "kernel.cubin")


@dataclass(frozen=True)
class CompiledDecode:
    """What the DSL emitted for one config.

    host:  the DSL's own host function. On a machine with the target GPU, call it with
           (query, kv_cache, block_tables, seq_lens, out, lse or None, workspace, num_ctas, softmax_scale,
           output_scale, cu_seqlens_q or None, tree_mask or None, dcp_rank or None); tensors may be
           torch CUDA tensors (tvm-ffi), the launch goes to the caller's current stream.
    ptx, ir: text. cubin: bytes.
    """

    config: MlaDecodeConfig
    host: Any = field(repr=False)
    ptx: str = field(repr=False)
    ir: str = field(repr=False)
    cubin: bytes = field(repr=False)


@functools.cache
def fingerprint() -> str:
    """Hex digest of all that decides what a configuration compiles to: the source of `mla`, the versions of the
    compiler and of tvm-ffi, the host's instruction set, and the DSL's environment variables."""
    digest = hashlib.sha256()
    root = Path(__file__).parent
    for file in sorted(root.rglob("*.py")):
        digest.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes() + b"\0")
    for package in ("nvidia-cutlass-dsl", "apache-tvm-ffi"):
        digest.update(f"{package}={metadata.version(package)}\0".encode())
    digest.update(platform.machine().encode())
    for name in sorted(os.environ):
        if name.startswith("CUTE_DSL_"):
            digest.update(f"\0{name}={os.environ[name]}".encode())
    return digest.hexdigest()[:16]


def folder_name(config: MlaDecodeConfig) -> str:
    """Readable beginning, then a digest of every field."""
    digest = hashlib.sha256(json.dumps(asdict(config), sort_keys=True).encode()).hexdigest()[:12]
    return f"{config.arch}-{config.dtype}-h{config.num_heads}-q{config.seq_len_q}-p{config.page_size}-{digest}"


def save(compiled: CompiledDecode, folder: Path) -> Path:
    """Writes the files of one kernel to a new folder under `folder`, all of them or none; returns that folder.

    `compiled` must come from the compiler in this process: what was loaded cannot be exported again.
    """
    if not hasattr(compiled.host, "export_to_c"):
        raise ValueError(f"compiled={compiled}: was loaded, not compiled; copy the folder it came from instead")
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / folder_name(compiled.config)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder))
    try:
        compiled.host.export_to_c(str(partial / "kernel.o"), function_name=FUNCTION_NAME)
        for name, content in zip(FILES[1:], (compiled.ptx.encode(), compiled.ir.encode(), compiled.cubin), strict=True):
            (partial / name).write_bytes(content)
        description = {
            "config": asdict(compiled.config),
            "fingerprint": fingerprint(),
            "sha256": {name: hashlib.sha256((partial / name).read_bytes()).hexdigest() for name in FILES},
        }
        (partial / DESCRIPTION).write_text(json.dumps(description, indent=1))
        if target.exists():
            shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    except OSError:
        # Another process that wrote the same kernel first has left the same files.
        if not (target / DESCRIPTION).exists():
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def load(folder: Path) -> CompiledDecode:
    """The kernel that `save` wrote to `folder`, without compiling anything.

    Raises ValueError where the folder is not whole or was made by other sources or another compiler than are
    installed: the arguments of the host function go with the sources.
    """
    try:
        description = json.loads((folder / DESCRIPTION).read_text())
        contents = {name: (folder / name).read_bytes() for name in FILES}
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder}: holds no exported kernel ({error})") from error
    if description["fingerprint"] != fingerprint():
        raise ValueError(
            f"{folder}: exported from other sources or by another compiler (fingerprint {description['fingerprint']}, "
            f"installed {fingerprint()}): export it again"
        )
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != description["sha256"][name]:
            raise ValueError(f"{folder / name}: damaged (its SHA-256 is not the one in {DESCRIPTION})")
    host = cute.runtime.load_module(str(folder / "kernel.o"), enable_tvm_ffi=True)[FUNCTION_NAME]
    return CompiledDecode(
        MlaDecodeConfig(**description["config"]), host, contents["kernel.ptx"].decode(),
        contents["kernel.mlir"].decode(), contents["kernel.cubin"],
    )  # fmt: skip


def cache_folder() -> Path | None:
    """Where the compile cache keeps the kernels of this fingerprint: under `MLA_COMPILE_CACHE`, by default
    `~/.cache/blackwell-mla`; None where the variable is "off"."""
    root = os.environ.get(CACHE_VARIABLE, "")
    if root == "off":
        return None
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "blackwell-mla"
    return (Path(root) if root else base) / fingerprint()


def load_cached(config: MlaDecodeConfig) -> CompiledDecode | None:
    """The kernel from the compile cache; None where the cache is off or does not have it, whole."""
    folder = cache_folder()
    if folder is None or not (folder / folder_name(config)).exists():
        return None
    try:
        compiled = load(folder / folder_name(config))
        os.utime(folder)
    except (OSError, ValueError):
        return None
    return compiled if compiled.config == config else None


def save_cached(compiled: CompiledDecode) -> None:
    """Puts a fresh kernel into the compile cache. A cache that cannot be written costs a warning, not the kernel."""
    folder = cache_folder()
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        save(compiled, folder)
        os.utime(folder)
        by_age = sorted((entry for entry in folder.parent.iterdir() if entry.is_dir()), key=lambda e: e.stat().st_mtime)
        for stale in by_age[:-KEPT_FINGERPRINTS]:
            shutil.rmtree(stale, ignore_errors=True)
    except OSError as error:
        warnings.warn(f"compile cache {folder}: not written ({error}); {CACHE_VARIABLE} names another folder")
