"""The mistakes in the kernels of softmax and its gradient."""

from tests.ladders.wrong.edit import Edit

LONG_ROW = "rows=2,cols=20000"  # for a cluster

SWAPPED = (
    Edit(
        "softmax_backward",
        "row_in_registers",
        "group_reduce(sum, Add(), lanes)",
        "group_reduce(sum, Add(), lanes / 2)",
        shape="rows=9,cols=64",
        file="softmax_backward_row_in_registers.cu",
    ),
)

UNGUARDED = (
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
)

WRONG_FORMULA = (
    Edit("softmax", "naive", "const float inverse = 1.0f / sum", "const float inverse = sum"),
    Edit(
        "softmax_backward",
        "block_per_row",
        "sum += term(p, dy[col], y[col])",
        "sum = term(p, dy[col], y[col])",
        behind="softmax_backward_block_per_row_kernel(",
    ),
)

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
        "softmax",
        "online",
        '{"online", softmax_online}',
        '{"online", softmax_online, {.options = "log"}}',
        shape="rows=9,cols=100 log",
        says=r"worst +out\[",
    ),
)
