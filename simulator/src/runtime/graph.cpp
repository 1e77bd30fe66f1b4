#include "runtime/graph.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <utility>

#include "runtime/api/calls.h"
#include "runtime/host_checks.h"

namespace wbsim {
namespace {

thread_local bool in_host_function = false;
thread_local cudaStreamCaptureMode capture_mode = cudaStreamCaptureModeGlobal;

std::set<const void*>& live_nodes() {
  static auto* nodes = new std::set<const void*>;  // never destroyed: see Runtime::get
  return *nodes;
}

Handles<Graph>& graphs() {
  static auto* handles = new Handles<Graph>;
  return *handles;
}

struct HostFunctionScope {
  HostFunctionScope() { in_host_function = true; }
  ~HostFunctionScope() { in_host_function = false; }
};

// Bytes from the first to past the last of a pitched box; SIZE_MAX if no memory could hold it.
size_t span(const cudaPitchedPtr& p, const cudaExtent& e) {
  size_t slices, rows, bytes, all;
  bool too_large = __builtin_mul_overflow(e.depth - 1, p.ysize, &slices) ||
                   __builtin_add_overflow(slices, e.height - 1, &rows) ||
                   __builtin_mul_overflow(rows, p.pitch, &bytes) ||
                   __builtin_add_overflow(bytes, e.width, &all);
  return too_large ? SIZE_MAX : all;
}

uint8_t* start(const cudaPitchedPtr& p, const cudaPos& at) {
  return static_cast<uint8_t*>(p.ptr) + (at.z * p.ysize + at.y) * p.pitch + at.x;
}

// Before anything is executed: what the graph will allocate is not allocated.
void require_free_memory(const Graph& graph) {
  Runtime& runtime = Runtime::get();
  for (auto& node : graph.nodes) {
    auto* alloc = std::get_if<AllocWork>(&node->work);
    if (alloc && runtime.memory.in_use(alloc->params.dptr)) {
      Finding finding;
      finding.kind = "launch";
      finding.message = "the graph allocates memory that its last launch left allocated";
      finding.hint =
          "free it, or instantiate with cudaGraphInstantiateFlagAutoFreeOnLaunch, which does so";
      throw ApiError{runtime.errors.report(finding, cudaErrorInvalidValue)};
    }
  }
}

struct Executor {
  void operator()(KernelWork& work) {
    check(Runtime::get().launches.launch(*work.function, work.shape, work.params));
  }
  void operator()(CopyWork& work) {
    const cudaMemcpy3DParms& p = work.params;
    const cudaExtent& e = p.extent;
    require(!p.srcArray && !p.dstArray, cudaErrorNotSupported);
    require(p.kind >= cudaMemcpyHostToHost && p.kind <= cudaMemcpyDefault,
            cudaErrorInvalidMemcpyDirection);
    if (e.width == 0 || e.height == 0 || e.depth == 0) {
      return;
    }
    bool one_row = e.height == 1 && e.depth == 1;
    require(one_row ||
                (e.width + p.srcPos.x <= p.srcPtr.pitch && e.width + p.dstPos.x <= p.dstPtr.pitch),
            cudaErrorInvalidPitchValue);
    const uint8_t* from = p.srcPtr.ptr ? start(p.srcPtr, p.srcPos) : nullptr;
    uint8_t* to = p.dstPtr.ptr ? start(p.dstPtr, p.dstPos) : nullptr;
    Runtime& runtime = Runtime::get();
    check_copied_range(from, span(p.srcPtr, e), work.call, false, p.kind);
    check_copied_range(to, span(p.dstPtr, e), work.call, true, p.kind);
    DeviceMemory::Opened opened(runtime.memory.device());
    runtime.memory.mark_initialised(to, span(p.dstPtr, e));
    for (size_t z = 0; z < e.depth; z++) {
      for (size_t y = 0; y < e.height; y++) {
        std::memmove(to + (z * p.dstPtr.ysize + y) * p.dstPtr.pitch,
                     from + (z * p.srcPtr.ysize + y) * p.srcPtr.pitch, e.width);
      }
    }
    check_written(from, to, p.srcPtr, e, work.call);
  }
  void operator()(SetWork& work) {
    const cudaMemsetParams& p = work.params;
    size_t width = p.width * p.elementSize;
    if (width == 0 || p.height == 0 || work.slices == 0) {
      return;
    }
    require(p.dst);
    require(p.height == 1 || width <= p.pitch, cudaErrorInvalidPitchValue);
    cudaPitchedPtr box = {p.dst, p.pitch, width, work.slice_rows};
    Allocations& memory = Runtime::get().memory;
    const size_t whole = span(box, {width, p.height, work.slices});
    check_set_range(p.dst, whole, work.call);
    DeviceMemory::Opened opened(memory.device());
    memory.mark_initialised(p.dst, whole);
    for (size_t z = 0; z < work.slices; z++) {
      for (size_t y = 0; y < p.height; y++) {
        uint8_t* row = static_cast<uint8_t*>(p.dst) + (z * work.slice_rows + y) * p.pitch;
        for (size_t x = 0; x < width; x += p.elementSize) {
          std::memcpy(row + x, &p.value, p.elementSize);  // little-endian: its low bytes
        }
      }
    }
  }
  void operator()(HostWork& work) {
    HostFunctionScope scope;
    work.params.fn(work.params.userData);
  }
  void operator()(ChildWork& work) {
    require_free_memory(*work.graph);
    for (Node* node : work.graph->in_order()) {
      if (node->enabled) {
        execute(node->work);
      }
    }
  }
  void operator()(EmptyWork&) {}
  void operator()(WaitWork&) {}
  void operator()(RecordWork& work) { record(*work.event); }
  void operator()(AllocWork& work) { Runtime::get().memory.begin_use(work.params.dptr); }
  void operator()(FreeWork& work) { require(Runtime::get().memory.release(work.pointer, false)); }
};

std::vector<std::weak_ptr<Capture>>& captures() {
  static auto* all = new std::vector<std::weak_ptr<Capture>>;
  return *all;
}

}  // namespace

cudaGraphNodeType type_of(const Work& work) {
  constexpr cudaGraphNodeType TYPES[] = {cudaGraphNodeTypeKernel,    cudaGraphNodeTypeMemcpy,
                                         cudaGraphNodeTypeMemset,    cudaGraphNodeTypeHost,
                                         cudaGraphNodeTypeGraph,     cudaGraphNodeTypeEmpty,
                                         cudaGraphNodeTypeWaitEvent, cudaGraphNodeTypeEventRecord,
                                         cudaGraphNodeTypeMemAlloc,  cudaGraphNodeTypeMemFree};
  return TYPES[work.index()];
}

void execute(Work& work) { std::visit(Executor{}, work); }

bool is_in_host_function() { return in_host_function; }

CopyWork copy_work_2d(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                      size_t height, cudaMemcpyKind kind, const char* call) {
  CopyWork work;
  work.params.srcPtr = {const_cast<void*>(from), from_pitch, width, height};
  work.params.dstPtr = {to, to_pitch, width, height};
  work.params.extent = {width, height, 1};
  work.params.kind = kind;
  work.call = call;
  return work;
}

CopyWork copy_work(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                   const char* call) {
  return copy_work_2d(to, bytes, from, bytes, bytes, 1, kind, call);
}

SetWork set_work(void* to, size_t pitch, unsigned value, unsigned element_bytes, size_t width,
                 size_t height, const char* call) {
  SetWork work;
  work.params = {to, pitch, value, element_bytes, width, height};
  work.call = call;
  return work;
}

AllocWork alloc_work(size_t bytes, const cudaMemPoolProps& properties, const char* call) {
  require(bytes > 0);
  Allocations& memory = Runtime::get().memory;
  AllocWork work;
  work.params.poolProps = properties;
  work.params.bytesize = bytes;
  work.params.dptr = memory.reserve(bytes, call);
  work.memory.reset(work.params.dptr, [&](void* pointer) { memory.end_reservation(pointer); });
  return work;
}

FreeWork free_work(void* pointer) {
  auto found = Runtime::get().memory.find(pointer);
  require(found && found->of_graph && found->first == reinterpret_cast<uint64_t>(pointer));
  return {pointer};
}

// ---- Graphs -------------------------------------------------------------------------------------

Graph::~Graph() {
  std::lock_guard lock(graph_mutex());
  for (auto& node : nodes) {
    live_nodes().erase(node.get());
  }
}

Node* Graph::add(Work work, std::vector<Node*> needs) {
  std::lock_guard lock(graph_mutex());
  for (Node* need : needs) {
    require(need->graph == this);
  }
  nodes.push_back(std::make_unique<Node>());
  Node* node = nodes.back().get();
  node->work = std::move(work);
  node->graph = this;
  node->needs = std::move(needs);
  live_nodes().insert(node);
  return node;
}

std::vector<Node*> Graph::in_order() const {
  std::vector<Node*> order;
  std::set<const Node*> done;
  while (order.size() < nodes.size()) {
    size_t before = order.size();
    for (auto& node : nodes) {
      if (!done.count(node.get()) && std::all_of(node->needs.begin(), node->needs.end(),
                                                 [&](Node* n) { return done.count(n) > 0; })) {
        order.push_back(node.get());
        done.insert(node.get());
      }
    }
    if (order.size() == before) {
      return {};
    }
  }
  return order;
}

std::shared_ptr<Graph> Graph::clone() const {
  auto copy = std::make_shared<Graph>();
  copy->kept = kept;
  std::map<const Node*, Node*> copies;
  for (auto& node : nodes) {
    Work work = node->work;
    if (auto* child = std::get_if<ChildWork>(&work)) {
      child->graph = child->graph->clone();
    }
    Node* made = copy->add(std::move(work), {});
    made->enabled = node->enabled;
    made->original = node.get();
    copies[node.get()] = made;
  }
  for (auto& node : nodes) {
    for (Node* need : node->needs) {
      copies[node.get()]->needs.push_back(copies[need]);
    }
  }
  return copy;
}

std::shared_ptr<Graph> graph_of(cudaGraph_t handle) {
  return graphs().get(handle, cudaErrorInvalidValue);
}

cudaGraph_t handle_of(std::shared_ptr<Graph> graph) { return graphs().add<cudaGraph_t>(graph); }

std::shared_ptr<Graph> forget_graph(cudaGraph_t handle) { return graphs().take(handle); }

Node& node_of(cudaGraphNode_t handle) {
  std::lock_guard lock(graph_mutex());
  require(live_nodes().count(handle) > 0);
  return *reinterpret_cast<Node*>(handle);
}

void forget_node(Node& node) {
  std::lock_guard lock(graph_mutex());
  for (auto& other : node.graph->nodes) {
    std::erase(other->needs, &node);
  }
  live_nodes().erase(&node);
  std::erase_if(node.graph->nodes, [&](auto& n) { return n.get() == &node; });
}

std::recursive_mutex& graph_mutex() {
  static auto* mutex = new ForkMutex<LockOrder::Graphs, std::recursive_mutex>;
  return *mutex;
}

// ---- Capture ------------------------------------------------------------------------------------

Stream::~Stream() {
  std::lock_guard lock(graph_mutex());
  if (!capture) {
    return;
  }
  std::erase(capture->streams, this);
  capture->left.insert(capture->left.end(), tail.begin(), tail.end());
  if (capture->origin == this) {  // nothing can end the capture any more
    capture->origin = nullptr;
    capture->invalid = true;
  }
}

void start_capture(Stream& stream, std::shared_ptr<Graph> graph, std::vector<Node*> needs,
                   cudaStreamCaptureMode mode) {
  static unsigned long long last_id = 0;
  std::lock_guard lock(graph_mutex());
  require(!stream.capture, cudaErrorIllegalState);
  auto capture = std::make_shared<Capture>();
  capture->graph = std::move(graph);
  capture->origin = &stream;
  capture->mode = mode;
  capture->id = ++last_id;
  capture->thread = std::this_thread::get_id();
  capture->streams = {&stream};
  stream.capture = capture;
  stream.tail = std::move(needs);
  std::erase_if(captures(), [](auto& c) { return c.expired(); });
  captures().push_back(capture);
}

void join_capture(Stream& stream, Event& event) {
  std::lock_guard lock(graph_mutex());
  std::shared_ptr<Capture> capture = event.capture.lock();
  require(capture && !capture->invalid, cudaErrorStreamCaptureInvalidated);
  if (!stream.capture) {
    stream.capture = capture;
    stream.tail = event.tail;
    capture->streams.push_back(&stream);
    return;
  }
  if (stream.capture != capture) {
    stream.capture->invalid = capture->invalid = true;
    throw ApiError{cudaErrorStreamCaptureMerge};
  }
  for (Node* node : event.tail) {
    if (std::find(stream.tail.begin(), stream.tail.end(), node) == stream.tail.end()) {
      stream.tail.push_back(node);
    }
  }
}

std::shared_ptr<Graph> end_capture(Stream& stream) {
  std::lock_guard lock(graph_mutex());
  std::shared_ptr<Capture> capture = stream.capture;
  require(capture != nullptr, cudaErrorIllegalState);
  require(capture->origin == &stream, cudaErrorStreamCaptureUnmatched);
  require(capture->mode == cudaStreamCaptureModeRelaxed ||
              capture->thread == std::this_thread::get_id(),
          cudaErrorStreamCaptureWrongThread);
  // Whatever other streams added must have been joined to this one.
  std::set<Node*> joined;
  std::vector<Node*> waiting = stream.tail;
  while (!waiting.empty()) {
    Node* node = waiting.back();
    waiting.pop_back();
    if (joined.insert(node).second) {
      waiting.insert(waiting.end(), node->needs.begin(), node->needs.end());
    }
  }
  auto lacks = [&](const std::vector<Node*>& nodes) {
    return std::any_of(nodes.begin(), nodes.end(), [&](Node* node) { return !joined.count(node); });
  };
  bool unjoined = lacks(capture->left);
  for (Stream* other : capture->streams) {
    unjoined |= lacks(other->tail);
    other->capture = nullptr;
    other->tail.clear();
  }
  require(!capture->invalid, cudaErrorStreamCaptureInvalidated);
  require(!unjoined, cudaErrorStreamCaptureUnjoined);
  return capture->graph;
}

cudaStreamCaptureMode exchange_capture_mode(cudaStreamCaptureMode mode) {
  return std::exchange(capture_mode, mode);
}

void forbid_in_capture() {
  if (capture_mode == cudaStreamCaptureModeRelaxed) {
    return;
  }
  std::lock_guard lock(graph_mutex());
  for (auto& weak : captures()) {
    std::shared_ptr<Capture> capture = weak.lock();
    if (!capture || capture->streams.empty() || capture->mode == cudaStreamCaptureModeRelaxed) {
      continue;
    }
    if (!capture->origin || !capture->origin->capture) {
      continue;  // has ended
    }
    bool of_others =
        capture->mode == cudaStreamCaptureModeGlobal && capture_mode == cudaStreamCaptureModeGlobal;
    if (of_others || capture->thread == std::this_thread::get_id()) {
      capture->invalid = true;
      throw ApiError{cudaErrorStreamCaptureUnsupported};
    }
  }
}

Node* submit(cudaStream_t handle, Work work) {
  std::shared_ptr<Stream> stream = stream_of(handle);
  {
    std::lock_guard lock(graph_mutex());
    if (stream->capture) {
      require(!stream->capture->invalid, cudaErrorStreamCaptureInvalidated);
      Node* node = stream->capture->graph->add(std::move(work), stream->tail);
      stream->tail = {node};
      return node;
    }
    // The legacy stream waits for every blocking stream, even one that is capturing.
    if (handle == nullptr || handle == cudaStreamLegacy) {
      for (auto& weak : captures()) {
        std::shared_ptr<Capture> capture = weak.lock();
        if (!capture) {
          continue;
        }
        for (Stream* other : capture->streams) {
          if (other->capture == capture && !(other->flags & cudaStreamNonBlocking)) {
            capture->invalid = true;
            throw ApiError{cudaErrorStreamCaptureImplicit};
          }
        }
      }
    }
  }
  execute(work);
  return nullptr;
}

void record(Event& event) {
  std::lock_guard lock(graph_mutex());
  event.recorded = true;
  event.captured = false;
  event.capture.reset();
  event.at = std::chrono::steady_clock::now();
}

}  // namespace wbsim
