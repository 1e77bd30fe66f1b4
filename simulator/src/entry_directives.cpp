#include "entry_directives.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>

namespace wbsim {
namespace {

// The numbers behind a directive in the head of an entry, as in `.reqnctapercluster 2, 1, 1`.
void numbers(const std::string& head, const char* directive, int* out, int count) {
  size_t at = head.find(directive);
  if (at == std::string::npos) {
    return;
  }
  std::fill_n(out, count, 1);  // dimensions left out
  const char* text = head.c_str() + head.find_first_of(" \t", at);
  for (int i = 0; i < count; i++) {
    char* end = nullptr;
    out[i] = static_cast<int>(std::strtol(text, &end, 10));
    text = end;
    while (std::isspace(static_cast<unsigned char>(*text))) {
      text++;
    }
    if (*text++ != ',') {
      break;
    }
  }
}

bool is_name(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '$' || c == '%';
}

}  // namespace

EntryDirectives entry_directives(const std::string& ptx) {
  EntryDirectives found;
  constexpr std::string_view ENTRY = ".entry ";
  for (size_t at = ptx.find(ENTRY); at != std::string::npos; at = ptx.find(ENTRY, at)) {
    at += ENTRY.size();
    size_t from = at;
    while (at < ptx.size() && is_name(ptx[at])) {
      at++;
    }
    EntryDirective& entry = found[ptx.substr(from, at - from)];
    std::string head = ptx.substr(at, ptx.find('{', at) - at);  // up to the body
    numbers(head, ".maxnreg", &entry.max_registers, 1);
    numbers(head, ".minnctapersm", &entry.min_blocks, 1);
    numbers(head, ".reqnctapercluster", entry.cluster, 3);
    numbers(head, ".maxclusterrank", &entry.max_cluster, 1);
    entry.explicit_cluster = head.find(".explicitcluster") != std::string::npos;
  }
  return found;
}

}  // namespace wbsim
