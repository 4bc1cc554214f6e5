// Runs every test: the native kernel table, the CUDA kernels on the host, the TypeScript tests, and what depends on the kernels once more for
// each other instruction set; one closing line counts all.
import { execFile, spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";

/** Passed, failed and skipped of a command, whose output appears when it ends. */
const run = (command, args) =>
  new Promise((resolve) => {
    const options = { env: { ...process.env, NO_COLOR: "1" }, maxBuffer: 1 << 28 };
    execFile(command, args, options, (error, stdout, stderr) => {
      process.stdout.write(stdout);
      process.stderr.write(stderr);
      const line = [...stdout.matchAll(/^(\d+) passed, (\d+) failed, (\d+) skipped$/gm)].at(-1);
      const [passed, failed, skipped] = line ? line.slice(1).map(Number) : [0, 1, 0];
      resolve([passed, error ? Math.max(1, failed) : failed, skipped]); // a crash after the last count is a failure too
    });
  });
const step = (command, args) => {
  if (spawnSync(command, args, { stdio: "inherit" }).status !== 0) process.exit(1);
};

const totals = [0, 0, 0];
const add = (counts) => {
  for (let i = 0; i < 3; i++) totals[i] += counts[i];
};
// in the addon's build tree, so that the native code is compiled once
step("cmake", ["-S", ".", "-B", "build-cmake", "-DRANK_GRPO_TESTS=ON", "-DRANK_GRPO_CUDA_SHIM=ON"]);
step("cmake", ["--build", "build-cmake", "--parallel", "2", "--target", "native_tests", "cuda_shim_tests"]);
// Every instruction set that this machine has. The one it takes without a word is tested with one thread and two, and in all of vitest.
const flags = existsSync("/proc/cpuinfo") ? readFileSync("/proc/cpuinfo", "utf8").split(/\s+/) : [];
const has = (...names) => names.every((name) => flags.includes(name));
const avx512 = has("avx512f", "avx512bw", "avx512vl", "avx512dq");
const devices = spawnSync("node", ["dist/cli/main.js", "devices"], { encoding: "utf8" }).stdout;
const others = [
  ...(avx512 && has("avx512_bf16") ? ["avx512bf16"] : []),
  ...(avx512 ? ["avx512"] : []),
  ...(has("avx2", "fma") ? ["avx2"] : []),
  "plain",
].filter((isa) => !devices.includes(` ${isa} `));
const settings = ["RANK_GRPO_THREADS=1", "RANK_GRPO_THREADS=2", ...others.map((isa) => `RANK_GRPO_ISA=${isa}`)];
const natively = async () => {
  for (const setting of settings) add(await run("env", [setting, "build-cmake/native_tests"]));
};
// The CUDA kernels on the host, their threads in permuted order between two barriers: one core's work.
const shimmed = async () => add(await run("env", ["RANK_GRPO_SHIM_SCHEDULE=3", "build-cmake/cuda_shim_tests"]));
await Promise.all([natively(), shimmed()]);
add(await run("npx", ["vitest", "run"]));
for (const isa of others)
  add(await run("env", [`RANK_GRPO_ISA=${isa}`, "npx", "vitest", "run", "test/kernels.test.ts", "test/model.test.ts"]));
console.log(`${totals[0]} passed, ${totals[1]} failed, ${totals[2]} skipped`);
process.exit(totals[1] > 0 || totals[0] === 0 ? 1 : 0);
