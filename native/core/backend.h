// The one interface between the model and a device. native/cpu implements it on the host; native/cuda mirrors it file for
// file. The model never dereferences a device pointer: what crosses over goes through upload and download.
//
// Letters: T tokens, C channels, N x K a weight (rows x columns, the checkpoint's own layout), H heads, D head size,
// V vocabulary, R head rows. All activations are f32 and row-major. Everything that adds into its output says so.
//
// Exactness (docs/native.md): an output element has one accumulation order, fixed by the model's shape alone, so one row
// gives the same bits alone, in a batch, packed, with any number of threads. Backward passes are deterministic.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace rank_grpo {

// What the matrix products multiply: f32, or bf16 operands with f32 accumulation (master weights stay f32).
enum class Compute { f32, bf16 };

// A weight as the forward products read it (packed panels on the CPU). Made by Backend::make_panels.
class Panels {
 public:
  Panels(int64_t rows, int64_t columns, Compute compute) : rows(rows), columns(columns), compute(compute) {}
  virtual ~Panels() = default;
  const int64_t rows, columns;  // N, K
  const Compute compute;
};

// Keys per page of the key/value cache. Pages start at multiples of it, counted from a sequence's position 0, and the
// online softmax is updated once per page: decode and training see the same blocks.
constexpr int kPageSize = 32;

// Where keys and values of a batch go and what each query sees.
struct AttentionPlan {
  struct Write {
    int32_t token;  // row of qkv
    int32_t slot;   // page * kPageSize + position % kPageSize
  };
  struct Span {        // consecutive tokens of one sequence, which has one span; keys go to pages of its own
    int32_t token;     // first row of qkv
    int32_t count;     // tokens
    int32_t position;  // of the first token; token i attends to positions 0 .. position + i
    int32_t table;     // start of the sequence's page list in `tables`
  };
  std::vector<Write> writes;  // a prompt's last tokens are written once for each completion that shares the page
  std::vector<Span> spans;
  std::vector<int32_t> tables;  // page numbers
};

// What the backward pass of attention needs: a group is a prompt and its completions, in qkv rows.
struct AttentionGroups {
  struct Group {
    int32_t prompt, prompt_count;  // rows of the prompt
    int32_t first, last;           // its completions: completions[first .. last)
  };
  struct Completion {
    int32_t token, count;  // rows; positions continue from the prompt
  };
  std::vector<Group> groups;
  std::vector<Completion> completions;
};

struct AttentionShape {
  int heads, kv_heads, head_dim;                                   // H, Hkv, D
  Compute compute = Compute::f32;                                  // bf16: a backend may keep and multiply keys and values as bf16
  int width() const { return (heads + 2 * kv_heads) * head_dim; }  // of a qkv row: [q heads | k heads | v heads]
};

// Optional per-row sets of allowed tokens: row r may use ids[offsets[r] .. offsets[r + 1]), ascending. The distribution is
// the softmax over those alone. Null where every token is allowed.
struct AllowedTokens {
  std::vector<int32_t> offsets, ids;
};

struct AdamW {
  float learning_rate, beta1, beta2, epsilon, weight_decay;
  int64_t step;                // 1 for the first update (bias correction)
  float grad_scale;            // gradients are multiplied by it (global norm clipping)
  bool state_on_host = false;  // the moments lie in memory of allocate_host
  // Of weights that are kept in bf16: what decides whether one is rounded up or down is keyed by (seed, step, first + its place in the matrix).
  uint64_t seed = 0;
  int64_t first = 0;
};

struct Sampling {
  float temperature = 1;  // > 0; the logits are divided by it before everything else
  int top_k = 0;          // 0: off
  float top_p = 1;        // 1: off
  float min_p = 0;        // 0: off
  bool greedy = false;
};

// A matrix somebody else owns, row-major, on the host: one of the two is set.
struct Operand {
  const float* f32 = nullptr;
  const uint16_t* bf16 = nullptr;  // bits
};

struct ObjectiveSpec;  // native/objectives/objective.h
struct ObjectiveInputs;
struct ObjectiveResult;

class Backend {
 public:
  virtual ~Backend() = default;
  virtual const char* name() const = 0;

  // -- memory: zeroed, 64-byte aligned; throws OUT_OF_MEMORY
  virtual void* allocate(size_t bytes) = 0;
  virtual size_t available_bytes() const { return SIZE_MAX; }  // that allocate could still give; SIZE_MAX where unknown
  virtual void release(void* pointer, size_t bytes) noexcept = 0;
  virtual void upload(void* device, const void* host, size_t bytes) = 0;
  virtual void download(void* host, const void* device, size_t bytes) = 0;
  virtual void copy(void* to, const void* from, size_t bytes) = 0;  // device to device
  virtual void zero(void* device, size_t bytes) = 0;
  // Memory of the host for what visits the device now and then: zeroed, pinned where the system allows. Where the device has no memory of its
  // own, this is the same as all other.
  virtual bool has_own_memory() const { return false; }
  virtual void* allocate_host(size_t bytes) { return allocate(bytes); }
  virtual void release_host(void* pointer, size_t bytes) noexcept { release(pointer, bytes); }
  // Activations a pass keeps for its backward pass where the caller names no budget: what does not fit is computed again.
  virtual int64_t activation_budget() const { return INT64_MAX; }
  // Rows of so many floats that operations on rows alone take at a time, one after the other, so that each finds in the cache what the one
  // before has written.
  virtual int64_t slab_rows(int64_t /*floats*/) const { return INT64_MAX; }

  // -- matrix products (matmul)
  virtual std::unique_ptr<Panels> make_panels(int64_t N, int64_t K, Compute compute) = 0;
  virtual void pack(Panels& panels, const float* W) = 0;  // W [N, K] row-major
  // Where panels hold all there is of a weight, nothing else is kept of it, and these take the place of what reads or writes rows. `kept`:
  // what of a weight is to stay between steps, the f32 or (in bf16 compute alone) nothing but the bf16, which AdamW then rounds by chance;
  // false where that is not how this backend does it.
  // keep_master: from now on they hold the f32 values, for training (a value half way between two bf16 may lose its last bit). pack_rows
  // and unpack_rows move rows first .. first + count between W [count, K] and the panels; embedding_from_panels: x [T, K] = rows ids[t]
  // as products read them; the others as linear_backward_input and adamw on [N, K].
  virtual bool panels_hold_weights(Compute /*kept*/) const { return false; }
  virtual void keep_master(Panels&) {}
  virtual void pack_rows(Panels&, const float* /*W*/, int64_t /*first*/, int64_t /*count*/) {}
  virtual void unpack_rows(float* /*W*/, const Panels&, int64_t /*first*/, int64_t /*count*/) {}
  virtual void embedding_from_panels(float* /*x*/, const Panels&, const int32_t* /*ids*/, int64_t /*T*/) {}
  virtual void panels_backward_input(float* /*dx*/, const float* /*dy*/, const Panels&, int64_t /*T*/, bool /*accumulate*/) {}
  virtual void adamw_panels(Panels&, float* /*m*/, float* /*v*/, const float* /*g*/, const AdamW&) {}
  // y [T, N] = x [T, K] W^T (+ bias [N]); bias may be null
  virtual void linear_forward(float* y, const float* x, const Panels& W, const float* bias, int64_t T) = 0;
  // dx [T, K] = dy [T, N] W, or += where accumulate
  virtual void linear_backward_input(float* dx, const float* dy, const float* W, int64_t T, int64_t N, int64_t K, Compute compute,
                                     bool accumulate) = 0;
  // dW [N, K] += dy^T x; dbias [N] += column sums of dy where not null
  virtual void linear_backward_weight(float* dW, float* dbias, const float* dy, const float* x, int64_t T, int64_t N, int64_t K,
                                      Compute compute) = 0;

  // -- attention
  // A cache of `pages` pages for one layer: keys [page][Hkv][D][kPageSize], then values [page][Hkv][kPageSize][D]
  virtual size_t cache_bytes(int64_t pages, const AttentionShape& shape) const = 0;
  // Stores this batch's keys and values, then out [T, H D] = attention of every span; lse [T, H] for the backward pass
  // (null: not wanted). Scores are scaled by 1 / sqrt(D).
  virtual void attention_forward(float* out, float* lse, const float* qkv, void* cache, int64_t pages, const AttentionPlan& plan,
                                 const AttentionShape& shape) = 0;
  // dqkv [T, width] = gradient; every row of every group is written
  virtual void attention_backward(float* dqkv, const float* dout, const float* qkv, const float* out, const float* lse, int64_t T,
                                  const AttentionGroups& groups, const AttentionShape& shape) = 0;

  // -- a step that comes again: the operations of a pass over single tokens (decoding), with the same pointers and sizes each time
  // True where the backend did them all by itself, with what now lies at those pointers and in the plan: then the caller leaves them out.
  // `key`: whatever else tells one such pass from another. Each call that says false is followed by end_repeat().
  virtual bool repeat(const AttentionPlan&, const AttentionShape&, const std::vector<int64_t>& /*key*/) { return false; }
  virtual void end_repeat() {}

  // -- pointwise
  virtual void embedding_forward(float* x, const float* table, const int32_t* ids, int64_t T, int64_t C) = 0;
  virtual void embedding_backward(float* dtable, const float* dx, const int32_t* ids, int64_t T, int64_t C) = 0;  // +=
  // y = x / rms(x) * w over rows of C values; x_stride, y_stride: distance between rows
  virtual void norm_forward(float* y, const float* x, const float* w, int64_t T, int64_t C, int64_t y_stride, int64_t x_stride,
                            float eps) = 0;
  // dx = gradient (+= where accumulate); dw [C] += gradient
  virtual void norm_backward(float* dx, float* dw, const float* dy, const float* x, const float* w, int64_t T, int64_t C, int64_t stride,
                             float eps, bool accumulate) = 0;
  // Rotates the q and k heads of qkv in place: pairs (i, i + D/2), angle position * inv_freq[i]; inverse for gradients.
  // table [max position, D/2, 2] holds cos and sin.
  virtual void rotary(float* qkv, const int32_t* positions, const float* table, int64_t T, const AttentionShape& shape, bool inverse) = 0;
  // y [T, F] = silu(gate) * up of gate_up [T, 2 F]
  virtual void swiglu_forward(float* y, const float* gate_up, int64_t T, int64_t F) = 0;
  // dgate_up may be gate_up
  virtual void swiglu_backward(float* dgate_up, const float* dy, const float* gate_up, int64_t T, int64_t F) = 0;
  virtual void add(float* x, const float* y, int64_t n) = 0;  // x += y
  virtual void gather_rows(float* y, const float* x, const int32_t* rows, int64_t R, int64_t C) = 0;
  virtual void scatter_add_rows(float* x, const float* y, const int32_t* rows, int64_t R, int64_t C) = 0;  // x[rows[r]] += y[r]

  // -- logprob: the head, never a [R, V] tensor
  // logprob[r] = log softmax(h[r] W^T / temperature)[target[r]], entropy[r] in nats (null: not wanted), lse[r] of the
  // scaled logits for the backward pass. h [R, C], W [V, C]; rows: W as it lies in memory, null where it is kept in panels alone (it only
  // makes allowed sets cheaper). A row whose set has one token: log-prob and entropy exactly 0. All on the device except target.
  virtual void head_forward(float* logprob, float* entropy, float* lse, const float* h, const Panels& W, const float* rows,
                            const int32_t* target, const AllowedTokens* allowed, int64_t R, float temperature) = 0;
  // dh [R, C] = gradient, dW [V, C] += gradient, of sum_r dlogprob[r] * logprob[r] + dentropy[r] * entropy[r].
  // W: null where it is kept in panels alone.
  // dentropy and entropy may be null together. dlogprob and dentropy lie on the host; dW null: not wanted.
  virtual void head_backward(float* dh, float* dW, const float* h, const float* W, const Panels& panels, const int32_t* target,
                             const AllowedTokens* allowed, const float* lse, const float* entropy, const float* dlogprob,
                             const float* dentropy, int64_t R, float temperature) = 0;
  // Draws one token a row: token[r], logprob[r] of the temperature-scaled, untruncated distribution (what training sees),
  // bit-equal to head_forward's. random [R]: a Philox block a row, made by the caller. Results lie on the host. Where the logits of a row
  // are not all numbers, its token is 0 and its log-prob NaN or infinite: sorting what has no order would be undefined.
  virtual void head_sample(int32_t* token, float* logprob, const float* h, const Panels& W, const float* rows, const AllowedTokens* allowed,
                           const uint32_t* random, int64_t R, const Sampling& sampling) = 0;
  // The log-prob of every allowed token of every row, beside its id: bit-equal to head_forward's for it as the target. On the host.
  virtual void head_allowed(float* logprobs, const float* h, const Panels& W, const float* rows, const AllowedTokens& allowed, int64_t R,
                            float temperature) = 0;

  // -- the kernels export (src/kernels.ts): everything lies on the host and is somebody else's; nothing is kept
  // logprob[t], entropy[t] (null: not wanted) and lse[t] as the head's, of logits [T, V] that are given.
  virtual void given_logits_forward(float* logprob, float* entropy, float* lse, Operand logits, const int32_t* targets, int64_t T,
                                    int64_t V, float temperature) = 0;
  // dlogits [T, V] = gradient; it may be the f32 logits themselves: then they are overwritten. entropy and dentropy may be null together.
  virtual void given_logits_backward(float* dlogits, Operand logits, const int32_t* targets, const float* lse, const float* entropy,
                                     const float* dlogprob, const float* dentropy, int64_t T, int64_t V, float temperature) = 0;
  // The head over h [R, C] and W [V, C]; the same bits as head_forward's over panels of W.
  virtual void given_head_forward(float* logprob, float* entropy, float* lse, Operand h, Operand W, const int32_t* targets, int64_t R,
                                  int64_t C, int64_t V, float temperature, Compute compute) = 0;
  // dh [R, C] = gradient, dW [V, C] += gradient (null: not wanted); entropy and dentropy may be null together.
  virtual void given_head_backward(float* dh, float* dW, Operand h, Operand W, const int32_t* targets, const float* lse,
                                   const float* entropy, const float* dlogprob, const float* dentropy, int64_t R, int64_t C, int64_t V,
                                   float temperature, Compute compute) = 0;
  // Policy loss and gradient, and the mean log-ratio of every segment (CSR over `tokens`; 0 for an empty one). By default the host's own.
  virtual ObjectiveResult objective(const ObjectiveSpec& spec, const ObjectiveInputs& inputs);
  virtual std::vector<double> mean_log_ratios(const float* logprobs, const float* old_logprobs, const std::vector<int32_t>& offsets,
                                              const std::vector<int32_t>& tokens);

  // -- optimizer
  virtual double squared_norm(const float* x, int64_t n) = 0;
  virtual void adamw(float* w, float* m, float* v, const float* g, int64_t n, const AdamW& options) = 0;
};

std::unique_ptr<Backend> make_cpu_backend(int threads);

}  // namespace rank_grpo
