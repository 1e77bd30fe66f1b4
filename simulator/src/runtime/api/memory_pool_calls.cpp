// memory_pool_calls.cpp: stream-ordered pools. A pool counts what was taken from it; memory goes
// back to the system at once, so there is nothing to trim.

#include <algorithm>
#include <map>

#include "runtime/api/calls.h"
#include "runtime/graph.h"

using namespace wbsim;

namespace {

struct Pool {
  std::map<int, uint64_t> attributes = {{cudaMemPoolReuseFollowEventDependencies, 1},
                                        {cudaMemPoolReuseAllowOpportunistic, 1},
                                        {cudaMemPoolReuseAllowInternalDependencies, 1},
                                        {cudaMemPoolAttrReleaseThreshold, 0}};
  std::map<const void*, size_t> taken;
  uint64_t high = 0;

  // Bytes still in use: the runtime no longer knows what was freed.
  uint64_t used() {
    std::erase_if(taken, [](auto& entry) {
      auto allocation = Runtime::get().memory.find(entry.first);
      return !allocation || allocation->first != reinterpret_cast<uint64_t>(entry.first);
    });
    uint64_t sum = 0;
    for (auto& [pointer, bytes] : taken) {
      sum += bytes;
    }
    high = std::max(high, sum);
    return sum;
  }
};

ForkMutex<LockOrder::Pools> pool_mutex;

Handles<Pool>& pools() {
  static auto* handles = new Handles<Pool>;
  return *handles;
}

cudaMemPool_t default_pool() {
  static cudaMemPool_t pool = pools().add<cudaMemPool_t>(std::make_shared<Pool>());
  return pool;
}

cudaMemPool_t& current_pool() {
  static cudaMemPool_t pool = default_pool();
  return pool;
}

}  // namespace

extern "C" {

cudaError_t wbsim_cudaMallocFromPoolAsync(void** out, size_t bytes, cudaMemPool_t handle,
                                          cudaStream_t stream) {
  return call([&] {
    auto pool = pools().get(handle, cudaErrorInvalidValue);
    check(wbsim_cudaMallocAsync(out, bytes, stream));
    if (!stream_of(stream)->capture) {  // a graph has memory of its own
      std::lock_guard lock(pool_mutex);
      pool->taken[*out] = bytes;
      pool->used();
    }
  });
}
cudaError_t wbsim_cudaDeviceGetDefaultMemPool(cudaMemPool_t* out, int device) {
  return call([&] {
    require_device(device);
    require(out);
    *out = default_pool();
  });
}
cudaError_t wbsim_cudaDeviceGetMemPool(cudaMemPool_t* out, int device) {
  return call([&] {
    require_device(device);
    require(out);
    *out = current_pool();
  });
}
cudaError_t wbsim_cudaDeviceSetMemPool(int device, cudaMemPool_t pool) {
  return call([&] {
    require_device(device);
    pools().get(pool, cudaErrorInvalidValue);
    current_pool() = pool;
  });
}
cudaError_t wbsim_cudaMemGetDefaultMemPool(cudaMemPool_t* out, cudaMemLocation* location,
                                           cudaMemAllocationType) {
  return wbsim_cudaDeviceGetDefaultMemPool(out, location ? location->id : 0);
}
cudaError_t wbsim_cudaMemGetMemPool(cudaMemPool_t* out, cudaMemLocation* location,
                                    cudaMemAllocationType) {
  return wbsim_cudaDeviceGetMemPool(out, location ? location->id : 0);
}
cudaError_t wbsim_cudaMemSetMemPool(cudaMemLocation* location, cudaMemAllocationType,
                                    cudaMemPool_t pool) {
  return wbsim_cudaDeviceSetMemPool(location ? location->id : 0, pool);
}
cudaError_t wbsim_cudaMemPoolCreate(cudaMemPool_t* out, const cudaMemPoolProps* properties) {
  return call([&] {
    require(out && properties && properties->allocType == cudaMemAllocationTypePinned);
    require(properties->handleTypes == cudaMemHandleTypeNone, cudaErrorNotSupported);
    *out = pools().add<cudaMemPool_t>(std::make_shared<Pool>());
  });
}
cudaError_t wbsim_cudaMemPoolDestroy(cudaMemPool_t pool) {
  return call([&] {
    require(pool != default_pool());
    pools().get(pool, cudaErrorInvalidValue);
    pools().take(pool);
    if (current_pool() == pool) {
      current_pool() = default_pool();
    }
  });
}
cudaError_t wbsim_cudaMemPoolTrimTo(cudaMemPool_t pool, size_t) {
  return call([&] { pools().get(pool, cudaErrorInvalidValue); });
}
cudaError_t wbsim_cudaMemPoolSetAttribute(cudaMemPool_t handle, cudaMemPoolAttr attribute,
                                          void* value) {
  return call([&] {
    auto pool = pools().get(handle, cudaErrorInvalidValue);
    require(value);
    std::lock_guard lock(pool_mutex);
    switch (attribute) {
      case cudaMemPoolReuseFollowEventDependencies:
      case cudaMemPoolReuseAllowOpportunistic:
      case cudaMemPoolReuseAllowInternalDependencies:
        pool->attributes[attribute] = *static_cast<int*>(value);
        break;
      case cudaMemPoolAttrReleaseThreshold:
        pool->attributes[attribute] = *static_cast<uint64_t*>(value);
        break;
      case cudaMemPoolAttrReservedMemHigh:
      case cudaMemPoolAttrUsedMemHigh:
        require(*static_cast<uint64_t*>(value) == 0);  // the one value it can be reset to
        pool->high = 0;
        break;
      default:
        throw ApiError{cudaErrorInvalidValue};
    }
  });
}
cudaError_t wbsim_cudaMemPoolGetAttribute(cudaMemPool_t handle, cudaMemPoolAttr attribute,
                                          void* value) {
  return call([&] {
    auto pool = pools().get(handle, cudaErrorInvalidValue);
    require(value);
    std::lock_guard lock(pool_mutex);
    switch (attribute) {
      case cudaMemPoolReuseFollowEventDependencies:
      case cudaMemPoolReuseAllowOpportunistic:
      case cudaMemPoolReuseAllowInternalDependencies:
        *static_cast<int*>(value) = static_cast<int>(pool->attributes[attribute]);
        break;
      case cudaMemPoolAttrReleaseThreshold:
        *static_cast<uint64_t*>(value) = pool->attributes[attribute];
        break;
      case cudaMemPoolAttrReservedMemCurrent:
      case cudaMemPoolAttrUsedMemCurrent:
        *static_cast<uint64_t*>(value) = pool->used();
        break;
      case cudaMemPoolAttrReservedMemHigh:
      case cudaMemPoolAttrUsedMemHigh:
        pool->used();
        *static_cast<uint64_t*>(value) = pool->high;
        break;
      default:
        throw ApiError{cudaErrorInvalidValue};
    }
  });
}
cudaError_t wbsim_cudaMemPoolSetAccess(cudaMemPool_t pool, const cudaMemAccessDesc* list,
                                       size_t count) {
  return call([&] {
    pools().get(pool, cudaErrorInvalidValue);
    require(list || count == 0);
    for (size_t i = 0; i < count; i++) {
      require_device(list[i].location.id);
    }
  });
}
cudaError_t wbsim_cudaMemPoolGetAccess(cudaMemAccessFlags* flags, cudaMemPool_t pool,
                                       cudaMemLocation*) {
  return call([&] {
    pools().get(pool, cudaErrorInvalidValue);
    require(flags);
    *flags = cudaMemAccessFlagsProtReadWrite;
  });
}

}  // extern "C"
