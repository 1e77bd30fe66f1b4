#include "exec/ops/wgmma_operand.h"

#include <algorithm>
#include <cstdlib>

#include "checks/finding.h"
#include "checks/shared_variable.h"
#include "decode/place.h"
#include "exec/shared_window.h"

namespace wbsim {

std::vector<uint32_t> SharedOperand::offsets(uint32_t first, uint32_t count) const {
  std::vector<uint32_t> out;
  out.reserve(size_t{count} * units * 8);
  for (uint32_t block = first; block < first + count; block++) {
    for (uint32_t line = 0; line < 8; line++) {
      for (uint32_t unit = 0; unit < units; unit++) {
        out.push_back(
            (columns ? matrix.column_unit(unit, line, block) : matrix.row_unit(block, line, unit)) -
            SHARED_BASE);
      }
    }
  }
  return out;
}

SharedOperand SharedOperand::exchanged() const {
  constexpr uint64_t FIELD = 0x3fff;
  const uint64_t leading = descriptor >> 16 & FIELD, stride = descriptor >> 32 & FIELD;
  const uint64_t others = descriptor & ~(FIELD << 16 | FIELD << 32);
  return {name, others | stride << 16 | leading << 32, columns, blocks, units};
}

namespace {

bool is_plain(const SharedMatrix& matrix) { return matrix.swizzle() == Swizzle::None; }

uint32_t width_bytes(const SharedMatrix& matrix) { return UNIT_BYTES * matrix.width(); }

// A stride of the descriptor, and what it separates; 0: nothing, because there is only one.
struct Stride {
  const char* name;
  uint32_t bytes;
  uint32_t count;
};

// Lines are rows along K (K-major), or columns along the rows. They are as far apart as the swizzle
// is wide; groups of eight of them, and what is beyond the width of one, as the descriptor says.
struct Strides {
  Stride group, panel;
};

Strides strides_of(const SharedOperand& o) {
  const Stride leading{"LBO", o.matrix.leading(), 0}, stride{"SBO", o.matrix.stride(), 0};
  const bool plain = is_plain(o.matrix);
  Strides s = o.columns && plain ? Strides{leading, stride} : Strides{stride, leading};
  s.group.count = o.columns ? o.units : o.blocks;
  const uint32_t across = o.columns ? o.blocks : plain ? o.units : 1;
  s.panel.count = (across + o.matrix.width() - 1) / o.matrix.width();
  return s;
}

// Whether some bytes are in several parts of the matrix.
bool overlaps(const SharedOperand& o) {
  const auto [group, panel] = strides_of(o);
  const uint32_t across = o.columns ? o.blocks : o.units;
  const int64_t line = width_bytes(o.matrix);
  const int64_t used = UNIT_BYTES * std::min(across, o.matrix.width());
  for (int64_t p = 0; p < panel.count; p++) {
    for (int64_t g = 1 - int64_t{group.count}; g < group.count; g++) {
      for (int64_t l = -7; l <= 7 && (p || g); l++) {
        if (std::abs(p * panel.bytes + g * group.bytes + l * line) < used) {
          return true;
        }
      }
    }
  }
  return false;
}

// How many 128-byte lines after the start of a pattern the matrix starts; 0 if it fits, or there is
// no pattern.
uint32_t lines_off(const SharedMatrix& matrix) {
  return ((matrix.start() >> 7) - matrix.base_offset()) & (matrix.width() - 1);
}

std::string number(uint64_t n) { return std::to_string(n); }

std::string swizzle_text(Swizzle swizzle) {
  return swizzle == Swizzle::None
             ? "no swizzle"
             : "a " + number(UNIT_BYTES * (static_cast<uint32_t>(swizzle) + 1)) + "-byte swizzle";
}

std::string start_text(const SharedOperand& o, const Block& block) {
  const uint32_t start = o.matrix.start();
  return start - SHARED_BASE < block.shared_bytes
             ? "start " + shared_place_text(*block.kernel, start - SHARED_BASE)
             : "start " + number(start) + ", which is not in the block's shared memory";
}

const char* rows_of(const SharedOperand& o) { return o.name == 'A' ? "rows" : "columns"; }

std::string distances(const SharedOperand& o) {
  const auto [group, panel] = strides_of(o);
  const std::string rows = rows_of(o), line = o.columns ? "k" : rows;
  std::string out = line + " are " + number(width_bytes(o.matrix)) + " bytes apart", unused;
  auto add = [&](const Stride& stride, const std::string& what) {
    if (stride.count > 1) {
      out += ", " + what + " " + number(stride.bytes) + " (" + stride.name + ")";
    } else {
      unused += (unused.empty() ? "" : " and ") + std::string(stride.name);
    }
  };
  add(group, "groups of 8 " + line);
  add(panel, !o.columns
                 ? "the 16-byte pieces of " + std::string(o.name == 'A' ? "a row" : "a column")
                 : "groups of " + number(8 * o.matrix.width()) + " " + rows);
  return out + (unused.empty() ? "" : "; not used here: " + unused);
}

}  // namespace

std::string geometry(const SharedOperand& o, const Block& block) {
  const SharedMatrix& m = o.matrix;
  const std::vector<uint32_t> offsets = o.offsets();
  const auto [low, high] = std::minmax_element(
      offsets.begin(), offsets.end(),
      [](uint32_t a, uint32_t b) { return static_cast<int32_t>(a) < static_cast<int32_t>(b); });
  const std::string what = number(8 * o.blocks) + " " + rows_of(o) +
                           (o.columns ? " at " + number(8 * o.units) + " k"
                                      : " of " + number(UNIT_BYTES * o.units) + " bytes along K");
  return std::string("the descriptor of ") + o.name + ": " + start_text(o, block) + ", LBO " +
         number(m.leading()) + ", SBO " + number(m.stride()) + ", " + swizzle_text(m.swizzle()) +
         (m.base_offset() ? ", base offset " + number(m.base_offset()) : "") +
         (o.columns ? ", MN-major" : ", K-major") + "\n  read this way, " + o.name + " is " + what +
         ": " + distances(o) + "; bytes " + std::to_string(static_cast<int32_t>(*low)) + " to " +
         std::to_string(int64_t{static_cast<int32_t>(*high)} + UNIT_BYTES - 1) +
         " of shared memory";
}

std::string operand_hint(const SharedOperand& operand, const Block& block) {
  const Checker* checker = block.cluster->checker.get();
  auto fits = [&](const SharedOperand& o) {
    const std::vector<uint32_t> offsets = o.offsets();
    return !overlaps(o) && std::all_of(offsets.begin(), offsets.end(), [&](uint32_t offset) {
      return uint64_t{offset} + UNIT_BYTES <= block.shared_bytes &&
             (!checker || checker->is_written(block, offset, UNIT_BYTES));
    });
  };
  const bool exchanged = !fits(operand) && fits(operand.exchanged());
  return (exchanged
              ? std::string("with LBO and SBO exchanged, all of ") + operand.name +
                    " would be in memory that " + (checker ? "has been written" : "exists") + "\n  "
              : "") +
         geometry(operand, block);
}

namespace {

// Reports what a product is about to read from tiles that tensor copies swizzled differently.
void check_swizzle(const Issuer& issuer, const SharedOperand& operand,
                   std::span<const uint32_t> offsets, const Checker& checker) {
  const Block& block = issuer.block();
  const SharedMatrix& matrix = operand.matrix;
  for (uint32_t offset : offsets) {
    const Tile* tile = checker.tile_at(issuer, block, offset, UNIT_BYTES);
    const uint32_t address = offset + SHARED_BASE;
    if (!tile || tile->swizzle == matrix.swizzle() ||
        (tile->row_bytes == width_bytes(matrix) &&  // some lines are the same in both
         swizzled(matrix.unswizzled(address), tile->swizzle) == address)) {
      continue;
    }
    constexpr const char* MODES[] = {"NONE", "32B", "", "64B", "", "", "", "128B"};
    constexpr const char* BITS[] = {"0", "3", "", "2", "", "", "", "1"};
    const auto mode = static_cast<size_t>(tile->swizzle);
    Finding f = finding_at(*issuer.warp, issuer.in, issuer.lane, "memcheck",
                           std::string("wgmma reads matrix ") + operand.name + " with " +
                               swizzle_text(matrix.swizzle()) + ", but the tensor copy wrote " +
                               shared_place_text(*block.kernel, offset) + " with " +
                               swizzle_text(tile->swizzle));
    f.address = address;
    set_other(f, *block.kernel->module, *block.kernel->info[tile->pc].source);
    f.other_what = "the copy";
    f.hint =
        std::string(
            "the swizzles have to be the same: the field in bits 62 and 63 of the descriptor is ") +
        BITS[mode] + " for a tensor map with CU_TENSOR_MAP_SWIZZLE_" + MODES[mode] +
        "; here it is " + BITS[static_cast<size_t>(matrix.swizzle())] + "\n  " +
        geometry(operand, block);
    throw f;
  }
}

}  // namespace

void check_operand(Checker& checker, const Issuer& issuer, const SharedOperand& operand,
                   uint32_t first, uint32_t count) {
  Block& block = issuer.block();
  std::vector<uint32_t> offsets = operand.offsets(first, count);
  std::erase_if(offsets, [&](uint32_t offset) {  // the product itself reports these
    return uint64_t{offset} + UNIT_BYTES > block.shared_bytes;
  });
  check_swizzle(issuer, operand, offsets, checker);
  try {
    checker.async_read(issuer, block, offsets, UNIT_BYTES,
                       checker.order().product_agent(*issuer.warp));
  } catch (Finding& f) {
    f.hint += "\n  " + operand_hint(operand, block);
    throw;
  }
}

void note_operand(Notes& notes, uint32_t pc, const SharedOperand& o, const Block& block) {
  auto [it, first] = notes.try_emplace({pc, o.name});
  Note& note = it->second;
  if (note.odd || (!first && !lines_off(o.matrix))) {
    return;  // only the start changes from one execution to the next
  }
  std::string odd;
  if (const uint32_t off = lines_off(o.matrix)) {
    const uint32_t period = 8 * width_bytes(o.matrix);
    odd = "the start of " + std::string(1, o.name) + " is " + number(128 * off) +
          " bytes behind a multiple of " + number(period) + ", where the pattern of " +
          swizzle_text(o.matrix.swizzle()) +
          " begins: right only if what wrote it swizzled by the address, too, as tensor copies do; "
          "align it to " +
          number(period) + " bytes";
  } else if (overlaps(o)) {
    odd = "several parts of " + std::string(1, o.name) + " are the same bytes" +
          (overlaps(o.exchanged()) ? "" : "; with LBO and SBO exchanged, none would be");
  }
  note.odd = !odd.empty();
  note.text = odd + (note.odd ? "\n  " : "") + geometry(o, block);
}

}  // namespace wbsim
