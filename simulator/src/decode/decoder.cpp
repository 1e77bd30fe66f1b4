// decoder.cpp: lays out a kernel's register frame and turns its PTX into Inst arrays.

#include "decode/decoder.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <set>

#include "checks/finding.h"
#include "decode/functions.h"
#include "decode/names.h"
#include "decode/registers.h"
#include "exec/warp.h"

namespace wbsim {

using ptx::Operand;
using ptx::Type;

namespace {

constexpr size_t MAX_FRAME = 64 << 20;  // bytes

constexpr std::pair<const char*, Special> SPECIALS[] = {
    {"%tid.x", Special::TidX},
    {"%tid.y", Special::TidY},
    {"%tid.z", Special::TidZ},
    {"%ntid.x", Special::NtidX},
    {"%ntid.y", Special::NtidY},
    {"%ntid.z", Special::NtidZ},
    {"%ctaid.x", Special::CtaidX},
    {"%ctaid.y", Special::CtaidY},
    {"%ctaid.z", Special::CtaidZ},
    {"%nctaid.x", Special::NctaidX},
    {"%nctaid.y", Special::NctaidY},
    {"%nctaid.z", Special::NctaidZ},
    {"%laneid", Special::LaneId},
    {"%warpid", Special::WarpId},
    {"%nwarpid", Special::NWarpId},
    {"%smid", Special::SmId},
    {"%nsmid", Special::NSmId},
    {"%gridid", Special::GridId},
    {"%lanemask_eq", Special::LaneMaskEq},
    {"%lanemask_le", Special::LaneMaskLe},
    {"%lanemask_lt", Special::LaneMaskLt},
    {"%lanemask_ge", Special::LaneMaskGe},
    {"%lanemask_gt", Special::LaneMaskGt},
    {"%clock", Special::Clock},
    {"%clock_hi", Special::ClockHi},
    {"%clock64", Special::Clock64},
    {"%globaltimer", Special::GlobalTimer},
    {"%globaltimer_lo", Special::GlobalTimerLo},
    {"%globaltimer_hi", Special::GlobalTimerHi},
    {"%dynamic_smem_size", Special::DynamicSmemSize},
    {"%total_smem_size", Special::TotalSmemSize},
    {"WARP_SZ", Special::WarpSize},
    {"%clusterid.x", Special::ClusterIdX},
    {"%clusterid.y", Special::ClusterIdY},
    {"%clusterid.z", Special::ClusterIdZ},
    {"%nclusterid.x", Special::NClusterIdX},
    {"%nclusterid.y", Special::NClusterIdY},
    {"%nclusterid.z", Special::NClusterIdZ},
    {"%cluster_ctaid.x", Special::ClusterCtaidX},
    {"%cluster_ctaid.y", Special::ClusterCtaidY},
    {"%cluster_ctaid.z", Special::ClusterCtaidZ},
    {"%cluster_nctaid.x", Special::ClusterNctaidX},
    {"%cluster_nctaid.y", Special::ClusterNctaidY},
    {"%cluster_nctaid.z", Special::ClusterNctaidZ},
    {"%cluster_ctarank", Special::ClusterCtarank},
    {"%cluster_nctarank", Special::ClusterNctarank},
    {"%is_explicit_cluster", Special::IsExplicitCluster},
    {"%aggr_smem_size", Special::AggrSmemSize},
    {"%envreg1", Special::EnvReg1},
    {"%envreg2", Special::EnvReg2},
};

// Bytes per lane of a register; predicates are handled separately.
int lane_bytes(Type type) {
  return std::max(2, ptx::bytes_of(type));  // 8-bit registers live in 16 bits
}

const Special* special_of(const std::string& name) {
  for (auto& entry : SPECIALS) {
    if (name == entry.first) {
      return &entry.second;
    }
  }
  return nullptr;
}

}  // namespace

// Where everything is in a warp's frame. Grows while instructions are decoded.
class FrameLayout {
 public:
  explicit FrameLayout(Kernel& kernel) : kernel_(kernel) {}

  // Assigns places to a function's registers.
  void add(FunctionCode& function) {
    // Predicates first: they are small and would leave gaps between the others.
    const auto [shared, unset] = share_slots(*function.source);
    function.slots.resize(shared.size(), UINT32_MAX);
    function.accumulators = accumulators_of(*function.source);
    place(function, shared, true);
    place(function, shared, false);
    for (int r : unset) {
      const Type type = function.source->registers[r].type;
      function.unset.push_back({function.slots[r], type == Type::Pred ? 0 : lane_bytes(type)});
    }
    if (!function.is_kernel()) {
      function.stack_slot = register_of(function, 4);
    }
  }

  // All registers have places; constants follow.
  void end_registers() { kernel_.register_bytes = static_cast<uint32_t>(kernel_.frame.size()); }

  // A new register of a function.
  uint32_t register_of(FunctionCode& function, int lane_bytes) {
    uint32_t slot = grow(lane_bytes * LANES, 64);
    function.registers.push_back({slot, lane_bytes});
    return slot;
  }

  uint32_t special(Special which, int lane_bytes) {
    for (auto& s : kernel_.specials) {
      if (s.special == which && s.lane_bytes == lane_bytes) {
        return s.slot;
      }
    }
    uint32_t slot = grow(lane_bytes ? lane_bytes * LANES : sizeof(Mask), lane_bytes ? 64 : 4);
    kernel_.specials.push_back({which, slot, lane_bytes});
    return slot;
  }

  uint32_t constant(uint64_t bits, int bytes) {
    auto key = std::make_pair(bits, bytes);
    auto found = constants_.find(key);
    if (found != constants_.end()) {
      return found->second;
    }
    uint32_t slot = grow(bytes * LANES, 64);
    for (int l = 0; l < LANES; l++) {
      std::memcpy(kernel_.frame.data() + slot + l * bytes, &bits, std::min(bytes, 8));
    }
    constants_[key] = slot;
    return slot;
  }

  uint32_t pred_constant(bool value) {
    uint32_t& slot = pred_constants_[value];
    if (!slot) {
      slot = grow(sizeof(Mask), sizeof(Mask));
      Mask m = value ? ALL_LANES : 0;
      std::memcpy(kernel_.frame.data() + slot, &m, sizeof m);
    }
    return slot;
  }

  uint32_t scratch(int bytes) {
    uint32_t& slot = scratch_[bytes];
    if (!slot) {
      slot = grow(bytes * LANES, 64);
    }
    return slot;
  }

 private:
  // Assigns places to the shared slots of the predicates, or of the others.
  void place(FunctionCode& function, const std::vector<int>& shared, bool predicates) {
    std::map<std::pair<int, int>, uint32_t> places;  // bytes per lane, slot -> offset
    for (size_t i = 0; i < shared.size(); i++) {
      Type type = function.source->registers[i].type;
      if (shared[i] < 0 || (type == Type::Pred) != predicates) {
        continue;
      }
      int bytes = predicates ? 0 : lane_bytes(type);
      uint32_t& at = places[{bytes, shared[i]}];
      if (!at) {
        at = predicates ? grow(sizeof(Mask), sizeof(Mask)) : grow(bytes * LANES, 64);
        function.registers.push_back({at, bytes});
      }
      function.slots[i] = at;
    }
  }

  uint32_t grow(uint32_t bytes, uint32_t align) {
    // Slot 0 stays unused, so that 0 can mean "none yet" above.
    size_t at = std::max<size_t>(64, kernel_.frame.size());
    at = (at + align - 1) / align * align;
    if (at + bytes > MAX_FRAME) {
      throw ptx::ParseError("the kernel has more registers and constants than fit into " +
                            std::to_string(MAX_FRAME >> 20) + " MB per warp");
    }
    kernel_.frame.resize(at + bytes, 0xff);  // what was never written reads as NaN
    return static_cast<uint32_t>(at);
  }

  Kernel& kernel_;
  std::map<std::pair<uint64_t, int>, uint32_t> constants_;
  uint32_t pred_constants_[2] = {0, 0};
  std::map<int, uint32_t> scratch_;
};

Decode::Decode(const ptx::Instruction& source, Kernel& kernel, FunctionCode& function,
               FrameLayout& frame, Inst& inst, InstInfo& info)
    : source(source),
      kernel(kernel),
      function(function),
      inst(inst),
      info(info),
      frame_(frame),
      mods_(source.mods) {}

bool Decode::take(std::string_view modifier) {
  auto found = std::find(mods_.begin(), mods_.end(), modifier);
  if (found == mods_.end()) {
    return false;
  }
  mods_.erase(found);
  return true;
}

Type Decode::take_type() {
  for (auto it = mods_.begin(); it != mods_.end(); ++it) {
    Type type = ptx::type_from(*it);
    if (type != Type::None) {
      mods_.erase(it);
      return type;
    }
  }
  throw Unsupported{};
}

void Decode::drop(std::initializer_list<const char*> modifiers) {
  for (const char* m : modifiers) {
    take(m);
  }
}

bool Decode::empty() const { return mods_.empty(); }

const Operand& Decode::arg(size_t i) const {
  if (i >= source.args.size()) {
    throw Unsupported{};
  }
  return source.args[i];
}

uint32_t Decode::src(size_t i, Type type) { return src(arg(i), type); }

uint32_t Decode::src(const Operand& op, Type type) {
  int bytes = lane_bytes(type);
  switch (op.kind) {
    case Operand::Register: {
      Special which;
      if (is_special(op, which)) {
        if (which >= Special::Clock && which <= Special::GlobalTimerHi) {
          throw Unsupported{};  // changes while the kernel runs: only mov reads it
        }
        if (bytes < 4) {
          throw Unsupported{};
        }
        return frame_.special(which, bytes == 8 ? 8 : 4);
      }
      bool is_pred = function.source->registers[op.reg].type == Type::Pred;
      bool whole = !op.negated && op.part.empty();
      if (!whole || type == Type::Pred || is_pred || register_bytes(op) != bytes) {
        throw Unsupported{};
      }
      sources.push_back({function.slots[op.reg], bytes});
      return function.slots[op.reg];
    }
    case Operand::Integer:
      return constant(op.bits, bytes);
    case Operand::Float: {
      uint64_t bits = op.bits;
      if (bytes == 4 && !op.is_f32) {
        double d;
        std::memcpy(&d, &op.bits, 8);
        float f = static_cast<float>(d);
        bits = 0;
        std::memcpy(&bits, &f, 4);
      }
      return constant(bits, bytes);
    }
    case Operand::Symbol: {
      ptx::Space space;
      uint64_t address = address_of(op.symbol, space) + op.offset;
      if (space != ptx::Space::Local || function.is_kernel()) {
        return constant(address, bytes);
      }
      // Only its caller knows where the lane's stack frame is.
      for (auto& known : function.local_addresses) {
        if (known.offset == address && known.lane_bytes == bytes) {
          return known.slot;
        }
      }
      uint32_t slot = frame_.register_of(function, bytes);
      function.local_addresses.push_back({slot, bytes, address});
      return slot;
    }
    default:
      throw Unsupported{};
  }
}

uint32_t Decode::dst(size_t i, Type type) { return dst(arg(i), type); }

uint32_t Decode::dst(const Operand& op, Type type) {
  if (op.kind == Operand::Sink) {
    return scratch(lane_bytes(type));
  }
  Special which;
  if (op.kind != Operand::Register || !op.part.empty() || is_special(op, which)) {
    throw Unsupported{};
  }
  bool pred = function.source->registers[op.reg].type == Type::Pred;
  if (pred != (type == Type::Pred) || (!pred && register_bytes(op) != lane_bytes(type))) {
    throw Unsupported{};
  }
  targets.push_back({function.slots[op.reg], pred ? 0 : lane_bytes(type)});
  return function.slots[op.reg];
}

int Decode::register_bytes(const Operand& op) const {
  if (op.kind != Operand::Register) {
    return 0;
  }
  Type type = function.source->registers[op.reg].type;
  return type == Type::None ? 4 : type == Type::Pred ? 1 : lane_bytes(type);
}

bool Decode::is_special(const Operand& op, Special& which) const {
  if (op.kind != Operand::Register || function.source->registers[op.reg].type != Type::None) {
    return false;
  }
  const Special* found = special_of(function.source->registers[op.reg].name);
  if (!found) {
    throw Unsupported{};
  }
  which = *found;
  return true;
}

bool Decode::is_accumulator(const Operand& op) const {
  return op.kind == Operand::Register && function.accumulators[op.reg];
}

uint32_t Decode::pred(const Operand& op) {
  if (op.kind == Operand::Integer) {
    return frame_.pred_constant(op.bits != 0);
  }
  Special which;
  if (is_special(op, which) && which == Special::IsExplicitCluster) {
    return frame_.special(which, 0);
  }
  if (op.kind != Operand::Register || function.source->registers[op.reg].type != Type::Pred) {
    throw Unsupported{};
  }
  sources.push_back({function.slots[op.reg], 0});
  return function.slots[op.reg];
}

uint32_t Decode::constant(uint64_t bits, int bytes) {
  if (bytes < 8) {
    bits &= (1ull << (8 * bytes)) - 1;
  }
  return frame_.constant(bits, bytes);
}

uint32_t Decode::scratch(int bytes) { return frame_.scratch(bytes); }

const uint32_t* Decode::list(const std::vector<uint32_t>& slots) {
  kernel.lists.push_back(std::make_unique<uint32_t[]>(slots.size()));
  std::copy(slots.begin(), slots.end(), kernel.lists.back().get());
  return kernel.lists.back().get();
}

int Decode::label(const std::string& name) const {
  auto found = function.source->labels.find(name);
  if (found == function.source->labels.end()) {
    throw Unsupported{};
  }
  return static_cast<int>(function.first) + found->second;
}

uint64_t Decode::address_of(const std::string& symbol, ptx::Space& space) const {
  auto found = function.addresses.find(symbol);
  if (found != function.addresses.end()) {
    space = found->second.first;
    return found->second.second;
  }
  if (auto shared = kernel.shared.find(symbol); shared != kernel.shared.end()) {
    space = ptx::Space::Shared;
    return shared->second;
  }
  space = ptx::Space::Global;
  auto global = kernel.module->symbols.find(symbol);
  if (global != kernel.module->symbols.end()) {
    return reinterpret_cast<uint64_t>(global->second.address);
  }
  const ptx::Function* code = kernel.module->find_function(symbol);
  if (!code) {
    throw Unsupported{};
  }
  return reinterpret_cast<uint64_t>(code);
}

namespace {

// Stops the launch: this instruction, or this form of it, is not implemented.
const Inst* unsupported(Warp& w, const Inst* in, Mask m) {
  Finding finding = finding_at(
      w, in, __builtin_ctz(m), "unsupported",
      "the simulator does not implement this instruction; nothing after it was executed");
  finding.hint =
      "simulator/README.md lists what does not run; what ptxas would refuse does not run either";
  throw finding;
}

void decode_instruction(const ptx::Instruction& source, Kernel& kernel, FunctionCode& function,
                        FrameLayout& frame, size_t index) {
  Inst inst;
  InstInfo info;
  info.source = &source;
  info.opcode = find_opcode(source);
  try {
    Decode d(source, kernel, function, frame, inst, info);
    if (info.opcode) {
      info.opcode->build(d);
    }
    if (!inst.run || !d.empty()) {
      throw Unsupported{};
    }
    info.first_operand = static_cast<uint32_t>(kernel.operands.size());
    info.num_sources = static_cast<uint16_t>(d.sources.size());
    info.num_targets = static_cast<uint16_t>(d.targets.size());
    kernel.operands.insert(kernel.operands.end(), d.sources.begin(), d.sources.end());
    kernel.operands.insert(kernel.operands.end(), d.targets.begin(), d.targets.end());
  } catch (Unsupported&) {
    inst = Inst{};
    info = InstInfo{};
    info.source = &source;
    inst.run = unsupported;
  }
  if (source.guard >= 0) {
    inst.guard = static_cast<int32_t>(function.slots[source.guard]);
    inst.guard_negated = source.guard_negated;
  }
  kernel.code[index] = inst;
  kernel.info[index] = info;
}

// Whether an instruction continues with the next one. Not those that read the time: it passes.
bool is_plain(const InstInfo& info) {
  return info.opcode && info.opcode->flow == Flow::Plain &&
         info.source->text.find("%clock") == std::string_view::npos &&
         info.source->text.find("%globaltimer") == std::string_view::npos;
}

// Divides the code into runs: a new one starts at each label and around everything not plain.
void divide_into_runs(Kernel& kernel) {
  std::vector<bool> starts(kernel.code.size() + 1, false);
  starts.back() = true;
  for (auto& function : kernel.functions) {
    starts[function->first] = true;
    for (auto& [label, at] : function->source->labels) {
      starts[function->first + at] = true;
    }
  }
  uint16_t length = 0;
  bool plain_behind = false;
  for (size_t i = kernel.code.size(); i-- > 0;) {
    bool plain = is_plain(kernel.info[i]);
    bool joins = plain && plain_behind && !starts[i + 1] && length < UINT16_MAX;
    length = joins ? length + 1 : 1;
    kernel.code[i].run_length = length;
    plain_behind = plain;
  }
}

// What follows the last instruction of a function: most end in ret anyway.
const ptx::Instruction& end_of_function() {
  static const ptx::Instruction end = [] {
    ptx::Instruction i;
    i.opcode = "ret";
    i.text = "(end of the function)";
    return i;
  }();
  return end;
}

}  // namespace

Kernel& kernel_of(Module& module, const std::string& name) {
  auto& slot = module.kernels[name];
  if (slot) {
    return *slot;
  }
  const ptx::Function* source = module.find_function(name);
  if (!source || !source->defined || !source->is_entry) {
    throw ptx::ParseError("the module has no kernel '" + name + "'");
  }
  auto kernel = std::make_unique<Kernel>();
  kernel->name = name;
  kernel->pretty = pretty_name(name);
  kernel->module = &module;
  kernel->function = source;
  kernel->max_threads = source->max_threads ? source->max_threads : 1024;
  collect_functions(*kernel);
  lay_out_memory(*kernel);
  FrameLayout frame(*kernel);
  for (auto& function : kernel->functions) {
    frame.add(*function);
    kernel->uses_products |=
        std::count(function->accumulators.begin(), function->accumulators.end(), true) > 0;
    function->first = static_cast<uint32_t>(kernel->code.size());
    kernel->code.resize(kernel->code.size() + function->source->code.size() + 1);
  }
  frame.end_registers();
  kernel->functions.back()->stack_slot = frame.constant(0, 4);  // the kernel's frame is the first
  kernel->info.resize(kernel->code.size());
  for (auto& function : kernel->functions) {
    size_t index = function->first;
    for (const ptx::Instruction& instruction : function->source->code) {
      decode_instruction(instruction, *kernel, *function, frame, index++);
    }
    decode_instruction(end_of_function(), *kernel, *function, frame, index);
  }
  divide_into_runs(*kernel);
  kernel->frame.resize((kernel->frame.size() + 63) / 64 * 64);
  slot = std::move(kernel);
  return *slot;
}

}  // namespace wbsim
