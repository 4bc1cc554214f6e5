// What the host has left of its memory.
#pragma once
#include <cstddef>

namespace rank_grpo {

// Bytes that the machine has left, or the container (both layouts of cgroups) where that is less; SIZE_MAX where the system does not tell.
size_t free_host_bytes();

}  // namespace rank_grpo
