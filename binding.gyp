# The second build of the addon: node-gyp over the same sources (sources.json) into build/. `npm run build:gyp` calls it offline.
{
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
    "ldflags": ["-Wl,--exclude-libs,ALL", "-pthread"]
  }]
}
