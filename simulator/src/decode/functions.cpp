// functions.cpp: which device functions belong to a kernel, and where parameters and variables are.

#include "decode/functions.h"

#include <algorithm>
#include <map>
#include <set>

#include "exec/shared_window.h"

namespace wbsim {
namespace {

using ptx::Operand;

constexpr int MAX_CALL_DEPTH = 1000;
constexpr uint64_t MAX_LOCAL = 512 * 1024;  // bytes per thread on sm_90

void collect_symbols(const Operand& op, std::set<std::string>& out) {
  if (!op.symbol.empty()) {
    out.insert(op.symbol);
  }
  for (const Operand& item : op.items) {
    collect_symbols(item, out);
  }
}

// Every name in the code of a function.
std::set<std::string> symbols_of(const ptx::Function& f) {
  std::set<std::string> symbols;
  for (const ptx::Instruction& inst : f.code) {
    for (const Operand& op : inst.args) {
      collect_symbols(op, symbols);
    }
  }
  return symbols;
}

// The function that a call names, or nullptr if it calls through a register.
const ptx::Function* callee_of(const Module& module, const ptx::Instruction& call) {
  for (const Operand& op : call.args) {
    if (op.kind == Operand::Symbol) {
      return module.find_function(op.symbol);
    }
    if (op.kind == Operand::Register) {
      return nullptr;
    }
  }
  return nullptr;
}

// The functions of a module whose address appears in its data or its code.
std::vector<const ptx::Function*> address_taken(const Module& module) {
  std::set<const ptx::Function*> taken;
  auto take = [&](const std::string& symbol) {
    const ptx::Function* f = module.find_function(symbol);
    if (f && f->defined && !f->is_entry) {
      taken.insert(f);
    }
  };
  for (const ptx::Variable& v : module.ptx->globals) {
    for (const ptx::Variable::Fixup& fixup : v.fixups) {
      take(fixup.symbol);
    }
  }
  for (auto& [name, f] : module.ptx->functions) {
    for (const ptx::Instruction& inst : f.code) {
      if (inst.opcode == "mov" && inst.args.size() == 2) {
        take(inst.args[1].symbol);
      }
    }
  }
  return {taken.begin(), taken.end()};
}

// What a call through a register calls: every function whose address is taken.
constexpr const ptx::Function* ANY_POINTER = nullptr;

// What a function may call.
std::vector<const ptx::Function*> callees_of(const Module& module, const ptx::Function& f) {
  std::set<const ptx::Function*> out;
  for (const ptx::Instruction& inst : f.code) {
    if (inst.opcode != "call") {
      continue;
    }
    const ptx::Function* callee = callee_of(module, inst);
    if (!callee || callee->defined) {
      out.insert(callee ? callee : ANY_POINTER);
    }
  }
  return {out.begin(), out.end()};
}

// Whether a function allocates stack memory as it runs.
bool allocates(const ptx::Function& f) {
  return std::any_of(f.code.begin(), f.code.end(),
                     [](const ptx::Instruction& inst) { return inst.opcode == "alloca"; });
}

// Appends a variable and returns its offset.
uint32_t place(uint32_t& size, const ptx::Variable& v) {
  uint64_t align = std::max(v.align, 1);
  uint64_t at = (size + align - 1) / align * align;
  if (v.bytes > MAX_LOCAL || at + v.bytes > MAX_LOCAL) {
    throw ptx::ParseError("with '" + v.name +
                          "' the variables of one kind of memory take more than " +
                          std::to_string(MAX_LOCAL) + " bytes");
  }
  size = static_cast<uint32_t>(at + v.bytes);
  return static_cast<uint32_t>(at);
}

// The stack frame of a function: where to return to, its parameters, its return value, its
// variables, and what it passes to others. A kernel has only the latter two.
void lay_out_stack(FunctionCode& function) {
  uint32_t size = function.is_kernel() ? 0 : RETURN_BYTES;
  auto add = [&](const ptx::Variable& v) {
    FunctionCode::Place p{place(size, v), static_cast<uint32_t>(v.bytes)};
    function.addresses[v.name] = {ptx::Space::Local, p.offset};
    return p;
  };
  if (!function.is_kernel()) {
    for (const ptx::Variable& v : function.source->params) {
      function.params.push_back(add(v));
    }
    for (const ptx::Variable& v : function.source->returns) {
      function.returns.push_back(add(v));
    }
  }
  for (const ptx::Variable& v : function.source->locals) {
    if (v.space == ptx::Space::Local || v.space == ptx::Space::Param) {
      function.variables[v.name] = add(v);
    }
  }
  function.stack_bytes = (size + 15) / 16 * 16;
}

// Collects what a function calls, and what that calls, in one pass. Functions that call each other
// in a circle are found by Tarjan's algorithm: the first of them that was visited is the lowest
// that any of them reaches.
class Calls {
 public:
  explicit Calls(Kernel& kernel) : kernel_(kernel) {}

  // Callees come before their callers: the lanes inside a call have the smaller pc, run first, and
  // rejoin the others after the call.
  void visit(const ptx::Function* f, int depth) {
    if (depth > MAX_CALL_DEPTH) {
      throw ptx::ParseError("functions call each other in a chain of more than " +
                            std::to_string(MAX_CALL_DEPTH));
    }
    std::unique_ptr<FunctionCode> function;
    if (f != ANY_POINTER) {
      function = std::make_unique<FunctionCode>();
      function->source = f;
      lay_out_stack(*function);
    }
    Node& node = nodes_[f];
    const int number = node.number = node.lowest = static_cast<int>(nodes_.size());
    circle_.push_back(f);
    for (const ptx::Function* callee :
         f == ANY_POINTER ? address_taken(*kernel_.module) : callees_of(*kernel_.module, *f)) {
      if (!nodes_.contains(callee)) {
        visit(callee, depth + 1);
      }
      const Node& other = nodes_[callee];
      node.stack_bytes = std::max(node.stack_bytes, other.stack_bytes);
      node.lowest = other.finished ? node.lowest : std::min(node.lowest, other.lowest);
      node.recursive |= callee == f;
    }
    if (node.lowest == number) {
      const bool several = circle_.back() != f;
      do {
        Node& member = nodes_[circle_.back()];
        member.finished = true;
        member.recursive |= several;
        circle_.pop_back();
      } while (!node.finished);
    }
    if (function) {
      node.stack_bytes += function->stack_bytes;
      kernel_.functions.push_back(std::move(function));
    }
  }
  bool is_recursive(const ptx::Function* f) { return nodes_[f].recursive; }
  uint64_t stack_bytes(const ptx::Function* f) { return nodes_[f].stack_bytes; }

 private:
  struct Node {
    int number = 0, lowest = 0;
    bool finished = false;     // everything that it reaches has been visited
    bool recursive = false;    // may be called while it is running
    uint64_t stack_bytes = 0;  // from here down, at most
  };
  Kernel& kernel_;
  std::map<const ptx::Function*, Node> nodes_;
  std::vector<const ptx::Function*> circle_;  // visited, but not finished
};

}  // namespace

const ptx::Function* Module::find_function(const std::string& name) const {
  auto alias = ptx->aliases.find(name);
  auto found = ptx->functions.find(alias == ptx->aliases.end() ? name : alias->second);
  return found == ptx->functions.end() ? nullptr : &found->second;
}

void collect_functions(Kernel& kernel) {
  Calls calls(kernel);
  calls.visit(kernel.function, 0);
  for (auto& function : kernel.functions) {
    function->recursive = calls.is_recursive(function->source);
    kernel.open_stack |= function->recursive || allocates(*function->source);
  }
  const uint64_t deepest = calls.stack_bytes(kernel.function);
  if (deepest > MAX_LOCAL) {
    throw ptx::ParseError("a thread's variables take more than the " + std::to_string(MAX_LOCAL) +
                          " bytes of local memory there are");
  }
  kernel.local_bytes = static_cast<uint32_t>(deepest);
}

void lay_out_memory(Kernel& kernel) {
  FunctionCode& body = *kernel.functions.back();
  for (const ptx::Variable& v : kernel.function->params) {
    uint32_t at = place(kernel.param_bytes, v);
    kernel.params.emplace_back(at, static_cast<uint32_t>(v.bytes));
    body.addresses[v.name] = {ptx::Space::Param, at};
  }
  // A kernel's static shared memory: the variables of its functions, and those of the module that
  // they name.
  std::set<std::string> named;
  for (auto& function : kernel.functions) {
    named.merge(symbols_of(*function->source));
    for (const ptx::Variable& v : function->source->locals) {
      if (v.space == ptx::Space::Shared) {
        function->addresses[v.name] = {v.space, SHARED_BASE + place(kernel.shared_bytes, v)};
      }
    }
  }
  // Dynamic shared memory starts after it, aligned for the strictest of its declarations. A kernel
  // that uses none has no such gap: behind its last variable is nothing.
  uint32_t align = 1;
  for (const ptx::Variable& v : kernel.module->ptx->globals) {
    if (v.space != ptx::Space::Shared) {
      continue;
    }
    if (v.external) {
      align = named.contains(v.name) ? std::max<uint32_t>({align, 16, uint32_t(v.align)}) : align;
    } else if (named.contains(v.name)) {
      kernel.shared.try_emplace(v.name, SHARED_BASE + place(kernel.shared_bytes, v));
    }
  }
  kernel.shared_bytes = (kernel.shared_bytes + align - 1) / align * align;
  for (const ptx::Variable& v : kernel.module->ptx->globals) {
    if (v.space == ptx::Space::Shared && v.external) {
      kernel.shared.try_emplace(v.name, SHARED_BASE + kernel.shared_bytes);
    }
  }
}

}  // namespace wbsim
