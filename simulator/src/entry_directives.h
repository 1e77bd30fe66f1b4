// entry_directives.h: the performance directives of kernels that the host's calls ask about.
#pragma once

#include <map>
#include <string>

namespace wbsim {

struct EntryDirective {
  int max_registers = 0;          // .maxnreg; 0: none
  int min_blocks = 0;             // .minnctapersm
  int cluster[3] = {0, 0, 0};     // .reqnctapercluster
  bool explicit_cluster = false;  // .explicitcluster
  int max_cluster = 0;            // .maxclusterrank
};
using EntryDirectives = std::map<std::string, EntryDirective>;  // by name, every .entry

EntryDirectives entry_directives(const std::string& ptx);

}  // namespace wbsim
