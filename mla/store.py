"""Compiled kernels as files: what the compile cache keeps between processes and what an ahead-of-time export ships.

One folder per configuration, written through the DSL's public export interface (the compiled function's
`export_to_c`, read back by `cute.runtime.load_module`; CUTLASS documentation, "TVM FFI Compilation", exporting a
compiled module): `kernel.o` is the host function with the cubin inside, `kernel.ptx`, `kernel.mlir` and `kernel.cubin`
are what `CompiledDecode` holds beside it, `kernel.json` says what they were made from.

Nothing here deletes what it has not written: a folder is emptied of these files by name and removed if nothing else was
in it, and the compile cache looks only at folders that carry its marker.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import platform
import re
import struct
import tempfile
import warnings
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import cutlass.cute as cute
from cutlass import DSLRuntimeError

from mla.config import MlaDecodeConfig

# Where the compile cache has its folder; "off" turns it off.
CACHE_VARIABLE = "MLA_COMPILE_CACHE"
# The folder of the compile cache, whoever else uses the place that it is in.
CACHE_FOLDER = "blackwell-mla"
# In each fingerprint's folder: says that the compile cache made it and may remove it.
MARKER = ".blackwell-mla-compile-cache"
# Fingerprints (versions of source and compiler) that the cache keeps; the ones longest unused go first.
KEPT_FINGERPRINTS = 8
FUNCTION_NAME = "mla_decode"
DESCRIPTION = "kernel.json"
ELF_MAGIC = b"\x7fELF\x02\x01"  # 64-bit, little-endian
# Offsets of the tables of segments and sections, then size and count of the entries of each.
ELF_HEADER = struct.Struct("<32xQQ6xHHHH2x")
FILES = ("kernel.o", "kernel.ptx", "kernel.mlir", "kernel.cubin")


@dataclass(frozen=True)
class CompiledDecode:
    """What the DSL emitted for one config.

    host:  the DSL's own host function. On a machine with the target GPU, call it with
           (query, kv_cache, block_tables, seq_lens, out, lse or None, workspace, num_ctas, softmax_scale,
           output_scale, cu_seqlens_q or None, tree_mask or None, dcp_rank or None, window_left or None,
           visible_lens or None); tensors may be
           torch CUDA tensors (tvm-ffi), the launch goes to the caller's current stream.
    ptx, ir: text. cubin: bytes.
    """

    config: MlaDecodeConfig
    host: Any = field(repr=False)
    ptx: str = field(repr=False)
    ir: str = field(repr=False)
    cubin: bytes = field(repr=False)


def cuda13_build() -> str | None:
    """Version of the compiler's CUDA 13 build (extra `cu13`), which replaces the other one where it is installed."""
    try:
        return metadata.version("nvidia-cutlass-dsl-libs-cu13")
    except metadata.PackageNotFoundError:
        return None


@functools.cache
def fingerprint() -> str:
    """Hex digest of all that decides what a configuration compiles to: the source of `mla`, the versions of the
    compiler and of tvm-ffi, the compiler's build, the host's instruction set, and the DSL's environment variables."""
    digest = hashlib.sha256()
    root = Path(__file__).parent
    for file in sorted(root.rglob("*.py")):
        digest.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes() + b"\0")
    for package in ("nvidia-cutlass-dsl", "apache-tvm-ffi"):
        digest.update(f"{package}={metadata.version(package)}\0".encode())
    digest.update(f"cuda13={cuda13_build()}\0{platform.machine()}".encode())
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

    `compiled` must come from the compiler in this process: what was loaded cannot be exported again. Raises ValueError
    where it does not and where the files cannot be written.
    """
    if not hasattr(compiled.host, "export_to_c"):
        raise ValueError(f"compiled={compiled}: was loaded, not compiled; copy the folder it came from instead")
    target, partial = folder / folder_name(compiled.config), None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder))
        write_files(compiled, partial)
        remove_files(target)
        try:
            partial.rename(target)
        except OSError:
            # Another process may have written the same kernel in between.
            if not is_whole(target):
                raise
    except OSError as error:
        raise ValueError(f"{target}: cannot be written ({error})") from error
    finally:
        if partial is not None:
            remove_files(partial)
    return target


def write_files(compiled: CompiledDecode, folder: Path) -> None:
    """`FILES` and `DESCRIPTION` of one kernel; OSError where there is no room for them."""
    try:
        compiled.host.export_to_c(str(folder / "kernel.o"), function_name=FUNCTION_NAME)
    except DSLRuntimeError as error:  # its own temporary files
        raise OSError(error.message) from error
    check_elf("kernel.o", (folder / "kernel.o").read_bytes())
    for name, content in zip(FILES[1:], (compiled.ptx.encode(), compiled.ir.encode(), compiled.cubin), strict=True):
        (folder / name).write_bytes(content)
    description = {
        "config": asdict(compiled.config),
        "fingerprint": fingerprint(),
        "sha256": {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES},
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1))


def check_elf(name: str, content: bytes) -> None:
    """OSError where an ELF file ends before one of its header tables, which its writers put last."""
    needed = ELF_HEADER.size
    if len(content) >= needed and content.startswith(ELF_MAGIC):
        segments, sections, segment_bytes, num_segments, section_bytes, num_sections = ELF_HEADER.unpack_from(content)
        needed = max(segments + segment_bytes * num_segments, sections + section_bytes * num_sections)
    if len(content) < needed:
        raise OSError(f"{name} is cut short, after {len(content)} of at least {needed} bytes")


def remove_files(folder: Path) -> None:
    """Removes the files that `write_files` writes, and the folder if nothing else is in it."""
    with contextlib.suppress(OSError):
        for name in (*FILES, DESCRIPTION):
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()


def load(folder: Path) -> CompiledDecode:
    """The kernel that `save` wrote to `folder`, without compiling anything.

    Raises ValueError where the folder is not whole or was made by other sources or another compiler than are
    installed: the arguments of the host function go with the sources.
    """
    config, contents = read_files(folder)
    try:
        host = cute.runtime.load_module(str(folder / "kernel.o"), enable_tvm_ffi=True)[FUNCTION_NAME]
    except (OSError, RuntimeError, LookupError, AttributeError) as error:
        raise ValueError(f"{folder / 'kernel.o'}: cannot be loaded ({error})") from error
    return CompiledDecode(
        config, host, contents["kernel.ptx"].decode(), contents["kernel.mlir"].decode(), contents["kernel.cubin"]
    )


def read_files(folder: Path) -> tuple[MlaDecodeConfig, dict[str, bytes]]:
    """Configuration and `FILES` of an exported kernel, checked against its description; ValueError as in `load`."""
    try:
        description = json.loads((folder / DESCRIPTION).read_text())
        contents = {name: (folder / name).read_bytes() for name in FILES}
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder}: holds no exported kernel ({error})") from error
    match description:
        case {"fingerprint": str(made_by), "sha256": dict(digests), "config": dict(fields)}:
            pass
        case _:
            raise ValueError(f"{folder}: holds no exported kernel ({DESCRIPTION} is not what an export writes)")
    if made_by != fingerprint():
        raise ValueError(
            f"{folder}: exported from other sources or by another compiler (fingerprint {made_by}, installed "
            f"{fingerprint()}): export it again"
        )
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != digests.get(name):
            raise ValueError(f"{folder / name}: damaged (its SHA-256 is not the one in {DESCRIPTION})")
    try:
        config = MlaDecodeConfig(**fields)
        hash(config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder / DESCRIPTION}: damaged, names no configuration ({error})") from error
    return config, contents


def is_whole(folder: Path) -> bool:
    """Whether `folder` holds a kernel that can be used here."""
    try:
        read_files(folder)
    except ValueError:
        return False
    return True


def cache_folder() -> Path | None:
    """Where the compile cache keeps the kernels of this fingerprint: in a folder of its own, `CACHE_FOLDER`, under
    `MLA_COMPILE_CACHE` or, where that is empty, under `XDG_CACHE_HOME` or `~/.cache`; None where the variable is "off",
    in letters of either case, and where there is no home.
    """
    root = os.environ.get(CACHE_VARIABLE, "").strip()
    if root.lower() == "off":
        return None
    try:
        base = Path(root or os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    except RuntimeError as error:
        warnings.warn(f"compile cache: off, {error} {CACHE_VARIABLE} names a folder")
        return None
    return base / CACHE_FOLDER / fingerprint()


def load_cached(config: MlaDecodeConfig) -> CompiledDecode | None:
    """The kernel from the compile cache; None where the cache is off or does not have it, whole."""
    folder = cache_folder()
    if folder is None:
        return None
    try:
        compiled = load(folder / folder_name(config))
    except ValueError:
        return None
    with contextlib.suppress(OSError):  # a cache that is shared may be read-only
        os.utime(folder)
    return compiled if compiled.config == config else None


def save_cached(compiled: CompiledDecode) -> None:
    """Puts a fresh kernel into the compile cache. A cache that cannot be written costs a warning, not the kernel."""
    folder = cache_folder()
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / MARKER).touch()
        save(compiled, folder)
        os.utime(folder)
    except (OSError, ValueError) as error:
        warnings.warn(f"compile cache {folder}: not written ({error}); {CACHE_VARIABLE} names another folder")
    with contextlib.suppress(OSError):  # another process may be removing the same
        evict(folder)


def evict(current: Path) -> None:
    """Removes the kernels of the fingerprints longest unused; `current`, a fingerprint's folder, stays."""
    others = [entry for entry in current.parent.iterdir() if entry != current and is_cache(entry)]
    others.sort(key=lambda entry: entry.stat().st_mtime, reverse=True)
    for stale in others[KEPT_FINGERPRINTS - 1 :]:
        for kernel in stale.iterdir():
            if kernel.is_dir() and not kernel.is_symlink():
                remove_files(kernel)
        (stale / MARKER).unlink()
        with contextlib.suppress(OSError):  # where something else was put into it
            stale.rmdir()


def is_cache(folder: Path) -> bool:
    """Whether `folder` was made by `save_cached`."""
    named = re.fullmatch("[0-9a-f]{16}", folder.name) is not None
    return named and not folder.is_symlink() and (folder / MARKER).is_file()
