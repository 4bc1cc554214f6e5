// The one exception type of the native core. The bindings turn `code` into the `.code` of a JavaScript error.
#pragma once
#include <stdexcept>
#include <string>
#include <utility>

namespace rank_grpo {

// Codes are part of the public interface (docs/native.md lists them):
//   INVALID_ARGUMENT  a value, shape, index or option that cannot be used
//   BAD_CHECKPOINT    a file that is not what it says it is
//   IO                the operating system refused a read or a write
//   OUT_OF_MEMORY     an allocation failed; the message says how much was asked and which option lowers it
//   ABORTED           the caller's AbortSignal fired; weights are as before the call
//   NO_DEVICE         the device cannot be used; the message says why
//   NOT_FINITE        a loss, gradient or weight is NaN or infinite
//   WRONG_RESULT      a benchmark's result is not that of its reference
class Error : public std::runtime_error {
 public:
  Error(const char* code, const std::string& message) : std::runtime_error(message), code_(code) {}
  const char* code() const noexcept { return code_; }

 private:
  const char* code_;  // always a string literal
};

[[noreturn]] inline void fail(const char* code, const std::string& message) { throw Error(code, message); }

// Text of every argument error: "Expected {what} for {name}, got {value}."
inline void expect(bool condition, const std::string& what, const std::string& name, const std::string& value) {
  if (!condition) fail("INVALID_ARGUMENT", "Expected " + what + " for " + name + ", got " + value + ".");
}

}  // namespace rank_grpo
