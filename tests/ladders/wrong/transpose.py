"""The mistakes in the kernels of transpose."""

from tests.ladders.wrong.edit import Edit

SWAPPED = (
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
        "transpose",
        "naive",
        "if (m < p.M && n < p.N) tile.y",
        "if (n < p.N) tile.y",
        shape="M=95,N=64",  # one row too many, in the guard band
        tensor="x|out",
    ),
)
