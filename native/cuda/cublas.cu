// See cublas.h. Names, signatures and numbers are those of cublas_v2.h and library_types.h of CUDA 12 and 13.
#include "cublas.h"

#include <dlfcn.h>

#include <cstdlib>
#include <utility>

namespace rank_grpo {
namespace {

constexpr int kOpN = 0, kOpT = 1;
constexpr int kRealF32 = 0, kRealBf16 = 14;  // cudaDataType
constexpr int kComputeF32 = 68;              // CUBLAS_COMPUTE_32F
constexpr int kGemmDefault = -1;
constexpr int kAllocationFailed = 3;

void check_cublas(int status, const char* what) {
  if (status == 0) return;
  fail(status == kAllocationFailed ? "OUT_OF_MEMORY" : "NO_DEVICE",
       std::string("Expected cuBLAS to finish ") + what + ", got status " + std::to_string(status) + ". Use determinism: exact.");
}

}  // namespace

struct Cublas::Functions {
  void* library = nullptr;
  int (*create)(void**);
  int (*destroy)(void*);
  int (*set_stream)(void*, cudaStream_t);
  int (*set_workspace)(void*, void*, size_t);
  int (*get_property)(int, int*);
  int (*gemm)(void*, int, int, int, int, int, const void*, const void*, int, int, const void*, int, int, const void*, void*, int, int, int,
              int);
  Functions() = default;
  Functions(const Functions&) = delete;
  Functions& operator=(const Functions&) = delete;
  ~Functions() {
    if (library) dlclose(library);
  }
};

std::unique_ptr<Cublas> Cublas::open(std::string& reason) {
  int runtime = 0;
  check(cudaRuntimeGetVersion(&runtime), "asking for the runtime's version");
  const char* chosen = std::getenv("RANK_GRPO_CUBLAS");
  const std::string name = chosen && *chosen ? chosen : "libcublas.so." + std::to_string(runtime / 1000);
  auto functions = std::make_unique<Functions>();
  // Once loaded it stays: what it registered with the driver and for the process's end must not lie in memory that is gone.
  functions->library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (!functions->library) {
    const char* why = dlerror();
    reason = why ? why : "cannot open " + name;
    return nullptr;
  }
  const auto find = [&](auto& function, const char* symbol) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(functions->library, symbol));
    if (!function && reason.empty()) reason = name + " has no " + symbol;
  };
  reason.clear();
  find(functions->create, "cublasCreate_v2");
  find(functions->destroy, "cublasDestroy_v2");
  find(functions->set_stream, "cublasSetStream_v2");
  find(functions->set_workspace, "cublasSetWorkspace_v2");
  find(functions->get_property, "cublasGetProperty");
  find(functions->gemm, "cublasGemmEx");
  if (!reason.empty()) return nullptr;
  return std::unique_ptr<Cublas>(new Cublas(std::move(functions)));
}

Cublas::Cublas(std::unique_ptr<Functions> functions) : functions_(std::move(functions)) {}

Cublas::~Cublas() {
  if (handle_) functions_->destroy(handle_);
}

std::string Cublas::version() const {
  std::string text;
  for (int part = 0; part < 3; ++part) {  // MAJOR_VERSION, MINOR_VERSION, PATCH_LEVEL
    int number = 0;
    check_cublas(functions_->get_property(part, &number), "naming its version");
    text += (part ? "." : "") + std::to_string(number);
  }
  return text;
}

void Cublas::attach(cudaStream_t stream, void* workspace, size_t bytes) {
  check_cublas(functions_->create(&handle_), "its setup");
  check_cublas(functions_->set_stream(handle_, stream), "taking a stream");  // before the workspace: it takes that away
  check_cublas(functions_->set_workspace(handle_, workspace, bytes), "taking a workspace");
}

// cuBLAS counts by columns: what is C [M, N] by rows it sees as [N, M], so that b is its first factor and a its second. A factor whose k lies
// contiguous is [k, row] to it.
void Cublas::multiply(float* C, const Factor& a, const Factor& b, int64_t M, int64_t N, int64_t K, bool accumulate) {
  const float one = 1, add = accumulate ? 1 : 0;
  const int type = a.type == Compute::bf16 ? kRealBf16 : kRealF32;
  check_cublas(functions_->gemm(handle_, b.depth_contiguous ? kOpT : kOpN, a.depth_contiguous ? kOpN : kOpT, static_cast<int>(N),
                                static_cast<int>(M), static_cast<int>(K), &one, b.data, type, static_cast<int>(b.stride), a.data, type,
                                static_cast<int>(a.stride), &add, C, kRealF32, static_cast<int>(N), kComputeF32, kGemmDefault),
               "a product");
}

}  // namespace rank_grpo
