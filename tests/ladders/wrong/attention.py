"""The mistakes in the kernels of attention."""

from tests.ladders.wrong.edit import Edit

SHAPE = "B=1,H=2,Nq=70,Nk=100,D=40"
# Tiles that need a mask, tiles that do not, and queries that see nothing.
CAUSAL = "B=1,H=2,Nq=300,Nk=150,D=64 causal"
NO_KEYS = "B=1,H=2,Nq=70,Nk=0,D=64"
FEW = "B=1,H=4,Nq=3,Nk=900,D=64,Hkv=1"  # queries; several parts of the keys
NEAREST = "q|k|v|out|lse"  # the report names what is nearest in memory
TENSOR_CORES = ("flash_mma_pipelined", "flash_split_kv")

SWAPPED = (
    Edit(
        "attention",
        "flash",
        "&KV_smem[tx + LANES * j][d]",
        "&KV_smem[tx * TN + j][d]",
        file="attention_flash.cu",
    ),
    Edit(
        "attention",
        "flash_mma",
        "pack(pair[r % 2 * 2], pair[r % 2 * 2 + 1], T())",
        "pack(pair[r % 2 * 2 + 1], pair[r % 2 * 2], T())",
        touches=TENSOR_CORES,
        file="attention_mma.cuh",
    ),
)

UNGUARDED = (
    Edit(
        "attention",
        "flash_registers",
        "row < rows ? max(0, min(width, cols - d)) * 4 : 0",
        "max(0, min(width, cols - d)) * 4",
        tensor=NEAREST,
        line_of="cp_async_16(tile",
        file="attention_flash_registers.cu",
    ),
    Edit(
        "attention",
        "blocked",
        "row < rows && col < cols ? static_cast<Number>(matrix[row * ld + col]) : Number(0)",
        "static_cast<Number>(matrix[row * ld + col])",
        tensor=f"{NEAREST}|workspace",
        file="attention_blocked.cu",
    ),
    Edit(
        "attention",
        "fused_row",
        "key < p.Nk && tile != Visible::none",
        "tile != Visible::none",
        tensor=NEAREST,
        line_of="s[j] += q_smem[d]",
        file="attention_fused_row.cu",
    ),
    Edit(
        "attention",
        "flash_v1",
        "inside ? static_cast<Number>(src[row * ld + d]) : Number(0)",
        "static_cast<Number>(src[row * ld + d])",
        tensor=NEAREST,
        file="attention_flash_v1.cu",
    ),
    Edit(
        "attention",
        "warp_dot",
        "row < rows && d < cols ? static_cast<Number>(src[row * ld + d]) : Number(0)",
        "static_cast<Number>(src[row * ld + d])",
        tensor=NEAREST,
        file="attention_warp_dot.cu",
    ),
    Edit(
        "attention",
        "flash",
        "row0 + row < end ? static_cast<Number>(*from) : Number(0)",
        "static_cast<Number>(*from)",
        tensor=NEAREST,
        file="attention_flash.cu",
    ),
    Edit(
        "attention",
        "flash_mma",
        "const bool exists = row0 + row + i < from.count;",
        "const bool exists = true;",
        touches=TENSOR_CORES,
        tensor=NEAREST,
        line_of="cp_async_16(",
        file="attention_mma.cuh",
    ),
    Edit(
        "attention",
        "flash_mma_pipelined",
        "row0 + row < from.count ? from.columns - chunk * Tile::PER_CHUNK : 0",
        "from.columns - chunk * Tile::PER_CHUNK",
        touches=("flash_mma", "flash_split_kv"),
        layout="padded",
        tensor=NEAREST,
        line_of="if (e < count) elements.element[e] =",
        file="attention_mma.cuh",
    ),
    Edit(
        "attention",
        "flash_mma",
        "q0 + row >= O.count || count <= 0",
        "count <= 0",
        touches=("flash_mma_pipelined",),
        shape="B=1,H=1,Nq=127,Nk=40,D=64",  # one row too many, in the guard band
        tensor="out",
        line_of="*reinterpret_cast<Chunk<T>*>(to) = *from;",
        file="attention_mma.cuh",
    ),
    Edit(
        "attention",
        "flash_split_kv",
        "if (row >= rows) return;",
        "",
        shape="B=1,H=3,Nq=1,Nk=900,D=64,Hkv=1",  # a warp too many
        tensor="workspace",
        line_of="largest = fmaxf(",
        file="attention_flash_split_kv.cu",
    ),
)

WRONG_FORMULA = (
    Edit(
        "attention",
        "flash_split_kv",
        "max(first, band.first_key(q0) / BN * BN)",
        "max(first, band.first_key(q0) / BN * BN + BN)",
        shape="B=1,H=4,Nq=3,Nk=900,D=64,Hkv=1 causal window=50",
        file="attention_flash_split_kv.cu",
    ),
    Edit(
        "attention",
        "flash_registers",
        "acc_o[i][c] *= alpha",
        "acc_o[i][c] *= 1.0f",
        file="attention_flash_registers.cu",
    ),
    Edit(
        "attention",
        "blocked",
        "acc * p.scale + p.bias",
        "acc + p.bias",
        file="attention_blocked.cu",
    ),
    Edit(
        "attention",
        "fused_row",
        "const Number weight = exp2(s - base);",
        "const Number weight = exp2(s);",
        shape="B=1,H=2,Nq=70,Nk=100,D=32 scale=30",
        file="attention_fused_row.cu",
    ),
    Edit(
        "attention",
        "flash_v1",
        "keep_smem[r] = l_old * alpha * inverse;",
        "keep_smem[r] = alpha * inverse;",
        file="attention_flash_v1.cu",
    ),
    Edit(
        "attention",
        "warp_dot",
        "acc_o[i][c] * alpha + prob",
        "acc_o[i][c] + prob",
        file="attention_warp_dot.cu",
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
        "shown >> (i * TN + j) & 1",
        "shown >> (i * TN + j + 1) & 1",
        shape="B=1,H=1,Nq=40,Nk=40,D=32 causal",
        file="attention_flash.cu",
    ),
    Edit(
        "attention",
        "flash_mma",
        "d >= low && d <= band.high",
        "d > low && d <= band.high",
        touches=TENSOR_CORES,
        shape=CAUSAL,
        file="attention_mma.cuh",
    ),
    Edit(
        "attention",
        "flash_mma_pipelined",
        "distance(q1 - 1, k0));",
        "distance(q1 - 2, k0));",
        touches=("flash_mma", "flash_split_kv"),
        shape="B=1,H=1,Nq=129,Nk=129,D=64 causal",
        file="attention_mma.cuh",
    ),
    Edit(
        "attention",
        "flash_mma",
        "acc_o[i][n][e] *= alpha[e / 2]",
        "acc_o[i][n][e] *= 1.0f",
        touches=TENSOR_CORES,
        file="attention_mma.cuh",
    ),
    Edit(
        "attention",
        "flash_mma",
        "p.q_starts[s + 1] - q",
        "p.q_starts[s + 1] - q - 1",
        touches=TENSOR_CORES,
        shape="B=1,H=1,Nq=300,Nk=300,D=64 cu_seqlens_q=3",
        file="attention_mma.cuh",
    ),
    Edit(
        "attention",
        "flash_split_kv",
        "l += weight[w] * smem.shares[w].l[row]",
        "l += smem.shares[w].l[row]",
        shape=FEW,
        file="attention_flash_split_kv.cu",
    ),
    Edit(
        "attention",
        "flash_split_kv",
        "sum += expf(parts.LSE[index] - base) * parts.O",
        "sum += parts.O",
        shape=FEW,
        file="attention_flash_split_kv.cu",
    ),
)

TOO_MUCH = (
    Edit(
        "attention",
        "flash",
        "if (const char* why = declines_long_rows(p)) return why;",
        "",
        shape="B=1,H=1,Nq=40,Nk=40,D=300",
        file="attention_flash.cu",
        says=r"worst +out\[",
        kernel=False,
    ),
)
