"""The micro-operations of the compiled engine.

A micro-operation is a row of int32: [operation, guard, operand 0 ... operand 5]; an operation on registers
keeps its immediate in the last column, whatever the number of its operands. Operation numbers are
`family * 64 + k`, so that the engine finds the family's function by a shift. `guard` is 0 for none, else
the predicate row + 1, negative for `@!p`.

`SIGNATURES[operation]` has one letter per operand:
    d D   destination row of the r32 / r64 file
    r R   source row of the r32 / r64 file
    v V   offset in the auxiliary table of a counted list of r32 / r64 destination rows
    s S   the same for source rows
    i     immediate integer
    t     branch target (micro-op index)
"""

from __future__ import annotations

COLUMNS = 8
FAMILY_SHIFT = 6

SIGNATURES: dict[int, str] = {}
NAMES: dict[int, str] = {}

_FAMILIES = {
    "CONTROL": """
        NOP: | BRA: t | EXIT: | CONVERGE: r | CONVERGE_ALL: | HANDLER: ivVsSi | TRAP: | CLOCK: d
        CLOCK64: D | YIELD: | FENCE: i | SETTLE: i
    """,
    "INT32": """
        MOV: dr | ADD: drr | SUB: drr | MUL: drr | MULHI_S: drr | MULHI_U: drr | MAD: drrr
        AND: drr | OR: drr | XOR: drr | NOT: dr | SHL: drr | SHR_U: drr | SHR_S: drr
        MIN_S: drr | MIN_U: drr | MAX_S: drr | MAX_U: drr | NEG: dr | ABS: dr | SELP: drrr
        SEQ: drr | SNE: drr | SLT_S: drr | SLE_S: drr | SLT_U: drr | SLE_U: drr
        LOP3: drrri | PRMT: drrri | SHF_L: drrri | SHF_R: drrri | POPC: dr | CLZ: dr | BREV: dr
        BFE_U: drrr | BFE_S: drrr | BFI: drrrr | DIV_S: drr | DIV_U: drr | REM_S: drr | REM_U: drr
        SEXT8: dr | SEXT16: dr | ZEXT8: dr | ZEXT16: dr | CARRY: drr | BFIND_U: dri | PACK16: drr | HIGH16: dr
        BMSK: drri | DP4A: drrri
    """,
    "INT64": """
        XMOV: DR | XADD: DRR | XSUB: DRR | XMUL: DRR | XMULHI_S: DRR | XMULHI_U: DRR | XMAD: DRRR
        XAND: DRR | XOR64: DRR | XXOR: DRR | XNOT: DR | XSHL: DRr | XSHR_U: DRr | XSHR_S: DRr
        XMIN_S: DRR | XMIN_U: DRR | XMAX_S: DRR | XMAX_U: DRR | XNEG: DR | XABS: DR | XSELP: DRRr
        XSEQ: dRR | XSNE: dRR | XSLT_S: dRR | XSLE_S: dRR | XSLT_U: dRR | XSLE_U: dRR
        XPOPC: dR | XCLZ: dR | XBREV: DR | XDIV_S: DRR | XDIV_U: DRR | XREM_S: DRR | XREM_U: DRR
        MULW_S: Drr | MULW_U: Drr | MADW_S: DrrR | MADW_U: DrrR
        PACK64: Drr | LOW32: dR | HIGH32: dR | SEXT64: Dr | ZEXT64: Dr | XBFE_U: DRrr | XBFE_S: DRrr
        XBFI: DRRrr | XBFIND_U: dRi | XCARRY: dRR
    """,
    "F32": """
        FADD: drr | FSUB: drr | FMUL: drr | FFMA: drrr | FMIN: drr | FMAX: drr | FMIN_NAN: drr | FMAX_NAN: drr
        FEQ: drr | FLT: drr | FLE: drr | FNUM: drr | FEQU: drr | FLTU: drr | FLEU: drr | FNEQ: drr
        FTZ: dr | FSAT: dr | EX2: dr | LG2: dr | RCP: dr | RSQRT: dr | SQRT: dr | FDIV: drr
        SIN: dr | COS: dr | TANH: dr | FADD2: DRR | FMUL2: DRR | FFMA2: DRRR | FSUB2: DRR | FTZ2: DR
        FADD_R: drri | FMUL_R: drri | FFMA_R: drrri | FRELU: dr | FRND: dri | FADD2_R: DRRi
        FMUL2_R: DRRi | FFMA2_R: DRRRi | RCP_R: dri | SQRT_R: dri | FDIV_R: drri
    """,
    "F64": """
        DADD: DRR | DSUB: DRR | DMUL: DRR | DFMA: DRRR | DMIN: DRR | DMAX: DRR | DDIV: DRR | DSQRT: DR
        DEQ: dRR | DLT: dRR | DLE: dRR | DNUM: dRR | DEQU: dRR | DLTU: dRR | DLEU: dRR | DNEQ: dRR
        DRND: DRi | DRSQRT: DR | HADD: drri | HMUL: drri | HFMA: drrri | HMIN: drri | HMAX: drri
        HMIN_NAN: drri | HMAX_NAN: drri | HEX2: dri | HTANH: dri | HSET: drri | HCANON: dri | HRELU: dri
    """,
    "CONVERT": """
        F32_S32: dri | F32_U32: dri | F32_S64: Dri | F32_U64: Dri | F64_S32: dRi | F64_U32: dRi | F64_S64: DRi
        F64_U64: DRi | S32_F32: dri | U32_F32: dri | S64_F32: dRi | U64_F32: dRi | S32_F64: Dr | U32_F64: Dr
        S64_F64: DRi | U64_F64: DRi | F32_F64: Dr | F64_F32: dRi | F16_F32: dr | BF16_F32: dr | F32_F16: dri
        F32_BF16: dri | F32_TF32: dri | F32_E4M3: dr | F32_E5M2: dr | E4M3_F16: dr | E5M2_F16: dr
        F64_F16: dRi | F64_BF16: dRi | CLAMP_S: drrr | CLAMP_U: drr | XCLAMP_S: DRRR | XCLAMP_U: DRR
        F32_E2M1: dr | F32_UE8M0: dri | UE8M0_BF16: dr | E2M1_F16: dr
        CVT_F16: dr | CVT_BF16: dr | CVT_S32_F32: dr | CVT_U32_F32: dr | CVT_F64_F32: dR
    """,
    "MEMORY": """
        ADDR32: riii | ADDR64: Riii | LD: vi | LDX: Vi | ST: si | STX: Si | ATOM: drrii | XATOM: DRRii
    """,
    "WARP": """
        SHFL: ddrrri | VOTE: dri | MATCH_ANY: dr | MATCH_ALL: ddr | XMATCH_ANY: dR | XMATCH_ALL: ddR
        REDUX: drii | ELECT: dd | ACTIVE: d
    """,
    "BARRIER": """
        MB_INIT: rr | MB_INVAL: r | MB_ARRIVE: Drri | MB_EXPECT: rri | MB_COMPLETE: rri | MB_TRY: drr
        MB_TRY_STATE: drR | MB_TEST: drr | MB_TEST_STATE: drR | MB_COUNT: dR
        BAR_SYNC: rri | BAR_ARRIVE: rri | BAR_RED: drrri | CLUSTER_ARRIVE: i | CLUSTER_WAIT:
    """,
}


def _define() -> None:
    for family, (family_name, listing) in enumerate(_FAMILIES.items()):
        globals()[family_name] = family
        items = [item for line in listing.strip().splitlines() for item in line.split("|")]
        for k, item in enumerate(items):
            name, _, signature = item.partition(":")
            if k >= 1 << FAMILY_SHIFT or len(signature.strip()) > COLUMNS - 2:
                raise ValueError(f"micro-op {name.strip()}: family or signature too large")
            operation = family << FAMILY_SHIFT | k
            globals()[name.strip()] = operation
            SIGNATURES[operation] = signature.strip()
            NAMES[operation] = name.strip()


_define()
