"""What the DSL emits: for both architectures, without local memory, and with each key loaded once."""

from __future__ import annotations

import re
from dataclasses import replace

import cutlass
import cutlass.cute as cute
import pytest
from cutlass import pipeline
from cutlass.cute.runtime import make_fake_compact_tensor

from mla import store
from mla.compile import compilable_archs, compile_decode, compile_kernel
from mla.config import MlaDecodeConfig
from mla.decode import MlaDecode
from mla.plan.paths import plan_of
from scripts.cubin_report import report_cubin
from scripts.mutants import compile_mutant

# 128 rows: "auto" is the wide path.
CONFIG = MlaDecodeConfig("bf16", 16, 8, True, 64, lse_base="e")


def count(pattern: str, ptx: str) -> int:
    return len(re.findall(pattern, ptx))


# Those of sm_103a are kernels of tests/scripts/test_cubin_report.py.
OF_SM_103A = MlaDecodeConfig("bf16", 40, 2, True, 32, lse_base="e", query_packed=False, arch="sm_103a")


@pytest.mark.parametrize("arch", ["sm_100a", "sm_103a"])
@pytest.mark.parametrize("path, dtype", [("narrow", "bf16"), ("auto", "fp8")])
def test_compiles_for_both_architectures(path, dtype, arch):
    compiled = compile_decode(replace(OF_SM_103A if arch == "sm_103a" else CONFIG, dtype=dtype, path=path))
    assert f".target {arch}" in compiled.ptx
    assert compiled.cubin[:4] == b"\x7fELF"
    assert callable(compiled.host), "the DSL's own host function, compiled for tvm-ffi"
    assert ".local" not in compiled.ptx


SM_107A = MlaDecodeConfig("bf16", 16, 8, True, 64, lse_base="e", arch="sm_107a")


@pytest.mark.skipif("sm_107a" not in compilable_archs(), reason="needs the compiler's CUDA 13 build: extra cu13")
@pytest.mark.parametrize("path, dtype", [("narrow", "bf16"), ("wide", "fp8")])
def test_the_cuda_13_build_compiles_the_same_ptx_for_sm_107a(path, dtype):
    config = replace(SM_107A, path=path, dtype=dtype)
    compiled, expected = (compile_decode(replace(config, arch=arch)) for arch in ("sm_107a", "sm_100a"))
    assert compiled.ptx == expected.ptx.replace(".target sm_100a", ".target sm_107a")
    assert compiled.ptx != expected.ptx and compiled.cubin[:4] == b"\x7fELF" and compiled.cubin != expected.cubin


def test_without_the_cuda_13_build_sm_107a_is_refused(monkeypatch):
    monkeypatch.setattr(store, "cuda13_build", lambda: None)
    assert compilable_archs() == ("sm_100a", "sm_103a")
    with pytest.raises(ValueError, match="arch='sm_107a': needs the CUDA 13 build of the compiler: pip install"):
        compile_kernel(MlaDecode(SM_107A))


def test_narrow_path_loads_a_key_once():
    """Query boxes of 128 bytes: 2 of a slot on the way to Tensor Memory, 5 that stay; 2 boxes of a slot of the latent
    part, for whole tiles and for ragged ones, and one of the rope span; the latent part is not loaded again as V."""
    ptx = compile_decode(replace(CONFIG, path="narrow")).ptx
    assert count(r"cp\.async\.bulk\.tensor", ptx) == 2 + 5 + 2 * 2 + 1
    assert count(r"cp\.async\.bulk\.tensor.*cta_group::2", ptx) == 0


def test_narrow_path_multiplies_weight_stationary_m64():
    """36 K steps of scores, 16 of them with Q from Tensor Memory; 4 K steps of output, in a loop of its halves."""
    ptx = compile_decode(replace(CONFIG, path="narrow")).ptx
    assert count(r"tcgen05\.mma\.ws\.cta_group::1\.kind::f16\S* \[%r\d+\], \[", ptx) == 16
    assert count(r"tcgen05\.cp\.cta_group::1", ptx) == 4 * 8
    assert count(r"tcgen05\.mma\.ws\.cta_group::1\.kind::f16", ptx) == 36 + 4
    assert count(r"tcgen05\.mma\.", ptx) == 36 + 4


def test_wide_path_loads_keys_and_half_of_the_values():
    """2 + 5 query boxes; 2 of a slot of keys and one of the rope span, ahead of the loop of tiles and in it; values are 2
    boxes a slot; ragged ones signal the CTA's own barrier."""
    ptx = compile_decode(replace(CONFIG, path="auto")).ptx
    assert count(r"cp\.async\.bulk\.tensor.*cta_group::2", ptx) == 2 + 5 + 2 * (2 + 1) + 2
    assert count(r"cp\.async\.bulk\.tensor", ptx) == 2 + 5 + 2 * (2 + 1) + 2 * 2


def test_wide_path_multiplies_in_pairs():
    """36 K steps of scores, 16 of them with Q from Tensor Memory; 8 K steps of output, in a loop of its halves, with P from
    there."""
    ptx = compile_decode(replace(CONFIG, path="auto")).ptx
    assert count(r"tcgen05\.mma\.cta_group::2\.kind::f16", ptx) == 36 + 8
    assert count(r"tcgen05\.mma\.cta_group::2\.kind::f16\S* \[%r\d+\], \[", ptx) == 16 + 8
    assert count(r"tcgen05\.cp\.cta_group::2", ptx) == 4 * 8
    commits = count(r"tcgen05\.commit\.", ptx)
    assert commits == count(r"tcgen05\.commit\.cta_group::2.*multicast::cluster", ptx) > 0


def test_fp16_and_bf16_are_one_kernel():
    """The same tensor, memory and synchronisation instructions but for the conversion of P and O."""

    def instructions(dtype):
        ptx = compile_decode(MlaDecodeConfig(dtype, 16, 8, True, 64, lse_base="e")).ptx
        names = re.findall(r"^\s+(?:@!?%p\d+ )?([a-z][\w.:]+)\s", ptx, re.M)
        families = ("tcgen05", "cp.async", "mbarrier", "bar.", "fence", "cvt.rn", "ex2", "st.")
        return sorted(name.replace("bf16x2", "f16x2") for name in names if name.startswith(families))

    assert instructions("bf16") == instructions("fp16")


@pytest.mark.parametrize("path, dtype", [("narrow", "bf16"), ("narrow", "fp8"), ("auto", "fp16"), ("auto", "fp8")])
def test_registers_move_to_the_roles_that_compute(path, dtype):
    """The machine code has both reallocations (ptxas drops them where it does not know the launch's registers), and
    the launch gives every thread what the schedule counts on."""
    compiled = compile_decode(replace(CONFIG, dtype=dtype, path=path))
    assert count(r"setmaxnreg\.inc\.sync\.aligned\.u32 \t216", compiled.ptx) == 1
    assert count(r"setmaxnreg\.dec\.sync\.aligned\.u32 \t72", compiled.ptx) == 1
    decode = next(kernel for kernel in report_cubin(compiled.cubin) if "kernel_MlaDecode" in kernel.name)
    assert decode.registers == plan_of(compiled.config).warps.registers_per_thread
    assert decode.register_moves == 2


LOADED = re.compile(r"tcgen05\.ld\.\S+\s*\{([^}]*)\}")
MOVED = re.compile(r"\s*mov\.b\d+\s+([^,{]+|\{[^}]*\}),")
REGISTER = re.compile(r"%rd?\d+")


def touched_too_early(ptx: str) -> list[str]:
    """Instructions that touch what a tcgen05.ld loads before the next wait::ld of its basic block. A move only gives it
    another name (ptx_emulator/machine/deferred_loads.py).
    """
    loaded: set[str] = set()
    found = []
    for line in ptx.splitlines():
        if match := LOADED.search(line):
            loaded.update(REGISTER.findall(match[1]))
        elif "tcgen05.wait::ld" in line or line.startswith("$L"):
            loaded.clear()
        elif loaded.intersection(REGISTER.findall(line)):
            if match := MOVED.match(line):
                loaded.update(REGISTER.findall(match[1]))
            else:
                found.append(line.strip())
    return found


@pytest.mark.parametrize("path, dtype", [("narrow", "bf16"), ("narrow", "fp8"), ("auto", "fp16"), ("auto", "fp8")])
def test_loads_from_tensor_memory_are_waited_for(path, dtype):
    """Nothing ties a wait to the registers it is for, so that the compiler might move an instruction across it."""
    ptx = compile_decode(replace(CONFIG, dtype=dtype, path=path)).ptx
    assert count("tcgen05.ld", ptx) >= 2 + 2 + 1, (
        "softmax in two copies, rescale in two chunks, epilogue in a loop of one"
    )
    assert touched_too_early(ptx) == []
    unwaited = ptx.replace("tcgen05.wait::ld", "tcgen05.wait::st")
    assert touched_too_early(unwaited) != [], "what the search must find where a wait is missing"


def test_unknown_mutant_is_refused():
    with pytest.raises(ValueError, match="mutant='nope'"):
        compile_mutant(CONFIG, "nope")


@cute.kernel
def two_names_kernel(out: cute.Tensor):
    producer = pipeline.make_pipeline_state(pipeline.PipelineUserType.Consumer, 3)
    consumer = producer
    for _ in cutlass.range(cute.arch.block_idx()[0], unroll=1):
        producer.advance()
    out[0] = producer.index
    out[1] = consumer.index


@cute.jit
def two_names_host(out: cute.Tensor):
    two_names_kernel(out).launch(grid=[3, 1, 1], block=[1, 1, 1])


def test_dsl_splits_a_state_with_two_names(tmp_path):
    """Why pipelines here hold no state: in CuTe DSL 4.8.1 a loop silently makes two states of one object.

    Python would advance both names; the emitted program advances one and stores the other's first value.
    """
    out = make_fake_compact_tensor(cutlass.Int32, (2,), stride_order=(0,))
    options = f"--keep-ptx --gpu-arch sm_100a --dump-dir {tmp_path}"
    ptx = cute.compile(two_names_host, out, options=options).artifacts.PTX
    stored = re.findall(r"st\.global\.b32\s+\[%rd1(?:\+4)?\], (\S+);", ptx)
    assert len(stored) == 2 and stored[0] != stored[1], ptx
