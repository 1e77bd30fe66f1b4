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

// Barriers for some of the block's threads.
bool has_named_barriers(const Kernel& kernel) {
  return std::any_of(kernel.info.begin(), kernel.info.end(), [](const InstInfo& info) {
    return info.kind == InstInfo::Barrier && is_named_barrier(*info.source);
  });
}

// Whether threads take a lock, or hand on a flag, by an exchange.
bool locks(const Kernel& kernel) {
  return has_instruction(kernel, "atom", "cas") || has_instruction(kernel, "atom", "exch");
}

// Whether one of the two loads what the other stores back to the same address: x[i] += 1.
bool updates_one_place(const ptx::Instruction& a, const ptx::Instruction& b) {
  const ptx::Instruction& load = a.opcode == "ld" ? a : b;
  const ptx::Instruction& store = a.opcode == "ld" ? b : a;
  if (load.opcode != "ld" || store.opcode != "st" || load.args.size() < 2 || store.args.empty()) {
    return false;
  }
  const ptx::Operand& from = load.args[1];
  const ptx::Operand& to = store.args[0];
  return from.reg >= 0 && from.reg == to.reg && from.offset == to.offset;
}

constexpr Operation LANE_COPY = {
    "the copy", "while cp.async is still writing there",
    "cp.async.wait_group or wait_all by the thread that copies, then __syncthreads() for the "
    "others"};
constexpr Operation PRODUCT = {
    "the product", "while wgmma is still reading it",
    "first the reading warpgroup's wgmma.wait_group, with a number that covers this product (0: "
    "all); "
    "then a barrier, or an arrival on the mbarrier that the writing thread waits for"};
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

// An mbarrier that copies signal.
bool is_filled(const MbarrierHistory& history, const Answer&) { return !history.issues.empty(); }

// The mbarrier with this agent, and the copy that signals it and was issued then.
std::pair<SharedPlace, const BulkIssue*> issue_of(const HappensBefore& order, uint32_t agent,
                                                  Time when) {
  for (auto& [at, history] : order.mbarriers()) {
    if (history.agent == agent) {
      for (const BulkIssue& issue : history.issues) {
        if (issue.when == when) {
          return {{const_cast<Block*>(at.first), at.second}, &issue};
        }
      }
    }
  }
  return {{}, nullptr};
}

// A phase that was complete before its copies had come, because expect_tx announced too little.
std::string too_few_bytes_hint(const HappensBefore& order, uint32_t agent, Time when) {
  const auto [at, issue] = issue_of(order, agent, when);
  if (!issue) {
    return "";
  }
  const MbarrierHistory& history = order.mbarriers().at({at.block, at.offset});
  int64_t brought = 0;
  for (const BulkIssue& other : history.issues) {
    brought += other.phases == issue->phases ? other.bytes : 0;
  }
  const int64_t announced = history.announced[issue->phases % history.announced.size()];
  if (history.phases == issue->phases || announced >= brought) {
    return "";
  }
  return "expect_tx announced " + std::to_string(announced) + " bytes to the mbarrier " +
         mbarrier_name(at) + ", and the copies of that phase bring " + std::to_string(brought) +
         ": it is complete before the last of them has arrived. Announce the bytes of all copies "
         "that signal it";
}

// Two copies write one place.
std::string two_copies_hint(const Warp& w, const HappensBefore& order, uint32_t agent, Time when) {
  const auto warps = static_cast<uint32_t>(w.block->warps.size());
  const auto [at, issue] = issue_of(order, agent, when);
  const bool other_block = issue && issue->agent / warps != w.block->rank;
  return std::string(other_block
                         ? "two blocks copy to the same place: does the offset depend on the "
                           "block's rank? If they take turns: "
                         : "is the destination right? If the second copy refills it, nothing keeps "
                           "it from starting before the first is complete and has been read: ") +
         "the readers wait for the first (usually 'full'), and then arrive on an mbarrier "
         "('empty') that the thread waits for before it copies again" +
         (w.block->cluster->blocks.size() > 1
              ? ". With multicast, these are the readers of every block that the copy goes to: "
                "mbarrier.init counts them all"
              : "");
}

constexpr const char* NO_BULK_GROUP =
    "the copy is in no group yet, and wait_group waits for groups: cp.async.bulk.commit_group and "
    "cp.async.bulk.wait_group.read by the thread that started it, then a barrier for the others";

// Whether a bulk store of a warp of this block, issued then, is in no group.
bool is_in_no_group(const Warp& w, uint32_t agent, Time issued) {
  const Block& block = *w.block;
  const auto warps = static_cast<uint32_t>(block.warps.size());
  if (agent / warps != block.rank || !block.copies) {
    return false;
  }
  const WarpCopies& copies = block.copies->warps[agent % warps];
  return std::any_of(copies.stores.begin(), copies.stores.end(), [&](const BulkStore& store) {
    return store.issued == issued && store.group == copies.bulk_committed[store.lane];
  });
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
  const Found filled = last_answer(order, reader, true, is_filled);
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

const char* hint_between_blocks(bool copies, bool bulk) {
  return copies ? "blocks run in no particular order, and these two write to the same place: do "
                  "their tiles "
                  "overlap? Check the coordinates and the size of the copy. A sum of several "
                  "blocks needs a reduction (cp.reduce.async.bulk) or atomicAdd"
         : bulk ? "other blocks see what a bulk copy wrote once the thread that started it has "
                  "called cp.async.bulk.commit_group and wait_group 0 (not .read, which waits for "
                  "the source only), then __threadfence(), and has set a flag by an atomic. The "
                  "reader reads the flag by an atomic, calls __threadfence(), and then reads"
                : "blocks see each other's writes at the end of the kernel, or after a flag: "
                  "write, __threadfence(), atomic on one side, atomic and then read on the other. "
                  "A sum of several blocks needs atomicAdd; a barrier of the grid is grid.sync() "
                  "of a cooperative launch";
}

std::string unwritten_hint(const Kernel& kernel, bool copying) {
  bool stores = false, lanes = false, bulk = false, sends = false;
  for (const InstInfo& info : kernel.info) {
    const bool reaches = info.space == ptx::Space::Shared || info.space == ptx::Space::Generic;
    stores |= reaches && (info.kind == InstInfo::Store || info.kind == InstInfo::Atomic);
    sends |= info.source->opcode != "cp" && has(*info.source, "async");
    if (info.source->opcode == "cp" && has(*info.source, "async")) {
      const bool copies = info.source->args.size() > 2 ||
                          (info.source->args.size() == 2 && has(*info.source, "bulk"));
      (has(*info.source, "bulk") ? bulk : lanes) |= copies;
    }
  }
  const std::string bulk_hint =
      "wait for its mbarrier first, with the parity of its phase (on a fresh mbarrier, a wait for "
      "parity 1 passes at once)";
  const std::string lane_hint =
      "cp.async.wait_group or wait_all by the thread that copies, then __syncthreads() before "
      "others read";
  if (!stores && lanes && !bulk) {
    return "only cp.async writes to shared memory in this kernel" +
           (copying ? ": " + lane_hint
                    : ", and by now no thread has started a copy to this place. If another thread "
                      "does: " +
                          lane_hint + ". If none does, the copies cover less than is read");
  }
  if (!stores && bulk && !lanes) {
    return "only bulk copies write to shared memory in this kernel: is this place inside one, and "
           "is its mbarrier waited for before this read?";
  }
  return "if another thread writes it: __syncthreads() after the write and before this read. " +
         (lanes ? "If cp.async does: " + lane_hint + ". " : "") +
         (bulk || sends ? "If a bulk copy or st.async does: " + bulk_hint + ". " : "") +
         "Otherwise: shared memory is uninitialised when a block starts, the padding and the "
         "ragged edge of a tile included";
}

std::string Checker::operation_hint(const Warp& w, const Inst* in, int lane, const WarpAccess& a,
                                    uint64_t offset, const Other& other) const {
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
  const bool copies = kernel.info[pc_of(w, in)].source->opcode == "cp" && a.kind != Kind::Load;
  if (agent < 2 * warps) {  // wgmma
    // Did its warp, or the copying thread, ask for a phase that was long over?
    const Side reader{agent - warps, SEVERAL, other.time, nullptr};
    const Found filled = last_answer(order_, reader, true, is_filled);
    const Found released = last_answer(order_, mine, true, [&](auto& history, const Answer&) {
      return history.issues.empty() && history.arrived(reader.agent) > 0;
    });
    return copies && is_stale(kernel, filled)
               ? "the product is out of step with the copies, as " + parity_hint(kernel, filled)
           : copies && is_stale(kernel, released) ? parity_hint(kernel, released)
                                                  : operation.hint;
  }
  if (agent < 4 * warps) {
    return is_in_no_group(w, agent % warps, other.time) ? NO_BULK_GROUP : operation.hint;
  }
  if (std::string hint = too_few_bytes_hint(order_, agent, other.time); !hint.empty()) {
    return hint;
  }
  if (copies && other.wrote) {
    const Found released = last_answer(
        order_, mine, true, [](auto& history, const Answer&) { return history.issues.empty(); });
    return is_stale(kernel, released) ? parity_hint(kernel, released)
                                      : two_copies_hint(w, order_, agent, other.time);
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
  const bool updates = updates_one_place(source, *kernel.info[other.pc].source);
  if (updates || locks(kernel)) {
    return std::string(updates ? "reading a value, changing it and writing it back are several "
                                 "steps, between which others change it: an atomic (atomicAdd) is "
                                 "one step"
                               : "") +
           (updates && locks(kernel) ? ". " : "") +
           (locks(kernel) ? "If a lock or a flag is to order them: __threadfence() after taking "
                            "the lock (or reading the flag) and before releasing (or setting) it, "
                            "or cuda::atomic_ref with acquire and release. Not __syncthreads(), "
                            "for which the others wait at the lock"
                          : "");
  }
  std::string hint =
      has_named_barriers(kernel)
          ? "a barrier between the two orders them: __syncthreads() if all threads of "
            "the block get there, else bar.sync with an id and the count of those "
            "that do"
          : "__syncthreads() between the two orders them";
  if (other.who.agent() == order_.warp_agent(w)) {
    hint +=
        ", or __syncwarp() if no other warp uses the data: lanes of a warp do not run in lockstep";
  } else if (has_opcode(kernel, "mbarrier")) {
    hint += ", or an mbarrier on which one side arrives and for whose phase the other waits";
  }
  return hint;
}

}  // namespace wbsim
