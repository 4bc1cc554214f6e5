// Compiles every CUDA source for sm_80 and sm_90 (and PTX of sm_90), without a GPU. nvcc is CUDACXX where that is set; else the pinned
// packages from PyPI, in a virtual environment under build-cuda/nvcc (about 0.9 GB, once). `--where` prints nvcc's path and stops.
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { basename, join, resolve } from "node:path";

// All five: nvcc alone would pull a newer nvvm, whose PTX its own ptxas refuses.
const packages = [
  "nvidia-cuda-nvcc==13.0.88",
  "nvidia-nvvm==13.0.88",
  "nvidia-cuda-crt==13.0.88",
  "nvidia-cuda-runtime==13.0.96",
  "nvidia-cuda-cccl==13.0.85",
];

const run = (command, args) => {
  const { status, error } = spawnSync(command, args, { stdio: ["ignore", "inherit", "inherit"] });
  if (status !== 0) throw new Error(`${command} ${args.join(" ")}: ${error?.message ?? `exit code ${status}`}`);
};

function findNvcc() {
  if (process.env["CUDACXX"]) return process.env["CUDACXX"];
  const environment = resolve("build-cuda/nvcc");
  const lib = join(environment, "lib");
  const find = () =>
    existsSync(lib)
      ? readdirSync(lib)
          .map((python) => join(lib, python, "site-packages/nvidia/cu13/bin/nvcc"))
          .find((path) => existsSync(path))
      : undefined;
  if (!find()) {
    mkdirSync("build-cuda", { recursive: true });
    run("python3", ["-m", "venv", environment]);
    run(join(environment, "bin/pip"), ["install", "--quiet", "--disable-pip-version-check", ...packages]);
  }
  const nvcc = find();
  if (!nvcc) throw new Error(`Expected nvcc below ${lib}, got none. Delete ${environment} and try again.`);
  return nvcc;
}

const nvcc = findNvcc();
if (process.argv.includes("--where")) {
  console.log(nvcc);
  process.exit(0);
}

const sources = JSON.parse(readFileSync("sources.json", "utf8")).cuda;
const objects = resolve("build-cuda/objects");
mkdirSync(objects, { recursive: true });
const flags = [
  ["-std=c++17", "-O3", "--fmad=false", "-Inative", "-Werror=all-warnings", "-Xcompiler=-Wall,-ffp-contract=off,-fPIC"],
  ["-gencode=arch=compute_80,code=sm_80", "-gencode=arch=compute_90,code=[sm_90,compute_90]", "-Xptxas=-v"],
].flat();

// Registers and spills of each kernel as ptxas reports them: a spill is worth a look, not an error.
function compile(source) {
  const started = Date.now();
  return new Promise((done) => {
    const child = spawn(nvcc, [...flags, "-c", source, "-o", join(objects, `${basename(source, ".cu")}.o`)]);
    let text = "";
    for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk) => (text += chunk));
    child.on("error", (error) => (text += error.message));
    child.on("close", (status) => {
      const registers = [...text.matchAll(/Used (\d+) registers/g)].map((m) => Number(m[1]));
      const spills = [...text.matchAll(/(\d+) bytes spill stores/g)].filter((m) => m[1] !== "0").length;
      const seconds = ((Date.now() - started) / 1000).toFixed(1);
      if (status !== 0) console.error(text);
      console.log(
        status === 0
          ? `ok    ${source}: ${registers.length} kernels (two architectures), at most ${Math.max(0, ...registers)} registers, ${spills} with spills, ${seconds} s`
          : `FAIL  ${source}`,
      );
      done(status === 0);
    });
  });
}

let passed = 0;
const queue = [...sources];
await Promise.all(
  [0, 1].map(async () => {
    for (let source = queue.shift(); source; source = queue.shift()) if (await compile(source)) passed++;
  }),
);
console.log(`${passed} passed, ${sources.length - passed} failed, 0 skipped`);
process.exit(passed === sources.length ? 0 : 1);
