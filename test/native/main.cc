// Runs every TEST of the binary (or those whose name contains the first argument), names those that take seconds, and prints one closing line.
#include <chrono>

#include "check.h"

int main(int argc, char** argv) {
  int passed = 0, failed = 0, skipped = 0;
  for (const auto& test : check::cases()) {
    if (argc > 1 && test.name.find(argv[1]) == std::string::npos) continue;
    const auto start = std::chrono::steady_clock::now();
    try {
      test.body();
      ++passed;
    } catch (const check::Skip& skip) {
      ++skipped;
      std::printf("skip  %s: %s\n", test.name.c_str(), skip.what());
    } catch (const std::exception& error) {
      ++failed;
      std::printf("FAIL  %s: %s\n", test.name.c_str(), error.what());
    }
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (seconds > 2) std::printf("%5.1f s  %s\n", seconds, test.name.c_str());
  }
  std::printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
  return failed ? 1 : 0;
}
