#include "exec/launch.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <mutex>
#include <system_error>
#include <thread>

#include "checks/checker.h"
#include "counting/counting.h"
#include "decode/place.h"
#include "exec/block.h"
#include "exec/ops/float_mode.h"
#include "exec/progress.h"

namespace wbsim {
namespace {

// Instructions a warp may run before the others get a turn: for a cluster that has its core to
// itself, and for one that shares it.
constexpr uint64_t SLICE_ALONE = 1 << 16;
constexpr uint64_t SLICE_SHARED = 1 << 12;
// While counting, warps take short turns, as they do on a GPU: what one has loaded is still in the
// L1 cache when the next one requests it.
constexpr uint64_t SLICE_COUNTING = 1 << 7;

constexpr uint64_t MAX_STACK = 512 * 1024;  // bytes of a thread's local memory

// nvcc breaks calls across lines.
std::string one_line(std::string_view text) {
  std::string out;
  for (char c : text) {
    bool space = c == ' ' || c == '\n' || c == '\t';
    if (!space || (!out.empty() && out.back() != ' ' && out.back() != '(')) {
      out += space ? ' ' : c;
    }
  }
  return out;
}

void add_counts(std::vector<Count>& out, const std::vector<Worker::RunCount>& counts,
                const std::vector<Inst>& code) {
  for (size_t first = 0; first < counts.size(); first += code[first].run_length) {
    for (size_t i = first; i < first + code[first].run_length; i++) {
      out[i].warps += counts[first].warps;
      out[i].threads += counts[first].threads - counts[i].skipped;
    }
  }
}

}  // namespace

// The depth of recursion and what alloca takes are unknown. A stack frame here is not smaller than
// the hardware's, so the limit counts four times. Each lane's memory is aligned for vectors.
uint32_t Launch::local_bytes() const {
  uint64_t stack = kernel->open_stack ? 4 * std::min((stack_limit + 15) / 16 * 16, MAX_STACK) : 0;
  return kernel->local_bytes + static_cast<uint32_t>(stack);
}

uint64_t Launch::num_sampled() const {
  const uint64_t wanted = settings.sample_blocks;
  return wanted == 0 ? num_clusters() : std::min(wanted, num_clusters());
}

// One of each stretch of the grid, at varying places in it: a fixed distance could match that of a
// row of blocks.
uint64_t Launch::sampled(uint64_t i) const {
  const uint64_t all = num_clusters(), some = num_sampled();
  if (some == all) {
    return i;
  }
  constexpr double GOLDEN = 0.6180339887498949;
  const uint64_t first = i * all / some, end = (i + 1) * all / some;  // the stretch
  const double place = std::fmod((static_cast<double>(i) + 1) * GOLDEN, 1);
  return first + static_cast<uint64_t>(place * static_cast<double>(end - first));
}

Finding finding_at(const Warp& w, const Inst* in, int lane, std::string kind, std::string message) {
  const Kernel& kernel = *w.block->kernel;
  const ptx::Instruction& source = *kernel.info[in - kernel.code.data()].source;
  Finding f;
  f.kind = std::move(kind);
  f.message = std::move(message);
  f.kernel = kernel.pretty;
  f.ptx = one_line(source.text);
  const Place place = report_place(*kernel.module, source);
  f.file = place.file;
  f.line = place.line;
  f.chain = place.chain;
  std::copy_n(w.block->ctaid, 3, f.block.begin());
  if (lane >= 0) {
    const uint32_t* dims = w.block->worker->launch->block;
    uint32_t thread = w.index * LANES + lane;
    f.has_thread = true;
    f.thread = {thread % dims[0], thread / dims[0] % dims[1], thread / (dims[0] * dims[1])};
  }
  return f;
}

Result run_grid(const Launch& launch, const std::atomic<bool>& interrupted) {
  auto start = std::chrono::steady_clock::now();
  size_t num_instructions = launch.kernel->code.size();
  Result result;
  result.counts.resize(num_instructions);
  if (launch.counting) {
    result.counting = std::make_shared<Counting>(num_instructions);
  }
  std::atomic<uint64_t> next_cluster{0};
  std::atomic<bool> stop{false};
  std::mutex mutex;
  uint64_t first_bad_cluster = UINT64_MAX;
  const uint64_t num_clusters = launch.num_sampled();
  const uint64_t cores = launch.settings.threads > 0
                             ? launch.settings.threads
                             : std::max(1u, std::thread::hardware_concurrency());
  const uint64_t num_workers = std::min(cores, num_clusters);
  // Clusters that a worker runs in turns: those of a cooperative launch from the start, others when
  // they seem to wait for a cluster that has not started; never more than the device would hold.
  const uint64_t at_start = launch.cooperative ? (num_clusters + num_workers - 1) / num_workers : 1;
  const uint64_t at_most = std::max<uint64_t>(
      at_start, NUM_SMS * (2048 / launch.num_threads()) / launch.cluster_size() / num_workers);

  const std::unique_ptr<Progress> progress = Progress::of(launch, num_workers);
  GlobalShadow global_shadow(*launch.kernel);

  // The lowest cluster that found something determines the launch's finding.
  auto stop_with = [&](uint64_t cluster, Finding finding) {
    stop = true;
    std::lock_guard lock(mutex);
    if (cluster < first_bad_cluster) {
      first_bad_cluster = cluster;
      result.finding = std::move(finding);
    }
  };
  // Starts the next cluster, if there is one.
  auto start_next = [&](Worker& worker, uint64_t& current) {
    uint64_t index = next_cluster++;
    if (index >= num_clusters) {
      return false;
    }
    current = index = launch.sampled(index);
    if (worker.spare.empty()) {
      worker.spare.push_back(std::make_unique<Cluster>());
    }
    start_cluster(worker, *worker.spare.back(), index);
    worker.running.push_back(std::move(worker.spare.back()));
    worker.spare.pop_back();
    return true;
  };
  auto keep_output = [&](Cluster& cluster) {
    if (!cluster.output.empty()) {
      std::lock_guard lock(mutex);
      result.output[cluster.index] = std::move(cluster.output);
    }
  };
  auto executed = [](const Worker& worker) {
    uint64_t all = 0;
    for (const auto& cluster : worker.running) {
      all += cluster->instructions;
    }
    return all;
  };
  // Instructions that a cluster runs before it may be waiting for one that has not started.
  auto patience = [](const Worker& worker) {
    return worker.running.size() > 1 ? SLICE_SHARED : SLICE_ALONE;
  };
  // Gives every running cluster a turn. Returns whether all of them spun.
  auto run_all = [&](Worker& worker, size_t index, uint64_t& current) {
    worker.slice = launch.counting ? SLICE_COUNTING : patience(worker);
    bool spun = true;
    for (size_t i = 0; i < worker.running.size() && !stop && !interrupted;) {
      Cluster& cluster = *worker.running[i];
      current = cluster.index;
      const uint64_t before = cluster.instructions;
      Turn turn = run_turn(cluster);
      spun &= turn == Turn::Spun;
      if (progress) {
        progress->advanced(worker, index, cluster.instructions - before,
                           turn == Turn::Finished ? launch.cluster_size() : 0);
      }
      if (turn == Turn::Finished) {
        keep_output(cluster);
        worker.spare.push_back(std::move(worker.running[i]));
        worker.running.erase(worker.running.begin() + i);
      } else {
        i++;
      }
    }
    return spun;
  };
  auto work = [&](size_t index) {           // of the worker
    FloatMode mode(Round::Nearest, false);  // whatever the caller has set
    Worker worker;
    worker.launch = &launch;
    worker.stop = &stop;
    worker.interrupted = &interrupted;
    worker.global_shadow = &global_shadow;
    uint64_t current = 0;
    try {
      worker.counts.resize(num_instructions);
      worker.allowed.resize(num_instructions);
      if (launch.counting) {
        worker.counting = std::make_shared<Counting>(num_instructions);
      }
      bool more = true, spun = false;
      uint64_t spent = 0;  // instructions of a cluster, while nothing but spinning happened
      while (!stop && !interrupted) {
        size_t wanted = spun ? worker.running.size() + 1 : at_start;
        while (more && worker.running.size() < std::min<uint64_t>(wanted, at_most)) {
          more = start_next(worker, current);
        }
        if (worker.running.empty()) {
          break;
        }
        const uint64_t before = executed(worker);
        if (run_all(worker, index, current)) {
          spent += (executed(worker) - before) / worker.running.size();
          if (num_workers > 1) {  // they may wait for one that has no core of its own
            std::this_thread::yield();
          }
        } else {
          spent = 0;
        }
        spun = spent >= patience(worker);
        spent = spun ? 0 : spent;
      }
    } catch (Finding& finding) {
      stop_with(current, std::move(finding));
    } catch (const std::exception& error) {  // no memory for the block's state
      Finding f;
      f.kind = "launch";
      f.message = std::string("the simulator could not run the block: ") + error.what();
      f.kernel = launch.kernel->pretty;
      stop_with(current, std::move(f));
    }
    for (auto& cluster : worker.running) {  // stopped before they ended
      keep_output(*cluster);
    }
    std::lock_guard lock(mutex);
    add_counts(result.counts, worker.counts, launch.kernel->code);
    result.notes.merge(worker.notes);
    if (worker.counting) {
      result.counting->merge(*worker.counting);
    }
  };

  {
    std::vector<std::jthread> helpers;
    try {
      for (uint64_t i = 1; i < num_workers; i++) {
        helpers.emplace_back(work, i);
      }
    } catch (const std::system_error&) {  // no more threads: the existing ones do it
    }
    work(0);
  }
  if (interrupted && !result.finding) {
    Finding f;
    f.kind = "interrupted";
    f.message = "the kernel was interrupted";
    f.kernel = launch.kernel->pretty;
    result.finding = f;
  }
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace wbsim
