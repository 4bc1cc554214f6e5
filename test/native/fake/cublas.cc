// A stand-in for libcublas: the functions that native/cuda/cublas.cu asks for, in plain loops over columns as the documentation of cuBLAS has
// them. It checks what the real one would refuse, and counts its products.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

struct Handle {
  bool stream = false;
  void* workspace = nullptr;
};
int products = 0, handles = 0;

double element(const void* data, int type, int64_t i) {
  if (type == 0) return static_cast<double>(static_cast<const float*>(data)[i]);
  const uint32_t bits = uint32_t{static_cast<const uint16_t*>(data)[i]} << 16;
  float x;
  std::memcpy(&x, &bits, 4);
  return static_cast<double>(x);
}

constexpr int kNotInitialised = 1, kInvalid = 7;

}  // namespace

extern "C" {

int fake_products() { return products; }
int fake_handles() { return handles; }

int cublasCreate_v2(void** handle) {
  *handle = new Handle;
  ++handles;
  return 0;
}
int cublasDestroy_v2(void* handle) {
  delete static_cast<Handle*>(handle);
  --handles;
  return 0;
}
int cublasSetStream_v2(void* handle, void*) {
  *static_cast<Handle*>(handle) = {true, nullptr};  // the workspace is the library's own again
  return 0;
}
int cublasSetWorkspace_v2(void* handle, void* workspace, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(workspace) % 256 != 0 || bytes == 0) return kInvalid;
  static_cast<Handle*>(handle)->workspace = workspace;
  return 0;
}
int cublasGetProperty(int part, int* value) {
  *value = part == 0 ? 13 : part == 1 ? 2 : 5;
  return part < 0 || part > 2 ? kInvalid : 0;
}

// C [m, n] = alpha op(A) op(B) + beta C, all by columns: element (i, j) of a matrix lies at i + j * ld. op 0: as it is, 1: transposed.
int cublasGemmEx(void* handle, int op_a, int op_b, int m, int n, int k, const void* alpha, const void* A, int type_a, int ld_a,
                 const void* B, int type_b, int ld_b, const void* beta, void* C, int type_c, int ld_c, int compute, int algorithm) {
  const auto* own = static_cast<Handle*>(handle);
  if (!own || !own->stream || !own->workspace) return kNotInitialised;
  if (op_a < 0 || op_a > 1 || op_b < 0 || op_b > 1 || m < 0 || n < 0 || k < 0 || algorithm != -1) return kInvalid;
  if (type_a != type_b || (type_a != 0 && type_a != 14) || type_c != 0 || compute != 68) return kInvalid;
  if (ld_a < (op_a ? k : m) || ld_b < (op_b ? n : k) || ld_c < m) return kInvalid;
  const double a = static_cast<double>(*static_cast<const float*>(alpha)), b = static_cast<double>(*static_cast<const float*>(beta));
  ++products;
  std::vector<double> left(static_cast<size_t>(k));
  for (int i = 0; i < m; ++i) {
    for (int l = 0; l < k; ++l) left[static_cast<size_t>(l)] = element(A, type_a, op_a ? l + int64_t{i} * ld_a : i + int64_t{l} * ld_a);
    for (int j = 0; j < n; ++j) {
      double sum = 0;
      for (int l = 0; l < k; ++l)
        sum += left[static_cast<size_t>(l)] * element(B, type_b, op_b ? j + int64_t{l} * ld_b : l + int64_t{j} * ld_b);
      float& c = static_cast<float*>(C)[i + int64_t{j} * ld_c];
      c = static_cast<float>(a * sum + (b == 0 ? 0 : b * static_cast<double>(c)));  // beta 0: what lies in C is not read
    }
  }
  return 0;
}

}  // extern "C"
