// What a training run does on the GPU, timed: kernels against their bound, the loss beside Liger's, a model's generation and update.
// --peer gets what bench/peers/peers.py needs to compute the same loss by Liger: request.json, and the matrices it names.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>

#include "core/error.h"
#include "cuda/logits.h"
#include "cuda/objective.h"
#include "driver.h"

namespace driver {
namespace {

// Median of five, after one run that warms up; `download` waits for the device.
double seconds(Backend& backend, const Options& options, const std::function<void()>& body) {
  std::vector<double> times;
  for (int run = 0; run < (options.small ? 2 : 6); ++run) {
    backend.download(nullptr, nullptr, 0);
    const auto start = std::chrono::steady_clock::now();
    body();
    backend.download(nullptr, nullptr, 0);
    if (run > 0) times.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

void bench_logits(const Options& options, Backend& b, double bandwidth) {
  const int64_t T = options.small ? 8 : 2048, V = options.small ? 3001 : 151936;
  const auto logits = on(b, normal(static_cast<size_t>(V), 1, 3));
  DeviceBuffer all(b, static_cast<size_t>(T * V) * sizeof(float)), half(b, static_cast<size_t>(T * V) * sizeof(uint16_t)), gradient(b, static_cast<size_t>(T * V) * sizeof(float));
  for (int64_t t = 0; t < T; ++t) b.copy(all.floats() + t * V, logits.data(), static_cast<size_t>(V) * sizeof(float));
  const auto targets = on(b, integers(static_cast<size_t>(T), 2, static_cast<int>(V)));
  const auto g = on(b, normal(static_cast<size_t>(T), 3));
  DeviceBuffer logprob(b, static_cast<size_t>(T) * sizeof(float)), lse(b, static_cast<size_t>(T) * sizeof(float));
  const double values = static_cast<double>(T) * static_cast<double>(V);
  auto both = [&](const char* name, double bytes, auto* x) {
    const double time = seconds(b, options, [&] {
      cuda_logits_forward(b, logprob.floats(), nullptr, lse.floats(), x, targets.ints(), T, V, 1.f);
      cuda_logits_backward(b, gradient.floats(), x, targets.ints(), lse.floats(), nullptr, g.floats(), nullptr, T, V, 1.f);
    });
    report(options, std::string("logits/") + name + " forward + backward", bytes / time / bandwidth, "of bandwidth", ", \"ms\": " + std::to_string(time * 1e3));
  };
  both("f32", values * 12, static_cast<const float*>(all.floats()));
  both("bf16", values * 8, static_cast<const uint16_t*>(half.data()));
}

// [count, columns]: the rows over and over.
DeviceBuffer repeated(Backend& b, const std::vector<float>& rows, int64_t count, int64_t columns) {
  const int64_t given = static_cast<int64_t>(rows.size()) / columns;
  const auto once = on(b, rows);
  DeviceBuffer out(b, static_cast<size_t>(count * columns) * sizeof(float));
  for (int64_t r = 0; r < count; r += given)
    b.copy(out.floats() + r * columns, once.data(), static_cast<size_t>(std::min(given, count - r) * columns) * sizeof(float));
  b.download(nullptr, nullptr, 0);  // before `once` goes
  return out;
}

void bench_head(const Options& options, Backend& b) {
  const int64_t R = options.small ? 40 : 16 * 1024, C = options.small ? 64 : 4096, V = options.small ? 300 : 128256;
  const auto rows = repeated(b, normal(static_cast<size_t>(C) * 64, 1), R, C), head = repeated(b, normal(static_cast<size_t>(C) * 64, 2, 0.02f), V, C);
  DeviceBuffer dh(b, rows.bytes()), dW(b, head.bytes());
  const auto targets = integers(static_cast<size_t>(R), 3, static_cast<int>(V));
  const auto dlogprob = normal(static_cast<size_t>(R), 4);
  DeviceBuffer logprob(b, static_cast<size_t>(R) * sizeof(float)), lse(b, static_cast<size_t>(R) * sizeof(float));
  auto panels = b.make_panels(V, C, Compute::bf16);
  b.pack(*panels, head.floats());
  const double flops = 2.0 * static_cast<double>(R) * static_cast<double>(C) * static_cast<double>(V);
  double time = seconds(b, options, [&] { b.head_forward(logprob.floats(), nullptr, lse.floats(), rows.floats(), *panels, head.floats(), targets.data(), nullptr, R, 1.f); });
  report(options, "head/bf16 forward", time * 1e3, "ms", ", \"tflops\": " + std::to_string(flops / time / 1e12));
  time = seconds(b, options, [&] {
    b.head_backward(dh.floats(), dW.floats(), rows.floats(), head.floats(), *panels, targets.data(), nullptr, lse.floats(), nullptr, dlogprob.data(), nullptr, R, 1.f);
  });
  report(options, "head/bf16 backward", time * 1e3, "ms", ", \"tflops\": " + std::to_string(3 * flops / time / 1e12));
}

template <class T>
void list(FILE* f, const char* name, const std::vector<T>& values) {
  std::fprintf(f, ", \"%s\": [", name);
  for (size_t i = 0; i < values.size(); ++i) std::fprintf(f, "%s%.9g", i ? ", " : "", static_cast<double>(values[i]));
  std::fprintf(f, "]");
}
FILE* open_file(const std::string& path) {
  FILE* f = std::fopen(path.c_str(), "wb");
  if (!f) throw Error("IO", "Expected a file that can be written, got " + path + ".");
  return f;
}
void write_floats(const std::string& path, const std::vector<float>& values) {
  FILE* f = open_file(path);
  const bool whole = std::fwrite(values.data(), sizeof(float), values.size(), f) == values.size();
  if (std::fclose(f) != 0 || !whole) throw Error("IO", "Expected room for " + path + ".");
}

// GRPO's clipped loss over B lists, from hidden states and a head of bf16 numbers, with both gradients: as a training step does it.
void bench_loss(const Options& options, Backend& b) {
  const int64_t B = options.small ? 4 : 16, R = B * (options.small ? 10 : 1024), C = options.small ? 64 : 4096, V = options.small ? 300 : 128256;
  const auto in_bf16 = [](std::vector<float> values) {
    for (float& x : values) {
      uint32_t bits;
      std::memcpy(&bits, &x, sizeof bits);
      bits &= 0xffff0000u;
      std::memcpy(&x, &bits, sizeof bits);
    }
    return values;
  };
  const auto h = in_bf16(normal(static_cast<size_t>(C) * 64, 1)), W = in_bf16(normal(static_cast<size_t>(C) * 64, 2, 0.02f));
  const auto targets = integers(static_cast<size_t>(R), 3, static_cast<int>(V));
  std::vector<float> advantages;
  for (int64_t i = 0; i < B; ++i) advantages.push_back(i % 2 ? -0.75f : 1.25f);
  const auto rows = repeated(b, h, R, C), head = repeated(b, W, V, C);
  auto panels = b.make_panels(V, C, Compute::bf16);
  b.pack(*panels, head.floats());
  const size_t free = b.available_bytes();
  DeviceBuffer dh(b, rows.bytes()), dW(b, head.bytes()), logprob(b, static_cast<size_t>(R) * sizeof(float)), lse(b, logprob.bytes());
  std::vector<float> logprobs(static_cast<size_t>(R)), old(logprobs.size()), A(logprobs.size()), weights(logprobs.size(), 1.f / static_cast<float>(R));
  std::vector<int32_t> offsets(1), tokens;
  const auto forward = [&] {
    b.head_forward(logprob.floats(), nullptr, lse.floats(), rows.floats(), *panels, head.floats(), targets.data(), nullptr, R, 1.f);
    b.download(logprobs.data(), logprob.data(), logprob.bytes());
  };
  forward();
  const float log_ratios[] = {0, 0.1f, -0.5f, -0.1f, 0.5f};  // within the clip's range and beyond it, none near an edge
  for (size_t t = 0; t < logprobs.size(); ++t) {
    old[t] = logprobs[t] - log_ratios[t % 5];
    A[t] = advantages[t * static_cast<size_t>(B) / logprobs.size()];
    tokens.push_back(static_cast<int32_t>(t));
    offsets.push_back(static_cast<int32_t>(t + 1));
  }
  ObjectiveInputs in;
  in.tokens = in.segments = R;
  in.logprobs = logprobs.data();
  in.old_logprobs = old.data();
  in.advantages = A.data();
  in.weights = weights.data();
  in.segment_offsets = offsets.data();
  in.segment_tokens = tokens.data();
  ObjectiveSpec spec = clip();
  spec.params[0] = 0.2;
  spec.params[1] = 0.26;
  double loss = 0;
  const double time = seconds(b, options, [&] {
    forward();
    const ObjectiveResult result = evaluate_objective(spec, in);
    loss = result.loss;
    b.zero(dW.data(), dW.bytes());  // it is added to
    b.head_backward(dh.floats(), dW.floats(), rows.floats(), head.floats(), *panels, targets.data(), nullptr, lse.floats(), nullptr, result.dlogp.data(), nullptr, R, 1.f);
  });
  const double mib = static_cast<double>(free - b.available_bytes()) / (1 << 20);
  report(options, "loss/bf16 with gradients, from hidden and head", time * 1e3, "ms", ", \"mib_above_inputs\": " + std::to_string(mib));
  if (options.peer.empty()) return;
  const std::string& to = options.peer;
  const auto first_rows = [&](const char* name, const DeviceBuffer& gradient, int64_t count) {
    std::vector<float> host(static_cast<size_t>(std::min<int64_t>(count, 2048) * C));
    b.download(host.data(), gradient.data(), host.size() * sizeof(float));
    write_floats(to + "/" + name, host);
  };
  write_floats(to + "/hidden", h);
  write_floats(to + "/head", W);
  first_rows("dhidden", dh, R);
  first_rows("dhead", dW, V);
  FILE* f = open_file(to + "/request.json");
  std::fprintf(f, "{\"work\": \"loss\", \"peer\": \"liger\", \"dtype\": \"bf16\", \"seconds\": 1, \"threads\": 2, \"tolerance\": 0.02, \"clip\": [0.2, 0.26]");
  std::fprintf(f, ", \"B\": %lld, \"T\": %lld, \"C\": %lld, \"V\": %lld", static_cast<long long>(B), static_cast<long long>(R), static_cast<long long>(C), static_cast<long long>(V));
  std::fprintf(f, ", \"hidden\": \"%s/hidden\", \"head\": \"%s/head\"", to.c_str(), to.c_str());
  std::fprintf(f, ", \"ours\": {\"loss\": %.9g, \"dhidden\": \"%s/dhidden\", \"dhead\": \"%s/dhead\"}", loss, to.c_str(), to.c_str());
  list(f, "targets", targets);
  list(f, "old", old);
  list(f, "advantages", advantages);
  std::fprintf(f, "}\n");
  std::fclose(f);
}

void bench_objective(const Options& options, Backend& b, double bandwidth) {
  const int64_t T = options.small ? 1000 : 1 << 20, length = 10, S = T / length;
  std::vector<int32_t> offsets, tokens;
  for (int64_t s = 0; s <= S; ++s) offsets.push_back(static_cast<int32_t>(s * length));
  for (int64_t t = 0; t < S * length; ++t) tokens.push_back(static_cast<int32_t>(t));
  const auto logp = on(b, normal(static_cast<size_t>(T), 1, 0.1f)), old = on(b, normal(static_cast<size_t>(T), 2, 0.1f)), A = on(b, normal(static_cast<size_t>(T), 3));
  const auto w = on(b, std::vector<float>(static_cast<size_t>(T), 1.f / static_cast<float>(T))), o = on(b, offsets), t = on(b, tokens);
  DeviceBuffer dlogp(b, logp.bytes()), loss(b, logp.bytes()), kl(b, logp.bytes()), ratio(b, static_cast<size_t>(S) * sizeof(float));
  ObjectiveInputs in;
  in.tokens = T;
  in.segments = S;
  in.logprobs = logp.floats();
  in.old_logprobs = old.floats();
  in.advantages = A.floats();
  in.weights = w.floats();
  in.segment_offsets = o.ints();
  in.segment_tokens = t.ints();
  const double time = seconds(b, options, [&] { cuda_objective(b, clip(), in, S * length, {dlogp.floats(), nullptr, ratio.floats(), loss.floats(), kl.floats()}); });
  const double read_once = static_cast<double>(T) * (5 * 4 + 3 * 4) / bandwidth;  // five arrays in, three out
  report(options, "objective/1 M tokens against its arrays once", time / read_once, "times", ", \"ms\": " + std::to_string(time * 1e3));
}

void bench_model(const Options& options, const std::shared_ptr<Backend>& backend, double bandwidth) {
  const ModelConfig config = qwen_half_billion(options.small);
  const auto policy = options.model.empty() ? random_policy(backend, config, Compute::bf16) : load_policy(backend, options.model, Compute::bf16);
  const int prompts = options.small ? 2 : 6, group = options.small ? 2 : 8, length = options.small ? 20 : 512, tokens = options.small ? 5 : 200;
  const auto request = request_of(prompts, length, group, tokens, policy->config().vocab), prefill = request_of(prompts, length, group, 1, policy->config().vocab);
  Completions drawn;
  const double whole = seconds(*backend, options, [&] { drawn = policy->generate(request); }), first = seconds(*backend, options, [&] { policy->generate(prefill); });
  const double step = (whole - first) / (tokens - 1), weights = 2.0 * static_cast<double>(policy->table().total);
  report(options, "decode/bf16, weights against bandwidth", weights / step / bandwidth, "of bandwidth",
         ", \"ms_per_step\": " + std::to_string(step * 1e3) + ", \"tokens_per_second\": " + std::to_string(prompts * group / step));
  report(options, "decode/prompts and first tokens", first * 1e3, "ms");
  const Batch batch = batch_of(request, drawn);
  const StepInputs inputs = inputs_of(batch, drawn.logprobs);
  OptimizerOptions optimizer;
  optimizer.learning_rate = 1e-7;
  ForwardOptions forward;
  forward.micro_batch_tokens = 8192;
  const double update = seconds(*backend, options, [&] {
    policy->accumulate(batch, inputs, clip(), forward);
    policy->optimizer_step(optimizer);
  });
  report(options, "step/update", update * 1e3, "ms");
  report(options, "step/rollout + update", (whole + update) * 1e3, "ms");
}

}  // namespace

bool bench(const Options& options) {
  const std::shared_ptr<Backend> backend = make_cuda_backend();
  const size_t bytes = options.small ? 1 << 20 : size_t{1} << 30;
  double bandwidth = 0;
  {
    DeviceBuffer from(*backend, bytes), to(*backend, bytes);
    bandwidth = 2 * static_cast<double>(bytes) / seconds(*backend, options, [&] { backend->copy(to.data(), from.data(), bytes); });
  }
  report(options, "copy/read + write", bandwidth / 1e9, "GB/s");
  bench_logits(options, *backend, bandwidth);
  bench_objective(options, *backend, bandwidth);
  bench_head(options, *backend);
  bench_loss(options, *backend);
  bench_model(options, backend, bandwidth);
  return true;
}

}  // namespace driver
