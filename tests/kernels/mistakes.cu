// Kernels that a launch must end with a report: one mistake each, on the line that says MISTAKE.
#include <cooperative_groups.h>

#include <cstdint>

__device__ unsigned shared_address(const void* p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}

__global__ void unknown_kernel(int* out) {
  if (threadIdx.x == 3) {
    asm volatile("multimem.red.relaxed.sys.global.add.u32 [%0], 1;" ::"l"(out));  // MISTAKE unknown
  }
}
void unknown(int* out) { unknown_kernel<<<2, 64>>>(out); }

__global__ void divergent_kernel(int* out) {
  if (threadIdx.x < 40) {
    __syncthreads();  // MISTAKE divergent
  } else {
    asm volatile("bar.sync 1, 96;");
  }
  out[0] = 1;
}
void divergent(int* out) { divergent_kernel<<<1, 128>>>(out); }

__global__ void grid_sync_kernel(int* out) {
  cooperative_groups::this_grid().sync();  // MISTAKE grid_sync
  out[blockIdx.x] = 1;
}
void grid_sync(int* out) { grid_sync_kernel<<<2, 32>>>(out); }

// 128 threads arrive at an mbarrier that expects 200.
template <bool POLLS>
__global__ void arrivals_kernel(int* out) {
  __shared__ uint64_t barrier;
  const unsigned at = shared_address(&barrier);
  if (threadIdx.x == 0) asm volatile("mbarrier.init.shared::cta.b64 [%0], 200;" ::"r"(at));
  __syncthreads();
  uint64_t phase;
  asm volatile("mbarrier.arrive.shared::cta.b64 %0, [%1];" : "=l"(phase) : "r"(at));
  for (int done = 0; !done;) {
    if (POLLS) {
      asm volatile(
          "{.reg .pred p; mbarrier.test_wait.shared::cta.b64 p, [%1], %2; selp.s32 %0, 1, 0, p;}"
          : "=r"(done)
          : "r"(at), "l"(phase));  // MISTAKE polls
    } else {
      asm volatile(
          "{.reg .pred p; mbarrier.try_wait.shared::cta.b64 p, [%1], %2; selp.s32 %0, 1, 0, p;}"
          : "=r"(done)
          : "r"(at), "l"(phase));
    }
  }
  out[0] = 1;
}
void waits(int* out) { arrivals_kernel<false><<<1, 128>>>(out); }
void polls(int* out) { arrivals_kernel<true><<<1, 128>>>(out); }

__global__ void __cluster_dims__(2, 1, 1) cluster_kernel(int* out) {
  if (blockIdx.x % 2 == 0) {
    asm volatile("barrier.cluster.arrive.aligned;");
    asm volatile("barrier.cluster.wait.aligned;");
  } else {
    asm volatile("bar.sync 3, 96;");  // MISTAKE cluster
  }
  out[0] = 1;
}
void cluster(int* out) { cluster_kernel<<<2, 64>>>(out); }
void cluster_of_three(int* out) { cluster_kernel<<<3, 64>>>(out); }

__global__ void misaligned_kernel(char* out) {
  *reinterpret_cast<float4*>(out + 8) = float4{};  // MISTAKE misaligned
}
void misaligned(int* out) { misaligned_kernel<<<1, 1>>>(reinterpret_cast<char*>(out)); }

__global__ void wild_kernel(int* out) {
  reinterpret_cast<int*>(16)[threadIdx.x] = 5;  // MISTAKE wild
  out[0] = 1;
}
void wild(int* out) { wild_kernel<<<1, 32>>>(out); }

__global__ void shared_kernel(int* out) {
  __shared__ int s[32];
  s[threadIdx.x + out[0] + 1] = 5;  // MISTAKE shared
  __syncthreads();
  out[1] = s[3];
}
void shared(int* out) { shared_kernel<<<1, 32>>>(out); }

__global__ void dynamic_kernel(int* out) {
  extern __shared__ int s[];  // MISTAKE dynamic
  s[threadIdx.x] = 1;
  out[0] = s[0];
}
void too_much_shared(int* out) { dynamic_kernel<<<1, 32, 100000>>>(out); }
void too_many_threads(int* out) { dynamic_kernel<<<1, 2048, 128>>>(out); }
