// instructions.cpp: instructions, their operands, and labels.

#include <algorithm>
#include <cstdint>

#include "ptx/parser.h"

namespace wbsim::ptx {
namespace {

// Splits the selector of a video instruction off a register's name: "b0", "h10", "" for none.
std::string take_part(std::string& name) {
  size_t dot = name.rfind('.');
  if (dot == std::string::npos || dot + 2 >= name.size() ||
      (name[dot + 1] != 'b' && name[dot + 1] != 'h') ||
      name.find_first_not_of("01234567", dot + 2) != std::string::npos) {
    return {};
  }
  std::string part = name.substr(dot + 1);
  name.resize(dot);
  return part;
}

}  // namespace

std::vector<std::string> parts_of(std::string_view text) {
  std::vector<std::string> parts;
  size_t from = 0;
  while (from <= text.size()) {
    size_t dot = std::min(text.find('.', from), text.size());
    if (dot > from) {
      parts.emplace_back(text.substr(from, dot - from));
    }
    from = dot + 1;
  }
  return parts;
}

void Parser::instruction_or_label(Function& f) {
  Instruction inst;
  size_t begin = lex_.peek().begin;
  if (lex_.accept("@")) {
    inst.guard_negated = lex_.accept("!");
    inst.guard = scopes_.find_register(f, word());
    if (inst.guard < 0 || f.registers[inst.guard].type != Type::Pred) {
      lex_.fail("expected a predicate register after '@'");
    }
  }
  std::string name = word();
  if (inst.guard < 0 && lex_.accept(":")) {
    label(f, name);
    return;
  }
  std::vector<std::string> parts = parts_of(name);
  if (parts.empty() || name.starts_with(".")) {
    lex_.fail("expected an instruction");
  }
  inst.opcode = parts[0];
  in_call_ = inst.opcode == "call";
  inst.mods.assign(parts.begin() + 1, parts.end());
  while (!lex_.at(";")) {
    inst.args.push_back(operand(f));
    if (!lex_.accept(",") && !lex_.at(";")) {
      lex_.fail("expected ',' or ';'");
    }
  }
  inst.text = lex_.slice(begin, lex_.peek().begin);
  lex_.expect(";");
  inst.location = location_;
  f.code.push_back(std::move(inst));
  for (Operand& op : f.code.back().args) {
    if (op.kind == Operand::Symbol) {
      use_label(op.symbol);
    }
  }
}

void Parser::label(Function& f, const std::string& name) {
  auto& labels = !scopes_.outermost() ? scopes_.innermost().labels : f.labels;
  bool is_targets = lex_.accept(".branchtargets") || lex_.accept(".calltargets");
  if (labels.contains(name) || f.targets.contains(name) || f.prototypes.contains(name)) {
    lex_.fail("label '" + name + "' appears twice in one block");
  }
  if (is_targets) {
    for (std::string& target : f.targets[name] = target_list()) {
      use_label(target);
    }
  } else if (lex_.accept(".callprototype")) {
    f.prototypes[name] = prototype();
  } else {
    labels[name] = static_cast<int>(f.code.size());
    return;
  }
  if (!scopes_.outermost()) {
    scopes_.innermost().lists.push_back(name);
  }
}

Operand Parser::operand(Function& f) {
  Depth depth(lex_, depth_);
  bool negated = lex_.accept("!");
  Operand op;
  if (negated && lex_.peek().kind != Tok::Word) {
    op.kind = Operand::Integer;
    op.bits = constant(lex_).bits == 0;
    return op;
  }
  if (lex_.at("{")) {
    op = vector(f, "{", "}");
  } else if (lex_.at("(") && in_call_) {
    op = vector(f, "(", ")");
  } else if (lex_.accept("[")) {
    op = memory(f);
  } else if (lex_.peek().kind == Tok::Word) {
    op = name_operand(f);
  } else if (at_negated_register()) {
    lex_.expect("-");
    op = name_operand(f);
    op.negated = op.kind == Operand::Register;
    if (!op.negated || negated) {
      lex_.fail("expected a register after '-'");
    }
    return op;
  } else {
    op = constant(lex_);
  }
  if (negated && (op.kind != Operand::Register || (f.registers[op.reg].type != Type::Pred &&
                                                   f.registers[op.reg].type != Type::None))) {
    lex_.fail("expected a predicate after '!'");
  }
  op.negated = negated;
  return op;
}

bool Parser::at_negated_register() const {
  Lexer ahead = lex_;
  return ahead.accept("-") && ahead.peek().kind == Tok::Word;
}

Operand Parser::vector(Function& f, std::string_view open, std::string_view close) {
  Operand op;
  op.kind = Operand::Vector;
  list(open, close, [&] { op.items.push_back(operand(f)); });
  return op;
}

// `[a]`, `[a+16]`, `[name+4]`, `[64]`; and `[tensorMap, {x, y}]`: the address first, the rest as
// items.
Operand Parser::memory(Function& f) {
  Operand base = operand(f), op;
  op.kind = Operand::Memory;
  op.reg = base.reg;
  op.symbol = base.symbol;
  op.offset = base.offset;
  if (base.kind == Operand::Integer) {
    op.offset = static_cast<int64_t>(base.bits);
  } else if ((base.kind != Operand::Register && base.kind != Operand::Symbol) || base.negated ||
             base.pair >= 0) {
    lex_.fail("expected an address");
  }
  if (lex_.accept("+")) {
    op.offset = static_cast<int64_t>(static_cast<uint64_t>(op.offset) + constant(lex_).bits);
  }
  while (lex_.accept(",")) {
    op.items.push_back(operand(f));
  }
  lex_.expect("]");
  return op;
}

Operand Parser::name_operand(Function& f) {
  std::string name = word();
  Operand op;
  op.part = take_part(name);
  if (name == "_") {
    op.kind = Operand::Sink;
  } else if (int reg = scopes_.find_register(f, name); reg >= 0) {
    op.kind = Operand::Register;
    op.reg = reg;
  } else if (int components = scopes_.components_of(f, name)) {
    op.kind = Operand::Vector;
    for (char component : COMPONENTS.substr(0, components)) {
      Operand item;
      item.kind = Operand::Register;
      item.reg = scopes_.find_register(f, name + "." + component);
      op.items.push_back(item);
    }
  } else {
    op.kind = Operand::Symbol;
    op.symbol = scopes_.variable(name);
    if (lex_.accept("+")) {
      op.offset = static_cast<int64_t>(constant(lex_).bits);
    }
  }
  if (!op.part.empty() && op.kind != Operand::Register) {
    lex_.fail("expected a register before '." + op.part + "'");
  }
  if (lex_.accept("|")) {
    Operand second = operand(f);
    if (second.kind != Operand::Register && second.kind != Operand::Sink) {
      lex_.fail("expected a register after '|'");
    }
    op.pair = second.reg;
  }
  return op;
}

}  // namespace wbsim::ptx
