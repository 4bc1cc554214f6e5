// See mapped_file.h.
#include "mapped_file.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../core/error.h"

namespace rank_grpo {

MappedFile::MappedFile(const std::string& path) : path_(path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a pipe must be refused below, not waited for
  if (fd < 0) fail("IO", "Expected a readable file at " + path + ", got: " + std::strerror(errno) + ".");
  struct stat info {};
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    close(fd);
    fail("IO", "Expected a file at " + path + ", got something else.");
  }
  size_ = static_cast<size_t>(info.st_size);
  if (size_ > 0) {
    data_ = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0);
    const int error = errno;
    close(fd);
    if (data_ == MAP_FAILED) {
      data_ = nullptr;
      fail("IO", "Expected to map " + path + ", got: " + std::strerror(error) + ".");
    }
  } else {
    close(fd);
  }
}

MappedFile::~MappedFile() {
  if (data_) munmap(data_, size_);
}

AtomicFile::AtomicFile(const std::string& path) : path_(path), temporary_(path + ".tmp-" + std::to_string(getpid())) {
  file_ = std::fopen(temporary_.c_str(), "wb");
  if (!file_) refuse("opening");
}

AtomicFile::~AtomicFile() {
  if (!file_) return;
  std::fclose(file_);
  unlink(temporary_.c_str());
}

void AtomicFile::refuse(const char* what) {
  fail("IO", std::string("Expected to write ") + path_ + ", got while " + what + ": " + std::strerror(errno) + ".");
}

void AtomicFile::write(const void* data, size_t bytes) {
  if (bytes && std::fwrite(data, 1, bytes, file_) != bytes) refuse("writing");
}

void AtomicFile::commit() {
  if (std::fflush(file_) != 0 || fsync(fileno(file_)) != 0) refuse("syncing");
  if (std::rename(temporary_.c_str(), path_.c_str()) != 0) refuse("renaming");
  std::fclose(file_);
  file_ = nullptr;
}

}  // namespace rank_grpo
