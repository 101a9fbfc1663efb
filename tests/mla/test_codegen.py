"""What the DSL emits: for both architectures, without local memory, and with each key loaded once."""

from __future__ import annotations

import re
from dataclasses import replace

import cutlass
import cutlass.cute as cute
import pytest
from cutlass import pipeline
from cutlass.cute.runtime import make_fake_compact_tensor

from mla.compile import compile_decode
from mla.config import MlaDecodeConfig
from mla.mutants import compile_mutant

CONFIG = MlaDecodeConfig("bf16", 16, 8, True, 64, lse_base="e")


def count(pattern: str, ptx: str) -> int:
    return len(re.findall(pattern, ptx))


@pytest.mark.parametrize("arch", ["sm_100a", "sm_103a"])
@pytest.mark.parametrize("path, dtype", [("narrow", "bf16"), ("narrow", "fp8"), ("wide", "fp16"), ("wide", "fp8")])
def test_compiles_for_both_architectures(path, dtype, arch):
    compiled = compile_decode(MlaDecodeConfig(dtype, 16, 8, True, 64, lse_base="e", arch=arch, path=path))
    assert f".target {arch}" in compiled.ptx
    assert compiled.cubin[:4] == b"\x7fELF"
    assert callable(compiled.host), "the DSL's own host function, compiled for tvm-ffi"
    assert ".local" not in compiled.ptx


def test_narrow_path_loads_a_key_once():
    """9 query boxes of 128 bytes, 576 elements a token; the 2 boxes of a slot of the latent part, for whole tiles and
    for ragged ones, and one of the rope span; the latent part is not loaded again as V."""
    ptx = compile_decode(replace(CONFIG, path="narrow")).ptx
    assert count(r"cp\.async\.bulk\.tensor", ptx) == 9 + 2 * 2 + 1
    assert count(r"cp\.async\.bulk\.tensor.*cta_group::2", ptx) == 0


def test_narrow_path_multiplies_weight_stationary_m64():
    """36 K steps of scores, and 4 K steps x 2 halves of output."""
    ptx = compile_decode(replace(CONFIG, path="narrow")).ptx
    assert count(r"tcgen05\.mma\.ws\.cta_group::1\.kind::f16", ptx) == 36 + 4 * 2
    assert count(r"tcgen05\.mma\.", ptx) == 36 + 4 * 2


def test_wide_path_loads_keys_and_half_of_the_values():
    """9 query and 9 key boxes; values are 2 boxes a slot; ragged ones signal the CTA's own barrier."""
    ptx = compile_decode(replace(CONFIG, path="wide")).ptx
    assert count(r"cp\.async\.bulk\.tensor.*cta_group::2", ptx) == 9 + 9 + 2
    assert count(r"cp\.async\.bulk\.tensor", ptx) == 9 + 9 + 2 * 2


def test_wide_path_multiplies_in_pairs():
    """36 K steps of scores, 16 of them with Q from Tensor Memory; 8 K steps x 2 halves of output."""
    ptx = compile_decode(replace(CONFIG, path="wide")).ptx
    assert count(r"tcgen05\.mma\.cta_group::2\.kind::f16", ptx) == 36 + 8 * 2
    assert count(r"tcgen05\.mma\.cta_group::2\.kind::f16\S* \[%r\d+\], \[", ptx) == 16
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
