// settings.h: what a user has chosen about the runs of this process, and of a thread.
#pragma once

#include <mutex>
#include <optional>
#include <string>

#include "exec/launch.h"
#include "runtime/fork.h"

namespace wbsim {

// By name and as text, as wbsim_set accepts them.
class ProcessSettings {
 public:
  ProcessSettings() { read_environment(); }
  std::string set(const std::string& name, const std::string& value);  // "" or what was expected
  std::optional<std::string> get(const std::string& name);
  // The checks of this thread's launches, whatever the process's; nothing: the process's again.
  std::string set_checks_of_thread(const std::optional<std::string>& checks);
  Settings current();  // of this thread's launches

 private:
  void read_environment();

  ForkMutex<LockOrder::Settings> mutex_;
  Settings settings_;
};

}  // namespace wbsim
