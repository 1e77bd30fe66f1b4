// ptx.cuh: the only home of inline PTX. One function per instruction, named after it; what they do
// is in NVIDIA's PTX ISA, in the chapter that each section names.
#pragma once

#include <cstdint>

// ------------------------------------------------------------------------------------------------
// Arithmetic (PTX ISA, "Floating Point Instructions")

// 2^x, off by at most 2 ulp; results below 2^-126 are 0.
__device__ inline float ex2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// ------------------------------------------------------------------------------------------------
// Asynchronous copies, sm_80 (PTX ISA, "cp.async")

// The address of shared memory as PTX takes it.
__device__ inline uint32_t shared_address(const void* smem) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(smem));
}

// Starts copying 16 bytes, past the L1 cache; both pointers are multiples of 16.
__device__ inline void cp_async_16(void* smem, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(smem)), "l"(global)
               : "memory");
}

// Closes the group of this thread's copies since the last one; it may be empty.
__device__ inline void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most PENDING of this thread's groups, the latest, are under way.
template <int PENDING>
__device__ inline void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// ------------------------------------------------------------------------------------------------
// Clusters, sm_90 (PTX ISA, "barrier.cluster", "mapa", "st")

// Which block of its cluster this one is.
__device__ inline uint32_t cluster_rank() {
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// How many blocks a cluster has.
__device__ inline uint32_t cluster_size() {
  uint32_t size;
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
  return size;
}

// All threads of the cluster wait for each other; what they wrote before is visible after.
__device__ inline void cluster_sync() {
  asm volatile(
      "barrier.cluster.arrive.release.aligned;\n\t"
      "barrier.cluster.wait.acquire.aligned;" ::
          : "memory");
}

// Stores a number to where `smem` lies in the shared memory of the cluster's block `rank`.
__device__ inline void store_to_block(uint32_t rank, float* smem, float value) {
  asm volatile(
      "{\n\t"
      ".reg .u32 remote;\n\t"
      "mapa.shared::cluster.u32 remote, %0, %1;\n\t"
      "st.shared::cluster.f32 [remote], %2;\n\t"
      "}" ::"r"(shared_address(smem)),
      "r"(rank), "f"(value)
      : "memory");
}
__device__ inline void store_to_block(uint32_t rank, double* smem, double value) {
  asm volatile(
      "{\n\t"
      ".reg .u32 remote;\n\t"
      "mapa.shared::cluster.u32 remote, %0, %1;\n\t"
      "st.shared::cluster.f64 [remote], %2;\n\t"
      "}" ::"r"(shared_address(smem)),
      "r"(rank), "d"(value)
      : "memory");
}
