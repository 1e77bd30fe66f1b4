// occupancy.h: how many blocks and clusters of a kernel the device can hold at a time.
//
// The limits are threads, warps, blocks and shared memory. Registers are allocated when PTX is
// compiled further, so their number is unknown here; they count only if .maxnreg (__maxnreg__,
// -maxrregcount) states it.
#pragma once

#include <cstddef>

namespace wbsim {

struct Function;
struct Kernel;

int blocks_per_sm(const Function& function, const Kernel& kernel, int threads,
                  size_t dynamic_shared);
// Dynamic shared memory that remains for each block when `blocks` of them share a multiprocessor.
size_t shared_left(const Kernel& kernel, int blocks, int threads);
int clusters_on_device(const Function& function, const Kernel& kernel, int threads,
                       size_t dynamic_shared, int cluster_size);

}  // namespace wbsim
