#include "exec/ops/tensor_copy.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "checks/checker.h"
#include "counting/counting.h"
#include "exec/ops/access.h"
#include "exec/ops/float_mode.h"
#include "exec/shared_window.h"

namespace wbsim {
namespace {

// CUtensorMapDataType.
enum DataType : uint8_t {
  UINT8,
  UINT16,
  UINT32,
  INT32,
  UINT64,
  INT64,
  FLOAT16,
  FLOAT32,
  FLOAT64,
  BFLOAT16,
  FLOAT32_FTZ,
  TFLOAT32,
  TFLOAT32_FTZ,
  NUM_TYPES,
};

struct ElementType {
  uint8_t bytes;
  ptx::Type type;
  uint64_t nan;  // what fills out-of-bounds elements if requested; integers have none
};

constexpr ElementType TYPES[NUM_TYPES] = {
    {1, ptx::Type::U8, 0},
    {2, ptx::Type::U16, 0},
    {4, ptx::Type::U32, 0},
    {4, ptx::Type::S32, 0},
    {8, ptx::Type::U64, 0},
    {8, ptx::Type::S64, 0},
    {2, ptx::Type::F16, 0x7fff},
    {4, ptx::Type::F32, 0x7fffffff},
    {8, ptx::Type::F64, 0x7fffffffffffffff},
    {2, ptx::Type::BF16, 0x7fff},
    {4, ptx::Type::F32, 0x7fffffff},
    {4, ptx::Type::F32, 0x7fffffff},
    {4, ptx::Type::F32, 0x7fffffff},
};

constexpr Swizzle SWIZZLES[] = {Swizzle::None, Swizzle::Bytes32, Swizzle::Bytes64,
                                Swizzle::Bytes128};  // by CUtensorMapSwizzle

// Bytes of each row that are inside the tensor: [first, last), the same for all rows.
struct Clip {
  int64_t first, last;
};

Clip clip_of(const TensorBox& box) {
  int64_t bytes = box.element_bytes(), size = int64_t{box.map.sizes[0]} + 1;
  int64_t row = box.row_bytes();
  return {std::clamp<int64_t>(-int64_t{box.at[0]} * bytes, 0, row),
          std::clamp<int64_t>((size - box.at[0]) * bytes, 0, row)};
}

// A dimension after the first: the coordinates of its rows.
struct Steps {
  int64_t first, step, size, stride;  // stride: bytes
  uint32_t count;

  int64_t at(uint32_t i) const { return first + i * step; }
  bool inside(int64_t x) const { return x >= 0 && x < size; }
};

// Calls f(row, address) for the rows of a tiled box, in order; address: of the row's element 0, or
// nullptr if the row is outside the tensor.
template <class F>
void each_tiled_row(const TensorBox& box, F f) {
  const TensorMap& map = box.map;
  Steps dims[4];
  for (int i = 0; i < 4; i++) {
    bool there = i + 1 < map.rank;
    uint32_t step = there ? map.element_strides[i + 1] : 1;
    dims[i] = {there ? box.at[i + 1] : 0, step, there ? int64_t{map.sizes[i + 1]} + 1 : 1,
               there ? static_cast<int64_t>(map.strides[i]) : 0,
               there ? (map.box[i + 1] + step - 1) / step : 1};
  }
  const int64_t start =
      static_cast<int64_t>(map.address) + int64_t{box.at[0]} * box.element_bytes();
  uint64_t row = 0;
  for (uint32_t i3 = 0; i3 < dims[3].count; i3++) {
    for (uint32_t i2 = 0; i2 < dims[2].count; i2++) {
      for (uint32_t i1 = 0; i1 < dims[1].count; i1++) {
        int64_t x1 = dims[1].at(i1), x2 = dims[2].at(i2), x3 = dims[3].at(i3);
        bool inside = dims[1].inside(x1) && dims[2].inside(x2) && dims[3].inside(x3);
        int64_t plane = start + x1 * dims[1].stride + x2 * dims[2].stride + x3 * dims[3].stride;
        for (uint32_t i0 = 0; i0 < dims[0].count; i0++, row++) {
          int64_t x0 = dims[0].at(i0);
          f(row, inside && dims[0].inside(x0)
                     ? reinterpret_cast<uint8_t*>(plane + x0 * dims[0].stride)
                     : nullptr);
        }
      }
    }
  }
}

// The same for the pixels of an im2col box. Positions move through the bounding box, W fastest, and
// on to the next images; what is read is at a position plus the offsets, which are those of the
// filter.
template <class F>
void each_pixel(const TensorBox& box, F f) {
  const TensorMap& map = box.map;
  const int spatial = map.rank - 2;
  int64_t at[4];
  std::copy_n(box.at + 1, map.rank - 1, at);
  const int64_t start =
      static_cast<int64_t>(map.address) + int64_t{box.at[0]} * box.element_bytes();
  for (uint32_t row = 0; row < map.pixels_per_column; row++) {
    bool inside = true;
    int64_t address = start;
    for (int i = 0; i <= spatial; i++) {
      int64_t x = at[i] + (i < spatial ? box.offsets[i] : 0);
      inside = inside && x >= 0 && x <= map.sizes[i + 1];
      address += x * static_cast<int64_t>(map.strides[i]);
    }
    f(row, inside ? reinterpret_cast<uint8_t*>(address) : nullptr);
    int i = 0;
    for (; i < spatial; i++) {
      at[i] += map.element_strides[i + 1];
      if (at[i] <= int64_t{map.sizes[i + 1]} + map.upper_corner[i]) {
        break;
      }
      at[i] = map.lower_corner[i];
    }
    at[spatial] += i == spatial;
  }
}

template <class F>
void each_row(const TensorBox& box, F f) {
  if (box.map.im2col) {
    each_pixel(box, f);
  } else {
    each_tiled_row(box, f);
  }
}

// The bytes of a row and their places in swizzled shared memory, in 16-byte units; an im2col row
// may end within one: f(byte, address, bytes).
template <class F>
void each_unit(uint32_t address, uint32_t bytes, Swizzle swizzle, F f) {
  uint32_t i = 0;
  for (; i + 16 <= bytes; i += 16) {
    f(i, swizzled(address + i, swizzle), 16);
  }
  if (i < bytes) {
    f(i, swizzled(address + i, swizzle), bytes - i);
  }
}

// Rows between the dense order and shared memory.
struct SharedRows {
  SharedPlace place;
  Swizzle swizzle;
  uint32_t row_bytes;

  // of shared address 0
  uint8_t* base() const { return place.block->shared - SHARED_BASE; }
  uint32_t address(uint64_t row) const {
    return place.address() + static_cast<uint32_t>(row) * row_bytes;
  }
  void put(uint64_t row, const uint8_t* from) const {
    if (swizzle == Swizzle::None) {
      std::memcpy(base() + address(row), from, row_bytes);
      return;
    }
    each_unit(address(row), row_bytes, swizzle,
              [&](uint32_t i, uint32_t at, uint32_t n) { std::memcpy(base() + at, from + i, n); });
  }
  void get(uint64_t row, uint8_t* to) const {
    if (swizzle == Swizzle::None) {
      std::memcpy(to, base() + address(row), row_bytes);
      return;
    }
    each_unit(address(row), row_bytes, swizzle,
              [&](uint32_t i, uint32_t at, uint32_t n) { std::memcpy(to + i, base() + at, n); });
  }
};

SharedRows rows_at(const TensorBox& box, SharedPlace place) {
  return {place, box.swizzle(), box.row_bytes()};
}

// Rounds to the 10 fraction bits of tf32, ties away from zero.
uint32_t to_tf32(uint32_t bits) {
  bool finite = (bits & 0x7f800000) != 0x7f800000;
  return finite ? (bits + 0x1000) & ~0x1fffu : bits;
}

bool converts(const TensorBox& box) { return box.map.type >= FLOAT32_FTZ; }

// What copies do to elements of types that require it: denormals become zero, floats tf32.
void convert(const TensorBox& box, uint8_t* row, int64_t bytes) {
  bool ftz = box.map.type != TFLOAT32, tf32 = box.map.type != FLOAT32_FTZ;
  for (int64_t i = 0; i < bytes; i += 4) {
    float value;
    std::memcpy(&value, row + i, 4);
    uint32_t bits = std::bit_cast<uint32_t>(ftz ? flush(value) : value);
    bits = tf32 ? to_tf32(bits) : bits;
    std::memcpy(row + i, &bits, 4);
  }
}

std::vector<uint8_t> filled_row(const TensorBox& box) {
  std::vector<uint8_t> row(box.row_bytes());
  const ElementType& element = TYPES[box.map.type];
  if (box.map.fill) {
    for (size_t i = 0; i < row.size(); i += element.bytes) {
      std::memcpy(row.data() + i, &element.nan, element.bytes);
    }
  }
  return row;
}

}  // namespace

uint32_t TensorBox::element_bytes() const { return TYPES[map.type].bytes; }

uint32_t TensorBox::row_bytes() const {
  return (map.im2col ? map.channels_per_pixel : map.box[0]) * element_bytes();
}

uint64_t TensorBox::num_rows() const {
  if (map.im2col) {
    return map.pixels_per_column;
  }
  uint64_t rows = 1;
  for (int i = 1; i < map.rank; i++) {
    rows *= (map.box[i] + map.element_strides[i] - 1) / map.element_strides[i];
  }
  return rows;
}

Swizzle TensorBox::swizzle() const { return SWIZZLES[map.swizzle]; }

uint64_t TensorBox::shared_bytes() const {
  return map.swizzle ? (bytes() + 127) / 128 * 128 : bytes();
}

ptx::Type TensorBox::type(Reduce op) const {
  ptx::Type type = TYPES[map.type].type;
  if (op < Reduce::And || ptx::is_float(type)) {
    return type;
  }
  return element_bytes() == 4   ? ptx::Type::B32
         : element_bytes() == 8 ? ptx::Type::B64
                                : ptx::Type::None;
}

TensorMap load_tensor_map(const Issuer& issuer, uint64_t address) {
  const Block& block = issuer.block();
  const Launch& launch = *block.worker->launch;
  const auto* at = reinterpret_cast<const uint8_t*>(address);
  bool in_params =
      at >= block.params && within(at - block.params, sizeof(TensorMap), 0, launch.params.size());
  if (!in_params && !launch.regions.find(address, sizeof(TensorMap), false)) {
    issuer.fail("memcheck",
                "the tensor map is neither in global or constant memory nor in the kernel's "
                "parameters",
                "a kernel takes it as `const __grid_constant__ CUtensorMap map` and uses &map; "
                "without __grid_constant__ that is a copy in local memory");
  }
  if ((in_params ? at - block.params : address) % 64 != 0) {
    issuer.fail("memcheck", "the tensor map's address is not a multiple of 64");
  }
  TensorMap map;
  std::memcpy(&map, at, sizeof map);
  if (map.magic != TensorMap::MAGIC || map.rank < 1 || map.rank > TensorMap::MAX_RANK ||
      map.type >= NUM_TYPES || map.swizzle >= std::size(SWIZZLES)) {
    issuer.fail("memcheck", "the 128 bytes at the address are not a tensor map",
                "cuTensorMapEncodeTiled and cuTensorMapEncodeIm2col make one");
  }
  if (std::count(map.element_strides, map.element_strides + map.rank, 0)) {
    issuer.fail("memcheck", "an element stride of the tensor map is 0");
  }
  if (map.interleave) {
    issuer.fail("unsupported", "the simulator does not implement interleaved tensors");
  }
  return map;
}

void check_box(const Issuer& issuer, const TensorBox& box, bool write, bool reduces) {
  auto [first, last] = clip_of(box);
  if (first >= last) {
    return;
  }
  // Mostly one allocation holds the whole box.
  uint64_t low = UINT64_MAX, high = 0;
  each_row(box, [&](uint64_t, const uint8_t* row) {
    if (row) {
      low = std::min(low, reinterpret_cast<uint64_t>(row));
      high = std::max(high, reinterpret_cast<uint64_t>(row));
    }
  });
  if (low > high) {
    return;
  }
  const Launch& launch = *issuer.block().worker->launch;
  const Region* region = launch.regions.find(low + first, high - low + last - first, write);
  Checker* checker = issuer.block().cluster->checker.get();
  if (region && !write && !checker && !launch.counting) {
    return;
  }
  each_row(box, [&](uint64_t, const uint8_t* row) {
    if (row) {
      check_global(*issuer.warp, issuer.in, issuer.lane, reinterpret_cast<uint64_t>(row) + first,
                   last - first, write);
      if (checker) {
        checker->global_copy(issuer, row + first, last - first, write, reduces);
      }
      if (launch.counting) {
        count_copy(*issuer.warp, issuer.in, reinterpret_cast<uint64_t>(row) + first, last - first,
                   write);
      }
    }
  });
}

std::vector<uint32_t> units_inside(const TensorBox& box, SharedPlace at) {
  const auto [first, last] = clip_of(box);
  const SharedRows rows = rows_at(box, at);
  std::vector<uint32_t> offsets;
  each_row(box, [&, first = first, last = last](uint64_t row, const uint8_t* inside) {
    if (!inside || first >= last) {
      return;
    }
    each_unit(rows.address(row), rows.row_bytes, rows.swizzle,
              [&](uint32_t i, uint32_t unit, uint32_t n) {
                if (n == 16 && int64_t{i} < last && int64_t{i} + n > first) {
                  offsets.push_back(unit - SHARED_BASE);
                }
              });
  });
  return offsets;
}

void load_box(const TensorBox& box, SharedPlace to) {
  auto [first, last] = clip_of(box);
  const SharedRows rows = rows_at(box, to);
  const std::vector<uint8_t> outside = filled_row(box);
  const bool whole = first == 0 && last == rows.row_bytes && !converts(box);
  std::vector<uint8_t> made = outside;
  each_row(box, [&](uint64_t row, const uint8_t* from) {
    if (!from || first >= last) {
      rows.put(row, outside.data());
    } else if (whole) {
      rows.put(row, from);
    } else {
      std::memcpy(made.data() + first, from + first, last - first);
      if (converts(box)) {
        convert(box, made.data() + first, last - first);
      }
      rows.put(row, made.data());
    }
  });
}

void read_box(const TensorBox& box, SharedPlace from, uint8_t* to) {
  const SharedRows rows = rows_at(box, from);
  for (uint64_t row = 0; row < box.num_rows(); row++) {
    rows.get(row, to + row * rows.row_bytes);
  }
}

void write_box(const TensorBox& box, const uint8_t* from, ReduceElements reduce) {
  auto [first, last] = clip_of(box);
  if (first >= last) {
    return;
  }
  const uint32_t row_bytes = box.row_bytes();
  std::vector<uint8_t> made(row_bytes);
  each_row(box, [&](uint64_t row, uint8_t* to) {
    if (!to) {
      return;
    }
    const uint8_t* source = from + row * row_bytes + first;
    if (converts(box)) {
      std::memcpy(made.data(), source, last - first);
      convert(box, made.data(), last - first);
      source = made.data();
    }
    if (reduce) {
      reduce(to + first, source, last - first);
    } else {
      std::memcpy(to + first, source, last - first);
    }
  });
}

}  // namespace wbsim
