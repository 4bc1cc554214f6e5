// One program for a bare machine with a GPU, no Node: compares whole models with the CPU, checks exactness as bits, and times what a
// training run does. `check.sh` builds and calls it; on the host shim it runs at small sizes, so that it is right before it meets a GPU.
//
//   gpu_driver parity | exact | fingerprint | bench [--small] [--json FILE] [--model FOLDER] [--peer FOLDER]
//
// bench writes into --peer what bench/peers/peers.py needs to compute the same loss by Liger: request.json, and the matrices it names.
// Every line of FILE is one JSON object: {"name": ..., "value": ..., "unit": ..., ...}.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "core/device.h"
#include "core/error.h"
#include "core/philox.h"
#include "cuda/logits.h"
#include "cuda/objective.h"
#include "model/checkpoint.h"
#include "model/memory.h"
#include "model/policy.h"

using namespace rank_grpo;

namespace {

struct Options {
  bool small = false;
  std::string json, model, peer;
};

void report(const Options& options, const std::string& name, double value, const std::string& unit, const std::string& extra = "") {
  std::printf("%-52s %12.5g %s %s\n", name.c_str(), value, unit.c_str(), extra.c_str());
  std::fflush(stdout);
  if (options.json.empty()) return;
  if (FILE* f = std::fopen(options.json.c_str(), "a")) {
    std::fprintf(f, "{\"name\": \"%s\", \"value\": %.9g, \"unit\": \"%s\"%s}\n", name.c_str(), std::isfinite(value) ? value : -1, unit.c_str(), extra.c_str());
    std::fclose(f);
  }
}
bool require(const Options& options, const std::string& name, double value, double limit) {
  const bool ok = value <= limit;
  report(options, name, value, "error", ", \"limit\": " + std::to_string(limit) + ", \"passed\": " + (ok ? "true" : "false"));
  return ok;
}

std::vector<float> normal(size_t n, uint32_t key, float scale = 1) {
  std::vector<float> out(n);
  for (size_t i = 0; i < n; ++i) {
    const auto r = philox(1, static_cast<uint32_t>(i), key, 0, 0);
    out[i] = scale * static_cast<float>(std::sqrt(-2 * std::log((r.x[0] + 0.5) * 0x1p-32)) * std::cos(6.283185307179586 * r.x[1] * 0x1p-32));
  }
  return out;
}
std::vector<int32_t> integers(size_t n, uint32_t key, int bound) {
  std::vector<int32_t> out(n);
  for (size_t i = 0; i < n; ++i) out[i] = static_cast<int32_t>(philox(2, static_cast<uint32_t>(i), key, 0, 0).x[0] % static_cast<uint32_t>(bound));
  return out;
}
template <class T>
DeviceBuffer on(Backend& backend, const std::vector<T>& values) {
  DeviceBuffer buffer(backend, values.size() * sizeof(T));
  backend.upload(buffer.data(), values.data(), values.size() * sizeof(T));
  return buffer;
}

ModelConfig shape(const char* family, int vocab, int hidden, int intermediate, int layers, int heads, int kv_heads, int positions) {
  ModelConfig c;
  c.family = family;
  c.vocab = vocab;
  c.hidden = hidden;
  c.intermediate = intermediate;
  c.layers = layers;
  c.heads = heads;
  c.kv_heads = kv_heads;
  c.head_dim = hidden / heads;
  c.max_positions = positions;
  c.tied = true;
  c.qkv_bias = c.family == "qwen2";
  c.rope_theta = 1e6;
  return c;
}
ModelConfig little() { return shape("qwen2", 515, 96, 160, 2, 6, 2, 256); }
ModelConfig qwen_half_billion(bool small) { return small ? little() : shape("qwen2", 151936, 896, 4864, 24, 14, 2, 1024); }

std::unique_ptr<Policy> random_policy(const std::shared_ptr<Backend>& backend, const ModelConfig& config, Compute compute, bool trainable = true) {
  PolicyOptions options;
  options.compute = compute;
  options.trainable = trainable;
  auto policy = std::make_unique<Policy>(backend, config, options);
  policy->initialize(7, 0.05f);
  return policy;
}
std::unique_ptr<Policy> load_policy(const std::shared_ptr<Backend>& backend, const std::string& path, Compute compute) {
  const auto checkpoint = Checkpoint::open(path);
  PolicyOptions options;
  options.compute = compute;
  auto policy = std::make_unique<Policy>(backend, checkpoint->config(), options);
  std::vector<float> values;
  for (size_t i = 0; i < policy->table().parameters.size(); ++i) {
    values.resize(static_cast<size_t>(policy->table().parameters[i].size()));
    checkpoint->read(policy->table().parameters[i], values.data());
    policy->set_parameter(i, values.data());
  }
  policy->parameters_changed();
  return policy;
}

GenerateRequest request_of(int prompts, int prompt_length, int group, int tokens, int vocab) {
  GenerateRequest r;
  r.prompt_offsets = {0};
  for (int p = 0; p < prompts; ++p) r.prompt_offsets.push_back((p + 1) * prompt_length);
  r.prompt_ids = integers(static_cast<size_t>(prompts * prompt_length), 3, vocab);
  r.group_size = group;
  r.max_new_tokens = tokens;
  r.max_rows = prompts * group;
  r.ignore_stop = true;
  r.seed = 9;
  return r;
}
Batch batch_of(const GenerateRequest& r, const Completions& c) {
  Batch b;
  b.prompt_ids = r.prompt_ids;
  b.prompt_offsets = r.prompt_offsets;
  b.completion_ids = c.ids;
  b.completion_offsets = c.offsets;
  for (size_t p = 0; p < r.prompt_offsets.size(); ++p) b.group_offsets.push_back(static_cast<int32_t>(p) * r.group_size);
  return b;
}
// A list item every ten tokens; advantages alternate.
StepInputs inputs_of(const Batch& b, const std::vector<float>& old) {
  StepInputs in;
  in.old_logprobs = old;
  in.segment_offsets = {0};
  const size_t T = b.completion_ids.size();
  in.weights.assign(T, 1.f / static_cast<float>(T));
  in.advantages = normal(T, 17);
  for (size_t row = 0; row + 1 < b.completion_offsets.size(); ++row)
    for (int32_t t = b.completion_offsets[row]; t < b.completion_offsets[row + 1]; ++t) {
      in.segment_tokens.push_back(t);
      if ((t - b.completion_offsets[row]) % 10 == 9 || t + 1 == b.completion_offsets[row + 1]) in.segment_offsets.push_back(static_cast<int32_t>(in.segment_tokens.size()));
    }
  return in;
}
ObjectiveSpec clip() {
  ObjectiveSpec spec;
  spec.rule = "clip";
  for (const auto& info : objective_list())
    if (spec.rule == info.name)
      for (const auto& p : info.parameters) spec.params.push_back(p.value);
  return spec;
}

double worst(const std::vector<float>& a, const std::vector<float>& b) {
  double w = a.size() == b.size() ? 0 : INFINITY;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    const double d = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    w = d <= w ? w : d;
  }
  return w;
}
struct ModelError {
  double relative = 0, rms = 0;  // of the worst tensor, relative to its norm; over all values
};
template <class Get>
ModelError model_error(const Policy& a, const Policy& b, Get&& get) {
  ModelError result;
  double squares = 0, count = 0;
  for (size_t i = 0; i < b.table().parameters.size(); ++i) {
    std::vector<float> x(static_cast<size_t>(b.table().parameters[i].size())), y(x.size());
    get(a, i, x.data());
    get(b, i, y.data());
    double difference = 0, size = 1e-30;
    for (size_t j = 0; j < x.size(); ++j) {
      difference += std::pow(static_cast<double>(x[j]) - static_cast<double>(y[j]), 2);
      size += std::pow(static_cast<double>(y[j]), 2);
    }
    result.relative = std::max(result.relative, std::sqrt(difference / size));
    squares += difference;
    count += static_cast<double>(x.size());
  }
  result.rms = std::sqrt(squares / count);
  return result;
}

// -- a model on the GPU against the CPU: log-probs, gradients, an RL update
bool parity(const Options& options) {
  const auto cpu = random_policy(make_cpu_backend(4), little(), Compute::f32), cuda = random_policy(make_cuda_backend(), little(), Compute::f32);
  const auto request = request_of(2, 45, 3, 20, little().vocab);
  const Completions drawn = cpu->generate(request);
  bool ok = require(options, "parity/tokens that differ from the CPU's", drawn.ids == cuda->generate(request).ids ? 0 : 1, 0);
  const Batch batch = batch_of(request, drawn);
  const Scores wanted = cpu->score(batch, {}, true), got = cuda->score(batch, {}, true);
  ok &= require(options, "parity/log-probs", worst(got.logprobs, wanted.logprobs), 2e-5);
  ok &= require(options, "parity/entropies", worst(got.entropies, wanted.entropies), 2e-5);
  StepInputs inputs = inputs_of(batch, wanted.logprobs);
  OptimizerOptions optimizer;
  optimizer.learning_rate = 1e-3;
  for (int step = 0; step < 3; ++step) {
    const StepResult a = cpu->accumulate(batch, inputs, clip(), {}), b = cuda->accumulate(batch, inputs, clip(), {});
    ok &= require(options, "parity/loss of step " + std::to_string(step), std::abs(a.objective.loss - b.objective.loss), 1e-5);
    if (step == 0) {
      const auto error = model_error(*cuda, *cpu, [](const Policy& p, size_t i, float* out) { p.get_gradient(i, out); });
      ok &= require(options, "parity/gradient", error.relative, 1e-5);
    }
    cpu->optimizer_step(optimizer);
    cuda->optimizer_step(optimizer);
  }
  // By rms: Adam turns a gradient near zero into a step of up to the learning rate.
  const auto error = model_error(*cuda, *cpu, [](const Policy& p, size_t i, float* out) { p.get_parameter(i, out); });
  ok &= require(options, "parity/weights after 3 steps, rms", error.rms, 1e-2 * optimizer.learning_rate);
  return ok;
}

// -- sampler = trainer, as bits, whatever the batch
bool exact(const Options& options) {
  bool ok = true;
  for (const auto compute : {Compute::f32, Compute::bf16}) {
    const std::string name = compute == Compute::f32 ? "exact/f32 " : "exact/bf16 ";
    const std::shared_ptr<Backend> backend = make_cuda_backend();
    const ModelConfig config = qwen_half_billion(options.small);
    const auto policy = options.model.empty() ? random_policy(backend, config, compute) : load_policy(backend, options.model, compute);
    auto request = request_of(options.small ? 2 : 6, options.small ? 37 : 300, options.small ? 3 : 8, options.small ? 8 : 64, policy->config().vocab);
    const Completions drawn = policy->generate(request);
    request.max_rows = request.group_size;
    const Completions again = policy->generate(request);
    ok &= require(options, name + "rows that depend on the batch", drawn.ids == again.ids && worst(drawn.logprobs, again.logprobs) == 0 ? 0 : 1, 0);
    const Batch batch = batch_of(request, drawn);
    ForwardOptions forward;
    ok &= require(options, name + "sampler - trainer, micro-batches of 2048", worst(policy->score(batch, forward, false).logprobs, drawn.logprobs), 0);
    forward.micro_batch_tokens = 1;
    ok &= require(options, name + "sampler - trainer, row by row", worst(policy->score(batch, forward, true).logprobs, drawn.logprobs), 0);
    const auto inputs = inputs_of(batch, drawn.logprobs);
    const StepResult step = policy->accumulate(batch, inputs, clip(), {});
    ok &= require(options, name + "on-policy ratio - 1", std::max(step.objective.ratio_max - 1, 1 - step.objective.ratio_min), 0);
    std::vector<std::vector<float>> gradients(2);
    for (auto& g : gradients) {
      policy->zero_gradients();
      policy->accumulate(batch, inputs, clip(), {});
      g.resize(static_cast<size_t>(policy->table().parameters[0].size()));
      policy->get_gradient(0, g.data());
    }
    ok &= require(options, name + "gradient of a second pass", worst(gradients[0], gradients[1]), 0);
  }
  return ok;
}

// -- the f32 kernels' bits, to compare a GPU with the shim: FNV-1a of a small model's hidden states through one linear layer each
bool fingerprint(const Options& options) {
  const std::shared_ptr<Backend> backend = make_cuda_backend();
  Backend& b = *backend;
  uint64_t hash = 1469598103934665603ull;
  auto add = [&](const void* device, size_t floats) {
    std::vector<float> host(floats);
    b.download(host.data(), device, floats * sizeof(float));
    const auto* bytes = reinterpret_cast<const unsigned char*>(host.data());
    for (size_t i = 0; i < floats * sizeof(float); ++i) hash = (hash ^ bytes[i]) * 1099511628211ull;
  };
  const int64_t T = 70, C = 96, N = 200;
  const auto x = on(b, normal(T * C, 1)), W = on(b, normal(N * C, 2, 0.1f)), w = on(b, normal(C, 3)), y = on(b, normal(T * N, 4)), z = on(b, normal(T * C, 5));
  auto panels = b.make_panels(N, C, Compute::f32);
  b.pack(*panels, W.floats());
  b.norm_forward(z.floats(), x.floats(), w.floats(), T, C, C, C, 1e-6f);
  b.linear_forward(y.floats(), z.floats(), *panels, nullptr, T);
  add(y.data(), static_cast<size_t>(T * N));
  b.swiglu_forward(z.floats(), y.floats(), T, C);
  add(z.data(), static_cast<size_t>(T * C));
  const AttentionShape attention{3, 1, 20};  // of width 100, half of y's rows
  AttentionPlan plan;
  for (int t = 0; t < 2 * T; ++t) plan.writes.push_back({t, t});
  plan.spans = {{0, static_cast<int32_t>(2 * T), 0, 0}};
  plan.tables = {0, 1, 2, 3, 4};
  DeviceBuffer cache(b, b.cache_bytes(5, attention)), out(b, static_cast<size_t>(2 * T * 60) * sizeof(float));
  b.attention_forward(out.floats(), nullptr, y.floats(), cache.data(), 5, plan, attention);
  add(out.data(), static_cast<size_t>(2 * T * 60));
  std::printf("fingerprint %016llx\n", static_cast<unsigned long long>(hash));
  if (!options.json.empty())
    if (FILE* f = std::fopen(options.json.c_str(), "a")) {
      std::fprintf(f, "{\"name\": \"fingerprint\", \"bits\": \"%016llx\"}\n", static_cast<unsigned long long>(hash));
      std::fclose(f);
    }
  return true;
}

// -- benchmarks: median of five, after one run that warms up; `download` waits for the device
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

}  // namespace

int main(int argc, char** argv) {
  Options options;
  const std::string command = argc > 1 ? argv[1] : "";
  for (int i = 2; i < argc; ++i) {
    if (!std::strcmp(argv[i], "--small")) options.small = true;
    if (!std::strcmp(argv[i], "--json") && i + 1 < argc) options.json = argv[++i];
    if (!std::strcmp(argv[i], "--model") && i + 1 < argc) options.model = argv[++i];
    if (!std::strcmp(argv[i], "--peer") && i + 1 < argc) options.peer = argv[++i];
  }
  try {
    for (const auto& device : list_devices())
      std::printf("%s: %s\n", device.device.c_str(), device.usable() ? (device.name.empty() ? "usable" : device.name.c_str()) : device.reason.c_str());
    bool ok = false;
    if (command == "parity") {
      ok = parity(options);
    } else if (command == "exact") {
      ok = exact(options);
    } else if (command == "fingerprint") {
      ok = fingerprint(options);
    } else if (command == "bench") {
      ok = bench(options);
    } else {
      std::fprintf(stderr, "Expected parity, exact, fingerprint or bench, got \"%s\".\n", command.c_str());
      return 2;
    }
    return ok ? 0 : 1;
  } catch (const Error& error) {
    std::fprintf(stderr, "%s: %s\n", error.code(), error.what());
    return 1;
  }
}
