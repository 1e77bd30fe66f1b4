// settings.cpp: what a user can choose about a run, by name.

#include "runtime/settings.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <sstream>

namespace wbsim {
namespace {

template <class T>
bool parse_number(const std::string& text, T& out) {
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  return error == std::errc() && end == text.data() + text.size();
}

struct Check {
  const char* name;
  bool Settings::* on;
};
constexpr Check CHECKS[] = {
    {"memcheck", &Settings::memcheck},
    {"racecheck", &Settings::racecheck},
    {"initcheck", &Settings::initcheck},
    {"synccheck", &Settings::synccheck},
};

// "memcheck,racecheck", "all" or ""; returns what was expected if it is none of these.
std::string set_checks(Settings& settings, const std::string& value) {
  Settings wanted = settings;
  for (const Check& check : CHECKS) {
    wanted.*check.on = value == "all";
  }
  std::istringstream names(value == "all" ? "" : value);
  for (std::string name; std::getline(names, name, ',');) {
    auto found = std::find_if(std::begin(CHECKS), std::end(CHECKS),
                              [&](const Check& check) { return name == check.name; });
    if (found == std::end(CHECKS)) {
      return "checks: expected memcheck, racecheck, initcheck, synccheck, separated by commas, or "
             "'all' or '', got '" +
             value + "'";
    }
    wanted.*found->on = true;
  }
  settings = wanted;
  return "";
}

std::string checks_text(const Settings& settings) {
  std::string out;
  for (const Check& check : CHECKS) {
    if (settings.*check.on) {
      out += (out.empty() ? "" : ",") + std::string(check.name);
    }
  }
  return out;
}

thread_local std::optional<Settings> of_thread;  // only its checks count

constexpr const char* ORDER_NAMES[] = {"ascending", "descending", "random"};

}  // namespace

std::string ProcessSettings::set(const std::string& name, const std::string& value) {
  std::lock_guard lock(mutex_);
  if (name == "checks") {
    return set_checks(settings_, value);
  }
  if (name == "order") {
    for (int i = 0; i < 3; i++) {
      if (value == ORDER_NAMES[i]) {
        settings_.order = static_cast<Order>(i);
        return "";
      }
    }
    return "order: expected ascending, descending or random, got '" + value + "'";
  }
  uint64_t number = 0;
  bool valid = parse_number(value, number);
  if (name == "seed" && valid) {
    settings_.seed = number;
  } else if (name == "instruction_limit" && valid && number > 0) {
    settings_.instruction_limit = number;
  } else if (name == "threads" && valid && number <= 1024) {
    settings_.threads = static_cast<int>(number);
  } else if (name == "sample_blocks" && valid) {
    settings_.sample_blocks = number;
  } else if (name == "seed" || name == "instruction_limit" || name == "threads" ||
             name == "sample_blocks") {
    const char* range = name == "instruction_limit" ? " from 1 up"
                        : name == "threads"         ? " up to 1024; 0: all cores"
                                                    : "";
    return name + ": expected a whole number" + range + ", got '" + value + "'";
  } else {
    return "no such setting: '" + name +
           "'; expected checks, order, seed, instruction_limit, threads or sample_blocks";
  }
  return "";
}

std::optional<std::string> ProcessSettings::get(const std::string& name) {
  std::lock_guard lock(mutex_);
  if (name == "checks") {
    return checks_text(settings_);
  }
  if (name == "order") {
    return ORDER_NAMES[static_cast<int>(settings_.order)];
  }
  if (name == "seed") {
    return std::to_string(settings_.seed);
  }
  if (name == "instruction_limit") {
    return std::to_string(settings_.instruction_limit);
  }
  if (name == "threads") {
    return std::to_string(settings_.threads);
  }
  if (name == "sample_blocks") {
    return std::to_string(settings_.sample_blocks);
  }
  return std::nullopt;
}

std::string ProcessSettings::set_checks_of_thread(const std::optional<std::string>& checks) {
  if (!checks) {
    of_thread.reset();
    return "";
  }
  Settings wanted;
  std::string problem = set_checks(wanted, *checks);
  if (problem.empty()) {
    of_thread = wanted;
  }
  return problem;
}

Settings ProcessSettings::current() {
  std::lock_guard lock(mutex_);
  Settings settings = settings_;
  for (const Check& check : CHECKS) {
    settings.*check.on = of_thread ? *of_thread.*check.on : settings.*check.on;
  }
  return settings;
}

// WORKBENCH_SIMULATOR="checks=all order=random seed=1": the settings a process starts with.
void ProcessSettings::read_environment() {
  const char* text = std::getenv("WORKBENCH_SIMULATOR");
  std::istringstream words(text ? text : "");
  for (std::string word; words >> word;) {
    size_t equals = word.find('=');
    std::string problem = equals == std::string::npos
                              ? "expected name=value, got '" + word + "'"
                              : set(word.substr(0, equals), word.substr(equals + 1));
    if (!problem.empty()) {
      std::fprintf(stderr, "WORKBENCH_SIMULATOR: %s\n", problem.c_str());
      _exit(2);  // a run with other settings was not requested
    }
  }
}

}  // namespace wbsim
