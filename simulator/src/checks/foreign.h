// foreign.h: what clusters know of each other: through variables in global memory.
//
// Blocks of different clusters are ordered in only one way: one releases a variable (an atomic or
// volatile access after a fence, or one with .release), another reads it afterwards. Each variable
// has a log of its releases; its reader knows the log up to then.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "checks/clock.h"

namespace wbsim {

// What happened in another cluster.
struct RemoteAccess {
  uint32_t cluster, agent, lane;
  Time time;
};

class ReleaseLog {
 public:
  void add(uint32_t cluster, const Knowledge& knowledge);
  size_t size();
  // The last of the first `to` releases by the cluster of the access, if it knows of it; or an
  // earlier one. Otherwise nullptr, and appends what the releases from `from` on know of other logs.
  ClockRef find(size_t from, size_t to, const RemoteAccess& access,
                std::vector<ForeignRef>& further);

 private:
  struct Release {
    ClockRef clock;
    ForeignRef foreign;
  };
  std::mutex mutex_;
  std::vector<Release> releases_;
  std::unordered_map<uint32_t, std::vector<size_t>> of_cluster_;
};

// How far each log is known.
struct Foreign {
  std::vector<std::pair<ReleaseLog*, size_t>> logs;  // in order of their addresses

  // What its cluster knew when it released the access; nullptr if that is not known.
  ClockRef find(const RemoteAccess& access) const;
};

// The logs of a launch, by the variable's address.
class Variables {
 public:
  ReleaseLog* log_of(uint64_t address);        // created if it is not there
  ReleaseLog* existing_log(uint64_t address);  // or nullptr

 private:
  std::mutex mutex_;
  std::map<uint64_t, std::unique_ptr<ReleaseLog>> logs_;
};

}  // namespace wbsim
