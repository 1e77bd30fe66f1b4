// functions.cpp: which device functions belong to a kernel, and where parameters and variables are.

#include "decode/functions.h"

#include <cxxabi.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
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

bool calls_indirectly(const Module& module, const ptx::Function& f) {
  return std::any_of(f.code.begin(), f.code.end(), [&](const ptx::Instruction& inst) {
    return inst.opcode == "call" && !callee_of(module, inst);
  });
}

// The functions of a module whose address appears in its data or its code.
std::set<const ptx::Function*> address_taken(const Module& module) {
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
  return taken;
}

// What a function may call. Through a pointer, that is every function whose address is taken.
std::vector<const ptx::Function*> callees_of(const Module& module, const ptx::Function& f) {
  std::set<const ptx::Function*> out;
  for (const ptx::Instruction& inst : f.code) {
    if (inst.opcode != "call") {
      continue;
    }
    const ptx::Function* callee = callee_of(module, inst);
    if (callee && callee->defined) {
      out.insert(callee);
    }
  }
  if (calls_indirectly(module, f)) {
    out.merge(address_taken(module));
  }
  return {out.begin(), out.end()};
}

using CallGraph = std::map<const ptx::Function*, std::vector<const ptx::Function*>>;

// Whether a function may be called while it is running.
bool is_recursive(CallGraph& graph, const ptx::Function* f) {
  std::set<const ptx::Function*> reached;
  std::vector<const ptx::Function*> next = graph[f];
  while (!next.empty()) {
    const ptx::Function* at = next.back();
    next.pop_back();
    if (reached.insert(at).second) {
      next.insert(next.end(), graph[at].begin(), graph[at].end());
    }
  }
  return reached.contains(f);
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
      add(v);
    }
  }
  function.stack_bytes = (size + 15) / 16 * 16;
}

}  // namespace

const ptx::Function* Module::find_function(const std::string& name) const {
  auto alias = ptx->aliases.find(name);
  auto found = ptx->functions.find(alias == ptx->aliases.end() ? name : alias->second);
  return found == ptx->functions.end() ? nullptr : &found->second;
}

void collect_functions(Kernel& kernel) {
  CallGraph graph;
  // Callees come before their callers: the lanes inside a call have the smaller pc, run first, and
  // rejoin the others after the call.
  std::map<const ptx::Function*, uint64_t> deepest;  // bytes of stack from here down
  std::function<void(const ptx::Function*, int)> visit = [&](const ptx::Function* f, int depth) {
    if (depth > MAX_CALL_DEPTH) {
      throw ptx::ParseError("functions call each other in a chain of more than " +
                            std::to_string(MAX_CALL_DEPTH));
    }
    auto function = std::make_unique<FunctionCode>();
    function->source = f;
    lay_out_stack(*function);
    graph[f] = callees_of(*kernel.module, *f);
    uint64_t below = 0;
    for (const ptx::Function* callee : graph[f]) {
      if (!graph.contains(callee)) {
        visit(callee, depth + 1);
      }
      below = std::max(below, deepest[callee]);
    }
    deepest[f] = function->stack_bytes + below;
    kernel.functions.push_back(std::move(function));
  };
  visit(kernel.function, 0);
  for (auto& function : kernel.functions) {
    function->recursive = is_recursive(graph, function->source);
    kernel.open_stack |= function->recursive || allocates(*function->source);
  }
  if (deepest[kernel.function] > MAX_LOCAL) {
    throw ptx::ParseError("a thread's variables take more than the " + std::to_string(MAX_LOCAL) +
                          " bytes of local memory there are");
  }
  kernel.local_bytes = static_cast<uint32_t>(deepest[kernel.function]);
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
  auto for_all = [&](const ptx::Variable& v, uint64_t address) {
    for (auto& function : kernel.functions) {
      function->addresses.try_emplace(v.name, v.space, address);
    }
  };
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
      for_all(v, SHARED_BASE + place(kernel.shared_bytes, v));
    }
  }
  kernel.shared_bytes = (kernel.shared_bytes + align - 1) / align * align;
  for (const ptx::Variable& v : kernel.module->ptx->globals) {
    if (v.space == ptx::Space::Shared && v.external) {
      for_all(v, SHARED_BASE + kernel.shared_bytes);
    }
  }
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

}  // namespace wbsim
