import json

import pytest

from ptx_emulator.timing import CONSTANTS, Constants


def test_disputed_constants_lie_between_their_ends():
    disputed = {name: c for name, c in CONSTANTS.items() if c.is_disputed}
    assert {"clock", "tmem_load", "tmem_store", "ws_floor"} <= set(disputed)
    for name, constant in disputed.items():
        assert constant.low <= constant.value <= constant.high, name
    assert all(c.source and c.unit for c in CONSTANTS.values())


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"tmen": 64.0}, "constant 'tmen': must be one of"), ({"clock": 0.0}, "clock=0.0: must be positive")],
)
def test_wrong_constants_are_named(changed, message):
    with pytest.raises(ValueError, match=message):
        Constants.of(**changed)


def test_measured_constants_come_from_a_file(tmp_path):
    path = tmp_path / "measured.json"
    path.write_text(json.dumps({"tmem_load": 200, "clock": 1.8}))
    constants = Constants.read(path, clock=1.7)
    assert (constants["tmem_load"], constants["clock"]) == (200.0, 1.7)
    assert constants["hbm"] == CONSTANTS["hbm"].value
    for text in ("[1]", '{"clock": "fast"}', '{"clocks": 1}'):
        path.write_text(text)
        with pytest.raises(ValueError):
            Constants.read(path)


def test_the_clock_scales_what_is_given_per_second():
    slow, fast = Constants.of(clock=1.5), Constants.of(clock=1.93)
    index = list(CONSTANTS).index("hbm")
    assert slow.row()[index] == pytest.approx(7.2e12 / 1.5e9)
    assert slow.row()[index] > fast.row()[index]
    assert fast.microseconds(1930) == pytest.approx(1.0)
