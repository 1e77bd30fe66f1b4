"""PTX and disassemblies as instructions, lines, loops."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from workbench.estimate import GPUS, resources
from workbench.estimate.published import ladders
from workbench.listing import compiled, ptx, sass
from workbench.listing.compiled import Machine
from workbench.listing.instructions import Instruction, Place, loops

SGEMM, _ = ladders()
TILE = "tile_1d_kernel<64, 64, 8, 8>"
DISASSEMBLY = """\
	.target	sm_90a
.text.k:
	//## File "/k/a.cuh", line 15 inlined at "/k/a.cuh", line 17
	//## File "/k/a.cuh", line 17 inlined at "/k/k.cu", line 30
	//## File "/k/k.cu", line 30
        /*0000*/                   LDC R1, c[0x0][0x28] ;
	//## File "/k/k.cu", line 31
        /*0010*/              @!P0 BRA `(.L_x_0) ;
.L_x_1:
        /*0020*/                   LDS.128 R12, [R17] ;
        /*0030*/             @!UP0 UIADD3 UR4, UR4, 0x20, URZ ;
        /*0040*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0050*/               @P0 BRA `(.L_x_1) ;
.L_x_0:
        /*0060*/                   STL [R1+0x4], R5 ;
        /*0070*/                   EXIT ;
.L_x_2:
        /*0080*/                   BRA `(.L_x_2);
        /*0090*/                   NOP;
"""
LIVE = """\
                                      // | GPR   | PRED   |
        /*0000*/  LDC R1, c[0x0][0x28] ;   // |   3   |   2    |        |
        /*0020*/  LDS.128 R12, [R17] ;     // |  14   |        |        |
        /*0070*/  EXIT ;                   // |       |        |        |
"""
PTX = """\
.version 9.0
.visible .entry other(.param .u64 other_param_0)
{
	ret;
}
.visible .entry k(
	.param .u64 k_param_0
)
.maxntid 32, 1, 1
{
	.reg .pred 	%p<2>;
	.shared .align 4 .b8 _ZZ1kPfE4tile[128];
	.loc	1 30 3
	ld.param.u64 	%rd1, [k_param_0];
	.loc	1 31 3, function_name $L__info_string1, inlined_at 2 7 5
	.loc	3 9 1, function_name $L__info_string0, inlined_at 1 31 3
	add.s32 	%r1, %r1, 1; // a comment; with a semicolon
$L__BB0_1:
	.loc	2 0 9
	mov.u32 	%r2, _ZZ1kPfE4tile;
	.loc	2 8 9
	// begin inline asm
	{
	.reg .pred done;
	wait:
	mbarrier.try_wait.parity.b64 done, [%r1], %r2;
	@!done bra wait;
	}
	// end inline asm
	{
	.reg .pred done;
	wait: mbarrier.try_wait.parity.b64 done, [%r1], %r2; @!done bra wait;
	}
	{ // callseq 0, 0
	.param .b32 param0;
	call.uni (retval0),
	vprintf,
	(
	param0
	);
	} // callseq 0
	mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f1, %f2, %f3, %f4}, {%r1, %r2, %r3, %r4},
		{%r5, %r6}, {%f1, %f2, %f3, %f4};
	@%p1 bra 	$L__BB0_1;
	bra.uni 	$L__BB0_9;

$L__BB0_9:
	ret;
}
	.file	1 "/k/k.cu"
	.file	2 "/k/a.cuh"
	.file	3 "/k/b.cuh"
"""


def test_a_disassembly():
    code = sass.code(Machine(DISASSEMBLY, LIVE, "Used 18 registers"), "k", "90a")
    every = code.instructions
    assert [one.address for one in every] == [*range(0, 0x80, 0x10)]  # without the padding
    assert [one.opcode for one in every][1:5] == [
        "BRA",
        "LDS.128",
        "UIADD3",
        "BAR.SYNC.DEFER_BLOCKING",
    ]
    assert every[1].text == "@!P0 BRA .L_x_0" and every[1].target == ".L_x_0"
    chain = (Place("/k/a.cuh", 15), Place("/k/a.cuh", 17), Place("/k/k.cu", 30))
    assert every[0].places == chain
    assert {one.places for one in every[1:]} == {(Place("/k/k.cu", 31),)}
    assert [one.labels for one in every if one.labels] == [(".L_x_1",), (".L_x_0",)]
    assert [every[i].live for i in (0, 1, 2, 7)] == [3, None, 14, 0]
    (loop,) = code.loops
    assert (loop.head, loop.body) == (2, {2, 3, 4, 5})
    assert code.mix(code.inside(loop)) == "1 BAR, 1 LDS.128, 1 BRA, 1 UIADD3"
    assert [one.address for one in code.matching(code.language.local)] == [0x60]
    assert [one.address for one in code.matching(code.language.synchronises)] == [0x40]


def test_ptx():
    code = ptx.code(PTX, "k", "k", "90a")
    every = code.instructions
    names = "ld add mov mbarrier bra mbarrier bra call mma bra bra ret"
    assert [one.opcode.split(".")[0] for one in every] == names.split()
    assert every[0].text == "ld.param.u64 %rd1, [param_0]"
    assert every[2].text == "mov.u32 %r2, tile"
    assert every[7].text == "call.uni (retval0), vprintf, ( param0 )"
    assert every[8].text.endswith("{%r1, %r2, %r3, %r4}, {%r5, %r6}, {%f1, %f2, %f3, %f4}")
    assert every[1].places == (Place("/k/b.cuh", 9), Place("/k/k.cu", 31), Place("/k/a.cuh", 7))
    assert every[2].places == ()  # line 0 is none
    # The two loops that wait, in scopes with the same label, in one of the kernel.
    found = [(loop.head, loop.body) for loop in code.loops]
    assert found == [(2, {*range(2, 10)}), (3, {3, 4}), (5, {5, 6})]
    assert code.depths == (0, 0, 1, 2, 2, 2, 2, 1, 1, 1, 0, 0)


def test_ptx_of_no_kernel_and_of_an_empty_one():
    assert ptx.entries(".version 9.0\n") == {}
    assert ptx.code(".entry e()\n{\n}\n", "e", "e", "75").instructions == ()


def chain(*texts: str) -> list[Instruction]:
    """Instructions from ``label: text > target``."""
    made = []
    for i, text in enumerate(texts):
        label, _, rest = text.rpartition(": ")
        words, _, target = rest.partition(" > ")
        full = f"{words} {target}".strip()
        opcode = words.split()[-1]
        made.append(Instruction(i, full, opcode, (), (label,) if label else (), "", None))
        if target:
            made[-1] = Instruction(i, full, opcode, (), made[-1].labels, target)
    return made


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        ((), []),
        (("A", "EXIT"), []),
        (("x: A", "@P0 BRA > x"), [(0, {0, 1})]),
        (("x: BRA > x",), [(0, {0})]),
        # What rarely runs is after the end; the branch back from there is no loop,
        (("@P0 BRA > slow", "x: A", "EXIT", "slow: B", "BRA > x"), []),
        # and within a loop it belongs to that.
        (
            ("h: A", "@P0 BRA > slow", "x: B", "@P1 BRA > h", "EXIT", "slow: C", "BRA > x"),
            [(0, {0, 1, 2, 3, 5, 6})],
        ),
        # Two branches to one head; a loop inside.
        (
            ("h: A", "@P0 BRA > h", "i: B", "@P1 BRA > i", "@P2 BRA > h"),
            [(0, {0, 1, 2, 3, 4}), (2, {2, 3})],
        ),
        # Jumped into from outside: not a loop with one entry.
        (("@P0 BRA > in", "h: A", "in: B", "@P1 BRA > h", "EXIT"), []),
        # A conditional exit goes on, an unconditional one does not.
        (("x: @P0 EXIT", "@P1 BRA > x"), [(0, {0, 1})]),
        (("A", "EXIT", "x: B", "BRA > x"), [(2, {2, 3})]),
        (("x: A", "BRA > nowhere", "EXIT"), []),
    ],
)
def test_loops(texts, found):
    assert [(loop.head, loop.body) for loop in loops(chain(*texts))] == found


@pytest.mark.parametrize(
    ("opcode", "kind"),
    [
        ("LDG.E.128.CONSTANT", "LDG.128"),
        ("FFMA", "FFMA"),
        ("HMMA.16816.F32", "HMMA.16816"),
        ("HGMMA.64x256x16.F32.BF16", "HGMMA.64x256x16"),
        ("MUFU.EX2", "MUFU.EX2"),
        ("IMAD.MOV.U32", "IMAD.MOV"),
        ("LDSM.16.MT88.4", "LDSM.16.MT88.4"),
        ("BAR.SYNC.DEFER_BLOCKING", "BAR"),
    ],
)
def test_kinds(opcode, kind):
    assert sass.kind(opcode) == kind


def tile(arch: str) -> tuple[str, str]:
    """The PTX of the ladder, and the mangled name of its kernel TILE."""
    text = compiled.ptx(SGEMM.file, arch)
    (entry,) = (name for name in ptx.entries(text) if resources.display_name(name) == TILE)
    return text, entry


@pytest.mark.parametrize("arch", ["86", pytest.param("90a", marks=pytest.mark.full)])
def test_a_tile_of_the_published_ladder(arch):
    """Its source has 8 steps a tile, 64 FMAs, 8 floats of B and 64 of A; so has the code."""
    text, entry = tile(arch)
    made = compiled.machine(text, entry, arch)
    machine = sass.code(made, "tile", arch)
    (loop,) = machine.loops
    kinds = Counter(sass.kind(one.opcode) for one in machine.inside(loop))
    assert (kinds["FFMA"], kinds["BAR"], kinds["LDG"], kinds["STS"]) == (64, 2, 2, 2)
    loads = kinds["LDS"] + 2 * kinds["LDS.64"] + 4 * kinds["LDS.128"]
    assert loads == 8 + 64
    assert all(a.address + 16 == b.address for a, b in pairwise(machine.instructions))
    of_file = resources.of_file(SGEMM.file, arch)[TILE]
    assert f"Used {of_file.registers} registers" in made.report
    most = max(one.live for one in machine.instructions)
    assert 0.5 * of_file.registers < most <= of_file.registers
    (outer, *_) = (made := ptx.code(text, entry, "tile", arch)).loops
    assert sum(one.opcode == "bar.sync" for one in made.inside(outer)) == 2
    source = SGEMM.file.read_text().splitlines()
    lines = {one.places[0].line for one in machine.instructions if one.opcode == "FFMA"}
    assert all("+=" in source[number - 1] for number in lines)


@pytest.mark.full
def test_the_archs_of_all_gpus_are_known_to_the_disassembler():
    code = sass.code(compiled.machine(*tile("75"), "75"), "tile", "75")
    assert code.mix(code.inside(code.loops[0])).count("LDG") == 1
    assert {gpu.arch for gpu in GPUS.values()} == {"75", "80", "86", "89", "90a"}
