// ptx.h: the instructions that the kernels here and in ../right share. They are macros, so that a
// finding is at the line of the kernel that uses them.
#pragma once

#include <cstdint>

#define SMEM(pointer) static_cast<unsigned>(__cvta_generic_to_shared(pointer))

// ---- Named barriers (`threads` is a multiple of 32) and the barrier of a cluster.

#define BAR_SYNC(id, threads) asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory")
#define BAR_ARRIVE(id, threads) \
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory")

#define CLUSTER_ARRIVE() asm volatile("barrier.cluster.arrive.aligned;" ::: "memory")
#define CLUSTER_WAIT() asm volatile("barrier.cluster.wait.aligned;" ::: "memory")

// ---- mbarriers: `count` arrivals and all announced bytes complete a phase.

#define MBARRIER_INIT(barrier, count)                                                     \
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(SMEM(barrier)), "r"(count) \
               : "memory")
// Initialised barriers become visible to the asynchronous proxy and to the cluster's other blocks.
#define FENCE_MBARRIER_INIT() asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory")
#define MBARRIER_ARRIVE(barrier) \
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(SMEM(barrier)) : "memory")
// At the same mbarrier of the cluster's block `rank`.
#define MBARRIER_ARRIVE_AT(barrier, rank)                                                      \
  asm volatile(                                                                                \
      "{.reg .b32 there; mapa.shared::cluster.u32 there, %0, %1; "                             \
      "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [there];}" ::"r"(SMEM(barrier)), \
      "r"(rank)                                                                                \
      : "memory")
#define MBARRIER_ARRIVE_EXPECT(barrier, bytes)                                                \
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(SMEM(barrier)), \
               "r"(bytes)                                                                     \
               : "memory")
// Goes on when the phase of this parity is complete.
#define MBARRIER_WAIT(barrier, parity)                                                 \
  asm volatile(                                                                        \
      "{.reg .pred done; again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], " \
      "%1; @!done bra again;}" ::"r"(SMEM(barrier)),                                   \
      "r"(parity)                                                                      \
      : "memory")

// Sends a float to where `smem` lies in the cluster's block `rank`, and its bytes to `barrier` there.
#define ST_ASYNC(rank, smem, value, barrier)                                                \
  asm volatile(                                                                             \
      "{.reg .b32 to, full; mapa.shared::cluster.u32 to, %0, %3; "                          \
      "mapa.shared::cluster.u32 full, %2, %3; "                                             \
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.f32 [to], %1, [full];}" ::"r"( \
          SMEM(smem)),                                                                      \
      "f"(value), "r"(SMEM(barrier)), "r"(rank)                                             \
      : "memory")

// ---- Release and acquire of an int in global memory.

#define STORE_RELEASE(p, v) asm volatile("st.release.gpu.s32 [%0], %1;" ::"l"(p), "r"(v) : "memory")
#define STORE_RELAXED(p, v) asm volatile("st.relaxed.gpu.s32 [%0], %1;" ::"l"(p), "r"(v) : "memory")
#define LOAD_ACQUIRE(v, p) \
  asm volatile("ld.acquire.gpu.s32 %0, [%1];" : "=r"(v) : "l"(p) : "memory")

// ---- Two matrices of eight rows of 16 bytes; lanes 0 to 15 give the rows.

#define LDMATRIX(a, b, row)                                               \
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];" \
               : "=r"(a), "=r"(b)                                         \
               : "r"(SMEM(row))                                           \
               : "memory")

// ---- Copies of a thread: 16 bytes, in groups.

#define CP_ASYNC(smem, global)                                                            \
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(SMEM(smem)), "l"(global) \
               : "memory")
#define CP_ASYNC_COMMIT() asm volatile("cp.async.commit_group;" ::: "memory")
#define CP_ASYNC_WAIT(groups) asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory")

// All copies of this thread so far arrive at the mbarrier when they are complete.
#define CP_ASYNC_ARRIVE(barrier)                                                           \
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(SMEM(barrier)) \
               : "memory")

// ---- Copies of the copy engine.

#define BULK_LOAD(smem, global, bytes, barrier)                                                    \
  asm volatile(                                                                                    \
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" :: \
          "r"(SMEM(smem)),                                                                         \
      "l"(global), "r"(bytes), "r"(SMEM(barrier))                                                  \
      : "memory")
#define BULK_STORE(global, smem, bytes)                                                     \
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(global), \
               "r"(SMEM(smem)), "r"(bytes)                                                  \
               : "memory")
// The output is added to, element by element.
#define BULK_ADD(global, smem, bytes)                                                             \
  asm volatile(                                                                                   \
      "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(global), \
      "r"(SMEM(smem)), "r"(bytes)                                                                 \
      : "memory")
// To the same place in all blocks of the mask, which completes the same mbarrier there.
#define BULK_MULTICAST(smem, global, bytes, barrier, mask)                                    \
  asm volatile(                                                                               \
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster " \
      "[%0], "                                                                                \
      "[%1], %2, [%3], %4;" ::"r"(SMEM(smem)),                                                \
      "l"(global), "r"(bytes), "r"(SMEM(barrier)), "h"(static_cast<uint16_t>(mask))           \
      : "memory")
#define TMA_LOAD(smem, map, x, y, barrier)                                                      \
  asm volatile(                                                                                 \
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], " \
      "[%1, "                                                                                   \
      "{%2, %3}], [%4];" ::"r"(SMEM(smem)),                                                     \
      "l"(map), "r"(x), "r"(y), "r"(SMEM(barrier))                                              \
      : "memory")
#define TMA_STORE(map, smem, x, y)                                                              \
  asm volatile(                                                                                 \
      "cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"( \
          map),                                                                                 \
      "r"(x), "r"(y), "r"(SMEM(smem))                                                           \
      : "memory")
#define BULK_COMMIT() asm volatile("cp.async.bulk.commit_group;" ::: "memory")
// The copies are complete; for READ_WAIT their sources are read.
#define BULK_WAIT() asm volatile("cp.async.bulk.wait_group 0;" ::: "memory")
#define BULK_READ_WAIT() asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory")
// What this thread wrote becomes visible to the asynchronous proxy: copy engine and wgmma.
#define FENCE_PROXY_ASYNC() asm volatile("fence.proxy.async;" ::: "memory")

// ---- wgmma: D [64, 8] += A [64, 8] * B [8, 8], tf32, both operands K-major without a swizzle.
//
// A matrix [rows, 8] lies in two columns of 16 bytes: element (row, k) at
// k / 4 * rows * 4 + row * 4 + k % 4. A thread has D at rows warp * 16 + lane / 4 (d[0], d[1]) and
// 8 below (d[2], d[3]), in the columns lane % 4 * 2 and the next.

__device__ inline uint64_t descriptor(const float* smem, int rows) {
  const uint64_t start = SMEM(smem), leading = rows * 16, stride = 8 * 16;
  return start >> 4 | (leading >> 4) << 16 | (stride >> 4) << 32;
}

#define WGMMA(d, a, b)                                                                         \
  asm volatile(                                                                                \
      "{.reg .pred add; setp.ne.b32 add, 1, 0; wgmma.mma_async.sync.aligned.m64n8k8.f32.tf32." \
      "tf32 {%0, %1, %2, %3}, %4, %5, add, 1, 1;}"                                             \
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                         \
      : "l"(a), "l"(b)                                                                         \
      : "memory")
#define WGMMA_FENCE() asm volatile("wgmma.fence.sync.aligned;" ::: "memory")
#define WGMMA_COMMIT() asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory")
#define WGMMA_WAIT(groups) \
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(groups) : "memory")

// Index of a thread's element j of D [64, 8] in row-major order.
__device__ inline int d_index(int j) {
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4 + j / 2 * 8;
  return row * 8 + lane % 4 * 2 + j % 2;
}
