// threads.cpp: the part of libgomp that `#pragma omp parallel for schedule(dynamic)` needs, on
// std::thread. ThreadSanitizer sees how these threads start and join. Of libgomp, which is not built
// with it, it sees neither, and would report every loop as a race. Link this instead of libgomp.
#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

namespace {

int max_threads = 4;
thread_local int thread_num = 0;
thread_local std::atomic<long>* taken = nullptr;  // iterations handed out; one loop per team
thread_local struct {
  long begin, end, step, chunk;
} loop;

}  // namespace

extern "C" {

int omp_get_max_threads() { return max_threads; }
void omp_set_num_threads(int threads) { max_threads = threads; }
int omp_get_thread_num() { return thread_num; }

// The counter is relaxed: it orders nothing between the threads of a loop, as nothing else does.
bool GOMP_loop_nonmonotonic_dynamic_next(long* begin, long* end) {
  const long trips = (loop.end - loop.begin + loop.step - 1) / loop.step;
  const long first = taken->fetch_add(loop.chunk, std::memory_order_relaxed);
  if (first >= trips) return false;
  *begin = loop.begin + first * loop.step;
  *end = loop.begin + std::min(first + loop.chunk, trips) * loop.step;
  return true;
}

// All threads of a team come here, with the same bounds.
bool GOMP_loop_nonmonotonic_dynamic_start(long begin, long end, long step, long chunk, long* first,
                                          long* last) {
  loop = {begin, end, step, chunk};
  return GOMP_loop_nonmonotonic_dynamic_next(first, last);
}

void GOMP_loop_end_nowait() {}

void GOMP_parallel(void (*body)(void*), void* data, unsigned threads, unsigned) {
  std::atomic<long> team{0};
  const auto run = [&](int number) {
    thread_num = number;
    taken = &team;
    body(data);
  };
  std::vector<std::thread> others;
  const int count = threads > 0 ? static_cast<int>(threads) : max_threads;
  for (int i = 1; i < count; ++i) others.emplace_back(run, i);
  run(0);
  for (std::thread& thread : others) thread.join();
}

}  // extern "C"
