"""The mistakes in the kernels of matmul."""

from tests.ladders.wrong.edit import Edit

CHUNKS = "M=136,N=144,K=136"  # rows of whole chunks; a ring of four stages begins again
PARTS = "M=20,N=136,K=904"  # whose k is split

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
)

# Unchecked launches: one that fails, and one in which the simulator finds something.
UNCHECKED = (
    Edit("matmul", "naive", "CUDA_CHECK_LAUNCH(matmul_naive_kernel);", ""),
    Edit("matmul", "naive", "block(NAIVE_TILE, NAIVE_TILE)", "block(99, 99)"),
    Edit("matmul", "coalesced", "CUDA_CHECK_LAUNCH(matmul_coalesced_kernel);", ""),
    Edit(
        "matmul",
        "coalesced",
        "if (row >= p.M || col >= p.N) return;",
        "",
        behind="matmul_coalesced_kernel(",
    ),
)
