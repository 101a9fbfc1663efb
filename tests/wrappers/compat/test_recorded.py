from __future__ import annotations

import importlib
import inspect

import pytest

from wrappers.compat import changes
from wrappers.compat.recorded import RECORDED, Recorded


def adapter(recorded: Recorded):
    """The module is the longest prefix that can be imported."""
    parts = recorded.ours.split(".")
    module = importlib.import_module(".".join(parts[:3]))
    value = module
    for name in parts[3:]:
        value = getattr(value, name)
    return value


def parameters_of(function) -> dict[str, str]:
    """A function's parameters as `changes.parameters` gives a recorded list's."""
    signature = inspect.signature(function)
    bare = [each.replace(annotation=inspect.Parameter.empty) for each in signature.parameters.values()]
    text = str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))
    found = changes.parameters(text[1:-1])
    found.pop("self", None)
    return found


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda each: f"{each.distribution} {each.name}")
def test_adapters_have_the_recorded_parameters(recorded):
    ours = parameters_of(adapter(recorded))
    for name in recorded.extra:
        assert ours.pop(name).startswith("keyword=")
    wanted = changes.parameters(recorded.parameters)
    assert ours == wanted and list(ours) == list(wanted)


def test_names_are_recorded_once():
    assert len({(each.distribution, each.name) for each in RECORDED}) == len(RECORDED) == 20


PEER = """
from typing import overload
SCALE = 0.5
@overload
def decode(query): ...
def decode(query: int, lse_scale: float = 1 / SCALE, window: int = -1, *, splits: int = 1): ...
class Wrapper:
    def run(self, query, out=None): ...
"""


@pytest.mark.parametrize(
    ("name", "parameters", "lines"),
    [
        ("decode", "query, lse_scale=2.0, window=-1, *, splits=1", []),
        ("decode", "query, lse_scale, window=-1, *, splits=1",
         ["parameter lse_scale was positional, is positional=1 / SCALE"]),
        ("decode", "query, lse_scale=2.0, *, splits=1", ["new parameter window (positional=-1)"]),
        ("decode", "query, lse_scale=2.0, window=-1, pdl=False, *, splits=1", ["parameter pdl is gone"]),
        ("decode", "query, lse_scale=2.0, window=-1, splits=1", ["parameter splits was positional=1, is keyword=1"]),
        ("decode", "query, window=-1, lse_scale=2.0, *, splits=1",
         ["the order was query, window, lse_scale, splits, is query, lse_scale, window, splits"]),
        ("Wrapper.run", "query, out=None", []),
        ("Wrapper.plan", "query", ["peer.py has no Wrapper.plan any more"]),
    ],
)  # fmt: skip
def test_changes_are_named(tmp_path, name, parameters, lines):
    (tmp_path / "peer.py").write_text(PEER)
    assert changes.changes(Recorded("peer", "1", "peer", "peer.py", name, parameters, ""), tmp_path) == lines


def test_the_command(tmp_path, capsys):
    assert changes.main(["--at", str(tmp_path)]) == 0
    assert "tokenspeed-mla 2.0.4 tokenspeed_mla_decode: not installed" in capsys.readouterr().out
    package = tmp_path / "wheel" / "tokenspeed_mla"
    package.mkdir(parents=True)
    (package / "utils.py").write_text("def get_num_sm(device, mig=None): pass\n")
    assert changes.main(["--at", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "get_num_sm: changed\n  new parameter mig (positional=None)" in out
    assert "tokenspeed_mla_decode: changed\n  mla_decode.py is gone" in out
    with pytest.raises(SystemExit):
        changes.main(["--at", str(tmp_path / "none")])
