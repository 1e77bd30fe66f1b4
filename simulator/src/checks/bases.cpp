// bases.cpp: accesses that leave the variable or the allocation that their address is computed from,
// and end in another one, where the bounds check sees nothing wrong.

#include <algorithm>
#include <bit>
#include <cstring>

#include "checks/checker.h"
#include "exec/lanes.h"
#include "exec/ops/access.h"

namespace wbsim {

using Kind = WarpAccess::Kind;
using Where = WarpAccess::Where;

namespace {

// The regions that the parameters of a base point into. More than one: it is not clear which one the
// address belongs to.
std::vector<const Region*> targets_of(const Launch& launch, const Base& base) {
  std::vector<const Region*> targets;
  for (uint32_t offset : base.parameters) {
    uint64_t value = 0;
    if (offset + sizeof value <= launch.params.size()) {
      std::memcpy(&value, launch.params.data() + offset, sizeof value);
    }
    if (const Region* region = launch.regions.find(value, 1, false)) {
      targets.push_back(region);
    }
  }
  return targets;
}

}  // namespace

std::pair<uint64_t, uint64_t> Checker::range_of(const WarpAccess& a) {
  uint64_t low = a.at(std::countr_zero(a.mask)), high = a.at(31 - std::countl_zero(a.mask));
  if (!a.regular && a.mask == ALL_LANES) {
    for (uint64_t address : a.address) {
      low = std::min(low, address);
      high = std::max(high, address);
    }
  } else if (!a.regular) {
    for_lanes(a.mask, [&](int l) {
      low = std::min(low, a.address[l]);
      high = std::max(high, a.address[l]);
    });
  } else if (low > high) {
    std::swap(low, high);
  }
  return {low, high - low + a.bytes};
}

const Checker::Home& Checker::home_of(const Warp& w, const Inst* in) {
  Home& home = homes_[pc_of(w, in)];
  if (home.kind != Home::NotYet) {
    return home;
  }
  const Kernel& kernel = *w.block->kernel;
  const Base& base = kernel.bases[kernel.info[pc_of(w, in)].base];
  std::vector<const Region*> targets = targets_of(launch_, base);
  home.kind = Home::Nothing;
  auto symbol = kernel.module->symbols.find(base.variable);
  if (symbol != kernel.module->symbols.end()) {
    targets.push_back(
        launch_.regions.find(reinterpret_cast<uint64_t>(symbol->second.address), 1, false));
  } else if (!base.variable.empty()) {
    if (targets.empty()) {
      home.kind = Home::Variable;
      home.first = base.first;
      home.last = std::min(base.last, w.block->shared_bytes);
      home.name = base.variable;
    }
    return home;
  }
  if (targets.size() == 1 && targets[0] && targets[0]->watched &&
      launch_.regions.is_alone(*targets[0])) {
    home.kind = Home::Memory;
    home.first = targets[0]->first;
    home.last = targets[0]->last();
    home.region = targets[0];
  }
  return home;
}

void Checker::stay_in_base(const Warp& w, const Inst* in, const WarpAccess& a) {
  const Home& known = homes_[pc_of(w, in)];
  const Home& home = known.kind == Home::NotYet ? home_of(w, in) : known;
  if (a.regular && a.where == Where::Shared && home.kind == Home::Variable) {
    const uint64_t one = a.at(std::countr_zero(a.mask)),
                   other = a.at(31 - std::countl_zero(a.mask));
    const uint64_t low = std::min(one, other), high = std::max(one, other);
    if (low >= home.first && high < home.last && a.bytes <= home.last - high) [[likely]] {
      return;
    }
  }
  const bool applies = (a.where == Where::Shared && home.kind == Home::Variable) ||
                       (a.where == Where::Global && home.kind == Home::Memory);
  if (!applies) {
    return;
  }
  const auto [low, bytes] = range_of(a);
  if (within(low, bytes, home.first, home.last)) {
    return;
  }
  for_lanes(a.mask, [&](int l) {
    const uint64_t at = a.at(l);
    if (within(at, a.bytes, home.first, home.last)) {
      return;
    }
    // In nothing else: executing it reports this.
    if (home.kind == Home::Variable || launch_.regions.find(at, a.bytes, a.kind != Kind::Load)) {
      left_base(w, in, a, l, home);
    }
  });
}

}  // namespace wbsim
