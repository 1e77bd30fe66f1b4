// transpose_vectorized.cu: transpose, 16 bytes at a time. The contract is in transpose.cu.
//
// Rungs                                      fp32: sectors of a warp's    wavefronts of its shared
//                                            load and store               store and load
//   vectorized  16 bytes per access               16, 16                       4, 4
//
// This is the last rung.
#include "transpose.cuh"

// ------------------------------------------------------------------------------------------------
// vectorized: 16 bytes per load and store, in global and in shared memory (all dtypes)
// Idea     A thread takes a square of E x E elements, E of which are 16 bytes: it loads E vectors,
//          transposes the square in its registers, and has E vectors of y.
//
//          x   | v0 v1 v2 ...       lanes along a row of x: each load of a warp covers whole lines.
//              |                    But the vectors of y that a warp then has are in many rows.
//          y   | v0                 They go through shared memory once more, as vectors, and out
//              | v1                 along the rows of y.
//
// Changes  vs swizzled: squares in place of elements; the tile permutes vectors, not elements.
// Bytes    As tiled, in a quarter of the requests (fp32): 16 sectors each, 4 wavefronts each.
// Shape    SIDE x SIDE squares and as many threads: 16 x 16; 16 KiB smem for fp32 (8 B: 8 KiB,
//          2 B: 32 KiB). Elements of 1 B: 8 x 8, 16 KiB. 1 __syncthreads.
// Trap     A square is E vectors of E elements. Moving elements narrower than a register one by one
//          would take a register and an instruction each: __byte_perm permutes two words at a time.
// Declines nothing, but needs pointers and rows that are multiples of 16 bytes.
// Next     It requests each byte once, in whole lines: what is left is to have enough of them in
//          flight.
constexpr int VECTORIZED_SIDE = 16;  // tunable: 8, 16; squares each way, half for elements of 1 B

// A row of a square.
template <class T>
struct alignas(16) Vector {
  static constexpr int SIZE = 16 / sizeof(T);
  uint32_t words[4];
};

// The first `count` elements at p, whose address is a multiple of 16; the others are undefined.
template <class T>
__device__ Vector<T> load(const T* p, int count) {
  Vector<T> vector = {};
  if (count >= Vector<T>::SIZE) {
    reinterpret_cast<uint4&>(vector) = *reinterpret_cast<const uint4*>(p);
  } else {
    // Shifted into the words one by one: an array indexed by a variable would be local memory.
#pragma unroll
    for (int i = 0; i < Vector<T>::SIZE; ++i) {
      if (i >= count) break;
      if constexpr (sizeof(T) == 8) {
        vector.words[2 * i] = static_cast<uint32_t>(p[i]);
        vector.words[2 * i + 1] = static_cast<uint32_t>(p[i] >> 32);
      } else {
        constexpr int IN_WORD = 4 / sizeof(T);
        vector.words[i / IN_WORD] |= static_cast<uint32_t>(p[i]) << i % IN_WORD * 8 * sizeof(T);
      }
    }
  }
  return vector;
}

template <class T>
__device__ void store(T* p, const Vector<T>& vector, int count) {
  if (count >= Vector<T>::SIZE) {
    *reinterpret_cast<uint4*>(p) = reinterpret_cast<const uint4&>(vector);
  } else {
#pragma unroll
    for (int i = 0; i < Vector<T>::SIZE; ++i) {
      if (i >= count) break;
      if constexpr (sizeof(T) == 8) {
        p[i] = vector.words[2 * i] | static_cast<T>(vector.words[2 * i + 1]) << 32;
      } else {
        constexpr int IN_WORD = 4 / sizeof(T);
        p[i] = static_cast<T>(vector.words[i / IN_WORD] >> i % IN_WORD * 8 * sizeof(T));
      }
    }
  }
}

// Transposes a square: row i, element j becomes row j, element i.
//
//          elements of 2 B, words of two rows:    a1 a0   ->   b0 a0    to row 2w
//                                                 b1 b0        b1 a1    to row 2w + 1
template <class T>
__device__ void turn(const Vector<T> (&in)[Vector<T>::SIZE], Vector<T> (&out)[Vector<T>::SIZE]) {
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    if constexpr (sizeof(T) == 8) {
      out[w / 2].words[w % 2] = in[0].words[w];
      out[w / 2].words[w % 2 + 2] = in[1].words[w];
    } else if constexpr (sizeof(T) == 4) {
#pragma unroll
      for (int i = 0; i < 4; ++i) out[w].words[i] = in[i].words[w];
    } else if constexpr (sizeof(T) == 2) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t a = in[2 * i].words[w], b = in[2 * i + 1].words[w];
        out[2 * w].words[i] = __byte_perm(a, b, 0x5410);
        out[2 * w + 1].words[i] = __byte_perm(a, b, 0x7632);
      }
    } else {  // bytes: 2 x 2 blocks of them first, then pairs
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t a = in[4 * i].words[w], b = in[4 * i + 1].words[w];
        const uint32_t c = in[4 * i + 2].words[w], d = in[4 * i + 3].words[w];
        const uint32_t ab_low = __byte_perm(a, b, 0x5140), ab_high = __byte_perm(a, b, 0x7362);
        const uint32_t cd_low = __byte_perm(c, d, 0x5140), cd_high = __byte_perm(c, d, 0x7362);
        out[4 * w].words[i] = __byte_perm(ab_low, cd_low, 0x5410);
        out[4 * w + 1].words[i] = __byte_perm(ab_low, cd_low, 0x7632);
        out[4 * w + 2].words[i] = __byte_perm(ab_high, cd_high, 0x5410);
        out[4 * w + 3].words[i] = __byte_perm(ab_high, cd_high, 0x7632);
      }
    }
  }
}

template <class T, int SIDE>
__global__ __launch_bounds__(SIDE* SIDE) void transpose_vectorized_kernel(const Transpose<T> p) {
  constexpr int E = Vector<T>::SIZE;
  __shared__ Vector<T> tile_smem[SIDE * E][SIDE];  // [n, square of m], columns permuted
  const Tile<T> tile(p, SIDE * E, SIDE * E);
  const int lane = threadIdx.x % SIDE, row = threadIdx.x / SIDE;

  // Square (row, lane) of x: m from m0 + row * E on, n from n0 + lane * E on.
  Vector<T> x_frag[E], y_frag[E];
  const int n = tile.n0 + lane * E;
#pragma unroll
  for (int i = 0; i < E; ++i) {
    const int m = tile.m0 + row * E + i;
    x_frag[i] = load(tile.x + m * p.ldx + n, m < p.M ? p.N - n : 0);
  }
  turn(x_frag, y_frag);
  // Lanes store down a column of the tile. Row n belongs to the squares of column n / E = lane.
#pragma unroll
  for (int j = 0; j < E; ++j) tile_smem[lane * E + j][row ^ lane] = y_frag[j];
  __syncthreads();  // the tile is complete

  const int m = tile.m0 + lane * E;
#pragma unroll
  for (int j = 0; j < E; ++j) {
    const int i = j * SIDE + row;  // lanes read along a row of the tile
    if (tile.n0 + i >= p.N) break;
    store(tile.y + (tile.n0 + i) * p.ldy + m, tile_smem[i][lane ^ i / E], p.M - m);
  }
}

void transpose_vectorized(const TransposeProblem& p, cudaStream_t stream) {
  with_bits(p.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    constexpr int SIDE = VECTORIZED_SIDE / (sizeof(T) == 1 ? 2 : 1);
    constexpr int SPAN = SIDE * Vector<T>::SIZE;
    launch_tiles<T>(transpose_vectorized_kernel<T, SIDE>, "transpose_vectorized", p, SPAN, SPAN,
                    dim3(SIDE * SIDE), stream);
  });
}
