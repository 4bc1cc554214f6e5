// See host.h.
#include "host.h"

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <string>

namespace rank_grpo {
namespace {

size_t number_in(const std::string& path) {  // 0 where there is none
  std::ifstream file(path);
  size_t value = 0;
  return file >> value ? value : 0;
}
size_t line_of(const std::string& path, const std::string& wanted) {  // "key value ..." lines; 0 where there is none
  std::ifstream file(path);
  std::string key, rest;
  for (size_t value; file >> key >> value; std::getline(file, rest))
    if (key == wanted) return value;
  return 0;
}

// What a container's limit leaves: cached files count as used there, but they give way.
size_t left_of_limit(size_t limit, size_t used, size_t cached) { return limit - std::min(limit, used - std::min(used, cached)); }

}  // namespace

size_t free_host_bytes() {
  size_t available = SIZE_MAX;
  if (const size_t kib = line_of("/proc/meminfo", "MemAvailable:")) available = kib * 1024;
  const std::string v2 = "/sys/fs/cgroup/", v1 = "/sys/fs/cgroup/memory/";
  if (const size_t limit = number_in(v2 + "memory.max"))
    available =
        std::min(available, left_of_limit(limit, number_in(v2 + "memory.current"),
                                          line_of(v2 + "memory.stat", "active_file") + line_of(v2 + "memory.stat", "inactive_file")));
  if (const size_t limit = number_in(v1 + "memory.limit_in_bytes"))
    available = std::min(
        available, left_of_limit(limit, number_in(v1 + "memory.usage_in_bytes"),
                                 line_of(v1 + "memory.stat", "total_active_file") + line_of(v1 + "memory.stat", "total_inactive_file")));
  return available;
}

}  // namespace rank_grpo
