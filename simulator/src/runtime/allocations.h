// allocations.h: device memory is host memory; this records what belongs to which.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <string>

#include "exec/memory.h"
#include "runtime/device_memory.h"
#include "runtime/errors.h"
#include "runtime/fork.h"
#include "runtime/host_stack.h"
#include "runtime/settings.h"

namespace wbsim {

struct Launch;

enum class MemoryKind : uint8_t { Device, Host, Registered, Managed };

// Memory that a program got from a call, or registered with one.
struct Allocation {
  uint64_t first = 0;
  size_t bytes = 0;
  const char* name = "";  // the call
  MemoryKind kind = MemoryKind::Device;
  unsigned flags = 0;
  bool of_graph = false;
  HostStack allocated = {}, freed = {};                // in a standalone program
  std::shared_ptr<Initialised> initialised = nullptr;  // nullptr: all of it is
  // The last launch that wrote there, while that is recorded.
  struct Writer {
    std::string kernel;  // empty: none has
    uint32_t grid[3] = {}, block[3] = {};
    std::vector<uint32_t> integers;  // the arguments, four bytes each
    uint32_t store_bytes = 0;        // that a thread wrote with its last instruction
    bool loops = false;              // its code has a loop
  } writer = {};

  uint64_t last() const { return first + bytes; }
  std::string text() const;  // "an allocation of 400 bytes (cudaMalloc)"
};

class Allocations {
 public:
  Allocations(ProcessSettings& settings, Errors& errors);

  void* allocate(size_t bytes, const char* name, MemoryKind kind, unsigned flags = 0);
  bool release(void* pointer, bool host);  // false: not the start of an allocation of that kind
  // Memory of a graph: the address stays its own between uses. A use ends with release().
  void* reserve(size_t bytes, const char* name);
  void begin_use(void* pointer);
  bool in_use(void* pointer);
  void end_reservation(void* pointer);
  bool register_host(void* pointer, size_t bytes, unsigned flags);
  bool unregister_host(void* pointer);
  std::optional<Allocation> find(const void* pointer);
  // The allocation that an address is in or right next to.
  std::optional<Allocation> near(uint64_t address);
  // The allocation that an address was in before that was freed.
  std::optional<Allocation> former(uint64_t address);
  // Whether a launch may touch all of it.
  bool is_valid(uint64_t first, uint64_t bytes);
  size_t bytes_allocated();
  void release_all();
  DeviceMemory& device() { return device_; }

  void add_region(Region region);
  bool remove_region(uint64_t first, const std::string& name);
  // Everything that a launch may touch, as of now. Without initcheck, what the launch writes is not
  // observed: all memory counts as initialised from then on.
  RegionTable regions_for_launch(bool initcheck);
  // For initcheck: a launch has ended; it may have written.
  void note_writer(const Launch& launch);
  bool kernels_ran() const { return kernels_ran_; }  // with initcheck
  // For initcheck: the host has written there.
  void mark_initialised(const void* pointer, size_t bytes);

 private:
  void forget_freed();  // the oldest

  ProcessSettings& settings_;
  Region region_of(const Allocation& allocation) const;

  Errors& errors_;
  ForkMutex<LockOrder::Memory> mutex_;
  DeviceMemory device_;
  RegionTable regions_;
  std::map<uint64_t, Allocation> allocations_;
  // The latest ones, whose addresses are not used again: whoever uses them uses freed memory.
  std::deque<Allocation> freed_;
  size_t freed_bytes_ = 0;
  size_t allocated_ = 0;  // bytes on the device
  std::atomic<bool> kernels_ran_{false};
};

}  // namespace wbsim
