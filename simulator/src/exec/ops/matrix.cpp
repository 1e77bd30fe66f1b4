// matrix.cpp: the product of mma, mma.sp and wmma.mma.
//
// Fragments are unpacked to dense tiles, multiplied and packed again. A's tile has its 16 rows side
// by side for every k, so that one vector takes part in a step for each of the 8 columns of B,
// whose elements are read one by one: C's 8 columns of 16 rows stay in 8 registers.
//
// Guarantees. Integers and single bits: exact, then wrapped or saturated once. f64: a chain
// of fused multiply-adds starting from C, in order of k. Other types: products are exact; they are
// added to C one after the other in order of k by fused multiply-adds in f32, so that
//   |D - exact| <= K * 2^-24 * (|C| + sum of |A||B|) * (1 + K * 2^-24),
// barring overflow; f16 results are rounded once more, at the end. Hardware adds in another order
// (PTX ISA, mma: "The accumulation order, rounding, and handling of subnormal inputs is
// unspecified"). A NaN in a result is the canonical one.

#include "exec/ops/matrix.h"

#include <cmath>
#include <cstdio>
#include <cstring>

#include "exec/ops/half.h"
#include "exec/warp.h"

namespace wbsim {
namespace {

constexpr int TILE_COLUMNS = 8;
constexpr int TILE = TILE_ROWS * TILE_COLUMNS;
constexpr int MAX_TILES = 4, MAX_A = TILE_ROWS * 128, MAX_B = TILE_COLUMNS * 128;  // elements

using Words = uint32_t __attribute__((vector_size(64)));

inline void load(Words& v, const void* from) { std::memcpy(&v, from, sizeof v); }
inline void store(void* to, const Words& v) { std::memcpy(to, &v, sizeof v); }

// ---- Blocks and tiles ---------------------------------------------------------------------------

// Two blocks of 8 rows of 4 words become 4 columns of 16 words, `stride` words apart.
inline void transpose(const uint32_t* low, const uint32_t* high, uint32_t* to, int stride) {
  Words half[2][2];  // [low, high][words 0 and 1, words 2 and 3]
  const uint32_t* blocks[2] = {low, high};
  for (int h = 0; h < 2; h++) {
    Words a, b;
    load(a, blocks[h]);
    load(b, blocks[h] + 16);
    half[h][0] =
        __builtin_shufflevector(a, b, 0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29);
    half[h][1] =
        __builtin_shufflevector(a, b, 2, 6, 10, 14, 18, 22, 26, 30, 3, 7, 11, 15, 19, 23, 27, 31);
  }
  for (int t = 0; t < 2; t++) {
    Words a = half[0][t], b = half[1][t];
    store(to + (2 * t) * stride,
          __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23));
    store(to + (2 * t + 1) * stride, __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24,
                                                             25, 26, 27, 28, 29, 30, 31));
  }
}

// The inverse.
inline void transpose_back(const uint32_t* from, int stride, uint32_t* low, uint32_t* high) {
  Words even[2], odd[2];  // pairs of words 0 and 1, of words 2 and 3: of rows 0-7, of rows 8-15
  for (int t = 0; t < 2; t++) {
    Words a, b;
    load(a, from + (2 * t) * stride);
    load(b, from + (2 * t + 1) * stride);
    (t ? odd : even)[0] =
        __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    (t ? odd : even)[1] =
        __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  }
  uint32_t* blocks[2] = {low, high};
  for (int h = 0; h < 2; h++) {
    store(blocks[h], __builtin_shufflevector(even[h], odd[h], 0, 1, 16, 17, 2, 3, 18, 19, 4, 5, 20,
                                             21, 6, 7, 22, 23));
    store(blocks[h] + 16, __builtin_shufflevector(even[h], odd[h], 8, 9, 24, 25, 10, 11, 26, 27, 12,
                                                  13, 28, 29, 14, 15, 30, 31));
  }
}

inline void transpose(const double* low, const double* high, double* to, int stride) {
  for (int t = 0; t < BLOCK_WORDS; t++) {
    for (int g = 0; g < BLOCK_ROWS; g++) {
      to[t * stride + g] = low[g * BLOCK_WORDS + t];
      to[t * stride + BLOCK_ROWS + g] = high[g * BLOCK_WORDS + t];
    }
  }
}

inline void transpose_back(const double* from, int stride, double* low, double* high) {
  for (int t = 0; t < BLOCK_WORDS; t++) {
    for (int g = 0; g < BLOCK_ROWS; g++) {
      low[g * BLOCK_WORDS + t] = from[t * stride + g];
      high[g * BLOCK_WORDS + t] = from[t * stride + BLOCK_ROWS + g];
    }
  }
}

// ---- Elements -----------------------------------------------------------------------------------

inline float widen_e4m3(uint32_t v) {
  // No infinities; all ones is NaN. A multiplication adjusts the exponent, as in half.h.
  float magnitude = std::bit_cast<float>((v & 0x7f) << 20) * 0x1p120f;
  uint32_t bits = (v & 0x7f) == 0x7f ? 0x7fc00000u : std::bit_cast<uint32_t>(magnitude);
  return std::bit_cast<float>(bits | (v & 0x80) << 24);
}

// 16 words become as many vectors of 16 numbers as a word has elements, the lowest bits first.
template <int BITS, class T, class F>
void unpack(const uint32_t* words, int vectors, T* to, F f) {
  for (int v = 0; v < vectors; v++, words += 16) {
    for (int e = 0; e < 32; e += BITS, to += 16) {
      for (int i = 0; i < 16; i++) {
        to[i] = f(words[i] >> e);
      }
    }
  }
}

void widen(Element type, const uint32_t* words, int vectors, float* to) {
  switch (type) {
    case Element::F16:
      return unpack<16>(words, vectors, to, [](uint32_t w) { return F16::widen(w & 0xffff); });
    case Element::BF16:
      return unpack<16>(words, vectors, to, [](uint32_t w) { return BF16::widen(w & 0xffff); });
    case Element::E5M2:
      return unpack<8>(words, vectors, to, [](uint32_t w) { return F16::widen((w & 0xff) << 8); });
    case Element::E4M3:
      return unpack<8>(words, vectors, to, widen_e4m3);
    default:  // TF32: the lower 13 bits are not read
      return unpack<32>(words, vectors, to,
                        [](uint32_t w) { return std::bit_cast<float>(w & 0xffffe000u); });
  }
}

// Integers are modulo 2^32.
void widen(Element type, const uint32_t* words, int vectors, uint32_t* to) {
  switch (type) {
    case Element::S8:
      return unpack<8>(words, vectors, to, [](uint32_t w) { return ((w & 0xff) ^ 0x80) - 0x80; });
    case Element::U8:
      return unpack<8>(words, vectors, to, [](uint32_t w) { return w & 0xff; });
    case Element::S4:
      return unpack<4>(words, vectors, to, [](uint32_t w) { return ((w & 0xf) ^ 8) - 8; });
    case Element::U4:
      return unpack<4>(words, vectors, to, [](uint32_t w) { return w & 0xf; });
    default:  // B1: 32 of them are multiplied at once
      std::memcpy(to, words, vectors * sizeof(Words));
  }
}

void widen(Element, const double* words, int vectors, double* to) {
  std::memcpy(to, words, vectors * 16 * sizeof(double));
}

// ---- Arithmetic ---------------------------------------------------------------------------------
// Word is what registers hold, T what tiles hold; V is the 16 rows of a column.

struct Floats {
  using Word = uint32_t;
  using T = float;
  using V = float __attribute__((vector_size(64)));
  static float multiply_add(float a, float b, float c) { return std::fma(a, b, c); }
  static void add_product(V& sum, const V& a, float b) {
#if defined(__AVX512F__)
    sum = _mm512_fmadd_ps(a, _mm512_set1_ps(b), sum);
#else
    for (int i = 0; i < 16; i++) {
      sum[i] = std::fma(a[i], b, sum[i]);
    }
#endif
  }
};

struct Doubles {
  using Word = double;
  using T = double;
  using V = double __attribute__((vector_size(128)));
  static void add_product(V& sum, const V& a, double b) {
    for (int i = 0; i < 16; i++) {
      sum[i] = std::fma(a[i], b, sum[i]);
    }
  }
};

struct Integers {
  using Word = uint32_t;
  using T = uint32_t;
  using V = Words;
  static uint32_t multiply_add(uint32_t a, uint32_t b, uint32_t c) { return a * b + c; }
  static void add_product(V& sum, const V& a, uint32_t b) { sum += a * b; }
};

template <bool AND>
struct Bits : Integers {
  static void add_product(V& sum, const V& a, uint32_t b) {
    for (int i = 0; i < 16; i++) {
      sum[i] += static_cast<uint32_t>(std::popcount(AND ? a[i] & b : a[i] ^ b));
    }
  }
};

// sum += A * B for 16 rows, 8 columns and blocks * 4 words along k, each of `elements`. Not
// inlined: FloatMode sets the rounding mode around it.
template <class Math>
[[gnu::noinline]] void multiply(typename Math::T* sums, const typename Math::T* a,
                                const typename Math::T* b, int blocks, int elements) {
  typename Math::V sum[TILE_COLUMNS], column;
  std::memcpy(sum, sums, sizeof sum);
  for (int block = 0; block < blocks; block++) {
    for (int t = 0; t < BLOCK_WORDS; t++) {
      for (int e = 0; e < elements; e++) {
        // B's vectors hold 4 columns of 4 words each.
        const auto* left = b + (2 * block * elements + e) * 16 + t;
        const auto* right = left + elements * 16;
        std::memcpy(&column, a, sizeof column);
        a += TILE_ROWS;
#pragma GCC unroll 4
        for (int n = 0; n < 4; n++) {
          Math::add_product(sum[n], column, left[n * BLOCK_WORDS]);
          Math::add_product(sum[4 + n], column, right[n * BLOCK_WORDS]);
        }
      }
    }
  }
  std::memcpy(sums, sum, sizeof sum);
}

// ---- mma.sp -------------------------------------------------------------------------------------

// The same for A of which every row holds `count` elements at its own places. Elements of B that a
// row does not select are not multiplied, even if they are infinite.
template <class Math>
[[gnu::noinline]] void multiply_held(typename Math::T* sums, const typename Math::T* a,
                                     const Places& places, const typename Math::T* b, int count,
                                     int elements) {
  using T = typename Math::T;
  for (int i = 0; i < count; i++, a += TILE_ROWS) {
    alignas(64) T chosen[TILE_COLUMNS][TILE_ROWS];
    for (int row = 0; row < TILE_ROWS; row++) {
      // As in multiply(): B's vectors hold 4 columns of 4 words each.
      int word = places.at[i][row] / elements, e = places.at[i][row] % elements;
      const T* from = b + (2 * (word / BLOCK_WORDS) * elements + e) * 16 + word % BLOCK_WORDS;
      for (int n = 0; n < TILE_COLUMNS; n++) {
        chosen[n][row] = from[n / 4 * elements * 16 + n % 4 * BLOCK_WORDS];
      }
    }
    for (int n = 0; n < TILE_COLUMNS; n++) {
      for (int row = 0; row < TILE_ROWS; row++) {
        T& sum = sums[n * TILE_ROWS + row];
        sum = Math::multiply_add(a[row], chosen[n][row], sum);
      }
    }
  }
}

// ---- The product --------------------------------------------------------------------------------

static_assert(std::is_trivially_copyable_v<Product> && sizeof(Product) % sizeof(uint32_t) == 0);
const uint32_t* slots_of(const Inst* in) { return in->list + sizeof(Product) / sizeof(uint32_t); }

// Registers of a tile of C or D: [block][even and odd columns]; for f16, one per block.
struct Accumulator {
  Element type;
  int blocks;
  int registers() const { return type == Element::F16 ? blocks : 2 * blocks; }
};

template <class Math>
void load_tile(Warp& w, const uint32_t* slots, Accumulator c, typename Math::T* to) {
  using Word = typename Math::Word;
  alignas(64) static const Word NOTHING[LANES] = {};
  if constexpr (std::is_same_v<Math, Floats>) {
    if (c.type == Element::F16) {
      alignas(64) uint32_t words[BLOCK_WORDS * 16];
      transpose(w.reg<Word>(slots[0]), c.blocks == 2 ? w.reg<Word>(slots[1]) : NOTHING, words, 16);
      widen(Element::F16, words, BLOCK_WORDS, to);
      return;
    }
  }
  alignas(64) Word columns[TILE];
  for (int i = 0; i < 2; i++) {
    transpose(w.reg<Word>(slots[i]), c.blocks == 2 ? w.reg<Word>(slots[2 + i]) : NOTHING,
              columns + i * 16, 32);
  }
  std::memcpy(to, columns, sizeof columns);
}

template <class Math>
void store_tile(Warp& w, const uint32_t* slots, Accumulator d, const typename Math::T* from) {
  using Word = typename Math::Word;
  alignas(64) Word nothing[LANES];
  alignas(64) Word columns[TILE];
  if constexpr (std::is_same_v<Math, Floats>) {
    if (d.type == Element::F16) {
      for (int t = 0; t < BLOCK_WORDS; t++) {
        for (int i = 0; i < 16; i++) {
          columns[t * 16 + i] = F16::narrow(from[t * 32 + i]) |
                                static_cast<uint32_t>(F16::narrow(from[t * 32 + 16 + i])) << 16;
        }
      }
      transpose_back(columns, 16, w.reg<Word>(slots[0]),
                     d.blocks == 2 ? w.reg<Word>(slots[1]) : nothing);
      return;
    }
    for (int i = 0; i < TILE; i++) {
      columns[i] = from[i] != from[i] ? 0x7fffffffu : std::bit_cast<uint32_t>(from[i]);
    }
  } else {
    std::memcpy(columns, from, sizeof columns);
  }
  for (int i = 0; i < 2; i++) {
    transpose_back(columns + i * 16, 32, w.reg<Word>(slots[i]),
                   d.blocks == 2 ? w.reg<Word>(slots[2 + i]) : nothing);
  }
}

// Everything is read before anything is written: D may share registers with the operands.
template <class Math>
void multiply_fragments(Warp& w, const Inst* in, const Product& p) {
  using T = typename Math::T;
  using Word = typename Math::Word;
  alignas(64) static const Word NOTHING[LANES] = {};
  alignas(64) T a[MAX_A], b[MAX_B], sums[MAX_TILES * TILE];
  const uint32_t* slots = slots_of(in);
  const int blocks = p.half_tile ? 1 : 2;
  // b1 stays in words of 32 bits.
  const int elements = p.a == Element::B1 ? 1 : elements_per_word(p.a);
  const int blocks_b = p.sparse ? 2 * p.blocks_k : p.blocks_k;

  alignas(64) Word words[BLOCK_WORDS * 16];
  const uint32_t* slot = slots + p.a_at;
  T* to = a;
  for (int block = 0; block < p.tiles_m * p.blocks_k; block++, slot += blocks) {
    transpose(w.reg<Word>(slot[0]), blocks == 2 ? w.reg<Word>(slot[1]) : NOTHING, words, 16);
    widen(p.a, words, BLOCK_WORDS, to);
    to += BLOCK_WORDS * elements * TILE_ROWS;
  }
  Places places;
  if (p.sparse) {
    find_places(w.reg<uint32_t>(p.metadata), p.a, p.blocks_k, p.selector, places);
  }
  for (int block = 0; block < p.tiles_n * blocks_b; block++) {
    widen(p.b, w.reg<Word>(slots[p.b_at + block]), 2, b + block * LANES * elements);
  }
  const Accumulator c{p.c, blocks}, d{p.d, blocks};
  const int tiles = p.tiles_m * p.tiles_n;
  for (int i = 0; i < tiles; i++) {
    load_tile<Math>(w, slots + p.c_at + i * c.registers(), c, sums + i * TILE);
  }
  for (int i = 0; i < tiles; i++) {
    const int count = p.blocks_k * BLOCK_WORDS * elements;
    const T* rows = a + i / p.tiles_n * count * TILE_ROWS;
    const T* columns = b + i % p.tiles_n * blocks_b * LANES * elements;
    T* sum = sums + i * TILE;
    auto add_products = [&](T* to) {
      if constexpr (std::is_same_v<Math, Floats> || std::is_same_v<Math, Integers>) {
        if (p.sparse) {
          return multiply_held<Math>(to, rows, places, columns, count, elements);
        }
      }
      multiply<Math>(to, rows, columns, p.blocks_k, elements);
    };
    if constexpr (std::is_base_of_v<Integers, Math>) {
      // The products alone fit in 32 bits with a wide margin.
      T products[TILE] = {};
      add_products(products);
      for (int j = 0; j < TILE; j++) {
        int32_t added;
        bool over = __builtin_add_overflow(static_cast<int32_t>(sum[j]),
                                           static_cast<int32_t>(products[j]), &added);
        int32_t bound = static_cast<int32_t>(products[j]) < 0 ? INT32_MIN : INT32_MAX;
        sum[j] = static_cast<T>(over && p.saturate ? bound : added);
      }
    } else {
      add_products(sum);
    }
  }
  for (int i = 0; i < tiles; i++) {
    store_tile<Math>(w, slots + i * d.registers(), d, sums + i * TILE);
  }
}

// mma.m8n8k4 with f16: lanes 4q to 4q + 3 and 16 more multiply the q-th of four pairs of matrices
// (PTX ISA, "Matrix Fragments for mma.m8n8k4 with .f16 floating point type").
void multiply_quads(Warp& w, const Inst* in, const Product& p) {
  const uint32_t* slots = slots_of(in);
  constexpr int N = 8, K = 4;
  float sums[4][N][N];
  auto half = [&](int at, int lane, int i) {
    return F16::widen(w.reg<uint16_t>(slots[at + i / 2])[2 * lane + i % 2]);
  };
  // Row and column of the i-th accumulator of a lane; `high` is 4 for lanes from 16 on.
  auto place = [](Element type, int lane, int i, int& row, int& column) {
    int high = lane / 16 * 4;
    row = high + (type == Element::F16 ? lane % 4 : (lane & 1) + (i & 2));
    column = type == Element::F16 ? i : (i & 4) + (lane & 2) + (i & 1);
  };
  float a[4][N][K], b[4][K][N];
  for (int lane = 0; lane < LANES; lane++) {
    int q = lane % 16 / 4, high = lane / 16 * 4, t = lane % 4;
    for (int i = 0; i < K; i++) {
      (p.a_row ? a[q][high + t][i] : a[q][high + i][t]) = half(p.a_at, lane, i);
      (p.b_row ? b[q][t][high + i] : b[q][i][high + t]) = half(p.b_at, lane, i);
    }
    for (int i = 0; i < N; i++) {
      int row, column;
      place(p.c, lane, i, row, column);
      sums[q][row][column] =
          p.c == Element::F16 ? half(p.c_at, lane, i) : w.reg<float>(slots[p.c_at + i])[lane];
    }
  }
  for (int q = 0; q < 4; q++) {
    for (int k = 0; k < K; k++) {
      for (int row = 0; row < N; row++) {
        for (int n = 0; n < N; n++) {
          sums[q][row][n] = std::fma(a[q][row][k], b[q][k][n], sums[q][row][n]);
        }
      }
    }
  }
  for (int lane = 0; lane < LANES; lane++) {
    for (int i = 0; i < N; i++) {
      int row, column;
      place(p.d, lane, i, row, column);
      float value = sums[lane % 16 / 4][row][column];
      if (p.d == Element::F16) {
        w.reg<uint16_t>(slots[i / 2])[2 * lane + i % 2] = F16::narrow(value);
      } else {
        w.reg<uint32_t>(slots[i])[lane] =
            value != value ? 0x7fffffffu : std::bit_cast<uint32_t>(value);
      }
    }
  }
}

void multiply_rounded(Warp& w, const Inst* in, const Product& p) {
  FloatMode mode(p.round, false);
  multiply_fragments<Doubles>(w, in, p);
}

using Multiply = void (*)(Warp&, const Inst*, const Product&);

template <Multiply F>
const Inst* product(Warp& w, const Inst* in, Mask m) {
  return with_whole_warp(w, in, m, [&] { F(w, in, *reinterpret_cast<const Product*>(in->list)); });
}

Handler handler_of(const Product& p) {
  switch (p.a) {
    case Element::F64:
      return p.round == Round::Nearest ? product<multiply_fragments<Doubles>>
                                       : product<multiply_rounded>;
    case Element::B1:
      return p.conjunction ? product<multiply_fragments<Bits<true>>>
                           : product<multiply_fragments<Bits<false>>>;
    case Element::S8:
    case Element::U8:
    case Element::S4:
    case Element::U4:
      return product<multiply_fragments<Integers>>;
    default:
      return p.quads ? product<multiply_quads> : product<multiply_fragments<Floats>>;
  }
}

}  // namespace

// PTX ISA, "Sparse matrix storage" of mma.sp and of wgmma.mma_async.sp, each warp of which works
// like an mma.sp. Two of four neighbours along k are held, and 4 bits of metadata say which two;
// pairs of s4 or u4 count as one. For tf32, one of two is held: treated as two halves, so that the
// places are 0, 1 or 2, 3. 16 bits of a row share a lane with those of the row 8 below; for narrow
// types a lane has 32 bits of one row.
void find_places(const uint32_t* metadata, Element type, int blocks_k, int selector,
                 Places& places) {
  const int per_word = elements_per_word(type);
  const int unit = per_word == 8 ? 2 : 1;
  const int held = per_word == 1 ? 1 : 2 * unit;  // out of a chunk of twice as many
  const int chunks = blocks_k * BLOCK_WORDS * per_word / held;
  const bool narrow = per_word >= 4;
  const int first = metadata_lanes(type, blocks_k) * selector;
  for (int row = 0; row < TILE_ROWS; row++) {
    const int group = row % BLOCK_ROWS * BLOCK_WORDS, high = row / BLOCK_ROWS;
    for (int chunk = 0; chunk < chunks; chunk++) {
      int lane = group + first + (narrow ? 2 * (chunk / 8) + high : chunk / 4);
      int shift = narrow ? chunk % 8 * 4 : chunk % 4 * 4 + 16 * high;
      uint32_t code = metadata[lane] >> shift;
      for (int i = 0; i < held; i++) {
        uint32_t place =
            per_word == 1 ? (code >> 1) & 1 : ((code >> (i / unit * 2)) & 3) * unit + i % unit;
        places.at[chunk * held + i][row] = static_cast<uint8_t>(chunk * 2 * held + place);
      }
    }
  }
}

// ---- Decoding -----------------------------------------------------------------------------------

namespace {

struct {
  std::string_view name;
  Element type;
  int bits;
} constexpr ELEMENTS[] = {
    {"f16", Element::F16, 16},  {"bf16", Element::BF16, 16}, {"tf32", Element::TF32, 32},
    {"e4m3", Element::E4M3, 8}, {"e5m2", Element::E5M2, 8},  {"s8", Element::S8, 8},
    {"u8", Element::U8, 8},     {"s4", Element::S4, 4},      {"u4", Element::U4, 4},
    {"b1", Element::B1, 1},     {"f64", Element::F64, 64},   {"f32", Element::F32, 32},
    {"s32", Element::S32, 32},
};

// Whether A and B of these types can have an accumulator of that type.
bool can_accumulate(Element a, Element b, Element c) {
  using enum Element;
  auto both = [&](Element x, Element y) { return (a == x || a == y) && (b == x || b == y); };
  if (both(F16, F16) || both(E4M3, E5M2)) {
    return c == F16 || c == F32;
  }
  if (both(BF16, BF16) || both(TF32, TF32)) {
    return c == F32;
  }
  if (both(F64, F64)) {
    return c == F64;
  }
  return (both(S8, U8) || both(S4, U4) || both(B1, B1)) && c == S32;
}

}  // namespace

int bits_of(Element type) {
  for (auto& element : ELEMENTS) {
    if (element.type == type) {
      return element.bits;
    }
  }
  throw Unsupported{};
}

Element take_element_if_any(Decode& d) {
  Element type = Element::None;
  d.take_if([&](std::string_view modifier) {
    for (auto& element : ELEMENTS) {
      if (modifier == element.name) {
        type = element.type;
      }
    }
    return type != Element::None;
  });
  return type;
}

Element take_element(Decode& d) {
  Element type = take_element_if_any(d);
  return type != Element::None ? type : throw Unsupported{};
}

bool take_row_major(Decode& d) {
  std::string layout = d.take_if([](std::string_view m) { return m == "row" || m == "col"; });
  return !layout.empty() ? layout == "row" : throw Unsupported{};
}

Shape take_shape(Decode& d) {
  Shape s;
  int end = 0;
  std::string text = d.take_if(
      [](std::string_view m) { return m.size() > 1 && m[0] == 'm' && m[1] >= '0' && m[1] <= '9'; });
  if (std::sscanf(text.c_str(), "m%dn%dk%d%n", &s.m, &s.n, &s.k, &end) != 3 ||
      text[static_cast<size_t>(end)] != 0) {
    throw Unsupported{};
  }
  return s;
}

void take_sync_aligned(Decode& d) {
  if (!d.take("sync") || !d.take("aligned")) {
    throw Unsupported{};
  }
  d.inst.d = d.constant(ALL_LANES, sizeof(Mask));
}

std::vector<uint32_t> fragment(Decode& d, size_t arg, Element type, bool destination) {
  const ptx::Operand& op = d.arg(arg);
  const ptx::Type word = type == Element::F64 ? ptx::Type::F64 : ptx::Type::B32;
  std::vector<uint32_t> slots;
  auto add = [&](const ptx::Operand& item) {
    slots.push_back(destination ? d.dst(item, word) : d.src(item, word));
  };
  if (op.kind == ptx::Operand::Vector) {
    std::for_each(op.items.begin(), op.items.end(), add);
  } else {
    add(op);
  }
  return slots;
}

void take_arithmetic(Decode& d, Product& p) {
  if (p.a == Element::F64) {
    p.round = take_round(d);
  } else if (p.a == Element::B1) {
    p.conjunction = d.take("and");
    if ((!p.conjunction && !d.take("xor")) || !d.take("popc")) {
      throw Unsupported{};
    }
  } else if (p.d == Element::S32) {
    p.saturate = d.take("satfinite");
  }
}

void build_product(Decode& d, Product& p, const Shape& shape) {
  const int words = elements_per_word(p.a) * BLOCK_WORDS;
  const int k = p.sparse ? shape.k / 2 : shape.k;
  p.half_tile = shape.m == BLOCK_ROWS;
  p.tiles_m = p.half_tile ? 1 : shape.m / TILE_ROWS;
  p.tiles_n = shape.n / TILE_COLUMNS;
  p.blocks_k = k / words;
  if (!can_accumulate(p.a, p.b, p.c) || !can_accumulate(p.a, p.b, p.d) ||
      (!p.half_tile && shape.m != p.tiles_m * TILE_ROWS) || shape.n != p.tiles_n * TILE_COLUMNS ||
      p.tiles_m * p.tiles_n > MAX_TILES ||
      (!p.quads && (k != p.blocks_k * words || p.blocks_k < 1)) ||
      shape.m * shape.k > MAX_A * (p.a == Element::B1 ? 32 : 1) ||
      (p.sparse && (p.half_tile || p.a == Element::F64 || p.a == Element::B1)) ||
      (p.sparse && (p.selector + 1) * metadata_lanes(p.a, p.blocks_k) > BLOCK_WORDS) ||
      shape.n * shape.k > MAX_B * (p.a == Element::B1 ? 32 : 1)) {
    throw Unsupported{};
  }
  std::vector<uint32_t> list(sizeof(Product) / sizeof(uint32_t));
  const int products = p.quads ? 4 : 1;
  auto add = [&](size_t arg, Element type, int rows, int columns) {
    std::vector<uint32_t> slots = fragment(d, arg, type, arg == 0);
    size_t needed = static_cast<size_t>(registers_of(type, rows * products, columns));
    if (slots.size() < needed) {
      throw Unsupported{};
    }
    int at = static_cast<int>(list.size() - sizeof(Product) / sizeof(uint32_t));
    list.insert(list.end(), slots.begin(), slots.begin() + needed);
    return at;
  };
  add(0, p.d, shape.m, shape.n);
  p.a_at = add(1, p.a, shape.m, k);
  p.b_at = add(2, p.b, shape.n, shape.k);
  p.c_at = add(3, p.c, shape.m, shape.n);
  std::memcpy(list.data(), &p, sizeof p);
  d.inst.list = d.list(list);
  d.inst.run = handler_of(p);
  d.info.flops = static_cast<uint32_t>(2 * shape.m * shape.n * shape.k * products / LANES);
}

}  // namespace wbsim
