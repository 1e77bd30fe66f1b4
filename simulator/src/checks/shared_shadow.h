// shared_shadow.h: who last wrote and read each piece of a block's shared memory.
//
// A piece is as large as the smallest access of the kernel, so that no access covers only part of
// one. Times continue from block to block: anything older than the block's start never happened.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "checks/clock.h"
#include "checks/tiles.h"

namespace wbsim {

// Set in a time: by an asynchronous operation, or from another block. Such times are compared with
// what is known of their agent, never with a floor.
constexpr Time APART = 1u << 31;

constexpr uint32_t SEVERAL = 32;  // all lanes of a warp; also an agent that has no lanes

// Who did something: agent and lane, and whether it was atomic. REFILL: a copy to where the one
// before it went.
struct Who {
  static constexpr uint32_t ATOMIC = 1u << 31, ASYNC = 1u << 30, REFILL = 1u << 29;
  uint32_t bits = 0;

  static Who of(uint32_t agent, uint32_t lane, uint32_t flags = 0) {
    return {agent << 6 | lane | flags};
  }
  uint32_t agent() const { return (bits & ~(ATOMIC | ASYNC | REFILL)) >> 6; }
  uint32_t lane() const { return bits & 63; }
  bool atomic() const { return bits & ATOMIC; }
  bool async() const { return bits & ASYNC; }
  bool refill() const { return bits & REFILL; }
};

// What one agent read: for each piece, the time and, in the lowest six bits, the lane or SEVERAL.
struct Reads {
  std::vector<uint32_t> record, pc;
};

class SharedShadow {
 public:
  // For a new block. Forgets everything if the size changes.
  void resize(uint32_t shared_bytes, int shift) {
    const size_t pieces = (shared_bytes + (size_t{1} << shift) - 1) >> shift;
    read.assign(pieces / FEW + 1, 0);
    tiles.clear();
    if (pieces == written.size() && shift == this->shift) {
      return;
    }
    this->shift = shift;
    for (auto* all : {&written, &writer, &write_pc}) {
      all->assign(pieces, 0);
    }
    reads.clear();
    readers.clear();
  }
  // What an agent has read, created if there is nothing yet.
  Reads& of(uint32_t agent) {
    if (agent < reads.size() && reads[agent]) [[likely]] {
      return *reads[agent];
    }
    return add_reader(agent);
  }
  // when: APART is above all times, and stays set.
  void note_read(uint32_t first, uint32_t n, uint32_t when) {
    for (uint32_t i = first / FEW; i <= (first + n - 1) / FEW; i++) {
      read[i] = std::max(read[i], when);
    }
  }
  // Whether any agent may have read one of n pieces after a time.
  bool is_read_since(uint32_t first, uint32_t n, Time time) const {
    bool later = false;
    for (uint32_t i = first / FEW; i <= (first + n - 1) / FEW; i++) {
      later |= read[i] > time;
    }
    return later;
  }
  void forget() {
    tiles.clear();
    for (auto* all : {&written, &writer, &write_pc, &read}) {
      std::fill(all->begin(), all->end(), 0);
    }
    reads.clear();
    readers.clear();
  }

  static constexpr uint32_t FEW = 16;  // pieces

  int shift = 2;                              // of the size of a piece
  std::vector<uint32_t> written;              // when, by piece
  std::vector<uint32_t> writer, write_pc;     // Who; the instruction's index in Kernel::code
  std::vector<uint32_t> read;                 // when one of FEW pieces was last read
  std::vector<std::unique_ptr<Reads>> reads;  // by agent
  std::vector<uint32_t> readers;              // agents that have read something
  Tiles tiles;                                // of tensor copies

 private:
  [[gnu::noinline]] Reads& add_reader(uint32_t agent) {
    if (agent >= reads.size()) {
      reads.resize(agent + 1);
    }
    reads[agent] = std::make_unique<Reads>();
    reads[agent]->record.assign(written.size(), 0);
    reads[agent]->pc.assign(written.size(), 0);
    readers.push_back(agent);
    return *reads[agent];
  }
};

}  // namespace wbsim
