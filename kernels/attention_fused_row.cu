// attention_fused_row.cu: attention in one kernel, a row of scores at a time. The contract is in
// attention.cu.
//
// Rungs
//   fused_row   a block per query: its row of scores stays in shared memory
#include <limits>

#include "attention.cuh"

// ------------------------------------------------------------------------------------------------
// fused_row: the row of scores of a query in shared memory (any type)
// Idea     The softmax needs one row of scores at a time, not all of them: a block computes the row
//          of its query, the softmax of it, and from that the row of O.
// Changes  vs blocked: three kernels become one, and Nq Nk scores in memory become Nk numbers in
//          shared memory. No tiles: a block has one query, so what it loads of K and V serves once.
// Bytes    Per score, requested of global memory: a row of K and one of V, 4 (D + Dv) = 512 at D =
//          64; blocked: 52. So it is slower: 4 D FLOP for 8 D bytes are 0.5 FLOP per byte, and L2
//          serves them all, 137 GB at H = 16, N = 4096. What is saved is memory, not time.
// Shape    128 threads per query, 4 (Nk + D + 4 Dv + 8) bytes smem: 17 KiB at Nk = 4096, D = 64. No
//          scratch memory. 4 __syncthreads in all. Keys that a query does not see are not read.
// Trap     A score of -inf may be that of a key that is seen, and 0 * inf in V's row has to be NaN.
// Declines rows that exceed shared memory: 227 KiB on an H200, about 57,000 floats.
// Next     A tile of queries would share each row of K and V, but its rows of scores do not fit:
//          flash_v1 does without whole rows.
constexpr int FUSED_ROW_NUM_THREADS = 128;  // tunable: 64, 128, 256
constexpr int FUSED_ROW_LANES = 16;         // tunable: 8, 16, 32
constexpr int FUSED_ROW_TN = 4;             // tunable: 1, 2, 4, 8
constexpr int FUSED_ROW_WARPS = FUSED_ROW_NUM_THREADS / 32;

// Instead of a score of -inf: its weight is 0 too, but -inf marks keys that are not seen.
template <class Number>
constexpr Number FUSED_ROW_LOWEST = std::numeric_limits<Number>::lowest();

// Shared memory: s [Nk], q [D], o [WARPS, Dv], and what two reductions need.
static int64_t fused_row_bytes(int64_t Nk, int64_t D, int64_t Dv, int64_t bytes_of_number) {
  return (Nk + D + FUSED_ROW_WARPS * Dv + 2 * FUSED_ROW_WARPS) * bytes_of_number;
}

template <class T>
__global__ __launch_bounds__(FUSED_ROW_NUM_THREADS) void attention_fused_row_kernel(
    const __grid_constant__ Attention<T> p) {
  using Number = Sum<T>;
  constexpr int NUM_THREADS = FUSED_ROW_NUM_THREADS, WARPS = FUSED_ROW_WARPS;
  constexpr int LANES = FUSED_ROW_LANES, GROUPS = NUM_THREADS / LANES;
  constexpr int TN = FUSED_ROW_TN;
  static_assert(32 % LANES == 0, "a group of lanes is part of a warp: it adds by shuffles");
  extern __shared__ double fused_row_smem[];                   // double for its alignment
  Number* s_smem = reinterpret_cast<Number*>(fused_row_smem);  // [Nk]: scores, then weights
  Number* q_smem = s_smem + p.Nk;                              // [D]
  Number* o_smem = q_smem + p.D;                               // [WARPS, Dv]: sums of each warp
  Number* m_smem = o_smem + WARPS * p.Dv;                      // [WARPS]
  Number* l_smem = m_smem + WARPS;                             // [WARPS]

  const int query = blockIdx.x % p.Nq;
  const Head<T> head = p.head(blockIdx.x / p.Nq);
  const Number scale_log2 = p.scale * Number(LOG2_E);
  for (int d = threadIdx.x; d < p.D; d += NUM_THREADS) {
    q_smem[d] = static_cast<Number>(head.Q[query * p.q.row + d]) * scale_log2;
  }
  __syncthreads();  // q is complete

  // Scores, in units of log2: LANES lanes share TN keys and read LANES neighbouring elements of a
  // row at a time, whole sectors; then they add up their sums.
  const int tx = threadIdx.x % LANES, ty = threadIdx.x / LANES;
  Number m = -INFINITY;
  for (int k0 = 0; k0 < p.Nk; k0 += GROUPS * TN) {
    const Visible tile = visible(p, query, query + 1, k0, min(k0 + GROUPS * TN, p.Nk));
    Number s[TN] = {};
    bool sees[TN];
#pragma unroll
    for (int j = 0; j < TN; ++j) {
      const int key = k0 + ty + GROUPS * j;
      sees[j] =
          key < p.Nk && tile != Visible::none && (tile == Visible::all || p.sees(head, query, key));
    }
#pragma unroll 2
    for (int d = tx; d < p.D; d += LANES) {
#pragma unroll
      for (int j = 0; j < TN; ++j) {
        const T* k = head.K + (k0 + ty + GROUPS * j) * p.k.row;
        if (sees[j]) s[j] += q_smem[d] * static_cast<Number>(k[d]);
      }
    }
#pragma unroll
    for (int j = 0; j < TN; ++j) {
      const int key = k0 + ty + GROUPS * j;
#pragma unroll
      for (int step = LANES / 2; step > 0; step /= 2) {
        s[j] += __shfl_xor_sync(ALL_LANES, s[j], step);
      }
      s[j] = sees[j] ? s[j] + p.bias(head, query, key) * Number(LOG2_E) : -Number(INFINITY);
      m = max(m, s[j]);
      if (sees[j] && s[j] == -INFINITY) s[j] = FUSED_ROW_LOWEST<Number>;
      if (tx == 0 && key < p.Nk) s_smem[key] = s[j];
    }
  }
  m = block_reduce_shuffles(m, m_smem, Max(), -Number(INFINITY));
  const Number base = exponent_base(m);

  // Scores become weights, but -inf stays, as a mark of the keys that are left out below.
  Number l = 0;
  for (int key = threadIdx.x; key < p.Nk; key += NUM_THREADS) {
    const Number s = s_smem[key];
    if (s == -INFINITY) continue;
    const Number weight = exp2(s - base);
    s_smem[key] = weight;
    l += weight;
  }
  l = block_reduce_shuffles(l, l_smem, Add(), Number(0));

  // O: a warp takes every WARPS-th key, and a lane two columns, 32 apart: whole sectors again.
  const int warp = threadIdx.x / 32;
  for (int d = threadIdx.x % 32; d < p.Dv; d += 64) {
    const bool has_second = d + 32 < p.Dv;
    Number acc = 0, second = 0;
#pragma unroll 4
    for (int key = warp; key < p.Nk; key += WARPS) {
      const Number weight = s_smem[key];
      if (weight == -INFINITY) continue;
      const T* v = head.V + key * p.v.row;
      acc += weight * static_cast<Number>(v[d]);
      if (has_second) second += weight * static_cast<Number>(v[d + 32]);
    }
    o_smem[warp * p.Dv + d] = acc;
    if (has_second) o_smem[warp * p.Dv + d + 32] = second;
  }
  __syncthreads();  // the sums of all warps are complete

  const bool sees_none = l == 0;  // every score is -inf
  const Number inverse = sees_none ? Number(0) : 1 / l;
  for (int d = threadIdx.x; d < p.Dv; d += NUM_THREADS) {
    Number acc = 0;
    for (int w = 0; w < WARPS; ++w) acc += o_smem[w * p.Dv + d];
    head.O[query * p.o.row + d] = static_cast<T>(acc * inverse);
  }
  if (threadIdx.x == 0) {
    head.LSE[query] = sees_none ? -Number(INFINITY) : base * Number(LN_2) + log(l);
  }
}

template <class T>
static void launch_fused_row(const AttentionProblem& problem, cudaStream_t stream) {
  const Attention<T> p = lowered<T>(problem);
  const int64_t rows = p.heads() * p.Nq;
  if (rows == 0) return;
  if (rows > MAX_GRID_X) throw LaunchError("attention fused_row: B * H * Nq is above 2^31 - 1");
  const auto bytes = static_cast<int>(fused_row_bytes(p.Nk, p.D, p.Dv, sizeof(Sum<T>)));
  const auto kernel = attention_fused_row_kernel<T>;
  allow_shared_memory(kernel, bytes);
  kernel<<<static_cast<unsigned>(rows), FUSED_ROW_NUM_THREADS, bytes, stream>>>(p);
  CUDA_CHECK_LAUNCH(attention_fused_row_kernel);
}

const char* attention_fused_row_declines(const AttentionProblem& p) {
  const int64_t Nk = p.K.size[2];
  const int64_t needed =
      fused_row_bytes(Nk, p.Q.size[3], p.V.size[3], p.Q.dtype == DType::float64 ? 8 : 4);
  const int most = most_shared_memory();
  if (needed <= most) return nullptr;
  return reason(
      "a row of %lld scores and its sums need %lld bytes of shared memory; this GPU has %d",
      static_cast<long long>(Nk), static_cast<long long>(needed), most);
}

void attention_fused_row(const AttentionProblem& p, cudaStream_t stream) {
  with_type(p, [&](auto type) { launch_fused_row<decltype(type)>(p, stream); });
}
