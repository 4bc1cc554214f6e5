// Storage types of weights and their conversion to f32.
#pragma once
#include <cstdint>
#include <string>

namespace rank_grpo {

enum class Storage { f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q2_k, q3_k, q4_k, q5_k, q6_k };

struct StorageInfo {
  const char* name;
  int block;  // values of a block
  int bytes;  // bytes of a block
};
const StorageInfo& storage_info(Storage storage);

// `count` values (a multiple of the block) from `data`.
void dequantize(Storage storage, const unsigned char* data, int64_t count, float* out);

uint16_t to_bf16(float x);  // nearest, ties to even; NaN stays NaN

}  // namespace rank_grpo
