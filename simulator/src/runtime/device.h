// device.h: how the simulated device describes itself: an NVIDIA H200 (SXM).
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <optional>

#include "exec/launch.h"

namespace wbsim {

struct Device {
  static constexpr const char* NAME = "NVIDIA H200 (simulated)";
  static constexpr int SMS = NUM_SMS;
  static constexpr size_t MEMORY = 141ull << 30;
  static constexpr int CLOCK_KHZ = 1'980'000;
  static constexpr int MEMORY_CLOCK_KHZ = 3'201'000;
  static constexpr int BUS_BITS = 6144;
  static constexpr int L2_BYTES = 50 << 20;

  static constexpr int MAX_THREADS = 1024;  // per block
  static constexpr int THREADS_PER_SM = 2048;
  static constexpr int BLOCKS_PER_SM = 32;
  static constexpr int REGISTERS = 65536;  // per multiprocessor, and per block
  static constexpr int SHARED_UNASKED = 48 * 1024;
  static constexpr int SHARED_OPTIN = 227 * 1024;  // per block
  static constexpr int SHARED_PER_SM = 228 * 1024;
  static constexpr int SHARED_RESERVED = 1024;  // in every block, by the system
  static constexpr int MAX_CLUSTER_PORTABLE = 8;
  static constexpr int MAX_CLUSTER = 16;
  static constexpr int SMS_PER_GPC = 18;  // at most; a cluster runs inside one
};

// The value of an attribute; nothing for one that does not exist.
std::optional<int> device_attribute(int attribute);
cudaDeviceProp device_properties();

}  // namespace wbsim
