// memory.h: which addresses a kernel may touch, and what is reported when it touches another one.
//
// Global addresses are host addresses. Each running block has a buffer for its shared memory and
// one for the local memory of its threads; their generic addresses are host addresses too. All
// other memory that a kernel may touch is a Region.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "checks/initialised.h"

namespace wbsim {

constexpr char VARIABLE_TEXT[] = "a variable of the module";  // Region::text

struct Region {
  uint64_t first = 0;  // address
  uint64_t bytes = 0;
  std::string name;                                    // "a", "cudaMalloc", a variable's name
  std::string text;                                    // "float32 [1024, 64]", or empty
  int role = 2;                                        // wbsim_role
  std::shared_ptr<Initialised> initialised = nullptr;  // nullptr: all of it is
  bool watched = true;  // for races: not where free() and malloc() recycle memory
  uint64_t last() const { return first + bytes; }
};

// All regions a kernel may touch through global addresses. Written between launches, read during
// them.
class RegionTable {
 public:
  void add(Region region);
  // All memory counts as initialised from now on.
  void forget_initialised() {
    for (auto& [first, region] : regions_) {
      region.initialised = nullptr;
    }
  }
  bool remove(uint64_t first, const std::string& name);  // false: no such region
  // A region that contains [address, address + bytes), or nullptr. If regions overlap, a write
  // prefers one that may be written.
  const Region* find(uint64_t address, uint64_t bytes, bool write) const;
  // The live region nearest to an address, for reports; nullptr if there is none.
  const Region* nearest(uint64_t address) const;
  const Region* starting_at(uint64_t first) const;
  // Whether no other region overlaps this one or touches it.
  bool is_alone(const Region& region) const;
  // For reports, what an address was in before it became invalid: "an allocation of cudaMalloc (400
  // bytes), which has been freed"; empty if in nothing.
  std::function<std::string(uint64_t address)> former;

 private:
  std::multimap<uint64_t, Region> regions_;
  uint64_t longest_ = 0;  // bytes of the largest region ever added: bounds the backward search
};

}  // namespace wbsim
