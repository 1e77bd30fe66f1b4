// mbarrier_text.cpp: mbarriers in reports: their names, and what their phases lack.

#include <bit>

#include "checks/checker.h"
#include "checks/shared_variable.h"
#include "decode/place.h"
#include "exec/block.h"
#include "exec/lanes.h"
#include "exec/ops/copy_queue.h"
#include "exec/ops/mbarrier.h"

namespace wbsim {
namespace {

std::string number(int64_t n, const char* what) {
  return std::to_string(n) + " " + what + (n == 1 ? "" : "s");
}

// A copy in flight that signals the mbarrier and was issued by this thread, or nullptr.
const Signal* own_copy(const Issuer& issuer, SharedPlace at) {
  if (!has_signals(at)) {
    return nullptr;
  }
  for (const Signal& signal : at.block->copies->signals.find(at.offset)->second) {
    if (signal.bytes && signal.issuer.warp == issuer.warp && signal.issuer.lane == issuer.lane) {
      return &signal;
    }
  }
  return nullptr;
}

// "; the arrival before this was by warp 2", if it was another warp.
std::string earlier_arrival_text(const Issuer& issuer, SharedPlace at) {
  const Checker* checker = issuer.block().cluster->checker.get();
  if (!checker) {
    return "";
  }
  const HappensBefore& order = checker->order();
  const auto history = order.mbarriers().find({at.block, at.offset});
  const uint32_t own = order.warp_agent(*issuer.warp);
  std::pair<uint32_t, Time> last{own, 0};
  for (auto& arrival : history == order.mbarriers().end() ? std::vector<std::pair<uint32_t, Time>>{}
                                                          : history->second.arrivals) {
    last = arrival.first != own && arrival.second >= last.second ? arrival : last;
  }
  const auto warps = static_cast<uint32_t>(issuer.block().warps.size());
  return last.first == own
             ? ""
             : ". The arrival before this one was by warp " + std::to_string(last.first % warps) +
                   (at.block->cluster->blocks.size() > 1
                        ? " of block " + std::to_string(last.first / warps)
                        : "") +
                   ": is only one thread of the block to do this (if (threadIdx.x == 0))?";
}

}  // namespace

Lacks lacks(const Mbarrier& barrier, SharedPlace at) {
  Lacks out{barrier.pending, barrier.expected, barrier.tx, barrier.tx != 0};
  if (has_signals(at)) {
    for (const Signal& signal : at.block->copies->signals.find(at.offset)->second) {
      out.arrivals -= signal.arrivals;
      out.bytes -= signal.bytes;
      out.announced |= signal.bytes > 0;
    }
  }
  out.arrivals = std::max<int64_t>(out.arrivals, 0);
  return out;
}

std::string mbarrier_name(SharedPlace at) {
  const Block& block = *at.block;
  const auto v = shared_variable(*block.kernel, at.offset);
  std::string name = shared_place_text(*block.kernel, at.offset);
  if (v) {
    const uint64_t bytes = v->bytes ? v->bytes : block.shared_bytes - v->offset;
    bool only = bytes % sizeof(uint64_t) == 0;
    for (uint64_t i = 0; only && i < bytes; i += sizeof(uint64_t)) {
      only = block.mbarriers.contains(static_cast<uint32_t>(v->offset + i));
    }
    if (only) {
      const uint64_t index = (at.offset - v->offset) / sizeof(uint64_t);
      name = "'" + v->name + (bytes > sizeof(uint64_t) ? "[" + std::to_string(index) + "]'" : "'");
    }
  }
  return name + (block.cluster->blocks.size() > 1
                     ? " of block " + std::to_string(block.rank) + " of the cluster"
                     : "");
}

std::string lacks_text(const Lacks& l) {
  std::string text;
  if (l.arrivals == 0) {
    text = l.of == 1 ? "its one arrival has come" : "all " + number(l.of, "arrival") + " have come";
  } else {
    text = std::to_string(l.arrivals) + " of " + number(l.of, "arrival") +
           (l.arrivals == 1 ? " is missing" : " are missing");
  }
  if (l.bytes > 0) {
    text += ", but " + number(l.bytes, "byte") + " that expect_tx announced have not come";
  } else if (l.bytes < 0) {
    text +=
        ", and the copies brought " + number(-l.bytes, "byte") + " more than expect_tx announced";
  } else if (l.announced) {
    text += ", all bytes that expect_tx announced came";
  }
  return text;
}

void report_extra_arrival(const Issuer& issuer, SharedPlace at, const Mbarrier& barrier,
                          const Arrival& arrival) {
  const std::string bytes =
      barrier.tx > 0 ? number(barrier.tx, "byte") + " are still to come"
                     : number(-barrier.tx, "byte") + " more came than expect_tx announced";
  std::string hint;
  const Signal* earlier = own_copy(issuer, at);
  Mask together = 0;
  for_lanes(arrival.together, [&](int l) {
    const SharedPlace other = mbarrier_place({issuer.warp, issuer.in, l}, issuer.in->list);
    together |= Mask{other.block == at.block && other.offset == at.offset} << l;
  });
  const Kernel& kernel = *issuer.block().kernel;
  if (std::popcount(together) > 1) {
    hint = number(std::popcount(together), "lane") +
           " execute this arrival: let one of them do it, or count them all in mbarrier.init";
  } else if (earlier) {
    const Place place =
        call_of(*kernel.module, *kernel.info[earlier->issuer.in - kernel.code.data()].source);
    hint = "this thread fills the stage again while the copy that it started at " +
           shorten(place.file) + ":" + std::to_string(place.line) +
           " is on its way: it must first wait until the consumers have released the stage, on the "
           "mbarrier that they arrive at (usually called 'empty')";
  } else {
    hint =
        "mbarrier.init counts all arrivals of a phase. Before the next one, a thread waits until "
        "the phase is complete, or until the consumers have released the stage (usually 'empty')" +
        earlier_arrival_text(issuer, at);
  }
  Finding f = finding_at(
      *issuer.warp, issuer.in, issuer.lane, "synccheck",
      number(arrival.count, "arrival") + " too many at the mbarrier " + mbarrier_name(at) + ": " +
          (barrier.expected == 1
               ? "its phase expects one, which has already come"
               : "all " + std::to_string(barrier.expected) + " of its phase have already come") +
          ", and " + bytes);
  f.hint = hint;
  throw f;
}

}  // namespace wbsim
