"""PTX text to modules: directives, declarations, operands, errors."""

from __future__ import annotations

import struct

import pytest

from ptx_emulator.errors import PtxSyntaxError
from ptx_emulator.front.parser import parse
from ptx_emulator.ir import Address, Imm, Instruction, Not, Pair, Reg, Sink, Symbol, Vector

HEADER = ".version 8.8\n.target sm_100a\n.address_size 64\n"


def body(text: str, registers: str = ".reg .b32 %r<9>; .reg .b64 %rd<9>; .reg .pred %p<4>;", params: str = "()"):
    module = parse(f"{HEADER}.visible .entry k{params}\n{{\n{registers}\n{text}\nret;\n}}\n")
    return module.entries["k"]


def instructions(text: str, **options) -> list[Instruction]:
    return [i for i in body(text, **options).code if isinstance(i, Instruction)][:-1]


def test_module_header_and_entry_directives():
    module = parse(f"""// a comment
{HEADER}
.extern .shared .align 1024 .b8 smem[];
.visible .entry first(
    .param .align 64 .b8 first_param_0[128],
    .param .u64 .ptr .global .align 16 first_param_1, .param .f32 first_param_2
)
.reqntid 128, 1, 1
.reqnctapercluster 2
.explicitcluster
.minnctapersm 1
{{ ret; }}
.entry second() .maxntid 256 {{ .pragma "nounroll"; exit; }}
.section .debug_info {{ .b32 1; .b8 2 }}
""")
    assert module.version == "8.8" and module.target == "sm_100a"
    first, second = module.entries["first"], module.entries["second"]
    assert [(p.name, p.align, p.nbytes) for p in first.params] == [
        ("first_param_0", 64, 128),
        ("first_param_1", 8, 8),
        ("first_param_2", 4, 4),
    ]
    assert first.required_block == (128, 1, 1) and first.required_cluster == (2, 1, 1) and first.explicit_cluster
    assert second.max_block == (256, 1, 1)
    assert module.variables[0].extern and module.variables[0].align == 1024


def test_variables_and_initial_values():
    module = parse(f"""{HEADER}
.const .align 8 .b64 wide[2] = {{1, -1}};
.global .f32 number = 0f3F800000;
.global .align 4 .b8 bytes[4] = {{0x10, 255, 0b11, 017}};
.global .f64 decimal = -2.5;
.global .b32 matrix[2][2] = {{ {{1, 2}}, {{3, 4}} }};
.entry k() {{ .local .align 16 .b8 depot[32]; .shared .b32 one; ret; }}""")
    values = {v.name: v for v in module.variables}
    assert values["wide"].initial == struct.pack("<Qq", 1, -1) and values["wide"].space == "const"
    assert values["number"].initial == struct.pack("<f", 1.0)
    assert values["bytes"].initial == bytes([16, 255, 3, 15])
    assert values["decimal"].initial == struct.pack("<d", -2.5)
    assert values["matrix"].nbytes == 16 and values["matrix"].initial == struct.pack("<4I", 1, 2, 3, 4)
    depot, one = module.entries["k"].variables
    assert (depot.space, depot.align, depot.nbytes) == ("local", 16, 32)
    assert (one.space, one.nbytes) == ("shared", 4)


def test_operands_of_every_kind():
    [mov, ld, tma, elect, setp, imm] = instructions("""
        mov.b64 {%r1, _}, %rd2;
        ld.global.b32 %r1, [%rd3+-16];
        cp.async.bulk.tensor.2d [%r1], [%rd1, {%r2, %r3}], [%r4+8];
        elect.sync _|%p1, -1;
        setp.lt.and.u32 %p1|%p2, %r1, 0x1F, !%p3;
        fma.rn.f32 %r1, 0f40000000, 0d3FF0000000000000, 1.5;""")
    assert isinstance(mov.operands[0], Vector) and isinstance(mov.operands[0].elements[1], Sink)
    assert ld.operands[1] == Address(ld.operands[1].base, -16) and ld.operands[1].base.name == "%rd3"
    assert [e.name for e in tma.operands[1].extra[0].elements] == ["%r2", "%r3"] and tma.operands[2].offset == 8
    assert isinstance(elect.operands[0], Pair) and isinstance(elect.operands[0].first, Sink)
    assert elect.operands[1] == Imm(-1)
    assert setp.operands[2] == Imm(31) and isinstance(setp.operands[3], Not)
    assert imm.operands[1:] == (Imm(0x40000000, 32), Imm(0x3FF0000000000000, 64), Imm(0x3FF8000000000000, 64))


def test_guards_labels_and_lines():
    code = body("""
@!%p1 bra $L__1;
    add.u32 %r1,
        %r2, 1;
$L__1: @%p2
    bra.uni $L__1;""").code
    branch, add, label, back, _ = code
    assert branch.guard[1] is True and branch.guard[0].name == "%p1"
    assert branch.operands[0] == Symbol(label, "label") == back.operands[0]
    assert add.text == "add.u32 %r1, %r2, 1" and add.line == branch.line + 1
    assert back.opcode == "bra.uni" and back.guard[1] is False


def test_one_register_object_per_declaration():
    first, inner, outer = instructions("mov.u32 %r1, 1; { .reg .b32 %r1; mov.u32 %r1, 2; } mov.u32 %r1, 3;")
    assert first.operands[0] is outer.operands[0]
    assert inner.operands[0] is not outer.operands[0]
    assert isinstance(inner.operands[0], Reg)


def test_special_registers_belong_to_one_entry():
    module = parse(
        f"{HEADER}.entry a() {{ .reg .b32 r; mov.u32 r, %tid.x; ret; }}"
        ".entry b() { .reg .b32 r; mov.u32 r, %tid.x; ret; }"
    )
    a, b = (module.entries[n].specials["%tid.x"] for n in "ab")
    assert a is not b


@pytest.mark.parametrize(
    "text, message",
    [
        ("mov.u32 %r1, %unknown;", "%unknown"),
        ("bra NOWHERE;", "NOWHERE"),
        ("A: A: mov.u32 %r1, 0;", "declared twice"),
        ("@%r1 mov.u32 %r1, 0;", "not a predicate"),
        ("setp.eq.u32 %p1, !%r1, 0;", "not a predicate"),
        ("mov.u32 %r1, %r2+4;", "not declared"),
        ("mov.u32 %r1, k+4;", "constant expressions"),
        ("ld.global.u32 %r1, [%rd1+x];", "not a number"),
        (".reg .v4 .f32 %v;", "vector registers"),
        (".reg .b24 %x;", "b24"),
        (".frob 1;", r"\.frob"),
    ],
)
def test_errors_name_the_line(text, message):
    with pytest.raises(PtxSyntaxError, match=message) as caught:
        body("\n\n" + text)
    assert caught.value.line == 9


def test_module_level_errors():
    with pytest.raises(PtxSyntaxError, match="device functions"):
        parse(HEADER + ".func f() { ret; }")
    with pytest.raises(PtxSyntaxError, match="does not end"):
        parse(HEADER + ".entry k() { ret;")
