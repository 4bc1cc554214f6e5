# The second build of the addon: node-gyp over the same sources (sources.json) into build/. `npm run build:gyp` calls it offline, and
# says whether CUDA is in it: rank_grpo_nvcc is the compiler's path, or "" for the CPU alone (scripts/gyp.mjs).
{
  "variables": {"rank_grpo_nvcc%": "", "rank_grpo_cudart%": ""},
  "targets": [{
    "target_name": "rank_grpo",
    "sources": ["<!@(node -p \"require('./sources.json').sources.join(' ')\")"],
    "include_dirs": ["native", "<!(node -p \"require('node-addon-api').include_dir\")"],
    "defines": [
      "NAPI_VERSION=8", "NODE_ADDON_API_CPP_EXCEPTIONS", "NODE_ADDON_API_CPP_EXCEPTIONS_ALL", "NODE_ADDON_API_DISABLE_DEPRECATED", "NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS",
      "RANK_GRPO_VERSION=\"<!(node -p \"require('./package.json').version\")\""
    ],
    "cflags!": ["-O2", "-Wno-unused-parameter"],
    "cflags_cc!": ["-fno-exceptions", "-fno-rtti", "-std=gnu++17", "-std=gnu++20", "-fno-strict-aliasing"],
    "cflags_cc": ["-std=gnu++17", "-fexceptions", "-frtti", "-O3", "-ffp-contract=off", "-Wall", "-Wextra", "-pthread"],
    "ldflags": ["-Wl,--exclude-libs,ALL", "-pthread"],
    "conditions": [["rank_grpo_nvcc!=''", {
      "sources": ["<!@(node -p \"require('./sources.json').cuda.join(' ')\")"],
      "defines": ["RANK_GRPO_CUDA"],
      "libraries": ["<(rank_grpo_cudart)", "-lrt", "-ldl", "-lpthread"],
      "rules": [{
        "rule_name": "nvcc",
        "extension": "cu",
        "inputs": ["<!@(node -p \"fs.readdirSync('native/cuda').filter((name) => name.endsWith('.h')).map((name) => 'native/cuda/' + name).join(' ')\")"],
        "outputs": ["<(INTERMEDIATE_DIR)/<(RULE_INPUT_ROOT)_cuda.o"],
        "process_outputs_as_sources": 1,
        "message": "nvcc <(RULE_INPUT_PATH)",
        "action": [
          "<(rank_grpo_nvcc)", "-std=c++17", "-O3", "--fmad=false", "-Inative", "-DRANK_GRPO_CUDA", "-Xcompiler=-Wall,-ffp-contract=off,-fPIC",
          "-gencode=arch=compute_80,code=sm_80", "-gencode=arch=compute_90,code=[sm_90,compute_90]", "-c", "<(RULE_INPUT_PATH)", "-o", "<@(_outputs)"
        ]
      }]
    }]]
  }]
}
