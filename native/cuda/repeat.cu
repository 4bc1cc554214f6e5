// A decode step as a CUDA graph: some four hundred launches for one. The second time in a row that a pass over single tokens has the same
// key, its launches are recorded instead of run, then run as a graph, then again each time the key comes. What changes from step to
// step (ids, positions, pages) lies in memory, at the same place. Any allocation or release forgets the graph.
#include "attention.h"

#include "backend.h"

namespace rank_grpo {

void CudaBackend::forget_step() noexcept {
  if (recording_) {
    cudaGraph_t graph = nullptr;
    if (cudaStreamEndCapture(stream_, &graph) != cudaSuccess) cudaGetLastError();  // what ended the recording has been told
    if (graph) cudaGraphDestroy(graph);
  }
  if (step_) cudaGraphExecDestroy(step_);
  recording_ = false;
  step_ = nullptr;
  step_key_.clear();
}

bool CudaBackend::repeat(const AttentionPlan& plan, const AttentionShape& shape, const std::vector<int64_t>& key) {
  if (recording_) forget_step();  // the pass that was being recorded ended in an error
  bool single = plan.writes.size() == plan.spans.size() && shape.head_dim % 4 == 0 && shape.heads / shape.kv_heads <= kAttentionRows;
  for (const auto& span : plan.spans) single = single && span.count == 1;
  if (!single) return false;
  // Uploads are no part of the graph; those that grow memory forget it.
  writes_.get(plan.writes);
  spans_.get(plan.spans);
  tables_.get(plan.tables);
  std::vector<int64_t> own = key;
  own.insert(own.end(), {static_cast<int64_t>(plan.spans.size()), shape.heads, shape.kv_heads, shape.head_dim});
  if (own != step_key_) {
    forget_step();
    step_key_ = std::move(own);
    return false;
  }
  if (step_) {
    check(cudaGraphLaunch(step_, stream_), "a decode step");
    return true;
  }
  check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "recording a decode step");
  recording_ = true;
  return false;
}

void CudaBackend::end_repeat() {
  if (!recording_) return;
  recording_ = false;
  cudaGraph_t graph = nullptr;
  check(cudaStreamEndCapture(stream_, &graph), "recording a decode step");
  const cudaError_t error = cudaGraphInstantiate(&step_, graph, 0);
  cudaGraphDestroy(graph);
  if (error != cudaSuccess) step_ = nullptr;
  check(error, "recording a decode step");
  check(cudaGraphLaunch(step_, stream_), "a decode step");
}

}  // namespace rank_grpo
