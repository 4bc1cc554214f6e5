// The GPU's Backend: owns a stream, grow-only scratch memory and what it uploaded last; each method's body is in the file of its
// room (matmul.cu, attention.cu, pointwise.cu, logprob.cu, sample.cu, given.cu, objective.cu, optimizer.cu, memory.cu).
//
// Everything runs on one stream, in order; only download, head_sample and squared_norm wait for it.
#pragma once
#include <algorithm>
#include <memory>
#include <vector>

#include "../core/backend.h"
#include "../core/device.h"
#include "gpu.h"

namespace rank_grpo {

// Device memory that only grows, small blocks by doubling; contents are lost where it does.
class DeviceScratch {
 public:
  explicit DeviceScratch(Backend& backend) : backend_(backend) {}
  ~DeviceScratch() { backend_.release(data_, bytes_); }
  DeviceScratch(const DeviceScratch&) = delete;
  DeviceScratch& operator=(const DeviceScratch&) = delete;
  template <class T>
  T* reserve(int64_t count) {
    grow(static_cast<size_t>(count) * sizeof(T));
    return static_cast<T*>(data_);
  }

 private:
  void grow(size_t bytes);
  Backend& backend_;
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// A host array on the device, copied again only where it changed: every layer of a pass asks with the same plan.
class Uploaded {
 public:
  explicit Uploaded(Backend& backend) : backend_(backend), scratch_(backend) {}
  template <class T>
  const T* get(const T* values, size_t count) {
    return static_cast<const T*>(get_bytes(values, count * sizeof(T)));
  }
  template <class T>
  const T* get(const std::vector<T>& values) {
    return get(values.data(), values.size());
  }

 private:
  const void* get_bytes(const void* values, size_t bytes);
  Backend& backend_;
  DeviceScratch scratch_;
  std::vector<unsigned char> held_;
};

// Arrays of the host on the device for the length of a call.
class Lent {
 public:
  explicit Lent(Backend& backend) : backend_(backend) {}
  template <class T>
  T* room(int64_t count) {
    held_.push_back(std::make_unique<DeviceScratch>(backend_));
    return held_.back()->template reserve<T>(std::max<int64_t>(1, count));
  }
  template <class T>
  T* get(const T* values, int64_t count) {  // null stays null
    if (!values) return nullptr;
    T* const device = room<T>(count);
    backend_.upload(device, values, static_cast<size_t>(count) * sizeof(T));
    return device;
  }

 private:
  Backend& backend_;
  std::vector<std::unique_ptr<DeviceScratch>> held_;
};

class Cublas;      // cublas.h
class CudaPanels;  // matmul.h
struct Factor;

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(Determinism determinism);  // throws NO_DEVICE with the reason
  ~CudaBackend() override;
  const char* name() const override { return "cuda"; }
  cudaStream_t stream() const { return stream_; }
  // Room for partial sums; lost at the next operation that has some.
  template <class T>
  T* partial(int64_t count) {
    return partial_.reserve<T>(count);
  }

  void* allocate(size_t bytes) override;
  size_t available_bytes() const override;
  void release(void* pointer, size_t bytes) noexcept override;
  void upload(void* device, const void* host, size_t bytes) override;
  void download(void* host, const void* device, size_t bytes) override;
  void copy(void* to, const void* from, size_t bytes) override;
  void zero(void* device, size_t bytes) override;
  bool has_own_memory() const override { return true; }
  void* allocate_host(size_t bytes) override;
  void release_host(void* pointer, size_t bytes) noexcept override;

  std::unique_ptr<Panels> make_panels(int64_t N, int64_t K, Compute compute) override;
  void pack(Panels& panels, const float* W) override;
  bool panels_hold_weights(Compute kept) const override { return kept == Compute::bf16; }
  void pack_rows(Panels& panels, const float* W, int64_t first, int64_t count) override;
  void unpack_rows(float* W, const Panels& panels, int64_t first, int64_t count) override;
  void widen_rows(float* W, const uint16_t* x, int64_t N, int64_t K, int64_t stride);  // W [N, K] from bf16 rows `stride` apart
  void embedding_from_panels(float* x, const Panels& panels, const int32_t* ids, int64_t T) override;
  void panels_backward_input(float* dx, const float* dy, const Panels& panels, int64_t T, bool accumulate) override;
  void adamw_panels(Panels& panels, float* m, float* v, const float* g, const AdamW& options) override;
  void linear_forward(float* y, const float* x, const Panels& W, const float* bias, int64_t T) override;
  void linear_backward_input(float* dx, const float* dy, const float* W, int64_t T, int64_t N, int64_t K, Compute compute,
                             bool accumulate) override;
  void linear_backward_weight(float* dW, float* dbias, const float* dy, const float* x, int64_t T, int64_t N, int64_t K,
                              Compute compute) override;

  size_t cache_bytes(int64_t pages, const AttentionShape& shape) const override;
  void attention_forward(float* out, float* lse, const float* qkv, void* cache, int64_t pages, const AttentionPlan& plan,
                         const AttentionShape& shape) override;
  void attention_backward(float* dqkv, const float* dout, const float* qkv, const float* out, const float* lse, int64_t T,
                          const AttentionGroups& groups, const AttentionShape& shape) override;

  bool repeat(const AttentionPlan& plan, const AttentionShape& shape, const std::vector<int64_t>& key) override;
  void end_repeat() override;

  void embedding_forward(float* x, const float* table, const int32_t* ids, int64_t T, int64_t C) override;
  void embedding_backward(float* dtable, const float* dx, const int32_t* ids, int64_t T, int64_t C) override;
  void norm_forward(float* y, const float* x, const float* w, int64_t T, int64_t C, int64_t y_stride, int64_t x_stride, float eps) override;
  void norm_backward(float* dx, float* dw, const float* dy, const float* x, const float* w, int64_t T, int64_t C, int64_t stride, float eps,
                     bool accumulate) override;
  void rotary(float* qkv, const int32_t* positions, const float* table, int64_t T, const AttentionShape& shape, bool inverse) override;
  void swiglu_forward(float* y, const float* gate_up, int64_t T, int64_t F) override;
  void swiglu_backward(float* dgate_up, const float* dy, const float* gate_up, int64_t T, int64_t F) override;
  void add(float* x, const float* y, int64_t n) override;
  void gather_rows(float* y, const float* x, const int32_t* rows, int64_t R, int64_t C) override;
  void scatter_add_rows(float* x, const float* y, const int32_t* rows, int64_t R, int64_t C) override;

  void head_forward(float* logprob, float* entropy, float* lse, const float* h, const Panels& W, const float* rows, const int32_t* target,
                    const AllowedTokens* allowed, int64_t R, float temperature) override;
  void head_backward(float* dh, float* dW, const float* h, const float* W, const Panels& panels, const int32_t* target,
                     const AllowedTokens* allowed, const float* lse, const float* entropy, const float* dlogprob, const float* dentropy,
                     int64_t R, float temperature) override;
  void head_sample(int32_t* token, float* logprob, const float* h, const Panels& W, const float* rows, const AllowedTokens* allowed,
                   const uint32_t* random, int64_t R, const Sampling& sampling) override;
  void head_allowed(float* logprobs, const float* h, const Panels& W, const float* rows, const AllowedTokens& allowed, int64_t R,
                    float temperature) override;

  void given_logits_forward(float* logprob, float* entropy, float* lse, Operand logits, const int32_t* targets, int64_t T, int64_t V,
                            float temperature) override;
  void given_logits_backward(float* dlogits, Operand logits, const int32_t* targets, const float* lse, const float* entropy,
                             const float* dlogprob, const float* dentropy, int64_t T, int64_t V, float temperature) override;
  void given_head_forward(float* logprob, float* entropy, float* lse, Operand h, Operand W, const int32_t* targets, int64_t R, int64_t C,
                          int64_t V, float temperature, Compute compute) override;
  void given_head_backward(float* dh, float* dW, Operand h, Operand W, const int32_t* targets, const float* lse, const float* entropy,
                           const float* dlogprob, const float* dentropy, int64_t R, int64_t C, int64_t V, float temperature,
                           Compute compute) override;
  ObjectiveResult objective(const ObjectiveSpec& spec, const ObjectiveInputs& inputs) override;
  std::vector<double> mean_log_ratios(const float* logprobs, const float* old_logprobs, const std::vector<int32_t>& offsets,
                                      const std::vector<int32_t>& tokens) override;

  double squared_norm(const float* x, int64_t n) override;
  void adamw(float* w, float* m, float* v, const float* g, int64_t n, const AdamW& options) override;

 private:
  void forget_step() noexcept;  // memory moved: what was recorded may point to what is gone

  // C [M, N] (+)= sum over k < K of a(m, k) b(n, k) (+ bias[n]) by cuBLAS, where there is one and the product is large; false: left undone.
  bool fast_product(float* C, const Factor& a, const Factor& b, const float* bias, int64_t M, int64_t N, int64_t K, Compute compute,
                    bool accumulate);
  Factor in_type(DeviceScratch& scratch, const Factor& x, int64_t rows, int64_t K, Compute type);

  // dx [T, K] (+)= dy [T, n] W of rows first .. first + n of panels that hold bf16
  void rows_backward_input(float* dx, const float* dy, const CudaPanels& panels, int64_t first, int64_t n, int64_t T, bool accumulate);

  // f(first, count, m, v) of the moments on the device: all of them where they lie there, else piece by piece, there and back
  template <class F>
  void each_state(float* m, float* v, int64_t n, bool on_host, F&& f);

  // += of the sums over `rows` of each column, in partial sums of fixed ranges of rows
  void add_column_sums(float* out, const float* x, int64_t rows, int64_t columns);

  cudaStream_t stream_ = nullptr;
  std::unique_ptr<Cublas> cublas_;  // in the fast mode, where there is one
  // The last step that came twice in a row, as one graph (repeat.cu).
  std::vector<int64_t> step_key_;
  bool recording_ = false;
  cudaGraphExec_t step_ = nullptr;
  DeviceScratch workspace_{*this}, fast_a_{*this}, fast_b_{*this};        // of cuBLAS: its own, and operands in bf16
  DeviceScratch partial_{*this};                                          // partial sums of reductions over rows
  DeviceScratch delta_{*this};                                            // dout . out of attention's backward pass
  DeviceScratch stats_{*this};                                            // log-sum-exp pieces of the head
  DeviceScratch logits_{*this};                                           // a chunk of the head's logits or their gradient
  DeviceScratch rows_{*this};                                             // gathered rows of the head and their gradient
  DeviceScratch sampled_{*this};                                          // what head_sample brings back
  DeviceScratch state_{*this};                                            // moments that visit from the host
  Uploaded writes_{*this}, spans_{*this}, tables_{*this}, tasks_{*this};  // of the attention plan
  Uploaded sequences_{*this}, query_tiles_{*this}, key_blocks_{*this};    // of the attention groups
  Uploaded targets_{*this}, live_{*this}, slopes_{*this}, entropy_slopes_{*this}, allowed_{*this}, pieces_{*this},
      random_{*this};  // of the head
  Uploaded sparse_rows_{*this}, sparse_offsets_{*this}, sparse_entries_{*this}, sparse_ids_{*this}, sparse_id_offsets_{*this},
      sparse_id_entries_{*this};
};

}  // namespace rank_grpo
