// progress.h: one line about a long launch, for somebody who waits at a terminal.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace wbsim {

struct Launch;
struct Worker;

// Workers report between the turns of their clusters; one of them, whoever comes by when it is due,
// writes the line. Nothing is done while instructions run.
class Progress {
 public:
  // nullptr if nobody would see it: stderr is not a terminal, or belongs to somebody else.
  static std::unique_ptr<Progress> of(const Launch& launch, size_t num_workers);
  // Seconds of a launch after which it is shown.
  static std::atomic<double> after;

  Progress(const Launch& launch, size_t num_workers) : launch_(launch), seats_(num_workers) {}
  ~Progress();  // removes the line

  // A cluster had a turn: the instructions that it executed, and the blocks that are done.
  void advanced(const Worker& worker, size_t index, uint64_t instructions, uint64_t blocks);
  std::string text();  // for the line

 private:
  using Clock = std::chrono::steady_clock;

  // What a worker has told.
  struct Seat {
    uint64_t since = 0;              // instructions since it last looked at the clock
    std::vector<uint64_t> before;    // of its counts, at the last line
    std::atomic<bool> asked{true};   // the line was written; what has it executed since?
    std::mutex mutex;                // of the next
    std::vector<uint64_t> executed;  // of its counts, between the last two lines
  };
  void publish(const Worker& worker, Seat& seat);
  std::string busiest_line();
  void draw();

  const Launch& launch_;
  std::vector<Seat> seats_;
  std::atomic<uint64_t> instructions_{0}, blocks_{0};
  const Clock::time_point start_ = Clock::now();
  std::atomic<Clock::rep> due_{0};
  std::mutex drawing_;
  bool drawn_ = false;

  static constexpr std::chrono::milliseconds AGAIN{500};
};

}  // namespace wbsim
