// shared_address.h: address operands of instructions that have several of them, and the shared
// memory of a cluster's blocks that they refer to.
#pragma once

#include <string>
#include <vector>

#include "checks/finding.h"
#include "decode/decoder.h"
#include "exec/shared_window.h"

namespace wbsim {

// Who executes an operation, for its reports.
struct Issuer {
  Warp* warp;
  const Inst* in;
  int lane;

  Block& block() const { return *warp->block; }
  [[noreturn]] void fail(const char* kind, const std::string& message,
                         const std::string& hint = "") const {
    Finding f = finding_at(*warp, in, lane, kind, message);
    f.hint = hint;
    throw f;
  }
};

// What an address operand may refer to. Generic: the shared memory of any block of the cluster.
enum class Window : uint8_t { Cta, Cluster, Generic, Global };

// An address operand: three words of Inst::list.
constexpr size_t ADDRESS_WORDS = 3;

// Appends the words of an address operand. Throws Unsupported.
void push_address(Decode& d, const ptx::Operand& op, Window window, std::vector<uint32_t>& words);

// The modifiers shared, shared::cta and shared::cluster; without them: a generic address.
Window take_window(Decode& d);

// Wraps at the width of its register.
inline uint64_t address_of(Warp& w, const uint32_t* words, int lane) {
  int64_t offset = static_cast<int32_t>(words[2]);
  return words[1] & 0x100 ? static_cast<uint32_t>(w.reg<uint32_t>(words[0])[lane] + offset)
                          : w.reg<uint64_t>(words[0])[lane] + offset;
}

// What keeps a block from using the shared memory of another in its cluster: ", which has exited",
// or ", which may not have started" if no cluster barrier has seen it; "" if nothing does.
std::string trouble_with(const Block& user, const Block& owner);
constexpr char NOT_LIVE_HINT[] =
    "call cluster.sync() before the first use of another block's memory, and after the last";

// A place in the shared memory of a block.
struct SharedPlace {
  Block* block;
  uint32_t offset;

  uint8_t* data() const { return block->shared + offset; }
  uint32_t address() const { return SHARED_BASE + offset; }
};

// The shared memory bytes that an operand refers to. Reports what is outside every block's memory,
// is misaligned, or belongs to a block that has exited. what: "the mbarrier", for the report.
SharedPlace shared_place(const Issuer& issuer, const uint32_t* words, uint64_t bytes,
                         uint32_t align, const char* what);
// The same place in another block of the cluster.
SharedPlace in_block(const Issuer& issuer, SharedPlace place, uint32_t rank, const char* what);

}  // namespace wbsim
