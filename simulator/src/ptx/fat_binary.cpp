#include "ptx/fat_binary.h"

#include <algorithm>
#include <cstring>

namespace wbsim {
namespace {

constexpr uint32_t WRAPPER_MAGIC = 0x466243b1;
constexpr uint32_t FATBIN_MAGIC = 0xba55ed50;
constexpr const char* HOW_TO_COMPILE =
    "; compile it with -gencode arch=compute_90a,code=compute_90a --no-compress";

struct Wrapper {
  uint32_t magic, version;
  const void* data;
  void* filename;
};

struct Header {
  uint32_t magic;
  uint16_t version, header_bytes;
  uint64_t bytes;  // of all entries
};

struct Entry {
  enum Kind : uint16_t { Ptx = 1, Elf = 2 };
  uint16_t kind, version;
  uint32_t header_bytes;
  uint64_t bytes;  // of the body, padded
  uint32_t compressed_bytes, options;
  uint16_t minor, major;
  uint32_t arch;  // 90 for sm_90 and sm_90a
  uint32_t name_offset, name_bytes;
  uint64_t flags;

  bool compressed() const { return flags & 0xa000; }     // LZ4, Zstandard
  bool of_one_arch() const { return flags & 0x100000; }  // the a of sm_90a
};
static_assert(sizeof(Entry) == 48);

constexpr uint32_t ARCH = 90;  // of the simulated device

// Copies a struct that starts at an offset, if the image holds all of it.
template <class T>
bool read(const uint8_t* image, size_t bytes, size_t at, T& out) {
  if (at > bytes || bytes - at < sizeof(T)) {
    return false;
  }
  std::memcpy(&out, image + at, sizeof(T));
  return true;
}

PtxImage problem(const std::string& what) { return {{}, what + HOW_TO_COMPILE}; }

// The PTX for the newest architecture that the device can run.
PtxImage read_fat_binary(const uint8_t* image, size_t bytes) {
  Header header;
  if (!read(image, bytes, 0, header) || header.header_bytes < sizeof(Header) ||
      header.header_bytes > bytes) {
    return {{}, "the fat binary ends within its header"};
  }
  size_t end = header.header_bytes + std::min<uint64_t>(header.bytes, bytes - header.header_bytes);
  PtxImage found;
  uint32_t best = 0, newest = 0;
  bool machine_code = false, compressed = false;
  Entry entry;
  for (size_t at = header.header_bytes; read(image, end, at, entry);) {
    if (entry.header_bytes < sizeof(Entry) || entry.header_bytes > end - at ||
        entry.bytes > end - at - entry.header_bytes) {
      return {{}, "the fat binary is damaged: an entry is longer than the whole"};
    }
    machine_code = machine_code || entry.kind == Entry::Elf;
    if (entry.kind == Entry::Ptx) {
      uint32_t rank = 2 * entry.arch + entry.of_one_arch();
      newest = std::max(newest, entry.arch);
      compressed = compressed || entry.compressed();
      if (!entry.compressed() && entry.arch <= ARCH && rank > best) {
        const char* body = reinterpret_cast<const char*>(image + at + entry.header_bytes);
        best = rank;
        found.ptx.assign(body, strnlen(body, entry.bytes));
      }
    }
    at += entry.header_bytes + entry.bytes;
  }
  if (!found.ptx.empty()) {
    return found;
  }
  return problem(compressed      ? "the object's PTX is compressed"
                 : newest > ARCH ? "the object's PTX is for sm_" + std::to_string(newest)
                 : machine_code  ? "the object holds machine code without PTX"
                                 : "the object holds no PTX");
}

}  // namespace

PtxImage read_wrapper(const void* wrapper) {
  Wrapper w;
  std::memcpy(&w, wrapper, sizeof w);
  if (w.magic != WRAPPER_MAGIC || !w.data) {
    return {{}, "the fat binary is of an unknown kind"};
  }
  return read_image(w.data);
}

PtxImage read_image(const void* image, size_t bytes) {
  auto* first = static_cast<const uint8_t*>(image);
  const char* text = static_cast<const char*>(image);
  uint32_t magic = 0;
  // Text may be shorter than a magic number: nothing after its end is read.
  size_t length = strnlen(text, std::min<size_t>(bytes, sizeof magic));
  if (length == sizeof magic) {
    std::memcpy(&magic, image, sizeof magic);
  }
  if (magic == FATBIN_MAGIC) {
    return read_fat_binary(first, bytes);
  }
  if (std::memcmp(&magic,
                  "\x7f"
                  "ELF",
                  sizeof magic) == 0) {
    return problem("the image is machine code without PTX");
  }
  length = strnlen(text, bytes);
  return length ? PtxImage{std::string(text, length), {}} : problem("the image is empty");
}

}  // namespace wbsim
