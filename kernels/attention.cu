// attention.cu: O = softmax(scale Q K^T + bias) V over the keys that a query sees: the contract, the
// first rung, and the table of all of them.
//
// Contract (attention.h)
//   Q [B, H, Nq, D]   K [B, Hkv, Nk, D]   V [B, Hkv, Nk, Dv]   any strides between rows, heads, batches
//   O [B, H, Nq, Dv]  LSE [B, H, Nq], the natural logarithm of the sum of exp(score)
//   Which keys a query sees is said by a rule (causal, a window), by a tensor of booleans or of what
//   is added to the scores, or by both. A query with no score above -inf gets O = 0 and LSE = -inf.
//   What a hidden key holds never changes a score; a NaN or inf in its row of V may reach O as 0 * NaN,
//   as in torch. fp16 and bf16 are computed in fp32.
//
// To read the kernels (attention.cuh): p.head(i) has the pointers of one head, p.sees(head, query,
// key) is the mask, Sum<T> the type that is computed in.
//
// Rungs
//   naive                matmul, scale and mask, softmax, matmul: the scores go through memory
//   blocked              the same in three kernels, whose products use tiles
//   fused_row            one kernel, a block per query: a row of scores at a time
//   flash_v1             a tile of scores at a time, keys outside, queries inside
//   warp_dot             queries outside, one score at a time by a warp
//   flash                queries outside, a tile of scores at a time; sums stay in registers
//   flash_registers      tiles as large as a thread's registers allow, copied asynchronously
//   flash_mma            on tensor cores: scores and weights never leave a warp's registers
//   flash_mma_pipelined  ... that do not wait for K and V
//   flash_split_kv       ... for few queries: the keys are divided among blocks
// All but the first are in files of their own, attention_<name>.cu.
#include <type_traits>

#include "attention.cuh"
#include "matmul.h"
#include "softmax.h"

// ------------------------------------------------------------------------------------------------
// naive: the formula, one kernel per operation (any type)
// Idea     S = Q K^T by this project's first matmul, scale and mask, P = softmax(S), O = P V.
// Changes  First rung.
// Bytes    Per score (Nq * Nk of them per head), requested from global memory in addition to the
//          16 D of the products: S written 4, masked 8, softmax 8 + 4, empty rows found 4: 28.
//          16-bit types: P is rounded to them, 4 + 2.
// Shape    2 matmuls per batch, each over all heads; 3 more kernels in all. Scratch memory: 2 *
//          B * H * Nq * Nk floats, 8 GiB at B = 4, H = 16, N = 4096; 16-bit types: 2 bytes more.
// Trap     softmax makes a row of -inf NaN (0 / 0), as it should: the kernel after it, which knows
//          that such a query sees no key, writes 0 there.
// Next     Every product reads two numbers from memory: blocked passes tiles through shared memory.
constexpr int NAIVE_NUM_THREADS = 128;     // tunable: 64, 128, 256
constexpr int64_t MAX_SCORES = 1LL << 60;  // so that their bytes fit 64 bits
constexpr const char* NAIVE_MATMUL = "naive";
constexpr const char* NAIVE_SOFTMAX = "vectorized";  // the first that has every type, and LSE

// One block per row of S [B, H, Nq, Nk]: products become scores, -inf for keys that are not seen.
template <class T>
__global__ void attention_naive_mask_kernel(const Attention<T> p, Sum<T>* S) {
  const int64_t row = blockIdx.x;
  const int query = row % p.Nq;
  const Head<T> head = p.head(row / p.Nq);
  Sum<T>* s = S + row * p.Nk;
  for (int key = threadIdx.x; key < p.Nk; key += NAIVE_NUM_THREADS) {
    const bool sees = p.sees(head, query, key);
    s[key] = sees ? p.scale * s[key] + p.bias(head, query, key) : Sum<T>(-INFINITY);
  }
}

// One warp per row: P, rounded to T from where it was computed; 0 for a query that sees no key.
template <class T>
__global__ void attention_naive_finish_kernel(const Attention<T> p, const Sum<T>* S,
                                              const Sum<T>* P_wide, T* P) {
  constexpr int ROWS = NAIVE_NUM_THREADS / 32;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * ROWS + threadIdx.x / 32;
  if (row >= p.heads() * p.Nq) return;  // the whole warp leaves
  const int lane = threadIdx.x % 32;
  const int64_t first = row * p.Nk;
  bool sees = false;
  for (int key = lane; key < p.Nk; key += 32) sees |= S[first + key] != -INFINITY;
  const bool sees_any = __any_sync(ALL_LANES, sees);
  if (!sees_any && lane == 0) p.LSE[row] = -INFINITY;
  if (std::is_same_v<T, Sum<T>> && sees_any) return;  // P is where it was computed
  for (int key = lane; key < p.Nk; key += 32) {
    P[first + key] = sees_any ? static_cast<T>(P_wide[first + key]) : T(0.0f);
  }
}

// A rung of another ladder, by name.
template <class Problem>
static const Rung<Problem>& rung(const Ladder<Problem>& ladder, const char* name) {
  const Rung<Problem>* found = ladder.find(name);
  if (found == nullptr) {
    throw LaunchError("attention naive needs the rung '%s' of another ladder: there is none", name);
  }
  return *found;
}

// The heads of batch b, [H, N, D], as the matrices of a matmul, [H of K, group, N, D]. Each head of K
// and V serves a group of Q's: where there is but one, it is repeated by a stride of 0.
template <class T>
static View heads_of_batch(View view, int64_t b, int64_t kv_heads) {
  const int64_t group = view.size[1] / kv_heads, stride = view.stride[1];
  view.data = view.as<T>() + b * view.stride[0];
  view.size[0] = kv_heads;
  view.stride[0] = group * stride;
  view.size[1] = group;
  view.stride[1] = group == 1 ? 0 : stride;
  return view;
}

// Each matrix of a view transposed.
static View transposed(View view) {
  std::swap(view.size[2], view.size[3]);
  std::swap(view.stride[2], view.stride[3]);
  return view;
}

// Scores of all heads as one view, contiguous.
template <class T>
static View scores_view(const Attention<T>& p, void* data, DType dtype) {
  const int64_t head = static_cast<int64_t>(p.Nq) * p.Nk;
  return {.data = data,
          .dtype = dtype,
          .size = {p.B, p.H, p.Nq, p.Nk},
          .stride = {p.H * head, head, p.Nk, 1}};
}

// The same as rows of a softmax, [1, 1, B * H * Nq, Nk].
static View rows_of_scores(View view) {
  view.size[2] *= view.size[0] * view.size[1];
  view.size[0] = view.size[1] = 1;
  view.stride[0] = view.stride[1] = 0;
  return view;
}

// Batches one by one; but S and P hold all of them, so scaling, mask and softmax take one launch.
template <class T>
static void launch_naive(const AttentionProblem& problem, cudaStream_t stream) {
  const Attention<T> p = lowered<T>(problem);
  const int64_t rows = p.heads() * p.Nq, kv_heads = problem.K.size[1];
  if (rows == 0) return;
  if (rows > MAX_GRID_X) throw LaunchError("attention naive: B * H * Nq is above 2^31 - 1");
  if (p.Nk > 0 && rows > MAX_SCORES / p.Nk) {
    throw LaunchError("attention naive: B * H * Nq * Nk is above 2^60 scores");
  }
  const DType wide = sizeof(Sum<T>) == 8 ? DType::float64 : DType::float32;
  const size_t wide_bytes = rows * p.Nk * sizeof(Sum<T>);
  const View S = scores_view(p, problem.workspace(wide_bytes), wide);
  const View P_wide = scores_view(p, problem.workspace(wide_bytes), wide);
  const bool is_wide = std::is_same_v<T, Sum<T>>;
  void* narrow = is_wide ? P_wide.data : problem.workspace(rows * p.Nk * sizeof(T));
  const View P = scores_view(p, narrow, problem.Q.dtype);

  const auto& matmul = rung(matmul_ladder(), NAIVE_MATMUL);
  const auto& softmax = rung(softmax_ladder(), NAIVE_SOFTMAX);

  for (int b = 0; b < p.B; ++b) {  // S = Q K^T
    matmul.launch({.A = heads_of_batch<T>(problem.Q, b, kv_heads),
                   .B = transposed(heads_of_batch<T>(problem.K, b, kv_heads)),
                   .C = heads_of_batch<Sum<T>>(S, b, kv_heads)},
                  stream);
  }

  attention_naive_mask_kernel<T><<<rows, NAIVE_NUM_THREADS, 0, stream>>>(p, S.as<Sum<T>>());
  CUDA_CHECK_LAUNCH(attention_naive_mask_kernel);

  const View LSE = {.data = p.LSE, .dtype = wide, .size = {1, 1, 1, rows}, .stride = {0, 0, 0, 1}};
  softmax.launch({.x = rows_of_scores(S), .y = rows_of_scores(P_wide), .lse = LSE}, stream);

  const auto grid = static_cast<unsigned>(ceil_div<int64_t>(rows, NAIVE_NUM_THREADS / 32));
  attention_naive_finish_kernel<T><<<grid, NAIVE_NUM_THREADS, 0, stream>>>(
      p, S.as<const Sum<T>>(), P_wide.as<const Sum<T>>(), P.as<T>());
  CUDA_CHECK_LAUNCH(attention_naive_finish_kernel);

  for (int b = 0; b < p.B; ++b) {  // O = P V
    matmul.launch({.A = heads_of_batch<T>(P, b, kv_heads),
                   .B = heads_of_batch<T>(problem.V, b, kv_heads),
                   .C = heads_of_batch<T>(problem.O, b, kv_heads)},
                  stream);
  }
}

static void attention_naive(const AttentionProblem& p, cudaStream_t stream) {
  with_type(p, [&](auto type) { launch_naive<decltype(type)>(p, stream); });
}

// ------------------------------------------------------------------------------------------------
// The ladder, slowest idea first. A line here is all it takes to register a rung.
static constexpr char ALL_TYPES[] = "float32 float64 float16 bfloat16";
static constexpr char OPTIONS[] =
    "causal scale window log2_stride none_front scale_front scale_end q_width k_width mask bias";
// Those of masks in one dimension whose places are one apart.
static constexpr char BANDS[] =
    "causal scale window log2_stride none_front cu_seqlens_q cu_seqlens_k";
static constexpr Needs TENSOR = {
    .dtypes = "float16 bfloat16", .options = BANDS, .compute_capability = 80};
static constexpr Needs SPLIT = {.dtypes = "float16 bfloat16",
                                .options = "causal scale window log2_stride none_front",
                                .compute_capability = 80};
static constexpr char OPTIONS_AND_TILES[] =
    "causal scale window log2_stride none_front scale_front scale_end q_width k_width mask bias "
    "br bc";
static constexpr Rung<AttentionProblem> RUNGS[] = {
    {"naive",
     attention_naive,
     {.dtypes = ALL_TYPES, .options = OPTIONS, .composed_of = "matmul softmax"}},
    {"blocked", attention_blocked, {.dtypes = ALL_TYPES, .options = OPTIONS}},
    {"fused_row",
     attention_fused_row,
     {.dtypes = ALL_TYPES, .options = OPTIONS},
     attention_fused_row_declines},
    {"flash_v1",
     attention_flash_v1,
     {.dtypes = ALL_TYPES, .options = OPTIONS_AND_TILES},
     attention_flash_v1_declines},
    {"warp_dot",
     attention_warp_dot,
     {.dtypes = ALL_TYPES, .options = OPTIONS},
     attention_warp_dot_declines},
    {"flash", attention_flash, {.dtypes = ALL_TYPES, .options = OPTIONS}, attention_flash_declines},
    {"flash_registers",
     attention_flash_registers,
     {.options = OPTIONS, .compute_capability = 80},
     attention_flash_registers_declines},
    {"flash_mma", attention_flash_mma, TENSOR, attention_flash_mma_declines},
    {"flash_mma_pipelined", attention_flash_mma_pipelined, TENSOR,
     attention_flash_mma_pipelined_declines},
    {"flash_split_kv", attention_flash_split_kv, SPLIT, attention_flash_split_kv_declines},
};

Ladder<AttentionProblem> attention_ladder() { return RUNGS; }
