// types.cpp: the types of PTX by name.

#include "ptx/ptx.h"

namespace wbsim::ptx {
namespace {

struct TypeName {
  std::string_view name;
  Type type;
  int bytes;
};
constexpr TypeName TYPES[] = {
    {"pred", Type::Pred, 1},   {"b8", Type::B8, 1},         {"b16", Type::B16, 2},
    {"b32", Type::B32, 4},     {"b64", Type::B64, 8},       {"b128", Type::B128, 16},
    {"u8", Type::U8, 1},       {"u16", Type::U16, 2},       {"u32", Type::U32, 4},
    {"u64", Type::U64, 8},     {"s8", Type::S8, 1},         {"s16", Type::S16, 2},
    {"s32", Type::S32, 4},     {"s64", Type::S64, 8},       {"f16", Type::F16, 2},
    {"f16x2", Type::F16x2, 4}, {"bf16", Type::BF16, 2},     {"bf16x2", Type::BF16x2, 4},
    {"tf32", Type::TF32, 4},   {"e4m3", Type::E4M3, 1},     {"e5m2", Type::E5M2, 1},
    {"f32", Type::F32, 4},     {"f64", Type::F64, 8},       {"u16x2", Type::U16x2, 4},
    {"s16x2", Type::S16x2, 4}, {"e4m3x2", Type::E4M3x2, 2}, {"e5m2x2", Type::E5M2x2, 2},
};

}  // namespace

Type type_from(std::string_view name) {
  for (const TypeName& t : TYPES) {
    if (t.name == name) {
      return t.type;
    }
  }
  return Type::None;
}

int bytes_of(Type type) {
  for (const TypeName& t : TYPES) {
    if (t.type == type) {
      return t.bytes;
    }
  }
  return 0;
}

bool is_signed(Type type) {
  return type == Type::S8 || type == Type::S16 || type == Type::S32 || type == Type::S64;
}

bool is_float(Type type) { return type >= Type::F16; }

}  // namespace wbsim::ptx
