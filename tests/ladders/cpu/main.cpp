// main.cpp: runs every rung of the CPU's attention ladder on a grid of problems and compares it with
// the formula in double. Prints the first wrong number of a run and returns 1, or returns 0. Tensors
// and scratch are allocations of exactly their size, for the sanitizer that it is built with. Between
// the rows of a tensor there are NaNs that no compiler makes.
#include <cstdio>
#include <iterator>
#include <memory>
#include <random>
#include <vector>

#include "attention_cpu.h"

namespace {

struct Case {
  int64_t B, H, Hkv, Nq, Nk, D, Dv;
  bool causal;
  double scale;
  int br = 0, bc = 0;
  float size = 1;  // of the numbers in Q
};

constexpr int64_t PADDING = 3;  // numbers between two rows
constexpr uint32_t NANS[] = {0x7fffffff, 0x7fc00001, 0xffffffff, 0x7fc0beef};

constexpr Case CASES[] = {
    {1, 1, 1, 1, 1, 1, 1, false, 1},
    {2, 4, 2, 33, 65, 20, 33, false, 0.3},
    {2, 4, 2, 65, 33, 20, 33, true, 0.3},
    {1, 2, 1, 130, 257, 64, 64, true, 0.125, 33, 20},
    {1, 3, 3, 257, 130, 32, 100, true, 0.2, 300, 300},
    {1, 2, 2, 129, 140, 40, 7, false, 0.2, 1, 1},
    {1, 6, 2, 1, 700, 128, 64, true, 0.1, 7, 64},
    {1, 1, 1, 64, 64, 32, 32, true, 1, 16, 8, 1e4f},
    {1, 1, 1, 50, 60, 32, 32, false, -0.5, 0, 0, 1e18f},
    {1, 2, 1, 20, 0, 16, 16, false, 1},
    {1, 2, 1, 0, 20, 16, 16, false, 1},
    {1, 2, 1, 20, 20, 0, 16, false, 1},
    {1, 2, 1, 20, 20, 16, 0, true, 1},
    {0, 2, 1, 20, 20, 16, 16, true, 1},
};

template <class T>
struct Tensor {
  std::vector<T> numbers;
  View view;

  Tensor(DType dtype, int64_t b, int64_t h, int64_t n, int64_t d, int64_t padding = PADDING) {
    const int64_t row = d + padding,
                  last = b * h * n == 0 || d == 0 ? 0 : b * h * n * row - padding;
    for (int64_t i = 0; i < last; ++i) put(&numbers.emplace_back(), NANS[i % std::size(NANS)]);
    view = {.data = numbers.empty() ? nullptr : numbers.data(),
            .dtype = dtype,
            .size = {b, h, n, d},
            .stride = {h * n * row, n * row, row, 1}};
  }
  static void put(float* x, uint32_t bits) { *x = std::bit_cast<float>(bits); }
  static void put(bf16* x, uint32_t bits) { x->bits = static_cast<uint16_t>(bits >> 16); }

  void draw(std::mt19937& random, float size) {
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < static_cast<int64_t>(numbers.size()); ++i) {
      const float x = normal(random) * size;
      if (i % view.stride[2] < view.size[3]) store(&numbers[i], x);
    }
  }
  double at(int64_t b, int64_t h, int64_t n, int64_t d) const {
    return to_float(numbers[b * view.stride[0] + h * view.stride[1] + n * view.stride[2] + d]);
  }
};

// Whether O and LSE of one query are right, and every number of them was written.
template <class T>
bool right(const Case& c, const Tensor<T>& Q, const Tensor<T>& K, const Tensor<T>& V,
           const Tensor<T>& O, const Tensor<float>& LSE, int64_t b, int64_t h, int64_t i) {
  const int64_t kv = h / (c.H / c.Hkv);
  const int64_t seen = c.causal ? std::clamp<int64_t>(i + 1 + c.Nk - c.Nq, 0, c.Nk) : c.Nk;
  std::vector<double> s(seen), o(c.Dv);
  double m = -INFINITY, l = 0, largest = 0;
  for (int64_t j = 0; j < seen; ++j) {
    for (int64_t d = 0; d < c.D; ++d) s[j] += Q.at(b, h, i, d) * K.at(b, kv, j, d);
    s[j] *= c.scale;
    m = std::max(m, s[j]);
    largest = std::max(largest, std::abs(s[j]));
  }
  for (int64_t j = 0; j < seen; ++j) l += s[j] = std::exp(s[j] - m);
  const double lse = seen == 0 ? -INFINITY : m + std::log(l);
  // Scores are sums in float; near a tie of large ones the weights may be anyone's.
  const double of_scores = largest * 1e-6;
  const double bound = (sizeof(T) == 2 ? 1e-2 : 1e-5) + std::min(8.0, 8 * of_scores);
  const double got = LSE.at(0, b, h, i);
  if (!(got == lse || std::abs(got - lse) <= 1e-5 + 4 * of_scores)) return false;
  for (int64_t d = 0; d < c.Dv; ++d) {
    double sum = 0;
    for (int64_t j = 0; j < seen; ++j) sum += s[j] / l * V.at(b, kv, j, d);
    if (!(std::abs(O.at(b, h, i, d) - sum) <= bound * (1 + std::abs(sum)))) return false;
  }
  return true;
}

template <class T>
void launch(const Rung<AttentionProblem>& rung, const Case& c, const Tensor<T>& Q,
            const Tensor<T>& K, const Tensor<T>& V, const Tensor<T>& O, const Tensor<float>& LSE) {
  std::vector<std::unique_ptr<char[]>> scratch;
  AttentionProblem p = {.Q = Q.view, .K = K.view, .V = V.view, .O = O.view, .LSE = LSE.view};
  p.scale = c.scale;
  p.rule.causal = c.causal;
  p.block_queries = c.br, p.block_keys = c.bc;
  p.workspace = {[](void* owner, size_t bytes) -> void* {
                   auto& all = *static_cast<std::vector<std::unique_ptr<char[]>>*>(owner);
                   return all.emplace_back(new char[bytes]).get();
                 },
                 &scratch};
  rung.launch(p, nullptr);
}

template <class T>
bool run(DType dtype, const Case& c) {
  std::mt19937 random(1);
  Tensor<T> Q(dtype, c.B, c.H, c.Nq, c.D), K(dtype, c.B, c.Hkv, c.Nk, c.D);
  Tensor<T> V(dtype, c.B, c.Hkv, c.Nk, c.Dv);
  Q.draw(random, c.size), K.draw(random, 1), V.draw(random, 1);
  for (const Rung<AttentionProblem>& rung : attention_ladder()) {
    Tensor<T> O(dtype, c.B, c.H, c.Nq, c.Dv);
    Tensor<float> LSE(DType::float32, 1, c.B, c.H, c.Nq, 0);
    launch(rung, c, Q, K, V, O, LSE);
    for (int64_t row = 0; row < c.B * c.H * c.Nq; ++row) {
      const int64_t i = row % c.Nq, h = row / c.Nq % c.H, b = row / c.Nq / c.H;
      if (right(c, Q, K, V, O, LSE, b, h, i)) continue;
      std::printf("%s: wrong at batch %d, head %d, query %d: Nq=%d Nk=%d D=%d Dv=%d\n", rung.name,
                  int(b), int(h), int(i), int(c.Nq), int(c.Nk), int(c.D), int(c.Dv));
      return false;
    }
  }
  return true;
}

// Whether a NaN in key 5 makes NaN of all that the queries from 5 on get, and of nothing else.
bool nan_goes_where_it_must(uint32_t nan) {
  const Case c = {1, 1, 1, 20, 20, 16, 16, true, 0.25};
  std::mt19937 random(1);
  Tensor<float> Q(DType::float32, 1, 1, 20, 16), K(DType::float32, 1, 1, 20, 16);
  Tensor<float> V(DType::float32, 1, 1, 20, 16);
  Q.draw(random, 1), K.draw(random, 1), V.draw(random, 1);
  K.put(&K.numbers[5 * K.view.stride[2] + 2], nan);
  bool all = true;
  for (const Rung<AttentionProblem>& rung : attention_ladder()) {
    Tensor<float> O(DType::float32, 1, 1, 20, 16), LSE(DType::float32, 1, 1, 1, 20, 0);
    launch(rung, c, Q, K, V, O, LSE);
    for (int64_t i = 0; i < 20; ++i) {
      bool right = std::isnan(LSE.at(0, 0, 0, i)) == (i >= 5);
      for (int64_t d = 0; d < 16; ++d) right = right && std::isnan(O.at(0, 0, i, d)) == (i >= 5);
      if (right) continue;
      std::printf("%s: wrong at query %d, with the NaN %x in key 5\n", rung.name, int(i), nan);
      all = false;
      break;
    }
  }
  return all;
}

}  // namespace

int main() {
  omp_set_num_threads(4);
  bool all = true;
  for (uint32_t nan : NANS) all = nan_goes_where_it_must(nan) && all;
  for (const Case& c : CASES) {
    all = run<float>(DType::float32, c) && run<bf16>(DType::bfloat16, c) && all;
  }
  return all ? 0 : 1;
}
