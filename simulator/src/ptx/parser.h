// parser.h: a recursive-descent parser for PTX. Whatever the text, it returns or throws ParseError:
// no input makes it crash, recurse endlessly, or use more memory than a small multiple of the
// text's size.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include "ptx/constants.h"
#include "ptx/lexer.h"
#include "ptx/ptx.h"
#include "ptx/scopes.h"

namespace wbsim::ptx {

class Parser {
 public:
  explicit Parser(std::string text)
      : module_(std::make_unique<Module>()), lex_((module_->text = std::move(text))) {}

  std::unique_ptr<Module> run();

 private:
  // The module and its functions (parser.cpp).
  void top_level();
  void skip_to(std::string_view end);
  std::string word();
  void file_directive();
  void declaration();
  Space space_directive();
  void function(bool entry);
  void parameter_list(std::vector<Variable>& params);
  void directives(Function& f);
  void directive(Function& f, const std::string& name, const std::vector<int>& values);
  void begin_body(Function& f);
  void body(Function& f);
  void use_label(std::string& name);
  void close_scope(Function& f, size_t first_use);
  void statement(Function& f);
  void location();
  void inlined_names();
  int call_site(const Location& outer);
  std::vector<std::string> target_list();
  Prototype prototype();

  // Variables and registers (declarations.cpp).
  void variables(Space space, bool external, std::vector<Variable>& out);
  Variable variable_type(Space space);
  Type type();
  std::vector<uint64_t> variable_name(Variable& v);
  void initializer(Variable& v, const std::vector<uint64_t>& rows);
  void initializer_list(Variable& v, const std::vector<uint64_t>& rows, size_t level);
  void initial_value(Variable& v);
  void local_variables(Function& f, Space space);
  void registers(Function& f);

  // Instructions and labels (instructions.cpp).
  void instruction_or_label(Function& f);
  void label(Function& f, const std::string& name);
  Operand operand(Function& f);
  bool at_negated_register() const;
  Operand vector(Function& f, std::string_view open, std::string_view close);
  Operand memory(Function& f);
  Operand name_operand(Function& f);

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

  std::unique_ptr<Module> module_;
  Lexer lex_;
  std::unordered_set<std::string> global_names_;  // of variables

  // Of the function being parsed.
  Scopes scopes_{lex_};
  std::unordered_set<std::string> used_names_;  // of its variables
  // Where inner blocks name what may be a label that they declare, in order of the text.
  struct LabelUse {
    size_t number;
    std::string* name;
  };
  std::unordered_map<std::string, std::vector<LabelUse>> label_uses_;
  size_t num_label_uses_ = 0;
  bool in_call_ = false;  // parentheses hold arguments
  int num_renamed_ = 0;
  uint64_t padding_ = 0;     // bytes, of all initialisers
  int64_t num_targets_ = 0;  // of all lists
  int depth_ = 0;
  int location_ = -1;
  std::map<std::string, int, std::less<>> inlined_;  // index into Module::inlined, by label
  std::map<std::pair<int, int>, int> by_place_;
};

}  // namespace wbsim::ptx
