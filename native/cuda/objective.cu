// The driver of every objective on the GPU: a warp a segment pools s, applies the rule to each of its tokens and spreads the slope;
// sums of segments meet in fixed ranges, ascending. float64 inside, as on the host.
#include "objective.h"

#include <algorithm>
#include <vector>

#include "../objectives/list.h"
#include "backend.h"
#include "kernel.h"

namespace rank_grpo {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;

// Sums over segments.
struct Totals {
  double loss, policy, kl, entropy, ratio_sum, ratio_min, ratio_max;
  long long nonempty, low, high, dual;
};
__device__ __forceinline__ Totals empty_totals() { return {0, 0, 0, 0, 0, 1e308, -1e308, 0, 0, 0, 0}; }
__device__ __forceinline__ void add_totals(Totals& a, const Totals& b) {
  a.loss += b.loss;
  a.policy += b.policy;
  a.kl += b.kl;
  a.entropy += b.entropy;
  a.ratio_sum += b.ratio_sum;
  a.ratio_min = smaller_of(a.ratio_min, b.ratio_min);
  a.ratio_max = larger_of(a.ratio_max, b.ratio_max);
  a.nonempty += b.nonempty;
  a.low += b.low;
  a.high += b.high;
  a.dual += b.dual;
}

struct Pointers {  // of ObjectiveInputs
  const float *logprobs, *old_logprobs, *ref_logprobs, *entropies, *advantages, *weights;
  const int32_t *offsets, *tokens;
};
__device__ __forceinline__ TokenInputs token_inputs(const Pointers& in, int32_t i) {
  const double logp = static_cast<double>(in.logprobs[i]);
  return {logp,
          in.old_logprobs ? static_cast<double>(in.old_logprobs[i]) : logp,
          in.ref_logprobs ? static_cast<double>(in.ref_logprobs[i]) : 0,
          static_cast<double>(in.advantages[i]),
          static_cast<double>(in.weights[i]),
          in.ref_logprobs != nullptr};
}

template <class R>
__global__ void segment_kernel(Totals* __restrict__ partial, R rule, TokenSettings settings, bool mean, Pointers in, int64_t segments,
                               float entropy_slope, DeviceObjective out) {
  GPU_SHARED(Totals, of_warp, kWarps);
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t g = int64_t{blockIdx.x} * kWarps + warp;
  Totals totals = empty_totals();
  const int first = g < segments ? in.offsets[g] : 0, last = g < segments ? in.offsets[g + 1] : 0;
  if (g < segments && first == last && lane == 0) out.segment_log_ratio[g] = 0.f;
  if (first < last) {  // of the whole warp alike
    const double n = mean ? static_cast<double>(last - first) : 1;
    double s = 0, slope = 0;
    for (int t = first + lane; t < last; t += kWarp) s += segment_term(rule, token_inputs(in, in.tokens[t])).value;
    s = warp_sum(s) / n;
    // A warp's tokens usually fit its lanes: then a token's terms are computed once and kept.
    TokenTerms kept{};
    for (int t = first + lane; t < last; t += kWarp) {
      const int32_t i = in.tokens[t];
      kept = token_terms(rule, settings, s, token_inputs(in, i));
      const double w = static_cast<double>(in.weights[i]);
      slope += kept.slope;
      totals.loss += w * kept.loss;
      totals.policy += w * kept.policy;
      totals.kl += kept.kl;
      if (out.dentropy) {
        totals.entropy += static_cast<double>(in.entropies[i]);
        out.dentropy[i] = entropy_slope;
      }
      totals.low += kept.clipped & 1;
      totals.high += kept.clipped >> 1 & 1;
      totals.dual += kept.clipped >> 2 & 1;
      out.token_loss[i] = static_cast<float>(kept.loss);
      out.token_kl[i] = static_cast<float>(kept.kl);
    }
    slope = warp_sum(slope) / n;
    for (int t = first + lane; t < last; t += kWarp) {
      if (last - first > kWarp) kept = token_terms(rule, settings, s, token_inputs(in, in.tokens[t]));
      out.dlogp[in.tokens[t]] = static_cast<float>(kept.direct + chain(kept.own, slope));
    }
    totals.loss = warp_sum(totals.loss);
    totals.policy = warp_sum(totals.policy);
    totals.kl = warp_sum(totals.kl);
    totals.entropy = warp_sum(totals.entropy);
    totals.low = warp_sum(totals.low);
    totals.high = warp_sum(totals.high);
    totals.dual = warp_sum(totals.dual);
    totals.ratio_sum = totals.ratio_min = totals.ratio_max = std::exp(s);
    totals.nonempty = 1;
    if (lane == 0) out.segment_log_ratio[g] = static_cast<float>(s);
  }
  if (lane == 0) of_warp[warp] = totals;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int w = 1; w < kWarps; ++w) add_totals(totals, of_warp[w]);
  partial[blockIdx.x] = totals;
}

// One block: thread t sums the t-th range, then the first thread the ranges.
__global__ void totals_kernel(Totals* __restrict__ out, const Totals* __restrict__ partial, int64_t count) {
  GPU_SHARED(Totals, sums, kThreads);
  const int64_t each = (count + kThreads - 1) / kThreads;
  Totals own = empty_totals();
  for (int64_t i = threadIdx.x * each; i < smaller_of(count, (threadIdx.x + 1) * each); ++i) add_totals(own, partial[i]);
  sums[threadIdx.x] = own;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int t = 1; t < kThreads; ++t) add_totals(own, sums[t]);
  *out = own;
}

// A warp a segment.
__global__ void mean_log_ratio_kernel(double* __restrict__ out, const float* __restrict__ logprobs, const float* __restrict__ old,
                                      const int32_t* __restrict__ offsets, const int32_t* __restrict__ tokens, int64_t segments) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t g = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  if (g >= segments) return;
  const int first = offsets[g], last = offsets[g + 1];
  double sum = 0;
  for (int t = first + lane; t < last; t += kWarp) sum += static_cast<double>(logprobs[tokens[t]]) - static_cast<double>(old[tokens[t]]);
  sum = warp_sum(sum);
  if (lane == 0) out[g] = first == last ? 0 : sum / static_cast<double>(last - first);
}

}  // namespace

ObjectiveResult cuda_objective(Backend& generic, const ObjectiveSpec& spec, const ObjectiveInputs& in, int64_t covered,
                               const DeviceObjective& out) {
  auto& backend = static_cast<CudaBackend&>(generic);
  const size_t bytes = static_cast<size_t>(in.tokens) * sizeof(float);
  for (float* array : {out.dlogp, out.token_loss, out.token_kl, out.dentropy})
    if (array) backend.zero(array, bytes);  // of tokens in no segment
  const double entropy_count = static_cast<double>(std::max<int64_t>(1, in.covered_tokens ? in.covered_tokens : covered));
  if (spec.entropy_coef != 0) expect(in.entropies && out.dentropy, "entropies", "an objective with an entropy bonus", "none");
  const unsigned blocks = blocks_of(in.segments, kWarps);
  Totals* partial = backend.partial<Totals>(blocks + 1);
  const Pointers pointers{in.logprobs,   in.old_logprobs, in.ref_logprobs,    in.entropies,
                          in.advantages, in.weights,      in.segment_offsets, in.segment_tokens};
  bool found = false;
  AllRules::each([&](auto* pointer) {
    using R = std::remove_pointer_t<decltype(pointer)>;
    if (found || spec.rule != R::name) return;
    found = true;
    const auto values = checked_parameters(spec, std::data(R::parameters), std::size(R::parameters));
    launch("objective", backend.stream(), segment_kernel<R>, dim3(blocks), dim3(kThreads), 0, partial, make_rule<R>(values.data()),
           spec.settings(), spec.pool == Pool::mean, pointers, in.segments, static_cast<float>(-spec.entropy_coef / entropy_count), out);
  });
  expect(found, "a rule of objective_list()", "objective", spec.rule);
  launch("objective", backend.stream(), totals_kernel, dim3(1), dim3(kThreads), 0, partial + blocks, partial, int64_t{blocks});
  Totals totals;
  backend.download(&totals, partial + blocks, sizeof totals);
  ObjectiveResult result;
  result.loss = totals.loss - (spec.entropy_coef != 0 ? spec.entropy_coef * totals.entropy / entropy_count : 0);
  result.policy_loss = totals.policy;
  result.kl_sum = totals.kl;
  result.entropy_sum = totals.entropy;
  result.covered = covered;
  result.nonempty_segments = totals.nonempty;
  if (totals.nonempty) {
    result.ratio_min = totals.ratio_min;
    result.ratio_max = totals.ratio_max;
    result.ratio_sum = totals.ratio_sum;
  }
  result.clipped_low = totals.low;
  result.clipped_high = totals.high;
  result.clipped_dual = totals.dual;
  return result;
}

ObjectiveResult CudaBackend::objective(const ObjectiveSpec& spec, const ObjectiveInputs& in) {
  const int64_t T = in.tokens, S = in.segments, covered = S ? in.segment_offsets[S] : 0;
  std::vector<char> seen(static_cast<size_t>(T), 0);
  for (int64_t t = 0; t < covered; ++t) {
    const int32_t i = in.segment_tokens[t];
    expect(i >= 0 && i < T, "token indices from 0 to " + std::to_string(T - 1), "segmentTokens", std::to_string(i));
    expect(!seen[static_cast<size_t>(i)], "each token in one segment at most", "segmentTokens", std::to_string(i) + " twice");
    seen[static_cast<size_t>(i)] = 1;
  }
  const bool bonus = spec.entropy_coef != 0;
  Lent lent(*this);
  ObjectiveInputs device = in;
  device.logprobs = lent.get(in.logprobs, T);
  device.old_logprobs = lent.get(in.old_logprobs, T);
  device.ref_logprobs = lent.get(in.ref_logprobs, T);
  device.entropies = lent.get(in.entropies, T);
  device.advantages = lent.get(in.advantages, T);
  device.weights = lent.get(in.weights, T);
  device.segment_offsets = lent.get(in.segment_offsets, S + 1);
  device.segment_tokens = lent.get(in.segment_tokens, covered);
  const DeviceObjective out{lent.room<float>(T), bonus ? lent.room<float>(T) : nullptr, lent.room<float>(S), lent.room<float>(T),
                            lent.room<float>(T)};
  ObjectiveResult result = cuda_objective(*this, spec, device, covered, out);
  auto fetch = [&](std::vector<float>& to, const float* from, int64_t count) {
    to.resize(static_cast<size_t>(count));
    download(to.data(), from, to.size() * sizeof(float));
  };
  fetch(result.dlogp, out.dlogp, T);
  fetch(result.token_loss, out.token_loss, T);
  fetch(result.token_kl, out.token_kl, T);
  fetch(result.segment_log_ratio, out.segment_log_ratio, S);
  if (bonus) fetch(result.dentropy, out.dentropy, T);
  return result;
}

std::vector<double> CudaBackend::mean_log_ratios(const float* logprobs, const float* old_logprobs, const std::vector<int32_t>& offsets,
                                                 const std::vector<int32_t>& tokens) {
  const auto S = static_cast<int64_t>(offsets.size()) - 1;
  const int64_t T = tokens.empty() ? 0 : int64_t{*std::max_element(tokens.begin(), tokens.end())} + 1;
  std::vector<double> means(static_cast<size_t>(S));
  Lent lent(*this);
  double* out = lent.room<double>(S);
  launch("mean_log_ratios", stream_, mean_log_ratio_kernel, dim3(blocks_of(S, kWarps)), dim3(kThreads), 0, out, lent.get(logprobs, T),
         lent.get(old_logprobs, T), lent.get(offsets.data(), S + 1), lent.get(tokens.data(), static_cast<int64_t>(tokens.size())), S);
  download(means.data(), out, means.size() * sizeof(double));
  return means;
}

}  // namespace rank_grpo
