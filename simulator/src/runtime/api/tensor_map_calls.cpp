// tensor_map_calls.cpp: what the tensor memory accelerator is told about a tensor. Each requirement
// is the one that the driver API states for these calls; errors are described in words, because
// the error code says nothing.

#include <cstring>

#include "exec/ops/tensor_map.h"
#include "runtime/api/driver.h"

using namespace wbsim;

namespace {

// Bytes of an element, by CUtensorMapDataType. The packed types of 4 and 6 bits need a later
// device than this one.
constexpr int ELEMENT_BYTES[] = {1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4};
// Bytes that a pattern swizzles within, by CUtensorMapSwizzle; patterns with larger atoms need a
// later device.
constexpr unsigned SWIZZLE_BYTES[] = {0, 32, 64, 128};

class Encoder {
 public:
  explicit Encoder(const char* call) : call_(call) {}

  void expect(bool valid, const std::string& what) const {
    if (!valid) {
      Finding finding;
      finding.kind = "argument";
      finding.message = std::string(call_) + ": " + what;
      throw ApiError{Runtime::get().errors.report(finding, cudaErrorInvalidValue)};
    }
  }

  // What both modes have in common.
  void tensor(CUtensorMap* out, CUtensorMapDataType type, unsigned rank, void* address,
              const cuuint64_t* sizes, const cuuint64_t* strides, const cuuint32_t* steps,
              CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
              CUtensorMapL2promotion promotion, CUtensorMapFloatOOBfill fill) {
    expect(out && reinterpret_cast<uint64_t>(out) % 64 == 0,
           "tensorMap must not be null and must be a multiple of 64 bytes");
    expect(static_cast<unsigned>(type) < std::size(ELEMENT_BYTES),
           "tensorDataType " + std::to_string(type) + " does not exist on this device");
    expect(static_cast<unsigned>(interleave) <= CU_TENSOR_MAP_INTERLEAVE_32B, "interleave");
    expect(static_cast<unsigned>(swizzle) < std::size(SWIZZLE_BYTES),
           "swizzle " + std::to_string(swizzle) + " does not exist on this device");
    expect(static_cast<unsigned>(promotion) <= CU_TENSOR_MAP_L2_PROMOTION_L2_256B, "l2Promotion");
    expect(static_cast<unsigned>(fill) <= CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA,
           "oobFill");
    expect(sizes && steps && (strides || rank <= 1), "an array is null");
    bool packed = interleave != CU_TENSOR_MAP_INTERLEAVE_NONE;
    expect(
        rank >= (packed ? 3 : 1) && rank <= TensorMap::MAX_RANK,
        "tensorRank is " + std::to_string(rank) + "; expected " + (packed ? "3" : "1") + " to 5");
    unsigned align = interleave == CU_TENSOR_MAP_INTERLEAVE_32B ? 32 : 16;
    expect(address && reinterpret_cast<uint64_t>(address) % align == 0,
           "globalAddress must be a multiple of " + std::to_string(align) + " bytes");
    for (unsigned i = 0; i < rank; i++) {
      std::string at = "[" + std::to_string(i) + "]";
      expect(sizes[i] > 0 && sizes[i] <= uint64_t{1} << 32,
             "globalDim" + at + " is " + std::to_string(sizes[i]) + "; expected 1 to 2^32");
      map_.sizes[i] = static_cast<uint32_t>(sizes[i] - 1);
      bool ignored = i == 0 && !packed;
      expect(ignored || (steps[i] > 0 && steps[i] <= 8),
             "elementStrides" + at + " is " + std::to_string(steps[i]) + "; expected 1 to 8");
      map_.element_strides[i] = ignored ? 1 : static_cast<uint8_t>(steps[i]);
    }
    for (unsigned i = 0; i + 1 < rank; i++) {
      expect(strides[i] % align == 0 && strides[i] < uint64_t{1} << 40,
             "globalStrides[" + std::to_string(i) + "] is " + std::to_string(strides[i]) +
                 "; expected a multiple of " + std::to_string(align) + " below 2^40");
      map_.strides[i] = strides[i];
    }
    expect(interleave != CU_TENSOR_MAP_INTERLEAVE_32B || swizzle == CU_TENSOR_MAP_SWIZZLE_32B,
           "CU_TENSOR_MAP_INTERLEAVE_32B needs CU_TENSOR_MAP_SWIZZLE_32B");
    bool is_float = type >= CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
    expect(fill == CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE || is_float,
           "oobFill with NaN needs a floating-point type");
    map_.magic = TensorMap::MAGIC;
    map_.address = reinterpret_cast<uint64_t>(address);
    map_.rank = static_cast<uint8_t>(rank);
    map_.type = static_cast<uint8_t>(type);
    map_.interleave = static_cast<uint8_t>(interleave);
    map_.swizzle = static_cast<uint8_t>(swizzle);
    map_.fill = static_cast<uint8_t>(fill);
  }

  // `count` elements of the innermost dimension; `what` is their name.
  void inner(const char* what, unsigned count) const {
    if (map_.interleave != CU_TENSOR_MAP_INTERLEAVE_NONE) {
      return;
    }
    unsigned bytes = count * ELEMENT_BYTES[map_.type];
    std::string is = std::string(what) + " times the element size is " + std::to_string(bytes) +
                     " bytes; expected ";
    expect(bytes % 16 == 0, is + "a multiple of 16");
    unsigned most = SWIZZLE_BYTES[map_.swizzle];
    expect(most == 0 || bytes <= most,
           is + "at most the " + std::to_string(most) + " of the swizzle");
  }

  void box(const cuuint32_t* box) {
    expect(box, "boxDim is null");
    for (unsigned i = 0; i < map_.rank; i++) {
      expect(box[i] > 0 && box[i] <= 256, "boxDim[" + std::to_string(i) + "] is " +
                                              std::to_string(box[i]) + "; expected 1 to 256");
      map_.box[i] = static_cast<uint16_t>(box[i]);
    }
    inner("boxDim[0]", box[0]);
  }

  // Corners are given for the dimensions between channels and batch, innermost first.
  void im2col(const int* lower, const int* upper, unsigned channels, unsigned pixels) {
    expect(map_.rank >= 3, "tensorRank is " + std::to_string(map_.rank) + "; expected 3 to 5");
    expect(lower && upper, "pixelBoxLowerCorner or pixelBoxUpperCorner is null");
    constexpr int LIMITS[] = {32768, 128, 16};
    int limit = LIMITS[map_.rank - 3];
    for (int i = 0; i < map_.rank - 2; i++) {
      for (int corner : {lower[i], upper[i]}) {
        expect(corner >= -limit && corner < limit,
               "a corner of the pixel box is " + std::to_string(corner) + "; expected " +
                   std::to_string(-limit) + " to " + std::to_string(limit - 1));
      }
      expect(int64_t{map_.sizes[i + 1]} + 1 + upper[i] - lower[i] > 0, "the pixel box is empty");
      map_.lower_corner[i] = static_cast<int16_t>(lower[i]);
      map_.upper_corner[i] = static_cast<int16_t>(upper[i]);
    }
    expect(channels > 0 && channels <= 256,
           "channelsPerPixel is " + std::to_string(channels) + "; expected 1 to 256");
    expect(pixels > 0 && pixels <= 1024,
           "pixelsPerColumn is " + std::to_string(pixels) + "; expected 1 to 1024");
    inner("channelsPerPixel", channels);
    map_.im2col = 1;
    map_.channels_per_pixel = static_cast<uint16_t>(channels);
    map_.pixels_per_column = static_cast<uint16_t>(pixels);
  }

  void write(CUtensorMap* out) const {
    std::memset(out, 0, sizeof *out);
    std::memcpy(out, &map_, sizeof map_);
  }

 private:
  const char* call_;
  TensorMap map_ = {};
};

static_assert(sizeof(TensorMap) <= sizeof(CUtensorMap));

}  // namespace

extern "C" {

CUresult wbsim_cuTensorMapEncodeTiled(CUtensorMap* out, CUtensorMapDataType type, cuuint32_t rank,
                                      void* address, const cuuint64_t* sizes,
                                      const cuuint64_t* strides, const cuuint32_t* box,
                                      const cuuint32_t* steps, CUtensorMapInterleave interleave,
                                      CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion,
                                      CUtensorMapFloatOOBfill fill) {
  return driver_call([&] {
    return call([&] {
      Encoder encoder("cuTensorMapEncodeTiled");
      encoder.tensor(out, type, rank, address, sizes, strides, steps, interleave, swizzle,
                     promotion, fill);
      encoder.box(box);
      encoder.write(out);
    });
  });
}

CUresult wbsim_cuTensorMapEncodeIm2col(CUtensorMap* out, CUtensorMapDataType type, cuuint32_t rank,
                                       void* address, const cuuint64_t* sizes,
                                       const cuuint64_t* strides, const int* lower,
                                       const int* upper, cuuint32_t channels, cuuint32_t pixels,
                                       const cuuint32_t* steps, CUtensorMapInterleave interleave,
                                       CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion,
                                       CUtensorMapFloatOOBfill fill) {
  return driver_call([&] {
    return call([&] {
      Encoder encoder("cuTensorMapEncodeIm2col");
      encoder.tensor(out, type, rank, address, sizes, strides, steps, interleave, swizzle,
                     promotion, fill);
      encoder.im2col(lower, upper, channels, pixels);
      encoder.write(out);
    });
  });
}

CUresult wbsim_cuTensorMapReplaceAddress(CUtensorMap* map, void* address) {
  return driver_call([&] {
    return call([&] {
      Encoder encoder("cuTensorMapReplaceAddress");
      TensorMap inside;
      encoder.expect(map != nullptr, "tensorMap is null");
      std::memcpy(&inside, map, sizeof inside);
      encoder.expect(inside.magic == TensorMap::MAGIC,
                     "tensorMap was not made by cuTensorMapEncode");
      unsigned align = inside.interleave == CU_TENSOR_MAP_INTERLEAVE_32B ? 32 : 16;
      encoder.expect(address && reinterpret_cast<uint64_t>(address) % align == 0,
                     "globalAddress must be a multiple of " + std::to_string(align) + " bytes");
      inside.address = reinterpret_cast<uint64_t>(address);
      std::memcpy(map, &inside, sizeof inside);
    });
  });
}

}  // extern "C"
