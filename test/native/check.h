// A test harness in one header: TEST(name) { CHECK(...); CHECK_NEAR(a, b, tolerance); }, skips with a reason, one closing line.
#pragma once
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <string>
#include <vector>

namespace check {

struct Case {
  std::string name;
  std::function<void()> body;
};
inline std::vector<Case>& cases() {
  static std::vector<Case> list;
  return list;
}
struct Register {
  Register(std::string name, std::function<void()> body) { cases().push_back({std::move(name), std::move(body)}); }
};
struct Failure : std::exception {
  std::string text;
  explicit Failure(std::string t) : text(std::move(t)) {}
  const char* what() const noexcept override { return text.c_str(); }
};
struct Skip : Failure {
  using Failure::Failure;
};
inline void that(bool ok, const std::string& text, const char* file, int line) {
  if (!ok) throw Failure(std::string(file) + ":" + std::to_string(line) + ": " + text);
}
// Where the data beside the repository lies; a test that needs it skips, with the reason, where it is missing.
inline std::string shared(const std::string& path) {
  const char* root = std::getenv("RANK_GRPO_SHARED");
  std::string full = std::string(root ? root : "../shared") + "/" + path;
  if (FILE* f = std::fopen(full.c_str(), "rb")) {
    std::fclose(f);
    return full;
  }
  throw Skip("needs " + full);
}

}  // namespace check

#define TEST(name)                                           \
  static void name();                                        \
  static const check::Register register_##name(#name, name); \
  static void name()
#define CHECK(condition) check::that((condition), #condition, __FILE__, __LINE__)
#define CHECK_NEAR(a, b, tolerance)                                                                                                     \
  check::that(std::abs(double(a) - double(b)) <= (tolerance),                                                                           \
              std::string(#a " = ") + std::to_string(double(a)) + ", expected " + std::to_string(double(b)) + " within " +              \
                  std::to_string(double(tolerance)) + " (difference " + std::to_string(std::abs(double(a) - double(b)) * 1e9) + "e-9)", \
              __FILE__, __LINE__)
#define CHECK_THROWS(expression, wanted_code)                                                                                            \
  do {                                                                                                                                   \
    bool thrown = false;                                                                                                                 \
    try {                                                                                                                                \
      expression;                                                                                                                        \
    } catch (const rank_grpo::Error& error) {                                                                                            \
      thrown = true;                                                                                                                     \
      check::that(std::string(error.code()) == (wanted_code), std::string("code ") + error.code() + " (" + error.what() + ")", __FILE__, \
                  __LINE__);                                                                                                             \
    }                                                                                                                                    \
    check::that(thrown, #expression " did not throw", __FILE__, __LINE__);                                                               \
  } while (0)
