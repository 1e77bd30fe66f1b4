// tensor_map_ops.cpp: tensor maps modified by kernels: tensormap.replace, tensormap.cp_fenceproxy;
// prefetch.tensormap.

#include <iterator>

#include "exec/lanes.h"
#include "exec/ops/access.h"
#include "exec/ops/dispatch.h"
#include "exec/ops/shared_address.h"
#include "exec/ops/tensor_map.h"
#include "exec/shared_window.h"

namespace wbsim {
namespace {

using ptx::Operand;
using ptx::Type;

constexpr uint32_t MAP_BYTES = 128, MAP_ALIGN = 64;

enum class Field : uint8_t {
  Address,
  Rank,
  Box,
  Size,
  Stride,
  ElementStride,
  ElementType,
  Interleave,
  Swizzle,
  Fill,
};

struct FieldForm {
  const char* name;
  Field field;
  Type type;
  bool has_ordinal;  // one of an array of dimensions
};

constexpr FieldForm FIELDS[] = {
    {"global_address", Field::Address, Type::B64, false},
    {"rank", Field::Rank, Type::B32, false},
    {"box_dim", Field::Box, Type::B32, true},
    {"global_dim", Field::Size, Type::B32, true},
    {"global_stride", Field::Stride, Type::B64, true},
    {"element_stride", Field::ElementStride, Type::B32, true},
    {"elemtype", Field::ElementType, Type::B32, false},
    {"interleave_layout", Field::Interleave, Type::B32, false},
    {"swizzle_mode", Field::Swizzle, Type::B32, false},
    {"fill_mode", Field::Fill, Type::B32, false},
};

// From the numbers of tensormap.replace (see the PTX ISA) to those of CUtensorMapDataType.
constexpr uint8_t ELEMENT_TYPES[] = {0, 1, 2, 3, 4, 5, 6, 7, 10, 8, 9, 11, 12};

// A tensor map in global or shared memory.
uint8_t* map_at(const Issuer& issuer, const uint32_t* words, bool write, uint32_t align) {
  Warp& w = *issuer.warp;
  uint64_t address = address_of(w, words, issuer.lane);
  auto window = static_cast<Window>(words[1] & 0xff);
  if (window == Window::Cta ||
      (window == Window::Generic && block_holding(issuer.block(), address))) {
    return shared_place(issuer, words, MAP_BYTES, align, "the tensor map").data();
  }
  if (address % align != 0) {
    issuer.fail("memcheck",
                "the tensor map's address is not a multiple of " + std::to_string(align));
  }
  check_global(w, issuer.in, issuer.lane, address, MAP_BYTES, write);
  return reinterpret_cast<uint8_t*>(address);
}

void set_field(TensorMap& map, Field field, uint32_t ordinal, uint64_t value) {
  switch (field) {
    case Field::Address:
      map.address = value;
      break;
    case Field::Rank:  // given minus one
      map.rank = static_cast<uint8_t>(value + 1);
      break;
    case Field::Box:
      map.box[ordinal] = static_cast<uint16_t>(value);
      break;
    case Field::Size:
      map.sizes[ordinal] = static_cast<uint32_t>(value) - 1;
      break;
    case Field::Stride:
      map.strides[ordinal] = value;
      break;
    case Field::ElementStride:
      map.element_strides[ordinal] = static_cast<uint8_t>(value);
      break;
    case Field::ElementType:
      map.type = ELEMENT_TYPES[value];
      break;
    case Field::Interleave:
      map.interleave = static_cast<uint8_t>(value);
      break;
    case Field::Swizzle:
      map.swizzle = static_cast<uint8_t>(value);
      break;
    case Field::Fill:
      map.fill = static_cast<uint8_t>(value);
      break;
  }
}

// The largest value that a field takes; the smallest is 0.
uint64_t largest(Field field) {
  switch (field) {
    case Field::Rank:
      return TensorMap::MAX_RANK - 1;
    case Field::ElementType:
      return std::size(ELEMENT_TYPES) - 1;
    case Field::Box:
      return 256;
    case Field::ElementStride:
      return 8;
    case Field::Interleave:
      return 2;
    case Field::Swizzle:
      return 3;
    case Field::Fill:
      return 1;
    default:
      return UINT64_MAX;
  }
}

// inst.flags: index of the field; inst.imm: the ordinal; inst.a: slot of the value.
const Inst* replace(Warp& w, const Inst* in, Mask m) {
  const FieldForm& form = FIELDS[in->flags];
  for_lanes(m, [&](int l) {
    Issuer issuer{&w, in, l};
    uint8_t* at = map_at(issuer, in->list, true, MAP_ALIGN);
    TensorMap map;
    std::memcpy(&map, at, sizeof map);
    if (map.magic != TensorMap::MAGIC) {
      issuer.fail("memcheck", "the 128 bytes at the address are not a tensor map",
                  "tensormap.replace changes a copy of one that cuTensorMapEncodeTiled made");
    }
    uint64_t value = form.type == Type::B64 ? w.reg<uint64_t>(in->a)[l] : w.reg<uint32_t>(in->a)[l];
    if (value > largest(form.field)) {
      issuer.fail("memcheck",
                  std::string(form.name) + " of a tensor map cannot be " + std::to_string(value));
    }
    set_field(map, form.field, static_cast<uint32_t>(in->imm), value);
    std::memcpy(at, &map, sizeof map);
  });
  return next(in);
}

void build_replace(Decode& d) {
  Window window = d.take("global")        ? Window::Global
                  : d.take("shared::cta") ? Window::Cta
                                          : Window::Generic;
  if (!d.take("tile") || !d.take("b1024")) {
    throw Unsupported{};
  }
  size_t field = 0;
  while (field < std::size(FIELDS) && !d.take(FIELDS[field].name)) {
    field++;
  }
  if (field == std::size(FIELDS) || d.take_type() != FIELDS[field].type) {
    throw Unsupported{};
  }
  d.inst.flags = static_cast<uint8_t>(field);
  std::vector<uint32_t> words;
  push_address(d, d.arg(0), window, words);
  d.inst.list = d.list(words);
  size_t value = 1;
  if (FIELDS[field].has_ordinal) {
    const Operand& ordinal = d.arg(value++);
    uint64_t dims =
        FIELDS[field].field == Field::Stride ? TensorMap::MAX_RANK - 1 : TensorMap::MAX_RANK;
    if (ordinal.kind != Operand::Integer || ordinal.bits >= dims) {
      throw Unsupported{};
    }
    d.inst.imm = static_cast<int64_t>(ordinal.bits);
  }
  d.inst.a = d.src(value, FIELDS[field].type);
  d.inst.run = replace;
}

// The lanes of the warp do this together, with the same operands.
const Inst* copy_map(Warp& w, const Inst* in, Mask m) {
  Issuer issuer{&w, in, __builtin_ctz(m)};
  uint8_t* to = map_at(issuer, in->list, true, MAP_BYTES);
  const uint8_t* from = map_at(issuer, in->list + ADDRESS_WORDS, false, MAP_BYTES);
  std::memcpy(to, from, MAP_BYTES);
  return next(in);
}

void build_copy(Decode& d) {
  if (!d.take("global") || !d.take("shared::cta") || !d.take("tensormap::generic") ||
      !d.take("release") || !d.take("sync") || !d.take("aligned") ||
      d.arg(2).kind != Operand::Integer || d.arg(2).bits != MAP_BYTES) {
    throw Unsupported{};
  }
  d.drop({"cta", "cluster", "gpu", "sys"});
  std::vector<uint32_t> words;
  push_address(d, d.arg(0), Window::Global, words);
  push_address(d, d.arg(1), Window::Cta, words);
  d.inst.list = d.list(words);
  d.inst.run = copy_map;
}

void build_tensormap(Decode& d) {
  if (d.take("replace")) {
    build_replace(d);
  } else if (d.take("cp_fenceproxy")) {
    build_copy(d);
  }
}

const Inst* nothing(Warp&, const Inst* in, Mask) { return next(in); }

void build_prefetch(Decode& d) {
  d.drop({"tensormap", "const", "param"});
  d.inst.run = nothing;
}

constexpr Opcode OPCODES[] = {
    {"tensormap", build_tensormap, UnitRule::Memory, First::Other, Flow::Other},
    {"prefetch", build_prefetch, UnitRule::Memory, First::Other, Flow::Other,
     [](const ptx::Instruction& inst) { return has(inst, "tensormap"); }},
};

}  // namespace

std::span<const Opcode> tensor_map_opcodes() { return OPCODES; }

}  // namespace wbsim
