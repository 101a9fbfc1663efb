"""Reads PTX text into a Module: entry functions with their instructions, variables and registers.

Source format, directives and operands: PTX ISA 4 (syntax), 5 (state spaces, types, variables), 6 (operands),
11 (directives). Instructions are not interpreted here; the registry does that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ..errors import PtxSyntaxError
from ..ir import Address, Imm, Instruction, Not, Pair, Reg, Sink, Symbol, Vector, type_bytes
from .literals import initial_bytes, literal, split

SPECIAL_64 = {"%clock64", "%globaltimer", "%gridid"}
SPECIAL_32 = {
    "%laneid", "%warpid", "%nwarpid", "%smid", "%nsmid", "%clock", "%lanemask_eq", "%lanemask_le",
    "%lanemask_lt", "%lanemask_ge", "%lanemask_gt", "%cluster_ctarank", "%cluster_nctarank",
    "%dynamic_smem_size", "%total_smem_size", "%aggr_smem_size", "%globaltimer_lo",
    "%reserved_smem_offset_begin", "%reserved_smem_offset_end", "%reserved_smem_offset_cap",
}  # fmt: skip
SPECIAL_VECTORS = ("%tid", "%ntid", "%ctaid", "%nctaid", "%clusterid", "%nclusterid", "%cluster_ctaid",
                   "%cluster_nctaid")  # fmt: skip
SPECIAL_PRED = {"%is_explicit_cluster"}

# Directives of a function or module that change nothing about what the code computes.
IGNORED_DIRECTIVES = {
    ".version", ".target", ".address_size", ".loc", ".file", ".pragma", ".maxnctapersm", ".noreturn", ".branchtargets",
    ".abi_preserve", ".abi_preserve_control", ".blocksareclusters",
}  # fmt: skip

_IDENT = r"[A-Za-z_$%][A-Za-z0-9_$]*"
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.S)
_LABEL = re.compile(rf"({_IDENT})\s*:(?!:)")
_GUARD = re.compile(rf"@(!?)\s*({_IDENT})\s+")
_OPCODE = re.compile(r"[A-Za-z][A-Za-z0-9_.:]*")
_ADDRESS_PLUS = re.compile(rf"({_IDENT}(?:\.[xyzw])?)\s*([+-])\s*(-?\w+)$")
_VARIABLE = re.compile(rf"({_IDENT})(?:<(\d+)>)?((?:\[\d*\])*)$")


@dataclass(slots=True)
class Variable:
    """A `.shared/.global/.const/.local/.param` variable; a `.param` of a call has the space `param::func` and a unique
    name. `nbytes` is 0 for an `.extern` array of no size."""

    name: str
    space: str
    align: int
    nbytes: int
    initial: bytes | None = None
    extern: bool = False
    offset: int = -1


@dataclass(slots=True)
class Function:
    """An `.entry`. `code` holds Instructions and, as plain strings, the labels' unique names between them. max_registers
    (per thread) and min_resident (CTAs per SM) change nothing about what it computes."""

    name: str
    params: list[Variable]
    code: list = field(default_factory=list)
    variables: list[Variable] = field(default_factory=list)
    specials: dict[str, Reg] = field(default_factory=dict)
    required_block: tuple[int, int, int] | None = None
    max_block: tuple[int, int, int] | None = None
    required_cluster: tuple[int, int, int] | None = None
    explicit_cluster: bool = False
    max_registers: int | None = None
    min_resident: int | None = None


@dataclass(slots=True)
class Module:
    """A PTX translation unit."""

    version: str
    target: str
    entries: dict[str, Function]
    variables: list[Variable]


class _Scope:
    """Names declared in one `{ }` block, chained to the enclosing block."""

    def __init__(self, parent: _Scope | None, serial: int):
        self.parent = parent
        self.serial = serial
        self.names: dict[str, object] = {}
        self.ranges: dict[str, tuple[int, str]] = {}

    def find(self, name: str):
        scope = self
        match = None
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            if scope.ranges:
                match = match or re.match(r"(.*?)(\d+)$", name)
                if match and match[1] in scope.ranges and int(match[2]) < scope.ranges[match[1]][0]:
                    reg = Reg(name, scope.ranges[match[1]][1])
                    scope.names[name] = reg
                    return reg
            scope = scope.parent
        return None


def parse(text: str) -> Module:
    """Parses PTX text. Raises PtxSyntaxError with the line."""
    return _Parser(text).module()


class _Parser:
    def __init__(self, text: str):
        self.text = _COMMENT.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), text)
        self.pos = 0
        self._line_pos = 0
        self._line = 1
        self.version = self.target = ""
        self.globals = _Scope(None, 0)
        self.variables: list[Variable] = []
        self.specials: dict[str, Reg] = {}
        self.scopes = 0
        self._space = re.compile(r"\s*")

    def line(self) -> int:
        self._line += self.text.count("\n", self._line_pos, self.pos)
        self._line_pos = self.pos
        return self._line

    def error(self, message: str, text: str = "", at: int | None = None) -> PtxSyntaxError:
        """An error (to raise) at a position of the text, where the parser stands unless given."""
        at = self.pos if at is None else at
        line = self.text.count("\n", 0, at) + 1
        column = at - self.text.rfind("\n", 0, at)
        text = " ".join(text.split()) or self.text[at : at + 60].split("\n")[0]
        return PtxSyntaxError(message, line=line, text=text, column=column)

    def number(self, text: str, what: str, at: int) -> int:
        """A number in a directive, which is at a position of the text."""
        value = literal(text.strip()) if text.strip().isalnum() else None
        if value is None or value.float_bits:
            raise self.error(f"{what} {text.strip()!r}: expected a number", at=at)
        return value.value

    def skip_space(self) -> None:
        self.pos = self._space.match(self.text, self.pos).end()

    def peek(self) -> str:
        self.skip_space()
        return self.text[self.pos] if self.pos < len(self.text) else ""

    def until(self, stops: str) -> str:
        """The text up to the first of `stops` outside brackets (left unread)."""
        depth = 0
        start = self.pos
        for match in re.compile(r'"[^"]*"|[\[\](){};]' + "|[" + re.escape(stops) + "]").finditer(self.text, start):
            char = match[0]
            if depth == 0 and char in stops:
                self.pos = match.start()
                return self.text[start : self.pos]
            if char in "[({":
                depth += 1
            elif char in "])}":
                depth -= 1
        raise self.error(f"expected one of {stops!r} before the end of the text")

    def skip_line(self) -> None:
        end = self.text.find("\n", self.pos)
        self.pos = len(self.text) if end < 0 else end

    # Module level.

    def module(self) -> Module:
        entries: dict[str, Function] = {}
        while self.peek():
            match = re.compile(r"\.\w+").match(self.text, self.pos)
            if not match:
                raise self.error("expected a directive")
            word = match[0]
            if word == ".version":
                self.version = self._rest_of_line(match.end())
            elif word == ".target":
                self.target = self._rest_of_line(match.end())
            elif word in (".address_size", ".file", ".loc"):
                self._rest_of_line(match.end())
            elif word == ".section":
                self.until("{")
                self._skip_braces()
            elif word in (".visible", ".weak", ".extern", ".common", ".entry", ".func", ".shared", ".global", ".const",
                          ".pragma", ".alias"):  # fmt: skip
                self._module_declaration(entries)
            else:
                raise self.error(f"directive {word} is not known here")
        return Module(self.version, self.target, entries, self.variables)

    def _rest_of_line(self, start: int) -> str:
        self.pos = start
        self.skip_line()
        return self.text[start : self.pos].strip()

    def _skip_braces(self) -> None:
        self.pos += 1
        self.until("}")
        self.pos += 1

    def _module_declaration(self, entries: dict[str, Function]) -> None:
        head = re.compile(r"((?:\.(?:visible|weak|extern)\s+)*)\.(entry|func)\b").match(self.text, self.pos)
        if head and head[2] == "func":
            self._function_declaration()
            return
        if head:
            self.pos = head.end()
            function = self._entry()
            entries[function.name] = function
            return
        start = self.pos
        statement = self.until(";")
        if not statement.startswith(".pragma"):
            self._declare(statement, self.globals, self.variables, start)
        self.pos += 1

    def _function_declaration(self) -> None:
        """`.extern .func (result) name (parameters);`"""
        statement = self.until("{;")
        match = re.search(rf"\.func\s*(?:\([^)]*\))?\s*({_IDENT})", statement)
        if not match or self.peek() == "{":
            raise self.error("device functions (.func) with a body are not implemented", statement.split("\n")[0])
        self.globals.names[match[1]] = Symbol(match[1], "func")
        self.pos += 1

    def _entry(self) -> Function:
        self.skip_space()
        name = re.compile(_IDENT).match(self.text, self.pos)
        if not name:
            raise self.error("expected the name of the entry")
        self.pos = name.end()
        function = Function(name[0], [])
        self.specials = {}
        scope = self._new_scope(self.globals)
        if self.peek() == "(":
            self.pos += 1
            start = self.pos
            body = self.until(")")
            for declaration in split(body):
                self._declare(declaration, scope, function.params, start)
            self.pos += 1
        while self.peek() == ".":
            directive = re.compile(r"(\.\w+)([^\n.{;]*)").match(self.text, self.pos)
            if not directive:
                raise self.error("expected a directive of the entry")
            self._entry_directive(function, directive)
        if self.peek() == ";":
            self.pos += 1
            return function
        if self.peek() != "{":
            raise self.error("expected the body of the entry")
        self._body(function, scope)
        return function

    def _entry_directive(self, function: Function, match: re.Match) -> None:
        word, numbers = match[1], match[2]
        if word in (".reqntid", ".maxntid", ".reqnctapercluster"):
            values = tuple(self.number(v, word, match.start()) for v in numbers.split(","))
            values += (1,) * (3 - len(values))
            attribute = {
                ".reqntid": "required_block", ".maxntid": "max_block", ".reqnctapercluster": "required_cluster",
            }[word]  # fmt: skip
            setattr(function, attribute, values)
        elif word == ".maxnreg":
            function.max_registers = int(numbers)
        elif word == ".minnctapersm":
            function.min_resident = int(numbers)
        elif word == ".explicitcluster":
            function.explicit_cluster = True
        elif word not in IGNORED_DIRECTIVES and word != ".maxclusterrank":
            raise self.error(f"entry directive {word} is not implemented")
        self.pos = match.end()
        if word == ".pragma":
            self.until(";")
            self.pos += 1

    # Function bodies.

    def _new_scope(self, parent: _Scope) -> _Scope:
        self.scopes += 1
        return _Scope(parent, self.scopes)

    def _body(self, function: Function, scope: _Scope) -> None:
        depth = 0
        stack = [scope]
        pending: list = []
        while True:
            char = self.peek()
            if char == "":
                raise self.error("the entry's body does not end")
            if char == "{":
                stack.append(self._new_scope(stack[-1]))
                depth += 1
                self.pos += 1
            elif char == "}":
                stack.pop()
                depth -= 1
                self.pos += 1
                if depth == 0:
                    break
            elif char == ";":
                self.pos += 1
            elif char == ".":
                self._body_directive(function, stack[-1])
            else:
                self._label_or_instruction(function, stack[-1], pending)
        function.specials = self.specials
        for inst, inst_scope in pending:
            inst.operands = tuple(self._resolve_label(op, inst_scope, inst) for op in inst.operands)

    def _body_directive(self, function: Function, scope: _Scope) -> None:
        directive, start = re.compile(r"\.\w+").match(self.text, self.pos), self.pos
        if not directive:
            raise self.error("expected a directive")
        word = directive[0]
        if word in (".loc", ".file"):
            self.skip_line()
            return
        statement = self.until(";")
        if word == ".reg":
            self._declare_registers(statement, scope, start)
        elif word in (".shared", ".local", ".param", ".const", ".global"):
            self._declare(statement, scope, function.variables, start)
            if word == ".param":
                argument = function.variables[-1]
                argument.name, argument.space = f"{argument.name}@{scope.serial}", "param::func"
        elif word not in IGNORED_DIRECTIVES:
            raise self.error(f"directive {word} is not implemented", statement, start)
        self.pos += 1

    def _label_or_instruction(self, function: Function, scope: _Scope, pending: list) -> None:
        label = _LABEL.match(self.text, self.pos)
        if label:
            unique = f"{label[1]}@{scope.serial}"
            if label[1] in scope.names:
                raise self.error(f"label {label[1]} declared twice")
            scope.names[label[1]] = Symbol(unique, "label")
            function.code.append(unique)
            self.pos = label.end()
            return
        line, start = self.line(), self.pos
        statement = " ".join(self.until(";").split())
        self.pos += 1
        inst = self._instruction(statement, line, scope, start)
        function.code.append(inst)
        pending.append((inst, scope))

    def _instruction(self, statement: str, line: int, scope: _Scope, start: int) -> Instruction:
        rest = statement
        guard = None
        match = _GUARD.match(rest)
        if match:
            reg = scope.find(match[2])
            if not isinstance(reg, Reg) or reg.type != "pred":
                raise self.error(f"guard {match[2]}: not a predicate register", statement, start)
            guard = (reg, match[1] == "!")
            rest = rest[match.end() :]
        match = _OPCODE.match(rest)
        if not match:
            raise self.error("expected an instruction", statement, start)
        opcode, operands = match[0], []
        for text in split(rest[match.end() :]):
            try:
                operands.append(self._operand(text, scope))
            except ValueError as error:
                place = self.text.find(text.strip(), self.text.find(opcode, start) + len(opcode), self.pos)
                raise self.error(str(error), statement, max(place, start)) from None
        column = start - self.text.rfind("\n", 0, start)
        return Instruction(opcode, tuple(opcode.split(".")), tuple(operands), guard, line, statement, column=column)

    def _operand(self, text: str, scope: _Scope):
        text = text.strip()
        if not text:
            raise ValueError("an operand is missing")
        if text == "_":
            return Sink()
        if text[0] in "{(":
            if text[-1] != ("}" if text[0] == "{" else ")"):
                raise ValueError(f"operand {text}: its brackets do not match")
            return Vector(tuple(self._operand(t, scope) for t in split(text[1:-1])))
        if text[0] == "[":
            return self._address(text, scope)
        if text[0] == "!":
            reg = self._name(text[1:].strip(), scope)
            if not isinstance(reg, Reg) or reg.type != "pred":
                raise ValueError(f"operand {text}: not a predicate register")
            return Not(reg)
        if "|" in text:
            first, second = text.split("|", 1)
            return Pair(self._operand(first, scope), self._operand(second, scope))
        return literal(text) or self._name(text, scope)

    def _address(self, text: str, scope: _Scope) -> Address:
        if not text.endswith("]"):
            raise ValueError(f"address {text}: expected ]")
        first, *extra = split(text[1:-1]) or [""]
        operands = tuple(self._operand(t, scope) for t in extra)
        first = first.strip()
        match = _ADDRESS_PLUS.match(first)
        offset = 0
        if match:
            number = literal(match[3])
            if number is None or number.float_bits:
                raise ValueError(f"address {text}: offset {match[3]} is not a number")
            offset = -number.value if match[2] == "-" else number.value
            first = match[1]
        base = literal(first)
        if base is not None:
            return Address(None, base.value + offset, operands)
        return Address(self._name(first, scope), offset, operands)

    def _name(self, name: str, scope: _Scope):
        found = scope.find(name)
        if found is not None:
            if isinstance(found, Variable):
                return Symbol(found.name, found.space)
            return found
        if name.startswith("%") or name == "WARP_SZ":
            return self._special(name)
        match = _ADDRESS_PLUS.match(name)
        if match:
            raise ValueError(f"operand {name}: constant expressions are not implemented")
        if not re.fullmatch(_IDENT, name):
            raise ValueError(f"operand {name!r} cannot be read")
        return Symbol(name, "label")

    def _special(self, name: str):
        if name == "WARP_SZ":
            return Imm(32)
        if name in self.specials:
            return self.specials[name]
        base, _, component = name.partition(".")
        if name in SPECIAL_64:
            kind = "u64"
        elif name in SPECIAL_32 or (base in SPECIAL_VECTORS and component in ("x", "y", "z")):
            kind = "u32"
        elif name in SPECIAL_PRED:
            kind = "pred"
        else:
            raise ValueError(f"name {name}: not declared, and not a special register that is implemented")
        reg = self.specials[name] = Reg(name, kind)
        return reg

    def _resolve_label(self, operand, scope: _Scope, inst: Instruction):
        if isinstance(operand, Symbol) and operand.space == "label" and "@" not in operand.name:
            found = scope.find(operand.name)
            if not (isinstance(found, Symbol) and found.space == "label"):
                raise PtxSyntaxError(
                    f"name {operand.name}: not declared", line=inst.line, text=inst.text, column=inst.column
                )
            return found
        return operand

    # Declarations.

    def _declare_registers(self, statement: str, scope: _Scope, start: int) -> None:
        match = re.match(r"\.reg\s+\.(\w+)\s+(.*)", statement, re.S)
        if not match:
            raise self.error("register declaration without a type or names", statement, start)
        kind = match[1]
        if kind in ("v2", "v4"):
            raise self.error("vector registers are not implemented", statement, start)
        if kind != "b128":
            try:
                type_bytes(kind)
            except ValueError as error:
                raise self.error(str(error), statement, start) from None
        for item in split(match[2]):
            variable = _VARIABLE.match(item.strip())
            if not variable or variable[3]:
                raise self.error(f"register declaration {item!r} cannot be read", statement, start)
            if variable[2]:
                scope.ranges[variable[1]] = (int(variable[2]), kind)
            else:
                scope.names[variable[1]] = Reg(variable[1], kind)

    def _declare(self, statement: str, scope: _Scope, into: list[Variable], start: int) -> None:
        head, _, initial = statement.partition("=")
        words = head.replace(".ptr", " .ptr ").split()
        space, align, kind, extern, name = "", 0, "", False, ""
        position = 0
        while position < len(words):
            word = words[position]
            if word == ".align":
                # `.ptr .align n` describes what a parameter points to, not the parameter.
                position += 1
                given = self.number(words[position] if position < len(words) else "", ".align", start)
                if ".ptr" not in words[:position]:
                    align = given
            elif word in (".shared", ".local", ".param", ".const", ".global"):
                space = space or word[1:]
            elif word == ".extern":
                extern = True
            elif word in (".visible", ".weak", ".ptr", ".common"):
                pass
            elif word.startswith("."):
                kind = word[1:]
            else:
                name += word
            position += 1
        match = _VARIABLE.match(name)
        if not match or not space or not kind:
            raise self.error("declaration cannot be read", statement, start)
        try:
            element = type_bytes(kind)
        except ValueError as error:
            raise self.error(str(error), statement, start) from None
        count = 1
        for size in re.findall(r"\[(\d*)\]", match[3]):
            count *= int(size or 0)
        try:
            data = initial_bytes(initial, kind, element * count) if initial else None
        except ValueError as error:
            raise self.error(str(error), statement, start) from None
        nbytes = len(data) if data is not None and count == 0 else element * count
        variable = Variable(match[1], space, align or element, nbytes, data, extern)
        scope.names[match[1]] = variable
        into.append(variable)
