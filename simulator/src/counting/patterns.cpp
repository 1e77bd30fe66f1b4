#include "counting/patterns.h"

#include <algorithm>
#include <bit>

#include "exec/lanes.h"

namespace wbsim {
namespace {

constexpr uint32_t BANKS = 32, BANK_BYTES = 4;
constexpr Mask LOW_HALF = 0xffff, QUARTER = 0xff;

uint32_t divide_up(uint32_t a, uint32_t b) { return (a + b - 1) / b; }

Lines::Line& add_line(Lines& lines, uint64_t number) {
  Lines::Line& line = lines.line[lines.size++];
  line = {number, {0, 0}};
  return line;
}

// Assigns positions in a list to numbers, in order of first appearance: open addressing, with twice
// as many slots as there may be numbers.
template <int MOST>
class Places {
 public:
  // The place of a number; if it is new, the next one.
  template <class NumberAt>
  int find(uint64_t number, int size, NumberAt number_at) {
    for (auto i = static_cast<uint32_t>(number * 0x9e3779b97f4a7c15ull >> 48);; i++) {
      Slot& slot = slots_[i % SLOTS];
      if (slot == 0) {
        slot = static_cast<Slot>(size + 1);
        return size;
      }
      if (number_at(slot - 1) == number) {
        return slot - 1;
      }
    }
  }

 private:
  using Slot = std::conditional_t<(MOST < 255), uint8_t, uint16_t>;
  static constexpr uint32_t SLOTS = 2 * MOST;
  Slot slots_[SLOTS] = {};  // places, from 1
};

// Finds lines by number.
template <int MOST>
class LineTable {
 public:
  explicit LineTable(Lines& lines) : lines_(lines) { lines_.size = 0; }

  Lines::Line& operator[](uint64_t number) {
    if (lines_.size > 0 && lines_.line[lines_.size - 1].number == number) {
      return lines_.line[lines_.size - 1];
    }
    const int place =
        places_.find(number, lines_.size, [&](int i) { return lines_.line[i].number; });
    if (place == lines_.size) {
      add_line(lines_, number);
    }
    return lines_.line[place];
  }

 private:
  Lines& lines_;
  Places<MOST> places_;
};

void mark(Lines::Line& line, uint64_t address, uint32_t bytes) {
  const uint32_t at = address % LINE_BYTES;
  line.bytes[at / 64] |= ((uint64_t{1} << bytes) - 1) << at % 64;
}

// Contiguous bytes. The access is not checked yet: they may go around the end of the address space.
void find_stretch(uint64_t first, uint32_t bytes, Lines& lines) {
  lines.size = 0;
  while (bytes > 0) {
    const auto from = static_cast<uint32_t>(first % LINE_BYTES);
    const uint32_t to = std::min(from + bytes, LINE_BYTES);
    Lines::Line& line = lines.line[lines.size++];
    line.number = first / LINE_BYTES;
    first += to - from;
    bytes -= to - from;
    auto below = [](uint32_t n) { return n >= 64 ? ~uint64_t{0} : (uint64_t{1} << n) - 1; };
    line.bytes[0] = below(to) & ~below(from);
    line.bytes[1] = to > 64 ? below(to - 64) & ~(from > 64 ? below(from - 64) : 0) : 0;
  }
}

// The largest of 32 numbers given by slices of their bits.
uint32_t largest(const uint32_t (&slices)[6]) {
  uint32_t candidates = ~0u, most = 0;
  for (int i = 5; i >= 0; i--) {
    if (candidates & slices[i]) {
      candidates &= slices[i];
      most |= 1u << i;
    }
  }
  return most;
}

// The most different words that any one bank has to deliver to the lanes.
uint32_t bank_wavefronts(const WarpAccess& access, Mask mask) {
  const uint32_t words = (1u << divide_up(access.bytes, BANK_BYTES)) - 1;
  uint32_t rows[LANES], banks[LANES];  // a row is 32 adjacent banks
  int size = 0;
  Places<LANES> places;
  for_lanes(mask, [&](int l) {
    const auto offset = static_cast<uint32_t>(access.at(l));
    const uint32_t bank = offset / BANK_BYTES % BANKS, row = offset / (BANKS * BANK_BYTES);
    int place = size > 0 && rows[size - 1] == row
                    ? size - 1
                    : places.find(row, size, [&](int i) { return rows[i]; });
    if (place == size) {
      rows[size] = row;
      banks[size++] = 0;
    }
    banks[place] |= words << bank;
  });
  // Counts the rows of each bank: bit i of them all is slice i.
  uint32_t slices[6] = {};
  for (int i = 0; i < size; i++) {
    uint32_t carry = banks[i];
    for (uint32_t& slice : slices) {
      const uint32_t both = slice & carry;
      slice ^= carry;
      carry = both;
    }
  }
  return largest(slices);
}

// Whether each active lane accesses the same address as its neighbour (at distance 1 or 2), if the
// latter is active.
bool is_paired(const WarpAccess& access, Mask mask, int distance) {
  bool paired = true;
  for_lanes(mask, [&](int l) {
    const int other = l ^ distance;
    paired &= !((mask >> other) & 1) || access.at(l) == access.at(other);
  });
  return paired;
}

// Whether two passes become one: loads only, if the lanes come in pairs.
bool merges(const WarpAccess& access, Mask mask) {
  return access.kind == WarpAccess::Kind::Load &&
         (is_paired(access, mask, 1) || is_paired(access, mask, 2));
}

// The lanes of a warp that one pass serves.
struct Passes {
  int count;
  Mask mask[4];
};

Passes passes_of(uint32_t bytes) {
  if (bytes <= BANK_BYTES) {
    return {1, {ALL_LANES}};
  }
  if (bytes <= 2 * BANK_BYTES) {
    return {2, {LOW_HALF, ~LOW_HALF}};
  }
  return {4, {QUARTER, QUARTER << 8, QUARTER << 16, QUARTER << 24}};
}

// The most lanes that go to one bank, including those with the same word.
uint32_t most_lanes(const WarpAccess& access, Mask mask) {
  uint32_t lanes_of[BANKS] = {};
  uint32_t most = 0;
  for_lanes(mask, [&](int l) {
    const uint64_t first = access.at(l) / BANK_BYTES;
    for (uint32_t i = 0; i < std::max(1u, access.bytes / BANK_BYTES); i++) {
      most = std::max(most, ++lanes_of[(first + i) % BANKS]);
    }
  });
  return most;
}

uint32_t half_wavefronts(const WarpAccess& access, Mask half) {
  if (half == 0) {
    return 0;
  }
  if (access.bytes <= 8 || merges(access, half)) {
    return bank_wavefronts(access, half);
  }
  const Mask low = half & (QUARTER | QUARTER << 16), high = half & ~low;
  return bank_wavefronts(access, low) + bank_wavefronts(access, high);
}

// Bytes that lanes request, each counted once; all accesses have one size and are aligned to it.
uint32_t unique_bytes(const WarpAccess& access) {
  uint32_t lanes = static_cast<uint32_t>(std::popcount(access.mask));
  if (access.regular) {
    return (access.step == 0 ? 1 : lanes) * access.bytes;
  }
  Lines lines;
  find_lines(access, access.mask, lines);
  uint32_t bytes = 0;
  for (int i = 0; i < lines.size; i++) {
    bytes += std::popcount(lines.line[i].bytes[0]) + std::popcount(lines.line[i].bytes[1]);
  }
  return bytes;
}

}  // namespace

void find_lines(const WarpAccess& access, Mask mask, Lines& lines) {
  if (access.regular && mask != 0) {
    const int low = std::countr_zero(mask), high = 31 - std::countl_zero(mask);
    if (access.step == 0) {
      return find_stretch(access.first, access.bytes, lines);
    }
    if (access.step == access.bytes && std::popcount(mask) == high - low + 1) {
      return find_stretch(access.at(low), (high - low + 1) * access.bytes, lines);
    }
    lines.size = 0;  // lanes of one line are consecutive
    for_lanes(mask, [&](int l) {
      const uint64_t address = access.at(l), number = address / LINE_BYTES;
      const bool same = lines.size > 0 && lines.line[lines.size - 1].number == number;
      mark(same ? lines.line[lines.size - 1] : add_line(lines, number), address, access.bytes);
    });
    return;
  }
  LineTable<LANES> table(lines);
  for_lanes(mask, [&](int l) {
    const uint64_t address = access.at(l);
    mark(table[address / LINE_BYTES], address, access.bytes);
  });
}

void find_local_lines(const WarpAccess& access, Lines& lines) {
  LineTable<Lines::MAX_LINES> table(lines);
  for_lanes(access.mask, [&](int l) {
    const uint64_t offset = access.at(l);
    for (uint64_t at = offset; at < offset + access.bytes; at += BANK_BYTES) {
      const uint64_t in_word = access.bytes < BANK_BYTES ? at % BANK_BYTES : 0;
      mark(table[at / BANK_BYTES], l * BANK_BYTES + in_word, std::min(access.bytes, BANK_BYTES));
    }
  });
}

Cost sectors_of(const Lines& lines) {
  Cost cost;
  uint32_t bytes = 0;
  for (int i = 0; i < lines.size; i++) {
    cost.units += std::popcount(lines.line[i].sectors());
    bytes += std::popcount(lines.line[i].bytes[0]) + std::popcount(lines.line[i].bytes[1]);
  }
  cost.ideal = divide_up(bytes, SECTOR_BYTES);
  return cost;
}

Cost atomic_sectors_of(const WarpAccess& access, const Lines& lines) {
  Cost cost = sectors_of(lines);
  cost.units = 0;
  for (Mask rest = access.mask; rest;) {
    // This turn takes the first lane of each address.
    Mask turn = 0;
    uint64_t addresses[LANES];
    int size = 0;
    Places<LANES> places, sectors;
    for_lanes(rest, [&](int l) {
      if (places.find(access.at(l), size, [&](int i) { return addresses[i]; }) == size) {
        addresses[size++] = access.at(l);
        turn |= Mask{1} << l;
      }
    });
    uint64_t numbers[LANES];
    int different = 0;
    for_lanes(turn, [&](int l) {
      const uint64_t number = access.at(l) / SECTOR_BYTES;
      if (sectors.find(number, different, [&](int i) { return numbers[i]; }) == different) {
        numbers[different++] = number;
      }
    });
    cost.units += different;
    rest &= ~turn;
  }
  return cost;
}

Cost wavefronts_of(const WarpAccess& access, bool matrices) {
  if (access.mask == 0) {
    return {};
  }
  const uint32_t row = BANKS * BANK_BYTES;
  if (matrices) {
    Cost cost;
    for (Mask rest = access.mask, matrix = QUARTER; rest & matrix; matrix <<= 8) {
      cost.units += bank_wavefronts(access, rest & matrix);
      cost.ideal++;
    }
    return cost;
  }
  if (access.regular && access.mask == ALL_LANES && access.bytes <= 16) {
    const uint32_t passes = std::max(1u, access.bytes / BANK_BYTES);
    if (access.step == 0) {
      const bool loads = access.kind == WarpAccess::Kind::Load;
      return {loads ? divide_up(passes, 2) : passes, 1};
    }
    if (access.step == access.bytes && access.first % row == 0) {
      return {passes, access.bytes < BANK_BYTES ? 1 : passes};
    }
  }
  Cost cost;
  cost.ideal = divide_up(unique_bytes(access), row);
  if (access.bytes <= BANK_BYTES || (access.bytes == 8 && merges(access, access.mask))) {
    cost.units = bank_wavefronts(access, access.mask);
  } else {
    cost.units = half_wavefronts(access, access.mask & LOW_HALF) +
                 half_wavefronts(access, access.mask & ~LOW_HALF);
  }
  return cost;
}

Cost atomic_wavefronts_of(const WarpAccess& access, bool compares) {
  Cost cost;
  const Passes passes = passes_of(access.bytes);
  for (int i = 0; i < passes.count; i++) {
    cost.units += most_lanes(access, access.mask & passes.mask[i]);
  }
  cost.units *= compares ? 2 : 1;
  cost.ideal = divide_up(unique_bytes(access), BANKS * BANK_BYTES);
  return cost;
}

Cost copy_wavefronts_of(const WarpAccess& from, const WarpAccess& to) {
  Cost cost;
  const Passes passes = passes_of(to.bytes);
  for (int i = 0; i < passes.count; i++) {
    const Mask mask = passes.mask[i];
    const Mask written = to.mask & mask;
    cost.units +=
        written ? std::max(bank_wavefronts(to, written), most_lanes(from, from.mask & mask)) : 0;
  }
  cost.ideal = divide_up(unique_bytes(to), BANKS * BANK_BYTES);
  return cost;
}

uint32_t copied_sectors(const WarpAccess& from, const WarpAccess& to) {
  uint64_t numbers[LANES];
  int size = 0;
  Places<LANES> places;
  for_lanes(from.mask, [&](int l) {
    // A block's shared memory has less than 2^13 sectors.
    const uint64_t number = from.at(l) / SECTOR_BYTES << 13 | to.at(l) / SECTOR_BYTES;
    if (places.find(number, size, [&](int i) { return numbers[i]; }) == size) {
      numbers[size++] = number;
    }
  });
  return size;
}

}  // namespace wbsim
