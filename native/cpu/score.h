// Row kernels of Remap and Adjust (native/demonstrate/scores.cc splits the rows).
#pragma once
#include <cstdint>

namespace rank_grpo {

struct ScoreKernels {
  void (*add_scaled)(float* y, const float* x, float a, int64_t n);                              // y += a x
  float (*affine)(float* y, const float* s, const float* w, const float* b, int64_t n);          // y = s w + b; the largest y
  float (*exponentials)(float* y, float top, int64_t n);                                         // y = e^(y - top); their sum
  void (*slopes)(float* dw, float* db, const float* y, const float* s, float scale, int64_t n);  // p = scale y: db += p, dw += p s
};

}  // namespace rank_grpo
