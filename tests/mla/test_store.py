"""Compiled kernels as files: what is kept, when it is used again, and when it must not be."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from dataclasses import asdict, fields, replace
from types import SimpleNamespace

import pytest

from mla import compile as mla_compile
from mla import store
from mla.config import MlaDecodeConfig

CONFIG = MlaDecodeConfig("bf16", 2, 1, True, 16)
CONFIG_FIELDS = asdict(CONFIG)
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
    with pytest.raises(TypeError, match=r"Expects \d+ parameters") as error:
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


def spoil(**changes):
    """Replaces entries of the description."""

    def spoil_folder(folder):
        description = json.loads((folder / "kernel.json").read_text())
        (folder / "kernel.json").write_text(json.dumps({**description, **changes}))

    return spoil_folder


def describe(text):
    return lambda folder: (folder / "kernel.json").write_text(text)


def unloadable(folder):
    """Whole, as far as a digest can tell."""
    (folder / "kernel.o").write_bytes(b"no object file")
    description = json.loads((folder / "kernel.json").read_text())
    description["sha256"]["kernel.o"] = hashlib.sha256(b"no object file").hexdigest()
    describe(json.dumps(description))(folder)


NOT_WRITTEN_HERE = "holds no exported kernel .*not what an export writes"
BROKEN = {
    "no description": (lambda folder: (folder / "kernel.json").unlink(), "holds no exported kernel"),
    "description cut short": (describe("{"), "holds no exported kernel"),
    "description empty": (describe("{}"), NOT_WRITTEN_HERE),
    "description a list": (describe("[1]"), NOT_WRITTEN_HERE),
    "description null": (describe("null"), NOT_WRITTEN_HERE),
    "digests a list": (spoil(sha256=[1]), NOT_WRITTEN_HERE),
    "no digests": (spoil(sha256={}), "kernel.o: damaged"),
    "config a number": (spoil(config=3), NOT_WRITTEN_HERE),
    "config empty": (spoil(config={}), "kernel.json: damaged, names no configuration"),
    "config of wrong types": (spoil(config={**CONFIG_FIELDS, "num_heads": "2"}), "names no configuration"),
    "config of unhashable values": (spoil(config={**CONFIG_FIELDS, "tree_mask": []}), "names no configuration"),
    "no object": (lambda folder: (folder / "kernel.o").unlink(), "holds no exported kernel"),
    "object cut short": (
        lambda folder: (folder / "kernel.o").write_bytes((folder / "kernel.o").read_bytes()[:-1]),
        r"kernel.o: damaged",
    ),
    "object of other content": (unloadable, "kernel.o: cannot be loaded"),
    "ptx edited": (lambda folder: (folder / "kernel.ptx").write_text("//"), r"kernel.ptx: damaged"),
    "other sources": (
        spoil(fingerprint="0" * 16), "exported from other sources or by another compiler .* export it again",
    ),
}  # fmt: skip


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


@pytest.mark.parametrize("name", [name for name, (_, message) in BROKEN.items() if "holds" in message])
def test_a_cache_entry_of_anything_else_is_compiled_anew(name, exported, fresh, monkeypatch):
    monkeypatch.setattr(mla_compile, "compile_kernel", lambda kernel: fresh.append(kernel.config) or exported[0])
    mla_compile.compile_decode(CONFIG)
    BROKEN[name][0](store.cache_folder() / store.folder_name(CONFIG))
    monkeypatch.setattr(mla_compile, "_compiled", {})
    assert mla_compile.compile_decode(CONFIG) is exported[0] and fresh == [CONFIG, CONFIG]


def test_a_cache_that_cannot_be_written_costs_a_warning(exported, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(store.CACHE_VARIABLE, str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="MLA_COMPILE_CACHE names another folder"):
        store.save_cached(exported[0])


@pytest.mark.parametrize("value", ["off", "OFF", " Off "])
def test_a_cache_that_is_off(value, exported, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(store.CACHE_VARIABLE, value)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.save_cached(exported[0])
    assert store.load_cached(CONFIG) is None and not list(tmp_path.iterdir())


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    places = {"": ".cache", "~/kernels": "kernels", "~": ".", str(tmp_path / "else"): "else"}
    for value, place in places.items():
        monkeypatch.setenv(store.CACHE_VARIABLE, value)
        assert store.cache_folder() == tmp_path / place / "blackwell-mla" / store.fingerprint()


def test_a_machine_without_a_home_has_no_cache(monkeypatch):
    def expanduser(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setenv(store.CACHE_VARIABLE, "")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(store.Path, "expanduser", expanduser)
    with pytest.warns(UserWarning, match="compile cache: off, .* MLA_COMPILE_CACHE names a folder"):
        assert store.cache_folder() is None


def test_a_cache_that_is_read_only_is_used(exported, monkeypatch, tmp_path):
    monkeypatch.setenv(store.CACHE_VARIABLE, str(tmp_path))
    store.save_cached(exported[0])

    def refuse(path):
        raise PermissionError(path)

    monkeypatch.setattr(os, "utime", refuse)
    assert store.load_cached(CONFIG).ptx == exported[0].ptx


def full(*arguments, **options):
    raise store.DSLRuntimeError("Error dumping object file: No space left on device")


def test_a_full_disk_costs_the_cache_a_warning_and_an_export_an_error(exported, monkeypatch, tmp_path):
    compiled = replace(exported[0], host=SimpleNamespace(export_to_c=full))
    monkeypatch.setenv(store.CACHE_VARIABLE, str(tmp_path / "cache"))
    with pytest.warns(UserWarning, match="not written .*No space left"):
        store.save_cached(compiled)
    monkeypatch.setattr(mla_compile, "compile_kernel", lambda kernel: compiled)
    with pytest.raises(ValueError, match=r"kernels/.*: cannot be written .*No space left"):
        mla_compile.export(CONFIG, tmp_path / "kernels")
    assert not list((tmp_path / "kernels").iterdir())


def test_an_object_file_that_was_cut_short_is_not_saved(exported, tmp_path):
    def export_to_c(path, function_name):
        exported[0].host.export_to_c(path, function_name=function_name)
        os.truncate(path, 4096)

    with pytest.raises(ValueError, match="kernel.o is cut short, after 4096 of at least"):
        store.save(replace(exported[0], host=SimpleNamespace(export_to_c=export_to_c)), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "cut, message",
    [
        ({"PTX": slice(100_000)}, "the PTX is cut short, after 100000 characters"),
        ({"PTX": slice(0)}, "the PTX is cut short"),
        ({"CUBIN": slice(-1)}, "the cubin is cut short"),
        ({"CUBIN": slice(0)}, "the cubin is cut short, after 0 of"),
        ({}, None),
    ],
    ids=str,
)
def test_what_a_full_temporary_folder_has_cut_short_is_not_used(cut, message, exported, monkeypatch):
    """With 900 KB of room, the compiler gives part of the text and no cubin, and says nothing."""
    whole = {"PTX": exported[0].ptx, "CUBIN": exported[0].cubin, "MLIR": exported[0].ir}
    artifacts = SimpleNamespace(**{name: content[cut.get(name, slice(None))] for name, content in whole.items()})
    monkeypatch.setattr(mla_compile.cute, "compile", lambda *_, **__: SimpleNamespace(artifacts=artifacts))
    if message is None:
        assert mla_compile.compile_kernel(mla_compile.MlaDecode(CONFIG)).cubin == exported[0].cubin
        return
    with pytest.raises(ValueError, match=f"TMPDIR=.*{message}"):
        mla_compile.compile_kernel(mla_compile.MlaDecode(CONFIG))


def test_no_temporary_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="TMPDIR=.*: compiling needs a few MB of temporary files"):
        mla_compile.compile_kernel(mla_compile.MlaDecode(CONFIG))


def old_cache(base, index):
    """A fingerprint's folder with one kernel, last used `index` seconds before the first."""
    folder = base / f"{index:016x}"
    (folder / "kernel").mkdir(parents=True)
    for file in (store.MARKER, *(f"kernel/{name}" for name in (*store.FILES, store.DESCRIPTION))):
        (folder / file).touch()
    os.utime(folder, (1000 - index, 1000 - index))
    return folder


def test_the_cache_keeps_the_fingerprints_last_used(exported, monkeypatch, tmp_path):
    monkeypatch.setenv(store.CACHE_VARIABLE, str(tmp_path))
    base = tmp_path / "blackwell-mla"
    old = [old_cache(base, index) for index in range(store.KEPT_FINGERPRINTS + 1)]
    store.save_cached(exported[0])
    assert sorted(base.iterdir()) == sorted([*old[: store.KEPT_FINGERPRINTS - 1], store.cache_folder()])
    assert store.load_cached(CONFIG) is not None


def test_the_cache_deletes_nothing_that_it_has_not_written(exported, monkeypatch, tmp_path):
    """MLA_COMPILE_CACHE=$HOME: other people's folders, links to them, and their files among ours, however old."""
    monkeypatch.setenv(store.CACHE_VARIABLE, str(tmp_path))
    base = tmp_path / "blackwell-mla"
    ours = [old_cache(base, index) for index in range(20)]
    linked = shutil.copytree(ours[0], tmp_path / "linked")
    places = [tmp_path, base, ours[-1], ours[-2] / "kernel", ours[-3] / "kernel" / "kernel.ptx.d", linked / "kernel"]
    places += [parent / f"{index:016x}" / "kernel" for parent in (tmp_path, base) for index in range(100, 120)]
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
        (place / "notes").write_text("theirs")
    for place in places[-40:]:
        (place / "kernel.o").write_text("theirs")
    (base / ("f" * 16)).symlink_to(linked)
    (ours[-4] / "link").symlink_to(linked / "kernel")
    for folder in (*ours[-4:], *(place.parent for place in places[-40:])):
        os.utime(folder, (0, 0))
    theirs = [file for file in tmp_path.rglob("*") if file.is_file() and file.read_text() == "theirs"]
    assert len(theirs) == 86
    store.save_cached(exported[0])
    assert [file for file in theirs if not file.exists()] == []
    assert (linked / store.MARKER).exists() and len(list((linked / "kernel").iterdir())) == len(store.FILES) + 2
    kept = [folder for folder in ours if (folder / store.MARKER).exists()]
    assert kept == ours[: store.KEPT_FINGERPRINTS - 1], "what it has written, it removes"


def test_the_name_of_a_kernel_says_every_field():
    base = replace(CONFIG, dtype="fp8")
    others = {"dtype": "bf16", "num_heads": 3, "seq_len_q": 2, "page_size": 32, "lse_base": "2", "arch": "sm_103a"}
    others |= {"path": "wide", "rescale_threshold": 2.0}
    others |= {field.name: not getattr(base, field.name) for field in fields(base) if field.type == "bool"}
    assert "is_causal" in others
    needed = {"visible_lens": {"is_causal": False}}  # which is another of the names
    names = [
        store.folder_name(replace(base, **{field: value}, **needed.get(field, {}))) for field, value in others.items()
    ]
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
