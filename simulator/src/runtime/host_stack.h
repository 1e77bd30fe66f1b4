// host_stack.h: which line of a standalone program makes a call.
#pragma once

#include <string>
#include <vector>

namespace wbsim {

struct HostPlace {
  std::string file;
  int line = 0;
  std::string function;
};

// The calls that a thread of the host is in. Cheap to take; its lines are looked up for reports.
class HostStack {
 public:
  static HostStack here();
  static HostStack at(const void* pc);  // in a signal handler: of what it interrupted
  // The lines of the program itself, innermost first: not those of headers of the toolkit. Empty
  // without line information, or without addr2line.
  std::vector<HostPlace> places() const;

 private:
  static constexpr int DEPTH = 24;
  void* frames_[DEPTH];
  int count_ = 0;
};

}  // namespace wbsim
