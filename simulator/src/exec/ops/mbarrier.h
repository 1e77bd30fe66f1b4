// mbarrier.h: mbarrier objects (PTX ISA, "mbarrier"): 8 bytes in shared memory.
//
// A phase is complete when its pending arrivals and its tx-count are both zero; then the next one
// begins with the expected number of arrivals. Few 64-bit patterns are valid objects: uninitialised
// memory (0xff everywhere, or zero) is not, and is reported.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "exec/ops/shared_address.h"

namespace wbsim {

struct Mbarrier {
  static constexpr uint32_t MAX_COUNT = (1 << 20) - 1;  // of arrivals and, either way, of bytes

  uint32_t pending;   // arrivals that the phase still waits for
  uint32_t expected;  // arrivals of the next phase
  int32_t tx;         // bytes that the phase still waits for; negative: more came than expected
  bool phase;         // parity of the phase's number
};

// The object's bytes, which are also what mbarrier.arrive returns as its state.
uint64_t encoded(const Mbarrier& barrier);
bool is_mbarrier(uint64_t bits);
Mbarrier decoded(uint64_t bits);

constexpr const char* THE_MBARRIER = "the mbarrier";

inline SharedPlace mbarrier_place(const Issuer& issuer, const uint32_t* words) {
  return shared_place(issuer, words, sizeof(uint64_t), alignof(uint64_t), THE_MBARRIER);
}

// The object at a place; reports bytes that are not one.
Mbarrier load_mbarrier(const Issuer& issuer, SharedPlace at);

void init_mbarrier(const Issuer& issuer, SharedPlace at, uint32_t count);
void invalidate_mbarrier(const Issuer& issuer, SharedPlace at);

struct Arrival {
  uint32_t count = 1;
  uint32_t expect_tx = 0;    // bytes that the phase waits for in addition
  bool drop = false;         // later phases do not expect these arrivals
  bool no_complete = false;  // must not be the last
  Mask together = 0;         // the lanes that execute the instruction
};
// Returns the state before the arrival.
uint64_t arrive(const Issuer& issuer, SharedPlace at, const Arrival& arrival);
void expect_tx(const Issuer& issuer, SharedPlace at, uint32_t bytes);
void complete_tx(const Issuer& issuer, SharedPlace at, uint32_t bytes);
// One more arrival of this phase: a copy will make it.
void expect_arrivals(const Issuer& issuer, SharedPlace at, uint32_t count);

// ---- For reports (mbarrier_text.cpp).

// The phase that a lane waits for; nothing if its instruction is not a wait for an mbarrier.
struct AwaitedPhase {
  SharedPlace at;
  bool parity;
};
std::optional<AwaitedPhase> awaited_phase(Warp& w, const Inst* in, int lane);

// What a phase lacks once the copies in flight have come.
struct Lacks {
  int64_t arrivals, of;
  int64_t bytes;   // negative: more came than were announced
  bool announced;  // bytes play a part in this phase
};
Lacks lacks(const Mbarrier& barrier, SharedPlace at);

// "'full[1]'", "'ring' (byte 2048)"; in a cluster also its block.
std::string mbarrier_name(SharedPlace at);
// "all 2 arrivals have come, but 16 bytes that expect_tx announced have not come".
std::string lacks_text(const Lacks& lacks);
// One that comes when all others of its phase have come.
[[noreturn]] void report_extra_arrival(const Issuer& issuer, SharedPlace at,
                                       const Mbarrier& barrier, const Arrival& arrival);

}  // namespace wbsim
