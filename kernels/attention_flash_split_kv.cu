// attention_flash_split_kv.cu: few queries, many keys (fp16, bf16). The contract is in attention.cu;
// tiles, fragments and masks as bands are in attention_mma.cuh and mma_tiles.cuh.
//
// Rungs
//   flash_split_kv  the keys divided among blocks, whose results are merged by their log-sum-exp
#include "attention_mma.cuh"

// ------------------------------------------------------------------------------------------------
// flash_split_kv: a block for each part of the keys (fp16, bf16)
// Idea     While text is generated there is one query per head: as many blocks as heads, too few for
//          a GPU. So the keys are split. Parts of a softmax merge exactly: with each part's own O
//          and LSE, O = sum(exp(LSE_i - LSE) O_i).
// Changes  vs flash_mma_pipelined: a block has BM = 16 rows, and its 4 warps split a tile's keys in
//          turn; the queries of all heads that share K and V are rows of one tile, so that K and V are
//          read once for the group; STAGES.
// Bytes    K and V, 2 (D + Dv) per key and head of keys, once. Per part and row 4 Dv written, 4 Dv
//          read: at 256 keys per part and 8 rows, 6% more.
// Shape    128 threads; 100 KiB smem for D = 64 and 128, of which 64 are in flight, and 2 blocks per
//          SM; 136 KiB for D = 256. Scratch memory, if there is more than one part: 4 (Dv + 1) bytes
//          per part and row.
// Trap     A part without a visible key has LSE = -inf: its weight is exp(-inf - LSE) = 0, unless all
//          parts are so, and LSE too.
// Declines more than 64 rows: they fill tiles of their own.
// Next     The parts are equal in keys, not in what a mask leaves of them.
constexpr int SPLIT_KV_BN = 64;         // tunable: 64, 128
constexpr int SPLIT_KV_STAGES = 3;      // tunable: 2, 3, 4
constexpr int SPLIT_KV_LEAST = 4;       // tiles of keys in a part. tunable: 2, 4, 8
constexpr int SPLIT_KV_MOST_ROWS = 64;  // queries of the heads that share K and V

template <class T, int D>
using SplitShape =
    MmaShape<T, D, 16, D == 64 ? 2 * SPLIT_KV_BN : SPLIT_KV_BN, 16, Banks::swizzled, 4>;

// The part of the launch that does not depend on the types.
struct Parts {
  int count;       // parts of the keys
  int tile_count;  // tiles of keys in each
  float *O, *LSE;  // [count, B, H, Nq, Dv] and [count, B, H, Nq]; nullptr if there is one part
};

template <class Shape>
struct SplitSmem {
  static constexpr int STAGES = Shape::D == 256 ? 2 : SPLIT_KV_STAGES;
  struct Stage {
    char K_smem[Shape::KTile::BYTES];
    char V_smem[Shape::VTile::BYTES];
  };
  // What a warp has of O, not yet normalised.
  struct Share {
    float O[16][Shape::D + 4];
    float base[16], l[16];  // the maximum, in units of log2, and the sum
  };
  static constexpr int WARPS = Shape::NUM_THREADS / 32;
  char Q_smem[Shape::QTile::BYTES];
  union {
    Stage stages[STAGES];
    Share shares[WARPS];  // when all tiles are done
  };
};

// Row r of the tile is query r % Nq of the head r / Nq among those that share K and V.
template <class T>
struct PackedRows {
  int first, count;  // rows of this block, of all
  int64_t head;      // the first one
  __device__ int query(const Attention<T>& p, int row) const { return (first + row) % p.Nq; }
  __device__ int64_t head_of(const Attention<T>& p, int row) const {
    return head + (first + row) / p.Nq;
  }
  __device__ bool has(int row) const { return first + row < count; }
};

// Copies the rows of Q, 16 bytes of each at a time, element by element.
template <class Shape, class T>
__device__ __noinline__ void load_packed_rows(char* Q_smem, const Attention<T>& p,
                                              PackedRows<T> rows) {
  using QTile = typename Shape::QTile;
#pragma unroll 1
  for (int i = threadIdx.x; i < QTile::ROWS * QTile::CHUNKS; i += Shape::NUM_THREADS) {
    const int row = i / QTile::CHUNKS, d = i % QTile::CHUNKS * QTile::PER_CHUNK;
    Chunk<T> chunk = {};
    if (rows.has(row)) {
      const T* from = p.head(rows.head_of(p, row)).Q + rows.query(p, row) * p.q.row + d;
      for (int e = 0; e < QTile::PER_CHUNK; ++e) {
        if (d + e < p.D) chunk.element[e] = from[e];
      }
    }
    *reinterpret_cast<Chunk<T>*>(Q_smem + QTile::offset(row, i % QTile::CHUNKS)) = chunk;
  }
}

// Merges what the warps have of each row and writes it: O and LSE, or this part's.
template <class Shape, class T, class Smem>
__device__ __noinline__ void merge_warps(const Attention<T>& p, PackedRows<T> rows, Parts parts,
                                         int part, const Smem& smem) {
  for (int row = threadIdx.x / 32; row < 16; row += Smem::WARPS) {
    if (!rows.has(row)) continue;
    float base = -INFINITY, l = 0, weight[Smem::WARPS];
    for (const auto& share : smem.shares) base = fmaxf(base, share.base[row]);
    base = exponent_base(base);
#pragma unroll
    for (int w = 0; w < Smem::WARPS; ++w) {
      weight[w] = ex2(smem.shares[w].base[row] - base);
      l += weight[w] * smem.shares[w].l[row];
    }
    const float inverse = l == 0 ? 0.0f : 1 / l;
    const int64_t head = rows.head_of(p, row);
    const int query = rows.query(p, row);
    const int64_t index = part * p.heads() * p.Nq + head * p.Nq + query;  // of the partial result
    for (int d = threadIdx.x % 32; d < p.Dv; d += 32) {
      float sum = 0;
#pragma unroll
      for (int w = 0; w < Smem::WARPS; ++w) sum += weight[w] * smem.shares[w].O[row][d];
      if (parts.O != nullptr) {
        parts.O[index * p.Dv + d] = sum * inverse;
      } else {
        p.head(head).O[query * p.o.row + d] = T(sum * inverse);
      }
    }
    const float lse = l == 0 ? -INFINITY : base * float(LN_2) + logf(l);
    if (threadIdx.x % 32 == 0) {
      (parts.LSE != nullptr ? parts.LSE[index] : p.head(head).LSE[query]) = lse;
    }
  }
}

// Blocks: x parts, y tiles of rows, z heads of keys of all batches.
template <class Shape>
__global__ __launch_bounds__(Shape::NUM_THREADS) void attention_flash_split_kv_kernel(
    const __grid_constant__ Attention<typename Shape::T> p, const Parts parts) {
  if constexpr (SINCE_SM_80) {
    using T = typename Shape::T;
    using KTile = typename Shape::KTile;
    using VTile = typename Shape::VTile;
    using Smem = SplitSmem<Shape>;
    constexpr int BN = Shape::BN, NUM_THREADS = Shape::NUM_THREADS, STAGES = Smem::STAGES;
    extern __shared__ __align__(128) char memory[];
    Smem& smem = *reinterpret_cast<Smem*>(memory);

    const int part = blockIdx.x, warp_key = threadIdx.x / 32 * Shape::WARP_KEYS;
    const PackedRows<T> rows = {static_cast<int>(blockIdx.y * 16), p.group * p.Nq,
                                int64_t{blockIdx.z} * p.group};
    const Head<T> head = p.head(rows.head);
    const Rows<const T> K = {head.K, p.k.row, p.Nk, p.D}, V = {head.V, p.v.row, p.Nk, p.Dv};
    const bool aligned = K.aligned() && V.aligned();
    const Band band(p.rule, p.Nq, p.Nk);
    const Scale scale(p.scale);
    // Its queries, from q0 up to q1 - 1: all of them, where its rows are of several heads.
    const int last = min(rows.first + 16, rows.count) - 1;
    const bool one_head = rows.first / p.Nq == last / p.Nq;
    const int q0 = one_head ? rows.first % p.Nq : 0, q1 = one_head ? last % p.Nq + 1 : p.Nq;
    // Its tiles of keys: those of its part that any query sees.
    const int64_t begin = int64_t{part} * parts.tile_count * BN;
    const int end = static_cast<int>(
        min(begin + int64_t{parts.tile_count} * BN, int64_t{band.end_of_keys(q1, p.Nk)}));
    const auto visible_from = [&](int k0) {
      while (k0 < end && !band.sees_any(q0, q1, k0, min(k0 + BN, p.Nk))) k0 += BN;
      return k0;
    };
    const auto fill = [&](int stage, int k0) {
      auto& [K_smem, V_smem] = smem.stages[stage];
      if (k0 < end) {
        start_copy<KTile, NUM_THREADS>(K_smem, K, k0, aligned);
        start_copy<VTile, NUM_THREADS>(V_smem, V, k0, aligned);
      }
      cp_async_commit();  // even if there is nothing: the number in flight says which have arrived
    };

    const int first = static_cast<int>(min(begin, int64_t{p.Nk}));
    int k0 = visible_from(max(first, band.first_key(q0) / BN * BN)), ahead = k0;
#pragma unroll
    for (int stage = 0; stage < STAGES - 1; ++stage) {
      fill(stage, ahead);
      ahead = visible_from(ahead + BN);
    }
    load_packed_rows<Shape>(smem.Q_smem, p, rows);

    WarpAttention<Shape> warp;
    int stage = 0;
    while (k0 < end) {
      cp_async_wait<STAGES - 2>();
      __syncthreads();  // this trip's tiles are complete, and no warp still reads those before
      fill(stage == 0 ? STAGES - 1 : stage - 1, ahead);
      ahead = visible_from(ahead + BN);
      const auto& [K_smem, V_smem] = smem.stages[stage];
      warp.multiply_q_k(smem.Q_smem, K_smem + warp_key * KTile::ROW_BYTES);
      scale.apply(warp);
      if (k0 + BN > p.Nk || !band.sees_all(q0, q1, k0, k0 + BN)) {
        warp.mask(band, [&](int row) { return rows.query(p, row); }, k0 + warp_key, p.Nk);
      }
      warp.softmax(scale.slope);
      warp.multiply_p_v(V_smem + warp_key * VTile::ROW_BYTES);
      stage = stage == STAGES - 1 ? 0 : stage + 1;
      k0 = visible_from(k0 + BN);
    }

    warp.add_sums();
    __syncthreads();  // no warp still reads tiles, and none is on its way: shares take their place
    auto& share = smem.shares[threadIdx.x / 32];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = warp.query() + 8 * half;
#pragma unroll
      for (int n = 0; n < warp.DT; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          share.O[row][8 * n + warp.key() + e] = warp.acc_o[0][n][2 * half + e];
        }
      }
      const bool sees_any = warp.l[0][half] != 0;  // a share of nothing has no weight
      share.base[row] = sees_any ? exponent_base(warp.m[0][half]) * scale.slope : -INFINITY;
      share.l[row] = warp.l[0][half];
    }
    __syncthreads();  // the shares are complete
    merge_warps<Shape>(p, rows, parts, part, smem);
  }
}

// One warp per row: merges the parts.
template <class T>
__global__ void attention_merge_parts_kernel(const __grid_constant__ Attention<T> p,
                                             const Parts parts) {
  const int64_t rows = p.heads() * p.Nq;
  const int64_t row = int64_t{blockIdx.x} * (blockDim.x / 32) + threadIdx.x / 32;
  if (row >= rows) return;
  float largest = -INFINITY;
  for (int i = 0; i < parts.count; ++i) largest = fmaxf(largest, parts.LSE[i * rows + row]);
  const float base = exponent_base(largest);
  float l = 0;
  for (int i = 0; i < parts.count; ++i) l += expf(parts.LSE[i * rows + row] - base);
  const Head<T> head = p.head(row / p.Nq);
  const int query = row % p.Nq;
  for (int d = threadIdx.x % 32; d < p.Dv; d += 32) {
    float sum = 0;
    for (int i = 0; i < parts.count; ++i) {
      const int64_t index = i * rows + row;
      sum += expf(parts.LSE[index] - base) * parts.O[index * p.Dv + d];
    }
    head.O[query * p.o.row + d] = T(l == 0 ? 0.0f : sum / l);
  }
  if (threadIdx.x % 32 == 0) head.LSE[query] = l == 0 ? -INFINITY : base + logf(l);
}

// The fewest parts that keep the SMs at least 85% as busy as the best number would (the rule of
// FlashAttention-3). Blocks run in waves; those of the last leave some SMs idle.
static int choose_parts(int64_t blocks, int tiles, int slots) {
  const int most = max(1, min(128, tiles / SPLIT_KV_LEAST));
  const auto busy = [&](int parts) {
    const int64_t all = blocks * parts;
    return static_cast<double>(all) / (ceil_div<int64_t>(all, slots) * slots);
  };
  double best = 0;
  for (int parts = 1; parts <= most; ++parts) best = max(best, busy(parts));
  int parts = 1;
  while (busy(parts) < 0.85 * best) ++parts;
  return parts;
}

// How many blocks run at a time on the whole GPU: two on an SM, if its shared memory holds them.
static int blocks_at_once(int smem_bytes) {
  int device = 0, count = 0, bytes = 0;
  CUDA_CHECK(cudaGetDevice(&device));
  CUDA_CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  CUDA_CHECK(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device));
  return count * (2 * smem_bytes <= bytes ? 2 : 1);
}

template <class Shape>
static void launch_flash_split_kv(const AttentionProblem& problem, cudaStream_t stream) {
  using T = typename Shape::T;
  const Attention<T> p = lowered<T>(problem);
  const int64_t rows = p.heads() * p.Nq;
  if (rows == 0) return;
  const int64_t kv_heads = p.heads() / p.group;
  const int row_tiles = ceil_div(p.group * p.Nq, 16), tiles = ceil_div(p.Nk, Shape::BN);
  constexpr int SMEM_BYTES = sizeof(SplitSmem<Shape>);
  Parts parts = {};
  parts.count = choose_parts(kv_heads * row_tiles, tiles, blocks_at_once(SMEM_BYTES));
  parts.tile_count = max(1, ceil_div(tiles, parts.count));
  if (parts.count > 1) {
    parts.O = static_cast<float*>(problem.workspace(parts.count * rows * p.Dv * sizeof(float)));
    parts.LSE = static_cast<float*>(problem.workspace(parts.count * rows * sizeof(float)));
  }
  const auto kernel = attention_flash_split_kv_kernel<Shape>;
  allow_shared_memory(kernel, SMEM_BYTES);
  const dim3 grid(parts.count, row_tiles, static_cast<unsigned>(kv_heads));
  kernel<<<grid, Shape::NUM_THREADS, SMEM_BYTES, stream>>>(p, parts);
  CUDA_CHECK_LAUNCH(attention_flash_split_kv_kernel);
  if (parts.count == 1) return;
  constexpr int NUM_THREADS = 128;
  const auto blocks = static_cast<unsigned>(ceil_div<int64_t>(rows, NUM_THREADS / 32));
  attention_merge_parts_kernel<T><<<blocks, NUM_THREADS, 0, stream>>>(p, parts);
  CUDA_CHECK_LAUNCH(attention_merge_parts_kernel);
}

// Calls run with a value of the Shape for the problem's type and head dimensions.
template <class Run>
static void with_split_shape(const AttentionProblem& p, Run run) {
  with_16_bit_type(p, [&](auto type) {
    using T = decltype(type);
    if (larger_D(p) <= 64) return run(SplitShape<T, 64>());
    if (larger_D(p) <= 128) return run(SplitShape<T, 128>());
    run(SplitShape<T, 256>());
  });
}

const char* attention_flash_split_kv_declines(const AttentionProblem& p) {
  if (const char* why = declines_long_rows(p)) return why;
  const int64_t rows = p.Q.size[2] * p.Q.size[1] / max(int64_t{1}, p.K.size[1]);
  if (rows > SPLIT_KV_MOST_ROWS) {
    return reason("%lld queries share a head of keys, more than %d: flash_mma_pipelined",
                  static_cast<long long>(rows), SPLIT_KV_MOST_ROWS);
  }
  if (p.K.size[0] * p.K.size[1] > MAX_GRID_YZ) {
    return reason("B * Hkv is above %d: flash_mma_pipelined", static_cast<int>(MAX_GRID_YZ));
  }
  int needed = 0;
  with_split_shape(p, [&](auto shape) { needed = sizeof(SplitSmem<decltype(shape)>); });
  return declines_shared_memory(needed);
}

void attention_flash_split_kv(const AttentionProblem& p, cudaStream_t stream) {
  with_split_shape(p, [&](auto shape) { launch_flash_split_kv<decltype(shape)>(p, stream); });
}
