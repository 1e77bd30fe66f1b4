#include "exec/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <string_view>
#include <utility>

#include "decode/place.h"
#include "exec/block.h"

namespace wbsim {
namespace {

constexpr uint64_t LOOKS = 1 << 18;  // instructions after which a worker looks at the clock

bool somebody_watches() {
  const char* terminal = std::getenv("TERM");
  // A test's output is the test's, even where pytest does not capture it.
  return isatty(STDERR_FILENO) && !(terminal && std::string_view(terminal) == "dumb") &&
         !std::getenv("PYTEST_CURRENT_TEST");
}

// "1,234,567"
std::string grouped(uint64_t n) {
  std::string text = std::to_string(n);
  for (size_t i = text.size(); i > 3; i -= 3) {
    text.insert(i - 3, ",");
  }
  return text;
}

void write_all(const std::string& text) {
  [[maybe_unused]] ssize_t written = write(STDERR_FILENO, text.data(), text.size());
}

}  // namespace

std::atomic<double> Progress::after{3};

std::unique_ptr<Progress> Progress::of(const Launch& launch, size_t num_workers) {
  return somebody_watches() ? std::make_unique<Progress>(launch, num_workers) : nullptr;
}

Progress::~Progress() {
  if (drawn_) {
    write_all("\033[K");
  }
}

void Progress::advanced(const Worker& worker, size_t index, uint64_t instructions,
                        uint64_t blocks) {
  instructions_.fetch_add(instructions, std::memory_order_relaxed);
  blocks_.fetch_add(blocks, std::memory_order_relaxed);
  Seat& seat = seats_[index];
  seat.since += instructions;
  if (seat.since < LOOKS) {
    return;
  }
  seat.since = 0;
  const auto now = Clock::now();
  if (seat.asked.exchange(false)) {
    publish(worker, seat);
  }
  if (std::chrono::duration<double>(now - start_).count() < after) {
    return;
  }
  Clock::rep due = due_.load(std::memory_order_relaxed);
  const Clock::rep ticks = now.time_since_epoch().count();
  if (ticks >= due && due_.compare_exchange_strong(due, ticks + Clock::duration(AGAIN).count())) {
    draw();
  }
}

void Progress::publish(const Worker& worker, Seat& seat) {
  std::lock_guard lock(seat.mutex);
  seat.before.resize(worker.counts.size());
  seat.executed.resize(worker.counts.size());
  for (size_t i = 0; i < worker.counts.size(); i++) {
    seat.executed[i] =
        worker.counts[i].warps - std::exchange(seat.before[i], worker.counts[i].warps);
  }
}

// The line that the warps have spent most instructions on of late.
std::string Progress::busiest_line() {
  const Kernel& kernel = *launch_.kernel;
  std::vector<uint64_t> executed(kernel.code.size());
  for (Seat& seat : seats_) {
    std::lock_guard lock(seat.mutex);
    for (size_t i = 0; i < seat.executed.size(); i++) {
      executed[i] += seat.executed[i];
    }
  }
  std::map<std::pair<std::string, int>, uint64_t> lines;
  for (size_t first = 0; first < executed.size(); first += kernel.code[first].run_length) {
    for (size_t i = first; executed[first] && i < first + kernel.code[first].run_length; i++) {
      const Place place = place_of(*kernel.module, *kernel.info[i].source);
      lines[{place.file, place.line}] += executed[first];
    }
  }
  auto most = std::max_element(lines.begin(), lines.end(),
                               [](auto& a, auto& b) { return a.second < b.second; });
  return most == lines.end() || most->first.second == 0
             ? ""
             : ", mostly at " + shorten(most->first.first) + ":" +
                   std::to_string(most->first.second);
}

std::string Progress::text() {
  return launch_.kernel->pretty + ": " + grouped(blocks_) + " of " +
         grouped(launch_.num_sampled() * launch_.cluster_size()) + " blocks done, " +
         grouped(instructions_) + " warp instructions" + busiest_line();
}

// Without moving the cursor, so that what the program has written stays; cut off at the margin.
void Progress::draw() {
  std::lock_guard lock(drawing_);
  write_all("\0337\033[?7l" + text() + "\033[K\033[?7h\0338");
  drawn_ = true;
  for (Seat& seat : seats_) {
    seat.asked = true;
  }
}

}  // namespace wbsim
