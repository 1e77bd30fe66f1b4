#include "launch.h"

#include <algorithm>
#include <chrono>
#include <mutex>
#include <system_error>
#include <thread>

#include "ops/float_mode.h"
#include "place.h"
#include "warp.h"

namespace wbsim {
Finding finding_at(const Warp& w, const Inst* in, int lane, std::string kind, std::string message) {
  const Kernel& kernel = *w.block->kernel;
  const ptx::Instruction& source = *kernel.info[in - kernel.code.data()].source;
  Finding f;
  f.kind = std::move(kind);
  f.message = std::move(message);
  f.kernel = kernel.pretty;
  f.ptx = source.text;
  Place place = place_of(*kernel.module, source);
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
  std::atomic<uint64_t> next_block{0};
  std::atomic<bool> stop{false};
  std::mutex mutex;
  uint64_t first_bad_block = UINT64_MAX;

  // The lowest block that found something speaks for the launch.
  auto stop_with = [&](uint64_t block, Finding finding) {
    stop = true;
    std::lock_guard lock(mutex);
    if (block < first_bad_block) {
      first_bad_block = block;
      result.finding = std::move(finding);
    }
  };
  auto work = [&] {
    FloatMode mode(Round::Nearest, false);  // whatever the caller has set
    Worker worker;
    worker.launch = &launch;
    worker.stop = &stop;
    worker.interrupted = &interrupted;
    uint64_t block = 0;
    try {
      worker.counts.resize(num_instructions);
      worker.allowed.resize(num_instructions);
      while (!stop && !interrupted && (block = next_block++) < launch.num_blocks()) {
        run_block(worker, block);
      }
    } catch (Finding& finding) {
      stop_with(block, std::move(finding));
    } catch (const std::exception& error) {  // no memory for the block's state
      Finding f;
      f.kind = "launch";
      f.message = std::string("the simulator could not run the block: ") + error.what();
      f.kernel = launch.kernel->pretty;
      stop_with(block, std::move(f));
    }
    std::lock_guard lock(mutex);
    for (size_t i = 0; i < worker.counts.size(); i++) {
      result.counts[i].warps += worker.counts[i].warps;
      result.counts[i].threads += worker.counts[i].threads;
    }
  };

  uint64_t cores = launch.settings.threads > 0 ? launch.settings.threads
                                               : std::max(1u, std::thread::hardware_concurrency());
  uint64_t num_workers = std::min(cores, launch.num_blocks());
  {
    std::vector<std::jthread> helpers;
    try {
      for (uint64_t i = 1; i < num_workers; i++) {
        helpers.emplace_back(work);
      }
    } catch (const std::system_error&) {  // no more threads: those there are do it
    }
    work();
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
