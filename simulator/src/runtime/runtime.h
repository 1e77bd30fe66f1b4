// runtime.h: the one object behind the CUDA runtime and driver calls. The calls themselves are in
// api/.
#pragma once

#include "runtime/allocations.h"
#include "runtime/errors.h"
#include "runtime/launches.h"
#include "runtime/module_table.h"
#include "runtime/settings.h"

namespace wbsim {

class Runtime {
 public:
  // Created on first use, never destroyed: modules unregister while the process exits.
  static Runtime& get();

  void unload(Binary* binary, bool process_ends);

  Errors errors;
  ProcessSettings settings;
  Allocations memory{settings, errors};
  ModuleTable modules{memory};
  Launches launches{settings, errors, memory, modules};

 private:
  Runtime() = default;
};

}  // namespace wbsim
