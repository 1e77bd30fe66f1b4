// cluster_ops.cpp: thread block clusters: barrier.cluster, mapa, getctarank, isspacep.

#include "dispatch.h"

namespace wbsim {

std::span<const Opcode> cluster_opcodes() { return {}; }

}  // namespace wbsim
