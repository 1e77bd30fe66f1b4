// lexer.h: PTX text as words, numbers, strings and single characters.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace wbsim::ptx {

enum class Tok : uint8_t { End, Word, Number, String, Punct };

struct Token {
  Tok kind = Tok::End;
  std::string_view text;
  size_t begin = 0;
};

class Lexer {
 public:
  explicit Lexer(std::string_view text) : text_(text) { advance(); }

  const Token& peek() const { return token_; }
  bool at(std::string_view text) const { return token_.text == text && token_.kind != Tok::String; }
  bool at_end() const { return token_.kind == Tok::End; }
  // A two-character token: "<<". Its halves are separate tokens, since `r<4>` needs them so.
  bool at_pair(std::string_view text) const {
    return token_.kind == Tok::Punct && text_.substr(token_.begin, 2) == text;
  }
  Token next();
  bool accept(std::string_view text);
  void expect(std::string_view text);
  std::string_view slice(size_t from, size_t to) const { return text_.substr(from, to - from); }
  [[noreturn]] void fail(const std::string& what) const;  // ParseError with the line

 private:
  void skip_space();
  void advance();
  void number();
  void letters_and_digits();
  char character(size_t i) const { return i < text_.size() ? text_[i] : '\0'; }

  std::string_view text_;
  size_t pos_ = 0;
  Token token_;
};

}  // namespace wbsim::ptx
