// The forward pass of FlashAttention-2 in plain C: flash_2 of attention.py, for every head.
//
//     cc -O2 -Wall -Wextra -Wpedantic -std=c11 flash_attention.c -lm -o flash_attention
//     ./flash_attention                      an example whose results are known
//     ./flash_attention H NQ NK D DV SCALE CAUSAL < input > output
//
// Input: q [H, NQ, D], k [H, NK, D], v [H, NK, DV], one after the other. Output: O [H, NQ, DV],
// then LSE [H, NQ], the natural logarithm of sum(exp(S)). All of it is float32 in the byte order of
// the machine, which is little-endian on x86 and Arm.
//
// CAUSAL is 0 or 1. With 1, query i sees the keys 0 .. i + NK - NQ, so that the last query sees all
// of them; one that sees none has O = 0 and LSE = -inf.

#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK_M = 32, BLOCK_N = 32 };  // queries and keys per tile

typedef struct {  // what the heads have in common
  size_t Nq, Nk, D, Dv;
  float scale;
  bool causal;
} Problem;

static size_t min(size_t a, size_t b) { return a < b ? a : b; }

static size_t keys_seen(const Problem* p, size_t query) {
  if (!p->causal) return p->Nk;
  return query + 1 + p->Nk > p->Nq ? query + 1 + p->Nk - p->Nq : 0;
}

static float dot(const float* a, const float* b, size_t D) {
  float sum = 0;
  for (size_t d = 0; d < D; d++) sum += a[d] * b[d];
  return sum;
}

// One row of one tile: the query q [D] meets `columns` keys, k [.., D] and v [.., Dv]. Updates
// acc [Dv], m and l.
static void update(const Problem* p, const float* q, const float* k, const float* v, size_t columns,
                   float* acc, float* m, float* l) {
  float S[BLOCK_N];
  float m_new = *m;
  for (size_t c = 0; c < columns; c++) {
    S[c] = p->scale * dot(q, k + c * p->D, p->D);
    if (S[c] > m_new) m_new = S[c];  // never a NaN: that reaches l and acc through P
  }
  // As long as all scores are -inf, 0 is subtracted: -inf - -inf would be NaN.
  const float base = m_new == -INFINITY ? 0 : m_new;
  const float alpha = expf(*m - base);  // what was summed so far is relative to the old maximum
  *l *= alpha;
  for (size_t d = 0; d < p->Dv; d++) acc[d] *= alpha;
  for (size_t c = 0; c < columns; c++) {
    const float P = expf(S[c] - base);
    *l += P;
    for (size_t d = 0; d < p->Dv; d++) acc[d] += P * v[c * p->Dv + d];
  }
  *m = m_new;
}

// One head: q [Nq, D], k [Nk, D], v [Nk, Dv] to O [Nq, Dv] and LSE [Nq].
//
// Queries outside, keys inside: a tile of queries is finished before the next one begins. On a GPU
// each would be a block of threads, with k[j ..] and v[j ..] in shared memory; here the rows of the
// tile find them in the cache. Until the end, O holds the sums that flash_2 calls acc.
static void flash_attention(const Problem* p, const float* q, const float* k, const float* v,
                            float* O, float* LSE) {
  for (size_t i = 0; i < p->Nq; i += BLOCK_M) {
    const size_t rows = min(BLOCK_M, p->Nq - i);
    float m[BLOCK_M], l[BLOCK_M] = {0};  // of each row: its maximum so far, and sum(exp(S - m))
    float* acc = O + i * p->Dv;          // [rows, Dv]
    for (size_t r = 0; r < rows; r++) m[r] = -INFINITY;
    for (size_t n = 0; n < rows * p->Dv; n++) acc[n] = 0;

    const size_t end = keys_seen(p, i + rows - 1);  // the last row sees the most
    for (size_t j = 0; j < end; j += BLOCK_N) {
      for (size_t r = 0; r < rows; r++) {
        // Hidden keys are left out, not given the weight 0: 0 * NaN would spoil O.
        const size_t seen = keys_seen(p, i + r);
        if (seen > j)
          update(p, q + (i + r) * p->D, k + j * p->D, v + j * p->Dv, min(BLOCK_N, seen - j),
                 acc + r * p->Dv, &m[r], &l[r]);
      }
    }

    for (size_t r = 0; r < rows; r++) {
      for (size_t n = r * p->Dv; n < (r + 1) * p->Dv; n++)
        acc[n] = l[r] == 0 ? 0 : acc[n] / l[r];  // l is 0 if the row saw no key, or only -inf
      LSE[i + r] = m[r] + logf(l[r]);
    }
  }
}

// ---- The command line ---------------------------------------------------------------------------

_Static_assert(sizeof(size_t) == 8, "the product of three sizes must fit");
enum { SIZE_LIMIT = 1 << 20, TOTAL_LIMIT = 1 << 28 };  // numbers in the input, and in the output

static int expected(const char* format, ...) {
  va_list values;
  va_start(values, format);
  fputs("flash_attention: expected ", stderr);
  vfprintf(stderr, format, values);
  fputs("\nusage: flash_attention [demo | H NQ NK D DV SCALE CAUSAL < input > output]\n", stderr);
  va_end(values);
  return 2;
}

static int flushed(void) {
  if (!fflush(stdout) && !ferror(stdout)) return 0;
  perror("flash_attention: output");
  return 1;
}

// Key j has the value j and the score ln(j + 1), so that its weight is j + 1: for the i keys that
// query i sees there are formulas. The 70 keys are three tiles.
static int demo(void) {
  enum { NQ = 71, NK = 70 };
  const Problem p = {.Nq = NQ, .Nk = NK, .D = 1, .Dv = 1, .scale = 1, .causal = true};
  float q[NQ], k[NK], v[NK], O[NQ], LSE[NQ];
  for (int i = 0; i < NQ; i++) q[i] = 1;
  for (int j = 0; j < NK; j++) k[j] = logf((float)(j + 1));
  for (int j = 0; j < NK; j++) v[j] = (float)j;
  flash_attention(&p, q, k, v, O, LSE);
  printf("%d queries, %d keys: query i sees the keys 0 .. i - 1\n", NQ, NK);
  printf("key j: score ln(j + 1), value j\n\n");
  printf(" i         O  2(i-1)/3       LSE  ln(i(i+1)/2)\n");
  const int shown[] = {0, 1, 2, 3, 32, 33, 70};
  for (size_t n = 0; n < sizeof shown / sizeof *shown; n++) {
    const int i = shown[n];
    const double O_wanted = i ? 2 * (i - 1) / 3. : 0, LSE_wanted = log(i * (i + 1) / 2.);
    printf("%2d %9.5f %9.5f %9.5f %13.5f\n", i, O[i], O_wanted, LSE[i], LSE_wanted);
  }
  return flushed();
}

static bool parse_size(const char* text, size_t* size) {
  *size = strtoull(text, NULL, 10);  // too many digits give the largest number
  return *text && !text[strspn(text, "0123456789")] && *size <= SIZE_LIMIT;
}

static bool parse_scale(const char* text, float* scale) {
  char* end;
  *scale = strtof(text, &end);
  const bool decimal = !text[strspn(text, "+-.0123456789eE")];  // no 0x1p3, nan, spaces
  return decimal && end != text && !*end && isfinite(*scale);
}

int main(int argc, char** argv) {
  if (argc == 1 || (argc == 2 && !strcmp(argv[1], "demo"))) return demo();
  if (argc != 8) return expected("7 arguments, or demo; got %d", argc - 1);
  const char* names[] = {"H", "NQ", "NK", "D", "DV"};
  size_t size[5];
  for (int n = 0; n < 5; n++)
    if (!parse_size(argv[n + 1], &size[n]))
      return expected("%s, 0 .. %d; got '%s'", names[n], SIZE_LIMIT, argv[n + 1]);
  const size_t H = size[0];
  Problem p = {size[1], size[2], size[3], size[4], 0, !strcmp(argv[7], "1")};
  if (!parse_scale(argv[6], &p.scale)) return expected("SCALE, a finite number; got '%s'", argv[6]);
  if (!p.causal && strcmp(argv[7], "0")) return expected("CAUSAL, 0 or 1; got '%s'", argv[7]);

  const size_t q_head = p.Nq * p.D, k_head = p.Nk * p.D, v_head = p.Nk * p.Dv, O_head = p.Nq * p.Dv;
  const size_t input = H * (q_head + k_head + v_head), output = H * (O_head + p.Nq);
  if (input > TOTAL_LIMIT || output > TOTAL_LIMIT)
    return expected("at most %d numbers of input and of output; got %zu and %zu", TOTAL_LIMIT,
                    input, output);
  float* q = malloc((input + output + 1) * sizeof *q);  // + 1: malloc(0) may be NULL
  if (!q) {
    perror("flash_attention: memory");
    return 1;
  }
  float *k = q + H * q_head, *v = k + H * k_head, *O = v + H * v_head, *LSE = O + H * O_head;
  const size_t got = fread(q, sizeof *q, input, stdin);
  int code;
  if (got < input) {
    code = expected("%zu float32 numbers on stdin; got %zu", input, got);
  } else if (getchar() != EOF) {
    code = expected("%zu float32 numbers on stdin; got more", input);
  } else {
    for (size_t h = 0; h < H; h++)
      flash_attention(&p, q + h * q_head, k + h * k_head, v + h * v_head, O + h * O_head,
                      LSE + h * p.Nq);
    fwrite(O, sizeof *O, output, stdout);
    code = flushed();
  }
  free(q);
  return code;
}
