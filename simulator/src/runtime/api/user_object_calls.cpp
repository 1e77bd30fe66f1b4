// user_object_calls.cpp: objects of the program that graphs keep until the last reference is gone.

#include "runtime/api/graph_calls.h"

using namespace wbsim;

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

extern "C" {

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
