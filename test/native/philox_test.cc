// Philox4x32-10 against the known answers of its authors (Random123, kat_vectors).
#include "../../native/core/philox.h"

#include "check.h"

TEST(philox_known_answers) {
  struct Case {
    uint32_t counter[4];
    uint64_t key;
    uint32_t wanted[4];
  };
  const Case cases[] = {
      {{0, 0, 0, 0}, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, ~uint64_t{0}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      // digits of pi
      {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0x299f31d0a4093822, {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
  };
  for (const Case& c : cases) {
    const auto got = rank_grpo::philox(c.key, c.counter[0], c.counter[1], c.counter[2], c.counter[3]);
    for (int i = 0; i < 4; ++i) CHECK(got.x[i] == c.wanted[i]);
  }
}

TEST(philox_uniform_range) {
  CHECK(rank_grpo::uniform(0) == 0.f);
  CHECK(rank_grpo::uniform(0xffffffffu) < 1.f);
  CHECK(rank_grpo::uniform(0x80000000u) == 0.5f);
}
