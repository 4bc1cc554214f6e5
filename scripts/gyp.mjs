// Builds the addon with node-gyp, offline: headers come from beside this node where they are, else from --nodedir or npm_config_nodedir.
// RANK_GRPO_CUDA (environment) is AUTO, ON or OFF as in CMake: AUTO (default) builds the CUDA backend where nvcc is found (CUDACXX, the PATH,
// CUDA_HOME, CUDA_PATH, /usr/local/cuda), ON makes its absence an error.
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { cpus } from "node:os";
import { dirname, join } from "node:path";

const require = createRequire(import.meta.url);
const given =
  process.argv.find((arg) => arg.startsWith("--nodedir="))?.slice("--nodedir=".length) ??
  process.env.npm_config_nodedir;
const beside = dirname(dirname(process.execPath));
// node-gyp itself fetches the headers where neither place has them
const nodedir = [given, beside].find((folder) => folder && existsSync(join(folder, "include/node/node_api.h")));

/** nvcc and its static runtime, or why not. nvcc may be a wrapper: where its toolkit lies it says itself. */
function findCuda() {
  const { CUDACXX, CUDA_HOME, CUDA_PATH } = process.env;
  const homes = [CUDA_HOME, CUDA_PATH, "/usr/local/cuda"].filter(Boolean).map((home) => join(home, "bin/nvcc"));
  for (const nvcc of CUDACXX ? [CUDACXX] : ["nvcc", ...homes]) {
    const { status, stderr } = spawnSync(nvcc, ["--dryrun", "-x", "cu", "-c", "/dev/null", "-o", "/dev/null"], {
      encoding: "utf8",
    });
    const top = /TOP=(\S+)/.exec(stderr ?? "")?.[1];
    if (status !== 0 || top === undefined) continue;
    const cudart = ["lib64", "lib", "targets/x86_64-linux/lib"]
      .map((folder) => join(top, folder, "libcudart_static.a"))
      .find((path) => existsSync(path));
    if (cudart) return { nvcc, cudart };
  }
  return undefined;
}

const wanted = process.env.RANK_GRPO_CUDA ?? "AUTO";
if (!["AUTO", "ON", "OFF"].includes(wanted)) {
  console.error(`Expected AUTO, ON or OFF for RANK_GRPO_CUDA, got ${wanted}.`);
  process.exit(1);
}
const cuda = wanted === "OFF" ? undefined : findCuda();
if (wanted === "ON" && !cuda) {
  console.error(
    "Expected an nvcc that works and libcudart_static.a beside it for RANK_GRPO_CUDA=ON, got none. Set CUDACXX to nvcc.",
  );
  process.exit(1);
}
console.log(cuda ? `CUDA: ${cuda.nvcc}, ${cuda.cudart}` : "No nvcc, or not wanted: building for the CPU alone");
const { status } = spawnSync(
  process.execPath,
  [
    require.resolve("node-gyp/bin/node-gyp.js"),
    "rebuild",
    `--jobs=${cpus().length}`,
    ...(nodedir ? [`--nodedir=${nodedir}`] : []),
    "--",
    `-Drank_grpo_nvcc=${cuda?.nvcc ?? ""}`,
    `-Drank_grpo_cudart=${cuda?.cudart ?? ""}`,
  ],
  { stdio: "inherit" },
);
process.exit(status ?? 1);
