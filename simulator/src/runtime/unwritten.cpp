// unwritten.cpp: copies to the host of bytes that nobody has written.
//
// Copying such bytes is no mistake in itself: the padding of structs and rows, and what is behind
// the results of a filter, are copied along. Two cases are a mistake for certain: nothing of the
// allocation has been written, though kernels ran; and what has been written is what the last
// kernel's grid covers, one element per thread, less than what there is by a part of a block.

#include <algorithm>

#include "runtime/host_checks.h"
#include "runtime/runtime.h"

namespace wbsim {
namespace {

// A grid along one dimension of the data.
struct Axis {
  uint64_t threads;  // of the whole grid
  uint64_t block;
};

class Written {
 public:
  explicit Written(const Allocation& a) : a_(a), marks_(*a.initialised) {}

  bool nothing() const { return next(0, true) == a_.bytes; }
  // How the data lacks a part of a block; empty: it does not.
  std::string explanation(size_t row_bytes) const {
    const Allocation::Writer& w = a_.writer;
    if (w.kernel.empty() || w.grid[2] * uint64_t{w.block[2]} != 1) {
      return {};
    }
    const Axis x = {uint64_t{w.grid[0]} * w.block[0], w.block[0]};
    const Axis y = {uint64_t{w.grid[1]} * w.block[1], w.block[1]};
    if (y.threads == 1) {
      return lacks_elements(x) ? element_text(x) : "";
    }
    for (auto [columns, rows] : {std::pair{x, y}, std::pair{y, x}}) {
      if (lacks_rows(columns, rows) || lacks_columns(columns, rows, row_bytes)) {
        return "ran " + std::to_string(x.threads) + " x " + std::to_string(y.threads) +
               " threads, and each wrote one element of " + bytes_text(w.store_bytes);
      }
    }
    return {};
  }

 private:
  uint64_t next(uint64_t offset, bool marked) const {
    return marks_.next(a_.first + offset, a_.last(), marked) - a_.first;
  }
  bool is_argument(uint64_t value) const {
    const std::vector<uint32_t>& integers = a_.writer.integers;
    return value <= UINT32_MAX &&
           std::find(integers.begin(), integers.end(), value) != integers.end();
  }
  // Data of one dimension. Without a loop, a kernel that was told of more elements than it has
  // threads lacks any number of them.
  bool lacks_elements(const Axis& x) const {
    const uint64_t size = a_.writer.store_bytes, prefix = next(0, false);
    return prefix == x.threads * size && prefix < a_.bytes && next(prefix, true) == a_.bytes &&
           !is_argument(x.threads) &&
           (a_.bytes - prefix < x.block * size ||
            (!a_.writer.loops && is_argument(a_.bytes / size)));
  }
  // Complete rows, but not all.
  bool lacks_rows(const Axis& columns, const Axis& rows) const {
    const uint64_t prefix = next(0, false), row = prefix / rows.threads;
    const uint64_t size = a_.writer.store_bytes;
    return prefix > 0 && prefix % (rows.threads * size) == 0 && prefix < a_.bytes &&
           next(prefix, true) == a_.bytes && row <= columns.threads * size &&
           columns.threads * size - row < columns.block * size &&
           a_.bytes - prefix < rows.block * row && !is_argument(rows.threads);
  }
  // Rows whose ends are missing. A row may be padded: only of arguments is it known how long it is.
  bool lacks_columns(const Axis& columns, const Axis& rows, size_t row_bytes) const {
    const uint64_t size = a_.writer.store_bytes, length = next(0, false);
    const uint64_t pitch = next(length, true);
    const uint64_t width = std::min<uint64_t>(pitch, row_bytes);
    if (length != columns.threads * size || pitch == a_.bytes || width <= length ||
        width - length >= columns.block * size || !is_argument(width / size) ||
        is_argument(columns.threads)) {
      return false;
    }
    const uint64_t all = (a_.bytes + pitch - 1) / pitch, covered = std::min(all, rows.threads);
    if (all - covered >= rows.block) {
      return false;
    }
    for (uint64_t row = 0; row < covered; row++) {
      const uint64_t at = row * pitch;
      const uint64_t end = row + 1 < covered ? at + pitch : a_.bytes;
      if (next(at, false) != at + length || next(at + length, true) != end) {
        return false;
      }
    }
    return true;
  }
  std::string element_text(const Axis& x) const {
    const Allocation::Writer& w = a_.writer;
    return "ran " + std::to_string(w.grid[0]) + " x " + std::to_string(w.block[0]) + " = " +
           std::to_string(x.threads) + " threads, and each wrote one element of " +
           bytes_text(w.store_bytes) + ": element " + std::to_string(x.threads) + " of " +
           std::to_string(a_.bytes / w.store_bytes) + " is the first unwritten one";
  }

  const Allocation& a_;
  const Initialised& marks_;
};

}  // namespace

void check_written(const uint8_t* from, const uint8_t* to, const cudaPitchedPtr& layout,
                   const cudaExtent& box, const char* call) {
  Runtime& runtime = Runtime::get();
  const Settings settings = runtime.settings.current();
  auto allocation = runtime.memory.find(from), target = runtime.memory.find(to);
  if (!settings.initcheck || settings.sample_blocks > 0 || !allocation ||
      !allocation->initialised || (target && target->kind == MemoryKind::Device)) {
    return;
  }
  const Initialised& marks = *allocation->initialised;
  uint64_t unwritten = 0, end = 0;
  const size_t rows = box.height * box.depth;
  for (size_t row = 0; row < rows && !unwritten; row++) {
    const size_t line = row / box.height * layout.ysize + row % box.height;
    const uint64_t at = reinterpret_cast<uint64_t>(from) + line * layout.pitch;
    end = at + box.width;
    const uint64_t found = marks.next(at, end, false);
    unwritten = found < end ? found : 0;
  }
  if (!unwritten) {
    return;
  }
  const Written written(*allocation);
  const bool nothing = written.nothing();
  const std::string grid = nothing ? "" : written.explanation(rows > 1 ? box.width : SIZE_MAX);
  if (nothing ? !runtime.memory.kernels_ran() : grid.empty()) {
    return;
  }
  const uint64_t until = marks.next(unwritten, end, true);
  Finding f = host_finding(HostStack::here());
  f.kind = "initcheck";
  f.address = unwritten;
  f.message = std::string(call) + " copies bytes to the host that nobody has written: " +
              (nothing ? "all"
                       : bytes_text(until - unwritten) + " from byte " +
                             std::to_string(unwritten - allocation->first) + " on") +
              " of " + allocation->text();
  add_history(f);
  if (nothing) {
    f.hint = "no kernel, copy or memset wrote there: did the kernel get this pointer?";
  } else {
    f.history.push_back("the last kernel that wrote there: " + allocation->writer.kernel + " " +
                        grid);
    f.hint =
        "the number of blocks was rounded down: (n + block - 1) / block blocks cover n elements, "
        "and a guard (i < n) keeps the last threads inside";
  }
  throw ApiError{runtime.errors.report(f, cudaErrorInvalidValue)};
}

}  // namespace wbsim
