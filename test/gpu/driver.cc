// One program for a bare machine with a GPU, no Node: compares whole models with the CPU, checks exactness as bits, and times what a
// training run does. `check.sh` builds and calls it; on the host shim it runs at small sizes, so that it is right before it meets a GPU.
//
//   gpu_driver parity | exact | bench [--small] [--json FILE] [--model FOLDER] [--peer FOLDER]
//
// Every line of FILE is one JSON object: {"name": ..., "value": ..., "unit": ..., ...}.
#include <cstdio>
#include <cstring>
#include <string>

#include "core/error.h"
#include "driver.h"

using namespace driver;

int main(int argc, char** argv) {
  Options options;
  const std::string command = argc > 1 ? argv[1] : "";
  for (int i = 2; i < argc; ++i) {
    if (!std::strcmp(argv[i], "--small")) options.small = true;
    if (!std::strcmp(argv[i], "--json") && i + 1 < argc) options.json = argv[++i];
    if (!std::strcmp(argv[i], "--model") && i + 1 < argc) options.model = argv[++i];
    if (!std::strcmp(argv[i], "--peer") && i + 1 < argc) options.peer = argv[++i];
  }
  try {
    for (const auto& device : list_devices())
      std::printf("%s: %s\n", device.device.c_str(), device.usable() ? (device.name.empty() ? "usable" : device.name.c_str()) : device.reason.c_str());
    bool ok = false;
    if (command == "parity") {
      ok = parity(options);
    } else if (command == "exact") {
      ok = exact(options);
    } else if (command == "bench") {
      ok = bench(options);
    } else {
      std::fprintf(stderr, "Expected parity, exact or bench, got \"%s\".\n", command.c_str());
      return 2;
    }
    return ok ? 0 : 1;
  } catch (const Error& error) {
    std::fprintf(stderr, "%s: %s\n", error.code(), error.what());
    return 1;
  }
}
