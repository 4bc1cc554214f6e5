// The engine thread: one for the process, since the machine's cores are. It runs jobs one after the other, so kernels of two
// policies, or of two worker threads, never fight for the pool.
#pragma once
#include <napi.h>

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "../native/core/backend.h"
#include "../native/core/error.h"

namespace rank_grpo {

class CpuBackend;

class Engine {
 public:
  static Engine& instance();
  void set_threads(int threads);  // before the first job; INVALID_ARGUMENT later
  int threads() const { return threads_; }
  void post(std::function<void()> job);
  // On the engine thread. Made at first use and kept: policies of one device share its scratch memory.
  std::shared_ptr<CpuBackend> backend();                        // the host's
  std::shared_ptr<Backend> backend(const std::string& device);  // "cpu", "cuda" or "auto"; NO_DEVICE where it cannot be used

 private:
  Engine();
  ~Engine();
  void run();
  int threads_;
  bool stop_ = false, started_ = false;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> jobs_;
  std::shared_ptr<CpuBackend> backend_;
  std::shared_ptr<Backend> cuda_;
  std::thread thread_;
};

Napi::Error to_js_error(Napi::Env env, const std::string& code, const std::string& message);

// Runs `work` on the engine thread and settles a promise with what `convert` makes of its result on the JavaScript thread.
// `finally` runs there too, before the promise settles, whatever happened.
template <class Result>
Napi::Value run_async(Napi::Env env, std::function<Result()> work, std::function<Napi::Value(Napi::Env, Result&)> convert,
                      std::function<void()> finally = {}) {
  struct Job {
    explicit Job(Napi::Env e) : deferred(Napi::Promise::Deferred::New(e)) {}
    Napi::Promise::Deferred deferred;
    Result result{};
    std::string code, message;
    std::function<Napi::Value(Napi::Env, Result&)> convert;
    std::function<void()> finally;
  };
  auto job = std::make_shared<Job>(env);
  job->convert = std::move(convert);
  job->finally = std::move(finally);
  auto done = Napi::ThreadSafeFunction::New(env, Napi::Function::New(env, [](const Napi::CallbackInfo&) {}), "rank-grpo", 0, 1);
  Engine::instance().post([job, done, work = std::move(work)]() mutable {
    try {
      job->result = work();
    } catch (const Error& error) {
      job->code = error.code();
      job->message = error.what();
    } catch (const std::bad_alloc&) {
      job->code = "OUT_OF_MEMORY";
      job->message = "Expected enough host memory, got none. Use smaller batches.";
    } catch (const std::exception& error) {
      job->code = "INTERNAL";
      job->message = error.what();
    }
    work = nullptr;
    // Where the environment is being torn down the call is refused, and the job goes with its last owner.
    done.BlockingCall([job](Napi::Env env, Napi::Function) {
      if (job->finally) job->finally();
      Napi::HandleScope scope(env);
      if (!job->code.empty()) {
        job->deferred.Reject(to_js_error(env, job->code, job->message).Value());
        return;
      }
      try {
        job->deferred.Resolve(job->convert(env, job->result));
      } catch (const Napi::Error& error) {
        job->deferred.Reject(error.Value());
      }
    });
    done.Release();
  });
  return job->deferred.Promise();
}

}  // namespace rank_grpo
