// functions.cu: what device code may call: itself, through a pointer, a virtual member, printf, malloc.
#include "common.h"

// ---- Recursion: its depth differs from lane to lane.

__device__ __noinline__ int ackermann(int m, int n) {
  if (m == 0) return n + 1;
  if (n == 0) return ackermann(m - 1, 1);
  return ackermann(m - 1, ackermann(m, n - 1));
}

__global__ void recursion_kernel(int* out) {
  out[threadIdx.x] = ackermann(threadIdx.x % 3, threadIdx.x % 5);
}

void recursion() {
  OK(cudaDeviceSetLimit(cudaLimitStackSize,
                        4096));  // the compiler cannot know the depth
  int* out = zeros<int>(32);
  recursion_kernel<<<1, 32>>>(out);
  finish();
  for (int i = 0; i < 32; i++) {
    int m = i % 3, n = i % 5;
    CHECK(out[i] == (m == 0 ? n + 1 : m == 1 ? n + 2 : 2 * n + 3));
  }
}

// ---- Function pointers: a table of operations, chosen by each thread for itself.

using Operation = float (*)(float, float);
__device__ __noinline__ float add(float a, float b) { return a + b; }
__device__ __noinline__ float multiply(float a, float b) { return a * b; }
__device__ __noinline__ float larger(float a, float b) { return a > b ? a : b; }
__device__ Operation const operations[] = {add, multiply, larger};

__global__ void pointer_kernel(const float* in, float* out, Operation chosen_by_host) {
  int i = threadIdx.x;
  out[i] = chosen_by_host(operations[i % 3](in[i], in[i + 1]), 1000);
}

__device__ Operation const host_visible = add;

void pointers() {
  float *in = zeros<float>(65), *out = zeros<float>(64);
  Random random;
  for (int i = 0; i < 65; i++) {
    in[i] = random.uniform();
  }
  Operation operation;  // an address that is only valid on the device
  OK(cudaMemcpyFromSymbol(&operation, host_visible, sizeof operation));
  pointer_kernel<<<1, 64>>>(in, out, operation);
  finish();
  for (int i = 0; i < 64; i++) {
    float a = in[i], b = in[i + 1];
    CHECK(out[i] == (i % 3 == 0 ? a + b : i % 3 == 1 ? a * b : std::fmax(a, b)) + 1000);
  }
}

// ---- Virtual members: objects must be created on the device, where their tables are.

struct Shape {
  __device__ virtual float area() const = 0;
  __device__ virtual ~Shape() {}
};
struct Square : Shape {
  float side;
  __device__ Square(float side) : side(side) {}
  __device__ float area() const override { return side * side; }
};
struct Triangle : Shape {
  float base, height;
  __device__ Triangle(float base, float height) : base(base), height(height) {}
  __device__ float area() const override { return base * height / 2; }
};

__global__ void make_kernel(Shape** shapes) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i % 2) {
    shapes[i] = new Square(i);
  } else {
    shapes[i] = new Triangle(i, 3);
  }
}
__global__ void area_kernel(Shape** shapes, float* areas) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  areas[i] = shapes[i]->area();
  delete shapes[i];
}

void virtual_members() {
  constexpr int n = 96;
  Shape** shapes = zeros<Shape*>(n);
  float* areas = zeros<float>(n);
  make_kernel<<<2, n / 2>>>(shapes);
  area_kernel<<<3, n / 3>>>(shapes, areas);
  finish();
  for (int i = 0; i < n; i++) {
    CHECK(areas[i] == (i % 2 ? i * i : i * 1.5f));
  }
}

// ---- malloc: memory of a block that outlives its kernel.

__global__ void list_kernel(int** lists) {
  __shared__ int* list;
  if (threadIdx.x == 0) list = static_cast<int*>(malloc(blockDim.x * sizeof(int)));
  __syncthreads();  // the address is known
  if (list) list[threadIdx.x] = blockIdx.x * 100 + threadIdx.x;
  if (threadIdx.x == 0) lists[blockIdx.x] = list;
}
__global__ void gather_kernel(int** lists, int* out) {
  out[blockIdx.x * blockDim.x + threadIdx.x] = lists[blockIdx.x][threadIdx.x];
  __syncthreads();  // all threads have read
  if (threadIdx.x == 0) free(lists[blockIdx.x]);
}

void heap() {
  int** lists = zeros<int*>(4);
  int* out = zeros<int>(4 * 50);
  list_kernel<<<4, 50>>>(lists);
  gather_kernel<<<4, 50>>>(lists, out);
  finish();
  for (int i = 0; i < 200; i++) {
    CHECK(out[i] == i / 50 * 100 + i % 50);
  }
}

// ---- printf: its result is the number of arguments.

__global__ void print_kernel(int* results) {
  results[0] = printf("the device says %d, %5.2f, %s and %llx\n", -7, 2.5, "text", 1ull << 40);
}

int main() {
  recursion();
  pointers();
  virtual_members();
  heap();
  int* result = zeros<int>(1);
  print_kernel<<<1, 1>>>(result);
  finish();
  CHECK(*result == 4);
  std::printf("ok: recursion, function pointers, virtual members, malloc, printf\n");
}
