// matmul_mma_ring.cuh: tiles on their way to shared memory while others are multiplied, for the
// tensor-core rungs.
#pragma once

#include "matmul_mma.cuh"

// A ring of STAGES pairs of tiles in shared memory.
template <class ATile, class BTile, int STAGES, int NUM_THREADS>
class Ring {
  using T = typename ATile::Element;
  static constexpr int STAGE_BYTES = ATile::BYTES + BTile::BYTES;
  static_assert(STAGES >= 2, "one stage is multiplied while another is filled");

 public:
  static constexpr int BYTES = STAGES * STAGE_BYTES;

  // For the tile of C at (row0, col0), of a matrix of the batch, and columns begin..end-1 of A.
  __device__ Ring(char* smem, const Matmul<T>& p, int64_t batch, int row0, int col0, int begin,
                  int end)
      : left(ceil_div(end - begin, ATile::K)),
        smem_(smem),
        A_(from(p.A.of_batch(batch), begin), row0, p.M, end - begin),
        B_(from(p.B.of_batch(batch).transposed(), begin), col0, p.N, end - begin) {
#pragma unroll
    for (int stage = 0; stage < STAGES - 1; ++stage) fill(stage * STAGE_BYTES, stage < left);
  }

  int left;  // trips along k, this one included

  // This trip's tiles are complete, and no warp still reads those of the trip before.
  __device__ void wait() const {
    cp_async_wait<STAGES - 2>();
    __syncthreads();
  }

  // Starts to fill the stage of the trip before.
  __device__ void start() {
    fill(stage_ == 0 ? BYTES - STAGE_BYTES : stage_ - STAGE_BYTES, left >= STAGES);
  }

  // Goes on to the next trip.
  __device__ void turn() {
    stage_ = stage_ == BYTES - STAGE_BYTES ? 0 : stage_ + STAGE_BYTES;
    --left;
  }

  // The tiles of this trip.
  __device__ const char* A() const { return smem_ + stage_; }
  __device__ const char* B() const { return smem_ + stage_ + ATile::BYTES; }

 private:
  __device__ static Matrix<const T> from(const Matrix<const T>& matrix, int column) {
    return matrix.moved(column * matrix.col_stride);
  }

  // Always commits: so the number of groups in flight says which have arrived.
  __device__ void fill(int stage, bool exists) {
    if (exists) {
      A_.start(smem_ + stage);
      B_.start(smem_ + stage + ATile::BYTES);
    }
    cp_async_commit();
  }

  char* smem_;
  int stage_ = 0;  // of this trip, in bytes
  TileLoader<ATile, NUM_THREADS> A_;
  TileLoader<BTile, NUM_THREADS> B_;
};

// Adds all of a ring's tiles to a warp's sums, reading each step's fragments while the step before is
// multiplied. Afterwards no warp still reads tiles.
template <class Warp, class Ring>
__device__ void multiply_ahead(Warp& warp, Ring& ring) {
  constexpr int STEPS = Warp::STEPS;
  static_assert(STEPS % 2 == 0, "two sets of fragments take turns within a trip");
  typename Warp::Fragments f[2];
  const auto read = [&](int step) { f[step % 2] = warp.read(ring.A(), ring.B(), step); };
  ring.wait();
  if (ring.left > 0) read(0);
  while (ring.left > 0) {
    ring.start();
#pragma unroll
    for (int step = 0; step < STEPS - 1; ++step) {
      read(step + 1);
      warp.multiply(f[step % 2]);
    }
    ring.turn();
    ring.wait();
    if (ring.left > 0) read(0);
    warp.multiply(f[1]);
  }
}
