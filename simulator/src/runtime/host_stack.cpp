#include "runtime/host_stack.h"

#include <dlfcn.h>
#include <elf.h>
#include <execinfo.h>
#include <fcntl.h>
#include <limits.h>
#include <spawn.h>
#include <sys/auxv.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <sstream>

#include "decode/place.h"

namespace wbsim {
namespace {

// Where the program, not a library, was loaded.
const void* program_base() {
  Dl_info info;
  const void* headers = reinterpret_cast<const void*>(getauxval(AT_PHDR));
  return headers && dladdr(headers, &info) ? info.dli_fbase : nullptr;
}

// What a command prints; empty if it cannot be run.
std::string output_of(std::vector<std::string> words) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) {
    return {};
  }
  std::vector<char*> argv;
  for (std::string& word : words) {
    argv.push_back(word.data());
  }
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  pid_t child;
  const bool started = posix_spawnp(&child, argv[0], &actions, nullptr, argv.data(), environ) == 0;
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  std::string out;
  char buffer[4096];
  for (ssize_t n; started && (n = read(ends[0], buffer, sizeof buffer)) > 0;) {
    out.append(buffer, static_cast<size_t>(n));
  }
  close(ends[0]);
  if (started) {
    waitpid(child, nullptr, 0);
  }
  return out;
}

}  // namespace

HostStack HostStack::here() {
  HostStack stack;
  stack.count_ = backtrace(stack.frames_, DEPTH);
  return stack;
}

HostStack HostStack::at(const void* pc) {
  HostStack stack = here();
  void** end = stack.frames_ + stack.count_;
  void** from = std::find(stack.frames_, end, pc);
  if (from == end) {
    from = stack.frames_;  // not found: some frames of the handler do no harm
  } else {
    *from = static_cast<uint8_t*>(*from) + 1;  // it is no return address
  }
  stack.count_ = static_cast<int>(std::copy(from, end, stack.frames_) - stack.frames_);
  return stack;
}

std::vector<HostPlace> HostStack::places() const {
  const void* base = program_base();
  char path[PATH_MAX];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
  if (!base || length <= 0) {
    return {};
  }
  const bool moved = static_cast<const Elf64_Ehdr*>(base)->e_type == ET_DYN;
  std::vector<std::string> words = {
      "addr2line", "-f", "-C", "-i", "-e", std::string(path, static_cast<size_t>(length))};
  const size_t options = words.size();
  for (int i = 0; i < count_; i++) {
    Dl_info info;
    if (dladdr(frames_[i], &info) && info.dli_fbase == base) {
      // The call is before the address it returns to.
      const uint64_t at = reinterpret_cast<uint64_t>(frames_[i]) - 1;
      std::ostringstream hex;
      hex << "0x" << std::hex << (moved ? at - reinterpret_cast<uint64_t>(base) : at);
      words.push_back(hex.str());
    }
  }
  std::vector<HostPlace> places;
  if (words.size() == options) {
    return places;
  }
  std::istringstream lines(output_of(std::move(words)));
  for (HostPlace at; std::getline(lines, at.function);) {
    std::string place;
    std::getline(lines, place);
    const size_t colon = place.rfind(':');
    at.file = place.substr(0, colon);
    at.line = colon == std::string::npos ? 0 : std::atoi(place.c_str() + colon + 1);
    if (at.line > 0 && !is_system_file(at.file)) {
      places.push_back(at);
    }
  }
  return places;
}

}  // namespace wbsim
