// Weights as the forward products read them: row-major as in the checkpoint, f32 in place or bf16 copies.
#pragma once
#include "backend.h"
#include "tile.h"

namespace rank_grpo {

class CudaPanels final : public Panels {
 public:
  CudaPanels(Backend& backend, int64_t N, int64_t K, Compute compute);
  ~CudaPanels() override;
  CudaPanels(const CudaPanels&) = delete;
  CudaPanels& operator=(const CudaPanels&) = delete;
  int64_t stride() const { return bf16 ? (columns + 7) / 8 * 8 : columns; }  // elements of a row
  size_t bytes() const { return static_cast<size_t>(rows * stride()) * sizeof(uint16_t); }
  TileOperand<float, true> f32_rows(const int32_t* ids = nullptr) const { return {f32, stride(), rows, columns, ids}; }
  TileOperand<uint16_t, true> bf16_rows(const int32_t* ids = nullptr) const { return {bf16, stride(), rows, columns, ids}; }

  // f32: the weights themselves, which outlive the panels. They are read when a product runs, so pack() only notes where they lie.
  const float* f32 = nullptr;
  uint16_t* bf16 = nullptr;

 private:
  Backend& backend_;
};

}  // namespace rank_grpo
