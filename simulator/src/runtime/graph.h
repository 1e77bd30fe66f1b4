// graph.h: work submitted to a stream: done at once, or kept as a node of a graph.
#pragma once

#include <cuda_runtime_api.h>

#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <variant>
#include <vector>

#include "runtime/runtime.h"

namespace wbsim {

struct Event;
struct Graph;
struct Node;

// ---- What a stream or a node does ---------------------------------------------------------------

struct KernelWork {
  Function* function = nullptr;
  LaunchShape shape;
  std::vector<uint8_t> params;
  int priority = 0;
  std::vector<void*> pointers;  // into params, for cudaGraphKernelNodeGetParams
};
struct CopyWork {
  cudaMemcpy3DParms params = {};
  const char* call = "a memcpy node";
};
struct SetWork {
  cudaMemsetParams params = {};
  size_t slice_rows = 0, slices = 1;  // cudaMemset3D
  const char* call = "a memset node";
};
struct HostWork {
  cudaHostNodeParams params = {};
};
struct ChildWork {
  std::shared_ptr<Graph> graph;
};
struct EmptyWork {};
struct WaitWork {
  std::shared_ptr<Event> event;
};
struct RecordWork {
  std::shared_ptr<Event> event;
};
// Memory of a graph has its address from the creation of the node on, and may be used from the node
// until it is freed: by a node, or by a call.
struct AllocWork {
  cudaMemAllocNodeParams params = {};
  std::shared_ptr<void> memory;  // shared by the clones of the node
};
struct FreeWork {
  void* pointer = nullptr;
};
using Work = std::variant<KernelWork, CopyWork, SetWork, HostWork, ChildWork, EmptyWork, WaitWork,
                          RecordWork, AllocWork, FreeWork>;

AllocWork alloc_work(size_t bytes, const cudaMemPoolProps& properties, const char* call);
FreeWork free_work(void* pointer);  // throws ApiError unless it is memory of a graph
cudaGraphNodeType type_of(const Work& work);
void execute(Work& work);  // throws ApiError

CopyWork copy_work(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, const char* call);
CopyWork copy_work_2d(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                      size_t height, cudaMemcpyKind kind, const char* call);
SetWork set_work(void* to, size_t pitch, unsigned value, unsigned element_bytes, size_t width,
                 size_t height, const char* call);

// ---- Graphs -------------------------------------------------------------------------------------

struct Node {
  Work work;
  Graph* graph = nullptr;
  std::vector<Node*> needs;  // what must be done first
  bool enabled = true;
  const Node* original = nullptr;  // of a clone
};

struct Graph {
  std::vector<std::unique_ptr<Node>> nodes;  // in the order of their creation
  std::vector<std::shared_ptr<void>> kept;   // user objects, released with the graph

  ~Graph();
  Node* add(Work work, std::vector<Node*> needs);
  std::vector<Node*> in_order() const;  // every node after what it needs; empty: a cycle
  std::shared_ptr<Graph> clone() const;
};

struct GraphExec {
  std::shared_ptr<Graph> graph;  // a clone
  unsigned long long flags = 0;
};

// ---- Streams and events -------------------------------------------------------------------------

struct Stream;

// Work that is recorded instead of done.
struct Capture {
  std::shared_ptr<Graph> graph;
  Stream* origin = nullptr;  // nullptr: destroyed
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  unsigned long long id = 0;
  std::thread::id thread;
  std::vector<Stream*> streams;
  std::vector<Node*> left;  // last nodes of streams that were destroyed meanwhile
  bool invalid = false;
};

struct Stream {
  unsigned flags = 0;
  int priority = 0;
  unsigned long long id = 0;
  std::map<int, cudaLaunchAttributeValue> attributes;
  std::shared_ptr<Capture> capture;
  std::vector<Node*> tail;  // of the capture: what the next node needs

  ~Stream();
};

struct Event {
  unsigned flags = 0;
  bool recorded = false;
  std::chrono::steady_clock::time_point at;
  std::weak_ptr<Capture> capture;  // the one it was last recorded in
  bool captured = false;
  std::vector<Node*> tail;
};

std::recursive_mutex& graph_mutex();  // over captures and the structure of graphs
std::shared_ptr<Stream> stream_of(cudaStream_t handle);
std::shared_ptr<Event> event_of(cudaEvent_t handle);
std::shared_ptr<Graph> graph_of(cudaGraph_t handle);
Node& node_of(cudaGraphNode_t handle);
cudaGraph_t handle_of(std::shared_ptr<Graph> graph);  // makes it known
std::shared_ptr<Graph> forget_graph(cudaGraph_t handle);
void forget_node(Node& node);  // takes it out of its graph

// Does the work now, or adds it to the graph that the stream captures; then returns the node.
Node* submit(cudaStream_t stream, Work work);
// For calls that would wait for work that is only being captured. What they check depends on the
// modes of the capture and of the calling thread (cudaThreadExchangeStreamCaptureMode).
void forbid_in_capture();
cudaStreamCaptureMode exchange_capture_mode(cudaStreamCaptureMode mode);
void record(Event& event);

void start_capture(Stream& stream, std::shared_ptr<Graph> graph, std::vector<Node*> needs,
                   cudaStreamCaptureMode mode);
std::shared_ptr<Graph> end_capture(Stream& stream);
// The stream waits for an event that was recorded in a capturing stream.
void join_capture(Stream& stream, Event& event);

}  // namespace wbsim
