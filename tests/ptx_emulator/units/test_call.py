"""vprintf, compared with the C library's snprintf, and __assertfail."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from ptx_emulator.errors import OutOfBounds, Trap, UnsupportedInstruction
from ptx_emulator.grid import launch

from ..lanes import program, run

DECLARATIONS = """.extern .func (.param .b32 result) vprintf (.param .b64 a, .param .b64 b);
.extern .func __assertfail (.param .b64 a, .param .b64 b, .param .b32 c, .param .b64 d, .param .b64 e);
"""


def c_string(name: str, text: str, space: str = "global") -> str:
    data = text.encode()
    return f".{space} .align 1 .b8 {name}[{len(data) + 1}] = {{{', '.join(map(str, data))}}};\n"


def call(values: str = "", *, label: str = "format", result: str = "", offset: int = 0) -> str:
    """Stores values (PTX that fills the buffer at %rd20) and prints them as the string `label` says."""
    return f"""
    mov.b64 %rd20, buffer; {values}
    {{ .param .b64 first; .param .b64 second; .param .b32 given;
    mov.b64 %rd21, {label}; cvta.global.u64 %rd21, %rd21; st.param.b64 [first], %rd21;
    cvta.local.u64 %rd22, %rd20; add.u64 %rd22, %rd22, {offset}; st.param.b64 [second], %rd22;
    call.uni (given), vprintf, (first, second);
    {result} }}
    """


def module(text: str) -> str:
    return DECLARATIONS + c_string("format", text)


LOCAL = ".local .align 8 .b8 buffer[64];"
CONVERSIONS = [
    ("%d", "i", -7), ("%5d|%-5d|%05d|%+d", "iiii", 42), ("%u", "i", 0xFFFFFFFF), ("%x %X %#x", "iii", 0xBEEF),
    ("%#x %#o %o", "iii", 0), ("%#o", "i", 64), ("%lld", "q", -(1 << 62)), ("%lu", "q", (1 << 64) - 1),
    ("%hhd", "i", 200), ("%hu", "i", 70000), ("%f", "d", 1.5), ("%10.3f|%-10.3e|%g", "ddd", -1234.56789),
    ("%.0f %G", "dd", 2.5e20), ("%f %F", "dd", float("inf")), ("%c%c", "ii", 65), ("%d%% of %f", "id", 3),
    ("%.3d|%8.4x", "ii", 5), ("% d", "i", 5), ("%i", "i", 0x80000000),
]  # fmt: skip


@pytest.mark.parametrize("text, kinds, value", CONVERSIONS)
def test_conversions_are_those_of_c(text, kinds, value, capsys):
    stores, offset, arguments = "", 0, []
    for kind in kinds:
        size = 4 if kind == "i" else 8
        offset = -(-offset // size) * size
        bits = np.float64(value).view(np.uint64) if kind == "d" else int(value) & (1 << 8 * size) - 1
        stores += f"mov.b{8 * size} %{'r' if size == 4 else 'rd'}30, {int(bits):#x};"
        stores += f"st.local.b{8 * size} [%rd20+{offset}], %{'r' if size == 4 else 'rd'}30;"
        offset += size
        c_type = {"i": ctypes.c_int, "q": ctypes.c_longlong, "d": ctypes.c_double}[kind]
        arguments.append(c_type(float(value) if kind == "d" else int(value)))
    run(program(LOCAL + call(stores), 0, module=module(text)), [], block=(1,))
    expected = ctypes.create_string_buffer(256)
    ctypes.CDLL(None).snprintf(expected, ctypes.c_size_t(256), text.encode(), *arguments)
    assert capsys.readouterr().out == expected.value.decode()


def test_lanes_print_in_order_and_get_the_number_of_values(capsys):
    counts = np.full(32, 99, np.uint32)
    body = LOCAL + "setp.ge.u32 %p1, %thread, 29; @!%p1 bra DONE;"
    body += call(
        "st.local.u32 [%rd20], %thread; mov.b64 %rd30, name; cvta.const.u64 %rd30, %rd30;"
        "st.local.b64 [%rd20+8], %rd30;",
        result="ld.param.b32 %r1, [given]; mad.wide.u32 %rd1, %thread, 4, %ptr0; st.global.b32 [%rd1], %r1;",
    )
    run(program(body + "DONE:", 1, module=module("lane %d of %s\n") + c_string("name", "wärp", "const")), [counts])
    assert capsys.readouterr().out == "lane 29 of wärp\nlane 30 of wärp\nlane 31 of wärp\n"
    assert (counts[29:] == 2).all() and (counts[:29] == 99).all()


@pytest.mark.parametrize("order", ["late", "random", "adversarial"])
def test_every_warp_prints_once(order, capsys):
    store = "mov.u32 %r2, %ctaid.x; st.local.u32 [%rd20], %r2; st.local.u32 [%rd20+4], %thread;"
    run(program(LOCAL + call(store), 0, module=module("%d:%d ")), [], grid=(2,), block=(64,), order=order, seed=5)
    printed = capsys.readouterr().out.split()
    assert sorted(printed) == sorted(f"{i // 64}:{i}" for i in range(128))


def test_a_value_outside_local_memory():
    with pytest.raises(OutOfBounds, match="outside local memory"):
        run(program(LOCAL + call(offset=88), 0, module=module("%d")), [], block=(1,))


def test_a_string_that_does_not_end():
    text = module("x").replace("[2] = {120}", "[1] = {120}")
    with pytest.raises(OutOfBounds, match="does not end"):
        run(program(LOCAL + call(), 0, module=text), [], block=(1,))


def test_a_failed_assertion_names_itself():
    texts = DECLARATIONS + c_string("condition", "a < b") + c_string("file", "k.py") + c_string("where", "f")
    stores = "".join(
        f"mov.b64 %rd1, {name}; cvta.global.u64 %rd1, %rd1; st.param.b64 [p{i}], %rd1;"
        for i, name in ((0, "condition"), (1, "file"), (3, "where"))
    )
    body = f"""setp.ne.u32 %p1, %thread, 3; @%p1 bra FINE;
    {{ .param .b64 p0; .param .b64 p1; .param .b32 p2; .param .b64 p3; .param .b64 p4;
    {stores} st.param.b32 [p2], 17; st.param.b64 [p4], 1; call.uni __assertfail, (p0, p1, p2, p3, p4); }}
    FINE:"""
    with pytest.raises(Trap, match=r"lane 3 of warp 0.*a < b \(k.py:17, f\)"):
        run(program(body, 0, module=texts), [])


@pytest.mark.parametrize(
    "text, message",
    [
        (program(LOCAL + call(), 0, module=module("%n")), "conversion '%n'"),
        (
            program(LOCAL + call().replace("vprintf", "malloc"), 0, module=module("").replace("vprintf", "malloc")),
            "vprintf",
        ),
        (program(LOCAL + call().replace("(first, second)", "(first)"), 0, module=module("")), "arguments"),
        (program(LOCAL + call().replace("call.uni", "call.xyz"), 0, module=module("")), "call.xyz"),
    ],
)
def test_what_is_refused(text, message):
    with pytest.raises(UnsupportedInstruction, match=message):
        launch(text, grid=(1,), block=(1,))
