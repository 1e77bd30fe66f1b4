#include "ptx/lexer.h"

#include <algorithm>

#include "ptx/ptx.h"

namespace wbsim::ptx {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

bool is_alphanumeric(char c) {
  return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

bool is_word(char c) { return is_alphanumeric(c) || c == '_' || c == '$' || c == '%' || c == '.'; }

// The part of a broken text that may appear in a message.
std::string printable(std::string_view text) {
  constexpr size_t MAX_SHOWN = 200;
  std::string out(text.substr(0, MAX_SHOWN));
  for (char& c : out) {
    c = c >= ' ' && c <= '~' ? c : c == '\t' ? ' ' : '?';
  }
  return text.size() > MAX_SHOWN ? out + " ..." : out;
}

}  // namespace

Token Lexer::next() {
  Token t = token_;
  advance();
  return t;
}

bool Lexer::accept(std::string_view text) {
  if (!at(text)) {
    return false;
  }
  advance();
  return true;
}

void Lexer::expect(std::string_view text) {
  if (!accept(text)) {
    fail("expected '" + std::string(text) + "'");
  }
}

void Lexer::fail(const std::string& what) const {
  size_t at = std::min(token_.begin, text_.size());
  size_t line = 1 + std::count(text_.begin(), text_.begin() + at, '\n');
  size_t from = at == 0 ? std::string_view::npos : text_.rfind('\n', at - 1);
  from = from == std::string_view::npos ? 0 : from + 1;
  size_t to = std::min(text_.find('\n', at), text_.size());
  std::string got = at_end() ? "the end" : "'" + printable(token_.text) + "'";
  throw ParseError("PTX line " + std::to_string(line) + ": " + what + ", got " + got +
                   " in: " + printable(text_.substr(from, to - from)));
}

void Lexer::skip_space() {
  while (pos_ < text_.size()) {
    char c = text_[pos_];
    if (c == ' ' || c == '\t' || c == '\n' || c == '\r') {
      pos_++;
    } else if (c == '/' && character(pos_ + 1) == '/') {
      pos_ = std::min(text_.find('\n', pos_), text_.size());
    } else if (c == '/' && character(pos_ + 1) == '*') {
      size_t end = text_.find("*/", pos_ + 2);
      pos_ = end == std::string_view::npos ? text_.size() : end + 2;
    } else {
      break;
    }
  }
}

void Lexer::advance() {
  skip_space();
  token_ = Token{Tok::End, {}, pos_};
  if (pos_ >= text_.size()) {
    return;
  }
  char c = text_[pos_];
  size_t begin = pos_;
  if (c == '"') {
    size_t end = text_.find('"', pos_ + 1);
    if (end == std::string_view::npos) {
      fail("expected the end of a string");
    }
    token_ = {Tok::String, text_.substr(begin + 1, end - begin - 1), begin};
    pos_ = end + 1;
  } else if (is_digit(c) || (c == '.' && is_digit(character(pos_ + 1)))) {
    number();
    token_ = {Tok::Number, text_.substr(begin, pos_ - begin), begin};
  } else if (is_word(c)) {
    // Words may hold "::", as in .shared::cta. `.reg.b32` is two directives, `add.s32` is one word.
    bool directive = c == '.';
    do {
      pos_ += character(pos_) == ':' ? 2 : 1;
    } while (
        (is_word(character(pos_)) && !(directive && character(pos_) == '.')) ||
        (character(pos_) == ':' && character(pos_ + 1) == ':' && is_word(character(pos_ + 2))));
    token_ = {Tok::Word, text_.substr(begin, pos_ - begin), begin};
  } else {
    pos_++;
    token_ = {Tok::Punct, text_.substr(begin, 1), begin};
  }
}

void Lexer::letters_and_digits() {
  while (is_alphanumeric(character(pos_))) {
    pos_++;
  }
}

// 12, 0x1F, 0f3F800000, 9.0, 2., .5, 1.5e+3
void Lexer::number() {
  bool hexadecimal = character(pos_ + 1) == 'x' || character(pos_ + 1) == 'X';
  letters_and_digits();
  if (character(pos_) == '.' && (is_digit(character(pos_ + 1)) || !is_word(character(pos_ + 1)))) {
    pos_++;
    letters_and_digits();
  }
  char last = character(pos_ - 1), sign = character(pos_);
  if (!hexadecimal && (last == 'e' || last == 'E') && (sign == '+' || sign == '-') &&
      is_digit(character(pos_ + 1))) {
    pos_++;
    letters_and_digits();
  }
}

}  // namespace wbsim::ptx
