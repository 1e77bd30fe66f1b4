// limit.cpp: the report on a block that seems to run for ever: the loop its warp is in, what that
// loop reads again and again, and who waits meanwhile.

#include <algorithm>
#include <bit>
#include <cstring>
#include <string_view>

#include "checks/finding.h"
#include "checks/shared_variable.h"
#include "decode/opcode.h"
#include "decode/place.h"
#include "exec/control.h"
#include "exec/ops/access.h"
#include "exec/ops/mbarrier.h"
#include "exec/scheduler.h"

namespace wbsim {
namespace {

// From the first instruction of a loop to its last branch back.
struct Loop {
  size_t first = 0, last = 0;
};

std::string_view opcode_of(const Kernel& kernel, size_t i) {
  const Opcode* opcode = kernel.info[i].opcode;
  return opcode ? opcode->name : "";
}

// The loops around an instruction, the innermost first.
std::vector<Loop> loops_around(const Kernel& kernel, size_t at) {
  std::map<size_t, size_t, std::greater<>> last_of;  // by their first instruction
  for (size_t i = at; i < kernel.code.size(); i++) {
    const auto target = static_cast<size_t>(kernel.code[i].target);
    if (opcode_of(kernel, i) == "bra" && target <= at) {
      last_of[target] = i;
    }
  }
  std::vector<Loop> loops;
  for (auto [first, last] : last_of) {
    if (loops.empty() || last > loops.back().last) {
      loops.push_back({first, last});
    }
  }
  return loops;
}

Place place_at(const Kernel& kernel, size_t i) {
  return place_of(*kernel.module, *kernel.info[i].source);
}

// "line 12" or "lines 12 to 15" of the function that the loop is in; of functions inlined into it,
// the lines of their calls. Empty without line information.
std::string lines_of(const Kernel& kernel, const Loop& loop) {
  const Place back = place_at(kernel, loop.last);
  if (back.line == 0) {
    return "";
  }
  const std::string prefix = "\n  inlined at " + shorten(back.file) + ":";
  int low = back.line, high = back.line;
  for (size_t i = loop.first; i < loop.last; i++) {
    const Place place = place_at(kernel, i);
    if (!place.chain.ends_with(back.chain)) {
      continue;
    }
    int line = place.file == back.file ? place.line : 0;
    if (place.chain.size() > back.chain.size()) {
      const std::string inner = place.chain.substr(0, place.chain.size() - back.chain.size());
      const std::string call = inner.substr(inner.rfind('\n'));
      line = call.starts_with(prefix) ? std::atoi(call.c_str() + prefix.size()) : 0;
    }
    if (line > 0) {
      low = std::min(low, line);
      high = std::max(high, line);
    }
  }
  return low == high ? "line " + std::to_string(low)
                     : "lines " + std::to_string(low) + " to " + std::to_string(high);
}

// What a lane's load or atomic reads, by name, and what is there now; "" if it cannot be read.
std::string polled_text(Warp& w, const Inst* in, const InstInfo& info, int lane) {
  const auto kind = static_cast<AddressKind>(info.address);
  const bool narrow = kind == AddressKind::Shared32;
  if (info.bytes > 8 ||
      !(narrow || kind == AddressKind::Generic || kind == AddressKind::Shared64)) {
    return "";
  }
  const uint64_t address = narrow
                               ? address_of<AddressKind::Shared32>(w.reg<uint32_t>(in->a)[lane], in)
                               : address_of<AddressKind::Generic>(w.reg<uint64_t>(in->a)[lane], in);
  const auto own = reinterpret_cast<uint64_t>(w.shared);
  const uint8_t* at = nullptr;
  std::string name;
  if (is_shared(kind) || within(address, info.bytes, own, own + w.shared_bytes)) {
    const uint64_t offset = is_shared(kind) ? address - SHARED_BASE : address - own;
    if (within(offset, info.bytes, 0, w.shared_bytes)) {
      at = w.shared + offset;
      name = "shared memory " + shared_place_text(*w.block->kernel, offset);
    }
  } else if (const Region* region =
                 w.block->worker->launch->regions.find(address, info.bytes, false)) {
    at = reinterpret_cast<const uint8_t*>(address);
    name = "byte " + std::to_string(address - region->first) + " of " + region->name;
    name += region->text.empty() ? " (" + std::to_string(region->bytes) + " bytes)"
                                 : " (" + region->text + ")";
  }
  if (!at) {
    return "";
  }
  uint64_t bits = 0;
  std::memcpy(&bits, at, info.bytes);
  const int unused = 64 - 8 * info.bytes;
  const int64_t value = static_cast<int64_t>(bits << unused) >> unused;
  return name + ", which holds " + std::to_string(value);
}

// What the mbarrier that an instruction of the loop waits for still lacks; "" if it does not wait for
// one, or has not come to it yet.
std::string mbarrier_text(Warp& w, const Inst* in, int lane) {
  try {
    const auto phase = awaited_phase(w, in, lane);
    return phase ? "the mbarrier " + mbarrier_name(phase->at) + ": " +
                       lacks_text(lacks(load_mbarrier({&w, in, lane}, phase->at), phase->at))
                 : "";
  } catch (const Finding&) {
    return "";
  }
}

// What the loop waits for, as far as it can be seen.
std::string awaited_by(Warp& w, const Loop& loop, int lane) {
  const Kernel& kernel = *w.block->kernel;
  bool only_branches = true;
  std::string out;
  for (size_t i = loop.first; i <= loop.last; i++) {
    const InstInfo& info = kernel.info[i];
    const Inst* in = &kernel.code[i];
    only_branches &= opcode_of(kernel, i) == "bra";
    std::string text = mbarrier_text(w, in, lane);
    const bool reads = info.kind == InstInfo::Load || info.kind == InstInfo::Atomic;
    if (text.empty() && reads && info.strong && info.observed == InstInfo::Lanes) {
      text = polled_text(w, in, info, lane);
      text = text.empty() ? "" : "each round reads " + text + ": who changes it, and when?";
    }
    if (!text.empty() && out.find(text) == std::string::npos) {
      out += (out.empty() ? "" : "\n  ") + text;
    }
  }
  if (only_branches) {
    return "the loop reads nothing: the compiler reads a plain variable once, before it. What "
           "another thread changes is read as volatile or with cuda::atomic_ref";
  }
  return out;
}

}  // namespace

Finding limit_reached(Cluster& cluster, Warp& ran) {
  // A warp that still runs; the last one may just have ended.
  Warp* w = &ran;
  for (auto& block : cluster.blocks) {
    for (Warp& other : block->warps) {
      w = w->parked.empty() ? &other : w;
    }
  }
  std::string text = "the block ran more than " +
                     std::to_string(cluster.worker->launch->settings.instruction_limit) +
                     " warp instructions";
  constexpr char LONG[] =
      "if it is only long: settings(instruction_limit=...), or "
      "WORKBENCH_SIMULATOR=\"instruction_limit=...\"";
  const Kernel& kernel = *w->block->kernel;
  if (w->parked.empty()) {
    Finding finding = finding_at(*w, kernel.entry(), -1, "limit", text);
    finding.hint = LONG;
    return finding;
  }
  const Group& g = w->parked.back();
  const Inst* at = g.state == Group::AtBarrier ? g.pc - 1 : g.pc;
  const int lane = std::countr_zero(g.mask);
  const std::vector<Loop> loops = loops_around(kernel, at - kernel.code.data());
  std::string hint;
  if (!loops.empty()) {
    if (const std::string inner = lines_of(kernel, loops[0]); !inner.empty()) {
      text += "; is the loop at " + inner + " endless";
      for (size_t i = 1; i < loops.size(); i++) {
        const std::string outer = lines_of(kernel, loops[i]);
        text += outer == inner ? "" : (i == 1 ? ", or that at " : ", at ") + outer + " around it";
      }
      text += "?";
    } else {
      text += "; is this loop endless?";
    }
    hint = awaited_by(*w, loops[0], lane);
  }
  Finding finding = finding_at(*w, at, lane, "limit", text);
  finding.waits = waits_text(cluster);
  finding.hint = hint.empty() && finding.waits.empty() ? LONG : hint;
  return finding;
}

}  // namespace wbsim
