#include "checks/foreign.h"

namespace wbsim {

ForeignRef joined(const ForeignRef& a, const ForeignRef& b) {
  if (!b || a == b) {
    return a;
  }
  if (!a) {
    return b;
  }
  auto both = std::make_shared<Foreign>();
  auto i = a->logs.begin(), j = b->logs.begin();
  while (i != a->logs.end() || j != b->logs.end()) {
    if (j == b->logs.end() || (i != a->logs.end() && i->first < j->first)) {
      both->logs.push_back(*i++);
    } else if (i == a->logs.end() || j->first < i->first) {
      both->logs.push_back(*j++);
    } else {
      both->logs.emplace_back(i->first, std::max(i->second, j->second));
      ++i, ++j;
    }
  }
  return both;
}

void ReleaseLog::add(uint32_t cluster, const Knowledge& knowledge) {
  std::lock_guard lock(mutex_);
  of_cluster_[cluster].push_back(releases_.size());
  releases_.push_back({knowledge.all, knowledge.foreign});
}

size_t ReleaseLog::size() {
  std::lock_guard lock(mutex_);
  return releases_.size();
}

ClockRef ReleaseLog::find(size_t from, size_t to, const RemoteAccess& access,
                          std::vector<ForeignRef>& further) {
  std::lock_guard lock(mutex_);
  auto found = of_cluster_.find(access.cluster);
  if (found != of_cluster_.end()) {
    for (auto i = found->second.rbegin(); i != found->second.rend(); ++i) {
      const ClockRef& clock = releases_[*i].clock;
      if (*i < to && clock->knows(access.agent, access.lane, access.time)) {
        return clock;
      }
    }
  }
  for (size_t i = from; i < to; i++) {
    const ForeignRef& foreign = releases_[i].foreign;
    if (foreign && (further.empty() || further.back() != foreign)) {
      further.push_back(foreign);
    }
  }
  return nullptr;
}

ClockRef Foreign::find(const RemoteAccess& access) const {
  std::map<ReleaseLog*, size_t> seen;
  std::vector<std::pair<ReleaseLog*, size_t>> open(logs);
  while (!open.empty()) {
    auto [log, size] = open.back();
    open.pop_back();
    size_t& until = seen[log];
    if (until >= size) {
      continue;
    }
    std::vector<ForeignRef> further;
    if (ClockRef clock = log->find(until, size, access, further)) {
      return clock;
    }
    until = size;
    for (const ForeignRef& foreign : further) {
      open.insert(open.end(), foreign->logs.begin(), foreign->logs.end());
    }
  }
  return nullptr;
}

ReleaseLog* Variables::log_of(uint64_t address) {
  std::lock_guard lock(mutex_);
  auto& log = logs_[address];
  if (!log) {
    log = std::make_unique<ReleaseLog>();
  }
  return log.get();
}

ReleaseLog* Variables::existing_log(uint64_t address) {
  std::lock_guard lock(mutex_);
  auto found = logs_.find(address);
  return found == logs_.end() ? nullptr : found->second.get();
}

}  // namespace wbsim
