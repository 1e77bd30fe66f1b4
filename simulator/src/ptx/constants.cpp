// constants.cpp: a precedence climber for constant expressions.

#include "ptx/constants.h"

#include <algorithm>
#include <bit>
#include <charconv>

namespace wbsim::ptx {
namespace {

class Expression {
 public:
  explicit Expression(Lexer& lex) : lex_(lex) {}
  // is_unsigned: whether any literal of the expression is, so that / and >> are.
  Operand parse(int min_precedence, bool& is_unsigned);

 private:
  uint64_t computed(char op, uint64_t a, uint64_t b, bool is_unsigned);
  Operand unary(bool& is_unsigned);
  Operand literal(bool& is_unsigned);
  void check_number(std::from_chars_result result, std::string_view text);

  Lexer& lex_;
  int depth_ = 0;
};

Operand Expression::parse(int min_precedence, bool& is_unsigned) {
  static constexpr std::pair<std::string_view, int> OPERATORS[] = {
      {"<<", 4}, {">>", 4}, {"|", 1}, {"^", 2}, {"&", 3}, {"+", 5}, {"-", 5}, {"*", 6}, {"/", 6},
  };
  Depth depth(lex_, depth_);
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
    Operand right = parse(found->second + 1, is_unsigned);
    if (left.kind != Operand::Integer || right.kind != Operand::Integer) {
      lex_.fail("expected whole numbers on both sides of '" + std::string(found->first) + "'");
    }
    left.bits = computed(found->first[0], left.bits, right.bits, is_unsigned);
  }
}

uint64_t Expression::computed(char op, uint64_t a, uint64_t b, bool is_unsigned) {
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

Operand Expression::unary(bool& is_unsigned) {
  Depth depth(lex_, depth_);
  if (lex_.accept("(")) {
    Operand op = parse(1, is_unsigned);
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
Operand Expression::literal(bool& is_unsigned) {
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

void Expression::check_number(std::from_chars_result result, std::string_view text) {
  if (result.ec != std::errc() || result.ptr != text.data() + text.size()) {
    lex_.fail("expected a number");
  }
}

}  // namespace

Operand constant(Lexer& lex) {
  bool is_unsigned = false;
  return Expression(lex).parse(1, is_unsigned);
}

int64_t integer(Lexer& lex, int64_t low, int64_t high) {
  Operand value = constant(lex);
  int64_t number = static_cast<int64_t>(value.bits);
  if (value.kind != Operand::Integer || number < low || number > high) {
    lex.fail("expected a number from " + std::to_string(low) + " to " + std::to_string(high) +
             " before");
  }
  return number;
}

}  // namespace wbsim::ptx
