// footprint.h: which sectors of global memory a launch, or a block, reads and writes, each counted
// once: what it has to move if everything else is found in L2.
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>

#include "exec/memory.h"

namespace wbsim {

class Footprint {
 public:
  enum Way : uint8_t { Read, Written };

  // sectors: one bit per sector of a 128-byte line.
  void add(Way way, uint64_t line, uint32_t sectors) {
    const uint32_t at = line % LINES * 4;
    page(line).sectors[way][at / 64] |= uint64_t{sectors} << at % 64;
  }

  // The sectors of a line that were added.
  uint32_t of(Way way, uint64_t line) {
    const uint32_t at = line % LINES * 4;
    return page(line).sectors[way][at / 64] >> at % 64 & 15;
  }

  void clear() {
    pages_.clear();
    last_ = nullptr;
  }

  void merge(const Footprint& other);

  // Bytes. scale: what was seen is multiplied by this, but a region counts at most in full.
  uint64_t bytes(Way way, double scale, const RegionTable& regions) const;

 private:
  static constexpr uint64_t LINES = 128;  // of a page
  struct Page {
    uint64_t sectors[2][LINES * 4 / 64] = {};
  };

  Page& page(uint64_t line) {
    const uint64_t number = line / LINES;
    if (number != last_number_ || !last_) {
      last_number_ = number;
      last_ = &pages_[number];
      if (!*last_) {
        *last_ = std::make_unique<Page>();
      }
    }
    return **last_;
  }

  std::unordered_map<uint64_t, std::unique_ptr<Page>> pages_;
  uint64_t last_number_ = 0;
  std::unique_ptr<Page>* last_ = nullptr;
};

}  // namespace wbsim
