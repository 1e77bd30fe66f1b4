// graph_calls.cpp: graphs, built node by node or captured (stream_calls.cpp), and their launches.

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "runtime/api/calls.h"
#include "runtime/api/kernel_calls.h"
#include "runtime/graph.h"

using namespace wbsim;

namespace {

Handles<GraphExec>& execs() {
  static auto* handles = new Handles<GraphExec>;
  return *handles;
}

std::shared_ptr<GraphExec> exec_of(cudaGraphExec_t handle) {
  return execs().get(handle, cudaErrorInvalidValue);
}

cudaGraphNode_t handle_of(Node* node) { return reinterpret_cast<cudaGraphNode_t>(node); }

template <class W>
W& work_of(Node& node) {
  W* work = std::get_if<W>(&node.work);
  require(work != nullptr);
  return *work;
}

// The node of an executable graph that was made from `node`.
Node& node_in(GraphExec& exec, cudaGraphNode_t node) {
  for (auto& n : exec.graph->nodes) {
    if (n->original == reinterpret_cast<const Node*>(node)) {
      return *n;
    }
  }
  throw ApiError{cudaErrorInvalidValue};
}

void add(cudaGraphNode_t* out, cudaGraph_t graph, const cudaGraphNode_t* needs, size_t count,
         Work work) {
  require(out && (needs || count == 0));
  std::vector<Node*> nodes;
  for (size_t i = 0; i < count; i++) {
    nodes.push_back(&node_of(needs[i]));
  }
  *out = handle_of(graph_of(graph)->add(std::move(work), std::move(nodes)));
}

// ---- From the parameters of a call to work ------------------------------------------------------

KernelWork kernel_work(void* kernel, dim3 grid, dim3 block, unsigned shared_bytes, void** args,
                       void** extra) {
  Function& function = function_of(kernel);
  KernelWork work;
  work.function = &function;
  work.shape = {grid, block, shared_bytes};
  work.params = args || !extra ? Runtime::get().pack(function, args) : pack_extra(function, extra);
  return work;
}

KernelWork kernel_work(const cudaKernelNodeParams* p) {
  require(p);
  return kernel_work(p->func, p->gridDim, p->blockDim, p->sharedMemBytes, p->kernelParams,
                     p->extra);
}

// New parameters for a node that keeps its attributes.
void change(KernelWork& work, KernelWork to) {
  to.shape.cluster = work.shape.cluster;
  to.shape.cooperative = work.shape.cooperative;
  to.priority = work.priority;
  work = std::move(to);
}

CopyWork copy_work(const cudaMemcpy3DParms* p) {
  require(p);
  return {*p, "a memcpy node"};
}

CopyWork copy_1d(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  return wbsim::copy_work(to, from, bytes, kind, "a memcpy node");
}

void* symbol_at(const void* symbol, size_t bytes, size_t offset) {
  auto* found = Runtime::get().find_variable(symbol);
  require(found != nullptr, cudaErrorInvalidSymbol);
  require(offset <= found->bytes && bytes <= found->bytes - offset);
  return found->address + offset;
}

SetWork set_work(const cudaMemsetParams* p) {
  require(p && (p->elementSize == 1 || p->elementSize == 2 || p->elementSize == 4));
  SetWork work;
  work.params = *p;
  return work;
}

HostWork host_work(const cudaHostNodeParams* p) {
  require(p && p->fn);
  return {*p};
}

AllocWork alloc_work(size_t bytes, cudaMemPoolProps properties, void** out) {
  require(bytes > 0);
  AllocWork work;
  work.params.poolProps = properties;
  work.params.bytesize = bytes;
  work.params.dptr = Runtime::get().allocate(bytes, "cudaGraphAddMemAllocNode", MemoryKind::Device);
  *out = work.params.dptr;
  return work;
}

Work any_work(cudaGraphNodeParams* p) {
  require(p);
  switch (p->type) {
    case cudaGraphNodeTypeKernel:
      return kernel_work(p->kernel.func, p->kernel.gridDim, p->kernel.blockDim,
                         p->kernel.sharedMemBytes, p->kernel.kernelParams, p->kernel.extra);
    case cudaGraphNodeTypeMemcpy:
      return copy_work(&p->memcpy.copyParams);
    case cudaGraphNodeTypeMemset: {
      cudaMemsetParams set = {p->memset.dst,         p->memset.pitch, p->memset.value,
                              p->memset.elementSize, p->memset.width, p->memset.height};
      return set_work(&set);
    }
    case cudaGraphNodeTypeHost: {
      cudaHostNodeParams host = {p->host.fn, p->host.userData};
      return host_work(&host);
    }
    case cudaGraphNodeTypeGraph:
      return ChildWork{graph_of(p->graph.graph)->clone()};
    case cudaGraphNodeTypeEmpty:
      return EmptyWork{};
    case cudaGraphNodeTypeWaitEvent:
      return WaitWork{event_of(p->eventWait.event)};
    case cudaGraphNodeTypeEventRecord:
      return RecordWork{event_of(p->eventRecord.event)};
    case cudaGraphNodeTypeMemAlloc:
      return alloc_work(p->alloc.bytesize, p->alloc.poolProps, &p->alloc.dptr);
    case cudaGraphNodeTypeMemFree:
      return FreeWork{p->free.dptr};
    default:  // conditional nodes, semaphores
      throw ApiError{cudaErrorNotSupported};
  }
}

void change(Work& work, Work to) {
  require(work.index() == to.index());
  if (auto* kernel = std::get_if<KernelWork>(&work)) {
    change(*kernel, std::get<KernelWork>(std::move(to)));
  } else {
    work = std::move(to);
  }
}

// ---- Lists of nodes -----------------------------------------------------------------------------

// Fills `out` with at most *count nodes; without `out` says how many there are.
void list(const std::vector<Node*>& nodes, cudaGraphNode_t* out, size_t* count) {
  require(count);
  for (size_t i = 0; out && i < *count; i++) {
    out[i] = i < nodes.size() ? handle_of(nodes[i]) : nullptr;
  }
  *count = out ? std::min(*count, nodes.size()) : nodes.size();
}

std::vector<Node*> dependents(Node& node) {
  std::vector<Node*> all;
  for (auto& other : node.graph->nodes) {
    if (std::find(other->needs.begin(), other->needs.end(), &node) != other->needs.end()) {
      all.push_back(other.get());
    }
  }
  return all;
}

// ---- Executable graphs --------------------------------------------------------------------------

void instantiate(cudaGraphExec_t* out, cudaGraph_t handle, unsigned long long flags) {
  require(out);
  *out = nullptr;
  auto graph = graph_of(handle);
  require(graph->nodes.empty() || !graph->in_order().empty());
  require(!(flags & cudaGraphInstantiateFlagDeviceLaunch), cudaErrorNotSupported);
  auto exec = std::make_shared<GraphExec>();
  exec->graph = graph->clone();
  exec->flags = flags;
  *out = execs().add<cudaGraphExec_t>(exec);
}

size_t index_of(const Graph& graph, const Node* node) {
  auto found = std::find_if(graph.nodes.begin(), graph.nodes.end(),
                            [&](auto& n) { return n.get() == node; });
  return found - graph.nodes.begin();
}

// What stands between `graph` and the executable graph made from another one; nodes correspond in
// the order in which they were added.
cudaGraphExecUpdateResult difference(const Graph& exec, const Graph& graph, Node** where) {
  *where = nullptr;
  if (exec.nodes.size() != graph.nodes.size()) {
    return cudaGraphExecUpdateErrorTopologyChanged;
  }
  for (size_t i = 0; i < graph.nodes.size(); i++) {
    Node& now = *exec.nodes[i];
    Node& wanted = *graph.nodes[i];
    *where = &wanted;
    if (now.work.index() != wanted.work.index()) {
      return cudaGraphExecUpdateErrorNodeTypeChanged;
    }
    bool same = now.needs.size() == wanted.needs.size();
    for (size_t k = 0; same && k < now.needs.size(); k++) {
      same = index_of(exec, now.needs[k]) == index_of(graph, wanted.needs[k]);
    }
    if (!same) {
      return cudaGraphExecUpdateErrorTopologyChanged;
    }
    auto* kernel = std::get_if<KernelWork>(&now.work);
    if (kernel &&
        kernel->shape.cooperative != std::get<KernelWork>(wanted.work).shape.cooperative) {
      return cudaGraphExecUpdateErrorAttributesChanged;
    }
  }
  *where = nullptr;
  return cudaGraphExecUpdateSuccess;
}

const char* type_name(const Work& work) {
  constexpr const char* NAMES[] = {"kernel", "memcpy",     "memset",       "host",      "graph",
                                   "empty",  "event wait", "event record", "mem alloc", "mem free"};
  return NAMES[work.index()];
}

}  // namespace

extern "C" {

// ---- Graphs and edges ---------------------------------------------------------------------------

cudaError_t wbsim_cudaGraphCreate(cudaGraph_t* out, unsigned flags) {
  return call([&] {
    require(out && flags == 0);
    *out = wbsim::handle_of(std::make_shared<Graph>());
  });
}
cudaError_t wbsim_cudaGraphDestroy(cudaGraph_t graph) {
  return call([&] {
    graph_of(graph);
    forget_graph(graph);
  });
}
cudaError_t wbsim_cudaGraphClone(cudaGraph_t* out, cudaGraph_t graph) {
  return call([&] {
    require(out);
    *out = wbsim::handle_of(graph_of(graph)->clone());
  });
}
cudaError_t wbsim_cudaGraphNodeFindInClone(cudaGraphNode_t* out, cudaGraphNode_t node,
                                           cudaGraph_t clone) {
  return call([&] {
    require(out);
    for (auto& n : graph_of(clone)->nodes) {
      if (n->original == reinterpret_cast<const Node*>(node)) {
        *out = handle_of(n.get());
        return;
      }
    }
    throw ApiError{cudaErrorInvalidValue};
  });
}
cudaError_t wbsim_cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* out, size_t* count) {
  return call([&] {
    std::vector<Node*> nodes;
    for (auto& node : graph_of(graph)->nodes) {
      nodes.push_back(node.get());
    }
    list(nodes, out, count);
  });
}
cudaError_t wbsim_cudaGraphGetRootNodes(cudaGraph_t graph, cudaGraphNode_t* out, size_t* count) {
  return call([&] {
    std::vector<Node*> nodes;
    for (auto& node : graph_of(graph)->nodes) {
      if (node->needs.empty()) {
        nodes.push_back(node.get());
      }
    }
    list(nodes, out, count);
  });
}
cudaError_t wbsim_cudaGraphGetEdges(cudaGraph_t graph, cudaGraphNode_t* from, cudaGraphNode_t* to,
                                    cudaGraphEdgeData* data, size_t* count) {
  return call([&] {
    require(count && !from == !to);
    size_t found = 0, room = from ? *count : 0;
    for (auto& node : graph_of(graph)->nodes) {
      for (Node* need : node->needs) {
        if (found < room) {
          from[found] = handle_of(need);
          to[found] = handle_of(node.get());
          if (data) {
            data[found] = {};
          }
        }
        found++;
      }
    }
    *count = from ? std::min(room, found) : found;
  });
}
cudaError_t wbsim_cudaGraphNodeGetDependencies(cudaGraphNode_t node, cudaGraphNode_t* out,
                                               cudaGraphEdgeData*, size_t* count) {
  return call([&] { list(node_of(node).needs, out, count); });
}
cudaError_t wbsim_cudaGraphNodeGetDependentNodes(cudaGraphNode_t node, cudaGraphNode_t* out,
                                                 cudaGraphEdgeData*, size_t* count) {
  return call([&] { list(dependents(node_of(node)), out, count); });
}
cudaError_t wbsim_cudaGraphAddDependencies(cudaGraph_t graph, const cudaGraphNode_t* from,
                                           const cudaGraphNode_t* to, const cudaGraphEdgeData*,
                                           size_t count) {
  return call([&] {
    auto g = graph_of(graph);
    require((from && to) || count == 0);
    for (size_t i = 0; i < count; i++) {
      Node &before = node_of(from[i]), &after = node_of(to[i]);
      require(&before != &after && before.graph == g.get() && after.graph == g.get());
      auto& needs = after.needs;
      require(std::find(needs.begin(), needs.end(), &before) == needs.end());
      needs.push_back(&before);
    }
  });
}
cudaError_t wbsim_cudaGraphRemoveDependencies(cudaGraph_t graph, const cudaGraphNode_t* from,
                                              const cudaGraphNode_t* to, const cudaGraphEdgeData*,
                                              size_t count) {
  return call([&] {
    graph_of(graph);
    require((from && to) || count == 0);
    for (size_t i = 0; i < count; i++) {
      require(std::erase(node_of(to[i]).needs, &node_of(from[i])) > 0);
    }
  });
}
cudaError_t wbsim_cudaGraphDestroyNode(cudaGraphNode_t node) {
  return call([&] { forget_node(node_of(node)); });
}
cudaError_t wbsim_cudaGraphNodeGetType(cudaGraphNode_t node, cudaGraphNodeType* out) {
  return call([&] {
    require(out);
    *out = type_of(node_of(node).work);
  });
}

// ---- Nodes of every type ------------------------------------------------------------------------

cudaError_t wbsim_cudaGraphAddNode(cudaGraphNode_t* out, cudaGraph_t graph,
                                   const cudaGraphNode_t* needs, const cudaGraphEdgeData*,
                                   size_t count, cudaGraphNodeParams* params) {
  return call([&] { add(out, graph, needs, count, any_work(params)); });
}
cudaError_t wbsim_cudaGraphNodeSetParams(cudaGraphNode_t node, cudaGraphNodeParams* params) {
  return call([&] { change(node_of(node).work, any_work(params)); });
}
cudaError_t wbsim_cudaGraphExecNodeSetParams(cudaGraphExec_t exec, cudaGraphNode_t node,
                                             cudaGraphNodeParams* params) {
  return call([&] { change(node_in(*exec_of(exec), node).work, any_work(params)); });
}
cudaError_t wbsim_cudaGraphNodeSetEnabled(cudaGraphExec_t exec, cudaGraphNode_t node,
                                          unsigned enabled) {
  return call([&] {
    Node& n = node_in(*exec_of(exec), node);
    require(n.work.index() <= 2);  // kernel, memcpy and memset nodes can be disabled
    n.enabled = enabled != 0;
  });
}
cudaError_t wbsim_cudaGraphNodeGetEnabled(cudaGraphExec_t exec, cudaGraphNode_t node,
                                          unsigned* out) {
  return call([&] {
    require(out);
    *out = node_in(*exec_of(exec), node).enabled;
  });
}

// ---- Kernel nodes -------------------------------------------------------------------------------

cudaError_t wbsim_cudaGraphAddKernelNode(cudaGraphNode_t* out, cudaGraph_t graph,
                                         const cudaGraphNode_t* needs, size_t count,
                                         const cudaKernelNodeParams* params) {
  return call([&] { add(out, graph, needs, count, kernel_work(params)); });
}
cudaError_t wbsim_cudaGraphKernelNodeGetParams(cudaGraphNode_t node, cudaKernelNodeParams* out) {
  return call([&] {
    require(out);
    KernelWork& work = work_of<KernelWork>(node_of(node));
    const Kernel& kernel = Runtime::get().kernel_of(*work.function);
    work.pointers.clear();
    for (auto [offset, bytes] : kernel.params) {
      work.pointers.push_back(work.params.data() + offset);
    }
    *out = {};
    out->func = work.function;
    out->gridDim = work.shape.grid;
    out->blockDim = work.shape.block;
    out->sharedMemBytes = static_cast<unsigned>(work.shape.shared_bytes);
    out->kernelParams = work.pointers.data();
  });
}
cudaError_t wbsim_cudaGraphKernelNodeSetParams(cudaGraphNode_t node,
                                               const cudaKernelNodeParams* params) {
  return call([&] { change(work_of<KernelWork>(node_of(node)), kernel_work(params)); });
}
cudaError_t wbsim_cudaGraphExecKernelNodeSetParams(cudaGraphExec_t exec, cudaGraphNode_t node,
                                                   const cudaKernelNodeParams* params) {
  return call(
      [&] { change(work_of<KernelWork>(node_in(*exec_of(exec), node)), kernel_work(params)); });
}
cudaError_t wbsim_cudaGraphKernelNodeGetAttribute(cudaGraphNode_t node, cudaKernelNodeAttrID id,
                                                  cudaKernelNodeAttrValue* out) {
  return call([&] {
    require(out);
    const KernelWork& work = work_of<KernelWork>(node_of(node));
    std::memset(out, 0, sizeof *out);
    dim3 cluster = work.shape.cluster;
    switch (id) {
      case cudaLaunchAttributeCooperative:
        out->cooperative = work.shape.cooperative;
        break;
      case cudaLaunchAttributePriority:
        out->priority = work.priority;
        break;
      case cudaLaunchAttributeClusterDimension:
        out->clusterDim = {cluster.x, cluster.y, cluster.z};
        break;
      default:
        require(id <= cudaLaunchAttributeNvlinkUtilCentricScheduling);
    }
  });
}
cudaError_t wbsim_cudaGraphKernelNodeSetAttribute(cudaGraphNode_t node, cudaKernelNodeAttrID id,
                                                  const cudaKernelNodeAttrValue* value) {
  return call([&] {
    require(value);
    KernelWork& work = work_of<KernelWork>(node_of(node));
    switch (id) {
      case cudaLaunchAttributeCooperative:
        work.shape.cooperative = value->cooperative != 0;
        break;
      case cudaLaunchAttributePriority:
        work.priority = value->priority;
        break;
      case cudaLaunchAttributeClusterDimension:
        work.shape.cluster = dim3(value->clusterDim.x, value->clusterDim.y, value->clusterDim.z);
        break;
      default:
        require(id <= cudaLaunchAttributeNvlinkUtilCentricScheduling);
    }
  });
}
cudaError_t wbsim_cudaGraphKernelNodeCopyAttributes(cudaGraphNode_t to, cudaGraphNode_t from) {
  return call([&] {
    KernelWork &a = work_of<KernelWork>(node_of(to)), &b = work_of<KernelWork>(node_of(from));
    a.shape.cooperative = b.shape.cooperative;
    a.shape.cluster = b.shape.cluster;
    a.priority = b.priority;
  });
}

// ---- Memcpy nodes -------------------------------------------------------------------------------

cudaError_t wbsim_cudaGraphAddMemcpyNode(cudaGraphNode_t* out, cudaGraph_t graph,
                                         const cudaGraphNode_t* needs, size_t count,
                                         const cudaMemcpy3DParms* params) {
  return call([&] { add(out, graph, needs, count, copy_work(params)); });
}
cudaError_t wbsim_cudaGraphAddMemcpyNode1D(cudaGraphNode_t* out, cudaGraph_t graph,
                                           const cudaGraphNode_t* needs, size_t count, void* to,
                                           const void* from, size_t bytes, cudaMemcpyKind kind) {
  return call([&] { add(out, graph, needs, count, copy_1d(to, from, bytes, kind)); });
}
cudaError_t wbsim_cudaGraphAddMemcpyNodeToSymbol(cudaGraphNode_t* out, cudaGraph_t graph,
                                                 const cudaGraphNode_t* needs, size_t count,
                                                 const void* symbol, const void* from, size_t bytes,
                                                 size_t offset, cudaMemcpyKind kind) {
  return call([&] {
    add(out, graph, needs, count, copy_1d(symbol_at(symbol, bytes, offset), from, bytes, kind));
  });
}
cudaError_t wbsim_cudaGraphAddMemcpyNodeFromSymbol(cudaGraphNode_t* out, cudaGraph_t graph,
                                                   const cudaGraphNode_t* needs, size_t count,
                                                   void* to, const void* symbol, size_t bytes,
                                                   size_t offset, cudaMemcpyKind kind) {
  return call([&] {
    add(out, graph, needs, count, copy_1d(to, symbol_at(symbol, bytes, offset), bytes, kind));
  });
}
cudaError_t wbsim_cudaGraphMemcpyNodeGetParams(cudaGraphNode_t node, cudaMemcpy3DParms* out) {
  return call([&] {
    require(out);
    *out = work_of<CopyWork>(node_of(node)).params;
  });
}
cudaError_t wbsim_cudaGraphMemcpyNodeSetParams(cudaGraphNode_t node,
                                               const cudaMemcpy3DParms* params) {
  return call([&] { work_of<CopyWork>(node_of(node)) = copy_work(params); });
}
cudaError_t wbsim_cudaGraphMemcpyNodeSetParams1D(cudaGraphNode_t node, void* to, const void* from,
                                                 size_t bytes, cudaMemcpyKind kind) {
  return call([&] { work_of<CopyWork>(node_of(node)) = copy_1d(to, from, bytes, kind); });
}
cudaError_t wbsim_cudaGraphMemcpyNodeSetParamsToSymbol(cudaGraphNode_t node, const void* symbol,
                                                       const void* from, size_t bytes,
                                                       size_t offset, cudaMemcpyKind kind) {
  return call([&] {
    work_of<CopyWork>(node_of(node)) = copy_1d(symbol_at(symbol, bytes, offset), from, bytes, kind);
  });
}
cudaError_t wbsim_cudaGraphMemcpyNodeSetParamsFromSymbol(cudaGraphNode_t node, void* to,
                                                         const void* symbol, size_t bytes,
                                                         size_t offset, cudaMemcpyKind kind) {
  return call([&] {
    work_of<CopyWork>(node_of(node)) = copy_1d(to, symbol_at(symbol, bytes, offset), bytes, kind);
  });
}
cudaError_t wbsim_cudaGraphExecMemcpyNodeSetParams(cudaGraphExec_t exec, cudaGraphNode_t node,
                                                   const cudaMemcpy3DParms* params) {
  return call([&] { work_of<CopyWork>(node_in(*exec_of(exec), node)) = copy_work(params); });
}
cudaError_t wbsim_cudaGraphExecMemcpyNodeSetParams1D(cudaGraphExec_t exec, cudaGraphNode_t node,
                                                     void* to, const void* from, size_t bytes,
                                                     cudaMemcpyKind kind) {
  return call(
      [&] { work_of<CopyWork>(node_in(*exec_of(exec), node)) = copy_1d(to, from, bytes, kind); });
}
cudaError_t wbsim_cudaGraphExecMemcpyNodeSetParamsToSymbol(cudaGraphExec_t exec,
                                                           cudaGraphNode_t node, const void* symbol,
                                                           const void* from, size_t bytes,
                                                           size_t offset, cudaMemcpyKind kind) {
  return call([&] {
    work_of<CopyWork>(node_in(*exec_of(exec), node)) =
        copy_1d(symbol_at(symbol, bytes, offset), from, bytes, kind);
  });
}
cudaError_t wbsim_cudaGraphExecMemcpyNodeSetParamsFromSymbol(cudaGraphExec_t exec,
                                                             cudaGraphNode_t node, void* to,
                                                             const void* symbol, size_t bytes,
                                                             size_t offset, cudaMemcpyKind kind) {
  return call([&] {
    work_of<CopyWork>(node_in(*exec_of(exec), node)) =
        copy_1d(to, symbol_at(symbol, bytes, offset), bytes, kind);
  });
}

// ---- Memset and host nodes ----------------------------------------------------------------------

cudaError_t wbsim_cudaGraphAddMemsetNode(cudaGraphNode_t* out, cudaGraph_t graph,
                                         const cudaGraphNode_t* needs, size_t count,
                                         const cudaMemsetParams* params) {
  return call([&] { add(out, graph, needs, count, set_work(params)); });
}
cudaError_t wbsim_cudaGraphMemsetNodeGetParams(cudaGraphNode_t node, cudaMemsetParams* out) {
  return call([&] {
    require(out);
    *out = work_of<SetWork>(node_of(node)).params;
  });
}
cudaError_t wbsim_cudaGraphMemsetNodeSetParams(cudaGraphNode_t node,
                                               const cudaMemsetParams* params) {
  return call([&] { work_of<SetWork>(node_of(node)) = set_work(params); });
}
cudaError_t wbsim_cudaGraphExecMemsetNodeSetParams(cudaGraphExec_t exec, cudaGraphNode_t node,
                                                   const cudaMemsetParams* params) {
  return call([&] { work_of<SetWork>(node_in(*exec_of(exec), node)) = set_work(params); });
}
cudaError_t wbsim_cudaGraphAddHostNode(cudaGraphNode_t* out, cudaGraph_t graph,
                                       const cudaGraphNode_t* needs, size_t count,
                                       const cudaHostNodeParams* params) {
  return call([&] { add(out, graph, needs, count, host_work(params)); });
}
cudaError_t wbsim_cudaGraphHostNodeGetParams(cudaGraphNode_t node, cudaHostNodeParams* out) {
  return call([&] {
    require(out);
    *out = work_of<HostWork>(node_of(node)).params;
  });
}
cudaError_t wbsim_cudaGraphHostNodeSetParams(cudaGraphNode_t node,
                                             const cudaHostNodeParams* params) {
  return call([&] { work_of<HostWork>(node_of(node)) = host_work(params); });
}
cudaError_t wbsim_cudaGraphExecHostNodeSetParams(cudaGraphExec_t exec, cudaGraphNode_t node,
                                                 const cudaHostNodeParams* params) {
  return call([&] { work_of<HostWork>(node_in(*exec_of(exec), node)) = host_work(params); });
}

// ---- Child graphs, empty, event and memory nodes ------------------------------------------------

cudaError_t wbsim_cudaGraphAddChildGraphNode(cudaGraphNode_t* out, cudaGraph_t graph,
                                             const cudaGraphNode_t* needs, size_t count,
                                             cudaGraph_t child) {
  return call([&] { add(out, graph, needs, count, ChildWork{graph_of(child)->clone()}); });
}
cudaError_t wbsim_cudaGraphChildGraphNodeGetGraph(cudaGraphNode_t node, cudaGraph_t* out) {
  return call([&] {
    require(out);
    *out = wbsim::handle_of(work_of<ChildWork>(node_of(node)).graph);
  });
}
cudaError_t wbsim_cudaGraphExecChildGraphNodeSetParams(cudaGraphExec_t exec, cudaGraphNode_t node,
                                                       cudaGraph_t child) {
  return call([&] {
    ChildWork& work = work_of<ChildWork>(node_in(*exec_of(exec), node));
    Node* where = nullptr;
    auto wanted = graph_of(child);
    require(difference(*work.graph, *wanted, &where) == cudaGraphExecUpdateSuccess,
            cudaErrorGraphExecUpdateFailure);
    work.graph = wanted->clone();
  });
}
cudaError_t wbsim_cudaGraphAddEmptyNode(cudaGraphNode_t* out, cudaGraph_t graph,
                                        const cudaGraphNode_t* needs, size_t count) {
  return call([&] { add(out, graph, needs, count, EmptyWork{}); });
}
cudaError_t wbsim_cudaGraphAddEventRecordNode(cudaGraphNode_t* out, cudaGraph_t graph,
                                              const cudaGraphNode_t* needs, size_t count,
                                              cudaEvent_t event) {
  return call([&] { add(out, graph, needs, count, RecordWork{event_of(event)}); });
}
cudaError_t wbsim_cudaGraphEventRecordNodeGetEvent(cudaGraphNode_t node, cudaEvent_t* out) {
  return call([&] {
    require(out);
    *out = reinterpret_cast<cudaEvent_t>(work_of<RecordWork>(node_of(node)).event.get());
  });
}
cudaError_t wbsim_cudaGraphEventRecordNodeSetEvent(cudaGraphNode_t node, cudaEvent_t event) {
  return call([&] { work_of<RecordWork>(node_of(node)).event = event_of(event); });
}
cudaError_t wbsim_cudaGraphExecEventRecordNodeSetEvent(cudaGraphExec_t exec, cudaGraphNode_t node,
                                                       cudaEvent_t event) {
  return call([&] { work_of<RecordWork>(node_in(*exec_of(exec), node)).event = event_of(event); });
}
cudaError_t wbsim_cudaGraphAddEventWaitNode(cudaGraphNode_t* out, cudaGraph_t graph,
                                            const cudaGraphNode_t* needs, size_t count,
                                            cudaEvent_t event) {
  return call([&] { add(out, graph, needs, count, WaitWork{event_of(event)}); });
}
cudaError_t wbsim_cudaGraphEventWaitNodeGetEvent(cudaGraphNode_t node, cudaEvent_t* out) {
  return call([&] {
    require(out);
    *out = reinterpret_cast<cudaEvent_t>(work_of<WaitWork>(node_of(node)).event.get());
  });
}
cudaError_t wbsim_cudaGraphEventWaitNodeSetEvent(cudaGraphNode_t node, cudaEvent_t event) {
  return call([&] { work_of<WaitWork>(node_of(node)).event = event_of(event); });
}
cudaError_t wbsim_cudaGraphExecEventWaitNodeSetEvent(cudaGraphExec_t exec, cudaGraphNode_t node,
                                                     cudaEvent_t event) {
  return call([&] { work_of<WaitWork>(node_in(*exec_of(exec), node)).event = event_of(event); });
}
cudaError_t wbsim_cudaGraphAddMemAllocNode(cudaGraphNode_t* out, cudaGraph_t graph,
                                           const cudaGraphNode_t* needs, size_t count,
                                           cudaMemAllocNodeParams* params) {
  return call([&] {
    require(params);
    add(out, graph, needs, count, alloc_work(params->bytesize, params->poolProps, &params->dptr));
  });
}
cudaError_t wbsim_cudaGraphMemAllocNodeGetParams(cudaGraphNode_t node,
                                                 cudaMemAllocNodeParams* out) {
  return call([&] {
    require(out);
    *out = work_of<AllocWork>(node_of(node)).params;
  });
}
cudaError_t wbsim_cudaGraphAddMemFreeNode(cudaGraphNode_t* out, cudaGraph_t graph,
                                          const cudaGraphNode_t* needs, size_t count,
                                          void* pointer) {
  return call([&] {
    require(pointer);
    add(out, graph, needs, count, FreeWork{pointer});
  });
}
cudaError_t wbsim_cudaGraphMemFreeNodeGetParams(cudaGraphNode_t node, void* out) {
  return call([&] {
    require(out);
    *static_cast<void**>(out) = work_of<FreeWork>(node_of(node)).pointer;
  });
}
cudaError_t wbsim_cudaDeviceGraphMemTrim(int device) {
  return call([&] { require_device(device); });
}

// ---- Executable graphs --------------------------------------------------------------------------

cudaError_t wbsim_cudaGraphInstantiate(cudaGraphExec_t* out, cudaGraph_t graph,
                                       unsigned long long flags) {
  return call([&] { instantiate(out, graph, flags); });
}
cudaError_t wbsim_cudaGraphInstantiateWithFlags(cudaGraphExec_t* out, cudaGraph_t graph,
                                                unsigned long long flags) {
  return call([&] { instantiate(out, graph, flags); });
}
cudaError_t wbsim_cudaGraphInstantiateWithParams(cudaGraphExec_t* out, cudaGraph_t graph,
                                                 cudaGraphInstantiateParams* params) {
  return call([&] {
    require(params);
    params->errNode_out = nullptr;
    params->result_out = cudaGraphInstantiateError;
    instantiate(out, graph, params->flags);
    params->result_out = cudaGraphInstantiateSuccess;
  });
}
cudaError_t wbsim_cudaGraphExecGetFlags(cudaGraphExec_t exec, unsigned long long* out) {
  return call([&] {
    require(out);
    *out = exec_of(exec)->flags;
  });
}
cudaError_t wbsim_cudaGraphExecDestroy(cudaGraphExec_t exec) {
  return call([&] {
    exec_of(exec);
    execs().take(exec);
  });
}
cudaError_t wbsim_cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t stream) {
  return call([&] {
    exec_of(exec);
    stream_of(stream);
  });
}
// In a stream that captures, a launch becomes a child graph.
cudaError_t wbsim_cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  return call([&] { submit(stream, ChildWork{exec_of(exec)->graph}); });
}
cudaError_t wbsim_cudaGraphExecUpdate(cudaGraphExec_t handle, cudaGraph_t graph,
                                      cudaGraphExecUpdateResultInfo* out) {
  return call([&] {
    auto exec = exec_of(handle);
    auto wanted = graph_of(graph);
    Node* where = nullptr;
    cudaGraphExecUpdateResult result = difference(*exec->graph, *wanted, &where);
    if (out) {
      *out = {result, handle_of(where), nullptr};
    }
    require(result == cudaGraphExecUpdateSuccess, cudaErrorGraphExecUpdateFailure);
    for (size_t i = 0; i < wanted->nodes.size(); i++) {
      Work work = wanted->nodes[i]->work;
      if (auto* child = std::get_if<ChildWork>(&work)) {
        child->graph = child->graph->clone();
      }
      exec->graph->nodes[i]->work = std::move(work);
    }
  });
}
cudaError_t wbsim_cudaGraphDebugDotPrint(cudaGraph_t graph, const char* path, unsigned) {
  return call([&] {
    auto g = graph_of(graph);
    require(path);
    std::ofstream file(path);
    require(file.good(), cudaErrorOperatingSystem);
    file << "digraph dot {\n";
    for (size_t i = 0; i < g->nodes.size(); i++) {
      const Node& node = *g->nodes[i];
      auto* kernel = std::get_if<KernelWork>(&node.work);
      file << "  node" << i << " [label=\"" << type_name(node.work)
           << (kernel ? " " + kernel->function->name : "") << "\"];\n";
      for (Node* need : node.needs) {
        file << "  node" << index_of(*g, need) << " -> node" << i << ";\n";
      }
    }
    file << "}\n";
  });
}

// ---- User objects: kept until their last reference goes -----------------------------------------

namespace {
struct UserObject {
  void* object;
  cudaHostFn_t destroy;
  unsigned references;
};
std::mutex user_mutex;
Handles<UserObject>& user_objects() {
  static auto* handles = new Handles<UserObject>;
  return *handles;
}
void change_references(cudaUserObject_t handle, int by) {
  auto object = user_objects().get(handle, cudaErrorInvalidValue);
  std::lock_guard lock(user_mutex);
  object->references += by;
  if (object->references == 0) {
    user_objects().take(handle);
    object->destroy(object->object);
  }
}
}  // namespace

cudaError_t wbsim_cudaUserObjectCreate(cudaUserObject_t* out, void* object, cudaHostFn_t destroy,
                                       unsigned references, unsigned flags) {
  return call([&] {
    require(out && destroy && references > 0 && flags == cudaUserObjectNoDestructorSync);
    auto made = std::make_shared<UserObject>(UserObject{object, destroy, references});
    *out = user_objects().add<cudaUserObject_t>(made);
  });
}
cudaError_t wbsim_cudaUserObjectRetain(cudaUserObject_t object, unsigned count) {
  return call([&] { change_references(object, static_cast<int>(count)); });
}
cudaError_t wbsim_cudaUserObjectRelease(cudaUserObject_t object, unsigned count) {
  return call([&] { change_references(object, -static_cast<int>(count)); });
}
cudaError_t wbsim_cudaGraphRetainUserObject(cudaGraph_t graph, cudaUserObject_t object,
                                            unsigned count, unsigned flags) {
  return call([&] {
    auto g = graph_of(graph);
    if (!(flags & cudaGraphUserObjectMove)) {
      change_references(object, static_cast<int>(count));
    }
    auto release = [object, count](void*) { change_references(object, -static_cast<int>(count)); };
    g->kept.push_back(std::shared_ptr<void>(nullptr, release));
  });
}

}  // extern "C"
