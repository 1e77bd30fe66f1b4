// names.h: what symbols are called in the source.
#pragma once

#include <string>

namespace wbsim {

// "void tiled<32>(float const*, int)"; the symbol itself if it is not a mangled name.
std::string demangled(const std::string& symbol);
// The same without the return type and the parameters: "tiled<32>".
std::string pretty_name(const std::string& symbol);

}  // namespace wbsim
