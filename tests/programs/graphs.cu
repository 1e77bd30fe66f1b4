// graphs.cu: streams and events; graphs captured from them, and graphs built node by node.
#include <cstring>
#include <vector>

#include "check.h"

__global__ void add(int* x, int value) { x[threadIdx.x] += value; }
__global__ void spin(int* x, int rounds) {
  for (int i = 0; i < rounds; i++) {
    x[0] += i & 1;
  }
}

int* device;
int first() {
  int value;
  OK(cudaMemcpy(&value, device, 4, cudaMemcpyDeviceToHost));
  return value;
}

void streams_and_events() {
  cudaStream_t s;
  int least, greatest, priority;
  unsigned flags;
  OK(cudaDeviceGetStreamPriorityRange(&least, &greatest));
  CHECK(least == 0 && greatest < 0);
  OK(cudaStreamCreateWithPriority(&s, cudaStreamNonBlocking, -100));
  OK(cudaStreamGetPriority(s, &priority));
  OK(cudaStreamGetFlags(s, &flags));
  CHECK(priority == greatest && flags == cudaStreamNonBlocking);
  cudaEvent_t start, end, untimed, never;
  OK(cudaEventCreate(&start));
  OK(cudaEventCreate(&end));
  OK(cudaEventCreate(&never));
  OK(cudaEventCreateWithFlags(&untimed, cudaEventDisableTiming));
  OK(cudaEventRecord(start, s));
  spin<<<1, 1, 0, s>>>(device, 20000);
  OK(cudaEventRecord(end, s));
  OK(cudaEventRecord(untimed, s));
  OK(cudaEventSynchronize(end));
  OK(cudaEventQuery(end));
  OK(cudaStreamWaitEvent(0, end));
  float ms = -1;
  OK(cudaEventElapsedTime(&ms, start, end));
  CHECK(ms > 0);
  EXPECT(cudaErrorInvalidResourceHandle, cudaEventElapsedTime(&ms, start, untimed));
  EXPECT(cudaErrorInvalidResourceHandle, cudaEventElapsedTime(&ms, start, never));
  static int calls;
  OK(cudaLaunchHostFunc(s, [](void* p) { ++*static_cast<int*>(p); }, &calls));
  OK(cudaStreamAddCallback(
      s, [](cudaStream_t, cudaError_t e, void* p) { *static_cast<int*>(p) += e ? 100 : 10; },
      &calls, 0));
  OK(cudaStreamSynchronize(s));
  CHECK(calls == 11);
  static cudaError_t inside;
  OK(cudaLaunchHostFunc(s, [](void*) { inside = cudaStreamQuery(0); }, nullptr));
  EXPECT(cudaErrorNotPermitted, inside);
  (void)cudaGetLastError();
  add<<<1, 1, 0, cudaStreamPerThread>>>(device, 0);
  OK(cudaStreamQuery(cudaStreamPerThread));
  OK(cudaStreamDestroy(s));
  EXPECT(cudaErrorInvalidResourceHandle, cudaStreamSynchronize(s));
  EXPECT(cudaErrorInvalidResourceHandle, cudaEventRecord(cudaEvent_t(&ms), 0));
  (void)cudaGetLastError();
  for (cudaEvent_t e : {start, end, untimed, never}) OK(cudaEventDestroy(e));
}

void capture() {
  cudaStream_t a, b;
  OK(cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking));
  OK(cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking));
  cudaEvent_t fork, join;
  OK(cudaEventCreate(&fork));
  OK(cudaEventCreate(&join));
  cudaGraph_t graph;
  OK(cudaMemset(device, 0, 128));
  OK(cudaStreamBeginCapture(a, cudaStreamCaptureModeRelaxed));
  OK(cudaMemsetAsync(device, 0, 128, a));
  add<<<1, 32, 0, a>>>(device, 5);
  OK(cudaEventRecord(fork, a));
  OK(cudaStreamWaitEvent(b, fork));
  add<<<1, 32, 0, b>>>(device, 7);
  OK(cudaEventRecord(join, b));
  OK(cudaStreamWaitEvent(a, join));
  cudaStreamCaptureStatus status;
  OK(cudaStreamIsCapturing(b, &status));
  CHECK(status == cudaStreamCaptureStatusActive);
  EXPECT(cudaErrorCapturedEvent, cudaEventQuery(join));
  OK(cudaStreamEndCapture(a, &graph));
  (void)cudaGetLastError();
  CHECK(first() == 0);  // nothing has run yet
  size_t nodes = 0, edges = 0, roots = 0;
  OK(cudaGraphGetNodes(graph, nullptr, &nodes));
  OK(cudaGraphGetEdges(graph, nullptr, nullptr, nullptr, &edges));
  OK(cudaGraphGetRootNodes(graph, nullptr, &roots));
  CHECK(nodes == 3 && edges == 2 && roots == 1);
  cudaGraphExec_t exec;
  OK(cudaGraphInstantiate(&exec, graph, 0));
  for (int i = 0; i < 3; i++) OK(cudaGraphLaunch(exec, a));
  OK(cudaStreamSynchronize(a));
  CHECK(first() == 12);
  // Another value in the captured kernel, by an update with another capture.
  cudaGraph_t other;
  OK(cudaStreamBeginCapture(a, cudaStreamCaptureModeThreadLocal));
  OK(cudaMemsetAsync(device, 0, 128, a));
  add<<<1, 32, 0, a>>>(device, 50);
  add<<<1, 32, 0, a>>>(device, 70);
  OK(cudaStreamEndCapture(a, &other));
  cudaGraphExecUpdateResultInfo info;
  OK(cudaGraphExecUpdate(exec, other, &info));
  CHECK(info.result == cudaGraphExecUpdateSuccess);
  OK(cudaGraphLaunch(exec, a));
  CHECK(first() == 120);
  OK(cudaGraphDestroy(other));
  // A thread may permit itself what a capture forbids.
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  void* memory;
  OK(cudaStreamBeginCapture(a, cudaStreamCaptureModeGlobal));
  OK(cudaThreadExchangeStreamCaptureMode(&mode));
  CHECK(mode == cudaStreamCaptureModeGlobal);
  OK(cudaMalloc(&memory, 64));
  OK(cudaFree(memory));
  OK(cudaThreadExchangeStreamCaptureMode(&mode));
  CHECK(mode == cudaStreamCaptureModeRelaxed);
  EXPECT(cudaErrorStreamCaptureUnsupported, cudaMalloc(&memory, 64));
  EXPECT(cudaErrorStreamCaptureInvalidated, cudaStreamEndCapture(a, &other));
  // What cannot be captured ends the capture.
  OK(cudaStreamBeginCapture(a, cudaStreamCaptureModeGlobal));
  EXPECT(cudaErrorStreamCaptureUnsupported, cudaStreamSynchronize(a));
  EXPECT(cudaErrorStreamCaptureInvalidated, cudaStreamEndCapture(a, &other));
  OK(cudaStreamBeginCapture(a, cudaStreamCaptureModeRelaxed));
  OK(cudaEventRecord(fork, a));
  OK(cudaStreamWaitEvent(b, fork));
  add<<<1, 32, 0, b>>>(device, 7);
  EXPECT(cudaErrorStreamCaptureUnjoined, cudaStreamEndCapture(a, &other));
  EXPECT(cudaErrorStreamCaptureUnsupported,
         cudaStreamBeginCapture(cudaStreamLegacy, cudaStreamCaptureModeRelaxed));
  (void)cudaGetLastError();
  OK(cudaGraphExecDestroy(exec));
  OK(cudaGraphDestroy(graph));
  OK(cudaStreamDestroy(a));
  OK(cudaStreamDestroy(b));
}

// Streams that were forked may end before the capture does; what they added must be joined all the
// same.
void destroyed_in_capture() {
  for (bool join : {true, false}) {
    cudaStream_t a, b, c;
    cudaEvent_t fork, of_b, of_c;
    for (cudaStream_t* s : {&a, &b, &c}) OK(cudaStreamCreateWithFlags(s, cudaStreamNonBlocking));
    for (cudaEvent_t* e : {&fork, &of_b, &of_c}) OK(cudaEventCreate(e));
    OK(cudaStreamBeginCapture(a, cudaStreamCaptureModeGlobal));
    OK(cudaMemsetAsync(device, 0, 128, a));
    OK(cudaEventRecord(fork, a));
    OK(cudaStreamWaitEvent(b, fork));
    add<<<1, 32, 0, b>>>(device, 7);
    OK(cudaEventRecord(of_b, b));
    OK(cudaStreamDestroy(b));
    OK(cudaStreamWaitEvent(c, of_b));  // waits for a stream that is gone
    add<<<1, 32, 0, c>>>(device, 8);
    OK(cudaEventRecord(of_c, c));
    OK(cudaStreamDestroy(c));
    if (join) OK(cudaStreamWaitEvent(a, of_c));
    for (cudaEvent_t e : {fork, of_b, of_c}) OK(cudaEventDestroy(e));
    cudaGraph_t graph;
    EXPECT(join ? cudaSuccess : cudaErrorStreamCaptureUnjoined, cudaStreamEndCapture(a, &graph));
    if (join) {
      cudaGraphExec_t exec;
      OK(cudaGraphInstantiate(&exec, graph, 0));
      for (int i = 0; i < 2; i++) OK(cudaGraphLaunch(exec, a));
      CHECK(first() == 15);
      OK(cudaGraphExecDestroy(exec));
      OK(cudaGraphDestroy(graph));
    }
    OK(cudaStreamDestroy(a));
  }
}

// Stream-ordered memory becomes memory of the graph.
void memory_in_capture() {
  cudaStream_t a, b;
  cudaEvent_t fork, join;
  OK(cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking));
  OK(cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking));
  OK(cudaEventCreate(&fork));
  OK(cudaEventCreate(&join));
  int *temporary, *kept, *outside;
  cudaMemPool_t pool;
  OK(cudaDeviceGetDefaultMemPool(&pool, 0));
  OK(cudaMalloc(&outside, 128));
  OK(cudaStreamBeginCapture(a, cudaStreamCaptureModeGlobal));
  OK(cudaMallocAsync(&temporary, 128, a));
  OK(cudaMallocFromPoolAsync(&kept, 128, pool, a));
  OK(cudaMemsetAsync(temporary, 0, 128, a));
  OK(cudaEventRecord(fork, a));
  OK(cudaStreamWaitEvent(b, fork));
  add<<<1, 32, 0, b>>>(temporary, 6);
  OK(cudaMemcpyAsync(kept, temporary, 128, cudaMemcpyDeviceToDevice, b));
  OK(cudaEventRecord(join, b));
  OK(cudaStreamWaitEvent(a, join));
  OK(cudaFreeAsync(temporary, a));
  EXPECT(cudaErrorInvalidValue, cudaFreeAsync(outside, a));  // not the graph's
  OK(cudaStreamDestroy(b));
  cudaGraph_t graph;
  OK(cudaStreamEndCapture(a, &graph));
  cudaGraphNode_t nodes[8];
  size_t count = 8;
  OK(cudaGraphGetNodes(graph, nodes, &count));
  std::vector<cudaGraphNodeType> types(count);
  for (size_t i = 0; i < count; i++) OK(cudaGraphNodeGetType(nodes[i], &types[i]));
  CHECK((types == std::vector{cudaGraphNodeTypeMemAlloc, cudaGraphNodeTypeMemAlloc,
                              cudaGraphNodeTypeMemset, cudaGraphNodeTypeKernel,
                              cudaGraphNodeTypeMemcpy, cudaGraphNodeTypeMemFree}));
  cudaMemAllocNodeParams got;
  OK(cudaGraphMemAllocNodeGetParams(nodes[0], &got));
  CHECK(got.dptr == temporary && got.bytesize == 128);
  CHECK(got.poolProps.location.type == cudaMemLocationTypeDevice);
  unsigned long long used;
  OK(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &used));
  CHECK(used == 0);  // the graph's memory is not the pool's
  // It exists from one node to the other.
  int value;
  EXPECT(cudaErrorInvalidValue, cudaMemcpy(&value, kept, 4, cudaMemcpyDeviceToHost));
  cudaGraphExec_t exec;
  OK(cudaGraphInstantiate(&exec, graph, 0));
  for (int i = 0; i < 2; i++) {
    OK(cudaGraphLaunch(exec, a));
    OK(cudaMemcpy(&value, kept, 4, cudaMemcpyDeviceToHost));
    CHECK(value == 6);
    EXPECT(cudaErrorInvalidValue, cudaMemcpy(&value, temporary, 4, cudaMemcpyDeviceToHost));
    EXPECT(cudaErrorInvalidValue, cudaGraphLaunch(exec, a));  // what it kept is still there
    OK(i == 0 ? cudaFree(kept) : cudaFreeAsync(kept, a));
    EXPECT(cudaErrorInvalidValue, cudaFree(kept));
  }
  OK(cudaGraphExecDestroy(exec));
  OK(cudaGraphInstantiate(&exec, graph, cudaGraphInstantiateFlagAutoFreeOnLaunch));
  for (int i = 0; i < 3; i++) OK(cudaGraphLaunch(exec, a));
  OK(cudaGraphExecDestroy(exec));
  OK(cudaGraphDestroy(graph));
  OK(cudaMemcpy(&value, kept, 4, cudaMemcpyDeviceToHost));  // outlives the graph
  CHECK(value == 6);
  OK(cudaFree(kept));
  EXPECT(cudaErrorInvalidValue, cudaFree(kept));
  OK(cudaFree(outside));
  OK(cudaStreamDestroy(a));
  (void)cudaGetLastError();
}

void build() {
  cudaGraph_t graph, child, clone;
  OK(cudaGraphCreate(&graph, 0));
  OK(cudaGraphCreate(&child, 0));
  int value = 3, result = 0;
  static int host_calls;
  void* args[] = {&device, &value};
  cudaKernelNodeParams kernel = {};
  kernel.func = (void*)add;
  kernel.gridDim = dim3(1);
  kernel.blockDim = dim3(32);
  kernel.kernelParams = args;
  cudaMemsetParams set = {device, 128, 1, 4, 32, 1};
  cudaHostNodeParams host = {[](void* p) { ++*static_cast<int*>(p); }, &host_calls};
  cudaGraphNode_t set_node, kernel_node, copy_node, host_node, child_node, empty, record, in_child;
  cudaEvent_t event;
  OK(cudaEventCreate(&event));
  OK(cudaGraphAddMemsetNode(&set_node, graph, nullptr, 0, &set));
  OK(cudaGraphAddKernelNode(&in_child, child, nullptr, 0, &kernel));
  OK(cudaGraphAddKernelNode(&kernel_node, graph, &set_node, 1, &kernel));
  OK(cudaGraphAddChildGraphNode(&child_node, graph, &kernel_node, 1, child));
  OK(cudaGraphAddMemcpyNode1D(&copy_node, graph, nullptr, 0, &result, device, 4,
                              cudaMemcpyDeviceToHost));
  OK(cudaGraphAddDependencies(graph, &child_node, &copy_node, nullptr, 1));
  OK(cudaGraphAddHostNode(&host_node, graph, &copy_node, 1, &host));
  OK(cudaGraphAddEmptyNode(&empty, graph, &host_node, 1));
  OK(cudaGraphAddEventRecordNode(&record, graph, &empty, 1, event));
  value = 1000;  // nodes keep the values from their creation
  cudaGraphNodeType type;
  OK(cudaGraphNodeGetType(child_node, &type));
  CHECK(type == cudaGraphNodeTypeGraph);
  cudaKernelNodeParams got;
  OK(cudaGraphKernelNodeGetParams(kernel_node, &got));
  CHECK(got.blockDim.x == 32 && *static_cast<int*>(got.kernelParams[1]) == 3);
  cudaGraphNode_t needs[4];
  size_t count = 4;
  OK(cudaGraphNodeGetDependencies(copy_node, needs, nullptr, &count));
  CHECK(count == 1 && needs[0] == child_node);
  cudaGraphExec_t exec;
  OK(cudaGraphInstantiate(&exec, graph, 0));
  OK(cudaGraphLaunch(exec, 0));
  OK(cudaDeviceSynchronize());
  CHECK(result == 1 + 3 + 3 && host_calls == 1);
  OK(cudaEventQuery(event));
  value = 10;
  OK(cudaGraphExecKernelNodeSetParams(exec, kernel_node, &kernel));
  OK(cudaGraphLaunch(exec, 0));
  CHECK(result == 1 + 10 + 3 && host_calls == 2);
  OK(cudaGraphNodeSetEnabled(exec, kernel_node, 0));
  OK(cudaGraphLaunch(exec, 0));
  CHECK(result == 1 + 3);
  OK(cudaGraphClone(&clone, graph));
  cudaGraphNode_t found;
  OK(cudaGraphNodeFindInClone(&found, kernel_node, clone));
  CHECK(found != kernel_node);
  OK(cudaGraphDestroyNode(host_node));
  OK(cudaGraphGetNodes(graph, nullptr, &count));
  CHECK(count == 6);
  EXPECT(cudaErrorInvalidValue, cudaGraphDestroyNode(host_node));
  OK(cudaGraphAddDependencies(graph, &copy_node, &set_node, nullptr, 1));
  cudaGraphExec_t cyclic;
  EXPECT(cudaErrorInvalidValue, cudaGraphInstantiate(&cyclic, graph, 0));
  cudaGraphExecUpdateResultInfo info;
  EXPECT(cudaErrorGraphExecUpdateFailure, cudaGraphExecUpdate(exec, child, &info));
  CHECK(info.result == cudaGraphExecUpdateErrorTopologyChanged);
  // Memory of a graph, and a node of any type.
  cudaGraph_t memory;
  OK(cudaGraphCreate(&memory, 0));
  cudaMemAllocNodeParams alloc = {};
  alloc.poolProps.allocType = cudaMemAllocationTypePinned;
  alloc.poolProps.location = {cudaMemLocationTypeDevice, 0};
  alloc.bytesize = 128;
  cudaGraphNode_t alloc_node, any_node, free_node;
  OK(cudaGraphAddMemAllocNode(&alloc_node, memory, nullptr, 0, &alloc));
  cudaGraphNodeParams any = {};
  any.type = cudaGraphNodeTypeMemset;
  any.memset.dst = alloc.dptr;
  any.memset.elementSize = 1;
  any.memset.width = 128;
  any.memset.height = 1;
  OK(cudaGraphAddNode(&any_node, memory, &alloc_node, nullptr, 1, &any));
  OK(cudaGraphAddMemFreeNode(&free_node, memory, &any_node, 1, alloc.dptr));
  cudaGraphExec_t memory_exec;
  OK(cudaGraphInstantiate(&memory_exec, memory, 0));
  OK(cudaGraphLaunch(memory_exec, 0));
  OK(cudaDeviceSynchronize());
  for (cudaGraph_t g : {graph, child, clone, memory}) OK(cudaGraphDestroy(g));
  EXPECT(cudaErrorInvalidValue, cudaGraphDestroy(graph));
  OK(cudaGraphExecDestroy(exec));
  (void)cudaGetLastError();
}

int main() {
  OK(cudaMalloc(&device, 128));
  OK(cudaMemset(device, 0, 128));
  streams_and_events();
  capture();
  destroyed_in_capture();
  memory_in_capture();
  build();
  OK(cudaFree(device));
  std::printf("ok\n");
}
