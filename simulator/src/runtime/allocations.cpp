// allocations.cpp: what the host owns, and what kernels may touch.

#include "runtime/allocations.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "exec/launch.h"
#include "runtime/device.h"
#include "runtime/host_checks.h"
#include "wbsim.h"

namespace wbsim {
namespace {

constexpr size_t GUARD_BYTES = 256;  // around every allocation, so that none touches the next
constexpr size_t MAX_FREED = 1024;   // that are remembered
constexpr size_t MAX_FREED_BYTES = size_t{1} << 36;  // of addresses

uint64_t address_of(const void* pointer) { return reinterpret_cast<uint64_t>(pointer); }

// With the guards, in whole steps; 0: too large.
size_t whole_bytes(size_t bytes) {
  size_t whole = (bytes + 2 * GUARD_BYTES + 255) / 256 * 256;
  return whole > bytes ? whole : 0;
}

bool has_loop(const Kernel& kernel) {
  for (size_t i = 0; i < kernel.code.size(); i++) {
    const std::string& opcode = kernel.info[i].source->opcode;
    if (opcode == "brx" || (opcode == "bra" && static_cast<size_t>(kernel.code[i].target) <= i)) {
      return true;
    }
  }
  return false;
}

}  // namespace

std::string Allocation::text() const {
  return "an allocation of " + bytes_text(bytes) + " (" + name + ")";
}

Allocations::Allocations(ProcessSettings& settings, Errors& errors)
    : settings_(settings), errors_(errors) {
  regions_.former = [this](uint64_t address) { return former_text(address); };
}

void* Allocations::allocate(size_t bytes, const char* name, MemoryKind kind, unsigned flags) {
  const size_t whole = whole_bytes(bytes);
  const bool on_device = kind == MemoryKind::Device;
  std::lock_guard lock(mutex_);
  require(whole && (kind == MemoryKind::Host || allocated_ + bytes <= Device::MEMORY),
          cudaErrorMemoryAllocation);
  if (on_device && !errors_.attached() && settings_.current().memcheck) {
    device_.keep_host_out(report_host_access);
  }
  DeviceMemory::Opened opened(device_);
  uint8_t* raw = on_device ? device_.allocate(whole) : nullptr;
  raw = raw ? raw : static_cast<uint8_t*>(std::aligned_alloc(256, whole));
  require(raw, cudaErrorMemoryAllocation);
  uint8_t* out = raw + GUARD_BYTES;
  Allocation& allocation = allocations_[address_of(out)];
  allocation = {address_of(out), bytes, name, kind, flags};
  if (!errors_.attached()) {
    allocation.allocated = HostStack::here();
  }
  allocated_ += kind == MemoryKind::Host ? 0 : bytes;
  Region region = region_of(allocation);
  allocation.initialised = region.initialised;
  regions_.add(std::move(region));
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
  Region region = region_of(found->second);
  found->second.initialised = region.initialised;
  regions_.add(std::move(region));
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
  Allocation allocation = std::move(found->second);
  regions_.remove(allocation.first, allocation.name);
  allocated_ -= host ? 0 : allocation.bytes;
  allocations_.erase(found);
  uint8_t* raw = static_cast<uint8_t*>(pointer) - GUARD_BYTES;
  if (!device_.contains(raw)) {
    std::free(raw);
    return true;
  }
  device_.discard(raw, whole_bytes(allocation.bytes));
  allocation.initialised = nullptr;
  if (!errors_.attached()) {
    allocation.freed = HostStack::here();
  }
  freed_bytes_ += whole_bytes(allocation.bytes);
  freed_.push_back(std::move(allocation));
  while (freed_.size() > MAX_FREED || freed_bytes_ > MAX_FREED_BYTES) {
    forget_freed();
  }
  return true;
}

// Called with mutex_ held.
void Allocations::forget_freed() {
  const Allocation& oldest = freed_.front();
  const size_t whole = whole_bytes(oldest.bytes);
  device_.release(reinterpret_cast<uint8_t*>(oldest.first) - GUARD_BYTES, whole);
  freed_bytes_ -= whole;
  freed_.pop_front();
}

bool Allocations::register_host(void* pointer, size_t bytes, unsigned flags) {
  std::lock_guard lock(mutex_);
  uint64_t first = address_of(pointer);
  require(bytes <= UINT64_MAX - first);
  auto next = allocations_.lower_bound(first + bytes);
  bool overlaps = next != allocations_.begin() && std::prev(next)->second.last() > first;
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
  return address_of(pointer) < a.last() ? std::optional(a) : std::nullopt;
}

std::optional<Allocation> Allocations::near(uint64_t address) {
  std::lock_guard lock(mutex_);
  auto next = allocations_.upper_bound(address + GUARD_BYTES);
  if (next == allocations_.begin()) {
    return std::nullopt;
  }
  const Allocation& a = std::prev(next)->second;
  return address < a.last() + GUARD_BYTES ? std::optional(a) : std::nullopt;
}

std::optional<Allocation> Allocations::former(uint64_t address) {
  std::lock_guard lock(mutex_);
  auto found = std::find_if(freed_.rbegin(), freed_.rend(), [&](const Allocation& a) {
    return address - a.first < std::max<size_t>(a.bytes, 1);
  });
  return found == freed_.rend() ? std::nullopt : std::optional(*found);
}

bool Allocations::is_valid(uint64_t first, uint64_t bytes) {
  std::lock_guard lock(mutex_);
  return regions_.find(first, bytes, false) != nullptr;
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
    for (auto& [first, allocation] : allocations_) {
      allocation.initialised = nullptr;
    }
  }
  return regions_;
}

void Allocations::note_writer(const Launch& launch) {
  std::lock_guard lock(mutex_);
  kernels_ran_ = true;
  for (auto& [first, allocation] : allocations_) {
    const uint32_t store_bytes =
        allocation.initialised ? allocation.initialised->take_store_bytes() : 0;
    if (store_bytes == 0) {
      continue;
    }
    Allocation::Writer& writer = allocation.writer;
    writer.kernel = launch.kernel->pretty;
    std::copy_n(launch.grid, 3, writer.grid);
    std::copy_n(launch.block, 3, writer.block);
    writer.store_bytes = store_bytes;
    writer.loops = has_loop(*launch.kernel);
    writer.integers.resize(launch.params.size() / 4);
    std::memcpy(writer.integers.data(), launch.params.data(), writer.integers.size() * 4);
  }
}

void Allocations::mark_initialised(const void* pointer, size_t bytes) {
  std::lock_guard lock(mutex_);
  const Region* region = regions_.find(address_of(pointer), bytes, true);
  if (region && region->initialised) {
    region->initialised->mark(address_of(pointer), bytes);
  }
}

}  // namespace wbsim
