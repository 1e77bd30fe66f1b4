// patterns.cu: one memory instruction of one warp, with the lane addresses it is given, so that
// what the simulator and Nsight Compute count can be compared access by access.
//
//   patterns FILE      runs the lines of FILE: name, operation, mask, up to 64 numbers
//
// The numbers are byte offsets, lane by lane: where to load from or store to; from 32 on, those in
// shared memory of a copy. Operations of several instructions take parameters (walk_kernel).
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>

struct Lanes {
  uint32_t at[64];
  uint32_t mask;  // lanes that execute the instruction
};

constexpr uint32_t SHARED_BYTES = 32 * 1024, MEMORY_BYTES = 4 << 20;

// What was loaded is stored; otherwise the compiler would drop the load.
__device__ void keep(unsigned char* memory, uint32_t a) {
  reinterpret_cast<uint32_t*>(memory + MEMORY_BYTES)[threadIdx.x] = a;
}
__device__ void keep(unsigned char* memory, uint64_t a) {
  reinterpret_cast<uint64_t*>(memory + MEMORY_BYTES)[threadIdx.x] = a;
}
__device__ void keep(unsigned char* memory, uint4 a) {
  reinterpret_cast<uint4*>(memory + MEMORY_BYTES)[threadIdx.x] = a;
}

// The code sees its lane's addresses: `global` and `in_shared`; `to_shared` is a copy's.
#define PATTERN_KERNEL(NAME, ...)                                                             \
  __global__ void NAME##_kernel(const __grid_constant__ Lanes lanes, unsigned char* memory) { \
    extern __shared__ __align__(1024) unsigned char smem[];                                   \
    const int lane = threadIdx.x;                                                             \
    if (!((lanes.mask >> lane) & 1)) return;                                                  \
    const uint32_t shared = static_cast<uint32_t>(__cvta_generic_to_shared(smem));            \
    [[maybe_unused]] unsigned char* global = memory + lanes.at[lane];                         \
    [[maybe_unused]] const uint32_t in_shared = shared + lanes.at[lane];                      \
    [[maybe_unused]] const uint32_t to_shared = shared + lanes.at[32 + lane];                 \
    __VA_ARGS__                                                                               \
  }

PATTERN_KERNEL(ldg1, uint16_t a;
               asm volatile("ld.global.u8 %0, [%1];" : "=h"(a) : "l"(global) : "memory");
               keep(memory, uint32_t{a});)
PATTERN_KERNEL(ldg2, uint16_t a;
               asm volatile("ld.global.u16 %0, [%1];" : "=h"(a) : "l"(global) : "memory");
               keep(memory, uint32_t{a});)
PATTERN_KERNEL(ldg4, uint32_t a;
               asm volatile("ld.global.u32 %0, [%1];" : "=r"(a) : "l"(global) : "memory");
               keep(memory, a);)
PATTERN_KERNEL(ldg8, uint64_t a;
               asm volatile("ld.global.u64 %0, [%1];" : "=l"(a) : "l"(global) : "memory");
               keep(memory, a);)
PATTERN_KERNEL(ldg16, uint4 v;
               asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y),
                            "=r"(v.z), "=r"(v.w) : "l"(global) : "memory");
               keep(memory, v);)
PATTERN_KERNEL(stg1, asm volatile("st.global.u8 [%0], %1;" : : "l"(global),
                                  "h"(static_cast<uint16_t>(lane)) : "memory");)
PATTERN_KERNEL(stg2, asm volatile("st.global.u16 [%0], %1;" : : "l"(global),
                                  "h"(static_cast<uint16_t>(lane)) : "memory");)
PATTERN_KERNEL(stg4, asm volatile("st.global.u32 [%0], %1;" : : "l"(global), "r"(lane) : "memory");)
PATTERN_KERNEL(stg8, asm volatile("st.global.u64 [%0], %1;" : : "l"(global),
                                  "l"(uint64_t(lane)) : "memory");)
PATTERN_KERNEL(stg16, asm volatile("st.global.v4.u32 [%0], {%1, %1, %1, %1};" : : "l"(global),
                                   "r"(lane) : "memory");)
PATTERN_KERNEL(lds1, uint16_t a;
               asm volatile("ld.shared.u8 %0, [%1];" : "=h"(a) : "r"(in_shared) : "memory");
               keep(memory, uint32_t{a});)
PATTERN_KERNEL(lds2, uint16_t a;
               asm volatile("ld.shared.u16 %0, [%1];" : "=h"(a) : "r"(in_shared) : "memory");
               keep(memory, uint32_t{a});)
PATTERN_KERNEL(lds4, uint32_t a;
               asm volatile("ld.shared.u32 %0, [%1];" : "=r"(a) : "r"(in_shared) : "memory");
               keep(memory, a);)
PATTERN_KERNEL(lds8, uint64_t a;
               asm volatile("ld.shared.u64 %0, [%1];" : "=l"(a) : "r"(in_shared) : "memory");
               keep(memory, a);)
PATTERN_KERNEL(lds16, uint4 v;
               asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y),
                            "=r"(v.z), "=r"(v.w) : "r"(in_shared) : "memory");
               keep(memory, v);)
PATTERN_KERNEL(sts1, asm volatile("st.shared.u8 [%0], %1;" : : "r"(in_shared),
                                  "h"(static_cast<uint16_t>(lane)) : "memory");)
PATTERN_KERNEL(sts2, asm volatile("st.shared.u16 [%0], %1;" : : "r"(in_shared),
                                  "h"(static_cast<uint16_t>(lane)) : "memory");)
PATTERN_KERNEL(sts4,
               asm volatile("st.shared.u32 [%0], %1;" : : "r"(in_shared), "r"(lane) : "memory");)
PATTERN_KERNEL(sts8, asm volatile("st.shared.u64 [%0], %1;" : : "r"(in_shared),
                                  "l"(uint64_t(lane)) : "memory");)
PATTERN_KERNEL(sts16, asm volatile("st.shared.v4.u32 [%0], {%1, %1, %1, %1};" : : "r"(in_shared),
                                   "r"(lane) : "memory");)
PATTERN_KERNEL(ldg4nc, uint32_t a;
               asm volatile("ld.global.nc.u32 %0, [%1];" : "=r"(a) : "l"(global) : "memory");
               keep(memory, a);)
PATTERN_KERNEL(ldg16nc, uint4 v;
               asm volatile("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y),
                            "=r"(v.z), "=r"(v.w) : "l"(global) : "memory");
               keep(memory, v);)
PATTERN_KERNEL(redg4,
               asm volatile("red.global.add.u32 [%0], %1;" : : "l"(global), "r"(lane) : "memory");)
PATTERN_KERNEL(redg4f,
               asm volatile("red.global.add.f32 [%0], %1;" : : "l"(global), "f"(1.0f) : "memory");)
PATTERN_KERNEL(redg8, asm volatile("red.global.add.u64 [%0], %1;" : : "l"(global),
                                   "l"(uint64_t(lane)) : "memory");)
PATTERN_KERNEL(redg16f,
               asm volatile("red.global.add.v4.f32 [%0], {%1, %1, %1, %1};" : : "l"(global),
                            "f"(1.0f) : "memory");)
PATTERN_KERNEL(atomg4, uint32_t a;
               asm volatile("atom.global.add.u32 %0, [%1], %2;" : "=r"(a) : "l"(global),
                            "r"(lane) : "memory");
               keep(memory, a);)
PATTERN_KERNEL(atomg8, uint64_t a;
               asm volatile("atom.global.add.u64 %0, [%1], %2;" : "=l"(a) : "l"(global),
                            "l"(uint64_t(lane)) : "memory");
               keep(memory, a);)
PATTERN_KERNEL(casg4, uint32_t a;
               asm volatile("atom.global.cas.b32 %0, [%1], %2, %2;" : "=r"(a) : "l"(global),
                            "r"(lane) : "memory");
               keep(memory, a);)
PATTERN_KERNEL(reds4, asm volatile("red.shared.add.u32 [%0], %1;" : : "r"(in_shared),
                                   "r"(lane) : "memory");)
PATTERN_KERNEL(atoms4, uint32_t a;
               asm volatile("atom.shared.add.u32 %0, [%1], %2;" : "=r"(a) : "r"(in_shared),
                            "r"(lane) : "memory");
               keep(memory, a);)
PATTERN_KERNEL(exchs4, uint32_t a;
               asm volatile("atom.shared.exch.b32 %0, [%1], %2;" : "=r"(a) : "r"(in_shared),
                            "r"(lane) : "memory");
               keep(memory, a);)
PATTERN_KERNEL(cass4, uint32_t a;
               asm volatile("atom.shared.cas.b32 %0, [%1], %2, %2;" : "=r"(a) : "r"(in_shared),
                            "r"(lane) : "memory");
               keep(memory, a);)
PATTERN_KERNEL(cass8, uint64_t a;
               asm volatile("atom.shared.cas.b64 %0, [%1], %2, %2;" : "=l"(a) : "r"(in_shared),
                            "l"(uint64_t(lane)) : "memory");
               keep(memory, a);)
PATTERN_KERNEL(ldsm1, uint32_t a;
               asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(a) : "r"(
                   in_shared) : "memory");
               keep(memory, a);)
PATTERN_KERNEL(ldsm2, uint32_t a, b;
               asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];" : "=r"(a),
                            "=r"(b) : "r"(in_shared) : "memory");
               keep(memory, a + (uint64_t{b} << 32));)
PATTERN_KERNEL(ldsm4, uint4 v; asm volatile(
                   "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(v.x),
                   "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(in_shared) : "memory");
               keep(memory, v);)
PATTERN_KERNEL(
    stsm1, asm volatile("stmatrix.sync.aligned.m8n8.x1.shared.b16 [%0], {%1};" : : "r"(in_shared),
                        "r"(lane) : "memory");)
PATTERN_KERNEL(
    stsm2,
    asm volatile("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1, %1};" : : "r"(in_shared),
                 "r"(lane) : "memory");)
PATTERN_KERNEL(
    stsm4, asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %1, %1, %1};" : : "r"(
                            in_shared),
                        "r"(lane) : "memory");)
PATTERN_KERNEL(ldsmt1, uint32_t a;
               asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];" : "=r"(
                   a) : "r"(in_shared) : "memory");
               keep(memory, a);)
PATTERN_KERNEL(ldsmt2, uint32_t a, b; asm volatile(
                   "ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];" : "=r"(a),
                   "=r"(b) : "r"(in_shared) : "memory");
               keep(memory, a + (uint64_t{b} << 32));)
PATTERN_KERNEL(
    ldsmt4, uint4 v; asm volatile(
        "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(v.x),
        "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(in_shared) : "memory");
    keep(memory, v);)
PATTERN_KERNEL(
    stsmt1,
    asm volatile("stmatrix.sync.aligned.m8n8.x1.trans.shared.b16 [%0], {%1};" : : "r"(in_shared),
                 "r"(lane) : "memory");)
PATTERN_KERNEL(
    stsmt2, asm volatile(
                "stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %1};" : : "r"(in_shared),
                "r"(lane) : "memory");)
PATTERN_KERNEL(
    stsmt4,
    asm volatile(
        "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %1, %1, %1};" : : "r"(in_shared),
        "r"(lane) : "memory");)
PATTERN_KERNEL(
    copy4,
    asm volatile("cp.async.ca.shared.global [%1], [%0], 4; cp.async.wait_all;" : : "l"(global),
                 "r"(to_shared) : "memory");)
PATTERN_KERNEL(
    copy8,
    asm volatile("cp.async.ca.shared.global [%1], [%0], 8; cp.async.wait_all;" : : "l"(global),
                 "r"(to_shared) : "memory");)
PATTERN_KERNEL(
    copy16,
    asm volatile("cp.async.ca.shared.global [%1], [%0], 16; cp.async.wait_all;" : : "l"(global),
                 "r"(to_shared) : "memory");)
PATTERN_KERNEL(
    copy16cg,
    asm volatile("cp.async.cg.shared.global [%1], [%0], 16; cp.async.wait_all;" : : "l"(global),
                 "r"(to_shared) : "memory");)

// The first lane copies at[0] bytes from global to shared memory, or back.
PATTERN_KERNEL(bulkload, {
  asm volatile(
      "mbarrier.init.shared.b64 [%0], 1; fence.mbarrier_init.release.cluster;"
      "mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;"
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%2], [%3], %1, [%0];"
      :
      : "r"(shared), "r"(lanes.at[0]), "r"(shared + 1024), "l"(memory)
      : "memory");
  for (uint32_t done = 0; !done;) {
    asm volatile(
        "{.reg .pred p; mbarrier.try_wait.parity.shared.b64 p, [%1], 0; selp.u32 %0, 1, 0, p;}"
        : "=r"(done)
        : "r"(shared)
        : "memory");
  }
})
PATTERN_KERNEL(bulkstore, {
  asm volatile(
      "cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;"
      "cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;"
      :
      : "l"(memory), "r"(shared + 1024), "r"(lanes.at[0])
      : "memory");
})

// Local memory: each lane writes its own array at at[32 + lane] and reads it at at[lane].
template <class T>
__device__ void local_access(const Lanes& lanes, unsigned char* memory) {
  T own[512 / sizeof(T)];
  const int lane = threadIdx.x;
  if (!((lanes.mask >> lane) & 1)) return;
  T* to = own + lanes.at[32 + lane] / sizeof(T);
  const T* from = own + lanes.at[lane] / sizeof(T);
  T value = {};
  *to = value;
  asm volatile("" ::: "memory");
  value = *from;
  keep(memory, value);
}
__global__ void local4_kernel(const __grid_constant__ Lanes lanes, unsigned char* memory) {
  local_access<uint32_t>(lanes, memory);
}
__global__ void local8_kernel(const __grid_constant__ Lanes lanes, unsigned char* memory) {
  local_access<uint64_t>(lanes, memory);
}
__global__ void local16_kernel(const __grid_constant__ Lanes lanes, unsigned char* memory) {
  local_access<uint4>(lanes, memory);
}

// What the L1 cache keeps. at: bytes, rounds, kind of the first round (0 load, 1 store, 2 red),
// bytes from thread to thread, threads, dynamic shared memory. Each round covers all bytes; a
// barrier separates the rounds.
__global__ void walk_kernel(const __grid_constant__ Lanes lanes, unsigned char* memory) {
  const uint32_t bytes = lanes.at[0], rounds = lanes.at[1], kind = lanes.at[2], step = lanes.at[3];
  uint32_t sum = 0;
  for (uint32_t round = 0; round < rounds; round++) {
    for (uint32_t i = threadIdx.x * step; i < bytes; i += blockDim.x * step) {
      uint32_t* at = reinterpret_cast<uint32_t*>(memory + i);
      if (round > 0 || kind == 0) {
        uint32_t value;
        asm volatile("ld.global.u32 %0, [%1];" : "=r"(value) : "l"(at) : "memory");
        sum += value;
      } else if (kind == 1) {
        *at = 3;
      } else {
        asm volatile("red.global.add.u32 [%0], 3;" : : "l"(at) : "memory");
      }
    }
    __syncthreads();
  }
  keep(memory, sum);
}

using PatternKernel = void (*)(const Lanes, unsigned char*);
struct Operation {
  const char* name;
  PatternKernel kernel;
};
#define OPERATION(NAME) {#NAME, NAME##_kernel}
static const Operation OPERATIONS[] = {
    OPERATION(ldg1),   OPERATION(ldg2),     OPERATION(ldg4),     OPERATION(ldg8),
    OPERATION(ldg16),  OPERATION(stg1),     OPERATION(stg2),     OPERATION(stg4),
    OPERATION(stg8),   OPERATION(stg16),    OPERATION(lds1),     OPERATION(lds2),
    OPERATION(lds4),   OPERATION(lds8),     OPERATION(lds16),    OPERATION(sts1),
    OPERATION(sts2),   OPERATION(sts4),     OPERATION(sts8),     OPERATION(sts16),
    OPERATION(ldg4nc), OPERATION(ldg16nc),  OPERATION(redg4),    OPERATION(redg4f),
    OPERATION(redg8),  OPERATION(redg16f),  OPERATION(atomg4),   OPERATION(atomg8),
    OPERATION(casg4),  OPERATION(reds4),    OPERATION(atoms4),   OPERATION(exchs4),
    OPERATION(cass4),  OPERATION(cass8),    OPERATION(ldsm1),    OPERATION(ldsm2),
    OPERATION(ldsm4),  OPERATION(stsm1),    OPERATION(stsm2),    OPERATION(stsm4),
    OPERATION(ldsmt1), OPERATION(ldsmt2),   OPERATION(ldsmt4),   OPERATION(stsmt1),
    OPERATION(stsmt2), OPERATION(stsmt4),   OPERATION(copy4),    OPERATION(copy8),
    OPERATION(copy16), OPERATION(copy16cg), OPERATION(bulkload), OPERATION(bulkstore),
    OPERATION(local4), OPERATION(local8),   OPERATION(local16),
};

static void check(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}

static void launch(const std::string& operation, const Lanes& lanes, unsigned char* memory) {
  if (operation == "walk") {
    const uint32_t shared = lanes.at[5];
    check(cudaFuncSetAttribute(walk_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
    walk_kernel<<<1, lanes.at[4], shared>>>(lanes, memory);
    return check(cudaGetLastError());
  }
  for (const Operation& known : OPERATIONS) {
    if (operation == known.name) {
      known.kernel<<<1, 32, SHARED_BYTES>>>(lanes, memory);
      return check(cudaGetLastError());
    }
  }
  throw std::runtime_error("no operation " + operation);
}

constexpr size_t BYTES = MEMORY_BYTES + 1024 * sizeof(uint4);  // plus what keep() stores

// memory: BYTES, zeros.
void run_patterns(const unsigned char* lines, int64_t size, unsigned char* memory) {
  std::istringstream text(std::string(lines, lines + size));
  for (std::string line; std::getline(text, line);) {
    std::istringstream words(line);
    std::string name, operation;
    Lanes lanes = {};
    words >> name >> operation >> lanes.mask;
    for (int i = 0; i < 64 && words >> lanes.at[i]; i++) {
    }
    launch(operation, lanes, memory);
  }
}

int main(int argc, char** argv) try {
  if (argc != 2) throw std::runtime_error("usage: patterns FILE");
  std::ostringstream lines;
  lines << std::ifstream(argv[1]).rdbuf();
  const std::string text = lines.str();
  unsigned char* memory;
  check(cudaMalloc(&memory, BYTES));
  check(cudaMemset(memory, 0, BYTES));
  run_patterns(reinterpret_cast<const unsigned char*>(text.data()), text.size(), memory);
  check(cudaDeviceSynchronize());
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
