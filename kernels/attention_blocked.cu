// attention_blocked.cu: attention in three kernels that pass tiles through shared memory. The
// contract is in attention.cu.
//
// Rungs
//   blocked   tiled products, unfused softmax: the scores still go through memory
#include "attention.cuh"

// ------------------------------------------------------------------------------------------------
// blocked: tiled products, unfused softmax (any type)
// Idea     S = scale Q K^T + bias and O = P V by TILE x TILE tiles in shared memory: what a thread
//          loads from global memory serves the TILE threads of a row or a column.
// Changes  vs naive: the products request 1 / TILE of the numbers. Scale, mask and bias are part of
//          the first one, and LSE and rows of -inf of the softmax: five kernels become three.
// Bytes    Per score, requested of global memory at D = 64, 52 in all: S written 4, softmax 12 read
//          and 4 written, P read 4 for each TILE columns of V, 8; Q, K and V 4 D / TILE each, 24.
//          naive: 1,052. A mask saves the products of hidden tiles, but not their bytes of S: they
//          are written, as -inf, and read by the softmax like any other.
// Shape    Products: 1,024 threads, 8.1 KiB smem, 2 __syncthreads per tile, one more where a mask
//          looks at pairs. Softmax: 256 threads per row. Scratch memory: B * H * Nq * Nk floats, 4
//          GiB at B = 4, H = 16, N = 4096: half of naive's.
// Trap     exp(-inf - -inf) is NaN: 0 is subtracted from a row of -inf instead, and its sum, 0, is
//          no divisor.
// Next     S grows with Nq Nk, is written twice and read five times: fused_row keeps it on chip.
constexpr int BLOCKED_TILE = 32;              // tunable: 16, 32
constexpr int BLOCKED_SOFTMAX_THREADS = 256;  // tunable: 64, 128, 256, 512
constexpr int BLOCKED_NUM_THREADS = BLOCKED_TILE * BLOCKED_TILE;

// One element of a matrix with rows of `ld` elements; beyond its end 0, which adds nothing to a
// product.
template <class Number, class T>
__device__ Number element(const T* matrix, int64_t ld, int row, int rows, int col, int cols) {
  return row < rows && col < cols ? static_cast<Number>(matrix[row * ld + col]) : Number(0);
}

// A block per tile of S [B, H, Nq, Nk], one score per thread, in units of log2.
//
//            d ->          tx: keys       Lanes differ in tx. They read one Q_smem[ty][d], a
//        +----------+    +----------+      broadcast, and a column of K_smem, whose rows are padded
//   ty   |  Q_smem  | -> |    S     |      by 1: 32 lanes, 32 banks.
//        +----------+    +----------+
template <class T>
__global__ __launch_bounds__(BLOCKED_NUM_THREADS) void attention_blocked_scores_kernel(
    const __grid_constant__ Attention<T> p, Sum<T>* S) {
  using Number = Sum<T>;
  constexpr int TILE = BLOCKED_TILE;
  __shared__ Number Q_smem[TILE][TILE];      // [query, d]
  __shared__ Number K_smem[TILE][TILE + 1];  // [key, d]
  const int q_tiles = ceil_div(p.Nq, TILE), k_tiles = ceil_div(p.Nk, TILE);
  const int64_t row_of_tiles = blockIdx.x / k_tiles;
  const int64_t head_index = row_of_tiles / q_tiles;
  const int q0 = row_of_tiles % q_tiles * TILE, k0 = blockIdx.x % k_tiles * TILE;
  const int tx = threadIdx.x % TILE, ty = threadIdx.x / TILE;
  const int query = q0 + ty, key = k0 + tx;
  const Head<T> head = p.head(head_index);

  Number score = -INFINITY;
  uint64_t shown;
  const auto pair = [=](int) { return Pair{query, key}; };
  if (any_visible<1>(p, head, q0, TILE, k0, TILE, pair, shown)) {
    Number acc = 0;
    for (int d0 = 0; d0 < p.D; d0 += TILE) {
      Q_smem[ty][tx] = element<Number>(head.Q, p.q.row, query, p.Nq, d0 + tx, p.D);
      K_smem[ty][tx] = element<Number>(head.K, p.k.row, k0 + ty, p.Nk, d0 + tx, p.D);
      __syncthreads();  // both tiles are complete
#pragma unroll
      for (int d = 0; d < TILE; ++d) acc += Q_smem[ty][d] * K_smem[tx][d];
      __syncthreads();  // no warp still reads the tiles, which the next trip overwrites
    }
    if (shown != 0) score = (acc * p.scale + p.bias(head, query, key)) * Number(LOG2_E);
  }
  if (query < p.Nq && key < p.Nk) S[(head_index * p.Nq + query) * p.Nk + key] = score;
}

// A block per row: S becomes P, in place. It is read three times and written once.
template <class T>
__global__ __launch_bounds__(BLOCKED_SOFTMAX_THREADS) void attention_blocked_softmax_kernel(
    const __grid_constant__ Attention<T> p, Sum<T>* S) {
  using Number = Sum<T>;
  constexpr int NUM_THREADS = BLOCKED_SOFTMAX_THREADS;
  __shared__ Number m_smem[NUM_THREADS / 32], l_smem[NUM_THREADS / 32];
  Number* s = S + int64_t{blockIdx.x} * p.Nk;

  Number m = -INFINITY;
  for (int key = threadIdx.x; key < p.Nk; key += NUM_THREADS) m = max(m, s[key]);
  m = block_reduce_shuffles(m, m_smem, Max(), -Number(INFINITY));
  const Number base = exponent_base(m);

  Number l = 0;
  for (int key = threadIdx.x; key < p.Nk; key += NUM_THREADS) l += exp2(s[key] - base);
  l = block_reduce_shuffles(l, l_smem, Add(), Number(0));

  const bool sees_none = l == 0;  // every score is -inf
  const Number inverse = sees_none ? Number(0) : 1 / l;
  for (int key = threadIdx.x; key < p.Nk; key += NUM_THREADS) {
    s[key] = exp2(s[key] - base) * inverse;
  }
  if (threadIdx.x == 0) {
    p.LSE[blockIdx.x] = sees_none ? -Number(INFINITY) : base * Number(LN_2) + log(l);
  }
}

// A block per tile of O, one element per thread. Tiles of P that are all 0 are left out.
template <class T>
__global__ __launch_bounds__(BLOCKED_NUM_THREADS) void attention_blocked_output_kernel(
    const __grid_constant__ Attention<T> p, const Sum<T>* P) {
  using Number = Sum<T>;
  constexpr int TILE = BLOCKED_TILE;
  __shared__ Number P_smem[TILE][TILE];  // [query, key]
  __shared__ Number V_smem[TILE][TILE];  // [key, d]: lanes read a row of it
  const int q_tiles = ceil_div(p.Nq, TILE), d_tiles = ceil_div(p.Dv, TILE);
  const int64_t row_of_tiles = blockIdx.x / d_tiles;
  const int64_t head_index = row_of_tiles / q_tiles;
  const int q0 = row_of_tiles % q_tiles * TILE;
  const int tx = threadIdx.x % TILE, ty = threadIdx.x / TILE;
  const int query = q0 + ty, d = blockIdx.x % d_tiles * TILE + tx;
  const Head<T> head = p.head(head_index);
  const Number* P_head = P + head_index * p.Nq * p.Nk;

  Number acc = 0;
  for (int k0 = 0; k0 < p.Nk; k0 += TILE) {
    uint64_t shown;
    const auto pair = [=](int) { return Pair{query, k0 + tx}; };
    if (!any_visible<1>(p, head, q0, TILE, k0, TILE, pair, shown)) continue;
    P_smem[ty][tx] = element<Number>(P_head, p.Nk, query, p.Nq, k0 + tx, p.Nk);
    V_smem[ty][tx] = element<Number>(head.V, p.v.row, k0 + ty, p.Nk, d, p.Dv);
    __syncthreads();  // both tiles are complete
#pragma unroll
    for (int n = 0; n < TILE; ++n) acc += P_smem[ty][n] * V_smem[n][tx];
    __syncthreads();  // no warp still reads the tiles, which the next trip overwrites
  }
  if (query < p.Nq && d < p.Dv) head.O[query * p.o.row + d] = static_cast<T>(acc);
}

// A grid of so many blocks for each of the tiles along the queries.
template <class T>
static unsigned blocked_grid(const Attention<T>& p, int tiles) {
  const int64_t rows_of_tiles = p.heads() * ceil_div(p.Nq, BLOCKED_TILE);
  if (tiles > 0 && rows_of_tiles > MAX_GRID_X / tiles) {
    throw LaunchError("attention blocked: a product has more than 2^31 - 1 tiles");
  }
  return static_cast<unsigned>(rows_of_tiles * tiles);
}

template <class T>
static void launch_blocked(const AttentionProblem& problem, cudaStream_t stream) {
  const Attention<T> p = lowered<T>(problem);
  const int64_t rows = p.heads() * p.Nq;
  if (rows == 0) return;
  if (rows > MAX_GRID_X) throw LaunchError("attention blocked: B * H * Nq is above 2^31 - 1");
  const unsigned score_tiles = blocked_grid(p, ceil_div(p.Nk, BLOCKED_TILE));
  const unsigned output_tiles = blocked_grid(p, ceil_div(p.Dv, BLOCKED_TILE));
  auto* S = static_cast<Sum<T>*>(problem.workspace(rows * p.Nk * sizeof(Sum<T>)));
  if (score_tiles > 0) {
    attention_blocked_scores_kernel<T><<<score_tiles, BLOCKED_NUM_THREADS, 0, stream>>>(p, S);
    CUDA_CHECK_LAUNCH(attention_blocked_scores_kernel);
  }
  const auto grid = static_cast<unsigned>(rows);
  attention_blocked_softmax_kernel<T><<<grid, BLOCKED_SOFTMAX_THREADS, 0, stream>>>(p, S);
  CUDA_CHECK_LAUNCH(attention_blocked_softmax_kernel);
  if (output_tiles > 0) {
    attention_blocked_output_kernel<T><<<output_tiles, BLOCKED_NUM_THREADS, 0, stream>>>(p, S);
    CUDA_CHECK_LAUNCH(attention_blocked_output_kernel);
  }
}

void attention_blocked(const AttentionProblem& p, cudaStream_t stream) {
  with_type(p, [&](auto type) { launch_blocked<decltype(type)>(p, stream); });
}
