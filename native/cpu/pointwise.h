// Row kernels of the pointwise operations; pointwise.cc and optimizer.cc split the rows.
#pragma once
#include <cstdint>

#include "../core/backend.h"

namespace rank_grpo {

struct PointwiseKernels {
  float (*inverse_rms)(const float* x, int64_t C, float eps);
  void (*norm)(float* y, const float* x, const float* w, int64_t C, float inverse);  // y = x inverse w
  void (*norm_dx)(float* dx, const float* dy, const float* x, const float* w, int64_t C, float inverse, bool accumulate);
  void (*norm_dw)(float* dw, const float* dy, const float* x, int64_t n, float inverse);  // dw += dy x inverse
  void (*rotate)(float* row, int heads, const float* table, int half, float sign);        // heads [2 half] side by side, table [half, 2]
  void (*swiglu)(float* y, const float* gate, const float* up, int64_t n);
  void (*swiglu_backward)(float* dgate, float* dup, const float* dy, const float* gate, const float* up, int64_t n);
  void (*add)(float* x, const float* y, int64_t n);
  float (*sum_squares)(const float* x, int64_t n);
  void (*adamw)(float* w, float* m, float* v, const float* g, int64_t n, const AdamW& options);
};

}  // namespace rank_grpo
