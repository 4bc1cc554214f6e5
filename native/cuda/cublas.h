// cuBLAS, where there is one: opened when first asked for, by name, so that nothing is linked and a build needs no headers of it. For the large
// products of the fast mode alone; its order of additions is its own.
#pragma once
#include <memory>
#include <string>

#include "backend.h"
#include "gpu.h"

namespace rank_grpo {

// Element (row, k): at row * stride + k where k lies contiguous, else at k * stride + row (as TileOperand). On the device.
struct Factor {
  const void* data;
  Compute type;
  bool depth_contiguous;
  int64_t stride;
};

class Cublas {
 public:
  // The library of this runtime's major version, or the one that RANK_GRPO_CUBLAS names (a path). Null where it cannot be used: `reason` says why.
  static std::unique_ptr<Cublas> open(std::string& reason);
  ~Cublas();
  Cublas(const Cublas&) = delete;
  Cublas& operator=(const Cublas&) = delete;
  std::string version() const;

  // Before the first product: work goes to this stream. `workspace`: device memory of its own, so that a product never allocates (a stream that
  // records must not).
  void attach(cudaStream_t stream, void* workspace, size_t bytes);
  // C [M, N] (+)= sum over k < K of a(m, k) b(n, k); both factors of one type, sums in f32 (f32 operands are never rounded to TF32).
  void multiply(float* C, const Factor& a, const Factor& b, int64_t M, int64_t N, int64_t K, bool accumulate);

 private:
  struct Functions;
  explicit Cublas(std::unique_ptr<Functions> functions);
  std::unique_ptr<Functions> functions_;
  void* handle_ = nullptr;  // cublasHandle_t
};

}  // namespace rank_grpo
