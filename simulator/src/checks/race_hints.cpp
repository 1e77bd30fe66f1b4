#include "checks/race_hints.h"

#include <algorithm>

#include "checks/checker.h"
#include "checks/finding.h"
#include "decode/opcode.h"
#include "decode/place.h"
#include "exec/lanes.h"
#include "exec/ops/copy_queue.h"

namespace wbsim {

using Kind = WarpAccess::Kind;

namespace {

bool has_opcode(const Kernel& kernel, std::string_view opcode) {
  return std::any_of(kernel.info.begin(), kernel.info.end(),
                     [&](const InstInfo& info) { return info.source->opcode == opcode; });
}

bool has_instruction(const Kernel& kernel, std::string_view opcode, std::string_view modifier) {
  return std::any_of(kernel.info.begin(), kernel.info.end(), [&](const InstInfo& info) {
    return info.source->opcode == opcode && has(*info.source, modifier);
  });
}

constexpr Operation LANE_COPY = {
    "the copy", "while cp.async is still writing there",
    "cp.async.wait_group or wait_all by the thread that copies, then __syncthreads() for the "
    "others"};
constexpr Operation PRODUCT = {
    "the product", "while wgmma is still reading it",
    "wgmma.wait_group by its warpgroup first; then an mbarrier or a barrier tells others"};
constexpr Operation STORE_READS = {
    "the copy", "while a bulk copy is still reading it",
    "cp.async.bulk.wait_group.read by the thread that started the copy, then a barrier for the "
    "others"};
constexpr Operation STORE_WRITES = {
    "the copy", "while a bulk copy is still writing there",
    "cp.async.bulk.wait_group by the thread that started the copy; with .read it waits for the "
    "source only"};
constexpr Operation LOAD_WRITES = {
    "the copy", "while a bulk copy is still writing there",
    "wait for the copy's mbarrier first, with the parity of the phase that it completes"};
constexpr Operation LOAD_READS = {
    "the copy", "while a bulk copy is still reading it",
    "wait for the copy's mbarrier first, with the parity of the phase that it completes"};

// ---- What the waits for mbarriers answered.

// A thread, and when it did what races.
struct Side {
  uint32_t agent;
  uint32_t lane;
  Time time;
  const Warp* warp;  // of the side that is reported; nullptr: the other side
};

struct Found {
  const Answer* answer = nullptr;
  const MbarrierHistory* history = nullptr;
  SharedPlace at = {};
};

bool precedes(const HappensBefore& order, const Answer& answer, Mask lanes, const Side& side) {
  if (answer.agent == side.agent && (lanes & lanes_of(side.lane))) {
    return side.warp || answer.when <= side.time;
  }
  bool any = false;
  if (side.warp) {
    for_lanes(lanes, [&](int l) {
      any |= order.knows(*side.warp, static_cast<int>(side.lane), answer.agent,
                         static_cast<uint32_t>(l), answer.when);
    });
  }
  return any;
}

// The last answer that precedes what a side did, of those that `accepts` takes.
template <class F>
Found last_answer(const HappensBefore& order, const Side& side, bool yes, F accepts) {
  Found found;
  for (auto& [at, history] : order.mbarriers()) {
    for (const Answer& answer : history.answers) {
      const Mask lanes = yes ? answer.yes : answer.not_yet;
      if (lanes && (!found.answer || answer.when >= found.answer->when) &&
          accepts(history, answer) && precedes(order, answer, lanes, side)) {
        found = {&answer, &history, {const_cast<Block*>(at.first), at.second}};
      }
    }
  }
  return found;
}

std::string line_of(const Kernel& kernel, const Inst* in) {
  const Place place = call_of(*kernel.module, *kernel.info[in - kernel.code.data()].source);
  return place.line ? shorten(place.file) + ":" + std::to_string(place.line) : "an unknown line";
}

std::string the_wait(const Kernel& kernel, const Found& found) {
  return "the wait for the mbarrier " + mbarrier_name(found.at) + " at " +
         line_of(kernel, found.answer->in);
}

// A wait that would order the other side before this one, had it not answered "not yet".
std::string not_yet_hint(const HappensBefore& order, const Kernel& kernel, const Side& side,
                         uint32_t agent, uint32_t lane, Time time) {
  const Found found =
      last_answer(order, side, false, [&](const MbarrierHistory& history, const Answer&) {
        return history.complete.all && history.complete.all->knows(agent, lane, time);
      });
  return found.answer ? the_wait(kernel, found) +
                            " answered \"not yet\", as test_wait and try_wait may at any time, and "
                            "the thread went on: repeat the wait until it answers yes"
                      : "";
}

// Whether a wait asked again for a phase that it had waited for before: the same line, as loops may
// be unrolled.
bool is_stale(const Kernel& kernel, const Found& found) {
  if (!found.answer || found.answer->again) {
    return found.answer != nullptr;
  }
  auto place = [&](const Inst* in) {
    const Place at = place_of(*kernel.module, *kernel.info[in - kernel.code.data()].source);
    return at.file + ":" + std::to_string(at.line) + at.chain;
  };
  const Answer& a = *found.answer;
  return std::any_of(
      found.history->answers.begin(), found.history->answers.end(), [&](const Answer& other) {
        return other.agent == a.agent && other.in != a.in && other.phases == a.phases &&
               other.when <= a.when && (other.yes & a.yes) && place(other.in) == place(a.in);
      });
}

std::string parity_hint(const Kernel& kernel, const Found& found) {
  return the_wait(kernel, found) +
         " passed at once: it asked again for the parity of a phase that it had waited for before. "
         "The parity alternates from one use of the mbarrier to the next: 0, 1, 0, ...";
}

constexpr const char* NEXT_COPY_EARLY =
    "the copy comes too early: nothing keeps it from starting while the thread still reads what "
    "was "
    "there before. __syncthreads() between the reads and the next copy";
constexpr const char* BULK_COPY_EARLY =
    "the copy comes too early: nothing keeps it from starting while the thread still reads what "
    "was "
    "there before. Let the readers arrive on an mbarrier that the copying thread waits for "
    "(usually called 'empty'), "
    "or __syncthreads() between the reads and the copy";

// A bulk copy that does not wait until the reader is done with what was there before.
// knows(time): whether the copying thread knows that the reader has come past a time.
template <class F>
std::string refill_hint(const HappensBefore& order, const Kernel& kernel, const Side& copier,
                        const Side& reader, F knows) {
  const Found released =
      last_answer(order, copier, true, [&](const MbarrierHistory& history, const Answer&) {
        return history.arrived(reader.agent) > 0 && history.issues.empty();
      });
  if (is_stale(kernel, released)) {
    return parity_hint(kernel, released);
  }
  const Found filled = last_answer(
      order, reader, true,
      [](const MbarrierHistory& history, const Answer&) { return !history.issues.empty(); });
  if (is_stale(kernel, filled)) {
    return parity_hint(kernel, filled);
  }
  if (released.answer && (reader.warp || released.history->arrived(reader.agent) <= reader.time)) {
    return the_wait(kernel, released) +
           ", before the copy, does not cover this read: the reader arrived there earlier. "
           "Wait once for every refill, and arrive after the last read; one lane arrives for its "
           "warp only after __syncwarp()";
  }
  // The reader was done with what it had waited for, and reads again.
  const bool again = filled.answer && knows(filled.answer->when);
  return again ? LOAD_WRITES.hint : BULK_COPY_EARLY;
}

// The cp.async of a warp that is in flight to a place in its block's memory, and its lane.
std::pair<const LaneCopy*, int> lane_copy_to(const Block& block, uint32_t warp, const uint8_t* to) {
  if (block.copies) {
    for (const LaneCopy& copy : block.copies->warps[warp].copies) {
      int lane = -1;
      for_lanes(copy.mask,
                [&](int l) { lane = to >= copy.to[l] && to < copy.to[l] + copy.bytes ? l : lane; });
      if (lane >= 0) {
        return {&copy, lane};
      }
    }
  }
  return {nullptr, 0};
}

}  // namespace

const Operation& operation_of(const HappensBefore& order, uint32_t agent, bool wrote) {
  const uint32_t warps = order.num_warps();
  return agent < warps       ? LANE_COPY
         : agent < 2 * warps ? PRODUCT
         : agent < 3 * warps ? STORE_READS
         : agent < 4 * warps ? STORE_WRITES
         : wrote             ? LOAD_WRITES
                             : LOAD_READS;
}

const char* hint_between_blocks(bool copies) {
  return copies ? "blocks run in no particular order, and these two write to the same place: do "
                  "their tiles "
                  "overlap? Check the coordinates and the size of the copy. A sum of several "
                  "blocks needs a reduction (cp.reduce.async.bulk) or atomicAdd"
                : "blocks see each other's writes at the end of the kernel, or after a flag: "
                  "write, __threadfence(), atomic on one side, atomic and then read on the other. "
                  "A sum of several blocks needs atomicAdd; a barrier of the grid is grid.sync() "
                  "of a cooperative launch";
}

std::string unwritten_hint(const Kernel& kernel) {
  bool stores = false, lanes = false, bulk = false;
  for (const InstInfo& info : kernel.info) {
    const bool reaches = info.space == ptx::Space::Shared || info.space == ptx::Space::Generic;
    stores |= reaches && (info.kind == InstInfo::Store || info.kind == InstInfo::Atomic);
    if (info.source->opcode == "cp" && has(*info.source, "async")) {
      const bool copies = info.source->args.size() > 2 ||
                          (info.source->args.size() == 2 && has(*info.source, "bulk"));
      (has(*info.source, "bulk") ? bulk : lanes) |= copies;
    }
  }
  const std::string lane_hint =
      "cp.async.wait_group or wait_all by the thread that copies, then __syncthreads() before "
      "others read";
  if (!stores && lanes && !bulk) {
    return "only cp.async writes to shared memory in this kernel: " + lane_hint;
  }
  if (!stores && bulk && !lanes) {
    return "only bulk copies write to shared memory in this kernel: is this place inside one, and "
           "is its mbarrier waited for before this read?";
  }
  return "if another thread writes it: __syncthreads() after the write and before this read. " +
         (lanes ? "If cp.async does: " + lane_hint + ". " : "") +
         "Otherwise: shared memory is uninitialised when a block starts, the padding and the "
         "ragged edge of a tile included";
}

std::string Checker::operation_hint(const Warp& w, int lane, const WarpAccess& a, uint64_t offset,
                                    const Other& other) const {
  const Kernel& kernel = *w.block->kernel;
  const uint32_t agent = other.who.agent(), warps = order_.num_warps();
  const Operation& operation = operation_of(order_, agent, other.wrote);
  const Side mine{order_.warp_agent(w), static_cast<uint32_t>(lane), order_.now(), &w};
  if (agent < warps && a.owner == w.block) {  // cp.async
    const auto [copy, from] =
        lane_copy_to(*w.block, agent % w.block->warps.size(), w.block->shared + offset);
    if (!copy) {
      return operation.hint;
    }
    const uint32_t* committed = w.block->copies->warps[agent % w.block->warps.size()].committed;
    if (copy->group[from] == committed[from] && has_instruction(kernel, "cp", "wait_group")) {
      return "the copy is in no group yet, and wait_group waits for groups: "
             "cp.async.commit_group, cp.async.wait_group, then __syncthreads() for the others";
    }
    const bool later = order_.knows(w, lane, agent, static_cast<uint32_t>(from), copy->issued);
    if (!later && other.who.refill() && a.kind == Kind::Load) {
      return NEXT_COPY_EARLY;
    }
    return operation.hint;
  }
  if (agent < 4 * warps) {
    return operation.hint;
  }
  if (std::string hint = not_yet_hint(order_, kernel, mine, agent, SEVERAL, other.time);
      !hint.empty()) {
    return hint;
  }
  auto of_copy = [&](const MbarrierHistory& history, const Answer&) {
    return history.agent == agent;
  };
  const Found last = last_answer(order_, mine, true, of_copy);
  if (!last.answer || a.kind != Kind::Load) {
    return operation.hint;
  }
  if (is_stale(kernel, last)) {
    return parity_hint(kernel, last);
  }
  for (const BulkIssue& issue : last.history->issues) {
    if (issue.when != other.time) {
      continue;
    }
    // If the reader saw the copy start, or was done with the old data and told the copying thread,
    // it reads the new data now, without having waited for it.
    const SharedShadow& s = shadow_of(*a.owner);
    const bool reads = mine.agent < s.reads.size() && s.reads[mine.agent];
    const Time read = reads ? s.reads[mine.agent]->record[offset >> s.shift] >> 6 : 0;
    auto knows = [&](Time time) {
      return issue.knew->knows(mine.agent, mine.lane, time) ||
             (issue.agent == mine.agent && issue.synced >= time);
    };
    const bool sees = order_.knows(w, lane, issue.agent, issue.lane, issue.when);
    if (!sees && !(knows(last.answer->when) && read >= last.answer->when)) {
      return refill_hint(order_, kernel, {issue.agent, issue.lane, issue.when, nullptr}, mine,
                         knows);
    }
  }
  return operation.hint;
}

// What orders the two sides of a race between threads of one cluster.
std::string Checker::ordering_hint(const Warp& w, const Inst* in, const WarpAccess& a, int lane,
                                   const Other& other) const {
  const Kernel& kernel = *w.block->kernel;
  const uint32_t warps = static_cast<uint32_t>(w.block->warps.size());
  const Side mine{order_.warp_agent(w), static_cast<uint32_t>(lane), order_.now(), &w};
  const Side theirs{other.who.agent(), other.who.lane(), other.time, nullptr};
  if (std::string hint = not_yet_hint(order_, kernel, mine, theirs.agent, theirs.lane, theirs.time);
      !hint.empty()) {
    return hint;
  }
  const ptx::Instruction& source = *kernel.info[pc_of(w, in)].source;
  if (source.opcode == "cp" && !other.wrote) {
    return has(source, "bulk")
               ? refill_hint(order_, kernel, mine, theirs,
                             [&](Time time) {
                               return order_.knows(w, lane, theirs.agent, theirs.lane, time);
                             })
               : NEXT_COPY_EARLY;
  }
  for (auto [waiter, arriver] : {std::pair(mine, theirs), std::pair(theirs, mine)}) {
    const Found stale = last_answer(order_, waiter, true, [&](auto& history, const Answer&) {
      return history.arrived(arriver.agent) > 0;
    });
    if (is_stale(kernel, stale)) {
      return parity_hint(kernel, stale);
    }
  }
  if (other.who.agent() / warps != w.block->rank) {
    return "cluster.sync(), the arrive and wait of barrier.cluster, between the two orders them";
  }
  if (other.pc == pc_of(w, in) && other.wrote && a.kind != Kind::Load) {
    return "several threads write one place: an atomic (atomicAdd), or a barrier between the "
           "rounds";
  }
  if (has(source, "volatile") && has(*kernel.info[other.pc].source, "volatile")) {
    return "volatile orders nothing between lanes, and they do not run in lockstep: __syncwarp() "
           "between the two";
  }
  std::string hint = "__syncthreads() between the two orders them";
  if (other.who.agent() == order_.warp_agent(w)) {
    hint +=
        ", or __syncwarp() if no other warp uses the data: lanes of a warp do not run in lockstep";
  } else if (has_opcode(kernel, "mbarrier")) {
    hint += ", or an mbarrier on which one side arrives and for whose phase the other waits";
  }
  return hint;
}

}  // namespace wbsim
