// memory.cu: allocating, copying, setting; symbols, managed and host memory, pools; the errors.
#include <cstdint>
#include <cstring>
#include <vector>

#include "check.h"

__device__ int table[4] = {1, 2, 3, 4};
__constant__ float scale;

__global__ void scale_table(int* out) { out[threadIdx.x] = table[threadIdx.x] * int(scale); }
__global__ void increment(int* x, int n) {
  if (threadIdx.x < n) {
    x[threadIdx.x]++;
  }
}

void copies() {
  std::vector<int> h(100), back(100);
  for (int i = 0; i < 100; i++) h[i] = i;
  int *a, *b;
  OK(cudaMalloc(&a, 400));
  OK(cudaMalloc(&b, 400));
  OK(cudaMemcpy(a, h.data(), 400, cudaMemcpyHostToDevice));
  OK(cudaMemcpy(b, a, 400, cudaMemcpyDeviceToDevice));
  OK(cudaMemcpyPeer(a, 0, b, 0, 400));
  OK(cudaMemcpy(back.data(), a, 400, cudaMemcpyDefault));
  CHECK(back == h);
  OK(cudaMemset(a, 0x01, 8));
  OK(cudaMemcpy(back.data(), a, 400, cudaMemcpyDeviceToHost));
  CHECK(back[0] == 0x01010101 && back[2] == 2);
  // Beyond an allocation, and host memory instead of device memory.
  EXPECT(cudaErrorInvalidValue, cudaMemcpy(a, h.data(), 404, cudaMemcpyHostToDevice));
  EXPECT(cudaErrorInvalidValue, cudaMemset(a, 0, 500));
  EXPECT(cudaErrorInvalidValue, cudaMemcpy(back.data(), h.data(), 4, cudaMemcpyHostToDevice));
  EXPECT(cudaErrorInvalidMemcpyDirection, cudaMemcpy(a, b, 4, cudaMemcpyKind(9)));
  EXPECT(cudaErrorInvalidMemcpyDirection, cudaGetLastError());
  OK(cudaGetLastError());
  OK(cudaFree(a));
  EXPECT(cudaErrorInvalidValue, cudaFree(a));
  OK(cudaFree(nullptr));
  OK(cudaFree(b));
  EXPECT(cudaErrorMemoryAllocation, cudaMalloc(&a, size_t{1} << 50));
  (void)cudaGetLastError();
}

void pitched() {
  char *d, h[6 * 5], back[6 * 5] = {};
  size_t pitch;
  for (int i = 0; i < 30; i++) h[i] = char(i);
  OK(cudaMallocPitch(&d, &pitch, 5, 6));
  CHECK(pitch >= 5 && pitch % 32 == 0);
  OK(cudaMemset2D(d, pitch, 7, 5, 6));
  OK(cudaMemcpy2D(d, pitch, h, 5, 5, 6, cudaMemcpyHostToDevice));
  OK(cudaMemcpy2DAsync(back, 5, d, pitch, 5, 6, cudaMemcpyDeviceToHost, 0));
  CHECK(std::memcmp(h, back, 30) == 0);
  EXPECT(cudaErrorInvalidPitchValue, cudaMemcpy2D(d, 4, h, 5, 5, 6, cudaMemcpyHostToDevice));
  // Sizes whose products do not fit in 64 bits.
  size_t huge = size_t{1} << 40;
  CHECK(cudaMemcpy2D(d, huge, h, huge, 4, (size_t{1} << 24) + 1, cudaMemcpyHostToDevice));
  CHECK(cudaMemset2D(d, huge, 0, 4, (size_t{1} << 24) + 1));
  void* none;
  CHECK(cudaMallocPitch(&none, &pitch, size_t{0} - 8, 1));
  CHECK(cudaMallocPitch(&none, &pitch, huge, (size_t{1} << 24) + 1));
  (void)cudaGetLastError();
  OK(cudaFree(d));

  cudaPitchedPtr p;
  cudaExtent extent = make_cudaExtent(4, 3, 2);
  OK(cudaMalloc3D(&p, extent));
  OK(cudaMemset3D(p, 9, extent));
  char box[24] = {};
  cudaMemcpy3DParms parms = {};
  parms.srcPtr = p;
  parms.dstPtr = make_cudaPitchedPtr(box, 4, 4, 3);
  parms.extent = extent;
  parms.kind = cudaMemcpyDeviceToHost;
  OK(cudaMemcpy3D(&parms));
  for (char c : box) CHECK(c == 9);
  parms.extent = make_cudaExtent(2, 1, 1);
  parms.dstPos = make_cudaPos(1, 2, 1);
  std::memset(box, 0, sizeof box);
  OK(cudaMemcpy3DAsync(&parms, 0));
  CHECK(box[(1 * 3 + 2) * 4 + 1] == 9 && box[(1 * 3 + 2) * 4 + 3] == 0);
  OK(cudaFree(p.ptr));
}

void symbols() {
  float two = 2;
  int *out, h[4], more[2] = {10, 20};
  OK(cudaMalloc(&out, 16));
  OK(cudaMemcpyToSymbol(scale, &two, sizeof two));
  OK(cudaMemcpyToSymbolAsync(table, more, 8, 8, cudaMemcpyHostToDevice, 0));
  EXPECT(cudaErrorInvalidValue, cudaMemcpyToSymbol(table, more, 8, 12));
  scale_table<<<1, 4>>>(out);
  OK(cudaMemcpy(h, out, 16, cudaMemcpyDeviceToHost));
  CHECK(h[0] == 2 && h[1] == 4 && h[2] == 20 && h[3] == 40);
  void* address;
  size_t bytes;
  OK(cudaGetSymbolAddress(&address, table));
  OK(cudaGetSymbolSize(&bytes, table));
  CHECK(bytes == 16);
  OK(cudaMemcpyFromSymbol(h, table, 4, 12));
  CHECK(h[0] == 20);
  OK(cudaMemcpy(h, address, 16, cudaMemcpyDeviceToHost));
  CHECK(h[3] == 20);
  EXPECT(cudaErrorInvalidSymbol, cudaGetSymbolSize(&bytes, &two));
  (void)cudaGetLastError();
  OK(cudaFree(out));
}

void kinds() {
  int *managed, *pinned, *mapped, *device, stack[64];
  OK(cudaMallocManaged(&managed, 256));
  managed[5] = 1;
  OK(cudaMemPrefetchAsync(managed, 256, cudaMemLocation{cudaMemLocationTypeDevice, 0}, 0, 0));
  OK(cudaMemAdvise(managed, 256, cudaMemAdviseSetReadMostly,
                   cudaMemLocation{cudaMemLocationTypeDevice, 0}));
  increment<<<1, 32>>>(managed, 8);
  OK(cudaDeviceSynchronize());
  CHECK(managed[5] == 2);
  OK(cudaHostAlloc(&pinned, 256, cudaHostAllocMapped));
  unsigned flags;
  OK(cudaHostGetFlags(&flags, pinned));
  CHECK(flags & cudaHostAllocMapped);
  OK(cudaHostRegister(stack, sizeof stack, cudaHostRegisterDefault));
  EXPECT(cudaErrorHostMemoryAlreadyRegistered,
         cudaHostRegister(stack, sizeof stack, cudaHostRegisterDefault));
  OK(cudaHostGetDevicePointer(&mapped, stack, 0));
  stack[3] = 41;
  increment<<<1, 32>>>(mapped, 4);
  OK(cudaDeviceSynchronize());
  CHECK(stack[3] == 42);
  OK(cudaMalloc(&device, 4));
  cudaPointerAttributes a;
  OK(cudaPointerGetAttributes(&a, device));
  CHECK(a.type == cudaMemoryTypeDevice && a.device == 0);
  OK(cudaPointerGetAttributes(&a, managed + 3));
  CHECK(a.type == cudaMemoryTypeManaged && a.hostPointer == managed + 3);
  OK(cudaPointerGetAttributes(&a, pinned));
  CHECK(a.type == cudaMemoryTypeHost);
  OK(cudaPointerGetAttributes(&a, &device));
  CHECK(a.type == cudaMemoryTypeUnregistered);
  OK(cudaHostUnregister(stack));
  EXPECT(cudaErrorHostMemoryNotRegistered, cudaHostUnregister(stack));
  EXPECT(cudaErrorInvalidValue, cudaFree(pinned));
  OK(cudaFreeHost(pinned));
  OK(cudaFree(managed));
  OK(cudaFree(device));
  (void)cudaGetLastError();
}

void pools() {
  cudaMemPool_t pool, mine;
  OK(cudaDeviceGetDefaultMemPool(&pool, 0));
  uint64_t threshold = 1 << 20, got = 0;
  OK(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold));
  OK(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &got));
  CHECK(got == threshold);
  cudaMemPoolProps properties = {};
  properties.allocType = cudaMemAllocationTypePinned;
  properties.location = {cudaMemLocationTypeDevice, 0};
  OK(cudaMemPoolCreate(&mine, &properties));
  cudaStream_t stream;
  OK(cudaStreamCreate(&stream));
  int *a, *b;
  OK(cudaMallocAsync(&a, 400, stream));
  OK(cudaMallocFromPoolAsync(&b, 1000, mine, stream));
  OK(cudaMemsetAsync(b, 0, 1000, stream));
  OK(cudaMemPoolGetAttribute(mine, cudaMemPoolAttrUsedMemCurrent, &got));
  CHECK(got >= 1000);
  OK(cudaFreeAsync(a, stream));
  OK(cudaFreeAsync(b, stream));
  OK(cudaStreamSynchronize(stream));
  OK(cudaMemPoolGetAttribute(mine, cudaMemPoolAttrUsedMemCurrent, &got));
  CHECK(got == 0);
  OK(cudaMemPoolTrimTo(mine, 0));
  OK(cudaMemPoolDestroy(mine));
  OK(cudaStreamDestroy(stream));
  size_t available, total;
  OK(cudaMemGetInfo(&available, &total));
  CHECK(available <= total && total > size_t{1} << 30);
}

int main() {
  copies();
  pitched();
  symbols();
  kinds();
  pools();
  OK(cudaDeviceReset());
  std::printf("ok\n");
}
