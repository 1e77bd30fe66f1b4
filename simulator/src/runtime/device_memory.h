// device_memory.h: where cudaMalloc's memory is: one stretch of addresses, which holds nothing of
// the host's. In a standalone program it is accessible only while the device works, so that host
// code that dereferences a device pointer ends the program, as with a GPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>

namespace wbsim {

class DeviceMemory {
 public:
  // The memory is accessible while one of these exists.
  class Opened {
   public:
    explicit Opened(DeviceMemory& memory) : memory_(memory) { memory_.open(); }
    ~Opened() { memory_.close(); }
    Opened(const Opened&) = delete;

   private:
    DeviceMemory& memory_;
  };

  uint8_t* allocate(size_t bytes);  // a multiple of 256; nullptr: there is none
  void release(uint8_t* first, size_t bytes);
  // Gives the pages of memory that is still allocated back to the system.
  void discard(uint8_t* first, size_t bytes);
  bool contains(const void* address) const {
    return reinterpret_cast<uint64_t>(address) - reinterpret_cast<uint64_t>(base_) < reserved_;
  }
  // From now on. A thread of the host that touches the memory calls on_fault, and dies; `does` is
  // "reads" or "writes", pc the instruction.
  using OnFault = void (*)(uint64_t address, const char* does, const void* pc);
  void keep_host_out(OnFault on_fault);
  void let_host_in();

 private:
  bool reserve();
  bool extend(size_t bytes);
  void open();
  void close();

  std::mutex mutex_;
  uint8_t* base_ = nullptr;
  size_t reserved_ = 0;            // bytes of addresses
  size_t start_ = 0, used_ = 0;    // from where to where in them there were ever allocations
  std::map<size_t, size_t> free_;  // offset -> bytes
  int opened_ = 0;                 // how often
  bool closes_ = false, accessible_ = true;
};

}  // namespace wbsim
