// The native code under sanitizers: `npm run test:sanitize [address] [addon] [thread] [odr]`, all four by default.
//   address  address, undefined-behaviour and leak sanitizers over the native tests and the CUDA kernels on the host
//   addon    the same over the addon under node, called wrongly in every way and ended in the middle (test/fixtures)
//   thread   the thread sanitizer over the pool and a small policy: node itself cannot run under it
//   odr      all sources linked with -flto -Wodr: two types of one name in two files call each other's destructors, and nothing else says so
// `quick`, for CI: the address part with those CUDA tests that take less than a minute there (all kernels are in them).
import { execFile, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";

const asked = process.argv.slice(2);
const wanted = (name) => asked.length === 0 || asked.includes(name);
const totals = [0, 0, 0]; // passed, failed, skipped
const record = (label, ok, detail = "") => {
  totals[ok ? 0 : 1]++;
  if (!ok) console.log(`FAIL  ${label}\n${detail}`);
};

const run = (command, args, options = {}) =>
  spawnSync(command, args, { encoding: "utf8", maxBuffer: 1 << 28, ...options });
const must = (command, args) => {
  const { status, stdout, stderr } = run(command, args);
  if (status === 0) return stdout;
  console.log(stdout, stderr);
  throw new Error(`${command} ${args.join(" ")}: exit code ${status}`);
};
const build = (folder, sanitizers, more, targets) => {
  const flags = ["-DRANK_GRPO_TESTS=ON", "-DRANK_GRPO_CUDA=OFF", `-DRANK_GRPO_SANITIZE=${sanitizers}`, ...more];
  must("cmake", ["-S", ".", "-B", folder, ...flags]);
  must("cmake", ["--build", folder, "--parallel", "2", "--target", ...targets]);
};
const nativeTests = (program, filter, env) =>
  new Promise((resolve) => {
    const settings = { maxBuffer: 1 << 28, env: { ...process.env, ...options, ...env } };
    execFile(program, filter ? [filter] : [], settings, (error, stdout, stderr) => {
      const line = /^(\d+) passed, (\d+) failed, (\d+) skipped$/m.exec(stdout);
      if (!error && line) for (let i = 0; i < 3; i++) totals[i] += Number(line[i + 1]);
      else record(`${program} ${filter}`, false, stdout + stderr);
      console.log(`${program} ${filter}: ${line?.[0] ?? "no count"}`);
      resolve();
    });
  });

const options = {
  ASAN_OPTIONS: "detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1:allocator_may_return_null=1",
  UBSAN_OPTIONS: "print_stacktrace=1:halt_on_error=1",
  TSAN_OPTIONS: "halt_on_error=1:second_deadlock_stack=1",
};
const address = (targets) =>
  build("build-asan", "address,undefined", ["-DRANK_GRPO_CUDA_SHIM=ON", "-DRANK_GRPO_ADDON=ON"], targets);

// The native tests, which take longest, and those CUDA tests whose names hold one of the filters: two at a time, in their order.
const addressTests = async (filters) => {
  address(["native_tests", "cuda_shim_tests"]);
  const tests = [
    ["build-asan/native_tests", "", {}],
    ...filters.map((filter) => ["build-asan/cuda_shim_tests", filter, { RANK_GRPO_SHIM_SCHEDULE: "3" }]),
  ].values();
  const next = async () => {
    for (const test of tests) await nativeTests(...test);
  };
  await Promise.all([next(), next()]);
};

if (asked.includes("quick")) {
  const long = ["rl_steps", "generates", "linear_rows"]; // before the short ones: a core that ends early waits for the other
  const short = ["memory", "pointwise", "scatter", "strided", "logits", "objective", "optimizer", "shim", "attention_"];
  await addressTests([...long, ...short].map((name) => `cuda_${name}`));
}

if (wanted("address")) {
  await addressTests([""]);
}

if (wanted("addon")) {
  address(["rank_grpo"]);
  // node is not built with the sanitizer: its runtime comes first by LD_PRELOAD
  const addon = resolve("build-asan/rank_grpo.node");
  const preload = must("g++", ["-print-file-name=libasan.so"]).trim();
  const script = (name, args, more = {}) => {
    const folder = mkdtempSync(join(tmpdir(), "rank-grpo-sanitize-"));
    const path = resolve("test/fixtures", name);
    const env = { ...process.env, ...options, LD_PRELOAD: preload, ...more };
    const result = run(process.execPath, ["--expose-gc", path, addon, ...args], { env, cwd: folder });
    rmSync(folder, { recursive: true, force: true });
    return result;
  };
  const { targets } = JSON.parse(script("hostile.mjs", ["list"]).stdout);
  for (const target of targets) {
    const { status, stdout, stderr } = script("hostile.mjs", [target]);
    const last = stdout.trim().split("\n").at(-1);
    record(`hostile calls of ${target}`, status === 0 && last.endsWith('"wrong":[]}'), `${last}\n${stderr}`);
  }
  // Node frees a promise's deferred when it is settled, which an ended worker's cannot be: 8 bytes a call that was under way.
  const suppressions = join(mkdtempSync(join(tmpdir(), "rank-grpo-sanitize-")), "leaks");
  writeFileSync(suppressions, "leak:napi_create_promise\n");
  const scenarios = {
    terminate: { LSAN_OPTIONS: `suppressions=${suppressions}:print_suppressions=0` },
    exit: { ASAN_OPTIONS: `${options.ASAN_OPTIONS}:detect_leaks=0` }, // V8 leaves its heap at process.exit
    ...Object.fromEntries(
      ["workers", "outlive", "dispose", "abort", "detach", "unwritable", "optimizer", "memory"].map((name) => [
        name,
        {},
      ]),
    ),
  };
  for (const [scenario, more] of Object.entries(scenarios)) {
    const { status, signal, stdout, stderr } = script("worlds.mjs", [scenario], more);
    const held = scenario === "exit" || stdout.trim().split("\n").at(-1) === "held";
    record(scenario, status === 0 && held, `${status ?? signal}\n${stdout}\n${stderr.slice(0, 20_000)}`);
  }
  rmSync(dirname(suppressions), { recursive: true });
  console.log(`addon: ${targets.length} functions called wrongly, ${Object.keys(scenarios).length} ends`);
}

if (wanted("thread")) {
  build("build-tsan", "thread", ["-DRANK_GRPO_ADDON=OFF"], ["native_tests"]);
  for (const filter of ["pool", "policy_"])
    await nativeTests("build-tsan/native_tests", filter, { RANK_GRPO_THREADS: "4" });
}

if (wanted("odr")) {
  const require = createRequire(import.meta.url);
  const includes = ["native", require("node-addon-api").include_dir, require("node-api-headers").include_dir];
  const { sources } = JSON.parse(readFileSync("sources.json", "utf8"));
  const flags = [
    "-std=gnu++17",
    "-O1",
    "-fPIC",
    "-flto=2",
    "-Wodr",
    "-Werror=odr",
    ...includes.map((folder) => `-I${folder}`),
  ];
  const defines = ["-DNAPI_VERSION=8", '-DRANK_GRPO_VERSION="0"'];
  const out = join(tmpdir(), `rank-grpo-odr-${process.pid}.so`);
  const { status, stderr } = run("g++", [...flags, ...defines, "-shared", ...sources, "-o", out]);
  rmSync(out, { force: true });
  record("one definition of every type", status === 0, stderr);
}

console.log(`${totals[0]} passed, ${totals[1]} failed, ${totals[2]} skipped`);
process.exit(totals[1] > 0 || totals[0] === 0 ? 1 : 0);
