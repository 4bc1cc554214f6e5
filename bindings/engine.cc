// See engine.h.
#include "engine.h"

#include <cstdlib>

#include "../native/core/device.h"
#include "../native/cpu/backend.h"

namespace rank_grpo {

Engine& Engine::instance() {
  static Engine engine;  // the one process-wide object: it guards the cores, not a program's state
  return engine;
}

Engine::Engine() : threads_(static_cast<int>(std::max(1u, std::thread::hardware_concurrency()))) {
  if (const char* text = std::getenv("RANK_GRPO_THREADS")) threads_ = std::min(256, std::max(1, std::atoi(text)));
  thread_ = std::thread([this] { run(); });
}

Engine::~Engine() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
    jobs_.clear();
  }
  wake_.notify_all();
  thread_.join();
}

void Engine::set_threads(int threads) {
  std::lock_guard<std::mutex> lock(mutex_);
  expect(!started_ || threads == threads_, "setThreads before the first operation", "threads",
         std::to_string(threads) + " (" + std::to_string(threads_) + " are running)");
  threads_ = threads;
}

void Engine::post(std::function<void()> job) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    started_ = true;
    jobs_.push_back(std::move(job));
  }
  wake_.notify_one();
}

std::shared_ptr<CpuBackend> Engine::backend() {
  if (!backend_) backend_ = std::make_shared<CpuBackend>(threads_);
  return backend_;
}

std::shared_ptr<Backend> Engine::backend(const std::string& device) {
  if (resolve_device(device) == "cpu") return backend();
  if (!cuda_) cuda_ = make_backend("cuda", threads_);
  return cuda_;
}

void Engine::run() {
  for (;;) {
    std::function<void()> job;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [this] { return stop_ || !jobs_.empty(); });
      if (stop_) return;
      job = std::move(jobs_.front());
      jobs_.pop_front();
    }
    job();
  }
}

Napi::Error to_js_error(Napi::Env env, const std::string& code, const std::string& message) {
  auto error = Napi::Error::New(env, message);
  error.Value().Set("code", code);
  error.Value().Set("name", "NativeError");
  return error;
}

}  // namespace rank_grpo
