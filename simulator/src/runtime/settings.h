// settings.h: what a user has chosen about the runs of this process.
#pragma once

#include <mutex>
#include <optional>
#include <string>

#include "exec/launch.h"

namespace wbsim {

// By name and as text, as wbsim_set accepts them.
class ProcessSettings {
 public:
  ProcessSettings() { read_environment(); }
  std::string set(const std::string& name, const std::string& value);  // "" or what was expected
  std::optional<std::string> get(const std::string& name);
  Settings current();

 private:
  void read_environment();

  std::mutex mutex_;
  Settings settings_;
};

}  // namespace wbsim
