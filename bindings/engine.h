// The engine thread: one for the process, since the machine's cores are. It runs jobs one after the other, so kernels of two
// policies, or of two worker threads, never fight for the pool.
#pragma once
#include <napi.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "../native/core/backend.h"
#include "../native/core/device.h"
#include "../native/core/error.h"

namespace rank_grpo {

class CpuBackend;

using AbortFlag = std::shared_ptr<std::atomic<bool>>;

class Engine {
 public:
  static Engine& instance();
  void set_threads(int threads);  // before the first job; INVALID_ARGUMENT later
  int threads() const { return threads_; }
  // `abort` (may be null) is set where the process ends while the job runs: exit() waits for the engine thread.
  void post(std::function<void()> job, AbortFlag abort = {});
  // On the engine thread. Made at first use and kept: policies of one device share its scratch memory.
  std::shared_ptr<CpuBackend> backend();  // the host's
  // "cpu", "cuda" or "auto"; NO_DEVICE where it cannot be used
  std::shared_ptr<Backend> backend(const std::string& device, Determinism determinism = Determinism::exact);

 private:
  struct Job {
    std::function<void()> work;
    AbortFlag abort;
  };
  Engine();
  ~Engine();
  void run();
  int threads_;
  bool stop_ = false, started_ = false;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Job> jobs_;
  AbortFlag running_;
  std::shared_ptr<CpuBackend> backend_;
  std::shared_ptr<Backend> cuda_, cuda_fast_;
  std::thread thread_;
};

Napi::Error to_js_error(Napi::Env env, const std::string& code, const std::string& message);

// Work for the engine thread, and what becomes of it on the JavaScript thread.
class Operation {
 public:
  virtual ~Operation() = default;
  void run() noexcept;                // engine thread: work(), or the error it ended in
  Napi::Value settle(Napi::Env env);  // JavaScript thread: the result; throws Napi::Error

 protected:
  virtual void work() = 0;
  virtual Napi::Value convert(Napi::Env env) = 0;

 private:
  std::string code_, message_;
};

template <class Result>
class OperationOf final : public Operation {
 public:
  OperationOf(std::function<Result()> work, std::function<Napi::Value(Napi::Env, Result&)> convert)
      : work_(std::move(work)), convert_(std::move(convert)) {}

 private:
  void work() override {
    const auto work = std::move(work_);  // what it holds goes on the engine thread
    result_ = work();
  }
  Napi::Value convert(Napi::Env env) override { return convert_(env, result_); }
  std::function<Result()> work_;
  std::function<Napi::Value(Napi::Env, Result&)> convert_;
  Result result_{};
};

// The way back to one JavaScript environment: one thread-safe function, and the operations that are under way.
class Outlet;
std::shared_ptr<Outlet> open_outlet(Napi::Env env);

// A promise for the operation. `finally` runs on the JavaScript thread before the promise settles, whatever happened; where the
// environment is torn down first, neither it nor the result is looked at again. `abort` stops the operation there.
Napi::Value start(Napi::Env env, std::shared_ptr<Operation> operation, std::function<void()> finally = {}, AbortFlag abort = {});

template <class Result>
Napi::Value run_async(Napi::Env env, std::function<Result()> work, std::function<Napi::Value(Napi::Env, Result&)> convert,
                      std::function<void()> finally = {}, AbortFlag abort = {}) {
  return start(env, std::make_shared<OperationOf<Result>>(std::move(work), std::move(convert)), std::move(finally), std::move(abort));
}

// The same while the calling thread waits, for work on the caller's own arrays: JavaScript could detach or shrink them, and so free
// what the engine reads, but not while it stands still. The promise has settled when this returns.
Napi::Value finish(Napi::Env env, std::shared_ptr<Operation> operation);
void wait_for(Operation& operation);  // runs it on the engine thread; what it gave is still to be settled

template <class Result>
Napi::Value run_waiting(Napi::Env env, std::function<Result()> work, std::function<Napi::Value(Napi::Env, Result&)> convert) {
  return finish(env, std::make_shared<OperationOf<Result>>(std::move(work), std::move(convert)));
}

// The same without a promise: the result itself, or an exception.
template <class Result>
Napi::Value run_at_once(Napi::Env env, std::function<Result()> work, std::function<Napi::Value(Napi::Env, Result&)> convert) {
  OperationOf<Result> operation(std::move(work), std::move(convert));
  wait_for(operation);
  return operation.settle(env);
}

}  // namespace rank_grpo
