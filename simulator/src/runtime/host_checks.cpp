// host_checks.cpp: copies, frees and accesses of the host that a GPU's driver would refuse.

#include "runtime/host_checks.h"

#include "decode/place.h"
#include "runtime/runtime.h"

namespace wbsim {
namespace {

uint64_t address_of(const void* pointer) { return reinterpret_cast<uint64_t>(pointer); }

const char* name_of(cudaMemcpyKind direction) {
  constexpr const char* NAMES[] = {"cudaMemcpyHostToHost", "cudaMemcpyHostToDevice",
                                   "cudaMemcpyDeviceToHost", "cudaMemcpyDeviceToDevice",
                                   "cudaMemcpyDefault"};
  return NAMES[direction];
}

std::string byte_of(uint64_t address, const Allocation& a) {
  return "byte " + std::to_string(static_cast<int64_t>(address - a.first)) + " of " + a.text();
}

// The variable of the device that host code names at an address of its own, or "".
std::string variable_at(uint64_t address) {
  return Runtime::get().modules.variable_around(reinterpret_cast<const void*>(address));
}

[[noreturn]] void fail(Finding finding) {
  finding.kind = "memcheck";
  throw ApiError{Runtime::get().errors.report(finding, cudaErrorInvalidValue)};
}

// Memory that is not what a call needs: what it is, if that is known.
[[noreturn]] void wrong_memory(const void* pointer, size_t bytes, const std::string& call,
                               bool writes, const std::string& otherwise) {
  const uint64_t at = address_of(pointer);
  Allocations& memory = Runtime::get().memory;
  const std::string does = call + (writes ? " writes " : " reads ") + bytes_text(bytes);
  Finding f = host_finding(HostStack::here());
  f.address = at;
  if (auto freed = memory.former(at)) {
    f.message = does + " at " + byte_of(at, *freed) + ", which has been freed";
    f.hint = "device memory is invalid after cudaFree: free it after its last use";
    add_history(f);
  } else if (auto near = memory.near(at)) {
    f.message = does + " at " + byte_of(at, *near);
    f.hint = near->of_graph && !memory.in_use(reinterpret_cast<void*>(near->first))
                 ? "it is a graph's, whose alloc node has not run, or which has been freed"
                 : "check the number of bytes: it is sizeof(element) times the number of elements";
    add_history(f);
  } else if (std::string variable = variable_at(at); !variable.empty()) {
    const std::string right = writes ? "cudaMemcpyToSymbol" : "cudaMemcpyFromSymbol";
    f.message = does + (writes ? " to '" : " of '") + variable +
                "', a variable of the device, whose name in host code is not its address";
    f.hint = right + "(" + (writes ? variable + ", from" : "to, " + variable) +
             ", bytes), or a copy with the address that cudaGetSymbolAddress returns";
  } else {
    f.message = does + (writes ? " to" : " of") + " memory that is not device memory";
    f.hint = otherwise;
  }
  fail(f);
}

}  // namespace

std::string bytes_text(uint64_t bytes) {
  return std::to_string(bytes) + (bytes == 1 ? " byte" : " bytes");
}

Finding host_finding(const HostStack& stack) {
  Finding f;
  if (Runtime::get().errors.attached()) {
    return f;
  }
  for (const HostPlace& place : stack.places()) {
    if (f.line == 0) {
      f.file = place.file;
      f.line = place.line;
    } else {
      f.chain += "\n  called at " + line_text(place.file, place.line);
    }
  }
  return f;
}

void add_history(Finding& f) {
  Allocations& memory = Runtime::get().memory;
  auto tell = [&](const char* what, const HostStack& stack) {
    std::vector<HostPlace> places = stack.places();
    if (!places.empty()) {
      f.history.push_back(what + line_text(places[0].file, places[0].line));
    }
  };
  auto freed = memory.former(f.address);
  if (auto allocation = freed ? freed : memory.near(f.address)) {
    tell("allocated: ", allocation->allocated);
    tell("freed: ", allocation->freed);
  }
}

std::string former_text(uint64_t address) {
  if (auto freed = Runtime::get().memory.former(address)) {
    return "inside " + freed->text() + " that has been freed";
  }
  const std::string variable = variable_at(address);
  return variable.empty() ? "" : "at the place of '" + variable + "' in the host's memory";
}

void check_copied_range(const void* pointer, size_t bytes, const char* call, bool writes,
                        cudaMemcpyKind direction) {
  if (bytes == 0) {
    return;
  }
  if (!pointer) {
    Finding f = host_finding(HostStack::here());
    f.message = std::string(call) + (writes ? " writes " : " reads ") + bytes_text(bytes) +
                (writes ? " to" : " of") + " a null pointer";
    f.hint = "was the memory allocated, and did that succeed?";
    fail(f);
  }
  Allocations& memory = Runtime::get().memory;
  const bool on_device = direction == cudaMemcpyDeviceToDevice ||
                         direction == (writes ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToHost);
  const std::string other = "the direction is " + std::string(name_of(direction)) +
                            ". Is it the right one, and is the destination the first pointer?";
  if (memory.is_valid(address_of(pointer), bytes)) {
    auto allocation = memory.find(pointer);
    if (allocation && allocation->kind == MemoryKind::Device && !on_device &&
        direction != cudaMemcpyDefault) {
      Finding f = host_finding(HostStack::here());
      f.address = address_of(pointer);
      f.message = std::string(call) + (writes ? " writes " : " reads ") + bytes_text(bytes) +
                  (writes ? " to " : " of ") + allocation->text() + ", which is not host memory";
      f.hint = other;
      add_history(f);
      fail(f);
    }
    return;
  }
  const uint64_t at = address_of(pointer);
  if (on_device || memory.near(at) || memory.former(at) || !variable_at(at).empty()) {
    wrong_memory(pointer, bytes, call, writes, other);
  }
}

void check_set_range(const void* pointer, size_t bytes, const char* call) {
  if (bytes > 0 && !Runtime::get().memory.is_valid(address_of(pointer), bytes)) {
    wrong_memory(pointer, bytes, call, true,
                 "device memory comes from cudaMalloc, and is invalid after cudaFree");
  }
}

void free_memory(void* pointer, bool host, const char* call) {
  Allocations& memory = Runtime::get().memory;
  if (!pointer || memory.release(pointer, host)) {
    return;
  }
  const uint64_t at = address_of(pointer);
  Finding f = host_finding(HostStack::here());
  f.address = at;
  auto allocation = memory.find(pointer);
  const std::string of = std::string(call) + " of ";
  if (auto freed = memory.former(at)) {
    f.message = of + freed->text() + " that has been freed already";
    f.hint = "set a pointer to nullptr when you free it: freeing that does nothing";
  } else if (allocation && allocation->first != at) {
    f.message = of + byte_of(at, *allocation);
    f.hint = "free the address that the allocation returned";
  } else if (allocation) {
    f.message = of + allocation->text();
    f.hint = allocation->kind == MemoryKind::Registered ? "undo it with cudaHostUnregister"
             : host ? "free memory of the device with cudaFree"
                    : "free memory of the host with cudaFreeHost";
  } else {
    f.message = of + "memory that no call of CUDA has allocated";
    f.hint = "memory from malloc is freed with free, from new with delete";
  }
  add_history(f);
  fail(f);
}

void outside_symbol(uint64_t size, size_t bytes, size_t offset) {
  Finding f = host_finding(HostStack::here());
  f.message = "a copy of " + bytes_text(bytes) + " at byte " + std::to_string(offset) +
              " of a variable of " + bytes_text(size);
  f.hint = "check the number of bytes: sizeof(variable) is all of it";
  fail(f);
}

ApiError not_a_symbol() {
  Finding f = host_finding(HostStack::here());
  f.kind = "memcheck";
  f.message = "what the call was given as a symbol is no __device__ or __constant__ variable";
  f.hint =
      "pass the variable itself, not its address as a void* or its name as a string; memory of "
      "cudaMalloc is copied with cudaMemcpy";
  return {Runtime::get().errors.report(f, cudaErrorInvalidSymbol)};
}

void report_host_access(uint64_t address, const char* does, const void* pc) {
  Runtime& runtime = Runtime::get();
  Finding f = host_finding(HostStack::at(pc));
  f.kind = "memcheck";
  f.address = address;
  auto allocation = runtime.memory.former(address);
  const bool freed = allocation.has_value();
  allocation = freed ? allocation : runtime.memory.near(address);
  f.message = std::string("host code ") + does + " device memory" +
              (allocation ? ": " + byte_of(address, *allocation) : "") +
              (freed ? ", which has been freed" : "");
  // free() looks at what malloc() keeps before the memory.
  const bool frees = allocation && address < reinterpret_cast<uint64_t>(allocation->first);
  f.hint =
      "only kernels can use this memory; with a GPU this crashes as well (segmentation fault). " +
      std::string(frees ? "Does free() or delete do this? What cudaMalloc allocates, cudaFree frees"
                        : "Copy it with cudaMemcpy, or allocate it with cudaMallocManaged");
  add_history(f);
  runtime.errors.report(f, cudaErrorIllegalAddress);
}

}  // namespace wbsim
