#include "counting/footprint.h"

#include <algorithm>
#include <bit>
#include <map>

#include "counting/patterns.h"

namespace wbsim {

void Footprint::merge(const Footprint& other) {
  for (auto& [number, page] : other.pages_) {
    std::unique_ptr<Page>& own = pages_[number];
    if (!own) {
      own = std::make_unique<Page>();
    }
    for (int way = 0; way < 2; way++) {
      for (size_t i = 0; i < std::size(page->sectors[way]); i++) {
        own->sectors[way][i] |= page->sectors[way][i];
      }
    }
  }
}

uint64_t Footprint::bytes(Way way, double scale, const RegionTable& regions) const {
  std::map<const Region*, uint64_t> by_region;  // nullptr: no region known
  for (auto& [number, page] : pages_) {
    uint64_t sectors = 0;
    for (uint64_t bits : page->sectors[way]) {
      sectors += std::popcount(bits);
    }
    const uint64_t middle = number * LINES * LINE_BYTES + LINES * LINE_BYTES / 2;
    by_region[scale > 1 ? regions.nearest(middle) : nullptr] += sectors * SECTOR_BYTES;
  }
  double total = 0;
  for (auto& [region, seen] : by_region) {
    const double most = region ? static_cast<double>(region->bytes) : scale * seen;
    total += std::max<double>(seen, std::min(scale * seen, most));
  }
  return static_cast<uint64_t>(total);
}

}  // namespace wbsim
