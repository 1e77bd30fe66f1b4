// softmax.cu: softmax of every row of a matrix.
//
// Contract (softmax.h)
//   x [rows, cols]   y [rows, cols]   y[r, c] = exp(x[r, c] - m) / sum over c of exp(x[r, c] - m)
//   with m = the row's maximum ("safe" softmax: without it exp overflows above 88.7).
//   Row-major: elements of a row are adjacent, rows are ldx, ldy apart. Any rows, any cols.
//   As in torch: a row with a NaN or +inf, or with -inf only, becomes all NaN. fmaxf skips a NaN,
//   but the NaN reaches the sum, and from there every element.
//   fp32 up to online; from vectorized on, fp32, fp64, fp16 and bf16, computed in fp32 (fp64 in
//   fp64), with options: scale * x for x, log(y) for y, and lse = log(sum(exp(scale * x))).
//
// Rungs                                                         requested fp32 bytes per element
//   naive             one thread per row, three passes                  16
//   block_per_row     one block per row, tree reductions                16
//   coarsened         several elements per thread per trip              16
//   warp_shuffles     reductions by shuffles                            16
//   cub               reductions by CUB, for comparison                 16
//   online            maximum and sum in one pass                       12
//   vectorized        16-byte loads and stores, any alignment           12
//   warp_per_row      a warp for a short row, no barrier                12
//   row_in_registers  the row stays in registers                         8
//   cluster           a long row in the shared memory of a cluster       8
//   cluster_pipelined loads the next row while writing one               8
#include "softmax.cuh"

// ------------------------------------------------------------------------------------------------
// naive: one thread per row (fp32)
// Idea     The definition: a thread walks its row for the maximum, again for the sum, and a third
//          time to write.
// Changes  First rung.
// Bytes    per element 12 read + 4 written = 16 requested (floor: 8), 2 exp.
//          The 32 lanes of a warp read 32 rows: 32 sectors of 32 B for 128 B requested.
// Shape    256 rows per block, 0 B smem, 0 __syncthreads.
// Trap     1024 rows are 4 blocks: most SMs of a large GPU are idle, however long the rows
//          are.
// Next     One block per row: neighbouring lanes on neighbouring floats, and rows * 256 threads.
constexpr int NAIVE_NUM_THREADS = 256;  // tunable: 64, 128, 256, 512, 1024

__global__ void softmax_naive_kernel(const Softmax<float> p) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * NAIVE_NUM_THREADS + threadIdx.x;
  if (row >= p.rows) return;
  const float* x = p.x + row * p.ldx;
  float* y = p.y + row * p.ldy;

  float m = -INFINITY;
  for (int col = 0; col < p.cols; ++col) m = fmaxf(m, x[col]);

  float sum = 0.0f;
  for (int col = 0; col < p.cols; ++col) sum += expf(x[col] - m);

  const float inverse = 1.0f / sum;
  for (int col = 0; col < p.cols; ++col) y[col] = expf(x[col] - m) * inverse;
}

static void softmax_naive(const SoftmaxProblem& p, cudaStream_t stream) {
  for_each_slice<float>(p, [&](const Softmax<float>& s) {
    const auto grid = static_cast<unsigned>(ceil_div<int64_t>(s.rows, NAIVE_NUM_THREADS));
    softmax_naive_kernel<<<grid, NAIVE_NUM_THREADS, 0, stream>>>(s);
    CUDA_CHECK_LAUNCH(softmax_naive_kernel);
  });
}

// ------------------------------------------------------------------------------------------------
// block_per_row: one block per row, tree reductions in shared memory (fp32)
// Idea     Thread t handles columns t, t + NUM_THREADS, ...; its partial maximum and sum are
//          combined with those of the others in a tree of log2(NUM_THREADS) levels.
//
//          level 1   0 1 2 3 4 5 6 7      thread t < 4 takes t + 4
//          level 2   0 1 2 3              thread t < 2 takes t + 2
//          level 3   0 1                  thread 0 takes 1; smem[0] is the result
//
// Changes  vs naive: a block shares the row; still three passes.
// Bytes    per element 12 read + 4 written = 16 requested (floor: 8), 2 exp. A warp loads 32
//          adjacent floats: 4 sectors for 128 B requested (naive: 32).
// Shape    256 threads per row, 1 KiB smem, 2 reductions of 2 + log2(256) = 10 __syncthreads each.
// Trap     All threads must read smem[0] before the second reduction writes it: the last barrier
//          looks redundant and is not.
// Next     Each trip of a thread waits for a single load: coarsened has several in flight.
constexpr int BLOCK_PER_ROW_NUM_THREADS = 256;  // tunable: 64, 128, 256, 512, 1024

// Reduces the values of all threads of the block by op; every thread gets the result.
template <int NUM_THREADS, class Op>
__device__ float block_reduce_tree(float value, float (&smem)[NUM_THREADS], Op op) {
  static_assert((NUM_THREADS & (NUM_THREADS - 1)) == 0, "the tree halves a power of two");
  const int t = threadIdx.x;
  smem[t] = value;
  __syncthreads();  // every partial result is in smem
  for (int half = NUM_THREADS / 2; half > 0; half /= 2) {
    if (t < half) smem[t] = op(smem[t], smem[t + half]);
    __syncthreads();  // this level is complete before the next one reads it
  }
  const float result = smem[0];
  __syncthreads();  // all threads have the result before smem is used again
  return result;
}

__global__ void softmax_block_per_row_kernel(const Softmax<float> p) {
  constexpr int NUM_THREADS = BLOCK_PER_ROW_NUM_THREADS;
  __shared__ float smem[NUM_THREADS];
  const float* x = p.x + blockIdx.x * p.ldx;
  float* y = p.y + blockIdx.x * p.ldy;

  float m = -INFINITY;
  for (int col = threadIdx.x; col < p.cols; col += NUM_THREADS) m = fmaxf(m, x[col]);
  m = block_reduce_tree(m, smem, Max());

  float sum = 0.0f;
  for (int col = threadIdx.x; col < p.cols; col += NUM_THREADS) sum += expf(x[col] - m);
  sum = block_reduce_tree(sum, smem, Add());

  const float inverse = 1.0f / sum;
  for (int col = threadIdx.x; col < p.cols; col += NUM_THREADS) {
    y[col] = expf(x[col] - m) * inverse;
  }
}

static void softmax_block_per_row(const SoftmaxProblem& p, cudaStream_t stream) {
  for_each_slice<float>(p, [&](const Softmax<float>& s) {
    const auto grid = static_cast<unsigned>(s.rows);
    softmax_block_per_row_kernel<<<grid, BLOCK_PER_ROW_NUM_THREADS, 0, stream>>>(s);
    CUDA_CHECK_LAUNCH(softmax_block_per_row_kernel);
  });
}

// ------------------------------------------------------------------------------------------------
// coarsened: several elements per thread per trip (fp32)
// Idea     A thread first issues COARSENING independent loads, then uses them: their latencies
//          overlap.
//
//          trip 1   | t: element 0 | t: element 1 | ... |     each box NUM_THREADS columns wide,
//          trip 2   | t: element 0 | ...                      so a warp's load stays coalesced
//
// Changes  vs block_per_row: each pass walks the row in trips of COARSENING elements, then takes
//          the rest one by one. nvcc also unrolls the plain loops, so about as many instructions
//          run; but it must not move a load across a store to y, which might alias x. In the third
//          pass only this rung has several loads in flight.
// Bytes    16 requested per element, as before (floor: 8), 2 exp.
// Shape    256 threads per row, 4 loads in flight per thread, 1 KiB smem, 20 __syncthreads.
// Trap     A thread on adjacent floats (4t, 4t + 1, ...) would spread a warp's load over 512 B and
//          use a quarter of them at a time.
// Next     x is still read three times, and shared memory carries values that the lanes of a warp
//          could exchange by shuffles.
constexpr int COARSENED_NUM_THREADS = 256;  // tunable: 64, 128, 256, 512, 1024
constexpr int COARSENED_COARSENING = 4;     // tunable: 1, 2, 4, 8

// Calls use(col, x[col]) for every column of this thread. A full trip needs no check per element.
template <int NUM_THREADS, int COARSENING, class Use>
__device__ void walk_row(const float* x, int cols, Use use) {
  int col = threadIdx.x;
  for (; col + (COARSENING - 1) * NUM_THREADS < cols; col += COARSENING * NUM_THREADS) {
    float x_frag[COARSENING];
#pragma unroll
    for (int i = 0; i < COARSENING; ++i) x_frag[i] = x[col + i * NUM_THREADS];
#pragma unroll
    for (int i = 0; i < COARSENING; ++i) use(col + i * NUM_THREADS, x_frag[i]);
  }
  for (; col < cols; col += NUM_THREADS) use(col, x[col]);
}

__global__ void softmax_coarsened_kernel(const Softmax<float> p) {
  constexpr int NUM_THREADS = COARSENED_NUM_THREADS;
  constexpr int COARSENING = COARSENED_COARSENING;
  __shared__ float smem[NUM_THREADS];
  const float* x = p.x + blockIdx.x * p.ldx;
  float* y = p.y + blockIdx.x * p.ldy;

  float m = -INFINITY;
  walk_row<NUM_THREADS, COARSENING>(x, p.cols, [&](int, float v) { m = fmaxf(m, v); });
  m = block_reduce_tree(m, smem, Max());

  float sum = 0.0f;
  walk_row<NUM_THREADS, COARSENING>(x, p.cols, [&](int, float v) { sum += expf(v - m); });
  sum = block_reduce_tree(sum, smem, Add());

  const float inverse = 1.0f / sum;
  walk_row<NUM_THREADS, COARSENING>(x, p.cols,
                                    [&](int col, float v) { y[col] = expf(v - m) * inverse; });
}

static void softmax_coarsened(const SoftmaxProblem& p, cudaStream_t stream) {
  for_each_slice<float>(p, [&](const Softmax<float>& s) {
    const auto grid = static_cast<unsigned>(s.rows);
    softmax_coarsened_kernel<<<grid, COARSENED_NUM_THREADS, 0, stream>>>(s);
    CUDA_CHECK_LAUNCH(softmax_coarsened_kernel);
  });
}

// ------------------------------------------------------------------------------------------------
// warp_shuffles: reductions by shuffles (fp32)
// Idea     The lanes of a warp read each other's registers: five shuffles give all 32 the warp's
//          maximum, without shared memory or a barrier. One value per warp then goes through
//          shared memory, and every warp reduces those by shuffles again (softmax.cuh).
// Changes  vs coarsened: block_reduce_shuffles for block_reduce_tree.
// Bytes    16 requested per element, as before (floor: 8), 2 exp.
// Shape    256 threads per row, 256 B smem, 1 __syncthreads per reduction (tree: 10).
// Trap     Each reduction needs its own smem: with one for both, a fast warp would overwrite a
//          maximum that a slow warp has yet to read, and another barrier would be needed.
// Next     x is read three times. The sum needs a maximum, but a running one will do: online.
constexpr int WARP_SHUFFLES_NUM_THREADS = 256;  // tunable: 64, 128, 256, 512, 1024
constexpr int WARP_SHUFFLES_COARSENING = 4;     // tunable: 1, 2, 4, 8

__global__ void softmax_warp_shuffles_kernel(const Softmax<float> p) {
  constexpr int NUM_THREADS = WARP_SHUFFLES_NUM_THREADS;
  constexpr int COARSENING = WARP_SHUFFLES_COARSENING;
  __shared__ float warp_max[32], warp_sum[32];
  const float* x = p.x + blockIdx.x * p.ldx;
  float* y = p.y + blockIdx.x * p.ldy;

  float m = -INFINITY;
  walk_row<NUM_THREADS, COARSENING>(x, p.cols, [&](int, float v) { m = fmaxf(m, v); });
  m = block_reduce_shuffles(m, warp_max, Max(), -INFINITY);

  float sum = 0.0f;
  walk_row<NUM_THREADS, COARSENING>(x, p.cols, [&](int, float v) { sum += expf(v - m); });
  sum = block_reduce_shuffles(sum, warp_sum, Add(), 0.0f);

  const float inverse = 1.0f / sum;
  walk_row<NUM_THREADS, COARSENING>(x, p.cols,
                                    [&](int col, float v) { y[col] = expf(v - m) * inverse; });
}

static void softmax_warp_shuffles(const SoftmaxProblem& p, cudaStream_t stream) {
  for_each_slice<float>(p, [&](const Softmax<float>& s) {
    const auto grid = static_cast<unsigned>(s.rows);
    softmax_warp_shuffles_kernel<<<grid, WARP_SHUFFLES_NUM_THREADS, 0, stream>>>(s);
    CUDA_CHECK_LAUNCH(softmax_warp_shuffles_kernel);
  });
}

// ------------------------------------------------------------------------------------------------
// online: the maximum and the sum in one pass (fp32)
// Idea     Carry (m, l), where l is the sum of exp(x - m) so far. When a larger element comes,
//          exp(x - m_new) = exp(x - m) * exp(m - m_new) for everything summed so far:
//
//            m_new = max(m, x)      l = l * exp(m - m_new) + exp(x - m_new)
//
//          Two parts of a row merge in the same way, so a tree of pairs (m, l) reduces the block.
//          (Milakov and Gimelshein, Online normalizer calculation for softmax, 2018.)
// Changes  vs warp_shuffles: passes 1 and 2 become one, as do the two reductions. From here on
//          exp(d) is 2^(log2(e) * d), a single instruction of the special function unit.
// Bytes    8 read + 4 written = 12 requested per element (floor: 8), 3 exp instead of 2.
// Shape    256 threads per row, 256 B smem, 1 __syncthreads.
// Trap     A thread with no elements, or only -inf, would have m = -inf, and merging two of them
//          needs exp(-inf + inf) = NaN. Here m starts at the lowest finite number and stays finite.
// Next     A lane still requests 4 bytes at a time: four times as many instructions as needed.
constexpr int ONLINE_NUM_THREADS = 256;  // tunable: 64, 128, 256, 512, 1024
constexpr int ONLINE_COARSENING = 4;     // tunable: 1, 2, 4, 8

__global__ void softmax_online_kernel(const Softmax<float> p) {
  constexpr int NUM_THREADS = ONLINE_NUM_THREADS;
  constexpr int COARSENING = ONLINE_COARSENING;
  __shared__ Online<float> smem[32];
  const float* x = p.x + blockIdx.x * p.ldx;
  float* y = p.y + blockIdx.x * p.ldy;

  auto row = Online<float>::nothing();
  walk_row<NUM_THREADS, COARSENING>(x, p.cols, [&](int, float v) {
    const float one[] = {v};
    row.add(one, p.rate);
  });
  row = block_reduce_shuffles(row, smem, Merge<float>{p.rate}, Online<float>::nothing());

  const float inverse = row.l < INFINITY ? 1.0f / row.l : NAN;  // +inf in the row: no softmax
  walk_row<NUM_THREADS, COARSENING>(
      x, p.cols, [&](int col, float v) { y[col] = exponential(p.rate, v - row.m) * inverse; });
}

static void softmax_online(const SoftmaxProblem& p, cudaStream_t stream) {
  for_each_slice<float>(p, [&](const Softmax<float>& s) {
    const auto grid = static_cast<unsigned>(s.rows);
    softmax_online_kernel<<<grid, ONLINE_NUM_THREADS, 0, stream>>>(s);
    CUDA_CHECK_LAUNCH(softmax_online_kernel);
  });
}

// ------------------------------------------------------------------------------------------------
// Rungs in other files, so that an edit to one compiles in a second or two.

void softmax_cub(const SoftmaxProblem& p, cudaStream_t stream);

void softmax_vectorized(const SoftmaxProblem& p, cudaStream_t stream);
void softmax_warp_per_row(const SoftmaxProblem& p, cudaStream_t stream);
const char* softmax_warp_per_row_declines(const SoftmaxProblem& p);

void softmax_row_in_registers(const SoftmaxProblem& p, cudaStream_t stream);
const char* softmax_row_in_registers_declines(const SoftmaxProblem& p);

void softmax_cluster(const SoftmaxProblem& p, cudaStream_t stream);
void softmax_cluster_pipelined(const SoftmaxProblem& p, cudaStream_t stream);
const char* softmax_cluster_declines(const SoftmaxProblem& p);  // for both

// ------------------------------------------------------------------------------------------------
// The ladder, slowest idea first. A line here is all it takes to register a rung.
static constexpr Needs ALL = {.dtypes = "float32 float64 float16 bfloat16",
                              .options = "scale log lse"};
static constexpr Needs ALL_SM90 = {
    .dtypes = ALL.dtypes, .options = ALL.options, .compute_capability = 90};
static constexpr Rung<SoftmaxProblem> RUNGS[] = {
    {"naive", softmax_naive},
    {"block_per_row", softmax_block_per_row},
    {"coarsened", softmax_coarsened},
    {"warp_shuffles", softmax_warp_shuffles},
    {"cub", softmax_cub},
    {"online", softmax_online},
    {"vectorized", softmax_vectorized, ALL},
    {"warp_per_row", softmax_warp_per_row, ALL, softmax_warp_per_row_declines},
    {"row_in_registers", softmax_row_in_registers, ALL, softmax_row_in_registers_declines},
    {"cluster", softmax_cluster, ALL_SM90, softmax_cluster_declines},
    {"cluster_pipelined", softmax_cluster_pipelined, ALL_SM90, softmax_cluster_declines},
};

Ladder<SoftmaxProblem> softmax_ladder() { return RUNGS; }
