// graph_calls.cpp: graphs, built node by node (graph_node_calls.cpp) or captured
// (stream_calls.cpp), and their launches.

#include "runtime/api/graph_calls.h"

#include <algorithm>
#include <fstream>

using namespace wbsim;

namespace {

Handles<GraphExec>& execs() {
  static auto* handles = new Handles<GraphExec>;
  return *handles;
}
// ---- Lists of nodes -----------------------------------------------------------------------------

// Fills `out` with at most *count nodes; without `out`, returns how many there are.
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
const char* type_name(const Work& work) {
  constexpr const char* NAMES[] = {"kernel", "memcpy",     "memset",       "host",      "graph",
                                   "empty",  "event wait", "event record", "mem alloc", "mem free"};
  return NAMES[work.index()];
}

}  // namespace

namespace wbsim {

std::shared_ptr<GraphExec> exec_of(cudaGraphExec_t handle) {
  return execs().get(handle, cudaErrorInvalidValue);
}
size_t index_of(const Graph& graph, const Node* node) {
  auto found = std::find_if(graph.nodes.begin(), graph.nodes.end(),
                            [&](auto& n) { return n.get() == node; });
  return found - graph.nodes.begin();
}

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

}  // namespace wbsim

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
// In a capturing stream, a launch becomes a child graph.
cudaError_t wbsim_cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  return call([&] {
    auto found = exec_of(exec);
    if (found->flags & cudaGraphInstantiateFlagAutoFreeOnLaunch) {
      for (auto& node : found->graph->nodes) {
        if (auto* alloc = std::get_if<AllocWork>(&node->work)) {
          Runtime::get().memory.release(alloc->params.dptr, false);
        }
      }
    }
    submit(stream, ChildWork{found->graph});
  });
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

}  // extern "C"
