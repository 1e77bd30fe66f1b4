// decoder.cpp: lays out a kernel's register frame and turns its PTX into Inst arrays.

#include "decoder.h"

#include <cxxabi.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <set>
#include <unordered_map>

#include "registers.h"
#include "warp.h"

namespace wbsim {

using ptx::Operand;
using ptx::Type;

namespace {

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
};

constexpr uint64_t MAX_WINDOW = 512 * 1024;  // of a thread's local memory; the others have less

// Bytes a register takes in one lane; predicates are handled apart.
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

// Where everything lies in a frame. Grows while instructions are decoded.
class FrameLayout {
 public:
  FrameLayout(const ptx::Function& function, Kernel& kernel)
      : function_(function), kernel_(kernel) {
    // Predicates first: they are small and would tear holes between the others.
    std::vector<int> shared = share_slots(function);
    slots_.resize(shared.size(), UINT32_MAX);
    place(shared, [](Type type) { return type == Type::Pred; });
    place(shared, [](Type type) { return type != Type::Pred; });
    kernel.register_bytes = static_cast<uint32_t>(kernel.frame.size());
  }

  uint32_t reg(int index) const { return slots_[index]; }

  uint32_t special(Special which, bool wide) {
    for (auto& s : kernel_.specials) {
      if (s.special == which && s.wide == wide) {
        return s.slot;
      }
    }
    uint32_t slot = grow((wide ? 8 : 4) * LANES, 64);
    kernel_.specials.push_back({which, slot, wide});
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
  // Gives the registers of the wanted types the places of their shared slots.
  template <class F>
  void place(const std::vector<int>& shared, F wanted) {
    std::map<std::pair<int, int>, uint32_t> places;  // bytes of a lane, slot -> offset
    for (size_t i = 0; i < shared.size(); i++) {
      Type type = function_.registers[i].type;
      if (shared[i] < 0 || !wanted(type)) {
        continue;
      }
      bool pred = type == Type::Pred;
      uint32_t& at = places[{pred ? 0 : lane_bytes(type), shared[i]}];
      if (!at) {
        at = pred ? grow(sizeof(Mask), sizeof(Mask)) : grow(lane_bytes(type) * LANES, 64);
      }
      slots_[i] = at;
    }
  }

  uint32_t grow(uint32_t bytes, uint32_t align) {
    // Slot 0 stays unused, so that 0 can mean "none yet" above.
    size_t at = std::max<size_t>(64, kernel_.frame.size());
    at = (at + align - 1) / align * align;
    kernel_.frame.resize(at + bytes, 0xff);  // what nobody wrote reads as NaN
    return static_cast<uint32_t>(at);
  }

  const ptx::Function& function_;
  Kernel& kernel_;
  std::vector<uint32_t> slots_;
  std::map<std::pair<uint64_t, int>, uint32_t> constants_;
  uint32_t pred_constants_[2] = {0, 0};
  std::map<int, uint32_t> scratch_;
};

Decode::Decode(const ptx::Instruction& source, Kernel& kernel, FrameLayout& frame, Inst& inst,
               InstInfo& info)
    : source(source), kernel(kernel), inst(inst), info(info), frame_(frame), mods_(source.mods) {}

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
        return frame_.special(which, bytes == 8);
      }
      bool is_pred = kernel.function->registers[op.reg].type == Type::Pred;
      if (type == Type::Pred || is_pred || register_bytes(op) < ptx::bytes_of(type)) {
        throw Unsupported{};
      }
      return frame_.reg(op.reg);
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
      return constant(address, bytes);
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
  if (op.kind != Operand::Register || is_special(op, which)) {
    throw Unsupported{};
  }
  bool pred = kernel.function->registers[op.reg].type == Type::Pred;
  if (pred != (type == Type::Pred) || register_bytes(op) < ptx::bytes_of(type)) {
    throw Unsupported{};
  }
  return frame_.reg(op.reg);
}

int Decode::register_bytes(const Operand& op) const {
  if (op.kind != Operand::Register) {
    return 0;
  }
  Type type = kernel.function->registers[op.reg].type;
  return type == Type::None ? 4 : type == Type::Pred ? 1 : lane_bytes(type);
}

bool Decode::is_special(const Operand& op, Special& which) const {
  if (op.kind != Operand::Register || kernel.function->registers[op.reg].type != Type::None) {
    return false;
  }
  const Special* found = special_of(kernel.function->registers[op.reg].name);
  if (!found) {
    throw Unsupported{};
  }
  which = *found;
  return true;
}

uint32_t Decode::pred(const Operand& op) {
  if (op.kind == Operand::Integer) {
    return frame_.pred_constant(op.bits != 0);
  }
  if (op.kind != Operand::Register || kernel.function->registers[op.reg].type != Type::Pred) {
    throw Unsupported{};
  }
  return frame_.reg(op.reg);
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

int Decode::label(const Operand& op) const {
  auto found = kernel.function->labels.find(op.symbol);
  if (op.kind != Operand::Symbol || found == kernel.function->labels.end()) {
    throw Unsupported{};
  }
  return found->second;
}

uint64_t Decode::address_of(const std::string& symbol, ptx::Space& space) const {
  auto found = kernel.addresses.find(symbol);
  if (found != kernel.addresses.end()) {
    space = found->second.first;
    return found->second.second;
  }
  auto global = kernel.module->symbols.find(symbol);
  if (global == kernel.module->symbols.end()) {
    throw Unsupported{};
  }
  space = ptx::Space::Global;
  return reinterpret_cast<uint64_t>(global->second.address);
}

namespace {

std::string pretty_name(const std::string& mangled);

// The device function whose call begins at an instruction: the arguments are stored first. "" if
// the instruction is no part of a call.
std::string callee_at(const ptx::Function& function, const ptx::Instruction& inst) {
  bool stores_argument = std::find(inst.mods.begin(), inst.mods.end(), "param") != inst.mods.end();
  if (inst.opcode != "call" && !stores_argument) {
    return {};
  }
  const ptx::Instruction* end = function.code.data() + function.code.size();
  for (const ptx::Instruction* i = &inst; i != end; i++) {
    for (const Operand& op : i->args) {
      if (i->opcode == "call" && op.kind == Operand::Symbol) {
        return op.symbol;
      }
    }
  }
  return {};
}

// Stops the launch: this instruction, or this form of it, is not implemented.
const Inst* unsupported(Warp& w, const Inst* in, Mask m) {
  const Kernel& kernel = *w.block->kernel;
  std::string callee = callee_at(*kernel.function, *kernel.info[in - kernel.code.data()].source);
  std::string what = "this instruction";
  std::string hint;
  if (callee == "vprintf") {
    what = "printf";
    hint = "write what you want to see into a tensor";
  } else if (callee == "__assertfail") {
    what = "assert";
    hint = "__trap() stops the kernel";
  } else if (!callee.empty()) {
    what = "calls of device functions, here of " + pretty_name(callee);
    hint = "__forceinline__ makes nvcc put the function's code in the place of the call";
  }
  Finding f =
      finding_at(w, in, __builtin_ctz(m), "unsupported",
                 "the simulator does not implement " + what + "; nothing after it was executed");
  f.hint = hint;
  throw f;
}

// Stands behind the last instruction of a body that does not end in ret.
const Inst* fall_off(Warp& w, const Inst* in, Mask m) { return exit_lanes(w, in, m); }

// The builders of each opcode. Families may share one, as integers and halves share add.
const std::unordered_multimap<std::string_view, const Opcode*>& opcode_table() {
  static const auto table = [] {
    std::unordered_multimap<std::string_view, const Opcode*> t;
    for (auto part : {integer_opcodes(),
                      float_opcodes(),
                      compare_opcodes(),
                      convert_opcodes(),
                      move_opcodes(),
                      memory_opcodes(),
                      atomic_opcodes(),
                      control_opcodes(),
                      warp_opcodes(),
                      half_opcodes(),
                      convert_narrow_opcodes(),
                      video_opcodes(),
                      matrix_memory_opcodes(),
                      mma_opcodes(),
                      wmma_opcodes(),
                      wgmma_opcodes(),
                      mbarrier_opcodes(),
                      async_copy_opcodes(),
                      bulk_copy_opcodes(),
                      cluster_opcodes(),
                      call_opcodes()}) {
      for (const Opcode& op : part) {
        t.emplace(op.name, &op);
      }
    }
    return t;
  }();
  return table;
}

void decode_instruction(const ptx::Instruction& source, Kernel& kernel, FrameLayout& frame,
                        size_t index) {
  Inst inst;
  InstInfo info;
  auto [from, to] = opcode_table().equal_range(source.opcode);
  for (auto it = from; it != to && !inst.run; ++it) {
    inst = Inst{};
    info = InstInfo{};
    info.source = &source;
    try {
      Decode d(source, kernel, frame, inst, info);
      it->second->build(d);
      if (!d.empty()) {
        throw Unsupported{};
      }
    } catch (Unsupported&) {
      inst.run = nullptr;
    }
  }
  if (!inst.run) {
    inst = Inst{};
    info = InstInfo{};
    info.source = &source;
    inst.run = unsupported;
  }
  if (source.guard >= 0) {
    inst.guard = static_cast<int32_t>(frame.reg(source.guard));
    inst.guard_negated = source.guard_negated;
  }
  kernel.code[index] = inst;
  kernel.info[index] = info;
}

void collect_symbols(const Operand& op, std::set<std::string>& out) {
  if (!op.symbol.empty()) {
    out.insert(op.symbol);
  }
  for (const Operand& item : op.items) {
    collect_symbols(item, out);
  }
}

// Every name that stands in the code of a function.
std::set<std::string> symbols_of(const ptx::Function& f) {
  std::set<std::string> symbols;
  for (const ptx::Instruction& inst : f.code) {
    for (const Operand& op : inst.args) {
      collect_symbols(op, symbols);
    }
  }
  return symbols;
}

// Offsets of parameters, and of the function's own shared and local variables.
void lay_out_memory(Kernel& kernel) {
  const ptx::Function& f = *kernel.function;
  auto place = [&](uint32_t& size, const ptx::Variable& v) {
    uint32_t at = (size + v.align - 1) / v.align * v.align;
    if (v.bytes > MAX_WINDOW || at + v.bytes > MAX_WINDOW) {
      throw ptx::ParseError("the variables of '" + f.name + "' take more than " +
                            std::to_string(MAX_WINDOW) + " bytes of one kind of memory");
    }
    size = at + static_cast<uint32_t>(v.bytes);
    return at;
  };
  auto name_once = [&](const std::string& name) {
    if (kernel.addresses.contains(name)) {
      throw ptx::ParseError("two variables of one kernel are called '" + name +
                            "', which is not supported");
    }
  };
  for (const ptx::Variable& v : f.params) {
    uint32_t at = place(kernel.param_bytes, v);
    kernel.params.emplace_back(at, static_cast<uint32_t>(v.bytes));
    kernel.addresses[v.name] = {ptx::Space::Param, at};
  }
  // A kernel's static shared memory: its own variables, and those of the module that it names.
  auto shared = [&](const ptx::Variable& v) {
    if (v.space == ptx::Space::Shared && !v.external) {
      name_once(v.name);
      kernel.addresses[v.name] = {ptx::Space::Shared, SHARED_BASE + place(kernel.shared_bytes, v)};
    }
  };
  std::for_each(f.locals.begin(), f.locals.end(), shared);
  std::set<std::string> named = symbols_of(f);
  for (const ptx::Variable& v : kernel.module->ptx->globals) {
    if (named.contains(v.name)) {
      shared(v);
    }
  }
  // Dynamic shared memory starts behind it, aligned for the strictest of its declarations.
  uint32_t align = 16;
  for (const ptx::Variable& v : kernel.module->ptx->globals) {
    if (v.space == ptx::Space::Shared && v.external) {
      align = std::max<uint32_t>(align, v.align);
    }
  }
  kernel.shared_bytes = (kernel.shared_bytes + align - 1) / align * align;
  for (const ptx::Variable& v : kernel.module->ptx->globals) {
    if (v.space == ptx::Space::Shared && v.external) {
      kernel.addresses[v.name] = {ptx::Space::Shared, SHARED_BASE + kernel.shared_bytes};
    }
  }
  for (const ptx::Variable& v : f.locals) {
    if (v.space == ptx::Space::Local) {
      name_once(v.name);
      kernel.addresses[v.name] = {ptx::Space::Local, place(kernel.local_bytes, v)};
    }
  }
  kernel.local_bytes = (kernel.local_bytes + 15) / 16 * 16;
}

// "void tiled<32>(float const*, int)" -> "tiled<32>".
std::string pretty_name(const std::string& mangled) {
  int status = 0;
  char* text = abi::__cxa_demangle(mangled.c_str(), nullptr, nullptr, &status);
  if (!text) {
    return mangled;
  }
  std::string name = text;
  std::free(text);
  int depth = 0;
  for (size_t i = 0; i < name.size(); i++) {
    depth += name[i] == '<' ? 1 : name[i] == '>' ? -1 : 0;
    if (name[i] == '(' && depth == 0 && name.compare(i, 21, "(anonymous namespace)") != 0) {
      name.resize(i);
      break;
    }
  }
  // Drop the return type of a template: the last space outside <> and ().
  depth = 0;
  for (size_t i = name.size(); i-- > 0;) {
    depth += name[i] == '>' || name[i] == ')' ? 1 : name[i] == '<' || name[i] == '(' ? -1 : 0;
    if (name[i] == ' ' && depth == 0) {
      return name.substr(i + 1);
    }
  }
  return name;
}

}  // namespace

Kernel& kernel_of(Module& module, const std::string& name) {
  auto& slot = module.kernels[name];
  if (slot) {
    return *slot;
  }
  auto found = module.ptx->functions.find(name);
  if (found == module.ptx->functions.end() || !found->second.defined) {
    throw ptx::ParseError("the module has no kernel '" + name + "'");
  }
  auto kernel = std::make_unique<Kernel>();
  kernel->name = name;
  kernel->pretty = pretty_name(name);
  kernel->module = &module;
  kernel->function = &found->second;
  kernel->max_threads = found->second.max_threads ? found->second.max_threads : 1024;
  lay_out_memory(*kernel);
  FrameLayout frame(found->second, *kernel);
  const auto& code = found->second.code;
  kernel->code.resize(code.size() + 1);
  kernel->info.resize(code.size() + 1);
  for (size_t i = 0; i < code.size(); i++) {
    decode_instruction(code[i], *kernel, frame, i);
  }
  static const ptx::Instruction END = [] {
    ptx::Instruction end;
    end.text = "(end of the kernel)";
    return end;
  }();
  kernel->code.back().run = fall_off;
  kernel->info.back().source = &END;
  kernel->frame.resize((kernel->frame.size() + 63) / 64 * 64);
  slot = std::move(kernel);
  return *slot;
}

}  // namespace wbsim
