// patterns.h: what the access pattern of a warp costs: 32-byte sectors of global memory, wavefronts
// of shared memory. Rules as measured with Nsight Compute (docs/counters.md).
#pragma once

#include "exec/observe.h"

namespace wbsim {

constexpr uint32_t SECTOR_BYTES = 32, LINE_BYTES = 128;

// The 128-byte lines that a warp touches, each once.
struct Lines {
  struct Line {
    uint64_t number;    // address / 128
    uint64_t bytes[2];  // one bit per byte that is touched

    // One bit per sector: those that are touched, and those that are touched completely.
    uint32_t sectors() const {
      auto half = [](uint64_t b) { return (b & 0xffffffff ? 1u : 0) | (b >> 32 ? 2u : 0); };
      return half(bytes[0]) | half(bytes[1]) << 2;
    }
    uint32_t whole_sectors() const {
      auto half = [](uint64_t b) {
        return ((b & 0xffffffff) == 0xffffffff ? 1u : 0) | (b >> 32 == 0xffffffff ? 2u : 0);
      };
      return half(bytes[0]) | half(bytes[1]) << 2;
    }
  };
  // A lane's 32 bytes of local memory are 8 words, each of which may be in a separate line.
  static constexpr int MAX_LINES = 8 * LANES;
  int size = 0;
  Line line[MAX_LINES];
};

// An access of a lane is at most 32 bytes long and aligned to its size, or to 16.
void find_lines(const WarpAccess& access, Mask mask, Lines& lines);

// The lines in memory of an access to the lanes' local memory, whose words are interleaved: word i
// of lane l is word 32 * i + l.
void find_local_lines(const WarpAccess& access, Lines& lines);

// What one request costs, and what it would if the lanes requested each byte once, contiguously.
struct Cost {
  uint32_t units = 0, ideal = 0;
};

Cost sectors_of(const Lines& lines);
// Lanes with the same address take turns, and each turn requests its sectors.
Cost atomic_sectors_of(const WarpAccess& access, const Lines& lines);

// Wavefronts of a load or store: passes over the 32 banks of 4 bytes. An access of 16-byte rows of
// matrices (ldmatrix, stmatrix) takes each matrix by itself.
Cost wavefronts_of(const WarpAccess& access, bool matrices);
// compares: atom.cas, which reads in one pass and writes in another.
Cost atomic_wavefronts_of(const WarpAccess& access, bool compares);

// cp.async through L1: the banks that hold the sources in the cache count like those of shared
// memory.
Cost copy_wavefronts_of(const WarpAccess& from, const WarpAccess& to);
// cp.async bypassing L1: one request per pair of a shared and a global sector that a copy connects.
uint32_t copied_sectors(const WarpAccess& from, const WarpAccess& to);

}  // namespace wbsim
