// Block formats of ggml (ggml-quants.c documents the layouts), each from its own description: scales first, then bits.
#include "dequantize.h"

#include <cmath>
#include <cstring>

#include "../core/error.h"

namespace rank_grpo {
namespace {

float half(const unsigned char* p) {
  const uint32_t h = p[0] | static_cast<uint32_t>(p[1]) << 8;
  const uint32_t sign = (h & 0x8000u) << 16, exponent = h >> 10 & 31, mantissa = h & 1023;
  if (exponent == 0) {
    const float value = std::ldexp(static_cast<float>(mantissa), -24);
    return sign ? -value : value;
  }
  const uint32_t bits = sign | (exponent == 31 ? 0x7f800000u | mantissa << 13 : (exponent + 112) << 23 | mantissa << 13);
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

float bf16(const unsigned char* p) {
  const uint32_t bits = static_cast<uint32_t>(p[0]) << 16 | static_cast<uint32_t>(p[1]) << 24;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

void q8_0(const unsigned char* b, float* y) {
  const float d = half(b);
  for (int i = 0; i < 32; ++i) y[i] = static_cast<float>(static_cast<int8_t>(b[2 + i])) * d;
}
void q4_0(const unsigned char* b, float* y) {
  const float d = half(b);
  for (int i = 0; i < 16; ++i) {
    y[i] = static_cast<float>((b[2 + i] & 15) - 8) * d;
    y[i + 16] = static_cast<float>((b[2 + i] >> 4) - 8) * d;
  }
}
void q4_1(const unsigned char* b, float* y) {
  const float d = half(b), m = half(b + 2);
  for (int i = 0; i < 16; ++i) {
    y[i] = static_cast<float>(b[4 + i] & 15) * d + m;
    y[i + 16] = static_cast<float>(b[4 + i] >> 4) * d + m;
  }
}
uint32_t word(const unsigned char* p) {
  uint32_t w;
  std::memcpy(&w, p, 4);
  return w;
}
void q5_0(const unsigned char* b, float* y) {
  const float d = half(b);
  const uint32_t high = word(b + 2);
  for (int i = 0; i < 16; ++i) {
    y[i] = static_cast<float>(static_cast<int>((b[6 + i] & 15u) | (high >> i & 1) << 4) - 16) * d;
    y[i + 16] = static_cast<float>(static_cast<int>((b[6 + i] >> 4) | (high >> (i + 16) & 1) << 4) - 16) * d;
  }
}
void q5_1(const unsigned char* b, float* y) {
  const float d = half(b), m = half(b + 2);
  const uint32_t high = word(b + 4);
  for (int i = 0; i < 16; ++i) {
    y[i] = static_cast<float>((b[8 + i] & 15u) | (high >> i & 1) << 4) * d + m;
    y[i + 16] = static_cast<float>((b[8 + i] >> 4) | (high >> (i + 16) & 1) << 4) * d + m;
  }
}

// 256 values: 16 scales and minima of 4 bits, 64 bytes of 2-bit values, d, dmin
void q2_k(const unsigned char* b, float* y) {
  const unsigned char *scales = b, *q = b + 16;
  const float d = half(b + 80), dmin = half(b + 82);
  for (int i = 0; i < 256; ++i) {
    const int part = i / 128, shift = i % 128 / 32 * 2, group = i / 16;
    const int v = q[part * 32 + i % 32] >> shift & 3;
    y[i] = d * static_cast<float>(scales[group] & 15) * static_cast<float>(v) - dmin * static_cast<float>(scales[group] >> 4);
  }
}

// 256 values: 32 bytes of third bits, 64 bytes of 2-bit values, 12 bytes of sixteen 6-bit scales, d
void q3_k(const unsigned char* b, float* y) {
  const unsigned char *mask = b, *q = b + 32, *s = b + 96;
  const float d = half(b + 108);
  for (int i = 0; i < 256; ++i) {
    const int part = i / 128, step = i % 128 / 32, group = i / 16;
    const int low = group < 8 ? s[group] & 15 : s[group - 8] >> 4, high = s[8 + group % 4] >> (group / 4 * 2) & 3;
    const int scale = (low | high << 4) - 32;
    const int v = (q[part * 32 + i % 32] >> (step * 2) & 3) - (mask[i % 32] >> (part * 4 + step) & 1 ? 0 : 4);
    y[i] = d * static_cast<float>(scale) * static_cast<float>(v);
  }
}

// The eight 6-bit scales and minima that q4_k and q5_k share, in 12 bytes
void scale_min(const unsigned char* s, int j, int& scale, int& min) {
  if (j < 4) {
    scale = s[j] & 63;
    min = s[j + 4] & 63;
  } else {
    scale = (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
    min = s[j + 4] >> 4 | (s[j] >> 6) << 4;
  }
}
void q45_k(const unsigned char* b, float* y, bool five) {
  const float d = half(b), dmin = half(b + 2);
  const unsigned char *high = b + 16, *q = five ? b + 48 : b + 16;
  for (int i = 0; i < 256; ++i) {
    const int group = i / 32;
    int scale, min;
    scale_min(b + 4, group, scale, min);
    int v = q[i / 64 * 32 + i % 32] >> (group % 2 * 4) & 15;
    if (five) v += (high[i % 32] >> group & 1) << 4;
    y[i] = d * static_cast<float>(scale) * static_cast<float>(v) - dmin * static_cast<float>(min);
  }
}
void q4_k(const unsigned char* b, float* y) { q45_k(b, y, false); }
void q5_k(const unsigned char* b, float* y) { q45_k(b, y, true); }

// 256 values: 128 bytes of low 4 bits, 64 bytes of high 2 bits, 16 signed scales, d
void q6_k(const unsigned char* b, float* y) {
  const unsigned char *low = b, *high = b + 128, *scales = b + 192;
  const float d = half(b + 208);
  for (int i = 0; i < 256; ++i) {
    const int part = i / 128, at = i % 128, step = at / 32;
    const int l = low[part * 64 + at % 64] >> (at / 64 * 4) & 15, h = high[part * 32 + at % 32] >> (step * 2) & 3;
    y[i] = d * static_cast<float>(static_cast<int8_t>(scales[i / 16])) * static_cast<float>((l | h << 4) - 32);
  }
}

}  // namespace

const StorageInfo& storage_info(Storage storage) {
  static const StorageInfo infos[] = {{"F32", 1, 4},      {"F16", 1, 2},      {"BF16", 1, 2},    {"Q8_0", 32, 34},  {"Q4_0", 32, 18},
                                      {"Q4_1", 32, 20},   {"Q5_0", 32, 22},   {"Q5_1", 32, 24},  {"Q2_K", 256, 84}, {"Q3_K", 256, 110},
                                      {"Q4_K", 256, 144}, {"Q5_K", 256, 176}, {"Q6_K", 256, 210}};
  return infos[static_cast<int>(storage)];
}

void dequantize(Storage storage, const unsigned char* data, int64_t count, float* out) {
  switch (storage) {
    case Storage::f32: std::memcpy(out, data, static_cast<size_t>(count) * 4); return;
    case Storage::f16:
      for (int64_t i = 0; i < count; ++i) out[i] = half(data + 2 * i);
      return;
    case Storage::bf16:
      for (int64_t i = 0; i < count; ++i) out[i] = bf16(data + 2 * i);
      return;
    default: break;
  }
  static constexpr void (*blocks[])(const unsigned char*, float*) = {q8_0, q4_0, q4_1, q5_0, q5_1, q2_k, q3_k, q4_k, q5_k, q6_k};
  const auto& info = storage_info(storage);
  const auto block = blocks[static_cast<int>(storage) - static_cast<int>(Storage::q8_0)];
  for (int64_t i = 0; i < count / info.block; ++i) block(data + i * info.bytes, out + i * info.block);
}

uint16_t to_bf16(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  if (x != x) return static_cast<uint16_t>(u >> 16 | 64);
  return static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

}  // namespace rank_grpo
