// interface.cpp: what wbsim.h declares.

#include "wbsim.h"

#include "decode/opcode.h"
#include "exec/progress.h"
#include "runtime/runtime.h"

using wbsim::Runtime;

void wbsim_register_tensor(const void* first, size_t bytes, const char* name, const char* text,
                           int role) {
  wbsim::Region region{reinterpret_cast<uint64_t>(first), bytes, name, text, role};
  if (role == WBSIM_OUT && Runtime::get().settings.current().initcheck) {
    region.initialised = std::make_shared<wbsim::Initialised>(region.first, bytes);
  }
  Runtime::get().memory.add_region(std::move(region));
}

void wbsim_unregister_tensor(const void* first, const char* name) {
  Runtime::get().memory.remove_region(reinterpret_cast<uint64_t>(first), name);
}

const char* wbsim_take_report(void) { return Runtime::get().errors.take_report(); }

const char* wbsim_last_finding_json(void) { return Runtime::get().errors.last_finding_json(); }

void wbsim_attach(void) {
  Runtime::get().errors.attach();
  Runtime::get().memory.device().let_host_in();
}

const char* wbsim_set(const char* name, const char* value) {
  thread_local std::string answer;
  answer = Runtime::get().settings.set(name, value);
  return answer.empty() ? nullptr : answer.c_str();
}

const char* wbsim_get(const char* name) {
  thread_local std::string answer;
  auto value = Runtime::get().settings.get(name);
  answer = value.value_or("");
  return value ? answer.c_str() : nullptr;
}

void wbsim_progress_after(double seconds) { wbsim::Progress::after = seconds; }

const char* wbsim_set_checks_of_thread(const char* checks) {
  thread_local std::string answer;
  answer = Runtime::get().settings.set_checks_of_thread(checks ? std::optional<std::string>(checks)
                                                               : std::nullopt);
  return answer.empty() ? nullptr : answer.c_str();
}

uint64_t wbsim_record_start(int addresses) {
  return Runtime::get().launches.start_recording(addresses != 0);
}

const char* wbsim_record_stop(uint64_t token) {
  thread_local std::string answer;
  answer = Runtime::get().launches.stop_recording(token);
  return answer.c_str();
}

const char* wbsim_module_ptx(uint64_t number) {
  thread_local std::string answer;
  answer = Runtime::get().modules.ptx_of(number);
  return answer.empty() ? nullptr : answer.c_str();
}

const char* wbsim_replace_ptx(const char* library, const char* ptx, const char** before) {
  thread_local std::string answer, replaced;
  try {
    auto paused = Runtime::get().launches.pause();
    replaced = Runtime::get().modules.replace(library, ptx);
    *before = replaced.c_str();
    answer.clear();
  } catch (const std::exception& error) {
    answer = error.what();
  }
  return answer.empty() ? nullptr : answer.c_str();
}

int wbsim_count_rows(const char* form) {
  std::vector<std::string> parts = wbsim::ptx::parts_of(form);
  if (parts.empty()) {
    return 0;
  }
  wbsim::ptx::Instruction inst;
  inst.opcode = parts[0];
  inst.mods.assign(parts.begin() + 1, parts.end());
  return wbsim::count_rows(inst);
}
