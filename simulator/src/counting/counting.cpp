#include "counting.h"

namespace wbsim {

void count_access(Warp&, const Inst*, const WarpAccess&) {}

}  // namespace wbsim
