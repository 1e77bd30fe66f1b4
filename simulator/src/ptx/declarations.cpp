// declarations.cpp: variables with their initial values, and registers.

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>

#include "ptx/parser.h"

namespace wbsim::ptx {
namespace {

constexpr uint64_t MAX_VARIABLE = 1ull << 40;  // bytes
constexpr uint64_t MAX_PADDING = 1 << 26;      // bytes that a module's initialisers leave out
constexpr uint64_t MAX_ALIGN = 1 << 16;

}  // namespace

// `.align 4 .b8 name[16] = {...}, other;` with the space already taken.
void Parser::variables(Space space, bool external, std::vector<Variable>& out) {
  Variable v = variable_type(space);
  v.external = external;
  do {
    Variable one = v;
    std::vector<uint64_t> rows = variable_name(one);
    if (lex_.accept("=")) {
      initializer(one, rows);
    }
    out.push_back(std::move(one));
  } while (lex_.accept(","));
  lex_.expect(";");
}

Variable Parser::variable_type(Space space) {
  Variable v;
  v.space = space;
  v.type = Type::None;
  uint64_t align = 0, components = 1;
  while (lex_.peek().kind == Tok::Word && lex_.peek().text.starts_with(".")) {
    if (lex_.accept(".align")) {
      align = integer(lex_, 1, MAX_ALIGN);
      if (!std::has_single_bit(align)) {
        lex_.fail("expected a power of two as alignment");
      }
    } else if (lex_.accept(".ptr") || lex_.accept(".global") || lex_.accept(".const") ||
               lex_.accept(".shared") || lex_.accept(".local") || lex_.accept(".attribute")) {
      if (lex_.accept("(")) {
        skip_to(")");
      }
    } else if (lex_.at(".v2") || lex_.at(".v4")) {
      components = lex_.next().text == ".v2" ? 2 : 4;
    } else {
      v.type = type();
    }
  }
  if (v.type == Type::None) {
    lex_.fail("expected a type");
  }
  v.bytes = bytes_of(v.type) * components;
  v.align = static_cast<int>(align ? align : v.bytes);
  return v;
}

// A type as written in a declaration: `.b32`.
Type Parser::type() {
  std::string_view text = lex_.peek().text;
  Type t = lex_.peek().kind == Tok::Word && text.starts_with(".") ? type_from(text.substr(1))
                                                                  : Type::None;
  if (t == Type::None) {
    lex_.fail("expected a type");
  }
  lex_.next();
  return t;
}

// `name[2][3]`. Returns the bytes of a row at each level of an initialiser: those of the
// variable, of name[i], of name[i][j].
std::vector<uint64_t> Parser::variable_name(Variable& v) {
  v.name = word();
  std::vector<uint64_t> sizes;
  bool open = false;
  while (lex_.accept("[")) {
    if (lex_.accept("]")) {
      if (!sizes.empty()) {
        lex_.fail("only the first dimension may stay open");
      }
      open = true;
      sizes.push_back(1);
      continue;
    }
    sizes.push_back(integer(lex_, 0, MAX_VARIABLE));
    lex_.expect("]");
  }
  std::vector<uint64_t> rows(sizes.size() + 1, v.bytes);
  for (size_t i = sizes.size(); i-- > 0;) {
    if (sizes[i] && v.bytes > MAX_VARIABLE / sizes[i]) {
      lex_.fail("the variable is too large");
    }
    rows[i] = v.bytes *= sizes[i];
  }
  if (open) {
    v.bytes = rows[0] = 0;
  }
  return rows;
}

void Parser::initializer(Variable& v, const std::vector<uint64_t>& rows) {
  if (lex_.at("{")) {
    initializer_list(v, rows, 0);
  } else {
    initial_value(v);
  }
  if (v.bytes == 0) {
    v.bytes = v.init.size();
  }
  if (v.init.size() > v.bytes) {
    lex_.fail("'" + v.name + "' has more initial values than elements");
  }
}

void Parser::initializer_list(Variable& v, const std::vector<uint64_t>& rows, size_t level) {
  Depth depth(lex_, depth_);
  size_t first = v.init.size();
  list("{", "}", [&] {
    if (lex_.at("{")) {
      initializer_list(v, rows, level + 1);
    } else {
      initial_value(v);
    }
  });
  // A row inside an array is padded with zeros.
  const uint64_t size = level > 0 && level < rows.size() ? rows[level] : 0;
  const uint64_t written = v.init.size() - first;
  if (size > written) {
    padding_ += size - written;
    if (padding_ > MAX_PADDING) {
      lex_.fail("the rows of initial values are too long");
    }
    v.init.resize(first + size);
  }
}

void Parser::initial_value(Variable& v) {
  int width = bytes_of(v.type);
  size_t at = v.init.size();
  v.init.resize(at + width);
  if (lex_.peek().kind == Tok::Word) {
    Variable::Fixup fix{at, {}, 0, lex_.accept("generic")};
    if (fix.generic) {
      lex_.expect("(");
    }
    fix.symbol = word();
    if (fix.generic) {
      lex_.expect(")");
    }
    if (lex_.accept("+")) {
      fix.add = static_cast<int64_t>(constant(lex_).bits);
    }
    if (width != 8) {
      lex_.fail("expected a 64-bit type for an address");
    }
    v.fixups.push_back(fix);
    return;
  }
  Operand value = constant(lex_);
  uint64_t bits = value.bits;
  if (value.kind == Operand::Float && v.type == Type::F32 && !value.is_f32) {
    bits = std::bit_cast<uint32_t>(static_cast<float>(std::bit_cast<double>(bits)));
  }
  std::memcpy(v.init.data() + at, &bits, std::min(width, 8));
}

// Variables of a block. Their names are known only inside it and may hide others: one that the
// function has already used gets a name that no other variable has.
void Parser::local_variables(Function& f, Space space) {
  bool of_module = space == Space::Global || space == Space::Const;
  std::vector<Variable>& out = of_module ? module_->globals : f.locals;
  size_t first = out.size();
  variables(space, false, out);
  for (size_t i = first; i < out.size(); i++) {
    std::string name = out[i].name;
    if (of_module || used_names_.contains(name) || global_names_.contains(name)) {
      out[i].name += "@" + std::to_string(num_renamed_++);
    }
    used_names_.insert(out[i].name);
    if (!scopes_.innermost().variables.emplace(name, out[i].name).second) {
      lex_.fail("a second variable '" + name + "' in one block");
    }
  }
}

// `.reg .b32 a, r<100>;` and `.reg .v2 .f32 v;`
void Parser::registers(Function& f) {
  int components = lex_.accept(".v2") ? 2 : lex_.accept(".v4") ? 4 : 1;
  Type of = type();
  do {
    std::string name = word();
    if (lex_.accept("<")) {
      Scope::Range range{of, integer(lex_, 0, INT64_MAX), components};
      lex_.expect(">");
      if (!scopes_.innermost().ranges.emplace(name, range).second) {
        lex_.fail("registers '" + name + "<...>' are declared twice");
      }
    } else if (components == 1) {
      scopes_.declare(f, name, of);
    } else {
      scopes_.declare_vector(f, name, of, components);
    }
  } while (lex_.accept(","));
  lex_.expect(";");
}

}  // namespace wbsim::ptx
