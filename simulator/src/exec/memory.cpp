#include "exec/memory.h"

#include <algorithm>

namespace wbsim {

void RegionTable::add(Region region) {
  longest_ = std::max(longest_, region.bytes);
  uint64_t first = region.first;
  regions_.emplace(first, std::move(region));
}

bool RegionTable::remove(uint64_t first, const std::string& name) {
  auto [from, to] = regions_.equal_range(first);
  for (auto it = from; it != to; ++it) {
    if (it->second.name == name) {
      regions_.erase(it);
      return true;
    }
  }
  return false;
}

const Region* RegionTable::find(uint64_t address, uint64_t bytes, bool write) const {
  const Region* readable = nullptr;
  for (auto it = regions_.upper_bound(address); it != regions_.begin();) {
    --it;
    const Region& r = it->second;
    if (address - r.first > longest_) {
      break;
    }
    if (address - r.first <= r.bytes && bytes <= r.bytes - (address - r.first)) {
      if (!write || r.role != 0) {
        return &r;
      }
      readable = &r;
    }
  }
  return readable;
}

const Region* RegionTable::nearest(uint64_t address) const {
  const Region* best = nullptr;
  uint64_t best_distance = UINT64_MAX;
  for (auto& [first, r] : regions_) {
    uint64_t distance = address < first      ? first - address
                        : address < r.last() ? 0
                                             : address - r.last() + 1;
    if (distance < best_distance) {
      best = &r;
      best_distance = distance;
    }
  }
  return best;
}

bool RegionTable::is_alone(const Region& region) const {
  return std::all_of(regions_.begin(), regions_.end(), [&](const auto& entry) {
    const Region& r = entry.second;
    const bool same = r.first == region.first && r.bytes == region.bytes;
    return same || r.first > region.last() || region.first > r.last();
  });
}

const Region* RegionTable::starting_at(uint64_t first) const {
  auto found = regions_.find(first);
  return found == regions_.end() ? nullptr : &found->second;
}

}  // namespace wbsim
