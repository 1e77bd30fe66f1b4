// parser.cpp: a recursive-descent parser for PTX. Whatever the text, it returns or throws
// ParseError: no input makes it crash, recurse without end, or take more memory than a small
// multiple of the text's size.

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstring>
#include <limits>
#include <unordered_set>

#include "ptx/lexer.h"
#include "ptx/ptx.h"

namespace wbsim::ptx {
namespace {

constexpr int MAX_DEPTH = 200;                 // of blocks, lists and parentheses
constexpr int MAX_FILES = 1 << 16;             // .file numbers
constexpr int MAX_TARGETS = 1 << 16;           // of one .branchtargets
constexpr uint64_t MAX_VARIABLE = 1ull << 40;  // bytes
constexpr uint64_t MAX_INITIALIZED = 1 << 28;
constexpr uint64_t MAX_ALIGN = 1 << 16;
constexpr std::string_view COMPONENTS = "xyzw";  // of a vector register; also called rgba

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
  explicit Parser(std::string text)
      : module_(std::make_unique<Module>()), lex_((module_->text = std::move(text))) {}

  std::unique_ptr<Module> run() {
    while (!lex_.at_end()) {
      top_level();
    }
    return std::move(module_);
  }

 private:
  // `.reg .b32 r<100>;`: a register of it exists from its first use on.
  struct Range {
    Type type;
    int64_t count;
    int components;
  };
  struct Scope {
    std::unordered_map<std::string, int> registers;
    std::unordered_map<std::string, Range> ranges;
    std::unordered_map<std::string, int> vectors;            // name -> components
    std::unordered_map<std::string, std::string> variables;  // name -> the function's name for it
    std::unordered_map<std::string, int> labels;             // of an inner block
    std::vector<std::string> lists;                          // labels of target lists, prototypes
  };
  // Counts how deep the parser is inside of itself.
  struct Depth {
    explicit Depth(Parser& parser) : depth(parser.depth_) {
      if (++depth > MAX_DEPTH) {
        parser.lex_.fail("nested too deeply");
      }
    }
    ~Depth() { depth--; }
    int& depth;
  };

  // ---- The module --------------------------------------------------------------------------

  void top_level() {
    if (lex_.accept(".version") || lex_.accept(".address_size")) {
      lex_.next();
    } else if (lex_.accept(".target")) {
      lex_.next();
      while (lex_.accept(",")) {
        lex_.next();
      }
    } else if (lex_.accept(".file")) {
      file_directive();
    } else if (lex_.accept(".section")) {
      skip_to("{");
      skip_to("}");
    } else if (lex_.accept(".pragma")) {
      skip_to(";");
    } else if (lex_.accept(".alias")) {
      std::string alias = word();
      lex_.expect(",");
      module_->aliases[alias] = word();
      lex_.expect(";");
    } else {
      declaration();
    }
  }

  void skip_to(std::string_view end) {
    while (!lex_.accept(end)) {
      if (lex_.at_end()) {
        lex_.fail("expected '" + std::string(end) + "'");
      }
      lex_.next();
    }
  }

  std::string word() {
    if (lex_.peek().kind != Tok::Word) {
      lex_.fail("expected a name");
    }
    return std::string(lex_.next().text);
  }

  void file_directive() {
    size_t index = integer(0, MAX_FILES);
    if (lex_.peek().kind != Tok::String) {
      lex_.fail("expected a file name");
    }
    if (module_->files.size() <= index) {
      module_->files.resize(index + 1);
    }
    module_->files[index] = lex_.next().text;
    while (lex_.accept(",")) {
      lex_.next();
    }
  }

  void declaration() {
    bool external = false;
    while (true) {
      if (lex_.accept(".extern")) {
        external = true;
      } else if (!lex_.accept(".visible") && !lex_.accept(".weak") && !lex_.accept(".common")) {
        break;
      }
    }
    if (lex_.accept(".entry")) {
      function(true);
    } else if (lex_.accept(".func")) {
      function(false);
    } else {
      Space space = space_directive();
      if (space == Space::None) {
        lex_.fail("expected a declaration");
      }
      size_t first = module_->globals.size();
      variables(space, external, module_->globals);
      for (size_t i = first; i < module_->globals.size(); i++) {
        global_names_.insert(module_->globals[i].name);
      }
    }
  }

  Space space_directive() {
    static const std::pair<std::string_view, Space> names[] = {
        {".global", Space::Global}, {".shared", Space::Shared}, {".local", Space::Local},
        {".const", Space::Const},   {".param", Space::Param},
    };
    for (auto& [name, space] : names) {
      if (lex_.accept(name)) {
        return space;
      }
    }
    return Space::None;
  }

  // ---- Variables ---------------------------------------------------------------------------

  // `.align 4 .b8 name[16] = {...}, other;` with the space already taken.
  void variables(Space space, bool external, std::vector<Variable>& out) {
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

  Variable variable_type(Space space) {
    Variable v;
    v.space = space;
    v.type = Type::None;
    uint64_t align = 0, components = 1;
    while (lex_.peek().kind == Tok::Word && lex_.peek().text.starts_with(".")) {
      if (lex_.accept(".align")) {
        align = integer(1, MAX_ALIGN);
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

  // A type as it stands in a declaration: `.b32`.
  Type type() {
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
  std::vector<uint64_t> variable_name(Variable& v) {
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
      sizes.push_back(integer(0, MAX_VARIABLE));
      lex_.expect("]");
    }
    std::vector<uint64_t> rows = {v.bytes};
    for (size_t i = sizes.size(); i-- > 0;) {
      if (sizes[i] && v.bytes > MAX_VARIABLE / sizes[i]) {
        lex_.fail("the variable is too large");
      }
      v.bytes *= sizes[i];
      rows.insert(rows.begin(), v.bytes);
    }
    if (open) {
      v.bytes = rows[0] = 0;
    }
    return rows;
  }

  void initializer(Variable& v, const std::vector<uint64_t>& rows) {
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

  void initializer_list(Variable& v, const std::vector<uint64_t>& rows, size_t level) {
    Depth depth(*this);
    size_t first = v.init.size();
    list("{", "}", [&] {
      if (lex_.at("{")) {
        initializer_list(v, rows, level + 1);
      } else {
        initial_value(v);
      }
    });
    // A row inside of an array is filled up with zeros.
    uint64_t size = level > 0 && level < rows.size() ? rows[level] : 0;
    if (first + size > MAX_INITIALIZED) {
      lex_.fail("too many initial values");
    }
    v.init.resize(std::max<uint64_t>(v.init.size(), first + size));
  }

  void initial_value(Variable& v) {
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
        fix.add = static_cast<int64_t>(constant().bits);
      }
      if (width != 8) {
        lex_.fail("expected a 64-bit type for an address");
      }
      v.fixups.push_back(fix);
      return;
    }
    Operand value = constant();
    uint64_t bits = value.bits;
    if (value.kind == Operand::Float && v.type == Type::F32 && !value.is_f32) {
      bits = std::bit_cast<uint32_t>(static_cast<float>(std::bit_cast<double>(bits)));
    }
    std::memcpy(v.init.data() + at, &bits, std::min(width, 8));
  }

  // `open item, item close`
  template <class F>
  void list(std::string_view open, std::string_view close, F item) {
    lex_.expect(open);
    while (!lex_.accept(close)) {
      item();
      if (!lex_.accept(",") && !lex_.at(close)) {
        lex_.fail("expected ',' or '" + std::string(close) + "'");
      }
    }
  }

  // ---- Functions ---------------------------------------------------------------------------

  void function(bool entry) {
    Function f;
    f.is_entry = entry;
    if (!entry && lex_.at("(")) {
      parameter_list(f.returns);
    }
    f.name = word();
    if (lex_.at("(")) {
      parameter_list(f.params);
    }
    directives(f);
    if (lex_.accept("{")) {
      f.defined = true;
      begin_body(f);
      body(f);
    } else {
      lex_.expect(";");
    }
    auto& slot = module_->functions[f.name];
    if (f.defined && slot.defined) {
      lex_.fail("a second definition of '" + f.name + "'");
    }
    if (f.defined || !slot.defined) {
      slot = std::move(f);
    }
  }

  void parameter_list(std::vector<Variable>& params) {
    list("(", ")", [&] {
      Space space = lex_.accept(".param") ? Space::Param : Space::Reg;
      if (space == Space::Reg) {
        lex_.expect(".reg");
      }
      Variable v = variable_type(space);
      variable_name(v);
      params.push_back(std::move(v));
    });
  }

  void directives(Function& f) {
    while (lex_.peek().kind == Tok::Word && lex_.peek().text.starts_with(".")) {
      std::string name = word();
      if (name == ".pragma") {
        skip_to(";");
        continue;
      }
      std::vector<int> values;
      while (lex_.peek().kind == Tok::Number) {
        values.push_back(integer(0, INT32_MAX));
        lex_.accept(",");
      }
      directive(f, name, values);
    }
  }

  void directive(Function& f, const std::string& name, const std::vector<int>& values) {
    const std::pair<std::string_view, int*> numbers[] = {{".maxclusterrank", &f.max_cluster_rank},
                                                         {".maxnreg", &f.max_registers},
                                                         {".minnctapersm", &f.min_blocks},
                                                         {".maxnctapersm", nullptr}};
    const std::pair<std::string_view, int*> shapes[] = {{".reqntid", f.required_block},
                                                        {".reqnctapercluster", f.required_cluster}};
    const std::pair<std::string_view, bool*> flags[] = {
        {".explicitcluster", &f.explicit_cluster},
        {".blocksareclusters", &f.blocks_are_clusters},
        {".noreturn", &f.no_return}};
    if (name == ".maxntid") {
      int64_t threads = 1;
      for (int v : values) {
        threads = std::min<int64_t>(threads * v, INT32_MAX);
      }
      f.max_threads = static_cast<int>(threads);
    }
    for (auto& [word, out] : numbers) {
      if (name == word && out && !values.empty()) {
        *out = values[0];
      }
    }
    for (auto& [word, out] : shapes) {
      for (size_t i = 0; name == word && i < 3; i++) {
        out[i] = i < values.size() ? values[i] : 1;
      }
    }
    for (auto& [word, out] : flags) {
      *out = *out || name == word;
    }
  }

  void begin_body(Function& f) {
    scopes_.assign(1, {});
    used_names_.clear();
    lists_.clear();
    location_ = -1;
    by_place_.clear();
    for (const std::vector<Variable>* list : {&f.returns, &f.params}) {
      for (const Variable& v : *list) {
        if (v.space == Space::Reg) {
          declare(f, v.name, v.type);
        } else {
          scopes_.back().variables[v.name] = v.name;
          used_names_.insert(v.name);
        }
      }
    }
  }

  // Statements up to the closing brace.
  void body(Function& f) {
    Depth depth(*this);
    while (!lex_.accept("}")) {
      if (lex_.at_end()) {
        lex_.fail("expected '}'");
      }
      if (lex_.accept("{")) {
        scopes_.emplace_back();
        size_t first_instruction = f.code.size(), first_list = lists_.size();
        body(f);
        close_scope(f, first_instruction, first_list);
        scopes_.pop_back();
      } else {
        statement(f);
      }
    }
  }

  // A label of an inner block is known inside of it only: the block's instructions and lists, from
  // the first ones on, get a name for it that no other block has.
  void close_scope(Function& f, size_t first_instruction, size_t first_list) {
    Scope& scope = scopes_.back();
    if (scopes_.size() == 1 || (scope.labels.empty() && scope.lists.empty())) {
      return;
    }
    std::unordered_map<std::string, std::string> renamed;
    auto unique = [&](const std::string& name) {
      return renamed[name] = name + "@" + std::to_string(num_renamed_++);
    };
    for (auto& [label, at] : scope.labels) {
      f.labels[unique(label)] = at;
    }
    for (const std::string& label : scope.lists) {
      std::string name = unique(label);
      for (size_t i = first_list; i < lists_.size(); i++) {
        lists_[i] = lists_[i] == label ? name : lists_[i];
      }
      move_entry(f.targets, label, name);
      move_entry(f.prototypes, label, name);
    }
    auto rename = [&](std::string& name) {
      auto found = renamed.find(name);
      if (found != renamed.end()) {
        name = found->second;
      }
    };
    for (size_t i = first_instruction; i < f.code.size(); i++) {
      for (Operand& op : f.code[i].args) {
        if (op.kind == Operand::Symbol) {
          rename(op.symbol);
        }
      }
    }
    for (size_t i = first_list; i < lists_.size(); i++) {
      auto found = f.targets.find(lists_[i]);
      if (found != f.targets.end()) {
        std::for_each(found->second.begin(), found->second.end(), rename);
      }
    }
  }

  template <class Map>
  static void move_entry(Map& map, const std::string& from, const std::string& to) {
    auto entry = map.extract(from);
    if (entry) {
      entry.key() = to;
      map.insert(std::move(entry));
    }
  }

  void statement(Function& f) {
    if (lex_.accept(";")) {
      return;
    }
    if (lex_.accept(".loc")) {
      location();
    } else if (lex_.accept(".reg")) {
      registers(f);
    } else if (lex_.accept(".pragma")) {
      skip_to(";");
    } else if (Space space = space_directive(); space != Space::None) {
      local_variables(f, space);
    } else {
      instruction_or_label(f);
    }
  }

  // Variables of a block. Their names are known inside of it only, and may hide others: one that
  // the function has used already gets a name that no other variable has.
  void local_variables(Function& f, Space space) {
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
      if (!scopes_.back().variables.emplace(name, out[i].name).second) {
        lex_.fail("a second variable '" + name + "' in one block");
      }
    }
  }

  // .loc file line column [, function_name label [+ offset], inlined_at file line column]
  void location() {
    Location here;
    here.file = integer(0, INT32_MAX);
    here.line = integer(0, INT32_MAX);
    integer(0, INT32_MAX);
    if (lex_.accept(",")) {
      lex_.expect("function_name");
      word();
      if (lex_.accept("+")) {
        constant();
      }
      lex_.expect(",");
      lex_.expect("inlined_at");
      Location outer;
      outer.file = integer(0, INT32_MAX);
      outer.line = integer(0, INT32_MAX);
      integer(0, INT32_MAX);
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

  // `L0, L1, N<3>;`, where N<3> stands for N0, N1, N2.
  std::vector<std::string> target_list() {
    std::vector<std::string> names;
    do {
      std::string name = word();
      if (lex_.accept("<")) {
        int64_t count = integer(1, MAX_TARGETS);
        lex_.expect(">");
        for (int64_t i = 0; i < count; i++) {
          names.push_back(name + std::to_string(i));
        }
      } else {
        names.push_back(name);
      }
    } while (lex_.accept(","));
    lex_.expect(";");
    return names;
  }

  // `(.param .b32 _) _ (.param .b32 _, .param .b64 _);`
  Prototype prototype() {
    Prototype p;
    if (lex_.at("(")) {
      parameter_list(p.returns);
    }
    lex_.expect("_");
    if (lex_.at("(")) {
      parameter_list(p.params);
    }
    skip_to(";");  // .noreturn, .abi_preserve
    return p;
  }

  // ---- Registers ---------------------------------------------------------------------------

  // `.reg .b32 a, r<100>;` and `.reg .v2 .f32 v;`
  void registers(Function& f) {
    int components = lex_.accept(".v2") ? 2 : lex_.accept(".v4") ? 4 : 1;
    Type of = type();
    do {
      std::string name = word();
      if (lex_.accept("<")) {
        Range range{of, integer(0, INT64_MAX), components};
        lex_.expect(">");
        if (!scopes_.back().ranges.emplace(name, range).second) {
          lex_.fail("registers '" + name + "<...>' are declared twice");
        }
      } else if (components == 1) {
        declare(f, name, of);
      } else {
        declare_vector(f, scopes_.back(), name, of, components);
      }
    } while (lex_.accept(","));
    lex_.expect(";");
  }

  void declare(Function& f, const std::string& name, Type type) {
    if (!scopes_.back().registers.emplace(name, static_cast<int>(f.registers.size())).second) {
      lex_.fail("register '" + name + "' is declared twice");
    }
    f.registers.push_back({name, type});
  }

  // A vector register is one register for each component: v.x, v.y.
  void declare_vector(Function& f, Scope& scope, const std::string& name, Type type,
                      int components) {
    if (!scope.vectors.emplace(name, components).second) {
      lex_.fail("register '" + name + "' is declared twice");
    }
    for (char component : COMPONENTS.substr(0, components)) {
      std::string full = name + "." + component;
      scope.registers[full] = static_cast<int>(f.registers.size());
      f.registers.push_back({full, type});
    }
  }

  // The index of a register, or -1.
  int find_register(Function& f, const std::string& name) {
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
      if (int index = find_in(f, *scope, name); index >= 0) {
        return index;
      }
      if (scope->variables.contains(name) || scope->vectors.contains(name)) {
        return -1;
      }
    }
    if (name.starts_with("%") || name == "WARP_SZ") {
      // A special register (%tid.x): declared on first use, given its value by the executor.
      scopes_.front().registers[name] = static_cast<int>(f.registers.size());
      f.registers.push_back({name, Type::None});
      return static_cast<int>(f.registers.size()) - 1;
    }
    return -1;
  }

  int find_in(Function& f, Scope& scope, const std::string& name) {
    auto found = scope.registers.find(name);
    if (found != scope.registers.end()) {
      return found->second;
    }
    size_t dot = name.rfind('.');
    if (dot != std::string::npos && dot + 2 == name.size()) {
      size_t component = std::string_view("rgba").find(name[dot + 1]);
      std::string vector = name.substr(0, dot);
      if (!find_vector(f, scope, vector)) {
        return -1;
      }
      std::string known =
          component == std::string_view::npos ? name : vector + "." + COMPONENTS[component];
      found = scope.registers.find(known);
      return found == scope.registers.end() ? -1 : found->second;
    }
    const Range* range = find_range(scope, name);
    if (!range || range->components != 1) {
      return -1;
    }
    scope.registers[name] = static_cast<int>(f.registers.size());
    f.registers.push_back({name, range->type});
    return static_cast<int>(f.registers.size()) - 1;
  }

  // How many components a vector register has; 0 if it is none.
  int find_vector(Function& f, Scope& scope, const std::string& name) {
    auto found = scope.vectors.find(name);
    if (found != scope.vectors.end()) {
      return found->second;
    }
    const Range* range = find_range(scope, name);
    if (!range || range->components == 1) {
      return 0;
    }
    declare_vector(f, scope, name, range->type, range->components);
    return range->components;
  }

  // The range that declares r12: r<20>, or r1<3>.
  const Range* find_range(const Scope& scope, const std::string& name) {
    for (size_t at = name.size(); at-- > 1;) {
      if (name[at] < '0' || name[at] > '9') {
        break;
      }
      if (name[at] == '0' && at + 1 < name.size()) {
        continue;  // r012 is not r<20>'s
      }
      auto found = scope.ranges.find(name.substr(0, at));
      int64_t index = 0;
      auto [end, error] = std::from_chars(name.data() + at, name.data() + name.size(), index);
      if (found != scope.ranges.end() && error == std::errc() && index < found->second.count) {
        return &found->second;
      }
    }
    return nullptr;
  }

  // ---- Instructions ------------------------------------------------------------------------

  void instruction_or_label(Function& f) {
    Instruction inst;
    size_t begin = lex_.peek().begin;
    if (lex_.accept("@")) {
      inst.guard_negated = lex_.accept("!");
      inst.guard = find_register(f, word());
      if (inst.guard < 0 || f.registers[inst.guard].type != Type::Pred) {
        lex_.fail("expected a predicate register behind '@'");
      }
    }
    std::string name = word();
    if (inst.guard < 0 && lex_.accept(":")) {
      label(f, name);
      return;
    }
    std::vector<std::string> parts = split_dots(name);
    if (parts.empty() || name.starts_with(".")) {
      lex_.fail("expected an instruction");
    }
    inst.opcode = parts[0];
    in_call_ = inst.opcode == "call";
    inst.mods.assign(parts.begin() + 1, parts.end());
    while (!lex_.at(";")) {
      inst.args.push_back(operand(f));
      if (!lex_.accept(",") && !lex_.at(";")) {
        lex_.fail("expected ',' or ';'");
      }
    }
    inst.text = lex_.slice(begin, lex_.peek().begin);
    lex_.expect(";");
    inst.location = location_;
    f.code.push_back(std::move(inst));
  }

  void label(Function& f, const std::string& name) {
    auto& labels = scopes_.size() > 1 ? scopes_.back().labels : f.labels;
    bool is_targets = lex_.accept(".branchtargets") || lex_.accept(".calltargets");
    if (labels.contains(name) || f.targets.contains(name) || f.prototypes.contains(name)) {
      lex_.fail("label '" + name + "' stands twice in one block");
    }
    if (is_targets) {
      f.targets[name] = target_list();
    } else if (lex_.accept(".callprototype")) {
      f.prototypes[name] = prototype();
    } else {
      labels[name] = static_cast<int>(f.code.size());
      return;
    }
    lists_.push_back(name);
    scopes_.back().lists.push_back(name);
  }

  Operand operand(Function& f) {
    Depth depth(*this);
    bool negated = lex_.accept("!");
    Operand op;
    if (negated && lex_.peek().kind != Tok::Word) {
      op.kind = Operand::Integer;
      op.bits = constant().bits == 0;
      return op;
    }
    if (lex_.at("{")) {
      op = vector(f, "{", "}");
    } else if (lex_.at("(") && in_call_) {
      op = vector(f, "(", ")");
    } else if (lex_.accept("[")) {
      op = memory(f);
    } else if (lex_.peek().kind == Tok::Word) {
      op = name_operand(f);
    } else if (at_negated_register()) {
      lex_.expect("-");
      op = name_operand(f);
      op.negated = op.kind == Operand::Register;
      if (!op.negated || negated) {
        lex_.fail("expected a register behind '-'");
      }
      return op;
    } else {
      op = constant();
    }
    if (negated && (op.kind != Operand::Register || (f.registers[op.reg].type != Type::Pred &&
                                                     f.registers[op.reg].type != Type::None))) {
      lex_.fail("expected a predicate behind '!'");
    }
    op.negated = negated;
    return op;
  }

  bool at_negated_register() const {
    Lexer ahead = lex_;
    return ahead.accept("-") && ahead.peek().kind == Tok::Word;
  }

  Operand vector(Function& f, std::string_view open, std::string_view close) {
    Operand op;
    op.kind = Operand::Vector;
    list(open, close, [&] { op.items.push_back(operand(f)); });
    return op;
  }

  // `[a]`, `[a+16]`, `[name+4]`, `[64]`; and `[tensorMap, {x, y}]`: the address first, the rest as
  // items.
  Operand memory(Function& f) {
    Operand base = operand(f), op;
    op.kind = Operand::Memory;
    op.reg = base.reg;
    op.symbol = base.symbol;
    op.offset = base.offset;
    if (base.kind == Operand::Integer) {
      op.offset = static_cast<int64_t>(base.bits);
    } else if ((base.kind != Operand::Register && base.kind != Operand::Symbol) || base.negated ||
               base.pair >= 0) {
      lex_.fail("expected an address");
    }
    if (lex_.accept("+")) {
      op.offset = static_cast<int64_t>(static_cast<uint64_t>(op.offset) + constant().bits);
    }
    while (lex_.accept(",")) {
      op.items.push_back(operand(f));
    }
    lex_.expect("]");
    return op;
  }

  Operand name_operand(Function& f) {
    std::string name = word();
    Operand op;
    op.part = take_part(name);
    if (name == "_") {
      op.kind = Operand::Sink;
    } else if (int reg = find_register(f, name); reg >= 0) {
      op.kind = Operand::Register;
      op.reg = reg;
    } else if (int components = vector_components(f, name)) {
      op.kind = Operand::Vector;
      for (char component : COMPONENTS.substr(0, components)) {
        Operand item;
        item.kind = Operand::Register;
        item.reg = find_register(f, name + "." + component);
        op.items.push_back(item);
      }
    } else {
      op.kind = Operand::Symbol;
      op.symbol = variable_called(name);
      if (lex_.accept("+")) {
        op.offset = static_cast<int64_t>(constant().bits);
      }
    }
    if (!op.part.empty() && op.kind != Operand::Register) {
      lex_.fail("expected a register in front of '." + op.part + "'");
    }
    if (lex_.accept("|")) {
      Operand second = operand(f);
      if (second.kind != Operand::Register && second.kind != Operand::Sink) {
        lex_.fail("expected a register behind '|'");
      }
      op.pair = second.reg;
    }
    return op;
  }

  // Cuts the selector of a video instruction off a register's name: "b0", "h10", "" for none.
  static std::string take_part(std::string& name) {
    size_t dot = name.rfind('.');
    if (dot == std::string::npos || dot + 2 >= name.size() ||
        (name[dot + 1] != 'b' && name[dot + 1] != 'h') ||
        name.find_first_not_of("01234567", dot + 2) != std::string::npos) {
      return {};
    }
    std::string part = name.substr(dot + 1);
    name.resize(dot);
    return part;
  }

  int vector_components(Function& f, const std::string& name) {
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
      if (int components = find_vector(f, *scope, name)) {
        return components;
      }
      if (scope->variables.contains(name)) {
        return 0;
      }
    }
    return 0;
  }

  // The function's name for a variable, as the innermost block sees it.
  std::string variable_called(const std::string& name) const {
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
      auto found = scope->variables.find(name);
      if (found != scope->variables.end()) {
        return found->second;
      }
    }
    return name;
  }

  // ---- Constants (PTX ISA 4.5) -------------------------------------------------------------

  // A constant expression. Only integers are computed with, in 64 bits.
  Operand constant() {
    bool is_unsigned = false;
    return expression(1, is_unsigned);
  }

  int64_t integer(int64_t low, int64_t high) {
    Operand value = constant();
    int64_t number = static_cast<int64_t>(value.bits);
    if (value.kind != Operand::Integer || number < low || number > high) {
      lex_.fail("expected a number from " + std::to_string(low) + " to " + std::to_string(high) +
                " before");
    }
    return number;
  }

  // is_unsigned: whether a literal of the expression is, so that / and >> are.
  Operand expression(int min_precedence, bool& is_unsigned) {
    static constexpr std::pair<std::string_view, int> OPERATORS[] = {
        {"<<", 4}, {">>", 4}, {"|", 1}, {"^", 2}, {"&", 3}, {"+", 5}, {"-", 5}, {"*", 6}, {"/", 6},
    };
    Depth depth(*this);
    Operand left = unary(is_unsigned);
    while (true) {
      auto found = std::find_if(std::begin(OPERATORS), std::end(OPERATORS), [&](auto& entry) {
        return entry.first.size() == 2 ? lex_.at_pair(entry.first) : lex_.at(entry.first);
      });
      if (found == std::end(OPERATORS) || found->second < min_precedence) {
        return left;
      }
      for (size_t i = 0; i < found->first.size(); i++) {
        lex_.next();
      }
      Operand right = expression(found->second + 1, is_unsigned);
      if (left.kind != Operand::Integer || right.kind != Operand::Integer) {
        lex_.fail("expected whole numbers on both sides of '" + std::string(found->first) + "'");
      }
      left.bits = computed(found->first[0], left.bits, right.bits, is_unsigned);
    }
  }

  uint64_t computed(char op, uint64_t a, uint64_t b, bool is_unsigned) {
    switch (op) {
      case '<':
        return b < 64 ? a << b : 0;
      case '>':
        return is_unsigned
                   ? (b < 64 ? a >> b : 0)
                   : static_cast<uint64_t>(static_cast<int64_t>(a) >> std::min<uint64_t>(b, 63));
      case '|':
        return a | b;
      case '^':
        return a ^ b;
      case '&':
        return a & b;
      case '+':
        return a + b;
      case '-':
        return a - b;
      case '*':
        return a * b;
      default:
        break;
    }
    if (b == 0) {
      lex_.fail("division by zero");
    }
    if (is_unsigned) {
      return a / b;
    }
    bool negative = (a >> 63) != (b >> 63);
    uint64_t quotient = (a >> 63 ? -a : a) / (b >> 63 ? -b : b);
    return negative ? -quotient : quotient;
  }

  Operand unary(bool& is_unsigned) {
    Depth depth(*this);
    if (lex_.accept("(")) {
      Operand op = expression(1, is_unsigned);
      lex_.expect(")");
      return op;
    }
    for (char sign : {'-', '~', '!'}) {
      if (!lex_.accept(std::string_view(&sign, 1))) {
        continue;
      }
      Operand op = unary(is_unsigned);
      if (op.kind == Operand::Float) {
        if (sign != '-') {
          lex_.fail("expected a whole number");
        }
        op.bits ^= op.is_f32 ? 1ull << 31 : 1ull << 63;
      } else {
        op.bits = sign == '-' ? -op.bits : sign == '~' ? ~op.bits : op.bits == 0;
      }
      return op;
    }
    if (lex_.peek().kind != Tok::Number) {
      lex_.fail("expected a number");
    }
    return literal(is_unsigned);
  }

  // 12, 0x1F, 017, 0b11, each with U; 0f3F800000, 0d3FF0000000000000, 1.5e3
  Operand literal(bool& is_unsigned) {
    std::string_view s = lex_.peek().text;
    char second = s.size() > 2 && s[0] == '0' ? static_cast<char>(s[1] | 0x20) : '\0';
    Operand op;
    bool hex_float = second == 'f' || second == 'd';
    bool decimal = !hex_float && second != 'x' && s.find_first_of(".eE") != std::string_view::npos;
    if (decimal) {
      double value = 0;
      check_number(std::from_chars(s.data(), s.data() + s.size(), value), s);
      op.kind = Operand::Float;
      op.bits = std::bit_cast<uint64_t>(value);
    } else {
      bool prefixed = hex_float || second == 'x' || second == 'b';
      int base = second == 'b' ? 2 : prefixed ? 16 : s[0] == '0' ? 8 : 10;
      std::string_view digits = prefixed ? s.substr(2) : s;
      if (!hex_float && digits.ends_with('U')) {
        digits.remove_suffix(1);
        is_unsigned = true;
      }
      check_number(std::from_chars(digits.data(), digits.data() + digits.size(), op.bits, base),
                   digits);
      op.kind = hex_float ? Operand::Float : Operand::Integer;
      op.is_f32 = second == 'f';
      is_unsigned = is_unsigned || op.bits >> 63;
      if (op.is_f32 && op.bits >> 32) {
        lex_.fail("expected eight digits");
      }
    }
    lex_.next();
    return op;
  }

  void check_number(std::from_chars_result result, std::string_view text) {
    if (result.ec != std::errc() || result.ptr != text.data() + text.size()) {
      lex_.fail("expected a number");
    }
  }

  std::unique_ptr<Module> module_;
  Lexer lex_;
  std::unordered_set<std::string> global_names_;  // of variables

  // Of the function that is being parsed.
  std::vector<Scope> scopes_;
  std::unordered_set<std::string> used_names_;  // of its variables
  std::vector<std::string> lists_;              // labels of lists and prototypes, in order
  bool in_call_ = false;                        // parentheses hold arguments
  int num_renamed_ = 0;
  int depth_ = 0;
  int location_ = -1;
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
