// attention.cu: O = softmax(scale * Q K^T) V in fp32, unfused and fused.
//
// Contract (attention.h)
//   Q [B, H, Nq, D]   K [B, H, Nk, D]   V [B, H, Nk, D]   any strides between rows, heads, batches
//   O [B, H, Nq, D]   LSE [B, H, Nq], the natural logarithm of sum(exp(scale * Q K^T))
//   causal: query i sees the keys 0 .. i + Nk - Nq, so that the last query sees all of them. A
//   query that sees none gets O = 0 and LSE = -inf. What a hidden key holds never changes a score;
//   a NaN or inf in its row of V may reach O as 0 * NaN, as in torch.
//
// Rungs
//   naive   matmul, scale and mask, softmax, matmul: the scores go through memory
//   flash   one kernel with an online softmax: the scores never leave the SM (attention_flash.cu)
#include "attention.cuh"
#include "matmul.h"
#include "softmax.h"

// ------------------------------------------------------------------------------------------------
// naive: the formula, one kernel per operation (fp32)
// Idea     S = Q K^T by this project's matmul, scale and mask, P = softmax(S), O = P V.
// Changes  First rung.
// Bytes    Per score (Nq * Nk of them per head), requested from global memory in addition to the
//          matmuls' tiles: S written 4, scaled and masked 8, softmax 12 + 4, LSE 8. flash: none.
// Shape    2 matmuls per batch, each over all heads; 3 more kernels in all. Scratch memory: 2 *
//          B * H * Nq * Nk floats, 8 GiB at B = 4, H = 16, N = 4096.
// Trap     softmax makes a row without any key NaN (0 / 0), as it should: the last kernel, which
//          computes LSE, writes O = 0 there.
// Next     S and P have N^2 elements each, used once: flash keeps them on chip.
constexpr int NAIVE_NUM_THREADS = 128;     // tunable: 64, 128, 256
constexpr int64_t MAX_SCORES = 1LL << 60;  // so that their bytes fit 64 bits
constexpr const char* NAIVE_MATMUL = "tiled";
constexpr const char* NAIVE_SOFTMAX = "coarsened";

// One block per row of S [B, H, Nq, Nk]: S = scale * S, or -inf for keys that the query does not
// see.
__global__ void attention_naive_mask_kernel(const Attention p, float* S) {
  const int64_t row = blockIdx.x;
  const int seen = keys_seen(p, row % p.Nq);
  float* s = S + row * p.Nk;
  for (int key = threadIdx.x; key < p.Nk; key += NAIVE_NUM_THREADS) {
    s[key] = key < seen ? p.scale * s[key] : -INFINITY;
  }
}

// One warp per row of S: LSE, and O = 0 for a query that sees no key.
__global__ void attention_naive_finish_kernel(const Attention p, const float* S) {
  constexpr int ROWS = NAIVE_NUM_THREADS / 32;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * ROWS + threadIdx.x / 32;
  if (row >= static_cast<int64_t>(p.B) * p.H * p.Nq) return;  // the whole warp leaves
  const int lane = threadIdx.x % 32;
  const int query = row % p.Nq;
  const float* s = S + row * p.Nk;

  // Two passes over the row, as in softmax: the maximum, then the sum relative to it.
  float m = -INFINITY;
  for (int key = lane; key < p.Nk; key += 32) m = fmaxf(m, s[key]);
  for (int step = 16; step > 0; step /= 2) m = fmaxf(m, __shfl_xor_sync(ALL_LANES, m, step));

  const float base = exponent_base(m);
  float sum = 0.0f;
  for (int key = lane; key < p.Nk; key += 32) sum += expf(s[key] - base);
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, step);
  if (lane == 0) p.LSE[row] = base + logf(sum);

  if (keys_seen(p, query) > 0) return;
  const int64_t head = row / p.Nq;
  float* o = p.O + head / p.H * p.o.batch + head % p.H * p.o.head + query * p.o.row;
  for (int d = lane; d < p.D; d += 32) o[d] = 0.0f;
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

// The heads of batch b as the matrices of a matmul.
static View heads_of_batch(const View& view, int64_t b) {
  View heads = view;
  heads.data = view.as<float>() + b * view.stride[0];
  heads.size[0] = 1;
  heads.stride[0] = 0;
  return heads;
}

// Each matrix of a view transposed.
static View transposed(View view) {
  std::swap(view.size[2], view.size[3]);
  std::swap(view.stride[2], view.stride[3]);
  return view;
}

// Batches one by one; but S and P hold all of them, so scaling, mask and softmax take one launch.
static void attention_naive(const AttentionProblem& problem, cudaStream_t stream) {
  const Attention p = lowered(problem);
  const int64_t rows = static_cast<int64_t>(p.B) * p.H * p.Nq;
  if (rows == 0) return;
  if (rows > MAX_GRID_X) throw LaunchError("attention naive: B * H * Nq is above 2^31 - 1");
  if (p.Nk > 0 && rows > MAX_SCORES / p.Nk) {
    throw LaunchError("attention naive: B * H * Nq * Nk is above 2^60 scores");
  }
  const int64_t head_scores = static_cast<int64_t>(p.Nq) * p.Nk;
  const size_t scores_bytes = rows * p.Nk * sizeof(float);
  const View S = {.data = problem.workspace(scores_bytes),
                  .size = {p.B, p.H, p.Nq, p.Nk},
                  .stride = {p.H * head_scores, head_scores, p.Nk, 1}};
  View P = S;
  P.data = problem.workspace(scores_bytes);

  const auto& matmul = rung(matmul_ladder(), NAIVE_MATMUL);
  const auto& softmax = rung(softmax_ladder(), NAIVE_SOFTMAX);

  for (int b = 0; b < p.B; ++b) {  // S = Q K^T
    matmul.launch({.A = heads_of_batch(problem.Q, b),
                   .B = transposed(heads_of_batch(problem.K, b)),
                   .C = heads_of_batch(S, b)},
                  stream);
  }

  attention_naive_mask_kernel<<<rows, NAIVE_NUM_THREADS, 0, stream>>>(p, S.as<float>());
  CUDA_CHECK_LAUNCH(attention_naive_mask_kernel);

  View S_rows = S, P_rows = P;  // [1, 1, B * H * Nq, Nk]
  for (View* view : {&S_rows, &P_rows}) {
    view->size[0] = view->size[1] = 1;
    view->stride[0] = view->stride[1] = 0;
    view->size[2] = rows;
  }
  softmax.launch({.x = S_rows, .y = P_rows}, stream);

  for (int b = 0; b < p.B; ++b) {  // O = P V
    matmul.launch({.A = heads_of_batch(P, b),
                   .B = heads_of_batch(problem.V, b),
                   .C = heads_of_batch(problem.O, b)},
                  stream);
  }

  const auto grid = static_cast<unsigned>(ceil_div<int64_t>(rows, NAIVE_NUM_THREADS / 32));
  attention_naive_finish_kernel<<<grid, NAIVE_NUM_THREADS, 0, stream>>>(p, S.as<float>());
  CUDA_CHECK_LAUNCH(attention_naive_finish_kernel);
}

// ------------------------------------------------------------------------------------------------
// A rung in another file.

void attention_flash(const AttentionProblem& problem, cudaStream_t stream);
const char* attention_flash_declines(const AttentionProblem& p);

// ------------------------------------------------------------------------------------------------
// The ladder, slowest idea first. A line here is all it takes to register a rung.
static constexpr char OPTIONS[] = "causal scale";
static constexpr Rung<AttentionProblem> RUNGS[] = {
    {"naive", attention_naive, {.options = OPTIONS, .composed_of = "matmul softmax"}},
    {"flash", attention_flash, {.options = OPTIONS}, attention_flash_declines},
};

Ladder<AttentionProblem> attention_ladder() { return RUNGS; }
