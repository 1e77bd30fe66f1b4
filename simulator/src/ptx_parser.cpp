// ptx_parser.cpp: a recursive-descent parser for the PTX that nvcc writes.

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>

#include "ptx.h"

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

enum class Tok : uint8_t { End, Word, Number, String, Punct };

struct Token {
  Tok kind = Tok::End;
  std::string_view text;
  size_t begin = 0;
};

bool word_char(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '$' || c == '%' ||
         c == '.';
}

class Lexer {
 public:
  explicit Lexer(std::string_view text) : text_(text) { advance(); }

  const Token& peek() const { return token_; }
  bool at(std::string_view text) const { return token_.text == text && token_.kind != Tok::String; }
  Token next() {
    Token t = token_;
    advance();
    return t;
  }
  bool accept(std::string_view text) {
    if (!at(text)) {
      return false;
    }
    next();
    return true;
  }
  void expect(std::string_view text) {
    if (!accept(text)) {
      fail("expected '" + std::string(text) + "'");
    }
  }
  std::string_view slice(size_t from, size_t to) const { return text_.substr(from, to - from); }
  [[noreturn]] void fail(const std::string& what) const {
    size_t line = 1 + std::count(text_.begin(), text_.begin() + token_.begin, '\n');
    size_t from = text_.rfind('\n', token_.begin);
    from = from == std::string_view::npos ? 0 : from + 1;
    size_t to = std::min(text_.find('\n', token_.begin), text_.size());
    throw ParseError("PTX line " + std::to_string(line) + ": " + what + ", got '" +
                     std::string(token_.text) +
                     "' in: " + std::string(text_.substr(from, to - from)));
  }

 private:
  void skip_space() {
    while (pos_ < text_.size()) {
      char c = text_[pos_];
      if (c == ' ' || c == '\t' || c == '\n' || c == '\r') {
        pos_++;
      } else if (c == '/' && pos_ + 1 < text_.size() && text_[pos_ + 1] == '/') {
        pos_ = std::min(text_.find('\n', pos_), text_.size());
      } else if (c == '/' && pos_ + 1 < text_.size() && text_[pos_ + 1] == '*') {
        size_t end = text_.find("*/", pos_ + 2);
        pos_ = end == std::string_view::npos ? text_.size() : end + 2;
      } else {
        break;
      }
    }
  }

  void advance() {
    skip_space();
    token_ = Token{Tok::End, {}, pos_};
    if (pos_ >= text_.size()) {
      return;
    }
    char c = text_[pos_];
    size_t begin = pos_;
    if (c == '"') {
      size_t end = std::min(text_.find('"', pos_ + 1), text_.size() - 1);
      token_ = {Tok::String, text_.substr(pos_ + 1, end - pos_ - 1), begin};
      pos_ = end + 1;
      return;
    }
    if (std::isdigit(static_cast<unsigned char>(c))) {
      while (pos_ < text_.size() && std::isalnum(static_cast<unsigned char>(text_[pos_]))) {
        pos_++;
      }
      // A decimal point inside a number, as in 1.5 or .version 9.0.
      if (pos_ + 1 < text_.size() && text_[pos_] == '.' &&
          std::isdigit(static_cast<unsigned char>(text_[pos_ + 1]))) {
        pos_++;
        while (pos_ < text_.size() && std::isalnum(static_cast<unsigned char>(text_[pos_]))) {
          pos_++;
        }
      }
      token_ = {Tok::Number, text_.substr(begin, pos_ - begin), begin};
      return;
    }
    if (word_char(c)) {
      while (pos_ < text_.size()) {
        // C++ names in mangled form may hold "::" in inline PTX, as in .shared::cta.
        if (word_char(text_[pos_])) {
          pos_++;
        } else if (text_[pos_] == ':' && pos_ + 2 < text_.size() && text_[pos_ + 1] == ':' &&
                   word_char(text_[pos_ + 2])) {
          pos_ += 2;
        } else {
          break;
        }
      }
      token_ = {Tok::Word, text_.substr(begin, pos_ - begin), begin};
      return;
    }
    pos_++;
    token_ = {Tok::Punct, text_.substr(begin, 1), begin};
  }

  std::string_view text_;
  size_t pos_ = 0;
  Token token_;
};

std::vector<std::string> split_dots(std::string_view text) {
  std::vector<std::string> parts;
  size_t from = 0;
  while (from <= text.size()) {
    size_t dot = std::min(text.find('.', from), text.size());
    if (dot > from) {
      parts.emplace_back(text.substr(from, dot - from));
    }
    from = dot + 1;
  }
  return parts;
}

class Parser {
 public:
  explicit Parser(std::string text) : module_(std::make_unique<Module>()) {
    module_->text = std::move(text);
    lex_ = std::make_unique<Lexer>(module_->text);
  }

  std::unique_ptr<Module> run() {
    while (lex_->peek().kind != Tok::End) {
      top_level();
    }
    return std::move(module_);
  }

 private:
  struct Scope {
    std::unordered_map<std::string, int> registers;
    std::unordered_map<std::string, int> labels;  // of an inner block
  };

  void top_level() {
    if (lex_->accept(".version") || lex_->accept(".address_size")) {
      lex_->next();
    } else if (lex_->accept(".target")) {
      lex_->next();
      while (lex_->accept(",")) {
        lex_->next();
      }
    } else if (lex_->accept(".file")) {
      file_directive();
    } else if (lex_->accept(".section")) {
      while (!lex_->accept("{")) {
        lex_->next();
      }
      while (!lex_->accept("}")) {
        if (lex_->peek().kind == Tok::End) {
          lex_->fail("unterminated .section");
        }
        lex_->next();
      }
    } else if (lex_->accept(".pragma")) {
      skip_statement();
    } else if (lex_->accept(".alias")) {
      skip_statement();
    } else {
      declaration();
    }
  }

  void skip_statement() {
    while (!lex_->accept(";")) {
      if (lex_->peek().kind == Tok::End) {
        lex_->fail("expected ';'");
      }
      lex_->next();
    }
  }

  void file_directive() {
    size_t index = integer();
    std::string name(lex_->next().text);
    if (module_->files.size() <= index) {
      module_->files.resize(index + 1);
    }
    module_->files[index] = name;
    while (lex_->accept(",")) {
      lex_->next();
    }
  }

  void declaration() {
    bool external = false;
    while (true) {
      if (lex_->accept(".extern")) {
        external = true;
      } else if (!lex_->accept(".visible") && !lex_->accept(".weak") && !lex_->accept(".common")) {
        break;
      }
    }
    if (lex_->accept(".entry")) {
      function(true);
    } else if (lex_->accept(".func")) {
      function(false);
    } else {
      Space space = space_directive();
      if (space == Space::None) {
        lex_->fail("expected a declaration");
      }
      variables(space, external, module_->globals);
    }
  }

  Space space_directive() {
    static const std::pair<std::string_view, Space> names[] = {
        {".global", Space::Global}, {".shared", Space::Shared}, {".local", Space::Local},
        {".const", Space::Const},   {".param", Space::Param},
    };
    for (auto& [name, space] : names) {
      if (lex_->accept(name)) {
        return space;
      }
    }
    return Space::None;
  }

  // `.align 4 .b8 name[16] = {...}, other;` with the space already taken.
  void variables(Space space, bool external, std::vector<Variable>& out) {
    Variable v = variable_type(space);
    v.external = external;
    do {
      Variable one = v;
      variable_name(one);
      if (lex_->accept("=")) {
        initializer(one);
      }
      out.push_back(std::move(one));
    } while (lex_->accept(","));
    lex_->expect(";");
  }

  Variable variable_type(Space space) {
    Variable v;
    v.space = space;
    bool aligned = false;
    while (lex_->peek().text.starts_with(".")) {
      if (lex_->accept(".align")) {
        v.align = integer();
        aligned = true;
      } else if (lex_->accept(".ptr") || lex_->accept(".global") || lex_->accept(".const") ||
                 lex_->accept(".shared") || lex_->accept(".local") || lex_->accept(".attribute")) {
        if (lex_->accept("(")) {
          while (!lex_->accept(")")) {
            lex_->next();
          }
        }
      } else if (lex_->accept(".v2")) {
        vector_ = 2;
      } else if (lex_->accept(".v4")) {
        vector_ = 4;
      } else {
        Type t = type_from(lex_->peek().text.substr(1));
        if (t == Type::None) {
          lex_->fail("expected a type");
        }
        v.type = t;
        lex_->next();
      }
    }
    v.bytes = bytes_of(v.type) * vector_;
    if (!aligned) {
      v.align = v.bytes;
    }
    vector_ = 1;
    return v;
  }

  void variable_name(Variable& v) {
    v.name = lex_->next().text;
    uint64_t count = 1;
    while (lex_->accept("[")) {
      if (lex_->accept("]")) {
        count = 0;
        continue;
      }
      count *= integer();
      lex_->expect("]");
    }
    v.bytes *= count;
  }

  void initializer(Variable& v) {
    int width = bytes_of(v.type);
    if (lex_->at("{")) {
      initializer_list(v, width);
    } else {
      initial_value(v, width);
    }
    if (v.bytes < v.init.size()) {
      v.bytes = v.init.size();
    }
    v.init.resize(v.bytes);
  }

  void initializer_list(Variable& v, int width) {
    lex_->expect("{");
    while (!lex_->accept("}")) {
      if (lex_->at("{")) {
        initializer_list(v, width);
      } else {
        initial_value(v, width);
      }
      lex_->accept(",");
    }
  }

  void initial_value(Variable& v, int width) {
    size_t at = v.init.size();
    v.init.resize(at + width);
    if (lex_->peek().kind == Tok::Word) {
      Variable::Fixup fix{at, {}, 0, false};
      std::string name(lex_->next().text);
      if (name == "generic") {
        lex_->expect("(");
        fix.generic = true;
        name = lex_->next().text;
        lex_->expect(")");
      }
      fix.symbol = name;
      if (lex_->accept("+")) {
        fix.add = integer();
      }
      v.fixups.push_back(fix);
      return;
    }
    Operand value = immediate();
    uint64_t bits = value.bits;
    if (value.kind == Operand::Float && v.type == Type::F32 && !value.is_f32) {
      double d;
      std::memcpy(&d, &bits, 8);
      float f = static_cast<float>(d);
      bits = 0;
      std::memcpy(&bits, &f, 4);
    }
    std::memcpy(v.init.data() + at, &bits, width);
  }

  void function(bool entry) {
    Function f;
    std::vector<Variable> returns;
    if (!entry && lex_->at("(")) {
      parameter_list(returns);
    }
    f.name = lex_->next().text;
    if (lex_->at("(")) {
      parameter_list(f.params);
    }
    performance_directives(f);
    if (lex_->accept("{")) {
      f.defined = true;
      scopes_.assign(1, {});
      location_ = -1;
      by_place_.clear();
      body(f);
    } else {
      lex_->expect(";");
    }
    auto& slot = module_->functions[f.name];
    if (f.defined || !slot.defined) {
      slot = std::move(f);
    }
  }

  void parameter_list(std::vector<Variable>& params) {
    lex_->expect("(");
    while (!lex_->accept(")")) {
      if (!lex_->accept(".param")) {
        lex_->expect(".reg");
      }
      Variable v = variable_type(Space::Param);
      variable_name(v);
      params.push_back(std::move(v));
      lex_->accept(",");
    }
  }

  void performance_directives(Function& f) {
    while (lex_->peek().text.starts_with(".")) {
      std::string name(lex_->next().text);
      std::vector<int> values;
      while (lex_->peek().kind == Tok::Number) {
        values.push_back(integer());
        lex_->accept(",");
      }
      if (name == ".maxntid") {
        f.max_threads = 1;
        for (int v : values) {
          f.max_threads *= v;
        }
      } else if (name == ".reqntid") {
        for (size_t i = 0; i < 3; i++) {
          f.required_block[i] = i < values.size() ? values[i] : 1;
        }
      } else if (name == ".pragma") {
        skip_statement();
      }
    }
  }

  void body(Function& f) {
    while (!lex_->accept("}")) {
      if (lex_->peek().kind == Tok::End) {
        lex_->fail("unterminated function body");
      }
      if (lex_->accept("{")) {
        scopes_.emplace_back();
        size_t first = f.code.size();
        body(f);
        close_labels(f, first);
        scopes_.pop_back();
      } else {
        statement(f);
      }
    }
  }

  // A label of an inner block is known inside of it only: the block's instructions, from `first`
  // on, get a name for it that no other block has.
  void close_labels(Function& f, size_t first) {
    for (auto& [label, at] : scopes_.back().labels) {
      std::string unique = label + "@" + std::to_string(f.labels.size());
      f.labels[unique] = at;
      for (size_t i = first; i < f.code.size(); i++) {
        for (Operand& op : f.code[i].args) {
          if (op.kind == Operand::Symbol && op.symbol == label) {
            op.symbol = unique;
          }
        }
      }
    }
  }

  void statement(Function& f) {
    if (lex_->accept(";")) {
      return;
    }
    if (lex_->accept(".loc")) {
      location();
    } else if (lex_->accept(".reg")) {
      registers(f);
    } else if (lex_->accept(".pragma")) {
      skip_statement();
    } else if (lex_->at(".branchtargets") || lex_->at(".callprototype") ||
               lex_->at(".calltargets")) {
      skip_statement();
    } else if (Space space = space_directive(); space != Space::None) {
      variables(space, false, f.locals);
    } else {
      instruction_or_label(f);
    }
  }

  // .loc file line column [, function_name label [+ offset], inlined_at file line column]
  void location() {
    Location here;
    here.file = integer();
    here.line = integer();
    integer();
    if (lex_->accept(",")) {
      lex_->expect("function_name");
      lex_->next();
      if (lex_->accept("+")) {
        integer();
      }
      lex_->expect(",");
      lex_->expect("inlined_at");
      Location outer;
      outer.file = integer();
      outer.line = integer();
      integer();
      here.inlined_at = call_site(outer);
    }
    if (here.line == 0) {
      // "no line": the instruction stays with the line before it.
      return;
    }
    module_->locations.push_back(here);
    location_ = static_cast<int>(module_->locations.size()) - 1;
    by_place_[{here.file, here.line}] = location_;
  }

  // The call site of an inlined function may itself be inlined: the chain continues with the last
  // location seen at that place.
  int call_site(const Location& outer) {
    auto found = by_place_.find({outer.file, outer.line});
    if (found != by_place_.end()) {
      return found->second;
    }
    module_->locations.push_back(outer);
    int index = static_cast<int>(module_->locations.size()) - 1;
    by_place_[{outer.file, outer.line}] = index;
    return index;
  }

  void registers(Function& f) {
    if (lex_->at(".v2") || lex_->at(".v4")) {
      lex_->fail("vector registers are not supported");
    }
    Type type = type_from(lex_->peek().text.substr(1));
    if (type == Type::None) {
      lex_->fail("expected a register type");
    }
    lex_->next();
    do {
      std::string name(lex_->next().text);
      if (lex_->accept("<")) {
        int n = integer();
        lex_->expect(">");
        for (int i = 0; i < n; i++) {
          declare(f, name + std::to_string(i), type);
        }
      } else {
        declare(f, name, type);
      }
    } while (lex_->accept(","));
    lex_->expect(";");
  }

  void declare(Function& f, const std::string& name, Type type) {
    scopes_.back().registers[name] = static_cast<int>(f.registers.size());
    f.registers.push_back({name, type});
  }

  int find_register(Function& f, std::string_view name) {
    std::string key(name);
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
      auto found = scope->registers.find(key);
      if (found != scope->registers.end()) {
        return found->second;
      }
    }
    if (name.starts_with("%") || name == "WARP_SZ") {
      // A special register (%tid.x): declared on first use, given its value by the executor.
      scopes_.front().registers[key] = static_cast<int>(f.registers.size());
      f.registers.push_back({key, Type::None});
      return static_cast<int>(f.registers.size()) - 1;
    }
    return -1;
  }

  void instruction_or_label(Function& f) {
    Instruction inst;
    size_t begin = lex_->peek().begin;
    if (lex_->accept("@")) {
      inst.guard_negated = lex_->accept("!");
      inst.guard = find_register(f, lex_->next().text);
    }
    std::string word(lex_->next().text);
    if (lex_->accept(":")) {
      auto& labels = scopes_.size() > 1 ? scopes_.back().labels : f.labels;
      labels[word] = static_cast<int>(f.code.size());
      return;
    }
    std::vector<std::string> parts = split_dots(word);
    if (parts.empty()) {
      lex_->fail("expected an instruction");
    }
    inst.opcode = parts[0];
    inst.mods.assign(parts.begin() + 1, parts.end());
    while (!lex_->at(";")) {
      inst.args.push_back(operand(f));
      if (!lex_->accept(",") && !lex_->at(";")) {
        lex_->fail("expected ',' or ';'");
      }
    }
    inst.text = lex_->slice(begin, lex_->peek().begin);
    lex_->expect(";");
    inst.location = location_;
    f.code.push_back(std::move(inst));
  }

  Operand operand(Function& f) {
    Operand op;
    if (lex_->accept("!")) {
      op = operand(f);
      op.negated = true;
      return op;
    }
    if (lex_->at("{") || lex_->at("(")) {
      bool brace = lex_->next().text == "{";
      op.kind = Operand::Vector;
      while (!lex_->accept(brace ? "}" : ")")) {
        op.items.push_back(operand(f));
        lex_->accept(",");
      }
      return op;
    }
    if (lex_->accept("[")) {
      return memory(f);
    }
    if (lex_->peek().kind == Tok::Number || lex_->at("-")) {
      return immediate();
    }
    return name_operand(f);
  }

  Operand memory(Function& f) {
    Operand op = operand(f);
    if (lex_->accept(",")) {
      // [tensorMap, {coordinates}] and the like: the address first, the rest as items.
      Operand all;
      all.kind = Operand::Memory;
      all.reg = op.reg;
      all.symbol = op.symbol;
      all.offset = op.offset;
      do {
        all.items.push_back(operand(f));
      } while (lex_->accept(","));
      lex_->expect("]");
      return all;
    }
    if (op.kind == Operand::Integer) {
      op.offset = static_cast<int64_t>(op.bits);
    }
    op.kind = Operand::Memory;
    if (lex_->accept("+")) {
      op.offset += static_cast<int64_t>(immediate().bits);
    }
    lex_->expect("]");
    return op;
  }

  Operand name_operand(Function& f) {
    Operand op;
    std::string name(lex_->next().text);
    if (name == "_") {
      op.kind = Operand::Sink;
    } else if (int reg = find_register(f, name); reg >= 0) {
      op.kind = Operand::Register;
      op.reg = reg;
    } else {
      op.kind = Operand::Symbol;
      op.symbol = name;
      if (lex_->accept("+")) {
        op.offset = static_cast<int64_t>(immediate().bits);
      }
    }
    if (lex_->accept("|")) {
      Operand second = operand(f);
      op.pair = second.reg;
    }
    return op;
  }

  Operand immediate() {
    bool minus = lex_->accept("-");
    Token t = lex_->next();
    Operand op;
    std::string_view s = t.text;
    if (s.size() > 2 && s[0] == '0' && (s[1] == 'f' || s[1] == 'F')) {
      op.kind = Operand::Float;
      op.is_f32 = true;
      op.bits = std::strtoull(std::string(s.substr(2)).c_str(), nullptr, 16);
      if (minus) {
        op.bits ^= 0x80000000u;
      }
      return op;
    }
    if (s.size() > 2 && s[0] == '0' && (s[1] == 'd' || s[1] == 'D')) {
      op.kind = Operand::Float;
      op.bits = std::strtoull(std::string(s.substr(2)).c_str(), nullptr, 16);
      if (minus) {
        op.bits ^= 1ull << 63;
      }
      return op;
    }
    if (s.find('.') != std::string_view::npos) {
      op.kind = Operand::Float;
      double d = std::strtod(std::string(s).c_str(), nullptr) * (minus ? -1 : 1);
      std::memcpy(&op.bits, &d, 8);
      return op;
    }
    if (t.kind != Tok::Number) {
      lex_->fail("expected a number");
    }
    op.kind = Operand::Integer;
    std::string digits(s);
    if (digits.size() > 2 && (digits[1] == 'b' || digits[1] == 'B') && digits[0] == '0') {
      op.bits = std::strtoull(digits.c_str() + 2, nullptr, 2);
    } else {
      op.bits = std::strtoull(digits.c_str(), nullptr, 0);
    }
    if (minus) {
      op.bits = ~op.bits + 1;
    }
    return op;
  }

  int64_t integer() { return static_cast<int64_t>(immediate().bits); }

  std::unique_ptr<Module> module_;
  std::unique_ptr<Lexer> lex_;
  std::vector<Scope> scopes_;
  int location_ = -1;
  int vector_ = 1;
  std::map<std::pair<int, int>, int> by_place_;
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

std::unique_ptr<Module> parse(std::string text) { return Parser(std::move(text)).run(); }

}  // namespace wbsim::ptx
