// memory.cu: what programs do wrong with the device's memory, each beside a correct twin.
//
// The argument selects a case. A wrong one is reported at the line marked WRONG with its name.
#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <thread>
#include <vector>

constexpr int N = 1000;
constexpr size_t BYTES = N * sizeof(float);

__constant__ float coefficients[4];
__device__ int counter;

__global__ void twice(float* out, const float* in, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = 2 * in[i];  // WRONG twice
}
__global__ void fill(float* out) { out[blockIdx.x * blockDim.x + threadIdx.x] = 1; }

std::vector<float> host(N, 1.0f);

float* device(size_t bytes = BYTES) {
  float* d;
  cudaMalloc(&d, bytes);  // ALLOCATED
  return d;
}
float* filled() {
  float* d = device();
  cudaMemcpy(d, host.data(), BYTES, cudaMemcpyHostToDevice);
  return d;
}
void finish(cudaError_t wanted = cudaSuccess) {
  cudaError_t error = cudaDeviceSynchronize();
  cudaError_t last = cudaGetLastError();
  std::printf("%s\n", cudaGetErrorName(error != cudaSuccess ? error : last));
  std::exit((error != cudaSuccess ? error : last) == wanted ? 0 : 3);
}

// ---- Host code that uses device memory ----------------------------------------------------------

void read_on_host() {
  float* d = filled();
  float sum = 0;
  for (int i = 0; i < N; i++) sum += d[i];  // WRONG read_on_host
  std::printf("%g\n", sum);
}
void write_on_host() {
  float* d = device();
  d[3] = 1;  // WRONG write_on_host
}
void memcpy_on_host() {
  float* d = filled();
  std::memcpy(host.data(), d, BYTES);  // WRONG memcpy_on_host
}
__attribute__((noinline)) float last_of(const float* x, int n) {
  return x[n - 1];  // WRONG in_a_function
}
void in_a_function() {
  float last = last_of(filled(), N);  // CALLER in_a_function
  std::printf("%g\n", last);
}
void free_on_host() {
  std::free(filled());  // WRONG free_on_host
}
void read_after_free() {
  float* d = filled();
  cudaFree(d);                // FREED read_after_free
  std::printf("%g\n", d[5]);  // WRONG read_after_free
}
void allowed_on_host() {
  float *managed, *pinned, *mapped;
  cudaMallocManaged(&managed, BYTES);
  cudaHostAlloc(&pinned, BYTES, cudaHostAllocMapped);
  cudaHostGetDevicePointer(&mapped, pinned, 0);
  cudaHostRegister(host.data(), BYTES, cudaHostRegisterDefault);
  float* d = filled();
  for (int i = 0; i < N; i++) managed[i] = pinned[i] = 1;
  twice<<<4, 256>>>(mapped, managed, N);
  twice<<<4, 256>>>(managed, d, N);
  twice<<<4, 256>>>(host.data(), d, N);
  cudaDeviceSynchronize();
  finish(managed[N - 1] == 2 && pinned[N - 1] == 2 && host[N - 1] == 2 ? cudaSuccess
                                                                       : cudaErrorUnknown);
}
void several_threads() {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; t++) {
    threads.emplace_back([] {
      for (int k = 0; k < 20; k++) {
        std::vector<float> back(N);
        float *in = filled(), *out = device();
        twice<<<4, 256>>>(out, in, N);
        cudaMemcpy(back.data(), out, BYTES, cudaMemcpyDeviceToHost);
        cudaFree(in);
        cudaFree(out);
        if (back[N - 1] != 2) std::exit(4);
      }
    });
  }
  for (std::thread& t : threads) t.join();
  finish();
}

// ---- Copies and frees ---------------------------------------------------------------------------

void swapped() {
  float* d = filled();
  cudaMemcpy(host.data(), d, BYTES, cudaMemcpyHostToDevice);  // WRONG swapped
  finish();
}
void other_direction() {
  float* d = device();
  cudaMemcpy(d, host.data(), BYTES, cudaMemcpyDeviceToHost);  // WRONG other_direction
  finish();
}
void symbol_by_name() {
  cudaMemcpy(coefficients, host.data(), 16, cudaMemcpyHostToDevice);  // WRONG symbol_by_name
  finish();
}
void symbol_inside() {
  cudaMemcpyToSymbol(coefficients, host.data(), 16);
  cudaMemcpy(host.data(), &coefficients[2], 8, cudaMemcpyDefault);  // WRONG symbol_inside
  finish();
}
void symbol_to_kernel() {
  twice<<<1, 4>>>(device(), coefficients, 4);
  finish();
}
void host_pointer() {
  twice<<<1, 4>>>(device(), host.data(), 4);
  finish();
}
void symbol_right() {
  cudaMemcpyToSymbol(coefficients, host.data(), 16);
  void* address;
  cudaGetSymbolAddress(&address, coefficients);
  cudaMemcpy(host.data(), address, 16, cudaMemcpyDeviceToHost);
  twice<<<1, 4>>>(device(), static_cast<float*>(address), 4);
  finish();
}
void not_a_symbol() {
  float* d = filled();
  cudaMemcpyToSymbol(d, host.data(), 16);  // WRONG not_a_symbol
  finish();
}
void past_the_symbol() {
  cudaMemcpyToSymbol(coefficients, host.data(), 20);  // WRONG past_the_symbol
  finish();
}
void to_null() {
  float* d = nullptr;
  cudaMemcpy(d, host.data(), BYTES, cudaMemcpyHostToDevice);  // WRONG to_null
  finish();
}
void too_many_bytes() {
  float* d = device();
  cudaMemcpy(d, host.data(), BYTES + 4, cudaMemcpyHostToDevice);  // WRONG too_many_bytes
  finish();
}
void copy_after_free() {
  float* d = filled();
  cudaFree(d);                                                // FREED copy_after_free
  cudaMemcpy(host.data(), d, BYTES, cudaMemcpyDeviceToHost);  // WRONG copy_after_free
  finish();
}
void set_after_free() {
  float* d = filled();
  cudaFree(d);              // FREED set_after_free
  cudaMemset(d, 0, BYTES);  // WRONG set_after_free
  finish();
}
void free_twice() {
  float* d = filled();
  cudaFree(d);  // FREED free_twice
  cudaFree(d);  // WRONG free_twice
  finish();
}
void free_inside() {
  float* d = filled();
  cudaFree(d + 3);  // WRONG free_inside
  finish();
}
void free_pinned() {
  float* p;
  cudaMallocHost(&p, BYTES);
  cudaFree(p);  // WRONG free_pinned
  finish();
}
void free_foreign() {
  void* p = std::malloc(10);
  cudaFree(p);  // WRONG free_foreign
  finish();
}

// ---- Kernels ------------------------------------------------------------------------------------

void kernel_after_free() {
  float *in = filled(), *out = device();
  cudaFree(in);  // FREED kernel_after_free
  twice<<<4, 256>>>(out, in, N);
  finish();
}
__global__ void element(unsigned char* x, int row, int columns) {
  x[row * columns + int(threadIdx.x)] = 1;  // WRONG overflow
}
__global__ void element_64(unsigned char* x, int row, int columns) {
  x[size_t(row) * columns + threadIdx.x] = 1;
}
void overflow() {
  unsigned char* d;
  cudaMalloc(&d, size_t{50000} * 50000);
  element<<<1, 32>>>(d, 49999, 50000);
  finish();
}
void overflow_right() {
  unsigned char* d;
  cudaMalloc(&d, size_t{50000} * 50000);
  element_64<<<1, 32>>>(d, 49999, 50000);
  finish();
}
__global__ void beyond_int(float* x, int last) {
  x[last + 1 + int(threadIdx.x)] = 1;  // WRONG past_the_last_int
}
void past_the_last_int() {
  beyond_int<<<1, 32>>>(device(), 0x7fffffff);
  finish();
}
__global__ void store_at(float* x, int i) {
  x[i] = 1;  // WRONG next_allocation
}
void next_allocation() {
  float *a = device(), *b = device();
  store_at<<<1, 1>>>(a, static_cast<int>(b + 10 - a));
  finish();
}
void own_allocation() {
  float *a = device(), *b = device();
  store_at<<<1, 1>>>(a, N - 1);
  store_at<<<1, 1>>>(b + N / 2, -10);
  store_at<<<1, 1>>>(b + N, -1);
  finish();
}
__device__ float first[32], second[32];
__global__ void store_in_first(int i) {
  second[threadIdx.x] = 0;
  first[i + threadIdx.x] = 1;  // WRONG next_variable
}
void next_variable() {
  void *a, *b;
  cudaGetSymbolAddress(&a, first);
  cudaGetSymbolAddress(&b, second);
  store_in_first<<<1, 1>>>(static_cast<int>(static_cast<float*>(b) + 2 - static_cast<float*>(a)));
  finish();
}
void own_variable() {
  store_in_first<<<1, 2>>>(30);
  finish();
}
__global__ void neighbours(float* out, int from, bool last) {
  __shared__ float tile[32];
  __shared__ float sums[32];
  tile[threadIdx.x] = sums[threadIdx.x] = 1;
  __syncthreads();
  float* p = last ? sums : tile;                                 // either is right
  out[threadIdx.x] = p[threadIdx.x] + tile[from + threadIdx.x];  // WRONG next_array
  if (threadIdx.x == 0) out[32] = sums[0];
}
void next_array() {
  neighbours<<<1, 32>>>(device(), 8, true);
  finish();
}
void own_array() {
  neighbours<<<1, 32>>>(device(), 0, true);
  finish();
}
__global__ void static_then_dynamic(float* out, int from) {
  __shared__ char flags[33];
  extern __shared__ float4 row[];
  flags[threadIdx.x] = 1;
  row[threadIdx.x] = make_float4(1, 2, 3, 4);
  __syncthreads();
  out[threadIdx.x] = row[31 - threadIdx.x].x + flags[from + threadIdx.x];  // WRONG into_the_gap
}
void into_the_gap() {
  static_then_dynamic<<<1, 32, 512>>>(device(), 2);
  finish();
}
void before_the_gap() {
  static_then_dynamic<<<1, 32, 512>>>(device(), 0);
  finish();
}
__global__ void odd_size(float* out, int from) {
  __shared__ float tile[33];
  tile[threadIdx.x] = 1;
  if (threadIdx.x == 0) tile[32] = 2;
  __syncthreads();
  out[threadIdx.x] = tile[from + threadIdx.x];  // WRONG past_the_last_array
}
void past_the_last_array() {
  odd_size<<<1, 32>>>(device(), 2);
  finish();
}
void up_to_the_last() {
  odd_size<<<1, 32>>>(device(), 1);
  finish();
}
__global__ void heap(float* out, int size, bool frees) {
  float* x = static_cast<float*>(malloc(size * sizeof(float)));
  float* kept = static_cast<float*>(malloc(4 * sizeof(float)));
  if (frees) free(x);
  x[3] = threadIdx.x;  // WRONG heap
  kept[3] = 1;
  out[threadIdx.x] = kept[3];
  if (!frees) free(x);
  free(kept);
}
void heap_after_free() {
  heap<<<1, 32>>>(device(), 4, true);
  finish();
}
void heap_too_small() {
  heap<<<1, 32>>>(device(), 3, false);
  finish();
}
void heap_right() {
  heap<<<2, 64>>>(device(), 4, false);
  finish();
}

// ---- Copies of what nobody has written ----------------------------------------------------------

void rounded_down() {
  float *in = filled(), *out = device();
  twice<<<N / 256, 256>>>(out, in, N);
  cudaMemcpy(host.data(), out, BYTES, cudaMemcpyDeviceToHost);  // WRONG rounded_down
  finish();
}
void no_guard() {
  float* out = device();
  fill<<<N / 128, 128>>>(out);
  cudaMemcpy(host.data() + 900, out + 900, 400, cudaMemcpyDeviceToHost);  // WRONG no_guard
  finish();
}
void one_block() {
  float *in = filled(), *out = device();
  twice<<<1, 256>>>(out, in, N);
  cudaMemcpyAsync(host.data(), out, BYTES, cudaMemcpyDeviceToHost);  // WRONG one_block
  finish();
}
void rounded_up() {
  float *in = filled(), *out = device();
  twice<<<(N + 255) / 256, 256>>>(out, in, N);
  cudaMemcpy(host.data(), out, BYTES, cudaMemcpyDeviceToHost);
  finish();
}
__global__ void fours(float4* out) {
  out[blockIdx.x * blockDim.x + threadIdx.x] = make_float4(1, 2, 3, 4);
}
void vectors() {
  float* out = device();
  fours<<<N / 4 / 64, 64>>>(reinterpret_cast<float4*>(out));
  cudaMemcpy(host.data(), out, BYTES, cudaMemcpyDeviceToHost);  // WRONG vectors
  finish();
}
constexpr int ROWS = 20, COLUMNS = 50, TILE = 16;
__global__ void matrix(float* out, int rows, int columns, int pitch) {
  int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
  if (x < columns && y < rows) out[y * pitch + x] = 1;
}
void run_matrix(int blocks_x, int blocks_y) {
  float* out = device();
  matrix<<<dim3(blocks_x, blocks_y), dim3(TILE, TILE)>>>(out, ROWS, COLUMNS, COLUMNS);
  cudaMemcpy(host.data(), out, BYTES, cudaMemcpyDeviceToHost);  // WRONG matrix
  finish();
}
void columns_missing() { run_matrix(COLUMNS / TILE, (ROWS + TILE - 1) / TILE); }
void rows_missing() { run_matrix((COLUMNS + TILE - 1) / TILE, ROWS / TILE); }
void both_missing() { run_matrix(COLUMNS / TILE, ROWS / TILE); }
void matrix_right() { run_matrix((COLUMNS + TILE - 1) / TILE, (ROWS + TILE - 1) / TILE); }
void other_pointer() {
  float *in = filled(), *out = device();
  twice<<<4, 256>>>(in, in, N);
  cudaMemcpy(host.data(), out, BYTES, cudaMemcpyDeviceToHost);  // WRONG other_pointer
  finish();
}
// Rows with padding, copied as a whole, row by row, and with room that a kernel knows nothing of.
void padded() {
  char* out;
  size_t pitch;
  std::vector<char> back(512 * ROWS);
  cudaMallocPitch(&out, &pitch, 480, ROWS);
  matrix<<<dim3(15, 3), dim3(8, 8)>>>(reinterpret_cast<float*>(out), ROWS, 120, int(pitch) / 4);
  cudaMemcpy(back.data(), out, pitch * ROWS, cudaMemcpyDeviceToHost);
  cudaMemcpy2D(back.data(), 480, out, pitch, 480, ROWS, cudaMemcpyDeviceToHost);
  float* wide = device();
  matrix<<<dim3(6, 5), dim3(8, 4)>>>(wide, ROWS, 48, COLUMNS);
  cudaMemcpy(host.data(), wide, BYTES, cudaMemcpyDeviceToHost);
  finish();
}
struct Pair {
  char c;
  double d;
};
__global__ void pairs(Pair* out) {
  out[threadIdx.x].c = 1;
  out[threadIdx.x].d = 2;
}
void padding_of_structs() {
  Pair *out, back[64];
  cudaMalloc(&out, sizeof back);
  pairs<<<1, 64>>>(out);
  cudaMemcpy(back, out, sizeof back, cudaMemcpyDeviceToHost);
  finish();
}
// What a filter keeps, in front of what it leaves unused.
__global__ void keep_even(float* out, int* count, const float* in, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    if (i % 2 == 0) out[atomicAdd(count, 1)] = in[i];
  }
}
void filter() {
  float *in = filled(), *out = device();
  int* count;
  cudaMalloc(&count, 4);
  cudaMemset(count, 0, 4);
  keep_even<<<2, 125>>>(out, count, in, N);
  cudaMemcpy(host.data(), out, BYTES, cudaMemcpyDeviceToHost);
  cudaMemset(count, 0, 4);
  float* other = device();
  keep_even<<<2, 250>>>(other, count, in, N);
  cudaMemcpy(host.data(), other, BYTES, cudaMemcpyDeviceToHost);
  finish();
}
__global__ void inner(float* out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i > 0 && i < n - 1) out[i] = 1;
}
void borders() {
  float* out = device();
  inner<<<4, 256>>>(out, N);
  cudaMemcpy(host.data(), out, BYTES, cudaMemcpyDeviceToHost);
  finish();
}
// Only what was written; and a launch whose threads all have an element, in a larger buffer.
void parts() {
  float *in = filled(), *out = device();
  twice<<<1, 256>>>(out, in, 256);
  cudaMemcpy(host.data(), out, 1024, cudaMemcpyDeviceToHost);
  cudaMemcpy(host.data(), out, BYTES, cudaMemcpyDeviceToHost);
  finish();
}
// Nothing ran: the time of a copy is measured.
void bandwidth() {
  float* d = device();
  cudaMemcpy(host.data(), d, BYTES, cudaMemcpyDeviceToHost);
  finish();
}

#define CASE(name) {#name, name}
const std::map<std::string, void (*)()> CASES = {
    CASE(read_on_host),
    CASE(write_on_host),
    CASE(memcpy_on_host),
    CASE(in_a_function),
    CASE(free_on_host),
    CASE(read_after_free),
    CASE(allowed_on_host),
    CASE(several_threads),
    CASE(swapped),
    CASE(other_direction),
    CASE(symbol_by_name),
    CASE(symbol_inside),
    CASE(symbol_to_kernel),
    CASE(host_pointer),
    CASE(symbol_right),
    CASE(not_a_symbol),
    CASE(past_the_symbol),
    CASE(to_null),
    CASE(too_many_bytes),
    CASE(copy_after_free),
    CASE(set_after_free),
    CASE(free_twice),
    CASE(free_inside),
    CASE(free_pinned),
    CASE(free_foreign),
    CASE(kernel_after_free),
    CASE(overflow),
    CASE(overflow_right),
    CASE(past_the_last_int),
    CASE(next_allocation),
    CASE(own_allocation),
    CASE(next_variable),
    CASE(own_variable),
    CASE(next_array),
    CASE(own_array),
    CASE(into_the_gap),
    CASE(before_the_gap),
    CASE(past_the_last_array),
    CASE(up_to_the_last),
    CASE(heap_after_free),
    CASE(heap_too_small),
    CASE(heap_right),
    CASE(rounded_down),
    CASE(no_guard),
    CASE(one_block),
    CASE(rounded_up),
    CASE(vectors),
    CASE(columns_missing),
    CASE(rows_missing),
    CASE(both_missing),
    CASE(matrix_right),
    CASE(other_pointer),
    CASE(padded),
    CASE(padding_of_structs),
    CASE(filter),
    CASE(borders),
    CASE(parts),
    CASE(bandwidth),
};

int main(int, char** arguments) { CASES.at(arguments[1])(); }
