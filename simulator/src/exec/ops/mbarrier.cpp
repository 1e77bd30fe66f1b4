#include "exec/ops/mbarrier.h"

#include <cstring>

#include "checks/checker.h"
#include "exec/block.h"
#include "exec/control.h"
#include "exec/ops/copy_queue.h"

namespace wbsim {
namespace {

// From the lowest bit: 20 of pending, 20 of expected, 21 of tx in two's complement, the phase, and
// two that mark an mbarrier.
constexpr int COUNT_BITS = 20, TX_BITS = 21, PHASE_BIT = 61, MARK_BIT = 62;
constexpr uint64_t MARK = 1;

uint64_t field(uint64_t bits, int at, int width) {
  return (bits >> at) & ((uint64_t{1} << width) - 1);
}

void store(SharedPlace at, uint64_t bits) { std::memcpy(at.data(), &bits, sizeof bits); }

std::string number(int64_t n) { return std::to_string(n); }

void add_tx(const Issuer& issuer, Mbarrier& barrier, int64_t bytes) {
  int64_t tx = barrier.tx + bytes;
  constexpr int64_t MAX = Mbarrier::MAX_COUNT;
  if (tx > MAX || tx < -MAX || bytes > MAX || bytes < -MAX) {
    issuer.fail("synccheck", "the tx-count of the mbarrier becomes " + number(tx) +
                                 "; its range is " + number(-MAX) + " to " + number(MAX));
  }
  barrier.tx = static_cast<int32_t>(tx);
}

// expect_tx announces bytes.
void announce(const Issuer& issuer, SharedPlace at, Mbarrier& barrier, uint32_t bytes) {
  add_tx(issuer, barrier, bytes);
  if (Checker* checker = at.block->cluster->checker.get(); checker && bytes) {
    checker->order().announce(at, bytes);
  }
}

// Stores the object's new state after an operation, and begins the next phase if this one is
// complete.
void update(SharedPlace at, Mbarrier barrier) {
  bool complete = barrier.pending == 0 && barrier.tx == 0;
  if (complete) {
    if (Checker* checker = at.block->cluster->checker.get()) {
      checker->order().complete_phase(at);
    }
    at.block->mbarriers[at.offset]++;
    barrier.phase = !barrier.phase;
    barrier.pending = barrier.expected;
  }
  store(at, encoded(barrier));
  at.block->cluster->given_up = 0;  // something happens, even if nothing has waited for it
  if (complete || has_signals(at)) {
    notify(*at.block->cluster);
  }
}

void check_unused(const Issuer& issuer, SharedPlace at, const char* what) {
  if (has_signals(at)) {
    issuer.fail(
        "synccheck",
        std::string("the mbarrier is ") + what + " while a copy that will signal it is in flight",
        "wait for the copy first");
  }
}

}  // namespace

uint64_t encoded(const Mbarrier& b) {
  uint64_t tx = static_cast<uint64_t>(b.tx) & ((1 << TX_BITS) - 1);
  return b.pending | uint64_t{b.expected} << COUNT_BITS | tx << (2 * COUNT_BITS) |
         uint64_t{b.phase} << PHASE_BIT | MARK << MARK_BIT;
}

bool is_mbarrier(uint64_t bits) { return bits >> MARK_BIT == MARK; }

Mbarrier decoded(uint64_t bits) {
  auto tx = static_cast<int32_t>(field(bits, 2 * COUNT_BITS, TX_BITS));
  return {static_cast<uint32_t>(field(bits, 0, COUNT_BITS)),
          static_cast<uint32_t>(field(bits, COUNT_BITS, COUNT_BITS)),
          tx >> (TX_BITS - 1) ? tx - (1 << TX_BITS) : tx, field(bits, PHASE_BIT, 1) != 0};
}

Mbarrier load_mbarrier(const Issuer& issuer, SharedPlace at) {
  uint64_t bits;
  std::memcpy(&bits, at.data(), sizeof bits);
  if (!is_mbarrier(bits)) {
    issuer.fail("synccheck",
                "there is no mbarrier at " + mbarrier_name(at) +
                    ": nothing initialised it, or something else was written there",
                "one thread calls mbarrier.init, and the others wait for it before they use it");
  }
  return decoded(bits);
}

void init_mbarrier(const Issuer& issuer, SharedPlace at, uint32_t count) {
  if (count == 0 || count > Mbarrier::MAX_COUNT) {
    issuer.fail("synccheck", "an mbarrier for " + number(count) + " arrivals; it takes 1 to " +
                                 number(Mbarrier::MAX_COUNT));
  }
  check_unused(issuer, at, "initialised");
  at.block->mbarriers[at.offset] = 0;
  store(at, encoded({count, count, 0, false}));
}

void invalidate_mbarrier(const Issuer& issuer, SharedPlace at) {
  load_mbarrier(issuer, at);
  check_unused(issuer, at, "invalidated");
  store(at, 0);
}

uint64_t arrive(const Issuer& issuer, SharedPlace at, const Arrival& arrival) {
  Mbarrier barrier = load_mbarrier(issuer, at);
  uint64_t before = encoded(barrier);
  announce(issuer, at, barrier, arrival.expect_tx);
  uint32_t taken = arrival.drop ? barrier.expected : barrier.pending;
  if (arrival.count > 0 && barrier.pending == 0) {
    report_extra_arrival(issuer, at, decoded(before), arrival);
  }
  if (arrival.count == 0 || arrival.count > barrier.pending || arrival.count > taken) {
    issuer.fail("synccheck",
                number(arrival.count) + (arrival.count == 1 ? " arrival" : " arrivals") +
                    " at an mbarrier whose phase expects " + number(barrier.pending) +
                    " more, of " + number(barrier.expected),
                "the count of mbarrier.init is the number of arrivals of a phase");
  }
  barrier.pending -= arrival.count;
  if (arrival.drop) {
    barrier.expected -= arrival.count;
  }
  if (arrival.no_complete && barrier.pending == 0 && barrier.tx == 0) {
    issuer.fail("synccheck", "an arrival with .noComplete completes the phase of its mbarrier");
  }
  update(at, barrier);
  return before;
}

void expect_tx(const Issuer& issuer, SharedPlace at, uint32_t bytes) {
  Mbarrier barrier = load_mbarrier(issuer, at);
  announce(issuer, at, barrier, bytes);
  update(at, barrier);
}

void complete_tx(const Issuer& issuer, SharedPlace at, uint32_t bytes) {
  Mbarrier barrier = load_mbarrier(issuer, at);
  add_tx(issuer, barrier, -static_cast<int64_t>(bytes));
  update(at, barrier);
}

void expect_arrivals(const Issuer& issuer, SharedPlace at, uint32_t count) {
  Mbarrier barrier = load_mbarrier(issuer, at);
  if (count > Mbarrier::MAX_COUNT - barrier.pending) {
    issuer.fail("synccheck", "the mbarrier's phase would expect more than " +
                                 number(Mbarrier::MAX_COUNT) + " arrivals");
  }
  barrier.pending += count;
  update(at, barrier);
}

}  // namespace wbsim
