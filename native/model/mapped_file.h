// A file mapped read-only, and the temporary-then-rename way of writing one.
#pragma once
#include <cstdio>
#include <string>
#include <string_view>

namespace rank_grpo {

class MappedFile {
 public:
  explicit MappedFile(const std::string& path);  // IO where it cannot be read
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  const std::string& path() const { return path_; }
  const unsigned char* data() const { return static_cast<const unsigned char*>(data_); }
  size_t size() const { return size_; }
  std::string_view text() const { return {static_cast<const char*>(data_), size_}; }

 private:
  std::string path_;
  void* data_ = nullptr;
  size_t size_ = 0;
};

// Writes beside `path` under a temporary name; commit() syncs and renames; a destroyed, uncommitted one leaves nothing.
class AtomicFile {
 public:
  explicit AtomicFile(const std::string& path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  void write(const void* data, size_t bytes);
  void commit();

 private:
  [[noreturn]] void refuse(const char* what);
  std::string path_, temporary_;
  std::FILE* file_ = nullptr;
};

}  // namespace rank_grpo
