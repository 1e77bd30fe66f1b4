// constants.h: constant expressions (PTX ISA 4.5).
#pragma once

#include <cstdint>

#include "ptx/lexer.h"
#include "ptx/ptx.h"

namespace wbsim::ptx {

// A constant expression, in 64 bits; only integers can be computed with.
Operand constant(Lexer& lex);
// An integer between two bounds.
int64_t integer(Lexer& lex, int64_t low, int64_t high);

// Counts how deeply a parser is nested, for its lifetime; too deep is an error.
class Depth {
 public:
  Depth(const Lexer& lex, int& depth) : depth_(depth) {
    if (++depth_ > MAX) {
      lex.fail("nested too deeply");
    }
  }
  ~Depth() { depth_--; }

 private:
  static constexpr int MAX = 64;  // blocks, lists and parentheses
  int& depth_;
};

}  // namespace wbsim::ptx
