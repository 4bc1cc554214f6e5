// See engine.h.
#include "engine.h"

#include <algorithm>
#include <cstdlib>
#include <future>

#include "../native/cpu/backend.h"
#include "addon.h"

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
    if (running_) running_->store(true);
  }
  wake_.notify_all();
  thread_.join();
  for (;;) {  // what waited is dropped, outside the lock: the end of a policy comes back as one more job
    Job job;
    std::lock_guard<std::mutex> lock(mutex_);
    if (jobs_.empty()) break;
    job = std::move(jobs_.front());
    jobs_.pop_front();
  }
  // The driver may have ended before this object, and cuBLAS does not bear to be called then: the system takes back what they hold.
  for (auto* backend : {&cuda_, &cuda_fast_})
    if (*backend) std::make_unique<std::shared_ptr<Backend>>(std::move(*backend)).release();
}

void Engine::set_threads(int threads) {
  std::lock_guard<std::mutex> lock(mutex_);
  expect(!started_ || threads == threads_, "setThreads before the first operation", "threads",
         std::to_string(threads) + " (" + std::to_string(threads_) + " are running)");
  threads_ = threads;
}

void Engine::post(std::function<void()> job, AbortFlag abort) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    started_ = true;
    jobs_.push_back({std::move(job), std::move(abort)});
  }
  wake_.notify_one();
}

std::shared_ptr<CpuBackend> Engine::backend() {
  if (!backend_) backend_ = std::make_shared<CpuBackend>(threads_);
  return backend_;
}

std::shared_ptr<Backend> Engine::backend(const std::string& device, Determinism determinism) {
  if (resolve_device(device) == "cpu") return backend();
  auto& cuda = determinism == Determinism::fast ? cuda_fast_ : cuda_;
  if (!cuda) cuda = make_backend("cuda", threads_, determinism);
  return cuda;
}

void Engine::run() {
  for (;;) {
    Job job;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [this] { return stop_ || !jobs_.empty(); });
      if (stop_) return;
      job = std::move(jobs_.front());
      jobs_.pop_front();
      running_ = job.abort;
    }
    job.work();
    std::lock_guard<std::mutex> lock(mutex_);
    running_.reset();
  }
}

Napi::Error to_js_error(Napi::Env env, const std::string& code, const std::string& message) {
  auto error = Napi::Error::New(env, message);
  error.Value().Set("code", code);
  error.Value().Set("name", "NativeError");
  return error;
}

void Operation::run() noexcept {
  try {
    work();
  } catch (const Error& error) {
    code_ = error.code();
    message_ = error.what();
  } catch (const std::bad_alloc&) {
    code_ = "OUT_OF_MEMORY";
    message_ = "Expected enough host memory, got none. Use smaller batches.";
  } catch (const std::exception& error) {
    code_ = "INTERNAL";
    message_ = error.what();
  }
}

Napi::Value Operation::settle(Napi::Env env) {
  if (!code_.empty()) throw to_js_error(env, code_, message_);
  try {
    return convert(env);
  } catch (const Napi::Error&) {
    throw;
  } catch (const std::exception& error) {
    throw to_js_error(env, "INTERNAL", error.what());
  }
}

namespace {

// An operation under way: what the engine thread hands back to the JavaScript thread.
struct Pending {
  Napi::Promise::Deferred deferred;
  std::shared_ptr<Operation> operation;
  std::function<void()> finally;
  AbortFlag abort;
};

void deliver(Napi::Env env, Napi::Function, std::nullptr_t*, Pending* raw);
using Delivery = Napi::TypedThreadSafeFunction<std::nullptr_t, Pending, deliver>;

}  // namespace

class Outlet {
 public:
  explicit Outlet(Napi::Env env) : deliver_(Delivery::New(env, "rank-grpo", 0, 1)) { deliver_.Unref(env); }
  // JavaScript thread. An environment with work under way stays alive; an idle one may end.
  void add(Napi::Env env, const AbortFlag& abort) {
    if (abort) running_.push_back(abort);
    if (pending_++ == 0) deliver_.Ref(env);
  }
  void remove(Napi::Env env, const AbortFlag& abort) {
    running_.erase(std::remove(running_.begin(), running_.end(), abort), running_.end());
    if (--pending_ == 0) deliver_.Unref(env);
  }
  void close() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      open_ = false;
    }
    for (const auto& flag : running_) flag->store(true);
  }
  // Engine thread. Node deletes the function with its environment, whoever still holds it: once closed it is not touched again.
  void send(std::unique_ptr<Pending> pending) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (open_ && deliver_.BlockingCall(pending.get()) == napi_ok) static_cast<void>(pending.release());
  }

 private:
  Delivery deliver_;
  std::mutex mutex_;
  bool open_ = true;
  int pending_ = 0;
  std::vector<AbortFlag> running_;
};

std::shared_ptr<Outlet> open_outlet(Napi::Env env) {
  auto outlet = std::make_shared<Outlet>(env);
  env.AddCleanupHook([outlet] { outlet->close(); });  // later than the function's own hook, so it runs before that one
  return outlet;
}

namespace {

void deliver(Napi::Env env, Napi::Function, std::nullptr_t*, Pending* raw) {
  const std::unique_ptr<Pending> pending(raw);
  if (!static_cast<napi_env>(env)) return;  // torn down: nobody waits any more
  env.GetInstanceData<Environment>()->outlet->remove(env, pending->abort);
  if (pending->finally) pending->finally();
  Napi::HandleScope scope(env);
  try {
    pending->deferred.Resolve(pending->operation->settle(env));
  } catch (const Napi::Error& error) {
    pending->deferred.Reject(error.Value());
  }
}

}  // namespace

Napi::Value start(Napi::Env env, std::shared_ptr<Operation> operation, std::function<void()> finally, AbortFlag abort) {
  auto pending = std::make_unique<Pending>(Pending{Napi::Promise::Deferred::New(env), std::move(operation), std::move(finally), abort});
  const Napi::Value promise = pending->deferred.Promise();
  const auto outlet = env.GetInstanceData<Environment>()->outlet;
  outlet->add(env, abort);
  Engine::instance().post(
      [pending = std::make_shared<std::unique_ptr<Pending>>(std::move(pending)), outlet] {
        (*pending)->operation->run();
        outlet->send(std::move(*pending));
      },
      abort);
  return promise;
}

void wait_for(Operation& operation) {
  std::promise<void> done;
  Engine::instance().post([&] {
    operation.run();
    done.set_value();
  });
  done.get_future().wait();
}

Napi::Value finish(Napi::Env env, std::shared_ptr<Operation> operation) {
  const auto deferred = Napi::Promise::Deferred::New(env);
  wait_for(*operation);
  try {
    deferred.Resolve(operation->settle(env));
  } catch (const Napi::Error& error) {
    deferred.Reject(error.Value());
  }
  return deferred.Promise();
}

}  // namespace rank_grpo
