// scopes.h: what the names in a function's body mean, block by block.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "ptx/lexer.h"
#include "ptx/ptx.h"

namespace wbsim::ptx {

constexpr std::string_view COMPONENTS = "xyzw";  // of a vector register; also called rgba

// The names that a block declares.
struct Scope {
  // `.reg .b32 r<100>;`: each of its registers exists from its first use on.
  struct Range {
    Type type;
    int64_t count;
    int components;
  };
  std::unordered_map<std::string, int> registers;
  std::unordered_map<std::string, Range> ranges;
  std::unordered_map<std::string, int> vectors;            // name -> components
  std::unordered_map<std::string, std::string> variables;  // name -> the function's name for it
  std::unordered_map<std::string, int> labels;             // of an inner block
  std::vector<std::string> lists;                          // labels of target lists, prototypes
};

// The block being parsed and those around it. Registers are added to the function when they are
// first named.
class Scopes {
 public:
  explicit Scopes(const Lexer& lex) : lex_(lex) {}

  void restart() { scopes_.assign(1, {}); }
  void open() { scopes_.emplace_back(); }
  void close() { scopes_.pop_back(); }
  Scope& innermost() { return scopes_.back(); }
  bool outermost() const { return scopes_.size() == 1; }

  void declare(Function& f, const std::string& name, Type type);
  void declare_vector(Function& f, const std::string& name, Type type, int components) {
    declare_vector(f, scopes_.back(), name, type, components);
  }
  int find_register(Function& f, const std::string& name);  // its index, or -1
  int components_of(Function& f, const std::string& name);  // of a vector; 0 if it is not one
  // The function's name for a variable, as the innermost block sees it.
  std::string variable(const std::string& name) const;

 private:
  void declare_vector(Function& f, Scope& scope, const std::string& name, Type type,
                      int components);
  int find_in(Function& f, Scope& scope, const std::string& name);
  int find_vector(Function& f, Scope& scope, const std::string& name);
  const Scope::Range* find_range(const Scope& scope, const std::string& name);

  const Lexer& lex_;
  std::vector<Scope> scopes_;
};

}  // namespace wbsim::ptx
