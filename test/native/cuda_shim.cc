// The shim itself: what it is there to find, it finds; and the errors of devices that are not there.
#include "../../native/cuda/backend.h"
#include "../../native/model/policy.h"
#include "cuda_check.h"

using namespace cuda_check;
using namespace rank_grpo;

namespace {

void divergent_barrier(int*) {
  if (threadIdx.x == 0) return;
  __syncthreads();
}
void absent_lane(float* out) {
  if (threadIdx.x >= 16) return;
  out[threadIdx.x] = __shfl_sync(0xffffu, 1.f, 20);
}
void missing_lanes(float* out) {
  if (threadIdx.x < 16) out[0] = __shfl_xor_sync(kAllLanes, 1.f, 1);
}
void two_operations(float* out) {
  if (threadIdx.x < 16) {
    __syncwarp();
  } else {
    out[0] = __shfl_xor_sync(kAllLanes, 1.f, 1);
  }
}
// Reads what a neighbour writes; right only with the barrier.
void neighbour(float* out, bool barrier) {
  GPU_SHARED(float, values, 64);
  values[threadIdx.x] = static_cast<float>(threadIdx.x);
  if (barrier) __syncthreads();
  out[threadIdx.x] = values[63 - threadIdx.x];
}

struct Restore {
  shim::Settings saved = shim::settings();
  ~Restore() { shim::settings() = saved; }
};

}  // namespace

TEST(cuda_shim_reports_divergence) {
  float out[64] = {};
  CHECK_THROWS(launch("divergent_barrier", nullptr, divergent_barrier, dim3(1), dim3(64), 0, nullptr), "INTERNAL");
  CHECK_THROWS(launch("absent_lane", nullptr, absent_lane, dim3(1), dim3(32), 0, out), "INTERNAL");
  CHECK_THROWS(launch("missing_lanes", nullptr, missing_lanes, dim3(1), dim3(32), 0, out), "INTERNAL");
  CHECK_THROWS(launch("two_operations", nullptr, two_operations, dim3(1), dim3(32), 0, out), "INTERNAL");
  CHECK_THROWS(launch("too_many_threads", nullptr, missing_lanes, dim3(1), dim3(2048), 0, out), "INTERNAL");
}

TEST(cuda_shim_shows_a_missing_barrier) {
  const Restore restore;
  for (unsigned schedule : {0u, 1u, 2u, 3u}) {
    shim::settings().schedule = schedule;
    for (bool barrier : {true, false}) {
      float out[64] = {};
      launch("neighbour", nullptr, neighbour, dim3(1), dim3(64), 0, out, barrier);
      int wrong = 0;
      for (int i = 0; i < 64; ++i) wrong += out[i] != static_cast<float>(63 - i);
      CHECK(barrier ? wrong == 0 : wrong > 0);
    }
  }
}

TEST(cuda_shim_out_of_memory_is_an_error_and_the_backend_lives) {
  const Restore restore;
  auto& b = cuda();
  shim::settings().memory_limit = shim::allocated_bytes() + (size_t{1} << 20);
  CHECK_THROWS(b.allocate(size_t{2} << 20), "OUT_OF_MEMORY");
  CHECK(b.available_bytes() == size_t{1} << 20);
  DeviceBuffer fits(b, size_t{1} << 19);
  CHECK(fits.data() != nullptr);
  CHECK(b.available_bytes() <= size_t{1} << 19);
}

TEST(cuda_shim_an_array_goes_up_again_after_one_that_did_not_fit) {
  const Restore restore;
  auto& b = cuda();
  Uploaded array(b);
  const Ints small = random_ints(1 << 18, 1000), large(1 << 20);
  array.get(small);
  shim::settings().memory_limit =
      shim::allocated_bytes() + (size_t{1} << 20);  // the small one's own goes before the large one is asked for
  CHECK_THROWS(array.get(large), "OUT_OF_MEMORY");
  Ints got(small.size());
  b.download(got.data(), array.get(small), small.size() * sizeof(int32_t));
  CHECK(same_bits(got, small));
}

TEST(cuda_shim_a_head_that_does_not_fit_is_refused_before_it_goes_up) {
  const Restore restore;
  auto& b = cuda();
  const int64_t V = 300, C = 1000;
  const Floats h(static_cast<size_t>(C)), W(static_cast<size_t>(V * C));
  const int32_t target = 0;
  float logprob, lse;
  shim::settings().memory_limit = shim::allocated_bytes() + (size_t{1} << 20);
  CHECK_THROWS(b.given_head_forward(&logprob, nullptr, &lse, {h.data(), nullptr}, {W.data(), nullptr}, &target, 1, C, V, 1, Compute::f32),
               "OUT_OF_MEMORY");
  CHECK(b.available_bytes() == size_t{1} << 20);
}

TEST(cuda_shim_host_memory_that_cannot_be_pinned_serves_all_the_same) {
  const Restore restore;
  auto& b = cuda();
  const size_t before = shim::pinned_blocks();
  const AdamW options{1e-2f, 0.9f, 0.99f, 1e-8f, 0.1f, 1, 0.5f, true};
  std::vector<Floats> results;
  for (const bool pinned : {true, false}) {
    shim::settings().pinned = pinned;
    const auto m = DeviceBuffer::on_host(b, 4000), v = DeviceBuffer::on_host(b, 4000);
    CHECK(shim::pinned_blocks() == before + (pinned ? 2 : 0));
    const Device<float> w(b, Floats(1000, 1.f)), g(b, Floats(1000, 0.5f));
    b.adamw(w, m.floats(), v.floats(), g, 1000, options);
    results.push_back(w.get());
    results.push_back(Floats(m.floats(), m.floats() + 1000));
  }
  CHECK(shim::pinned_blocks() == before);
  CHECK(same_bits(results[0], results[2]) && same_bits(results[1], results[3]) && results[1][999] != 0);
}

TEST(cuda_shim_transfers_between_the_wrong_memories_are_errors) {
  auto& b = cuda();
  const Device<float> device(b, Floats(4));
  const auto host = DeviceBuffer::on_host(b, 16);
  Floats out(100);
  CHECK_THROWS(b.download(out.data(), host.data(), 16), "NO_DEVICE");
  CHECK_THROWS(b.upload(host.data(), out.data(), 16), "NO_DEVICE");
  CHECK_THROWS(b.download(out.data(), device, 400), "NO_DEVICE");  // blocks are multiples of 256 bytes
}

TEST(cuda_shim_optimizer_state_fits_on_the_host_where_the_device_is_full) {
  const Restore restore;
  ModelConfig config;
  config.family = "llama";
  config.vocab = 40000;
  config.hidden = 128;
  config.intermediate = 8;
  config.layers = 1;
  config.heads = config.kv_heads = 2;
  config.head_dim = 64;
  config.max_positions = 16;
  config.tied = true;
  PolicyOptions options;
  const auto backend = std::shared_ptr<Backend>(make_cuda_backend());
  const size_t parameters = 40000 * 128 * sizeof(float);
  shim::settings().memory_limit = shim::allocated_bytes() + 7 * parameters / 2;  // f32: weights, gradient, and not both moments
  CHECK_THROWS(Policy(backend, config, options), "OUT_OF_MEMORY");
  options.state_on_host = true;
  CHECK(Policy(backend, config, options).memory().host > 0);
}

TEST(cuda_shim_devices_that_cannot_be_used) {
  const Restore restore;
  auto& s = shim::settings();
  CHECK(resolve_device("auto") == "cuda" && resolve_device("cuda") == "cuda" && resolve_device("cpu") == "cpu");
  CHECK_THROWS(resolve_device("tpu"), "INVALID_ARGUMENT");
  auto refused = [&](const char* reason) {
    const auto devices = list_devices();
    CHECK(devices.size() == 2 && devices[0].usable() && !devices[1].usable());
    CHECK(devices[1].reason.find(reason) != std::string::npos);
    CHECK_THROWS(resolve_device("cuda"), "NO_DEVICE");
    CHECK_THROWS(make_cuda_backend(), "NO_DEVICE");
    CHECK(resolve_device("auto") == "cpu" && std::string(make_backend("auto", 1)->name()) == "cpu");
    s = restore.saved;
  };
  s.device_error = cudaErrorInsufficientDriver;
  s.driver = 0;
  refused("no NVIDIA driver");
  s.device_error = cudaErrorInsufficientDriver;
  s.driver = 12040;
  refused("supports CUDA 12.4, this build needs 13.0");
  s.device_error = cudaErrorNoDevice;
  refused("no CUDA-capable device");
  s.devices = 0;
  refused("shows no GPU");
  s.major = 7;
  s.minor = 5;
  refused("compute capability 7.5");
}

// Decoding records its step once and replays it; forgetting, errors and other passes between do no harm (the tokens are the CPU's, see
// cuda_generates_the_cpus_tokens, and the log-probs the trainer's, see cuda_sampler_equals_trainer_as_bits).
TEST(cuda_shim_replays_steps) {
  auto& b = cuda();
  const int64_t C = 12;
  const AttentionShape shape{1, 1, 4};
  AttentionPlan plan;
  plan.writes = {{0, 0}};
  plan.spans = {{0, 1, 0, 0}};
  plan.tables = {0};
  const Device<float> x(b, Floats(C, 0.f)), y(b, Floats(C, 1.f));
  auto step = [&](int64_t key) {  // x += y
    if (b.repeat(plan, shape, {key})) return;
    b.add(x, y, C);
    b.end_repeat();
  };
  auto value = [&] { return x.get()[5]; };
  int64_t before = shim::graph_launches();
  for (int i = 1; i <= 5; ++i) {
    step(1);
    CHECK(value() == static_cast<float>(i));
  }
  CHECK(shim::graph_launches() - before == 4);  // all but the first
  step(2);                                      // another step forgets it
  step(1);
  CHECK(value() == 7 && shim::graph_launches() - before == 4);
  step(1);
  CHECK(value() == 8 && shim::graph_launches() - before == 5);
  { const DeviceBuffer moved(b, 64); }  // so does an allocation
  step(1);
  CHECK(value() == 9 && shim::graph_launches() - before == 5);
  // An error while recording: the next pass starts afresh.
  CHECK(!b.repeat(plan, shape, {1}));
  CHECK_THROWS(b.upload(x, Floats(1).data(), 4), "NO_DEVICE");
  step(1);
  CHECK(value() == 10);
  plan.spans[0].count = 2;  // not a single token: never recorded
  before = shim::graph_launches();
  for (int i = 0; i < 3; ++i) step(1);
  CHECK(value() == 13 && shim::graph_launches() == before);
}

TEST(cuda_shim_generation_decodes_by_graph) {
  Policy policy(make_cuda_backend(), small_model(), {});
  policy.initialize(3, 0.1f);
  GenerateRequest request;
  request.prompt_offsets = {0, 5};
  request.prompt_ids = {1, 2, 3, 4, 5};
  request.group_size = 2;
  request.max_new_tokens = 12;
  request.ignore_stop = true;
  const int64_t before = shim::graph_launches();
  const Completions drawn = policy.generate(request);
  CHECK(shim::graph_launches() - before >= 8);  // of eleven steps: the first goes by itself, and memory may grow once
  Batch batch;
  batch.prompt_ids = request.prompt_ids;
  batch.prompt_offsets = request.prompt_offsets;
  batch.completion_ids = drawn.ids;
  batch.completion_offsets = drawn.offsets;
  batch.group_offsets = {0, 2};
  CHECK(same_bits(policy.score(batch, {}, false).logprobs, drawn.logprobs));
}

// Each text takes its next page at another step, and none of them forgets the graph.
TEST(cuda_shim_pages_that_are_added_do_not_forget_the_graph) {
  Policy policy(make_cuda_backend(), small_model(), {});
  policy.initialize(3, 0.1f);
  GenerateRequest request;
  request.prompt_offsets = {0, 5, 13, 25, 41, 61, 85};  // 5, 8, 12, 16, 20 and 24 tokens
  request.prompt_ids = random_ints(85, 50);
  request.max_new_tokens = 30;
  request.ignore_stop = true;
  const int64_t before = shim::graph_launches();
  policy.generate(request);
  CHECK(shim::graph_launches() - before >= 26);  // of 29 steps
}
