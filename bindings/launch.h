// launch.h: one call of an operator: its arguments and options by name, the choice of a rung, the
// launch. An operator's binding is a function on a Call, registered by a static Operator:
//
//   static void matmul(Call& call) {
//     const Arg &a = call.input("a"), &b = call.input("b"), &out = call.output("out");
//     ... checks of sizes ...
//     call.run(matmul_ladder(), {.A = matrices(a), .B = matrices(b), .C = matrices(out)});
//   }
//   static const Operator OPERATOR("matmul", matmul, matmul_ladder());
#pragma once

#include <deque>
#include <functional>
#include <map>

#include "args.h"
#include "ladder.h"

// Where the call runs. bindings.cpp fills it in.
struct Device {
  int index = 0;  // CUDA's device number; the simulator has one device
  cudaStream_t stream = nullptr;
  std::function<Arg(size_t bytes)> allocate;  // memory that lives until the launch has finished
};

// A line of a ladder's table, without the operator's problem.
struct Table {
  const char* name;
  Needs needs;
};

template <class Problem>
std::vector<Table> tables_of(const Ladder<Problem>& ladder) {
  std::vector<Table> tables;
  for (const auto& rung : ladder) tables.push_back({rung.name, rung.needs});
  return tables;
}

// As text, for Python: one line per rung.
std::string table_text(const std::vector<Table>& tables);

class Call {
 public:
  std::string name;  // of the operator, as in messages

  Call(std::string name, std::string kernel, std::deque<Arg> args,
       std::map<std::string, double> options, Device device)
      : name(std::move(name)),
        kernel_(std::move(kernel)),
        args_(std::move(args)),
        options_(std::move(options)),
        device_(std::move(device)) {}
  ~Call();
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  const Arg& input(const char* name, Role role = Role::data) { return take(name, role, false); }
  const Arg& output(const char* name, Role role = Role::data) { return take(name, role, true); }
  // nullptr if the caller left it out. Passing one counts as an option with the argument's name.
  const Arg* optional_input(const char* name, Role role) { return find(name, role, false, true); }
  const Arg* optional_output(const char* name, Role role) { return find(name, role, true, true); }

  // The options that the caller gave, or their defaults.
  bool flag(const char* name) { return number(name, 0) != 0; }
  double number(const char* name, double otherwise);

  // Chooses among the rungs that list `dtype`, instead of that of the tensors: tf32, an option of
  // that name.
  void compute_in(const char* dtype) { computes_in_ = dtype; }

  Workspace workspace() {
    return {[](void* self, size_t bytes) { return static_cast<Call*>(self)->scratch(bytes); },
            this};
  }

  // Checks that data tensors have one dtype, that outputs share memory with nothing, and that
  // elements of a row are adjacent. Call it once the sizes are known to be right.
  template <class Problem>
  void check(const Ladder<Problem>& ladder) const {
    check_arguments(dtypes_of(tables_of(ladder)));
  }

  // Launches the requested rung, or, if none was requested, the last one that accepts the problem.
  template <class Problem>
  void run(const Ladder<Problem>& ladder, const Problem& problem) {
    run(ladder, std::vector<Problem>{problem});
  }

  // The same for problems of one shape, none of which depends on another.
  template <class Problem>
  void run(const Ladder<Problem>& ladder, const std::vector<Problem>& problems) {
    const Rung<Problem>& rung = choose(ladder, problems.empty() ? Problem() : problems.front());
    launch(rung.name, [&] {
      for (const Problem& problem : problems) rung.launch(problem, device_.stream);
    });
  }

 private:
  template <class Problem>
  const Rung<Problem>& choose(const Ladder<Problem>& ladder, const Problem& problem) const {
    check_all_taken();
    const Facts facts = facts_of_call();
    const auto why_not = [&](const Rung<Problem>& rung) {
      std::string why = unmet(rung.needs, facts);
      if (why.empty() && rung.declines != nullptr) {
        if (const char* declined = rung.declines(problem))
          why = std::string("declines: ") + declined;
      }
      return why;
    };
    if (!kernel_.empty()) {
      if (const Rung<Problem>* rung = ladder.find(kernel_.c_str())) {
        const std::string why = why_not(*rung);
        if (why.empty()) return *rung;
        fail(name, "kernel '", kernel_, "' ", why, " (", facts.came, ")");
      }
      fail_unknown(tables_of(ladder));
    }
    std::vector<std::pair<std::string, std::string>> reasons;
    for (const Rung<Problem>* rung = ladder.end(); rung-- != ladder.begin();) {
      const std::string why = why_not(*rung);
      if (why.empty()) return *rung;
      reasons.emplace_back(rung->name, why);
    }
    fail_none(reasons, facts.came);
  }

  // What needs are compared with.
  struct Facts {
    std::string dtype;
    int64_t alignment = 128;           // of every pointer and stride, in bytes; no rung needs more
    std::vector<std::string> options;  // those requested
    std::string came;                  // "a float32 [4, 3], b float32 [3, 5]"
  };

  Args arguments(bool outputs) const;
  const Arg* find(const char* name, Role role, bool output, bool optional);
  const Arg& take(const char* name, Role role, bool output);
  void check_all_taken() const;
  void check_arguments(const std::string& dtypes) const;
  static std::string dtypes_of(const std::vector<Table>& tables);
  Facts facts_of_call() const;
  std::string unmet(const Needs& needs, const Facts& facts) const;
  [[noreturn]] void fail_unknown(const std::vector<Table>& tables) const;
  [[noreturn]] void fail_none(const std::vector<std::pair<std::string, std::string>>& reasons,
                              const std::string& came) const;
  void launch(const char* rung, const std::function<void()>& run);
  void* scratch(size_t bytes);
  void make_known(const Arg& arg, bool output);

  std::string kernel_;
  std::deque<Arg> args_, scratch_;
  std::map<std::string, double> options_;  // that the caller requests
  std::vector<std::string> read_;          // that the binding knows
  std::string computes_in_;                // "": the tensors' dtype
  Device device_;
  std::vector<std::pair<const void*, std::string>> known_;  // to the simulator
};

// An operator registers itself when the library is loaded; no list names it.
struct Operator {
  const char* name;
  void (*run)(Call&);
  std::string table;

  template <class Problem>
  Operator(const char* name, void (*run)(Call&), const Ladder<Problem>& ladder)
      : name(name), run(run), table(table_text(tables_of(ladder))) {
    all().push_back(this);
  }
  static std::vector<const Operator*>& all();
  static const Operator* find(const std::string& name);
};
