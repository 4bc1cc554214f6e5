// Arrays one after the other, each with its count before it and padded to 8 bytes: the same bytes in memory and in a mapped file.
#pragma once
#include <cstdint>
#include <cstring>
#include <vector>

#include "../core/error.h"

namespace rank_grpo {

// A view of an array inside the bytes; their owner outlives it.
template <class T>
struct FlatArray {
  const T* data = nullptr;
  int64_t count = 0;
  const T& operator[](int64_t i) const { return data[i]; }
  const T* begin() const { return data; }
  const T* end() const { return data + count; }
};

class FlatWriter {
 public:
  template <class T>
  void put(const std::vector<T>& values) {
    put(values.data(), values.size());
  }
  template <class T>
  void put(const T* values, size_t size) {
    const int64_t count = static_cast<int64_t>(size);
    const size_t at = bytes.size(), length = size * sizeof(T);
    bytes.resize(at + sizeof count + (length + 7) / 8 * 8, 0);
    std::memcpy(bytes.data() + at, &count, sizeof count);
    if (length) std::memcpy(bytes.data() + at + sizeof count, values, length);
  }
  std::vector<char> bytes;
};

class FlatReader {
 public:
  FlatReader(const char* begin, size_t bytes) : at_(begin), end_(begin + bytes) {}
  // BAD_CHECKPOINT where the bytes end before the array does.
  template <class T>
  FlatArray<T> take() {
    int64_t count = 0;
    const size_t left = static_cast<size_t>(end_ - at_);
    if (left >= sizeof count) std::memcpy(&count, at_, sizeof count);
    const bool fits = left >= sizeof count && count >= 0 && static_cast<uint64_t>(count) <= (left - sizeof count) / sizeof(T);
    const size_t length = fits ? (static_cast<size_t>(count) * sizeof(T) + 7) / 8 * 8 : 0;
    if (!fits || length > left - sizeof count)
      fail("BAD_CHECKPOINT", "Expected an array of " + std::to_string(count) + " values, got " + std::to_string(left) + " bytes.");
    FlatArray<T> array{reinterpret_cast<const T*>(at_ + sizeof count), count};
    at_ += sizeof count + length;
    return array;
  }

 private:
  const char *at_, *end_;
};

}  // namespace rank_grpo
