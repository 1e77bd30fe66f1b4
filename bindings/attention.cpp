// attention.cpp: tensors to AttentionProblem.
#include "attention.h"

#include <algorithm>
#include <cmath>

#include "launch.h"

namespace {

using Sizes = std::vector<int64_t>;

// Heads are the third dimension from the end, and those of q a multiple of those of k and v.
void check_shapes(const Arg& q, const Arg& k, const Arg& v, const Arg& out) {
  for (const Arg* arg : {&q, &k, &v}) {
    check_rank(*arg, 2, 4);
    check_limits(*arg, arg->rank());
  }
  const int64_t kv_heads = k.size(3);
  Sizes expected = q.sizes;
  if (k.rank() == q.rank()) {
    expected[q.rank() - 2] = k.size(2);  // k's own Nk
    const bool shares = q.size(3) != kv_heads && kv_heads != 0 && q.size(3) % kv_heads == 0;
    if (shares && q.rank() >= 3) expected[q.rank() - 3] = kv_heads;
  }
  check_sizes(k, expected,
              "[.., Hkv, Nk, D] with the leading dimensions and D of q; its heads may be fewer, if "
              "they divide those of q");
  expected = k.sizes;
  expected.back() = v.size(1);  // v's own Dv
  check_sizes(v, expected, "as k, but for the last dimension");
  expected = q.sizes;
  expected.back() = v.size(1);
  check_sizes(out, expected, "as q, but with v's last dimension");
  if (q.size(4) * q.size(3) > MAX_DIM) {
    q.reject("q has more than ", MAX_DIM, " heads in all");
  }
}

// A mask's view, [B, H, Nq, Nk], with strides of 0 where it is broadcast.
View broadcast(const Arg& mask, const Arg& q, const Arg& k) {
  const int64_t sizes[] = {k.size(2), q.size(2), q.size(3), q.size(4)};  // from the end
  bool right = mask.rank() <= std::max(q.rank(), 2);
  for (int i = 1; right && i <= mask.rank(); ++i) {
    right = mask.size(i) == sizes[i - 1] || mask.size(i) == 1;
  }
  if (!right) {
    mask.reject(mask.name, " must be ", brackets({sizes[3], sizes[2], sizes[1], sizes[0]}),
                " (B, H, Nq, Nk), or broadcast to it");
  }
  View view = view_of(mask);
  for (int i = 0; i < 4; ++i) view.size[3 - i] = sizes[i];
  return view;
}

Sync sync_of(Call& call) {
  const bool none_front = call.flag("none_front"), scale_front = call.flag("scale_front");
  const bool scale_end = call.flag("scale_end");
  if (none_front + scale_front + scale_end > 1) {
    fail(call.name, "only one of none_front, scale_front and scale_end can be set");
  }
  return none_front    ? Sync::none_front
         : scale_front ? Sync::scale_front
         : scale_end   ? Sync::scale_end
                       : Sync::none_end;
}

// An option that is a whole number from `least` to `most`.
int whole(Call& call, const char* name, int64_t least, int64_t most) {
  const double number = call.number(name, 0);
  if (number >= least && number <= most && number == std::trunc(number)) {
    return static_cast<int>(number);
  }
  fail(call.name, name, " must be a whole number from ", least, " to ", most, "; got ", number);
}

MaskRule rule_of(Call& call, const Arg& q, const Arg& k) {
  MaskRule rule = {.causal = call.flag("causal"),
                   .window = whole(call, "window", 0, INT_MAX),
                   .log2_stride = whole(call, "log2_stride", 0, 30),
                   .sync = sync_of(call),
                   .q_width = whole(call, "q_width", 0, MAX_DIM),
                   .k_width = whole(call, "k_width", 0, MAX_DIM)};
  if (rule.log2_stride > 0 && rule.window == 0) {
    fail(call.name, "log2_stride is the stride of a window, but there is no window");
  }
  if ((int64_t{rule.window} << rule.log2_stride) > INT_MAX) {
    fail(call.name, "window * 2^log2_stride must be below 2^31; got ", rule.window, " * 2^",
         rule.log2_stride);
  }
  if ((rule.q_width > 0) != (rule.k_width > 0)) {
    fail(call.name, "q_width and k_width must both be set, or neither; got ", rule.q_width, " and ",
         rule.k_width);
  }
  if (rule.q_width > 0 && (q.size(2) % rule.q_width != 0 || k.size(2) % rule.k_width != 0)) {
    fail(call.name, "Nq and Nk must be multiples of q_width and k_width; got ", q.size(2), " and ",
         k.size(2), ", ", rule.q_width, " and ", rule.k_width);
  }
  return rule;
}

// The starts of sequences along the dimension N of `of`.
View starts_of(const Arg& starts, const Arg& of, const char* of_name) {
  check_dtype(starts, "int32");
  check_rank(starts, 1, 1);
  if (starts.size(1) < 2) starts.reject(starts.name, " must hold at least a start and an end");
  check_rows_contiguous(starts);
  if (of.rank() == 4 && of.size(4) != 1) {
    of.reject("with ", starts.name, " the sequences follow each other along N, so ", of_name,
              " must have batch size 1");
  }
  return view_of(starts);
}

void attention(Call& call) {
  const Arg &q = call.input("q"), &k = call.input("k"), &v = call.input("v");
  const Arg* mask = call.optional_input("mask", Role::other);
  const Arg* bias = call.optional_input("bias", Role::data);
  const Arg* q_starts = call.optional_input("cu_seqlens_q", Role::other);
  const Arg* k_starts = call.optional_input("cu_seqlens_k", Role::other);
  const Arg &out = call.output("out"), &lse = call.output("lse", Role::statistic);
  check_shapes(q, k, v, out);
  check_of_rows(lse, q);
  call.check(attention_ladder());
  for (const Arg* arg : {&q, &k, &v, &out}) check_rows_contiguous(*arg);
  if (mask != nullptr) check_dtype(*mask, "bool");
  if (mask != nullptr && bias != nullptr) fail(call.name, "mask and bias cannot both be set");
  if ((q_starts == nullptr) != (k_starts == nullptr)) {
    fail(call.name, "cu_seqlens_q and cu_seqlens_k must both be set, or neither");
  }
  if (q_starts != nullptr && q_starts->sizes != k_starts->sizes) {
    k_starts->reject("cu_seqlens_k must have the size of cu_seqlens_q, ",
                     brackets(q_starts->sizes));
  }
  const double D = static_cast<double>(std::max<int64_t>(q.size(1), 1));
  const double scale = call.number("scale", 1 / std::sqrt(D));
  check_finite("scale", scale, q);
  call.run(attention_ladder(),
           {
               .Q = view_of(q),
               .K = view_of(k),
               .V = view_of(v),
               .O = view_of(out),
               .LSE = view_of(lse),
               .mask = mask == nullptr ? View() : broadcast(*mask, q, k),
               .bias = bias == nullptr ? View() : broadcast(*bias, q, k),
               .q_starts = q_starts == nullptr ? View() : starts_of(*q_starts, q, "q"),
               .k_starts = k_starts == nullptr ? View() : starts_of(*k_starts, k, "k"),
               .scale = scale,
               .rule = rule_of(call, q, k),
               .block_queries = whole(call, "br", 0, MAX_DIM),
               .block_keys = whole(call, "bc", 0, MAX_DIM),
               .workspace = call.workspace(),
           });
}

const Operator OPERATOR("attention", attention, attention_ladder());

}  // namespace
