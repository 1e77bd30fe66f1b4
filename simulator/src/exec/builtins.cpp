#include "exec/builtins.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>

#include "checks/finding.h"
#include "exec/block.h"
#include "wbsim.h"

namespace wbsim {
namespace {

// ---- Memory of the calling thread ---------------------------------------------------------------

// How many bytes a lane may read starting at a generic address.
uint64_t readable_bytes(const Warp& w, int lane, uint64_t address) {
  const Block& block = *w.block;
  auto left = [&](const uint8_t* base, uint64_t bytes) {
    uint64_t offset = address - reinterpret_cast<uint64_t>(base);
    return offset < bytes ? bytes - offset : 0;
  };
  if (const Region* r = block.worker->launch->regions.find(address, 1, false)) {
    return r->last() - address;
  }
  uint64_t local = left(w.local + uint64_t{block.local_bytes} * lane, block.local_bytes);
  return std::max({local, left(block.shared, block.shared_bytes),
                   left(block.params, block.worker->launch->params.size())});
}

[[noreturn]] void bad_pointer(const Warp& w, const Inst* in, int lane, uint64_t address,
                              const char* what) {
  Finding f = finding_at(w, in, lane, "memcheck",
                         std::string("out-of-bounds read of ") + what + " by printf or assert");
  f.address = address;
  throw f;
}

// A null-terminated string.
std::string read_string(const Warp& w, const Inst* in, int lane, uint64_t address) {
  uint64_t limit = readable_bytes(w, lane, address);
  const char* text = reinterpret_cast<const char*>(address);
  if (limit == 0) {
    bad_pointer(w, in, lane, address, "a string");
  }
  return std::string(text, strnlen(text, limit));
}

// ---- printf -------------------------------------------------------------------------------------

// The arguments of one printf: nvcc stores them consecutively, each aligned to its size.
class Arguments {
 public:
  Arguments(const Warp& w, const Inst* in, int lane, uint64_t address)
      : w_(w), in_(in), lane_(lane), at_(address) {}

  uint64_t count() const { return count_; }

  template <class T>
  T next() {
    at_ = (at_ + sizeof(T) - 1) / sizeof(T) * sizeof(T);
    if (readable_bytes(w_, lane_, at_) < sizeof(T)) {
      bad_pointer(w_, in_, lane_, at_, "an argument");
    }
    T value;
    std::memcpy(&value, reinterpret_cast<const void*>(at_), sizeof(T));
    at_ += sizeof(T);
    count_++;
    return value;
  }

 private:
  const Warp& w_;
  const Inst* in_;
  int lane_;
  uint64_t at_;
  uint64_t count_ = 0;
};

template <class T>
std::string formatted(const std::string& spec, T value) {
  char small[256];
  int length = std::snprintf(small, sizeof small, spec.c_str(), value);
  if (length < static_cast<int>(sizeof small)) {
    return std::string(small, std::max(length, 0));
  }
  std::string large(length + 1, '\0');
  std::snprintf(large.data(), large.size(), spec.c_str(), value);
  large.resize(length);
  return large;
}

constexpr int MAX_WIDTH = 1 << 12;

// Whether a conversion has a width or a precision of more than four digits.
bool is_too_wide(std::string_view spec) {
  size_t digits = 0;
  return std::any_of(spec.begin(), spec.end(), [&](char c) {
    digits = c >= '0' && c <= '9' ? digits + 1 : 0;
    return digits > 4;
  });
}

// Formats one conversion; `spec` is everything from % to the letter, with `*` still in it.
std::string convert(const Warp& w, const Inst* in, int lane, std::string spec, Arguments& args) {
  for (size_t star; (star = spec.find('*')) != std::string::npos;) {
    int value = std::clamp(args.next<int>(), -MAX_WIDTH, MAX_WIDTH);
    spec.replace(star, 1, std::to_string(value));
  }
  if (is_too_wide(spec)) {
    return spec;
  }
  char letter = spec.back();
  // The host has the same sizes: long is 64 bits wide on both.
  bool wide = spec.find_first_of("lLjztq") != std::string::npos;
  if (!std::strchr("diuoxX", letter)) {  // others have one size: no wchar_t, no long double
    std::erase_if(spec, [](char c) { return std::strchr("hlLjztq", c) != nullptr; });
  }
  switch (letter) {
    case 'd':
    case 'i':
    case 'u':
    case 'o':
    case 'x':
    case 'X':
      return wide ? formatted(spec, args.next<long long>()) : formatted(spec, args.next<int>());
    case 'c':
      return formatted(spec, args.next<int>());
    case 'f':
    case 'F':
    case 'e':
    case 'E':
    case 'g':
    case 'G':
    case 'a':
    case 'A':
      return formatted(spec, args.next<double>());
    case 'p':
      return formatted(spec, args.next<void*>());
    case 's': {
      uint64_t address = args.next<uint64_t>();
      std::string text = address ? read_string(w, in, lane, address) : "(null)";
      return formatted(spec, text.c_str());
    }
    default:
      return spec;  // not a conversion: unchanged
  }
}

// vprintf(format, arguments) returns the number of arguments, as on a GPU.
uint64_t print(Warp& w, const Inst* in, int lane, const uint64_t* values) {
  std::string format = read_string(w, in, lane, values[0]);
  Arguments args(w, in, lane, values[1]);
  std::string out;
  for (size_t i = 0; i < format.size();) {
    if (format[i] != '%') {
      out += format[i++];
      continue;
    }
    if (i + 1 < format.size() && format[i + 1] == '%') {
      out += '%';
      i += 2;
      continue;
    }
    size_t end = format.find_first_not_of("-+ #0123456789.*hlLjztq", i + 1);
    if (end == std::string::npos) {
      out += format.substr(i);
      break;
    }
    std::string spec = format.substr(i, end - i + 1);
    out += convert(w, in, lane, spec, args);
    i = end + 1;
  }
  w.block->cluster->output += out;
  return args.count();
}

// ---- assert -------------------------------------------------------------------------------------

// __assertfail(expression, file, line, function, size of a character)
uint64_t fail_assertion(Warp& w, const Inst* in, int lane, const uint64_t* values) {
  std::string expression = read_string(w, in, lane, values[0]);
  std::string file = read_string(w, in, lane, values[1]);
  std::string function = read_string(w, in, lane, values[3]);
  throw finding_at(w, in, lane, "assert",
                   file + ":" + std::to_string(static_cast<uint32_t>(values[2])) + ": " + function +
                       ": assertion `" + expression + "` failed");
}

// ---- malloc and free ----------------------------------------------------------------------------

// First fit over one stretch of memory that lives as long as the process.
class Heap {
 public:
  static Heap& get() {
    static Heap* heap = new Heap;
    return *heap;
  }
  Region region() {
    std::lock_guard lock(mutex_);
    if (!base_) {
      void* memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (memory == MAP_FAILED) {
        bytes_ = 0;
        return {};
      }
      base_ = reinterpret_cast<uint64_t>(memory);
      free_[base_] = bytes_;
    }
    return {base_, bytes_, "device heap", "malloc in kernels", WBSIM_INOUT};
  }
  bool exists() {
    std::lock_guard lock(mutex_);
    return base_ != 0;
  }
  uint64_t allocate(uint64_t bytes) {
    std::lock_guard lock(mutex_);
    if (bytes > bytes_) {
      return 0;
    }
    const uint64_t requested = std::max<uint64_t>(bytes, 1);
    bytes = whole_bytes(requested);
    for (auto [at, size] : free_) {
      if (size >= bytes) {
        free_.erase(at);
        if (size > bytes) {
          free_[at + bytes] = size - bytes;
        }
        used_[at] = requested;
        return at;
      }
    }
    return 0;
  }
  bool release(uint64_t at) {
    std::lock_guard lock(mutex_);
    auto used = used_.find(at);
    if (used == used_.end()) {
      return false;
    }
    auto here = free_.emplace(at, whole_bytes(used->second)).first;
    used_.erase(used);
    join(here);
    if (here != free_.begin()) {
      join(std::prev(here));
    }
    return true;
  }
  // Whether malloc has returned these bytes and free has not taken them back; else, the text says
  // where they are.
  bool holds(uint64_t at, uint64_t bytes, std::string& text) {
    std::lock_guard lock(mutex_);
    auto used = used_.upper_bound(at);
    if (used != used_.begin()) {
      const auto& [first, size] = *std::prev(used);
      if (at - first < size + GAP) {
        text = "byte " + std::to_string(at - first) + " of the " + std::to_string(size) +
               " that malloc returned";
        return at - first <= size && bytes <= size - (at - first);
      }
    }
    text = "which malloc has not returned, or free() has taken back";
    return false;
  }
  void set_bytes(uint64_t bytes) {
    std::lock_guard lock(mutex_);
    bytes_ = base_ ? bytes_ : bytes;
  }
  uint64_t bytes() {
    std::lock_guard lock(mutex_);
    return bytes_;
  }

 private:
  static constexpr uint64_t GAP = 16;  // at least, between two blocks
  static uint64_t whole_bytes(uint64_t bytes) { return (bytes + GAP + 15) / 16 * 16; }
  // Merges a free stretch with the one right after it.
  void join(std::map<uint64_t, uint64_t>::iterator first) {
    auto second = std::next(first);
    if (second != free_.end() && first->first + first->second == second->first) {
      first->second += second->second;
      free_.erase(second);
    }
  }

  std::mutex mutex_;
  uint64_t base_ = 0, bytes_ = uint64_t{8} << 20;  // CUDA's default
  std::map<uint64_t, uint64_t> free_, used_;       // first address -> bytes
};

uint64_t allocate(Warp&, const Inst*, int, const uint64_t* values) {
  return Heap::get().allocate(values[0]);
}

uint64_t release(Warp& w, const Inst* in, int lane, const uint64_t* values) {
  if (values[0] && !Heap::get().release(values[0])) {
    throw finding_at(w, in, lane, "memcheck",
                     "free of an address that malloc in a kernel did not return, or twice");
  }
  return 0;
}

constexpr Builtin BUILTINS[] = {
    {"vprintf", print},
    {"__assertfail", fail_assertion},
    {"malloc", allocate, true},
    {"free", release, true},
};

}  // namespace

const Builtin* find_builtin(const std::string& name) {
  auto found = std::find_if(std::begin(BUILTINS), std::end(BUILTINS),
                            [&](const Builtin& b) { return name == b.name; });
  return found == std::end(BUILTINS) ? nullptr : found;
}

void check_heap(const Warp& w, const Inst* in, int lane, uint64_t address, uint64_t bytes,
                const std::string& what) {
  std::string place;
  if (!Heap::get().holds(address, bytes, place)) {
    Finding f =
        finding_at(w, in, lane, "memcheck",
                   "out-of-bounds " + what + " in the memory of malloc in kernels, " + place);
    f.address = address;
    f.hint = "check the index against the size given to malloc, and that free() comes last";
    throw f;
  }
}

Region device_heap() { return Heap::get().region(); }
bool device_heap_exists() { return Heap::get().exists(); }
void set_device_heap_bytes(uint64_t bytes) { Heap::get().set_bytes(bytes); }
uint64_t device_heap_bytes() { return Heap::get().bytes(); }

}  // namespace wbsim
