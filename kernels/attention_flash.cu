// attention_flash.cu: attention in one kernel, in fp32. The contract is in attention.cu.
//
// Rungs
//   flash   one kernel with an online softmax: the scores never leave the SM
#include "attention.cuh"

// ------------------------------------------------------------------------------------------------
// flash: Q, K and V tiles in shared memory, online softmax (fp32)
// Idea     A block owns BM queries and walks the keys BN at a time. Per query it carries the
//          running maximum m, the sum l and the unnormalised output acc_o. When a tile raises m,
//          everything summed before is scaled by alpha = exp(m_old - m_new) (FlashAttention-2,
//          algorithm 1); O = acc_o / l once, at the end.
//
//                     keys k0 .. k0 + BN
//                    +------------------+          16 lanes (tx) share a query and split its
//          BM        |  S, then P       |          keys in S and its D columns in acc_o;
//          queries   +------------------+          ty picks the queries ty, ty + 8, ... : TM = 8
//
// Changes  vs naive: five kernels become one, and S lives in registers, P in shared memory.
// FLOP/B   Global: 4 BM BN D FLOP per 2 BN D floats of K and V = BM / 2 = 32.
//          Shared, per thread and 4 steps of d or key: S 64 FMA per 10 loads of 16 B, acc_o (D =
//          128) 256 FMA per 8 loads of 16 B and 32 of 4 B: 0.8 and 2 FLOP per byte.
// Shape    128 threads per block, 25.5 / 37.5 / 61.5 KiB smem for D = 32 / 64 / 128: a T4 has 64.
//          4 __syncthreads per tile. Tiles that causal masks entirely are not visited.
// Trap     exp(-inf - -inf) is NaN: while a query has seen only scores of -inf (masked, or from an
//          input), m is -inf, and 0 is subtracted instead.
// Declines head dimensions other than 32, 64 and 128.
// Next     Global loads are scalar, nothing is in flight while the block computes, and the tensor
//          cores are idle.
constexpr float LOG2E = 1.44269504088896340736f;  // exp(x) = exp2(x * LOG2E)
constexpr float LN2 = 0.69314718055994530942f;    // log(x) = log2(x) * LN2

constexpr int FLASH_BM = 64;            // tunable: 32, 64
constexpr int FLASH_BN = 32;            // tunable: 16, 32, 64
constexpr int FLASH_NUM_THREADS = 128;  // tunable: 64, 128, 256
constexpr int FLASH_LANES = 16;         // per query: half a warp, so that shuffles reach all

// Shared memory:
//
//        D + 4 floats              Rows of D floats are padded by 4: lanes that read 16 B each of
//      +-----------------+         neighbouring rows start 4 banks apart, and the 8 lanes served
//   BM |     Q_smem      |         at a time cover all 32 banks once.
//      +-----------------+  BN+16
//   BN |     KV_smem     | +------+  A warp stores P for two queries at a time, 16 lanes each: rows
//      +-----------------+ |P_smem|  that are 16 banks apart (mod 32) keep them from colliding.
//                       BM +------+
template <int D>
struct FlashTiles {
  float Q_smem[FLASH_BM][D + 4];
  float KV_smem[FLASH_BN][D + 4];  // K, then V: with one tile for each, D = 128 exceeds a T4
  float P_smem[FLASH_BM][FLASH_BN % 32 == 0 ? FLASH_BN + 16 : FLASH_BN];
};

// Copies rows 0 .. rows - 1 of src to the tile; its other rows become 0, which add nothing to a
// product. Neighbouring threads copy neighbouring floats: whole sectors, and no bank conflicts.
template <int ROWS, int D>
__device__ void load_tile(float (&tile)[ROWS][D + 4], const float* src, int64_t ld, int rows) {
#pragma unroll 4
  for (int i = threadIdx.x; i < ROWS * D; i += FLASH_NUM_THREADS) {
    const int row = i / D;
    const int d = i % D;
    tile[row][d] = row < rows ? src[row * ld + d] : 0.0f;
  }
}

// Four floats, 16 B aligned, in one load.
__device__ inline void load4(float (&frag)[4], const float* src) {
  const float4 v = *reinterpret_cast<const float4*>(src);
  frag[0] = v.x, frag[1] = v.y, frag[2] = v.z, frag[3] = v.w;
}

template <int D>
__global__ __launch_bounds__(FLASH_NUM_THREADS) void attention_flash_kernel(const Attention p) {
  constexpr int BM = FLASH_BM, BN = FLASH_BN, LANES = FLASH_LANES;
  constexpr int GROUPS = FLASH_NUM_THREADS / LANES;  // queries at the same time
  constexpr int TM = BM / GROUPS;                    // queries per thread
  constexpr int TN = BN / LANES;                     // keys per thread
  constexpr int TD = D / LANES;                      // columns of O per thread
  static_assert(BM % GROUPS == 0 && BN % LANES == 0 && D % LANES == 0, "threads share evenly");
  extern __shared__ float4 smem[];  // float4 for its alignment
  auto& [Q_smem, KV_smem, P_smem] = *reinterpret_cast<FlashTiles<D>*>(smem);

  // Prologue: which queries are this block's, and Q, which stays for the whole loop over the keys.
  const int tx = threadIdx.x % LANES;
  const int ty = threadIdx.x / LANES;
  const int q_tiles = ceil_div(p.Nq, BM);
  const int head = blockIdx.x / q_tiles;  // of B * H
  const int q0 = blockIdx.x % q_tiles * BM;
  const int b = head / p.H;
  const int h = head % p.H;
  const float* Q = p.Q + b * p.q.batch + h * p.q.head + q0 * p.q.row;
  const float* K = p.K + b * p.k.batch + h * p.k.head;
  const float* V = p.V + b * p.v.batch + h * p.v.head;
  float* O = p.O + b * p.o.batch + h * p.o.head + q0 * p.o.row;
  const float scale_log2 = p.scale * LOG2E;

  // Row i of these belongs to query q0 + ty + GROUPS * i.
  float acc_o[TM][TD] = {};
  float m[TM];       // maximum of the scaled scores so far, in units of log2
  float l[TM] = {};  // this lane's part of the sum of exp2(score - m)
#pragma unroll
  for (int i = 0; i < TM; ++i) m[i] = -INFINITY;

  load_tile<BM, D>(Q_smem, Q, p.q.row, p.Nq - q0);
  // Mainloop, a tile of keys per trip: load K; S = Q K^T; load V over K; S to P; acc_o += P V.
  const int end = keys_seen(p, min(q0 + BM, p.Nq) - 1);  // no query of the tile sees further
  for (int k0 = 0; k0 < end; k0 += BN) {
    load_tile<BN, D>(KV_smem, K + k0 * p.k.row, p.k.row, p.Nk - k0);
    __syncthreads();  // Q and K are complete

    // S = Q K^T, 4 steps of d per trip: TM + TN loads of 16 B for 4 TM TN FMA. Lanes of equal ty
    // read the same Q_frag, one broadcast.
    float s[TM][TN] = {};
#pragma unroll 4
    for (int d = 0; d < D; d += 4) {
      float Q_frag[TM][4], K_frag[TN][4];
#pragma unroll
      for (int i = 0; i < TM; ++i) load4(Q_frag[i], &Q_smem[ty + GROUPS * i][d]);
#pragma unroll
      for (int j = 0; j < TN; ++j) load4(K_frag[j], &KV_smem[tx + LANES * j][d]);
#pragma unroll
      for (int i = 0; i < TM; ++i) {
#pragma unroll
        for (int j = 0; j < TN; ++j) {
#pragma unroll
          for (int u = 0; u < 4; ++u) s[i][j] += Q_frag[i][u] * K_frag[j][u];
        }
      }
    }
    __syncthreads();  // no warp still reads K
    load_tile<BN, D>(KV_smem, V + k0 * p.v.row, p.v.row, p.Nk - k0);

    // Online softmax, one query per trip.
#pragma unroll
    for (int i = 0; i < TM; ++i) {
      // Scale and mask. Keys past Nk are masked like keys that causal hides.
      const int seen = keys_seen(p, q0 + ty + GROUPS * i);
      float m_new = m[i];
#pragma unroll
      for (int j = 0; j < TN; ++j) {
        s[i][j] = k0 + tx + LANES * j < seen ? s[i][j] * scale_log2 : -INFINITY;
        m_new = fmaxf(m_new, s[i][j]);
      }
      // The maximum over the 16 lanes that share the query.
#pragma unroll
      for (int step = LANES / 2; step > 0; step /= 2) {
        m_new = fmaxf(m_new, __shfl_xor_sync(ALL_LANES, m_new, step));
      }
      // All 16 lanes know the new maximum. Scale down what was summed relative to the old one.
      const float base = exponent_base(m_new);
      const float alpha = m_new > m[i] ? exp2f(m[i] - base) : 1.0f;
      m[i] = m_new;
      l[i] *= alpha;
#pragma unroll
      for (int c = 0; c < TD; ++c) acc_o[i][c] *= alpha;
      // S becomes P. Each lane sums its own keys; the 16 sums are added up once, in the epilogue.
#pragma unroll
      for (int j = 0; j < TN; ++j) {
        const float prob = exp2f(s[i][j] - base);
        l[i] += prob;
        P_smem[ty + GROUPS * i][tx + LANES * j] = prob;
      }
    }
    __syncthreads();  // V and P are complete

    // acc_o += P V, 4 keys per trip. P is one broadcast for the 16 lanes of a query.
#pragma unroll 1
    for (int n = 0; n < BN; n += 4) {
      float P_frag[TM][4];
#pragma unroll
      for (int i = 0; i < TM; ++i) load4(P_frag[i], &P_smem[ty + GROUPS * i][n]);
#pragma unroll
      for (int u = 0; u < 4; ++u) {
#pragma unroll
        for (int c = 0; c < TD; ++c) {
          const float v = KV_smem[n + u][tx + LANES * c];
#pragma unroll
          for (int i = 0; i < TM; ++i) acc_o[i][c] += P_frag[i][u] * v;
        }
      }
    }
    __syncthreads();  // no warp still reads V or P, which the next trip overwrites
  }

  // Epilogue: add up the 16 partial sums of a query, normalise O, convert LSE from base 2.
#pragma unroll
  for (int i = 0; i < TM; ++i) {
#pragma unroll
    for (int step = LANES / 2; step > 0; step /= 2) {
      l[i] += __shfl_xor_sync(ALL_LANES, l[i], step);
    }
    const int row = ty + GROUPS * i;
    if (q0 + row >= p.Nq) continue;
    const bool sees_none = keys_seen(p, q0 + row) == 0;
    const float inverse = 1.0f / l[i];
#pragma unroll
    for (int c = 0; c < TD; ++c) {
      O[row * p.o.row + tx + LANES * c] = sees_none ? 0.0f : acc_o[i][c] * inverse;
    }
    if (tx == 0) {
      p.LSE[static_cast<int64_t>(head) * p.Nq + q0 + row] =
          sees_none ? -INFINITY : exponent_base(m[i]) * LN2 + logf(l[i]);
    }
  }
}

// D is a template argument: a thread's accumulators are registers, which cannot be indexed.
template <int D>
static void launch_flash(const Attention& p, cudaStream_t stream) {
  constexpr int smem_bytes = sizeof(FlashTiles<D>);
  if constexpr (smem_bytes > 48 * 1024) {  // more than a kernel may use without opting in
    CUDA_CHECK(cudaFuncSetAttribute(attention_flash_kernel<D>,
                                    cudaFuncAttributeMaxDynamicSharedMemorySize, smem_bytes));
  }
  const int64_t blocks = static_cast<int64_t>(p.B) * p.H * ceil_div(p.Nq, FLASH_BM);
  if (blocks == 0) return;
  if (blocks > MAX_GRID_X) {
    throw LaunchError("attention flash: B * H * ceil(Nq / BM) is above 2^31 - 1");
  }
  const auto grid = static_cast<unsigned>(blocks);
  attention_flash_kernel<D><<<grid, FLASH_NUM_THREADS, smem_bytes, stream>>>(p);
  CUDA_CHECK_LAUNCH(attention_flash_kernel);
}

const char* attention_flash_declines(const AttentionProblem& p) {
  const int64_t D = p.Q.size[3];
  if (D == 32 || D == 64 || D == 128) return nullptr;
  return reason("its tiles are made for D = 32, 64 and 128; got D = %d", static_cast<int>(D));
}

void attention_flash(const AttentionProblem& problem, cudaStream_t stream) {
  const Attention p = lowered(problem);
  if (p.D == 32) return launch_flash<32>(p, stream);
  if (p.D == 64) return launch_flash<64>(p, stream);
  if (p.D == 128) return launch_flash<128>(p, stream);
  throw LaunchError("attention flash: D must be 32, 64 or 128");
}
