// The host's Backend: owns the thread pool and the kernel table; each method's body is in the file of its room
// (matmul.cc, attention.cc, pointwise.cc, logprob.cc, sample.cc, optimizer.cc, memory.cc).
#pragma once
#include <functional>

#include "../core/backend.h"
#include "../core/pool.h"
#include "kernels.h"

namespace rank_grpo {

constexpr int64_t kSlabFloats = 5 << 18;  // 5 MiB: beside the weights of a layer, in a last-level cache of 16 MiB or more

class CpuBackend;
class CpuPanels;  // matmul.h
struct Product;
struct Rows;

// Memory of the backend's own that grows with the largest call and stays. Contents are lost where it grows.
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  uint32_t* words(Backend& backend, int64_t count);  // 4-byte words, 64-byte aligned
  float* floats(Backend& backend, int64_t count) { return reinterpret_cast<float*>(words(backend, count)); }
  void free(Backend& backend) noexcept;

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// Columns of the head side by side for the tokens that rows may use. What a decode step needs was mostly needed by one before it, so that
// columns stay as long as the panels do not change.
class FewTokens {
 public:
  // Adds what `rows` of `allowed` need. With `keep`, columns of earlier calls stay in front.
  void need(CpuBackend& backend, const CpuPanels& panels, const AllowedTokens& allowed, const std::vector<int32_t>& rows, bool keep);
  int32_t place(int32_t id) const { return places_[static_cast<size_t>(id)]; }
  int64_t count() const { return static_cast<int64_t>(ids.size()); }
  const uint32_t* columns() const { return data_; }  // panels of count() columns
  void free(Backend& backend) noexcept;
  std::vector<int32_t> ids;  // [U]

 private:
  void clear();
  Scratch scratch_;
  uint32_t* data_ = nullptr;
  int64_t capacity_ = 0;         // columns
  uint64_t version_ = 0;         // of the panels they are from
  std::vector<int32_t> places_;  // [V] column of a token, -1: none
};

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(int threads) : pool_(threads), kernels_(select_kernels()) {}
  ~CpuBackend() override;
  const char* name() const override { return "cpu"; }
  const Kernels& kernels() const { return kernels_; }
  ThreadPool& pool() { return pool_; }
  void free_scratch() noexcept;  // gives back what earlier calls left to later ones

  void* allocate(size_t bytes) override;
  size_t available_bytes() const override;
  void release(void* pointer, size_t bytes) noexcept override;
  void upload(void* device, const void* host, size_t bytes) override;
  void download(void* host, const void* device, size_t bytes) override;
  void copy(void* to, const void* from, size_t bytes) override;
  void zero(void* device, size_t bytes) override;
  int64_t slab_rows(int64_t floats) const override { return std::max<int64_t>(1, (kSlabFloats / floats + 64) / 128) * 128; }
  int64_t activation_budget() const override { return int64_t{192} << 20; }

  std::unique_ptr<Panels> make_panels(int64_t N, int64_t K, Compute compute) override;
  void pack(Panels& panels, const float* W) override;
  bool panels_hold_weights(Compute kept) const override { return kept == Compute::f32; }
  void keep_master(Panels& panels) override;
  void pack_rows(Panels& panels, const float* W, int64_t first, int64_t count) override;
  void unpack_rows(float* W, const Panels& panels, int64_t first, int64_t count) override;
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

  double squared_norm(const float* x, int64_t n) override;
  void adamw(float* w, float* m, float* v, const float* g, int64_t n, const AdamW& options) override;

 private:
  // x [M, K] as the left operand: where it lies, or in bf16 in `scratch`
  Rows rows_of(Scratch& scratch, const float* x, int64_t M, int64_t K, Compute compute);
  int64_t row_words(int64_t K, Compute compute) const;              // of one of them
  void multiply(Product product, const float* x, Compute compute);  // with x [M, K] as the left operand
  void move_rows(CpuPanels& panels, const uint16_t* W, int64_t n);  // the first n rows of panels of pairs from bf16 [n, K], K even
  void write_panel(CpuPanels& panels, int64_t j, const float* W, int offset, int rows) const;
  void read_panel(float* W, const CpuPanels& panels, int64_t j) const;
  // dx [T, K] (+)= dy [T, n] W of rows first .. first + n of the panels, first a multiple of 48
  void rows_backward_input(float* dx, const float* dy, const CpuPanels& panels, int64_t first, int64_t n, int64_t T, bool accumulate);
  // What operands that are packed for one product are kept as: bf16 without a dot product is rounded floats.
  Compute multiplied(Compute compute) const;
  uint32_t* unpacked(Compute compute);  // Product::floats
  // Panels from x [K, N]; a piece: of its first columns and of steps k .. k + steps, k even
  void pack_columns(uint32_t* out, const float* x, int64_t N, int64_t K, Compute compute);
  void pack_piece(uint32_t* out, const float* x, int64_t N, int64_t columns, int64_t K, int64_t k, int64_t steps, Compute compute) const;

  // Logits of all rows of A for columns first .. first + columns, tile by tile; `use` sees each tile on its thread. Into
  // `out` [R, ld] where given, else into a buffer of the tile's own.
  void head_blocks(const Rows& A, const CpuPanels& panels, int64_t R, int64_t first_column, int64_t columns,
                   const std::function<void(int64_t row, int rows, int64_t column, int n, float* logits, int64_t ld)>& use, float* out,
                   int64_t ld);

  // The head over few tokens a row (allowed.cc)
  struct OwnRow;
  void few_logits(float* logits, const float* h, const std::vector<int32_t>& rows, const CpuPanels& panels);  // logits [rows, U]
  template <class F>
  void each_few_row(const AllowedTokens& allowed, const float* h, const std::vector<int32_t>& rows, const CpuPanels& panels, bool keep,
                    F&& use);
  template <class F>
  void each_own_row(const AllowedTokens& allowed, const float* h, const std::vector<int32_t>& rows, const CpuPanels& panels, float inverse,
                    bool entropy, F&& use);
  void allowed_forward(float* logprob, float* entropy, float* lse, const float* h, const CpuPanels& panels, const int32_t* target,
                       const AllowedTokens& allowed, int64_t R, float temperature);
  void allowed_backward(float* dh, float* dW, const float* h, const float* W, const CpuPanels& panels, const int32_t* target,
                        const AllowedTokens& allowed, const float* lse, const float* entropy, const float* dlogprob, const float* dentropy,
                        int64_t R, float temperature);
  void allowed_sample(int32_t* token, float* logprob, const float* h, const CpuPanels& panels, const AllowedTokens& allowed,
                      const uint32_t* random, int64_t R, const Sampling& sampling);

  ThreadPool pool_;
  const Kernels& kernels_;
  Scratch scratch_a_, scratch_b_;  // operands of the product at hand
  Scratch scratch_floats_;         // of panels of pairs, for each thread
  Scratch scratch_h_;              // rows of the head
  Scratch scratch_attention_;      // of the backward pass
  Scratch scratch_logits_;         // a chunk of the head's logits or their gradient
  FewTokens few_;
  Scratch scratch_rows_;         // of the head over few tokens
  uint64_t panels_written_ = 0;  // the version of what was written last
};

}  // namespace rank_grpo
