// graph_node_calls.cpp: the nodes of graphs: what each kind does, and its parameters.

#include <cstring>

#include "runtime/api/graph_calls.h"
#include "runtime/api/kernel_calls.h"

using namespace wbsim;

namespace {

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
  work.params =
      args || !extra ? Runtime::get().launches.pack(function, args) : pack_extra(function, extra);
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
  auto* found = Runtime::get().modules.find_variable(symbol);
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

// P: one of the two structures that the runtime has for it.
template <class P>
AllocWork alloc_work(P& p) {
  AllocWork work = wbsim::alloc_work(p.bytesize, p.poolProps, "cudaGraphAddMemAllocNode");
  p.dptr = work.params.dptr;
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
      return alloc_work(p->alloc);
    case cudaGraphNodeTypeMemFree:
      return free_work(p->free.dptr);
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

}  // namespace

extern "C" {

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
    const Kernel& kernel = Runtime::get().modules.kernel_of(*work.function);
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
    add(out, graph, needs, count, alloc_work(*params));
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
  return call([&] { add(out, graph, needs, count, free_work(pointer)); });
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

}  // extern "C"
