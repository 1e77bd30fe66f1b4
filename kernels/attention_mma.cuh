// attention_mma.cuh: what the tensor-core rungs of attention share: masks as bands, a warp's scores and
// its part of O, and how tiles of Q, K and V are copied. The tiles are in mma_tiles.cuh.
//
// The tensor cores take 16-bit factors. So P, computed in fp32, is rounded to the type of Q, K and V.
#pragma once

#include "attention.cuh"
#include "mma_tiles.cuh"

// ------------------------------------------------------------------------------------------------
// Masks, full, causal and local, in one dimension and with places one apart: a query sees a band of
// keys

struct Band {
  int diagonal;   // query i and key i + diagonal share a place
  int low, high;  // how far before its own place a query sees
  int between;    // places between, which it does not see: 2^log2_stride - 1

  __device__ Band(const Rule& rule, int Nq, int Nk)
      : diagonal(rule.ends_meet ? Nk - Nq : 0),
        low(rule.causal     ? 0
            : rule.windowed ? -rule.reach
                            : -INT_MAX),
        high(rule.windowed ? rule.reach : INT_MAX),
        between(rule.windowed ? rule.between : 0) {}

  // How far the key is before the query's place.
  __device__ int distance(int query, int key) const { return query + diagonal - key; }

  // Of queries q0 .. q1 - 1 and keys k0 .. k1 - 1, which have all distances from the first query to
  // the last key up to the last query to the first key: is any pair visible, are all?
  __device__ bool sees_any(int q0, int q1, int k0, int k1) const {
    const int least = max(low, distance(q0, k1 - 1)), most = min(high, distance(q1 - 1, k0));
    return (most & ~between) >= least;  // the furthest whole stride
  }
  __device__ bool sees_all(int q0, int q1, int k0, int k1) const {
    return between == 0 && distance(q0, k1 - 1) >= low && distance(q1 - 1, k0) <= high;
  }

  // The first key that any query from q0 on sees, and the end of those that any before q1 does.
  __device__ int first_key(int q0) const {
    return static_cast<int>(max(int64_t{0}, int64_t{q0} + diagonal - high));
  }
  __device__ int end_of_keys(int q1, int Nk) const {
    const int64_t end = int64_t{q1} - 1 + diagonal - low + 1;
    return static_cast<int>(max(int64_t{0}, min(int64_t{Nk}, end)));
  }
};

// ------------------------------------------------------------------------------------------------
// Which queries a block has

// A tile of the queries of one sequence and head; q0 counts from the sequence's first query.
template <class T>
struct QueryTile {
  int q0, Nq, Nk;  // of the sequence; q0 >= Nq: there is no such tile
  Head<T> head;    // with pointers to the sequence's rows
};

// Moves a head's pointers to the rows from `query` and `key` on.
template <class T>
__device__ Head<T> moved(const Attention<T>& p, Head<T> head, int query, int key) {
  head.Q += query * p.q.row;
  head.K += key * p.k.row;
  head.V += key * p.v.row;
  head.O += query * p.o.row;
  head.LSE += query;
  return head;
}

// Tiles of BM queries are numbered so that sequence s begins at tile first_tile(s): no two sequences
// share a number, and nobody has to add up lengths. Some numbers have no tile.
template <int BM>
__device__ int first_tile(const int* q_starts, int s) {
  return q_starts[s] / BM + s;
}

// sequence_of[i] becomes the sequence of tile i: the last that does not begin after it.
template <int BM>
__global__ void attention_find_sequences_kernel(const int* q_starts, int sequences, int tiles,
                                                int* sequence_of) {
  const int tile = blockIdx.x * blockDim.x + threadIdx.x;
  if (tile >= tiles) return;
  int found = 0, end = sequences;
  while (end - found > 1) {
    const int middle = found + (end - found) / 2;
    (first_tile<BM>(q_starts, middle) <= tile ? found : end) = middle;
  }
  sequence_of[tile] = found;
}

// The tile of that number.
template <int BM, class T>
__device__ QueryTile<T> query_tile(const Attention<T>& p, int64_t head, int tile,
                                   const int* sequence_of) {
  if (sequence_of == nullptr) return {tile * BM, p.Nq, p.Nk, p.head(head)};
  const int s = sequence_of[tile];
  const int q = p.q_starts[s], k = p.k_starts[s];
  return {(tile - first_tile<BM>(p.q_starts, s)) * BM, p.q_starts[s + 1] - q, p.k_starts[s + 1] - k,
          moved(p, p.head(head), q, k)};
}

// How the queries of a head are divided, and for several sequences a table, on the device.
struct QueryTiles {
  int64_t count;
  const int* sequence_of;
};
template <int BM, class T>
QueryTiles query_tiles(const AttentionProblem& problem, const Attention<T>& p,
                       cudaStream_t stream) {
  if (p.q_starts == nullptr) return {ceil_div(p.Nq, BM), nullptr};
  const int tiles = p.Nq / BM + p.sequences;
  auto* table = static_cast<int*>(problem.workspace(tiles * sizeof(int)));
  constexpr int NUM_THREADS = 128;
  attention_find_sequences_kernel<BM><<<ceil_div(tiles, NUM_THREADS), NUM_THREADS, 0, stream>>>(
      p.q_starts, p.sequences, tiles, table);
  CUDA_CHECK_LAUNCH(attention_find_sequences_kernel);
  return {tiles, table};
}

// ------------------------------------------------------------------------------------------------
// Tiles of rows of Q, K and V, on their way to shared memory

template <class T>
struct Rows {
  T* data;
  int64_t stride;  // from one row to the next
  int count, columns;

  // Whether every row begins at a multiple of 16 bytes.
  __device__ bool aligned() const {
    return reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride * sizeof(T) % 16 == 0;
  }
};

// Where 16 bytes cannot be copied at a time: element by element, at once.
template <class Tile, int NUM_THREADS, class T>
__device__ __noinline__ void copy_elements(char* tile, Rows<const T> from, int row0) {
#pragma unroll 1
  for (int i = threadIdx.x; i < Tile::ROWS * Tile::CHUNKS; i += NUM_THREADS) {
    const int row = i / Tile::CHUNKS, chunk = i % Tile::CHUNKS;
    const T* source = from.data + (row0 + row) * from.stride + chunk * Tile::PER_CHUNK;
    const int count = row0 + row < from.count ? from.columns - chunk * Tile::PER_CHUNK : 0;
    Chunk<T> elements = {};
#pragma unroll
    for (int e = 0; e < Tile::PER_CHUNK; ++e) {
      if (e < count) elements.element[e] = source[e];
    }
    *reinterpret_cast<Chunk<T>*>(tile + Tile::offset(row, chunk)) = elements;
  }
}

// Starts to copy the rows from row0 on to a tile, whose rows they become. What does not exist is 0.
template <class Tile, int NUM_THREADS, class T>
__device__ void start_copy(char* tile, const Rows<const T>& from, int row0, bool aligned) {
  constexpr int CHUNKS = Tile::CHUNKS, APART = NUM_THREADS / CHUNKS;
  static_assert(NUM_THREADS % CHUNKS == 0 && Tile::ROWS % APART == 0,
                "each thread copies the same number of chunks, all in one column of the tile");
  if (!aligned) return copy_elements<Tile, NUM_THREADS>(tile, from, row0);
  const int row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
  const int left = max(0, min(Tile::PER_CHUNK, from.columns - chunk * Tile::PER_CHUNK));
  const T* source =
      from.data + (row0 + row) * from.stride + (left > 0 ? chunk * Tile::PER_CHUNK : 0);
#pragma unroll
  for (int i = 0; i < Tile::ROWS; i += APART) {
    const bool exists = row0 + row + i < from.count;
    cp_async_16(tile + Tile::offset(row + i, chunk), exists ? source + i * from.stride : from.data,
                exists ? left * int{sizeof(T)} : 0);
  }
}

// ------------------------------------------------------------------------------------------------
// A warp's scores and its part of O

__device__ inline uint32_t pack(float low, float high, fp16) { return cvt_rn_f16x2(low, high); }
__device__ inline uint32_t pack(float low, float high, bf16) { return cvt_rn_bf16x2(low, high); }

__device__ inline void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, fp16) {
  mma_f16(c, a, b0, b1);
}
__device__ inline void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, bf16) {
  mma_bf16(c, a, b0, b1);
}

// The sizes of a block's work. A warp has WARP_ROWS of the queries and all keys of a tile; or, if
// that many queries are all there are, a part of the keys.
template <class Element, int HEAD_DIM, int BLOCK_M, int BLOCK_N, int WARP_ROWS, Banks BANKS,
          int WARPS = BLOCK_M / WARP_ROWS>
struct MmaShape {
  using T = Element;
  static constexpr int D = HEAD_DIM;  // at least that of Q and K, and that of V
  static constexpr int BM = BLOCK_M, BN = BLOCK_N;
  static constexpr int MT = WARP_ROWS / 16;  // tiles of 16 queries per warp
  static constexpr int NUM_THREADS = WARPS * 32;
  static constexpr bool SHARES_ROWS = BM == WARP_ROWS && WARPS > 1;
  static constexpr int WARP_KEYS = SHARES_ROWS ? BN / WARPS : BN;
  static_assert(SHARES_ROWS || BM == WARP_ROWS * WARPS, "warps cover the queries");
  static_assert(WARP_KEYS % 16 == 0, "an mma of P and V takes 16 keys");
  using QTile = Tile<T, Along::k, BM, D * 2, BANKS>;
  using KTile = Tile<T, Along::k, BN, D * 2, BANKS>;
  using VTile = Tile<T, Along::outer, D, BN * 2, BANKS>;  // its k is the keys
  static_assert(QTile::CHUNKS == VTile::CHUNKS, "rows of D elements, all of them");
};

// What a warp has of BM x BN scores, MT x 16 queries, and of O. A lane has of each tile of 16 x 8: with
// g = lane / 4 and t = lane % 4, elements 0 and 1 in row g, 2 and 3 in row g + 8, columns 2 t and 2 t +
// 1. So four lanes share a row.
template <class Shape>
struct WarpAttention {
  using T = typename Shape::T;
  static constexpr int MT = Shape::MT, NT = Shape::WARP_KEYS / 8, DT = Shape::D / 8;

  float s[MT][NT][4];  // scores, then P
  float acc_o[MT][DT][4] = {};
  float m[MT][2];       // maximum of the scores so far, not yet scaled
  float l[MT][2] = {};  // this lane's part of the sum of exp2(slope (score - m))

  __device__ WarpAttention() {
#pragma unroll
    for (int i = 0; i < MT; ++i) m[i][0] = m[i][1] = -INFINITY;
  }

  // The warp's first query in the block's tile, and this lane's; its first key in the warp's keys.
  __device__ static int first_query() {
    return Shape::SHARES_ROWS ? 0 : threadIdx.x / 32 * (16 * MT);
  }
  __device__ static int query() { return first_query() + threadIdx.x % 32 / 4; }
  __device__ static int key() { return threadIdx.x % 4 * 2; }

  // S = Q K^T.
  __device__ void multiply_q_k(const char* Q_smem, const char* K_smem) {
    using QTile = typename Shape::QTile;
    using KTile = typename Shape::KTile;
    const uint32_t Q = shared_address(Q_smem) + QTile::template lane_offset<true>(first_query());
    const uint32_t K = shared_address(K_smem) + KTile::template lane_offset<false>(0);
#pragma unroll
    for (int i = 0; i < MT; ++i) {
#pragma unroll
      for (int n = 0; n < NT; ++n) s[i][n][0] = s[i][n][1] = s[i][n][2] = s[i][n][3] = 0;
    }
#pragma unroll
    for (int step = 0; step < Shape::D / 16; ++step) {
      uint32_t q[MT][4];
#pragma unroll
      for (int i = 0; i < MT; ++i) QTile::template read<true>(q[i], Q, i, step);
#pragma unroll
      for (int n = 0; n < NT / 2; ++n) {
        uint32_t k[4];
        KTile::template read<false>(k, K, n, step);
#pragma unroll
        for (int i = 0; i < MT; ++i) {
          mma(s[i][2 * n], q[i], k[0], k[1], T());
          mma(s[i][2 * n + 1], q[i], k[2], k[3], T());
        }
      }
    }
  }

  // Hides the pairs that the band does not see, and keys from Nk on. query_of(row): of a row of the
  // block's tile; k0: the warp's first key.
  template <class QueryOf>
  __device__ void mask(const Band& band, QueryOf query_of, int k0, int Nk) {
#pragma unroll
    for (int i = 0; i < MT; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = query() + 16 * i + 8 * half;
        const int first = band.distance(query_of(row), k0 + key());
        const int low = max(band.low, first + k0 + key() - Nk + 1);  // key Nk - 1 is the last
#pragma unroll
        for (int n = 0; n < NT; ++n) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const int d = first - 8 * n - e;
            const bool sees = d >= low && d <= band.high && (d & band.between) == 0;
            if (!sees) s[i][n][2 * half + e] = -INFINITY;
          }
        }
      }
    }
  }

  // S becomes P; what was summed relative to the old maximum is scaled down.
  __device__ void softmax(float slope) {
#pragma unroll
    for (int i = 0; i < MT; ++i) {
      float alpha[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float m_new = m[i][half];
#pragma unroll
        for (int n = 0; n < NT; ++n) {
          m_new = fmaxf(m_new, fmaxf(s[i][n][2 * half], s[i][n][2 * half + 1]));
        }
        m_new = fmaxf(m_new, __shfl_xor_sync(ALL_LANES, m_new, 1));
        m_new = fmaxf(m_new, __shfl_xor_sync(ALL_LANES, m_new, 2));
        const float base = exponent_base(m_new) * slope;
        alpha[half] = m_new > m[i][half] ? ex2(m[i][half] * slope - base) : 1.0f;
        m[i][half] = m_new;
        l[i][half] *= alpha[half];
#pragma unroll
        for (int n = 0; n < NT; ++n) {
#pragma unroll
          for (int e = 2 * half; e < 2 * half + 2; ++e) {
            s[i][n][e] = ex2(s[i][n][e] * slope - base);
            l[i][half] += s[i][n][e];
          }
        }
      }
      // After the first tiles a maximum seldom grows.
      if (!__any_sync(ALL_LANES, alpha[0] != 1 || alpha[1] != 1)) continue;
#pragma unroll
      for (int n = 0; n < DT; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) acc_o[i][n][e] *= alpha[e / 2];
      }
    }
  }

  // O += P V. What a lane has of two tiles of P is what it gives to an mma as 16 x 16 of A: P stays
  // in registers.
  __device__ void multiply_p_v(const char* V_smem) {
    using VTile = typename Shape::VTile;
    const uint32_t V = shared_address(V_smem) + VTile::template lane_offset<false>(0);
#pragma unroll
    for (int step = 0; step < NT / 2; ++step) {
      uint32_t p[MT][4];
#pragma unroll
      for (int i = 0; i < MT; ++i) {
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          const float (&pair)[4] = s[i][2 * step + r / 2];
          p[i][r] = pack(pair[r % 2 * 2], pair[r % 2 * 2 + 1], T());
        }
      }
#pragma unroll
      for (int n = 0; n < DT / 2; ++n) {
        uint32_t v[4];
        VTile::template read<false>(v, V, n, step);
#pragma unroll
        for (int i = 0; i < MT; ++i) {
          mma(acc_o[i][2 * n], p[i], v[0], v[1], T());
          mma(acc_o[i][2 * n + 1], p[i], v[2], v[3], T());
        }
      }
    }
  }

  // Adds up what four lanes have of a row's sum.
  __device__ void add_sums() {
#pragma unroll
    for (int i = 0; i < MT; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        l[i][half] += __shfl_xor_sync(ALL_LANES, l[i][half], 1);
        l[i][half] += __shfl_xor_sync(ALL_LANES, l[i][half], 2);
      }
    }
  }

  // The logarithm of the sum of exp(score) of a row; after add_sums.
  __device__ float lse(int i, int half, float slope) const {
    if (l[i][half] == 0) return -INFINITY;  // every score was -inf
    return exponent_base(m[i][half]) * slope * float(LN_2) + logf(l[i][half]);
  }

  // Normalises and writes O, and LSE. O passes through the warp's own rows of Q, which nobody reads any
  // more: straight from the registers, each row would get 16 bytes at a time.
  __device__ void write(const Attention<T>& p, const QueryTile<T>& tile, float slope,
                        char* Q_smem) {
    using QTile = typename Shape::QTile;
    add_sums();
#pragma unroll
    for (int i = 0; i < MT; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = query() + 16 * i + 8 * half;
        const float inverse = l[i][half] == 0 ? 0.0f : 1 / l[i][half];
#pragma unroll
        for (int n = 0; n < DT; ++n) {  // 8 columns are a chunk
          const float (&o)[4] = acc_o[i][n];
          const uint32_t pair = pack(o[2 * half] * inverse, o[2 * half + 1] * inverse, T());
          *reinterpret_cast<uint32_t*>(Q_smem + QTile::offset(row, n) + 2 * key()) = pair;
        }
        if (threadIdx.x % 4 == 0 && tile.q0 + row < tile.Nq) {
          tile.head.LSE[tile.q0 + row] = lse(i, half, slope);
        }
      }
    }
    __syncwarp();  // the warp's rows are complete
    write_rows(Q_smem, {tile.head.O, p.o.row, tile.Nq, p.Dv}, tile.q0);
  }

 private:
  __device__ static __noinline__ void write_rows(const char* smem, Rows<T> O, int q0) {
    using QTile = typename Shape::QTile;
    constexpr int PER_CHUNK = QTile::PER_CHUNK;
    const bool aligned = O.aligned();
#pragma unroll 1
    for (int i = threadIdx.x % 32; i < 16 * MT * QTile::CHUNKS; i += 32) {
      const int row = first_query() + i / QTile::CHUNKS;
      const int chunk = i % QTile::CHUNKS, count = min(PER_CHUNK, O.columns - PER_CHUNK * chunk);
      if (q0 + row >= O.count || count <= 0) continue;
      const auto from = reinterpret_cast<const Chunk<T>*>(smem + QTile::offset(row, chunk));
      T* to = O.data + (q0 + row) * O.stride + PER_CHUNK * chunk;
      if (aligned && count == PER_CHUNK) {
        *reinterpret_cast<Chunk<T>*>(to) = *from;
      } else {
        for (int e = 0; e < count; ++e) to[e] = from->element[e];
      }
    }
  }
};

// ------------------------------------------------------------------------------------------------
// The scale of the scores

// scale log2(e) = factor * slope with slope > 0, so that the largest product has the largest score;
// factor is 1 but for scales that are not positive.
struct Scale {
  float factor, slope;

  __host__ __device__ explicit Scale(float scale) {
    factor = scale > 0 ? 1.0f : scale == 0 ? 0.0f : -1.0f;
    slope = scale == 0 ? 1.0f : factor * scale * static_cast<float>(LOG2_E);
  }

  template <class Warp>
  __device__ void apply(Warp& warp) const {
    if (factor == 1) return;
    for (auto& tiles : warp.s) {
      for (auto& tile : tiles) {
#pragma unroll
        for (float& score : tile) score *= factor;
      }
    }
  }
};

// ------------------------------------------------------------------------------------------------
// A block's work: a tile of queries, and the tiles of keys that it sees

template <class Shape>
struct BlockWork {
  using T = typename Shape::T;
  static constexpr int BM = Shape::BM, BN = Shape::BN;

  QueryTile<T> tile;
  Band band;
  Rows<const T> Q, K, V;
  int q0, q1;    // the block's queries, of its sequence
  int end;       // of the keys that any of them sees
  bool aligned;  // all rows of K and V

  // The last queries come first: with a causal mask they have most to do.
  __device__ BlockWork(const Attention<T>& p, const int* sequence_of)
      : tile(query_tile<BM>(p, blockIdx.x % p.heads(),
                            static_cast<int>((gridDim.x - 1 - blockIdx.x) / p.heads()),
                            sequence_of)),
        band(p.rule, tile.Nq, tile.Nk),
        Q{tile.head.Q, p.q.row, tile.Nq, p.D},
        K{tile.head.K, p.k.row, tile.Nk, p.D},
        V{tile.head.V, p.v.row, tile.Nk, p.Dv},
        q0(tile.q0),
        q1(min(q0 + BM, tile.Nq)),
        end(band.end_of_keys(q1, tile.Nk)),
        aligned(K.aligned() && V.aligned()) {}

  __device__ bool is_empty() const { return q0 >= tile.Nq; }

  // The first tile of keys with a visible pair, and the next; from `end` on if there is none.
  __device__ int first() const { return visible_from(band.first_key(q0) / BN * BN); }
  __device__ int next(int k0) const { return visible_from(k0 + BN); }

  // Whether some pairs of a tile are hidden, or do not exist.
  __device__ bool masks(int k0) const {
    return k0 + BN > tile.Nk || !band.sees_all(q0, q1, k0, k0 + BN);
  }
  __device__ void mask(WarpAttention<Shape>& warp, int k0) const {
    warp.mask(band, [&](int row) { return q0 + row; }, k0, tile.Nk);
  }

 private:
  __device__ int visible_from(int k0) const {
    while (k0 < end && !band.sees_any(q0, q1, k0, min(k0 + BN, tile.Nk))) k0 += BN;
    return k0;
  }
};

// ------------------------------------------------------------------------------------------------
// Launching

// Launches a kernel with a block for each tile of queries.
template <class Shape, class Kernel>
void launch_blocks(const AttentionProblem& problem, const char* name, Kernel* kernel,
                   int smem_bytes, cudaStream_t stream) {
  const auto p = lowered<typename Shape::T>(problem);
  if (p.heads() == 0 || p.Nq == 0) return;
  const QueryTiles tiles = query_tiles<Shape::BM>(problem, p, stream);
  const int64_t blocks = p.heads() * tiles.count;
  if (blocks > MAX_GRID_X) throw LaunchError("attention %s: it needs 2^31 blocks or more", name);
  allow_shared_memory(kernel, smem_bytes);
  kernel<<<static_cast<unsigned>(blocks), Shape::NUM_THREADS, smem_bytes, stream>>>(
      p, tiles.sequence_of);
  CUDA_CHECK_LAUNCH(kernel);
}

// Calls run(T()) with the type of the problem's elements, fp16 or bf16.
template <class Run>
void with_16_bit_type(const AttentionProblem& p, Run run) {
  if (p.Q.dtype == DType::float16) return run(fp16());
  run(bf16());
}
