// tiles.h: what tensor copies wrote to a block's shared memory, and how they swizzled it.
#pragma once

#include <cstdint>
#include <map>

#include "checks/clock.h"
#include "exec/ops/swizzle.h"

namespace wbsim {

struct Tile {
  uint32_t first, bytes;  // offset in the block's shared memory
  uint32_t written;       // as SharedShadow has it: other writes have other times
  uint32_t pc;            // of the copy
  Swizzle swizzle;
  uint32_t row_bytes;
};

class Tiles {
 public:
  void add(const Tile& tile) {
    tiles_.erase(tiles_.lower_bound(tile.first), tiles_.lower_bound(tile.first + tile.bytes));
    tiles_.emplace(tile.first, tile);
  }
  // The tile at an offset, if this is when its bytes there were last written; else nullptr.
  const Tile* at(uint32_t offset, uint32_t written) const {
    auto next = tiles_.upper_bound(offset);
    if (next == tiles_.begin()) {
      return nullptr;
    }
    const Tile& tile = std::prev(next)->second;
    return offset - tile.first < tile.bytes && tile.written == written ? &tile : nullptr;
  }
  void clear() { tiles_.clear(); }

 private:
  std::map<uint32_t, Tile> tiles_;  // by offset
};

}  // namespace wbsim
