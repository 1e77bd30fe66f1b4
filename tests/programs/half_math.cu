// half_math.cu: half, bfloat16 and fp8 arithmetic against float.
//
// The sum, the product and the quotient of two halves, computed in float and rounded once to half,
// equal the half operation: 24 bits are at least 2 * 11 + 2. For a fused multiply-add double is
// wide enough.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <limits>

#include "common.h"

template <class T>
struct Results {
  T sum, difference, product, quotient, fused, relu, minimum, maximum, root;
  bool less, equal, unordered;
};

template <class T>
__global__ void scalar_kernel(const T* a, const T* b, const T* c, Results<T>* out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  out[i] = {a[i] + b[i],
            a[i] - b[i],
            a[i] * b[i],
            a[i] / b[i],
            __hfma(a[i], b[i], c[i]),
            __hfma_relu(a[i], b[i], c[i]),
            __hmin(a[i], b[i]),
            __hmax(a[i], b[i]),
            hsqrt(a[i]),
            __hlt(a[i], b[i]),
            __heq(a[i], b[i]),
            __hgtu(a[i], b[i])};
}

// One bit pattern for all NaNs.
template <class T>
uint16_t bits(T x) {
  uint16_t b;
  std::memcpy(&b, &x, 2);
  return float(x) != float(x) ? 0xffff : b;
}

template <class T>
void scalars(const char* name, T (*rounded)(double)) {
  const float inf = std::numeric_limits<float>::infinity();
  const float special[] = {0.0f,   -0.0f, 1.0f, -1.0f,   inf,    -inf,   NAN,  6e-8f,
                           -6e-5f, 65504, 3.0f, 1 / 3.f, 1e-30f, -3e38f, 0.5f, 2049};
  constexpr int n = 16 * 16 + 1000;
  T *a = zeros<T>(n), *b = zeros<T>(n), *c = zeros<T>(n);
  Random random;
  for (int i = 0; i < n; i++) {
    a[i] = rounded(i < 256 ? special[i / 16] : random.uniform() * exp2f(random.next() % 20 - 10.f));
    b[i] = rounded(i < 256 ? special[i % 16] : random.uniform() * exp2f(random.next() % 20 - 10.f));
    c[i] = rounded(random.uniform());
  }
  auto* out = zeros<Results<T>>(n);
  scalar_kernel<<<(n + 127) / 128, 128>>>(a, b, c, out, n);
  finish();
  auto expect = [&](bool true_, int i, const char* what, float got, double want) {
    if (!true_) {
      std::printf("%s %s(%g, %g, %g) is %g, expected %g\n", name, what, float(a[i]), float(b[i]),
                  float(c[i]), got, want);
      std::exit(1);
    }
  };
  auto same = [&](int i, const char* what, T got, double want) {
    expect(bits(got) == bits(rounded(want)), i, what, got, float(rounded(want)));
  };
  for (int i = 0; i < n; i++) {
    float x = a[i], y = b[i];
    double fused = double(x) * y + double(float(c[i]));
    same(i, "add", out[i].sum, x + y);
    same(i, "sub", out[i].difference, x - y);
    same(i, "mul", out[i].product, x * y);
    same(i, "fma", out[i].fused, fused);
    same(i, "fma.relu", out[i].relu, fused <= 0 ? 0.0 : fused);
    bool negative = std::signbit(x);
    same(i, "min", out[i].minimum, x == y ? (negative ? x : y) : std::fmin(x, y));
    same(i, "max", out[i].maximum, x == y ? (negative ? y : x) : std::fmax(x, y));
    // Division and square root are at most one step from the rounded result.
    constexpr bool IS_HALF = std::is_same_v<T, __half>;
    constexpr float STEP = IS_HALF ? 1e-3f : 8e-3f, SMALLEST = IS_HALF ? 6e-8f : 0;
    if (std::isnormal(float(rounded(x / y)))) {
      float error = std::abs(float(out[i].quotient) - x / y);
      expect(error <= STEP * std::abs(x / y) + SMALLEST, i, "div", out[i].quotient, x / y);
    }
    if (x >= 0 && x < inf) {
      float error = std::abs(float(out[i].root) - std::sqrt(x));
      expect(error <= STEP * std::sqrt(x), i, "sqrt", out[i].root, std::sqrt(x));
    }
    expect(out[i].less == (x < y), i, "less", out[i].less, x < y);
    expect(out[i].equal == (x == y), i, "equal", out[i].equal, x == y);
    expect(out[i].unordered != (x <= y), i, "greater or unordered", out[i].unordered, !(x <= y));
  }
}

// Two halves in a register: the sum of a vector, and conversions of pairs.
__global__ void pair_kernel(const float2* in, int n, __half2* halves, __nv_bfloat162* bfloats,
                            float* dot) {
  __half2 sum = __float2half2_rn(0);
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    halves[i] = __float22half2_rn(in[i]);
    bfloats[i] = __float22bfloat162_rn(in[i]);
    sum = __hfma2(halves[i], __lowhigh2highlow(halves[i]), sum);
  }
  for (int offset = 16; offset > 0; offset /= 2) {
    sum = __hadd2(sum, __shfl_xor_sync(~0u, sum, offset));
  }
  if (threadIdx.x == 0) *dot = __low2float(sum) + __high2float(sum);
}

void pairs() {
  constexpr int n = 64;
  float2* in = zeros<float2>(n);
  auto* halves = zeros<__half2>(n);
  auto* bfloats = zeros<__nv_bfloat162>(n);
  float *dot = zeros<float>(1), want = 0;
  Random random;
  for (int i = 0; i < n; i++) {
    in[i] = {float(random.next() % 8), random.uniform()};
    want += 2 * in[i].x * float(__float2half_rn(in[i].y));
  }
  pair_kernel<<<1, 32>>>(in, n, halves, bfloats, dot);
  finish();
  for (int i = 0; i < n; i++) {
    CHECK(bits(halves[i].x) == bits(__float2half_rn(in[i].x)));
    CHECK(bits(halves[i].y) == bits(__float2half_rn(in[i].y)));
    CHECK(bits(bfloats[i].x) == bits(__float2bfloat16_rn(in[i].x)));
    CHECK(bits(bfloats[i].y) == bits(__float2bfloat16_rn(in[i].y)));
  }
  expect_close("dot", dot, &want, 1, 0.05);
}

// Every fp8 number survives the round trip to half; floats saturate to the largest one.
__global__ void fp8_kernel(__half* as_half, uint8_t* back, const float* in, uint8_t* e4m3,
                           uint8_t* e5m2) {
  int i = threadIdx.x;
  __nv_fp8_e4m3 number;
  number.__x = i;
  as_half[i] = __half(number);
  back[i] = __nv_fp8_e4m3(as_half[i]).__x;
  e4m3[i] = __nv_fp8_e4m3(in[i]).__x;
  e5m2[i] = __nv_fp8_e5m2(in[i]).__x;
}

float e4m3_value(int code) {
  int exponent = code >> 3 & 15, mantissa = code & 7;
  if ((code & 127) == 127) return NAN;
  float magnitude = exponent ? std::ldexp(8 + mantissa, exponent - 10) : std::ldexp(mantissa, -9);
  return code & 128 ? -magnitude : magnitude;
}

void fp8() {
  auto* as_half = zeros<__half>(256);
  auto *back = zeros<uint8_t>(256), *e4m3 = zeros<uint8_t>(256), *e5m2 = zeros<uint8_t>(256);
  float* in = zeros<float>(256);
  Random random;
  for (int i = 0; i < 256; i++) {
    in[i] = random.uniform() * std::exp2(random.next() % 24 - 12.f);
  }
  in[0] = 1e9f, in[1] = -1e9f;
  fp8_kernel<<<1, 256>>>(as_half, back, in, e4m3, e5m2);
  finish();
  for (int i = 0; i < 256; i++) {
    float value = e4m3_value(i);
    CHECK(value != value ? as_half[i] != as_half[i] : float(as_half[i]) == value);
    CHECK((back[i] & 127) == (i & 127));
    // e5m2 is the upper half of a half.
    unsigned code = unsigned(e5m2[i]) << 8;
    uint16_t pattern = code;
    __half h;
    std::memcpy(&h, &pattern, 2);
    float clamped = std::fmin(std::fmax(in[i], -57344.f), 57344.f), got = h;
    CHECK(std::abs(got - clamped) <= std::fmax(std::abs(clamped) / 8, std::ldexp(1.0f, -17)));
    clamped = std::fmin(std::fmax(in[i], -448.f), 448.f), got = e4m3_value(e4m3[i]);
    CHECK(std::abs(got - clamped) <= std::fmax(std::abs(clamped) / 16, std::ldexp(1.0f, -10)));
  }
}

int main() {
  scalars<__half>("half", [](double x) { return __double2half(x); });
  scalars<__nv_bfloat16>("bfloat16", [](double x) { return __double2bfloat16(x); });
  pairs();
  fp8();
  std::printf("ok: half, half2, bfloat16, e4m3 and e5m2 against float\n");
}
