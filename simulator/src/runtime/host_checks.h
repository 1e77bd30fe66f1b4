// host_checks.h: what the host does wrong with the device's memory, in words.
#pragma once

#include <driver_types.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "runtime/allocations.h"

namespace wbsim {

std::string bytes_text(uint64_t bytes);  // "1 byte", "2 bytes"
// A finding at the line of host code that made a call.
Finding host_finding(const HostStack& stack);

// Each of these reports and throws unless all is right.
//
// What a copy reads or writes; `direction` is the one that was requested.
void check_copied_range(const void* pointer, size_t bytes, const char* call, bool writes,
                        cudaMemcpyKind direction);
// What a call sets.
void check_set_range(const void* pointer, size_t bytes, const char* call);
// initcheck: a copy has been made, of a box of which `layout` says where its rows and slices are.
void check_written(const uint8_t* from, const uint8_t* to, const cudaPitchedPtr& layout,
                   const cudaExtent& box, const char* call);

// cudaFree and its like.
void free_memory(void* pointer, bool host, const char* call);

// Reports a copy that leaves a variable of this size.
[[noreturn]] void outside_symbol(uint64_t size, size_t bytes, size_t offset);
// The error of a call that was given something else than a variable of the device.
ApiError not_a_symbol();

// What an invalid address is, if that is known: see RegionTable::former.
std::string former_text(uint64_t address);
// Adds to a report on an address where its memory was allocated, and freed.
void add_history(Finding& finding);

// Reports that host code has touched device memory; `pc` is where, `does` "reads" or "writes".
void report_host_access(uint64_t address, const char* does, const void* pc);

}  // namespace wbsim
