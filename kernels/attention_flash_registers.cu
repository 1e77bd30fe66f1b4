// attention_flash_registers.cu: attention on the CUDA cores. The contract is in attention.cu.
//
// Rungs
//   flash_registers   as much arithmetic per shared-memory access as a thread's registers allow
#include "attention.cuh"
#include "ptx.cuh"

// ------------------------------------------------------------------------------------------------
// flash_registers: HEADER

// How a block of tiles for head dimensions up to D divides the work.
template <int HEAD_D>
struct RegistersTiles {
  static constexpr int D = HEAD_D;
  static constexpr int WARPS = D <= 64 ? 4 : 8;
  static constexpr int LANES = D <= 64 ? 8 : 16;
  static constexpr int TM = D <= 128 ? 8 : 4;
  static constexpr int TN = D <= 64 ? 8 : D <= 128 ? 4 : 2;
  static constexpr int CHUNK = 2;
  static constexpr int BLOCKS = D <= 64 ? 2 : 1;
  static constexpr int NUM_THREADS = WARPS * 32;
  static constexpr int GROUPS = 32 / LANES;
  static constexpr int WM = GROUPS * TM;
  static constexpr int BM = WARPS * WM;
  static constexpr int BN = LANES * TN;
  static constexpr int TD = D / LANES;
  static constexpr int SLOTS = LANES * CHUNK;

  float Q_smem[BM][D + 4];
  float K_smem[BN][D + 4];
  float V_smem[BN][D];
  float P_smem[WARPS][WM][SLOTS % 32 == 16 ? SLOTS : SLOTS + 16];
};

template <int COUNT>
struct alignas(4 * COUNT) Floats {
  float element[COUNT];
};

template <int COUNT>
__device__ void load(float (&frag)[COUNT], const float* src) {
  const auto floats = *reinterpret_cast<const Floats<COUNT>*>(src);
#pragma unroll
  for (int i = 0; i < COUNT; ++i) frag[i] = floats.element[i];
}

// A part of a tensor: rows 0 .. rows - 1 and columns 0 .. cols - 1 from src on.
struct Part {
  const float* src;
  int64_t ld;
  int rows, cols;
  bool aligned;  // rows begin at multiples of 16 bytes
};

// Starts copying a part that does not fill the tile, whose rest becomes 0, which adds nothing to a product.
template <int D, int NUM_THREADS>
__device__ __noinline__ void start_copy_of_part(float* tile, int tile_rows, int tile_ld, Part part) {
  const auto [src, ld, rows, cols, aligned] = part;
  if (aligned) {
    for (int i = threadIdx.x; i < tile_rows * (D / 4); i += NUM_THREADS) {
      const int row = i / (D / 4), d = i % (D / 4) * 4;
      const int bytes = row < rows ? max(0, min(4, cols - d)) * 4 : 0;
      cp_async_16(tile + row * tile_ld + d, src + row * ld + d, bytes);
    }
  } else {
    for (int i = threadIdx.x; i < tile_rows * D; i += NUM_THREADS) {
      const int row = i / D, d = i % D;
      cp_async_4(tile + row * tile_ld + d, src + row * ld + d, row < rows && d < cols ? 4 : 0);
    }
  }
}

// Starts copying a part to the tile.
template <int D, int NUM_THREADS, int ROWS, int LENGTH>
__device__ void start_copy(float (&tile)[ROWS][LENGTH], Part part) {
  if (!part.aligned || part.rows < ROWS || part.cols != D) {
    return start_copy_of_part<D, NUM_THREADS>(tile[0], ROWS, LENGTH, part);
  }
  constexpr int ALONG = D / 4, APART = NUM_THREADS / ALONG;
  static_assert(NUM_THREADS % ALONG == 0 && ROWS % APART == 0, "threads share evenly");
  const int first = threadIdx.x / ALONG, d = threadIdx.x % ALONG * 4;
  const float* from = part.src + first * part.ld + d;
#pragma unroll
  for (int row = 0; row < ROWS; row += APART, from += APART * part.ld) {
    cp_async_16(&tile[first + row][d], from);
  }
}

// The first tile of keys from k0 on of which a query of the tile from q0 on sees a key.
struct NextTile {
  int k0;
  uint64_t shown;
};
template <class Tiles>
__device__ __noinline__ NextTile next_tile(const Attention<float>& p, int q0, int k0, int query0, int key0) {
  const Head<float> head = p.head(blockIdx.x / ceil_div(p.Nq, Tiles::BM));
  uint64_t shown = 0;
  for (; k0 < p.Nk; k0 += Tiles::BN) {
    const auto pair = [&](int n) {
      return Pair{query0 + Tiles::GROUPS * (n / Tiles::TN), k0 + key0 + Tiles::LANES * (n % Tiles::TN)};
    };
    if (any_visible<Tiles::TM * Tiles::TN>(p, head, q0, Tiles::BM, k0, Tiles::BN, pair, shown)) break;
  }
  return {k0, shown};
}

template <int D, bool BIAS>
__global__ __launch_bounds__(
    RegistersTiles<D>::NUM_THREADS,
    RegistersTiles<D>::BLOCKS) void attention_flash_registers_kernel(const __grid_constant__ Attention<float> p, const bool aligned) {
  using Tiles = RegistersTiles<D>;
  constexpr int BM = Tiles::BM, BN = Tiles::BN, LANES = Tiles::LANES, CHUNK = Tiles::CHUNK;
  constexpr int TM = Tiles::TM, TN = Tiles::TN, TD = Tiles::TD;
  constexpr int NUM_THREADS = Tiles::NUM_THREADS, GROUPS = Tiles::GROUPS;
  extern __shared__ float4 smem[];  // float4 for its alignment
  auto& [Q_smem, K_smem, V_smem, P_all] = *reinterpret_cast<Tiles*>(smem);

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int tx = lane / 2 % LANES;
  const int ty = warp * Tiles::WM + lane % 2 + lane / (2 * LANES) * 2;
  auto& P_smem = P_all[0];
  const int q_tiles = ceil_div(p.Nq, BM);
  const Head<float> head = p.head(blockIdx.x / q_tiles);
  const int q0 = (q_tiles - 1 - blockIdx.x % q_tiles) * BM;

  float acc_o[TM][TD] = {};
  float m[TM];
  float l[TM] = {};
#pragma unroll
  for (int i = 0; i < TM; ++i) m[i] = -INFINITY;

  const auto start_K = [&](int k0) {
    if (k0 < p.Nk) {
      start_copy<D, NUM_THREADS>(K_smem, {head.K + k0 * p.k.row, p.k.row, p.Nk - k0, p.D, aligned});
    }
    cp_async_commit();
  };

  start_copy<D, NUM_THREADS>(Q_smem, {head.Q + q0 * p.q.row, p.q.row, p.Nq - q0, p.D, aligned});
  NextTile tile = next_tile<Tiles>(p, q0, 0, q0 + ty, tx);
  start_K(tile.k0);
  cp_async_wait<0>();
  __syncthreads();  // Q is complete
  const float scale_log2 = p.scale * static_cast<float>(LOG2_E);
  for (int i = threadIdx.x; i < BM * D; i += NUM_THREADS) Q_smem[i / D][i % D] *= scale_log2;

  while (tile.k0 < p.Nk) {
    const int k0 = tile.k0;
    const uint64_t shown = tile.shown;
    tile = next_tile<Tiles>(p, q0, k0 + BN, q0 + ty, tx);
    cp_async_wait<0>();
    __syncthreads();  // K is complete; no warp still reads V
    start_copy<D, NUM_THREADS>(V_smem, {head.V + k0 * p.v.row, p.v.row, p.Nk - k0, p.Dv, aligned});
    cp_async_commit();

    float s[TM][TN] = {};
#pragma unroll 1
    for (int d = 0; d < D; d += 4) {
      float Q_frag[TM][4];
#pragma unroll
      for (int i = 0; i < TM; ++i) load(Q_frag[i], &Q_smem[ty + GROUPS * i][d]);
#pragma unroll
      for (int j = 0; j < TN; ++j) {
        float K_frag[4];
        load(K_frag, &K_smem[tx + LANES * j][d]);
#pragma unroll
        for (int i = 0; i < TM; ++i) {
#pragma unroll
          for (int u = 0; u < 4; ++u) s[i][j] += Q_frag[i][u] * K_frag[u];
        }
      }
    }
    cp_async_wait<0>();
    __syncthreads();  // V is complete; no warp still reads K
    start_K(tile.k0);

    if (BIAS) {
#pragma unroll
      for (int i = 0; i < TM; ++i) {
        const int query = min(q0 + ty + GROUPS * i, p.Nq - 1);
        const float* bias = head.mask.bias + query * head.mask.row;
#pragma unroll
        for (int j = 0; j < TN; ++j) {
          const int key = min(k0 + tx + LANES * j, p.Nk - 1);
          s[i][j] += bias[key * head.mask.column] * static_cast<float>(LOG2_E);
        }
      }
    }
    if (shown != ~uint64_t{0}) {
#pragma unroll
      for (int i = 0; i < TM; ++i) {
#pragma unroll
        for (int j = 0; j < TN; ++j) {
          if (!(shown >> (i * TN + j) & 1)) s[i][j] = -INFINITY;
        }
      }
    }

#pragma unroll
    for (int i = 0; i < TM; ++i) {
      float m_new = m[i];
#pragma unroll
      for (int j = 0; j < TN; ++j) m_new = max(m_new, s[i][j]);
#pragma unroll
      for (int step = LANES; step > 1; step /= 2) {
        m_new = max(m_new, __shfl_xor_sync(ALL_LANES, m_new, step));
      }
      const float base = exponent_base(m_new);
      const float alpha = m_new > m[i] ? ex2(m[i] - base) : 1.0f;
      m[i] = m_new;
      l[i] *= alpha;
#pragma unroll
      for (int c = 0; c < TD; ++c) acc_o[i][c] *= alpha;
#pragma unroll
      for (int j = 0; j < TN; ++j) {
        s[i][j] = ex2(s[i][j] - base);
        l[i] += s[i][j];
      }
    }

#pragma unroll
    for (int j0 = 0; j0 < TN; j0 += CHUNK) {
      __syncwarp();
#pragma unroll
      for (int i = 0; i < TM; ++i) {
        Floats<CHUNK> probs;
#pragma unroll
        for (int j = 0; j < CHUNK; ++j) probs.element[j] = s[i][j0 + j];
        *reinterpret_cast<Floats<CHUNK>*>(&P_smem[ty + GROUPS * i][tx * CHUNK]) = probs;
      }
      __syncwarp();
#pragma unroll 1
      for (int slot = 0; slot < Tiles::SLOTS; slot += 4) {
        float P_frag[TM][4];
#pragma unroll
        for (int i = 0; i < TM; ++i) load(P_frag[i], &P_smem[ty + GROUPS * i][slot]);
#pragma unroll
        for (int u = 0; u < 4; ++u) {
          const int key = slot / CHUNK + u / CHUNK + LANES * (j0 + u % CHUNK);
#pragma unroll
          for (int c = 0; c < TD; c += 4) {
            float V_frag[4];
            load(V_frag, &V_smem[key][tx * 4 + LANES * c]);
#pragma unroll
            for (int i = 0; i < TM; ++i) {
#pragma unroll
              for (int w = 0; w < 4; ++w) acc_o[i][c + w] += P_frag[i][u] * V_frag[w];
            }
          }
        }
      }
    }
  }

#pragma unroll
  for (int i = 0; i < TM; ++i) {
#pragma unroll
    for (int step = LANES; step > 1; step /= 2) {
      l[i] += __shfl_xor_sync(ALL_LANES, l[i], step);
    }
    const int query = q0 + ty + GROUPS * i;
    if (query >= p.Nq) continue;
    const bool sees_none = l[i] == 0;  // every score so far was -inf
    const float inverse = sees_none ? 0.0f : 1 / l[i];
#pragma unroll
    for (int c = 0; c < TD; ++c) {
      const int d = tx * 4 + c / 4 * 4 * LANES + c % 4;
      if (d < p.Dv) head.O[query * p.o.row + d] = acc_o[i][c] * inverse;
    }
    if (tx == 0) {
      head.LSE[query] = sees_none ? -INFINITY
                                  : exponent_base(m[i]) * static_cast<float>(LN_2) + log(l[i]);
    }
  }
}

template <int D>
static void launch_flash_registers(const Attention<float>& p, cudaStream_t stream) {
  using Tiles = RegistersTiles<D>;
  const int64_t blocks = p.heads() * ceil_div(p.Nq, Tiles::BM);
  if (blocks == 0) return;
  if (blocks > MAX_GRID_X) {
    throw LaunchError("attention flash_registers: B * H * ceil(Nq / BM) is above 2^31 - 1");
  }
  const auto in_16 = [](const float* data, const Strides& s) {
    return reinterpret_cast<uintptr_t>(data) % 16 == 0 && (s.batch | s.head | s.row) % 4 == 0;
  };
  const bool aligned = in_16(p.Q, p.q) && in_16(p.K, p.k) && in_16(p.V, p.v);
  const auto kernel = p.mask.bias == nullptr ? attention_flash_registers_kernel<D, false>
                                             : attention_flash_registers_kernel<D, true>;
  allow_shared_memory(kernel, sizeof(Tiles));
  const auto grid = static_cast<unsigned>(blocks);
  kernel<<<grid, Tiles::NUM_THREADS, sizeof(Tiles), stream>>>(p, aligned);
  CUDA_CHECK_LAUNCH(attention_flash_registers_kernel);
}

template <class Run>
static void with_registers_D(int64_t D, Run run) {
  if (D <= 64) return run(std::integral_constant<int, 64>());
  if (D <= 128) return run(std::integral_constant<int, 128>());
  run(std::integral_constant<int, 256>());
}

static int64_t larger_D(const AttentionProblem& p) { return max(p.Q.size[3], p.V.size[3]); }

const char* attention_flash_registers_declines(const AttentionProblem& p) {
  if (larger_D(p) > 256) {
    return reason("its tiles are made for head dimensions up to 256; got %d",
                  static_cast<int>(larger_D(p)));
  }
  int needed = 0;
  with_registers_D(larger_D(p), [&](auto D) { needed = sizeof(RegistersTiles<D.value>); });
  const int most = most_shared_memory();
  if (needed <= most) return nullptr;
  return reason("it needs %d bytes of shared memory per block; this GPU has %d", needed, most);
}

void attention_flash_registers(const AttentionProblem& problem, cudaStream_t stream) {
  with_registers_D(larger_D(problem), [&](auto D) {
    launch_flash_registers<D.value>(lowered<float>(problem), stream);
  });
}
