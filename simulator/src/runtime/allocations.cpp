// allocations.cpp: what the host owns, and what kernels may touch.

#include "runtime/allocations.h"

#include <algorithm>
#include <cstdlib>

#include "runtime/device.h"
#include "wbsim.h"

namespace wbsim {
namespace {

constexpr size_t GUARD_BYTES = 256;  // around every allocation, so that none touches the next

uint64_t address_of(const void* pointer) { return reinterpret_cast<uint64_t>(pointer); }

std::string bytes_text(uint64_t bytes) {
  return std::to_string(bytes) + (bytes == 1 ? " byte" : " bytes");
}

}  // namespace

void* Allocations::allocate(size_t bytes, const char* name, MemoryKind kind, unsigned flags) {
  size_t whole = (bytes + 2 * GUARD_BYTES + 255) / 256 * 256;
  std::lock_guard lock(mutex_);
  require(whole > bytes && (kind == MemoryKind::Host || allocated_ + bytes <= Device::MEMORY),
          cudaErrorMemoryAllocation);
  auto* raw = static_cast<uint8_t*>(std::aligned_alloc(256, whole));
  require(raw, cudaErrorMemoryAllocation);
  uint8_t* out = raw + GUARD_BYTES;
  allocations_[address_of(out)] = {address_of(out), bytes, name, kind, flags};
  allocated_ += kind == MemoryKind::Host ? 0 : bytes;
  regions_.add(region_of(allocations_[address_of(out)]));
  return out;
}

Region Allocations::region_of(const Allocation& a) const {
  Region region{a.first, a.bytes, a.name, "", WBSIM_INOUT};
  if (settings_.current().initcheck && a.kind == MemoryKind::Device) {
    region.initialised = std::make_shared<Initialised>(region.first, a.bytes);
  }
  return region;
}

void* Allocations::reserve(size_t bytes, const char* name) {
  void* out = allocate(bytes, name, MemoryKind::Device);
  std::lock_guard lock(mutex_);
  allocations_[address_of(out)].of_graph = true;
  regions_.remove(address_of(out), name);
  return out;
}

void Allocations::begin_use(void* pointer) {
  std::lock_guard lock(mutex_);
  auto found = allocations_.find(address_of(pointer));
  require(found != allocations_.end() && !regions_.starting_at(found->first));
  regions_.add(region_of(found->second));
}

bool Allocations::in_use(void* pointer) {
  std::lock_guard lock(mutex_);
  return regions_.starting_at(address_of(pointer)) != nullptr;
}

// Memory that is still in use stays until it is freed.
void Allocations::end_reservation(void* pointer) {
  {
    std::lock_guard lock(mutex_);
    auto found = allocations_.find(address_of(pointer));
    if (found == allocations_.end() || !found->second.of_graph) {
      return;  // the device was reset
    }
    found->second.of_graph = false;
    if (regions_.starting_at(found->first)) {
      return;
    }
  }
  release(pointer, false);
}

bool Allocations::release(void* pointer, bool host) {
  std::lock_guard lock(mutex_);
  auto found = allocations_.find(address_of(pointer));
  if (found == allocations_.end() || found->second.kind == MemoryKind::Registered ||
      (found->second.kind == MemoryKind::Host) != host) {
    return false;
  }
  if (found->second.of_graph) {
    return regions_.remove(found->first, found->second.name);
  }
  regions_.remove(found->first, found->second.name);
  allocated_ -= host ? 0 : found->second.bytes;
  allocations_.erase(found);
  std::free(static_cast<uint8_t*>(pointer) - GUARD_BYTES);
  return true;
}

bool Allocations::register_host(void* pointer, size_t bytes, unsigned flags) {
  std::lock_guard lock(mutex_);
  uint64_t first = address_of(pointer);
  require(bytes <= UINT64_MAX - first);
  auto next = allocations_.lower_bound(first + bytes);
  bool overlaps = next != allocations_.begin() &&
                  std::prev(next)->second.first + std::prev(next)->second.bytes > first;
  if (overlaps) {
    return false;
  }
  allocations_[first] = {first, bytes, "cudaHostRegister", MemoryKind::Registered, flags};
  regions_.add({first, bytes, "cudaHostRegister", "", WBSIM_INOUT});
  return true;
}

bool Allocations::unregister_host(void* pointer) {
  std::lock_guard lock(mutex_);
  auto found = allocations_.find(address_of(pointer));
  if (found == allocations_.end() || found->second.kind != MemoryKind::Registered) {
    return false;
  }
  regions_.remove(found->first, found->second.name);
  allocations_.erase(found);
  return true;
}

std::optional<Allocation> Allocations::find(const void* pointer) {
  std::lock_guard lock(mutex_);
  auto next = allocations_.upper_bound(address_of(pointer));
  if (next == allocations_.begin()) {
    return std::nullopt;
  }
  const Allocation& a = std::prev(next)->second;
  return address_of(pointer) < a.first + a.bytes ? std::optional(a) : std::nullopt;
}

size_t Allocations::bytes_allocated() {
  std::lock_guard lock(mutex_);
  return allocated_;
}

void Allocations::release_all() {
  std::vector<Allocation> all;
  {
    std::lock_guard lock(mutex_);
    for (auto& [first, allocation] : allocations_) {
      allocation.of_graph = false;
      all.push_back(allocation);
    }
  }
  for (const Allocation& a : all) {
    void* pointer = reinterpret_cast<void*>(a.first);
    a.kind == MemoryKind::Registered ? unregister_host(pointer)
                                     : release(pointer, a.kind == MemoryKind::Host);
  }
}

void Allocations::add_region(Region region) {
  std::lock_guard lock(mutex_);
  regions_.add(std::move(region));
}

bool Allocations::remove_region(uint64_t first, const std::string& name) {
  std::lock_guard lock(mutex_);
  return regions_.remove(first, name);
}

RegionTable Allocations::regions_for_launch(bool initcheck) {
  std::lock_guard lock(mutex_);
  if (!initcheck) {
    regions_.forget_initialised();
  }
  return regions_;
}

void Allocations::mark_initialised(const void* pointer, size_t bytes) {
  std::lock_guard lock(mutex_);
  const Region* region = regions_.find(address_of(pointer), bytes, true);
  if (region && region->initialised) {
    region->initialised->mark(address_of(pointer), bytes);
  }
}

void Allocations::require_range(const void* pointer, size_t bytes, const std::string& does,
                                bool on_device) {
  require(pointer || bytes == 0);
  uint64_t at = address_of(pointer);
  Finding finding;
  {
    std::lock_guard lock(mutex_);
    if (bytes == 0 || regions_.find(at, bytes, false)) {
      return;
    }
    // Memory in or right next to an allocation, or that should be the device's.
    auto next = allocations_.upper_bound(at + GUARD_BYTES);
    const Allocation* near = nullptr;
    if (next != allocations_.begin() &&
        at < std::prev(next)->second.first + std::prev(next)->second.bytes + GUARD_BYTES) {
      near = &std::prev(next)->second;
    }
    if (near) {
      int64_t offset = static_cast<int64_t>(at - near->first);
      finding.message = does + " " + bytes_text(bytes) + " at byte " + std::to_string(offset) +
                        " of an allocation of " + bytes_text(near->bytes) + " (" + near->name + ")";
      if (near->of_graph && !regions_.starting_at(near->first)) {
        finding.hint = "it is a graph's, whose alloc node has not run, or which has been freed";
      }
    } else if (on_device) {
      finding.message = does + " " + bytes_text(bytes) + " of memory that is not device memory";
      finding.hint = "device memory comes from cudaMalloc, and is invalid after cudaFree";
    } else {
      return;  // the host's own
    }
  }
  finding.kind = "memcheck";
  finding.address = at;
  throw ApiError{errors_.report(finding, cudaErrorInvalidValue)};
}

}  // namespace wbsim
