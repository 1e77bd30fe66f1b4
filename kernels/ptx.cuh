// ptx.cuh: the only place for inline PTX. One function per instruction, named after it; the heading
// of each section names the chapter of NVIDIA's PTX ISA that explains it.
#pragma once

#include <cstdint>

// Whether the code is compiled for sm_80 or later: without that, a kernel that needs it is empty,
// and its ladder's table keeps the device from running it.
#if __CUDA_ARCH__ >= 800
constexpr bool SINCE_SM_80 = true;
#else
constexpr bool SINCE_SM_80 = false;
#endif

// ------------------------------------------------------------------------------------------------
// Arithmetic (PTX ISA, "Floating Point Instructions")

// 2^x, off by at most 2 ulp; results below 2^-126 are 0.
__device__ inline float ex2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// ------------------------------------------------------------------------------------------------
// Conversions (PTX ISA, "cvt")

__device__ inline float cvt_f32_f16(uint16_t bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}

// To the nearest fp16, ties to even.
__device__ inline uint16_t cvt_rn_f16(float value) {
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}

// Two numbers to the nearest fp16, or bf16, ties to even: `low` in the lower half of the word. sm_80.
__device__ inline uint32_t cvt_rn_f16x2(float low, float high) {
  uint32_t word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}
__device__ inline uint32_t cvt_rn_bf16x2(float low, float high) {
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}

// Before sm_90 there is no instruction for it: the bits become the upper half of an fp32.
__device__ inline float cvt_f32_bf16(uint16_t bits) {
  float value;
#if __CUDA_ARCH__ >= 900
  asm("cvt.f32.bf16 %0, %1;" : "=f"(value) : "h"(bits));
#else
  asm("mov.b32 %0, {0, %1};" : "=f"(value) : "h"(bits));
#endif
  return value;
}

// To the nearest bf16, ties to even.
__device__ inline uint16_t cvt_rn_bf16(float value) {
#if __CUDA_ARCH__ >= 800
  uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
#else
  // Adding just under half a bf16, and one more if the result would be odd, carries into the upper
  // half exactly where rounding goes up. A NaN could carry into its sign.
  const uint32_t bits = __float_as_uint(value);
  if (value != value) return 0x7fff;
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
#endif
}

// ------------------------------------------------------------------------------------------------
// Stores (PTX ISA, "st")

// Stores 16 bytes to an address that is a multiple of 16. It does not tell the compiler that memory
// changes, so it is not for memory that the same kernel reads.
__device__ inline void st_global_16(void* global, uint4 value) {
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(global), "r"(value.x), "r"(value.y),
               "r"(value.z), "r"(value.w));
}

// ------------------------------------------------------------------------------------------------
// Shared memory (PTX ISA, "ld")

// The 32-bit address within shared memory that PTX expects.
__device__ inline uint32_t shared_address(const void* smem) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(smem));
}

// Loads the 4 bytes at such an address.
__device__ inline uint32_t ld_shared(uint32_t smem) {
  uint32_t word;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(word) : "r"(smem) : "memory");
  return word;
}

// ------------------------------------------------------------------------------------------------
// Asynchronous copies, sm_80 (PTX ISA, "cp.async")

// Starts copying 16 bytes, bypassing the L1 cache; both pointers are multiples of 16.
__device__ inline void cp_async_16(void* smem, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(smem)), "l"(global)
               : "memory");
}

// The same for the first `bytes` of the 16, 0 to 16 of them; the others become 0.
__device__ inline void cp_async_16(void* smem, const void* global, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(smem)),
               "l"(global), "r"(bytes)
               : "memory");
}

// Starts copying 4 bytes, or with bytes = 0 storing 0; both pointers are multiples of 4.
__device__ inline void cp_async_4(void* smem, const void* global, int bytes) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(smem)),
               "l"(global), "r"(bytes)
               : "memory");
}

// Commits this thread's copies since its last commit as one group, which may be empty.
__device__ inline void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most PENDING of this thread's groups, the most recent ones, are in flight.
template <int PENDING>
__device__ inline void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// ------------------------------------------------------------------------------------------------
// Tensor cores (PTX ISA, "ldmatrix", "mma")

// Loads four 8 x 8 matrices of 16-bit elements. Lane l gives the address of row l % 8 of matrix
// l / 8: 16 bytes, a multiple of 16. Lane l gets in r[i] elements 2 (l % 4) and 2 (l % 4) + 1 of
// row l / 4 of matrix i; transposed: of column l / 4.
__device__ inline void ldmatrix_x4(uint32_t (&r)[4], uint32_t smem) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(smem)
               : "memory");
}
__device__ inline void ldmatrix_x4_trans(uint32_t (&r)[4], uint32_t smem) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(smem)
               : "memory");
}

// C += A B by a warp: C is 16 x 8; each row of A and each column of B has 32 bytes of k.
//
// Lane l has, with g = l / 4 and t = l % 4, in words of 4 bytes:
//   a[0], a[1]  word t of rows g and g + 8 of A;   a[2], a[3]  word t + 4 of the same
//   b[0], b[1]  words t and t + 4 of column g of B
//   c[0], c[1]  columns 2 t and 2 t + 1 of row g of C;   c[2], c[3]  of row g + 8
#define MMA(name, shape_and_types, Number, letter)                                               \
  __device__ inline void name(Number(&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { \
    asm("mma.sync.aligned." shape_and_types                                                      \
        " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                       \
        : "+" letter(c[0]), "+" letter(c[1]), "+" letter(c[2]), "+" letter(c[3])                 \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                         \
  }
MMA(mma_f16, "m16n8k16.row.col.f32.f16.f16.f32", float, "f")
MMA(mma_bf16, "m16n8k16.row.col.f32.bf16.bf16.f32", float, "f")
MMA(mma_tf32, "m16n8k8.row.col.f32.tf32.tf32.f32", float, "f")
MMA(mma_s8, "m16n8k32.row.col.s32.s8.s8.s32", int, "r")
#undef MMA

// The same for fp16 with sums in fp16: c[0] has columns 2 t and 2 t + 1 of row g, c[1] of row g + 8.
__device__ inline void mma_f16_sums_f16(uint32_t (&c)[2], const uint32_t (&a)[4], uint32_t b0,
                                        uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%0, %1}, {%2, %3, %4, %5}, {%6, %7}, "
      "{%0, %1};"
      : "+r"(c[0]), "+r"(c[1])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// ------------------------------------------------------------------------------------------------
// Clusters, sm_90 (PTX ISA, "barrier.cluster", "mapa", "st")

// This block's rank in its cluster.
__device__ inline uint32_t cluster_rank() {
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// The number of blocks in a cluster.
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

// The same in two halves; the first does not order memory accesses. cluster_wait returns when all
// threads of the cluster have arrived.
__device__ inline void cluster_arrive_relaxed() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}
__device__ inline void cluster_wait() {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// ------------------------------------------------------------------------------------------------
// Barriers in shared memory, sm_90 (PTX ISA, "mbarrier", "st.async")

// Called by one thread, before cluster_sync; after that all blocks see the barrier.
__device__ inline void mbarrier_init(uint64_t* barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(arrivals)
               : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// Arrives, and makes the phase wait for this many bytes, which other threads send.
__device__ inline void mbarrier_arrive_expect(uint64_t* barrier, uint32_t bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
}

// Waits until the phase of that parity completes: 0 for the first, 1 for the second, 0 again.
__device__ inline void mbarrier_wait(uint64_t* barrier, uint32_t parity) {
  asm volatile(
      "{\n\t"
      ".reg .pred done;\n\t"
      "wait:\n\t"
      "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n\t"
      "@!done bra wait;\n\t"
      "}" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

// The address of `smem` in the shared memory of the cluster's block `rank`.
__device__ inline uint32_t address_in_block(const void* smem, uint32_t rank) {
  uint32_t address;
  asm("mapa.shared::cluster.u32 %0, %1, %2;"
      : "=r"(address)
      : "r"(shared_address(smem)), "r"(rank));
  return address;
}

// Sends two numbers to `smem` in the block `rank`, and counts their bytes at its `barrier`.
__device__ inline void st_async(uint32_t rank, void* smem, float a, float b, uint64_t* barrier) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(
          address_in_block(smem, rank)),
      "f"(a), "f"(b), "r"(address_in_block(barrier, rank))
      : "memory");
}
__device__ inline void st_async(uint32_t rank, void* smem, double a, double b, uint64_t* barrier) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f64 [%0], {%1, %2}, [%3];" ::"r"(
          address_in_block(smem, rank)),
      "d"(a), "d"(b), "r"(address_in_block(barrier, rank))
      : "memory");
}

// Stores a number to `smem` in the shared memory of the cluster's block `rank`.
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
