"""The mistakes of test_wrong_kernels.py: replacements in ladder files.

Every edit replaces exact text and fails loudly if that text is missing. Edits of different rungs
share a build.
"""

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass

from workbench.toolchain import kernels_dir

BARRIER = re.compile(
    r"(?:__sync(?:threads|warp)|cluster_(?:sync|wait)|cp_async_wait<[^>]+>)\(\);.*"
)
SHAPES = {  # with more than one tile each way and ragged edges
    "matmul": "M=70,N=75,K=85",
    "softmax": "rows=9,cols=2100",
    "softmax_backward": "rows=9,cols=2100",
    "attention": "B=1,H=2,Nq=70,Nk=100,D=32",
    "transpose": "M=80,N=144",
}
LONG_ROW = "rows=2,cols=20000"  # for a cluster
CHUNKS = "M=136,N=144,K=136"  # rows of whole chunks; a ring of four stages begins again
PARTS = "M=20,N=136,K=904"  # whose k is split


@dataclass(frozen=True)
class Edit:
    """One mistake: ``old`` becomes ``new`` in a file of the ladder of ``op``.

    Attributes:
        op: the operator.
        rung: the rung to check.
        old: the text to replace, at its first occurrence after ``behind``.
        new: what replaces it.
        behind: text before it, which identifies the function.
        touches: other rungs that the edit changes: "rung" of ``op``, or "operator/rung".
        shape: the check's, with options; empty for SHAPES.
        layout: the check's; empty for the operator's first.
        tensor: the tensor that is accessed out of bounds, if one is.
        line_of: text in the line at fault, after ``behind``; empty for the edited line.
        file: in kernels/; empty for <op>.cu.
        says: a pattern that is in the report because of this edit and no other.
        kernel: whether it changes the kernel, rather than the inputs it is given.
    """

    op: str
    rung: str
    old: str
    new: str
    behind: str = ""
    touches: tuple[str, ...] = ()
    shape: str = ""
    layout: str = ""
    tensor: str = ""
    line_of: str = ""
    file: str = ""
    says: str = ""
    kernel: bool = True

    @property
    def name(self) -> str:
        return f"{self.op}-{self.rung}-{self.old} -> {self.new or 'nothing'}"

    @property
    def source(self) -> str:
        return self.file or f"{self.op}.cu"

    def changed(self) -> set[str]:
        """The rungs that the edit changes, as "operator/rung"."""
        if not self.kernel:
            return {f"{self.op}/what {self.rung} takes"}
        rungs = (self.rung, *self.touches)
        return {rung if "/" in rung else f"{self.op}/{rung}" for rung in rungs}

    def apply(self, text: str) -> str:
        start = self._find(text, self.behind, 0)
        at = self._find(text, self.old, start)
        return text[:at] + self.new + text[at + len(self.old) :]

    def line(self, text: str) -> int:
        """The line at fault, the same before and after the edit."""
        start = self._find(text, self.behind, 0)
        return text.count("\n", 0, self._find(text, self.line_of or self.old, start)) + 1

    def _find(self, text: str, part: str, start: int) -> int:
        at = text.find(part, start)
        assert at >= 0, f"{self.source} has no {part!r} after {self.behind!r}: update this test"
        return at


SWAPPED = (
    Edit(
        "matmul",
        "naive",
        "B(k, col)",
        "B(col, k)",
        behind="matmul_naive_kernel(",
        shape="M=64,N=64,K=64",
    ),
    Edit(
        "matmul",
        "tiled",
        "A_smem[ty][k] * B_smem[k][tx]",
        "A_smem[k][ty] * B_smem[k][tx]",
        touches=("tiled_16",),
    ),
    Edit(
        "matmul",
        "conflict_free",
        "threadIdx.x % 32 / 2 * 4",
        "threadIdx.x % 16 * 4",
        file="matmul_vectorized.cu",
    ),
    Edit(
        "matmul",
        "async",
        "lane / 2 % 4 * 4",
        "lane % 4 * 4",
        touches=("warp_tiles", "split_k"),
        file="matmul_warp_tiles.cuh",
    ),
    Edit(
        "matmul",
        "mma",
        "FOR_A ? i % 2 : i / 2",
        "FOR_A ? i / 2 : i % 2",
        touches=("mma_swizzled", "mma_pipelined", "mma_tuned"),
        shape=CHUNKS,
        file="mma_tiles.cuh",
    ),
    Edit(
        "matmul",
        "mma_swizzled",
        "to_ = Tile::offset(row, chunk);",
        "to_ = row * Tile::ROW_BYTES + chunk * 16;",
        touches=("mma_pipelined", "mma_tuned"),
        shape=CHUNKS,
        file="mma_tiles.cuh",
    ),
    Edit(
        "matmul",
        "wmma",
        "ROW_MAJOR, nvcuda::wmma::row_major, nvcuda::wmma::col_major",
        "ROW_MAJOR, nvcuda::wmma::col_major, nvcuda::wmma::row_major",
        shape=CHUNKS,
        file="matmul_wmma.cu",
    ),
    Edit(
        "matmul",
        "mma_tuned",
        "if (ring.left > 0) read(0);\n    warp.multiply(f[1]);",
        "warp.multiply(f[1]);\n    if (ring.left > 0) read(1);",
        shape=CHUNKS,
        file="matmul_mma_ring.cuh",
    ),
    Edit(
        "softmax_backward",
        "row_in_registers",
        "group_reduce(sum, Sum(), lanes)",
        "group_reduce(sum, Sum(), lanes / 2)",
        shape="rows=9,cols=64",
        file="softmax_backward_row_in_registers.cu",
    ),
    Edit(
        "attention",
        "flash",
        "&KV_smem[tx + LANES * j][d]",
        "&KV_smem[tx * TN + j][d]",
        file="attention_flash.cu",
    ),
    Edit(
        "transpose",
        "swizzled",
        "tile_smem[threadIdx.x][i ^ threadIdx.x]",
        "tile_smem[i][threadIdx.x]",
        shape="M=64,N=96",  # whole tiles: in a ragged one this reads unwritten memory
    ),
    Edit(
        "transpose",
        "vectorized",
        "tile_smem[i][lane ^ i / E]",
        "tile_smem[i][lane]",
        file="transpose_vectorized.cu",
    ),
)

UNGUARDED = (
    Edit(
        "matmul",
        "coalesced",
        "if (row >= p.M || col >= p.N) return;",
        "",
        behind="matmul_coalesced_kernel(",
        shape="M=95,N=64,K=40",  # one row too many, in the guard band
        tensor="a",
        line_of="acc +=",
    ),
    Edit(
        "matmul",
        "tiled",
        "row < p.M && k < p.K ? A(row, k) : T(0)",
        "A(row, k)",
        touches=("tiled_16",),
        tensor="a",
    ),
    Edit(
        "matmul",
        "tiled",
        "if (row < p.M && col < p.N) write(",
        "write(",
        touches=("tiled_16",),
        shape="M=95,N=64,K=40",  # one row too many, in the guard band
        tensor="out",
    ),
    Edit(
        "matmul",
        "thread_tile_1d",
        "if (row0 + m + i < p.M && col0 + n < p.N) write(",
        "if (col0 + n < p.N) write(",
        shape="M=63,N=64,K=40",  # one row too many, in the guard band
        tensor="out",
        line_of="write(p",
        file="matmul_thread_tiles.cu",
    ),
    Edit(
        "matmul",
        "vectorized",
        "i0 + i < rows ? cols - (k0 + k) : 0",
        "cols - (k0 + k)",
        touches=("conflict_free", "warp_tiles"),
        tensor="a",
        line_of="return {count > 0 ? p[0]",
        file="matmul.cuh",
    ),
    Edit(
        "matmul",
        "async",
        "c * APART < (WIDE ? cols_left_ : rows_left_) && (WIDE || cols_left_ > 0)",
        "cols_left_ > 0",
        touches=("split_k",),
        tensor="a",
        line_of="cp_async_4(",
        file="matmul_warp_tiles.cuh",
    ),
    Edit(
        "matmul",
        "split_k",
        "if (element >= elements) return;",
        "",
        touches=("mma_tuned",),
        shape=PARTS,
        tensor="workspace",
        line_of="sum += from[part * elements]",
        file="matmul_split_k.cuh",
    ),
    Edit(
        "matmul",
        "mma",
        "c * APART < across_left_ ? max(0, min(PER_CHUNK, along_left_)) : 0",
        "max(0, min(PER_CHUNK, along_left_))",
        touches=("wmma", "mma_swizzled", "mma_pipelined", "mma_tuned"),
        shape=CHUNKS,
        tensor="a|b",
        line_of="chunks[c] = *reinterpret_cast<const Chunk<T>*>(from(c))",
        file="mma_tiles.cuh",
    ),
    Edit(
        "matmul",
        "mma_pipelined",
        "max(0, min(PER_CHUNK, along_left_))",
        "PER_CHUNK",
        touches=("wmma", "mma", "mma_swizzled", "mma_tuned"),
        shape="M=130,N=75,K=85",
        layout="pitched",
        tensor="a|b",
        line_of="cp_async_16(",
        file="mma_tiles.cuh",
    ),
    Edit(
        "matmul",
        "mma_pipelined",
        "row < rows_left_ ? cols_left_ - chunk * PER_CHUNK : 0",
        "cols_left_ - chunk * PER_CHUNK",
        touches=("wmma", "mma", "mma_swizzled", "mma_tuned"),
        tensor="a|b",
        line_of="if (e < count) elements.element[e] =",
        file="mma_tiles.cuh",
    ),
    Edit(
        "matmul",
        "mma_tuned",
        "if (r >= rows || c >= cols) continue;",
        "if (c >= cols) continue;",
        touches=("wmma", "mma", "mma_swizzled", "mma_pipelined"),
        shape="M=31,N=64,K=40",  # one row too many, in the guard band
        tensor="out",
        line_of="[(r * next_row + c) / 4] = narrow;",
        file="matmul_mma.cuh",
    ),
    Edit(
        "softmax",
        "naive",
        "if (row >= p.rows) return;",
        "",
        tensor="x",
        line_of="m = fmaxf(",
    ),
    Edit(
        "softmax",
        "coarsened",
        "col + (COARSENING - 1) * NUM_THREADS < cols",
        "col < cols",
        touches=("warp_shuffles", "online"),
        shape="rows=1,cols=2298",  # so that writes out of bounds hit no other row
        tensor="x",
        line_of="x_frag[i] = x[col",
    ),
    Edit(
        "softmax_backward",
        "naive",
        "if (row >= p.rows) return;",
        "",
        tensor="dy|y",
        line_of="sum += term(",
    ),
    Edit(
        "softmax_backward",
        "vectorized",
        "if (threadIdx.x < split.edges) {",
        "{",
        behind="softmax_backward_vectorized_kernel(",
        shape="rows=1,cols=2101",  # so that reads out of bounds hit no other row
        tensor="dy|y",
        line_of="sum = term(",
        file="softmax_backward_vectorized.cu",
    ),
    Edit(
        "softmax_backward",
        "row_in_registers",
        "exists ? p.cols : 0",
        "p.cols",
        shape="rows=9,cols=64",  # eight rows per block
        tensor="dy|y",
        line_of="dy_frag[v] = load_vector(",
        file="softmax_backward_row_in_registers.cu",
    ),
    Edit(
        "transpose",
        "naive",
        "if (m < p.M && n < p.N) tile.y",
        "if (n < p.N) tile.y",
        shape="M=95,N=64",  # one row too many, in the guard band
        tensor="x|out",
    ),
    Edit(
        "attention",
        "flash",
        "row < rows ? src[row * ld + d] : 0.0f",
        "src[row * ld + d]",
        tensor="q|k|v",
        file="attention_flash.cu",
    ),
)

WRONG_FORMULA = (
    Edit(
        "matmul",
        "thread_tile",
        "k0 + k < cols ? value : T(0)",
        "value",
        touches=("thread_tile_1d",),
        file="matmul.cuh",
    ),
    Edit(
        "matmul",
        "split_k",
        "sum += from[part * elements]",
        "sum = from[part * elements]",
        touches=("mma_tuned",),
        shape=PARTS,
        file="matmul_split_k.cuh",
    ),
    Edit("softmax", "naive", "const float inverse = 1.0f / sum", "const float inverse = sum"),
    Edit(
        "softmax_backward",
        "block_per_row",
        "sum += term(p, dy[col], y[col])",
        "sum = term(p, dy[col], y[col])",
        behind="softmax_backward_block_per_row_kernel(",
    ),
    Edit(
        "attention",
        "flash",
        "acc_o[i][c] *= alpha",
        "acc_o[i][c] *= 1.0f",
        file="attention_flash.cu",
    ),
    Edit(
        "attention",
        "flash",
        "< seen ?",
        "<= seen ?",
        behind="attention_flash_kernel(",
        shape="B=1,H=1,Nq=40,Nk=40,D=32 causal",
        file="attention_flash.cu",
    ),
)

# The table or `declines` accepts inputs that the rung's kernel does not support.
TOO_MUCH = (
    Edit(
        "softmax",
        "row_in_registers",
        "if (!fits_in_registers(p)) {",
        "if (false) {",
        behind="softmax_row_in_registers_declines(",
        shape=LONG_ROW,
        file="softmax_row_in_registers.cu",
        says="launch",
        kernel=False,
    ),
    Edit(
        "softmax_backward",
        "row_in_registers",
        "if (!fits_in_registers(p)) {",
        "if (false) {",
        behind="softmax_backward_row_in_registers_declines(",
        shape=LONG_ROW,
        file="softmax_backward_row_in_registers.cu",
        says="launch",
        kernel=False,
    ),
    Edit(
        "softmax_backward",
        "row_in_registers",
        "tensors_aligned_alike(p) ? nullptr : NOT_ALIGNED_ALIKE",
        "nullptr",
        behind="softmax_backward_row_in_registers_declines(",
        layout="offset_dy",
        file="softmax_backward_row_in_registers.cu",
        says="misaligned",
        kernel=False,
    ),
    Edit(
        "attention",
        "flash",
        "if (D == 32 || D == 64 || D == 128) return nullptr;",
        "return nullptr;",
        shape="B=1,H=1,Nq=40,Nk=40,D=48",
        file="attention_flash.cu",
        says="D must be 32, 64 or 128",
        kernel=False,
    ),
    Edit(
        "softmax",
        "online",
        '{"online", softmax_online}',
        '{"online", softmax_online, {.options = "log"}}',
        shape="rows=9,cols=100 log",
        says=r"worst +out\[",
    ),
)

# Unchecked launches: one that fails, and one in which the simulator finds something.
UNCHECKED = (
    Edit("matmul", "naive", "CUDA_CHECK_LAUNCH(matmul_naive_kernel);", ""),
    Edit("matmul", "naive", "block(NAIVE_TILE, NAIVE_TILE)", "block(99, 99)"),  # too many
    Edit("matmul", "coalesced", "CUDA_CHECK_LAUNCH(matmul_coalesced_kernel);", ""),
    Edit(
        "matmul",
        "coalesced",
        "if (row >= p.M || col >= p.N) return;",
        "",
        behind="matmul_coalesced_kernel(",
    ),
)


# The rungs that run the barriers of a file: the one whose kernel has it, otherwise all of these, of
# which the first is checked.
BARRIER_USERS = {
    "matmul.cu": ("matmul/tiled", "matmul/tiled_16"),
    "matmul_thread_tiles.cu": ("matmul/thread_tile_1d", "matmul/thread_tile"),
    "matmul_vectorized.cu": ("matmul/vectorized", "matmul/conflict_free"),
    "matmul_warp_tiles.cu": ("matmul/warp_tiles",),
    "matmul_warp_tiles.cuh": ("matmul/async", "matmul/split_k"),
    "matmul_wmma.cu": ("matmul/wmma",),
    "matmul_mma.cuh": tuple(f"matmul/mma{r}" for r in ("", "_swizzled", "_pipelined", "_tuned")),
    "matmul_mma_ring.cuh": ("matmul/mma_pipelined", "matmul/mma_tuned"),
    "matmul_mma_pipelined.cu": ("matmul/mma_pipelined",),
    "softmax.cu": ("softmax/block_per_row", "softmax/coarsened"),
    "softmax_cub.cu": ("softmax/cub",),
    "softmax_cluster.cu": ("softmax/cluster",),
    "softmax_cluster_pipelined.cu": ("softmax/cluster_pipelined",),
    "softmax_backward_cluster.cu": ("softmax_backward/cluster",),
    "softmax.cuh": (
        "softmax_backward/block_per_row",
        "softmax_backward/vectorized",
        "softmax_backward/row_in_registers",
        "softmax/warp_shuffles",
        "softmax/online",
        "softmax/vectorized",
        "softmax/row_in_registers",
        "softmax/cluster",
        "softmax/cluster_pipelined",
    ),
    "attention_flash.cu": ("attention/flash",),
    "transpose.cu": tuple(f"transpose/{rung}" for rung in ("tiled", "padded", "swizzled")),
    "transpose_vectorized.cu": ("transpose/vectorized",),
}


@functools.cache
def barriers() -> tuple[Edit, ...]:
    """The removal of each barrier and each wait for copies, in turn."""
    edits = []
    for file, rungs in BARRIER_USERS.items():
        text = (kernels_dir() / file).read_text()
        for match in BARRIER.finditer(text):
            checked, *others = [r for r in rungs if _in_kernel(text, match.start(), r)] or rungs
            op, _, rung = checked.partition("/")
            shape = LONG_ROW if rung.startswith("cluster") else ""
            shape = CHUNKS if "mma" in rung else shape
            own = f" {op}_{rung}_kernel(const"  # kernels may have textually identical barriers
            behind = own if _in_kernel(text, match.start(), checked) else ""
            edits.append(
                Edit(op, rung, match[0], "", behind, tuple(others), shape=shape, file=file)
            )
    assert len(edits) >= 18
    return tuple(edits)


def _in_kernel(text: str, at: int, rung: str) -> bool:
    """Whether a position is in a rung's kernel. ``rung``: operator/name."""
    start = text.find(f" {rung.replace('/', '_')}_kernel(const")
    return 0 <= start < at < text.find("\n}", start)


EACH = 3  # without --full, one of this many barriers is removed,
FIRST = 1  # and what fits into this many builds is edited


# Left out of the copies of the kernels: no edit needs it, and it takes most of the time.
CUB = '    {"cub", softmax_cub},\n'
LEFT_OUT = {
    "matmul_mma.cuh": (
        "  if (p.A.dtype == DType::bfloat16) return run(bf16());\n  return run(float());\n",
        "  if (a_along_k && b_along_k) return run(k, k);\n",
        "    if (b_along_k) return run(outer, k);\n    return run(outer, outer);\n",
    ),
    "matmul_mma.cu": ("  if (p.A.dtype == DType::int8) return launch_mma<int8_t>(p, stream);\n",),
    "attention_flash.cu": (
        "  if (p.D == 64) return launch_flash<64>(p, stream);\n",
        "  if (p.D == 128) return launch_flash<128>(p, stream);\n",
    ),
    "softmax.cu": (CUB,),
    "softmax_vectors.cuh": (
        "    case DType::float64:\n      return run(double());\n",
        "    case DType::float16:\n      return run(fp16());\n",
        "    case DType::bfloat16:\n      return run(bf16());\n",
    ),
}


def copies(edits: Iterable[Edit]) -> dict[str, str]:
    """The files that a build of these edits needs, by name, still unedited."""
    cub = any(edit.source == "softmax_cub.cu" for edit in edits)
    texts = {}
    for file in kernels_dir().iterdir():
        text = file.read_text()
        for part in LEFT_OUT.get(file.name, ()):
            assert part in text, f"{file.name} has no {part!r}: update this test"
            text = text if cub and part == CUB else text.replace(part, "")
        texts[file.name] = text
    if not cub:
        del texts["softmax_cub.cu"]
    return texts


def edited(texts: dict[str, str], edits: Iterable[Edit]) -> dict[str, str]:
    """The files that the edits change, after the edits."""
    changed: dict[str, str] = {}
    for edit in edits:
        changed[edit.source] = edit.apply(changed.get(edit.source, texts[edit.source]))
    return changed


def builds(edits: Iterable[Edit]) -> list[list[Edit]]:
    """Edits packed into as few builds as possible: no two in a build change the same rung."""
    packed: list[list[Edit]] = []
    for edit in edits:
        for build in packed:
            if not any(edit.changed() & other.changed() for other in build):
                build.append(edit)
                break
        else:
            packed.append([edit])
    return packed


def of_fast_tier() -> set[Edit]:
    """What is edited without --full: every kind of mistake, but not in every rung."""
    edits = [*SWAPPED, *WRONG_FORMULA, *UNGUARDED, *TOO_MUCH, *barriers()[::EACH]]
    return {edit for build in builds(edits)[:FIRST] for edit in build}
