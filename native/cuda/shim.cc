// See shim.h.
#include "shim.h"

#include <malloc.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <iterator>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "../core/error.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define SHIM_ASAN 1
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

struct ShimGraph {
  std::vector<std::function<void()>> steps;
};

namespace shim {
namespace {

constexpr size_t kStack = size_t{128} << 10;
constexpr int kWarpLanes = 32;

#if defined(__x86_64__)
using Context = void*;  // the saved stack pointer
extern "C" void rank_grpo_shim_switch(void** save, void* load);
asm(R"(
.text
.globl rank_grpo_shim_switch
.type rank_grpo_shim_switch,@function
rank_grpo_shim_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size rank_grpo_shim_switch,.-rank_grpo_shim_switch
)");
void switch_context(Context& from, Context& to) { rank_grpo_shim_switch(&from, to); }
void make_context(Context& context, char* stack, void (*entry)()) {
  void** top = reinterpret_cast<void**>(stack + kStack);
  *--top = nullptr;                         // keeps the stack aligned at entry
  *--top = reinterpret_cast<void*>(entry);  // what `ret` jumps to
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  context = top;
}
#else
using Context = ucontext_t;
void switch_context(Context& from, Context& to) { swapcontext(&from, &to); }
void make_context(Context& context, char* stack, void (*entry)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = kStack;
  context.uc_link = nullptr;
  makecontext(&context, entry, 0);
}
#endif

struct Free {
  void operator()(void* p) const { std::free(p); }
};
using Memory = std::unique_ptr<char, Free>;

struct Fiber {
  Context context{};
  Memory stack{static_cast<char*>(std::aligned_alloc(64, kStack))};
  dim3 thread;
  Wait state = Wait::done;
  unsigned mask = 0;
  bool parity = false;  // which of the two slots the exchange at hand uses: one barrier an exchange is enough
  alignas(16) char slots[2][32]{};
  void* fake_stack = nullptr;
};

class Scheduler {
 public:
  void run(const char* name, dim3 grid, dim3 block, size_t dynamic_bytes, const std::function<void()>& body) {
    name_ = name;
    body_ = &body;
    count_ = block.x * block.y * block.z;
    if (count_ == 0 || count_ > 1024) rank_grpo::fail("INTERNAL", name_ + ": a block has 1 to 1024 threads");
    if (grid.y > 65535 || grid.z > 65535) rank_grpo::fail("INTERNAL", name_ + ": grid.y and grid.z are at most 65535");
    while (fibers_.size() < count_) fibers_.push_back(std::make_unique<Fiber>());
    unsigned i = 0;
    for (unsigned z = 0; z < block.z; ++z)
      for (unsigned y = 0; y < block.y; ++y)
        for (unsigned x = 0; x < block.x; ++x) fibers_[i++]->thread = dim3(x, y, z);
    gridDim = grid;
    blockDim = block;
    for (unsigned z = 0; z < grid.z; ++z)
      for (unsigned y = 0; y < grid.y; ++y)
        for (unsigned x = 0; x < grid.x; ++x) {
          blockIdx = dim3(x, y, z);
          arrays_.clear();
          dynamic_ = poisoned(dynamic_bytes);
          run_block();
        }
    arrays_.clear();
    dynamic_.reset();
  }

  void wait(Wait kind, unsigned mask) {
    Fiber& fiber = *fibers_[current_];
    fiber.state = kind;
    fiber.mask = mask;
    to_scheduler();
  }
  int lane() const { return static_cast<int>(current_ % kWarpLanes); }
  void* slot(int lane, bool next) {
    if (next) fibers_[current_]->parity = !fibers_[current_]->parity;
    const size_t other = current_ / kWarpLanes * kWarpLanes + static_cast<size_t>(lane);
    if (other >= count_) return fibers_[current_]->slots[fibers_[current_]->parity];  // beyond the block: own value
    return fibers_[other]->slots[fibers_[current_]->parity];
  }
  int block_or(int predicate) {
    Fiber& fiber = *fibers_[current_];
    fiber.parity = !fiber.parity;
    const bool parity = fiber.parity;
    std::memcpy(fiber.slots[parity], &predicate, sizeof predicate);
    wait(Wait::block, 0);
    int any = 0;
    for (unsigned i = 0; i < count_; ++i) {
      int other;
      std::memcpy(&other, fibers_[i]->slots[parity], sizeof other);
      any |= other != 0;
    }
    wait(Wait::block, 0);
    return any;
  }
  void* array(int key, size_t bytes) {
    auto& memory = arrays_[key];
    if (!memory) memory = poisoned(bytes);
    return memory.get();
  }
  unsigned char* dynamic() { return reinterpret_cast<unsigned char*>(dynamic_.get()); }
  // On a fiber, which is then abandoned with all that lies on its stack: the scheduler throws.
  [[noreturn]] void report_absent(int lane) {
    failure_ = "shuffle from lane " + std::to_string(lane) + ", which is not in the mask (thread " + std::to_string(current_) + ")";
    for (;;) to_scheduler();
  }

 private:
  static Memory poisoned(size_t bytes) {
    if (bytes == 0) return nullptr;
    void* p = nullptr;
    if (posix_memalign(&p, 16, bytes) != 0) throw std::bad_alloc();
    std::memset(p, 0xff, bytes);  // NaN as a float
    return Memory(static_cast<char*>(p));
  }
  static void entry();

  void to_scheduler() {
    [[maybe_unused]] Fiber& fiber = *fibers_[current_];
#ifdef SHIM_ASAN
    __sanitizer_start_switch_fiber(fiber.state == Wait::done ? nullptr : &fiber.fake_stack, own_bottom_, own_size_);
#endif
    switch_context(fiber.context, own_);
#ifdef SHIM_ASAN
    __sanitizer_finish_switch_fiber(fiber.fake_stack, &own_bottom_, &own_size_);
#endif
  }
  void resume(unsigned i) {
    current_ = i;
    Fiber& fiber = *fibers_[i];
    threadIdx = fiber.thread;
#ifdef SHIM_ASAN
    __sanitizer_start_switch_fiber(&own_fake_stack_, fiber.stack.get(), kStack);
#endif
    switch_context(own_, fiber.context);
#ifdef SHIM_ASAN
    __sanitizer_finish_switch_fiber(own_fake_stack_, nullptr, nullptr);
#endif
    if (!failure_.empty()) stop(failure_);
  }
  [[noreturn]] void stop(std::string what) {
    failure_.clear();
    for (auto& fiber : fibers_) {
#ifdef SHIM_ASAN
      __asan_unpoison_memory_region(fiber->stack.get(), kStack);  // its frames are abandoned
#endif
      fiber->state = Wait::done;
    }
    rank_grpo::fail("INTERNAL", name_ + ", block " + std::to_string(blockIdx.x) + "," + std::to_string(blockIdx.y) + ": " + what);
  }

  void run_block() {
    std::vector<unsigned> order(count_);
    for (unsigned i = 0; i < count_; ++i) {
      order[i] = i;
      Fiber& fiber = *fibers_[i];
      make_context(fiber.context, fiber.stack.get(), &Scheduler::entry);
      fiber.state = Wait::ready;
      fiber.parity = false;
    }
    uint64_t random = settings().schedule * 0x9E3779B97F4A7C15ull + 1;
    for (;;) {
      if (settings().schedule)
        for (unsigned i = count_ - 1; i > 0; --i) {
          random ^= random << 13;
          random ^= random >> 7;
          random ^= random << 17;
          std::swap(order[i], order[random % (i + 1)]);
        }
      bool progress = false;
      for (unsigned i : order)
        if (fibers_[i]->state == Wait::ready) {
          resume(i);
          progress = true;
        }
      unsigned done = 0, at_barrier = 0;
      for (unsigned first = 0; first < count_; first += kWarpLanes)
        progress |= release_warp(first, std::min<unsigned>(count_, first + kWarpLanes));
      for (unsigned i = 0; i < count_; ++i) {
        done += fibers_[i]->state == Wait::done;
        at_barrier += fibers_[i]->state == Wait::block;
      }
      if (done == count_) return;
      if (at_barrier > 0 && at_barrier + done == count_) {
        if (done > 0) stop("__syncthreads() after some threads of the block have returned");
        for (unsigned i = 0; i < count_; ++i) fibers_[i]->state = Wait::ready;
        progress = true;
      }
      if (!progress) stop("divergent __syncthreads() or warp operation: some threads wait for others that never come");
    }
  }

  // Lets the lanes of a warp go on where all that they wait for are there.
  bool release_warp(unsigned first, unsigned last) {
    unsigned waiting = 0, wanted = 0;
    Wait kind = Wait::ready;
    for (unsigned i = first; i < last; ++i) {
      const Wait state = fibers_[i]->state;
      if (state != Wait::shuffle && state != Wait::warp && state != Wait::mma) continue;
      if (waiting && state != kind) stop("lanes of one warp wait in different warp operations");
      kind = state;
      waiting |= 1u << (i - first);
      wanted |= fibers_[i]->mask;
    }
    if (!waiting) return false;
    const unsigned existing = last - first == kWarpLanes ? 0xffffffffu : (1u << (last - first)) - 1;
    if ((wanted & existing) != waiting) return false;
    for (unsigned i = first; i < last; ++i)
      if (waiting >> (i - first) & 1) fibers_[i]->state = Wait::ready;
    return true;
  }

  std::string name_, failure_;
  const std::function<void()>* body_ = nullptr;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  unsigned count_ = 0, current_ = 0;
  std::map<int, Memory> arrays_;
  Memory dynamic_;
  Context own_{};
  [[maybe_unused]] void* own_fake_stack_ = nullptr;
  [[maybe_unused]] const void* own_bottom_ = nullptr;
  [[maybe_unused]] size_t own_size_ = 0;
};

// Test-only state of the one thread that launches.
Scheduler& scheduler() {
  static Scheduler instance;
  return instance;
}
struct Counters {
  size_t allocated = 0;
  int64_t launches = 0, graph_launches = 0;
  std::unique_ptr<ShimGraph> recording;  // of the one stream
  std::map<uintptr_t, size_t> blocks;    // of cudaMalloc, by address
  std::set<void*> pinned;                // of cudaHostRegister
  // Whether a range of memory lies in one block.
  bool on_device(const void* pointer, size_t bytes) const {
    const auto at = reinterpret_cast<uintptr_t>(pointer);
    const auto next = blocks.upper_bound(at);
    if (next == blocks.begin()) return false;
    const auto& [start, size] = *std::prev(next);
    return at + bytes <= start + size;
  }
};
Counters& counters() {
  static Counters& instance = *new Counters;  // for good: what tests hold in statics is freed after it would be
  return instance;
}

void Scheduler::entry() {
  Scheduler& s = scheduler();
#ifdef SHIM_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &s.own_bottom_, &s.own_size_);
#endif
  (*s.body_)();
  s.fibers_[s.current_]->state = Wait::done;
  s.to_scheduler();
  std::abort();  // a finished fiber is never resumed
}

}  // namespace

Settings& settings() {
  static Settings instance = [] {
    Settings initial;
    if (const char* schedule = std::getenv("RANK_GRPO_SHIM_SCHEDULE")) initial.schedule = static_cast<unsigned>(std::atoi(schedule));
    return initial;
  }();
  return instance;
}
size_t allocated_bytes() { return counters().allocated; }
size_t pinned_blocks() { return counters().pinned.size(); }
int64_t launches() { return counters().launches; }
int64_t graph_launches() { return counters().graph_launches; }
// Runs now, or with the graph that is being recorded.
static void enqueue(std::function<void()> work) {
  if (counters().recording) {
    counters().recording->steps.push_back(std::move(work));
  } else {
    work();
  }
}
void launch(cudaStream_t, const char* name, dim3 grid, dim3 block, size_t shared, const std::function<void()>& body) {
  enqueue([=] {
    ++counters().launches;
    scheduler().run(name, grid, block, shared, body);
  });
}
void* shared_array(int key, size_t bytes) { return scheduler().array(key, bytes); }
unsigned char* dynamic_shared() { return scheduler().dynamic(); }
void wait(Wait kind, unsigned mask) { scheduler().wait(kind, mask); }
int lane() { return scheduler().lane(); }
void* exchange_slot(int lane, bool next) { return scheduler().slot(lane, next); }
int block_or(int predicate) { return scheduler().block_or(predicate); }
void require_lane(unsigned mask, int lane) {
  if (!(mask >> lane & 1)) scheduler().report_absent(lane);
}

}  // namespace shim

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  auto& c = shim::counters();
  if (c.recording) return cudaErrorStreamCaptureUnsupported;
  if (bytes > shim::settings().memory_limit - std::min(shim::settings().memory_limit, c.allocated)) return cudaErrorMemoryAllocation;
  if (posix_memalign(pointer, 256, std::max<size_t>(bytes, 1)) != 0) return cudaErrorMemoryAllocation;
  std::memset(*pointer, 0xff, bytes);
  c.allocated += malloc_usable_size(*pointer);
  c.blocks[reinterpret_cast<uintptr_t>(*pointer)] = bytes;
  return cudaSuccess;
}
cudaError_t cudaFree(void* pointer) {
  shim::counters().allocated -= malloc_usable_size(pointer);
  shim::counters().blocks.erase(reinterpret_cast<uintptr_t>(pointer));
  std::free(pointer);
  return cudaSuccess;
}
cudaError_t cudaHostRegister(void* pointer, size_t, unsigned) {
  if (!shim::settings().pinned) return cudaErrorMemoryAllocation;
  return shim::counters().pinned.insert(pointer).second ? cudaSuccess : cudaErrorInvalidValue;
}
cudaError_t cudaHostUnregister(void* pointer) { return shim::counters().pinned.erase(pointer) ? cudaSuccess : cudaErrorInvalidValue; }
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t) {
  const auto& c = shim::counters();
  if (c.recording && kind != cudaMemcpyDeviceToDevice) return cudaErrorStreamCaptureUnsupported;
  if (bytes && (c.on_device(to, bytes) != (kind != cudaMemcpyDeviceToHost) || c.on_device(from, bytes) != (kind != cudaMemcpyHostToDevice)))
    return cudaErrorInvalidValue;
  shim::enqueue([=] {
    if (bytes) std::memcpy(to, from, bytes);
  });
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* pointer, int value, size_t bytes, cudaStream_t) {
  shim::enqueue([=] {
    if (bytes) std::memset(pointer, value, bytes);
  });
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *total = shim::settings().memory_limit;
  *free = *total - std::min(*total, shim::allocated_bytes());
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = nullptr;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return shim::counters().recording ? cudaErrorStreamCaptureUnsupported : cudaSuccess; }
cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
  auto& c = shim::counters();
  if (c.recording) return cudaErrorStreamCaptureUnsupported;
  c.recording = std::make_unique<ShimGraph>();
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
  *graph = shim::counters().recording.release();
  return *graph ? cudaSuccess : cudaErrorInvalidValue;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = std::make_unique<ShimGraph>(*graph).release();
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t) {
  ++shim::counters().graph_launches;
  for (const auto& step : executable->steps) step();
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* count) {
  *count = shim::settings().device_error == cudaSuccess ? shim::settings().devices : 0;
  return shim::settings().device_error;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {};
  std::strcpy(properties->name, "host shim");
  properties->totalGlobalMem = shim::settings().memory_limit;
  properties->major = shim::settings().major;
  properties->minor = shim::settings().minor;
  properties->multiProcessorCount = 1;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = shim::settings().driver;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaGetLastError() { return cudaSuccess; }
const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInsufficientDriver: return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    default: return "error";
  }
}
