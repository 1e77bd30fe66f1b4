#include "exec/ops/shared_address.h"

namespace wbsim {

using ptx::Operand;
using ptx::Type;

void push_address(Decode& d, const Operand& op, Window window, std::vector<uint32_t>& words) {
  if (op.kind != Operand::Memory) {
    throw Unsupported{};
  }
  bool shared = window == Window::Cta || window == Window::Cluster;
  Operand base;
  base.reg = op.reg;
  base.symbol = op.symbol;
  base.kind = op.reg >= 0          ? Operand::Register
              : !op.symbol.empty() ? Operand::Symbol
                                   : Operand::Integer;
  if (base.kind == Operand::Symbol) {
    ptx::Space space;
    d.address_of(op.symbol, space);
    if (space != (shared ? ptx::Space::Shared : ptx::Space::Global)) {
      throw Unsupported{};
    }
  }
  bool narrow = shared && (op.reg < 0 || d.register_bytes(base) == 4);
  words.push_back(d.src(base, narrow ? Type::U32 : Type::U64));
  words.push_back(static_cast<uint32_t>(window) | (narrow ? 0x100 : 0));
  words.push_back(static_cast<uint32_t>(op.offset));
}

std::string trouble_with(const Block& user, const Block& owner) {
  if (owner.live_warps == 0) {
    return ", which has exited";
  }
  if (&owner != &user && !user.cluster->met) {
    return ", which may not have started";
  }
  return "";
}

Window take_window(Decode& d) {
  return d.take("shared") || d.take("shared::cta") ? Window::Cta
         : d.take("shared::cluster")               ? Window::Cluster
                                                   : Window::Generic;
}

namespace {

SharedPlace checked(const Issuer& issuer, Block* block, uint64_t offset, uint64_t bytes,
                    const char* what) {
  if (offset > block->shared_bytes || bytes > block->shared_bytes - offset) {
    issuer.fail("memcheck", std::string(what) + " (" + std::to_string(bytes) +
                                " bytes) is outside the block's shared memory (" +
                                std::to_string(block->shared_bytes) + " bytes)");
  }
  if (std::string trouble = trouble_with(issuer.block(), *block); !trouble.empty()) {
    issuer.fail("memcheck",
                std::string(what) + " is in the shared memory of the cluster's block " +
                    std::to_string(block->rank) + trouble,
                NOT_LIVE_HINT);
  }
  return {block, static_cast<uint32_t>(offset)};
}

[[noreturn]] void no_such_block(const Issuer& issuer, uint32_t rank, const char* what) {
  issuer.fail("memcheck", std::string(what) + " would be in block " + std::to_string(rank) +
                              " of the cluster, which has " +
                              std::to_string(issuer.block().cluster->blocks.size()));
}

}  // namespace

SharedPlace shared_place(const Issuer& issuer, const uint32_t* words, uint64_t bytes,
                         uint32_t align, const char* what) {
  Block& own = issuer.block();
  uint64_t address = address_of(*issuer.warp, words, issuer.lane);
  Block* block = &own;
  uint64_t offset = address - SHARED_BASE;
  switch (static_cast<Window>(words[1] & 0xff)) {
    case Window::Cluster:
      block = address >> 32 ? nullptr : block_at(own, static_cast<uint32_t>(address));
      offset = (address & OFFSET_MASK) - SHARED_BASE;
      if (!block) {
        no_such_block(issuer, static_cast<uint32_t>(address >> RANK_SHIFT) - 1, what);
      }
      break;
    case Window::Generic:
      block = block_holding(own, address);
      if (!block) {
        issuer.fail("memcheck", std::string(what) + " is not in shared memory");
      }
      offset = address - reinterpret_cast<uint64_t>(block->shared);
      break;
    default:
      break;
  }
  SharedPlace place = checked(issuer, block, offset, bytes, what);
  if (offset % align != 0) {
    issuer.fail("memcheck", std::string(what) + " is misaligned: its shared address " +
                                std::to_string(place.address()) + " is not a multiple of " +
                                std::to_string(align));
  }
  return place;
}

SharedPlace in_block(const Issuer& issuer, SharedPlace place, uint32_t rank, const char* what) {
  auto& blocks = issuer.block().cluster->blocks;
  if (rank >= blocks.size()) {
    no_such_block(issuer, rank, what);
  }
  return checked(issuer, blocks[rank].get(), place.offset, 0, what);
}

}  // namespace wbsim
