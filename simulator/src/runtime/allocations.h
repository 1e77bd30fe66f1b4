// allocations.h: device memory is host memory; this records what belongs to which.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>

#include "exec/memory.h"
#include "runtime/errors.h"
#include "runtime/fork.h"
#include "runtime/settings.h"

namespace wbsim {

enum class MemoryKind : uint8_t { Device, Host, Registered, Managed };

// Memory that a program got from a call, or registered with one.
struct Allocation {
  uint64_t first = 0;
  size_t bytes = 0;
  const char* name = "";  // the call
  MemoryKind kind = MemoryKind::Device;
  unsigned flags = 0;
};

class Allocations {
 public:
  Allocations(ProcessSettings& settings, Errors& errors) : settings_(settings), errors_(errors) {}

  void* allocate(size_t bytes, const char* name, MemoryKind kind, unsigned flags = 0);
  bool release(void* pointer, bool host);  // false: not the start of an allocation of that kind
  bool register_host(void* pointer, size_t bytes, unsigned flags);
  bool unregister_host(void* pointer);
  std::optional<Allocation> find(const void* pointer);
  size_t bytes_allocated();
  void release_all();

  void add_region(Region region);
  bool remove_region(uint64_t first, const std::string& name);
  // Everything that a launch may touch, as of now. Without initcheck, what the launch writes is not
  // observed: all memory counts as initialised from then on.
  RegionTable regions_for_launch(bool initcheck);
  // For initcheck: the host has written there.
  void mark_initialised(const void* pointer, size_t bytes);
  // Reports and throws unless `bytes` at `pointer` are inside what is known about them. `does` is
  // the beginning of a sentence: "cudaMemcpy reads". on_device: it must be device memory.
  void require_range(const void* pointer, size_t bytes, const std::string& does, bool on_device);

 private:
  ProcessSettings& settings_;
  Errors& errors_;
  ForkMutex<LockOrder::Memory> mutex_;
  RegionTable regions_;
  std::map<uint64_t, Allocation> allocations_;
  size_t allocated_ = 0;  // bytes on the device
};

}  // namespace wbsim
