// ptx.h: PTX text as a tree. The parser knows the grammar, not what an instruction means.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace wbsim::ptx {

enum class Type : uint8_t {
  None,
  Pred,
  B8,
  B16,
  B32,
  B64,
  B128,
  U8,
  U16,
  U32,
  U64,
  S8,
  S16,
  S32,
  S64,
  U16x2,
  S16x2,
  F16,
  F16x2,
  BF16,
  BF16x2,
  TF32,
  E4M3,
  E5M2,
  E4M3x2,
  E5M2x2,
  F32,
  F64,
};
Type type_from(std::string_view name);  // "f32"; None if it is not a type
int bytes_of(Type type);
bool is_signed(Type type);
bool is_float(Type type);

enum class Space : uint8_t { None, Reg, Global, Shared, Local, Const, Param, Generic };

// A frame of a source location: PTX `.loc` with its `inlined_at` chain, innermost first.
struct Location {
  int file = 0, line = 0;
  int inlined_at = -1;  // index into Module::locations, or -1
  int function = -1;    // index into Module::inlined: the function that was inlined there, or -1
};

// A function that was inlined somewhere.
struct Inlined {
  std::string name;       // mangled; empty if the module does not say
  int line = 0;           // of its first location
  bool one_line = true;   // whether all of its locations are there
  bool accessor = false;  // a member that stands for what it returns: operator[], ...
};

struct Operand {
  enum Kind : uint8_t { Register, Integer, Float, Symbol, Memory, Vector, Sink } kind = Sink;
  bool negated = false;        // !p, -r
  int reg = -1;                // Register; Memory with a register base
  int pair = -1;               // second destination of `d|p`
  uint64_t bits = 0;           // Integer: the value; Float: its bits as f64
  bool is_f32 = false;         // Float written as 0f....: bits holds the f32 pattern
  std::string part;            // of a register: "b0" in r.b0, one part of it or several
  std::string symbol;          // Symbol; Memory with a symbol base
  int64_t offset = 0;          // Symbol, Memory
  std::vector<Operand> items;  // Vector
};

struct Instruction {
  std::string opcode;             // "ld"
  std::vector<std::string> mods;  // "global", "nc", "f32"
  std::vector<Operand> args;
  int guard = -1;  // predicate register, or -1
  bool guard_negated = false;
  int location = -1;      // index into Module::locations
  std::string_view text;  // as written, without the semicolon
};

// The opcode and the modifiers in an instruction's name: "ld.global.f32" is ld, global, f32.
std::vector<std::string> parts_of(std::string_view name);

struct RegisterDecl {
  std::string name;
  Type type;
};

struct Variable {
  std::string name;
  Space space;
  Type type = Type::B8;
  int align = 1;
  uint64_t bytes = 0;  // whole array; 0 for `extern .shared x[]`
  bool external = false;
  std::vector<uint8_t> init;
  struct Fixup {
    uint64_t at;
    std::string symbol;
    int64_t add;
    bool generic;
  };
  std::vector<Fixup> fixups;  // places in init that hold an address
};

// What an indirect call passes: the label of a .callprototype.
struct Prototype {
  std::vector<Variable> returns, params;
};

struct Function {
  std::string name;
  bool is_entry = false;
  bool defined = false;                   // has a body
  std::vector<Variable> returns, params;  // in space Param, or Reg: then they are registers too
  std::vector<Variable> locals;           // .shared, .local and .param declared in the body
  std::vector<RegisterDecl> registers;    // those that the code uses
  std::vector<Instruction> code;
  std::unordered_map<std::string, int> labels;  // name -> index into code
  // Labels of .branchtargets and .calltargets: the labels or functions that they list.
  std::unordered_map<std::string, std::vector<std::string>> targets;
  std::unordered_map<std::string, Prototype> prototypes;  // by label

  // Directives; 0 if absent.
  int max_threads = 0;                  // .maxntid, the product
  int required_block[3] = {0, 0, 0};    // .reqntid
  int required_cluster[3] = {0, 0, 0};  // .reqnctapercluster
  int max_cluster_rank = 0;             // .maxclusterrank
  int max_registers = 0;                // .maxnreg
  int min_blocks = 0;                   // .minnctapersm
  bool explicit_cluster = false;        // .explicitcluster: launched with a cluster only
  bool blocks_are_clusters = false;     // .blocksareclusters: the grid counts clusters
  bool no_return = false;
};

struct Module {
  std::string text;                // owns what Instruction::text points into
  std::vector<std::string> files;  // by `.file` number
  std::vector<Location> locations;
  std::vector<Inlined> inlined;
  std::vector<Variable> globals;  // .global, .const, .shared at module scope
  std::map<std::string, Function> functions;
  std::map<std::string, std::string> aliases;  // .alias: another name of a function
};

struct ParseError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Parses one PTX module. Throws ParseError with the line of the text it could not read.
std::unique_ptr<Module> parse(std::string text);

}  // namespace wbsim::ptx
