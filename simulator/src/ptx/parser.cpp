// parser.cpp: modules and the bodies of functions.

#include "ptx/parser.h"

#include <charconv>

#include <algorithm>
#include <cstdint>

namespace wbsim::ptx {
namespace {

constexpr int MAX_FILES = 1 << 16;        // .file numbers
constexpr int64_t MAX_TARGETS = 1 << 18;  // of all .branchtargets of a module

template <class Map>
void move_entry(Map& map, const std::string& from, const std::string& to) {
  auto entry = map.extract(from);
  if (entry) {
    entry.key() = to;
    map.insert(std::move(entry));
  }
}

}  // namespace

std::unique_ptr<Module> parse(std::string text) { return Parser(std::move(text)).run(); }

// Whether a mangled name is that of operator(), operator[], at() or a conversion. Lambdas, whose
// calls are mangled alike, stand for nothing.
static bool is_accessor(std::string_view name) {
  const auto has = [&](std::string_view part) { return name.find(part) != name.npos; };
  return name.starts_with("_ZN") && !has("Ul") &&
         (has("clE") || has("ixE") || has("2atE") || has("cvfE") || has("cvdE"));
}

std::unique_ptr<Module> Parser::run() {
  while (!lex_.at_end()) {
    top_level();
  }
  for (Inlined& inlined : module_->inlined) {
    inlined.accessor = is_accessor(inlined.name);
  }
  return std::move(module_);
}

// ---- The module ---------------------------------------------------------------------------------

void Parser::top_level() {
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
    const bool names = lex_.at(".debug_str");
    skip_to("{");
    names ? inlined_names() : skip_to("}");
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

void Parser::skip_to(std::string_view end) {
  while (!lex_.accept(end)) {
    if (lex_.at_end()) {
      lex_.fail("expected '" + std::string(end) + "'");
    }
    lex_.next();
  }
}

std::string Parser::word() {
  if (lex_.peek().kind != Tok::Word) {
    lex_.fail("expected a name");
  }
  return std::string(lex_.next().text);
}

void Parser::file_directive() {
  size_t index = integer(lex_, 0, MAX_FILES);
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

void Parser::declaration() {
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

Space Parser::space_directive() {
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

// ---- Functions ----------------------------------------------------------------------------------

void Parser::function(bool entry) {
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

void Parser::parameter_list(std::vector<Variable>& params) {
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

void Parser::directives(Function& f) {
  while (lex_.peek().kind == Tok::Word && lex_.peek().text.starts_with(".")) {
    std::string name = word();
    if (name == ".pragma") {
      skip_to(";");
      continue;
    }
    std::vector<int> values;
    while (lex_.peek().kind == Tok::Number) {
      values.push_back(integer(lex_, 0, INT32_MAX));
      lex_.accept(",");
    }
    directive(f, name, values);
  }
}

void Parser::directive(Function& f, const std::string& name, const std::vector<int>& values) {
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

void Parser::begin_body(Function& f) {
  scopes_.restart();
  used_names_.clear();
  label_uses_.clear();
  location_ = -1;
  by_place_.clear();
  for (const std::vector<Variable>* list : {&f.returns, &f.params}) {
    for (const Variable& v : *list) {
      if (v.space == Space::Reg) {
        scopes_.declare(f, v.name, v.type);
      } else {
        scopes_.innermost().variables[v.name] = v.name;
        used_names_.insert(v.name);
      }
    }
  }
}

// Statements up to the closing brace.
void Parser::body(Function& f) {
  Depth depth(lex_, depth_);
  while (!lex_.accept("}")) {
    if (lex_.at_end()) {
      lex_.fail("expected '}'");
    }
    if (lex_.accept("{")) {
      scopes_.open();
      const size_t first_use = num_label_uses_;
      body(f);
      close_scope(f, first_use);
      scopes_.close();
    } else {
      statement(f);
    }
  }
}

void Parser::use_label(std::string& name) {
  if (!scopes_.outermost()) {
    label_uses_[name].push_back({num_label_uses_++, &name});
  }
}

// A label of an inner block is known only inside it: what names it there, from the block's first
// use of a label on, gets a name for it that no other block has.
void Parser::close_scope(Function& f, size_t first_use) {
  Scope& scope = scopes_.innermost();
  auto unique = [&](const std::string& label) {
    std::string name = label + "@" + std::to_string(num_renamed_++);
    std::vector<LabelUse>& uses = label_uses_[label];
    for (; !uses.empty() && uses.back().number >= first_use; uses.pop_back()) {
      *uses.back().name = name;
    }
    return name;
  };
  for (auto& [label, at] : scope.labels) {
    f.labels[unique(label)] = at;
  }
  for (const std::string& label : scope.lists) {
    std::string name = unique(label);
    move_entry(f.targets, label, name);
    move_entry(f.prototypes, label, name);
  }
}

void Parser::statement(Function& f) {
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

// .loc file line column [, function_name label [+ offset], inlined_at file line column]
void Parser::location() {
  Location here;
  here.file = integer(lex_, 0, INT32_MAX);
  here.line = integer(lex_, 0, INT32_MAX);
  integer(lex_, 0, INT32_MAX);
  if (lex_.accept(",")) {
    lex_.expect("function_name");
    const auto [known, is_new] = inlined_.try_emplace(word(), module_->inlined.size());
    here.function = known->second;
    if (is_new) {
      module_->inlined.push_back({.line = here.line});
    }
    if (lex_.accept("+")) {
      constant(lex_);
    }
    lex_.expect(",");
    lex_.expect("inlined_at");
    Location outer;
    outer.file = integer(lex_, 0, INT32_MAX);
    outer.line = integer(lex_, 0, INT32_MAX);
    integer(lex_, 0, INT32_MAX);
    here.inlined_at = call_site(outer);
  }
  if (here.line == 0) {
    // "no line": the instruction stays with the line before it.
    return;
  }
  if (here.function >= 0) {
    Inlined& inlined = module_->inlined[here.function];
    inlined.one_line = inlined.one_line && inlined.line == here.line;
  }
  module_->locations.push_back(here);
  location_ = static_cast<int>(module_->locations.size()) - 1;
  by_place_[{here.file, here.line}] = location_;
}

// The rest of `.section .debug_str { label: .b8 95,90, ... ,0 }`, which names what `.loc` refers to.
void Parser::inlined_names() {
  std::string* name = nullptr;
  while (!lex_.accept("}")) {
    if (lex_.at_end()) {
      lex_.fail("expected '}'");
    }
    const Token token = lex_.next();
    int byte = 0;
    if (token.kind == Tok::Word && lex_.at(":")) {
      const auto found = inlined_.find(token.text);
      name = found == inlined_.end() ? nullptr : &module_->inlined[found->second].name;
    } else if (token.kind == Tok::Number && name) {
      std::from_chars(token.text.data(), token.text.data() + token.text.size(), byte);
      byte ? name->push_back(static_cast<char>(byte)) : void(name = nullptr);
    }
  }
}

// The call site of an inlined function may itself be inlined: the chain continues with the last
// location seen at that place.
int Parser::call_site(const Location& outer) {
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
std::vector<std::string> Parser::target_list() {
  std::vector<std::string> names;
  do {
    std::string name = word();
    if (lex_.accept("<")) {
      int64_t count = integer(lex_, 1, MAX_TARGETS - num_targets_);
      lex_.expect(">");
      num_targets_ += count;
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
Prototype Parser::prototype() {
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

}  // namespace wbsim::ptx
