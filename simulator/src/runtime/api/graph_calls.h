// graph_calls.h: what the calls about graphs and those about their nodes share.
#pragma once

#include "runtime/api/calls.h"
#include "runtime/graph.h"

namespace wbsim {

std::shared_ptr<GraphExec> exec_of(cudaGraphExec_t handle);
inline cudaGraphNode_t handle_of(Node* node) { return reinterpret_cast<cudaGraphNode_t>(node); }
size_t index_of(const Graph& graph, const Node* node);
// What keeps `graph` from updating the executable graph made from another one; nodes correspond in
// the order in which they were added.
cudaGraphExecUpdateResult difference(const Graph& exec, const Graph& graph, Node** where);

}  // namespace wbsim
