"""Compiled kernels as files: what is kept, when it is used again, and when it must not be."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from dataclasses import fields, replace

import pytest

from mla import compile as mla_compile
from mla import store
from mla.config import MlaDecodeConfig

CONFIG = MlaDecodeConfig("bf16", 2, 1, True, 16)
SIGNATURE = "query: Tensor([n0, 1, 2, 576], bfloat16), kv_cache: Tensor([n1, 16, 576], bfloat16)"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The compiled kernel, and the folder it was written to."""
    compiled = mla_compile.compile_kernel(mla_compile.MlaDecode(CONFIG))
    return compiled, store.save(compiled, tmp_path_factory.mktemp("kernels"))


@pytest.fixture
def copied(exported, tmp_path):
    """A folder of kernels that a test may spoil; the kernel's own folder."""
    return shutil.copytree(exported[1], tmp_path / "kernels" / exported[1].name)


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """A process that has compiled nothing, with a compile cache of its own; what it compiles."""
    monkeypatch.setattr(mla_compile, "_compiled", {})
    monkeypatch.setenv(store.CACHE_VARIABLE, str(tmp_path / "cache"))
    compiled = []

    def compile_kernel(kernel):
        compiled.append(kernel.config)
        return original(kernel)

    original = mla_compile.compile_kernel
    monkeypatch.setattr(mla_compile, "compile_kernel", compile_kernel)
    return compiled


def test_a_loaded_kernel_is_the_one_that_was_saved(exported):
    compiled, folder = exported
    loaded = store.load(folder)
    assert (loaded.config, loaded.ptx, loaded.ir, loaded.cubin) == (
        compiled.config, compiled.ptx, compiled.ir, compiled.cubin,
    )  # fmt: skip
    with pytest.raises(TypeError, match="Expects 10 parameters") as error:
        loaded.host()
    assert SIGNATURE in str(error.value), "the host function of this configuration"
    assert not [entry for entry in folder.parent.iterdir() if entry != folder], "nothing unfinished is left"


def test_what_was_loaded_is_not_exported_again(exported, tmp_path):
    with pytest.raises(ValueError, match="was loaded, not compiled"):
        store.save(store.load(exported[1]), tmp_path)
    assert not list(tmp_path.iterdir())


def test_saving_twice_leaves_one_kernel(exported, copied):
    assert store.save(exported[0], copied.parent) == copied
    assert [entry.name for entry in copied.parent.iterdir()] == [copied.name]
    assert store.load(copied).config == CONFIG


def spoil_fingerprint(folder):
    description = json.loads((folder / "kernel.json").read_text())
    (folder / "kernel.json").write_text(json.dumps({**description, "fingerprint": "0" * 16}))


BROKEN = {
    "no description": (lambda folder: (folder / "kernel.json").unlink(), "holds no exported kernel"),
    "description cut short": (lambda folder: (folder / "kernel.json").write_text("{"), "holds no exported kernel"),
    "no object": (lambda folder: (folder / "kernel.o").unlink(), "holds no exported kernel"),
    "object cut short": (
        lambda folder: (folder / "kernel.o").write_bytes((folder / "kernel.o").read_bytes()[:-1]),
        r"kernel.o: damaged",
    ),
    "ptx edited": (lambda folder: (folder / "kernel.ptx").write_text("//"), r"kernel.ptx: damaged"),
    "other sources": (spoil_fingerprint, "exported from other sources or by another compiler .* export it again"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_folder_that_cannot_be_used(name, copied, fresh):
    spoil, message = BROKEN[name]
    spoil(copied)
    with pytest.raises(ValueError, match=message):
        store.load(copied)
    if name != "no description":
        with pytest.raises(ValueError, match=message):
            mla_compile.load_exported(copied.parent)


def test_loading_from_a_folder_without_kernels(tmp_path):
    with pytest.raises(ValueError, match="holds no exported kernels"):
        mla_compile.load_exported(tmp_path)


def test_exported_kernels_are_taken_instead_of_compiling(copied, fresh):
    assert not mla_compile.is_compiled(CONFIG)
    assert mla_compile.load_exported(copied.parent) == [CONFIG]
    assert mla_compile.is_compiled(CONFIG)
    assert mla_compile.compile_decode(CONFIG).ptx == (copied / "kernel.ptx").read_text()
    assert not fresh


def test_the_second_process_does_not_compile(fresh, monkeypatch):
    first = mla_compile.compile_decode(CONFIG)
    assert fresh == [CONFIG] and mla_compile.compile_decode(CONFIG) is first
    monkeypatch.setattr(mla_compile, "_compiled", {})
    second = mla_compile.compile_decode(CONFIG)
    assert fresh == [CONFIG] and second is not first and second.ptx == first.ptx
    # A damaged entry is compiled anew, and repaired.
    (store.cache_folder() / store.folder_name(CONFIG) / "kernel.cubin").write_bytes(b"")
    monkeypatch.setattr(mla_compile, "_compiled", {})
    assert mla_compile.compile_decode(CONFIG).cubin == first.cubin
    assert fresh == [CONFIG, CONFIG]
    assert store.load_cached(CONFIG).cubin == first.cubin


def test_a_cache_that_cannot_be_written_costs_a_warning(exported, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(store.CACHE_VARIABLE, str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="MLA_COMPILE_CACHE names another folder"):
        store.save_cached(exported[0])
    monkeypatch.setenv(store.CACHE_VARIABLE, "off")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.save_cached(exported[0])
    assert store.load_cached(CONFIG) is None


def test_the_cache_keeps_the_fingerprints_last_used(exported, monkeypatch, tmp_path):
    monkeypatch.setenv(store.CACHE_VARIABLE, str(tmp_path))
    old = [tmp_path / f"{index:016x}" for index in range(store.KEPT_FINGERPRINTS + 1)]
    for age, folder in enumerate(old):
        folder.mkdir()
        os.utime(folder, (1000 - age, 1000 - age))
    store.save_cached(exported[0])
    assert sorted(tmp_path.iterdir()) == sorted([*old[: store.KEPT_FINGERPRINTS - 1], store.cache_folder()])


def test_the_name_of_a_kernel_says_every_field():
    base = replace(CONFIG, dtype="fp8")
    others = {"dtype": "bf16", "num_heads": 3, "seq_len_q": 2, "page_size": 32, "lse_base": "2", "arch": "sm_103a"}
    others |= {field.name: not getattr(base, field.name) for field in fields(base) if field.type == "bool"}
    assert "is_causal" in others
    names = [store.folder_name(replace(base, **{field: value})) for field, value in others.items()]
    assert len({store.folder_name(base), *names}) == len(others) + 1


def test_the_fingerprint_follows_sources_versions_and_environment(monkeypatch, tmp_path):
    def fingerprint():
        return store.fingerprint.__wrapped__()

    first = fingerprint()
    assert first == store.fingerprint()
    with monkeypatch.context() as patch:
        patch.setenv("CUTE_DSL_LINEINFO", "1")
        assert fingerprint() != first
    with monkeypatch.context() as patch:
        patch.setattr(store.metadata, "version", lambda package: "0.0")
        assert fingerprint() != first
    sources = shutil.copytree(store.Path(store.__file__).parent, tmp_path / "mla")
    with monkeypatch.context() as patch:
        patch.setattr(store, "__file__", str(sources / "store.py"))
        assert fingerprint() == first
        (sources / "roles" / "load.py").write_text("# changed\n")
        assert fingerprint() != first
    assert fingerprint() == first
