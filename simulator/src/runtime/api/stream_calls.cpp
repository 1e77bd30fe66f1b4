// stream_calls.cpp: streams and events. Work submitted to a stream is finished when the call
// returns, unless the stream is capturing: then it becomes a node of a graph.

#include <algorithm>
#include <cstring>

#include "runtime/api/calls.h"
#include "runtime/graph.h"

using namespace wbsim;

namespace {

Handles<Stream>& streams() {
  static auto* handles = new Handles<Stream>;
  return *handles;
}

Handles<Event>& events() {
  static auto* handles = new Handles<Event>;
  return *handles;
}

constexpr int LOWEST_PRIORITY = 0, HIGHEST_PRIORITY = -5;

std::shared_ptr<Stream> new_stream(unsigned flags, int priority) {
  static std::atomic<unsigned long long> last_id{2};  // after the two default streams
  auto stream = std::make_shared<Stream>();
  stream->flags = flags;
  stream->priority = std::clamp(priority, HIGHEST_PRIORITY, LOWEST_PRIORITY);
  stream->id = ++last_id;
  return stream;
}

void create(cudaStream_t* out, unsigned flags, int priority) {
  require(out && (flags & ~unsigned{cudaStreamNonBlocking}) == 0);
  *out = streams().add<cudaStream_t>(new_stream(flags, priority));
}

// Waiting for a capturing stream would never end.
void forbid_while_capturing(Stream& stream) {
  std::lock_guard lock(graph_mutex());
  if (stream.capture) {
    stream.capture->invalid = true;
    throw ApiError{cudaErrorStreamCaptureUnsupported};
  }
}

void create_event(cudaEvent_t* out, unsigned flags) {
  require(out && (flags & ~unsigned{cudaEventBlockingSync | cudaEventDisableTiming |
                                    cudaEventInterprocess}) == 0);
  require(!(flags & cudaEventInterprocess), cudaErrorNotSupported);
  auto event = std::make_shared<Event>();
  event->flags = flags;
  *out = events().add<cudaEvent_t>(event);
}

void record_event(cudaEvent_t handle, cudaStream_t stream_handle, unsigned flags) {
  require(flags == cudaEventRecordDefault || flags == cudaEventRecordExternal);
  std::shared_ptr<Event> event = event_of(handle);
  std::shared_ptr<Stream> stream = stream_of(stream_handle);
  std::lock_guard lock(graph_mutex());
  if (!stream->capture) {
    record(*event);
  } else if (flags == cudaEventRecordExternal) {
    submit(stream_handle, RecordWork{event});
  } else {
    event->captured = true;
    event->capture = stream->capture;
    event->tail = stream->tail;
  }
}

Event& outside_captures(Event& event) {
  require(!event.captured, cudaErrorCapturedEvent);
  return event;
}

}  // namespace

namespace wbsim {

std::shared_ptr<Stream> stream_of(cudaStream_t handle) {
  if (handle == nullptr || handle == cudaStreamLegacy) {
    static auto* legacy = [] {
      auto* made = new std::shared_ptr<Stream>(std::make_shared<Stream>());
      (*made)->id = 1;
      return made;
    }();
    return *legacy;
  }
  if (handle == cudaStreamPerThread) {
    thread_local std::shared_ptr<Stream> mine = new_stream(cudaStreamDefault, 0);
    return mine;
  }
  return streams().get(handle);
}

std::shared_ptr<Event> event_of(cudaEvent_t handle) { return events().get(handle); }

}  // namespace wbsim

extern "C" {

// ---- Streams ------------------------------------------------------------------------------------

cudaError_t wbsim_cudaStreamCreate(cudaStream_t* out) {
  return call([&] { create(out, cudaStreamDefault, 0); });
}
cudaError_t wbsim_cudaStreamCreateWithFlags(cudaStream_t* out, unsigned flags) {
  return call([&] { create(out, flags, 0); });
}
cudaError_t wbsim_cudaStreamCreateWithPriority(cudaStream_t* out, unsigned flags, int priority) {
  return call([&] { create(out, flags, priority); });
}
cudaError_t wbsim_cudaStreamDestroy(cudaStream_t stream) {
  return call([&] { streams().take(stream); });
}
cudaError_t wbsim_cudaStreamSynchronize(cudaStream_t stream) {
  return call([&] {
    forbid_while_capturing(*stream_of(stream));
    check(Runtime::get().errors.of_launch());
  });
}
cudaError_t wbsim_cudaStreamQuery(cudaStream_t stream) {
  return call([&] { forbid_while_capturing(*stream_of(stream)); });
}
cudaError_t wbsim_cudaStreamWaitEvent(cudaStream_t stream_handle, cudaEvent_t event_handle,
                                      unsigned flags) {
  return call([&] {
    require(flags == cudaEventWaitDefault || flags == cudaEventWaitExternal);
    std::shared_ptr<Stream> stream = stream_of(stream_handle);
    std::shared_ptr<Event> event = event_of(event_handle);
    std::lock_guard lock(graph_mutex());
    if (stream->capture && flags == cudaEventWaitExternal) {
      submit(stream_handle, WaitWork{event});
    } else if (event->captured) {
      bool legacy = stream_handle == nullptr || stream_handle == cudaStreamLegacy;
      require(!legacy, cudaErrorStreamCaptureImplicit);
      join_capture(*stream, *event);
    } else if (stream->capture && event->recorded) {
      stream->capture->invalid = true;
      throw ApiError{cudaErrorStreamCaptureIsolation};
    }
  });
}
cudaError_t wbsim_cudaStreamGetPriority(cudaStream_t stream, int* out) {
  return call([&] {
    require(out);
    *out = stream_of(stream)->priority;
  });
}
cudaError_t wbsim_cudaStreamGetFlags(cudaStream_t stream, unsigned* out) {
  return call([&] {
    require(out);
    *out = stream_of(stream)->flags;
  });
}
cudaError_t wbsim_cudaStreamGetId(cudaStream_t stream, unsigned long long* out) {
  return call([&] {
    require(out);
    *out = stream_of(stream)->id;
  });
}
cudaError_t wbsim_cudaStreamGetDevice(cudaStream_t stream, int* out) {
  return call([&] {
    require(out);
    stream_of(stream);
    *out = 0;
  });
}
cudaError_t wbsim_cudaStreamGetAttribute(cudaStream_t handle, cudaStreamAttrID id,
                                         cudaStreamAttrValue* out) {
  return call([&] {
    require(out);
    auto stream = stream_of(handle);
    *out = stream->attributes[id];
    if (id == cudaLaunchAttributePriority) {
      out->priority = stream->priority;
    }
  });
}
cudaError_t wbsim_cudaStreamSetAttribute(cudaStream_t handle, cudaStreamAttrID id,
                                         const cudaStreamAttrValue* value) {
  return call([&] {
    require(value);
    auto stream = stream_of(handle);
    stream->attributes[id] = *value;
    if (id == cudaLaunchAttributePriority) {
      stream->priority = value->priority;
    }
  });
}
cudaError_t wbsim_cudaStreamCopyAttributes(cudaStream_t to, cudaStream_t from) {
  return call([&] { stream_of(to)->attributes = stream_of(from)->attributes; });
}
cudaError_t wbsim_cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  return call([&] {
    if (least) {
      *least = LOWEST_PRIORITY;
    }
    if (greatest) {
      *greatest = HIGHEST_PRIORITY;
    }
  });
}
cudaError_t wbsim_cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  return call([&] {
    require(function);
    submit(stream, HostWork{{function, data}});
  });
}
cudaError_t wbsim_cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t function,
                                        void* data, unsigned flags) {
  return call([&] {
    require(function && flags == 0);
    forbid_while_capturing(*stream_of(stream));
    struct Callback {
      cudaStream_t stream;
      cudaStreamCallback_t function;
      void* data;
    } callback = {stream, function, data};
    auto run = [](void* at) {
      auto* c = static_cast<Callback*>(at);
      c->function(c->stream, cudaSuccess, c->data);
    };
    submit(stream, HostWork{{run, &callback}});
  });
}

// ---- Capture ------------------------------------------------------------------------------------

static void begin_capture(cudaStream_t handle, std::shared_ptr<Graph> graph,
                          std::vector<Node*> needs, cudaStreamCaptureMode mode) {
  require(handle != nullptr && handle != cudaStreamLegacy, cudaErrorStreamCaptureUnsupported);
  require(mode == cudaStreamCaptureModeGlobal || mode == cudaStreamCaptureModeThreadLocal ||
          mode == cudaStreamCaptureModeRelaxed);
  start_capture(*stream_of(handle), std::move(graph), std::move(needs), mode);
}

cudaError_t wbsim_cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  return call([&] { begin_capture(stream, std::make_shared<Graph>(), {}, mode); });
}
cudaError_t wbsim_cudaStreamBeginCaptureToGraph(cudaStream_t stream, cudaGraph_t graph,
                                                const cudaGraphNode_t* needs,
                                                const cudaGraphEdgeData*, size_t count,
                                                cudaStreamCaptureMode mode) {
  return call([&] {
    require(needs || count == 0);
    std::vector<Node*> nodes;
    for (size_t i = 0; i < count; i++) {
      nodes.push_back(&node_of(needs[i]));
    }
    begin_capture(stream, graph_of(graph), nodes, mode);
  });
}
cudaError_t wbsim_cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* out) {
  return call([&] {
    require(out);
    *out = nullptr;
    *out = handle_of(end_capture(*stream_of(stream)));
  });
}
static cudaStreamCaptureStatus status_of(Stream& stream) {
  return !stream.capture           ? cudaStreamCaptureStatusNone
         : stream.capture->invalid ? cudaStreamCaptureStatusInvalidated
                                   : cudaStreamCaptureStatusActive;
}
cudaError_t wbsim_cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* out) {
  return call([&] {
    require(out);
    *out = status_of(*stream_of(stream));
  });
}
cudaError_t wbsim_cudaStreamGetCaptureInfo(cudaStream_t handle, cudaStreamCaptureStatus* status,
                                           unsigned long long* id, cudaGraph_t* graph,
                                           const cudaGraphNode_t** needs,
                                           const cudaGraphEdgeData** edges, size_t* count) {
  return call([&] {
    require(status);
    auto stream = stream_of(handle);
    *status = status_of(*stream);
    if (*status != cudaStreamCaptureStatusActive) {
      return;
    }
    if (id) {
      *id = stream->capture->id;
    }
    if (graph) {
      *graph = handle_of(stream->capture->graph);
    }
    if (needs) {
      *needs = reinterpret_cast<const cudaGraphNode_t*>(stream->tail.data());
    }
    if (edges) {
      *edges = nullptr;
    }
    if (count) {
      *count = stream->tail.size();
    }
  });
}
cudaError_t wbsim_cudaStreamUpdateCaptureDependencies(cudaStream_t handle, cudaGraphNode_t* needs,
                                                      const cudaGraphEdgeData*, size_t count,
                                                      unsigned flags) {
  return call([&] {
    auto stream = stream_of(handle);
    require(stream->capture != nullptr, cudaErrorIllegalState);
    require(needs || count == 0);
    require(flags == cudaStreamAddCaptureDependencies || flags == cudaStreamSetCaptureDependencies);
    std::vector<Node*> nodes;
    for (size_t i = 0; i < count; i++) {
      nodes.push_back(&node_of(needs[i]));
      require(nodes.back()->graph == stream->capture->graph.get());
    }
    std::lock_guard lock(graph_mutex());
    if (flags == cudaStreamSetCaptureDependencies) {
      stream->tail.clear();
    }
    stream->tail.insert(stream->tail.end(), nodes.begin(), nodes.end());
  });
}
cudaError_t wbsim_cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  return call([&] {
    require(mode && *mode >= cudaStreamCaptureModeGlobal && *mode <= cudaStreamCaptureModeRelaxed);
    *mode = exchange_capture_mode(*mode);
  });
}

// ---- Events -------------------------------------------------------------------------------------

cudaError_t wbsim_cudaEventCreate(cudaEvent_t* out) {
  return call([&] { create_event(out, cudaEventDefault); });
}
cudaError_t wbsim_cudaEventCreateWithFlags(cudaEvent_t* out, unsigned flags) {
  return call([&] { create_event(out, flags); });
}
cudaError_t wbsim_cudaEventDestroy(cudaEvent_t event) {
  return call([&] { events().take(event); });
}
cudaError_t wbsim_cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return call([&] { record_event(event, stream, cudaEventRecordDefault); });
}
cudaError_t wbsim_cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags) {
  return call([&] { record_event(event, stream, flags); });
}
cudaError_t wbsim_cudaEventSynchronize(cudaEvent_t event) {
  return call([&] { outside_captures(*event_of(event)); });
}
cudaError_t wbsim_cudaEventQuery(cudaEvent_t event) {
  return call([&] { outside_captures(*event_of(event)); });
}
cudaError_t wbsim_cudaEventElapsedTime(float* out, cudaEvent_t start, cudaEvent_t end) {
  return call([&] {
    require(out);
    auto from = event_of(start), to = event_of(end);
    for (auto& event : {from, to}) {
      outside_captures(*event);
      require(event->recorded && !(event->flags & cudaEventDisableTiming),
              cudaErrorInvalidResourceHandle);
    }
    *out = std::chrono::duration<float, std::milli>(to->at - from->at).count();
  });
}

}  // extern "C"
