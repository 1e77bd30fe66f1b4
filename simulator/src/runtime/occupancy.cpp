#include "runtime/occupancy.h"

#include <algorithm>

#include "runtime/device.h"
#include "runtime/module_table.h"

namespace wbsim {
namespace {

constexpr int WARPS_PER_SM = Device::THREADS_PER_SM / LANES;
constexpr size_t SHARED_UNIT = 128;          // shared memory is allocated in these steps
constexpr int REGISTER_UNIT = 256;           // registers, to each warp
constexpr int SCHEDULERS = 4;                // each with a quarter of the registers
constexpr int SMALL_GPCS = 6, BIG_GPCS = 2;  // of 16 and of 18 multiprocessors: 132 together

size_t round_up(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

}  // namespace

int blocks_per_sm(const Function& function, const Kernel& kernel, int threads,
                  size_t dynamic_shared) {
  size_t limit = kernel.dynamic_shared_limit.value_or(Device::SHARED_OPTIN - kernel.shared_bytes);
  if (threads <= 0 || threads > kernel.max_threads || dynamic_shared > limit ||
      kernel.shared_bytes + dynamic_shared > Device::SHARED_OPTIN) {
    return 0;
  }
  int warps = (threads + LANES - 1) / LANES;
  int blocks = std::min(Device::BLOCKS_PER_SM, WARPS_PER_SM / warps);
  size_t shared =
      round_up(kernel.shared_bytes + dynamic_shared + Device::SHARED_RESERVED, SHARED_UNIT);
  blocks = std::min(blocks, static_cast<int>(Device::SHARED_PER_SM / shared));
  if (function.ptx->max_registers > 0) {
    size_t of_warp = round_up(size_t{LANES} * function.ptx->max_registers, REGISTER_UNIT);
    int held = SCHEDULERS * static_cast<int>(Device::REGISTERS / SCHEDULERS / of_warp);
    blocks = std::min(blocks, held / warps);
  }
  return blocks;
}

size_t shared_left(const Kernel& kernel, int blocks, int threads) {
  int warps = (threads + LANES - 1) / LANES;
  require(blocks > 0 && threads > 0 && blocks <= Device::BLOCKS_PER_SM &&
          blocks * warps <= WARPS_PER_SM);
  size_t each = Device::SHARED_PER_SM / blocks / SHARED_UNIT * SHARED_UNIT;
  size_t taken = kernel.shared_bytes + Device::SHARED_RESERVED;
  size_t most = kernel.dynamic_shared_limit.value_or(Device::SHARED_UNASKED - kernel.shared_bytes);
  return std::min(each > taken ? each - taken : 0, most);
}

int clusters_on_device(const Function& function, const Kernel& kernel, int threads,
                       size_t dynamic_shared, int cluster_size) {
  // All blocks of a cluster run inside one GPC.
  int blocks = blocks_per_sm(function, kernel, threads, dynamic_shared);
  int small = (Device::SMS - BIG_GPCS * Device::SMS_PER_GPC) / SMALL_GPCS;
  return SMALL_GPCS * (small * blocks / cluster_size) +
         BIG_GPCS * (Device::SMS_PER_GPC * blocks / cluster_size);
}

}  // namespace wbsim
