// What a user gets: packs the package, looks at what is in it, installs the tarball into an empty folder, and runs every sh block of
// docs/extend.md there, as written but for the install itself. Then: every entry imports and has types, an addon of another version is
// refused, and nothing in node_modules changed.
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

const run = (command, options = {}) => {
  console.log(`$ ${command.split("\n")[0]}`);
  const started = Date.now();
  const result = spawnSync("bash", ["-euo", "pipefail", "-c", command], {
    encoding: "utf8",
    maxBuffer: 1 << 28,
    ...options,
  });
  console.log(`  ${result.status === 0 ? "ok" : "FAILED"}, ${((Date.now() - started) / 1000).toFixed(1)} s`);
  return result;
};
const must = (command, options) => {
  const result = run(command, options);
  if (result.status === 0) return result.stdout;
  console.log(result.stdout, result.stderr);
  process.exit(1);
};
const check = (holds, what) => {
  console.log(`${holds ? "ok" : "FAILED"}: ${what}`);
  if (!holds) process.exit(1);
};
/** A digest of every file of a folder. */
const digest = (folder) => {
  const hash = createHash("sha256");
  for (const name of readdirSync(folder, { recursive: true }).map(String).sort()) {
    const path = join(folder, name);
    if (statSync(path).isFile()) hash.update(name).update(readFileSync(path));
  }
  return hash.digest("hex");
};

const folder = mkdtempSync(join(tmpdir(), "rank-grpo-package-"));
try {
  const tarball = resolve(folder, must(`npm pack --silent --pack-destination ${folder}`).trim().split("\n").at(-1));
  const packed = must(`tar -tf ${tarball}`).trim().split("\n");
  const { sources, cuda } = JSON.parse(readFileSync("sources.json", "utf8"));
  const needed = [
    "README.md",
    "LICENSE",
    "CMakeLists.txt",
    "binding.gyp",
    "sources.json",
    "dist/cli/main.js",
    "bench/peers/peers.py",
    "bench/peers/requirements.txt",
    ...sources,
    ...cuda,
  ];
  const missing = needed.filter((name) => !packed.includes(`package/${name}`));
  check(
    missing.length === 0,
    `the package holds what a build needs${missing.length > 0 ? `, but not ${missing}` : ""}`,
  );
  const places =
    /^package\/((dist|native|bindings)\/.*\.(js|d\.ts|cc|cu|h|inl|cmake)|bench\/peers\/[^/]+\.(py|txt)|[^/]+\.(md|json|txt|gyp)|LICENSE)$/;
  const others = packed.filter((name) => !places.test(name));
  check(others.length === 0, `and no data, weights or builds${others.length > 0 ? `, but ${others}` : ""}`);
  const project = join(folder, "project");
  const at = { cwd: must(`mkdir ${project} && echo ${project}`).trim() };
  const blocks = [...readFileSync("docs/extend.md", "utf8").matchAll(/^```sh\n([\s\S]*?)^```$/gm)].map(
    (match) => match[1],
  );
  check(blocks.length >= 7, `${blocks.length} blocks of commands in docs/extend.md`);
  let installed;
  const outputs = [];
  for (const block of blocks) {
    outputs.push(must(block.replace("npm install rank-grpo", `npm install --no-audit --no-fund ${tarball}`), at));
    installed ??= digest(join(project, "node_modules/rank-grpo"));
  }
  const all = outputs.join("");
  check(digest(join(project, "node_modules/rank-grpo")) === installed, "nothing in node_modules/rank-grpo changed");
  const shown = readFileSync("docs/extend.md", "utf8").match(/^ {2}(ok {4}(?!gradient).*)$/gm);
  for (const line of shown) check(all.includes(line), `the check says what the page shows: ${line.trim()}`);
  check(/soft-cap: -A \(1 \+ width/.test(all), "the rule is listed with its formula");
  const metrics = readFileSync(join(project, "runs/soft-cap/metrics.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
  check(metrics.filter((row) => row.step > 0).length === 10, "ten steps were trained with it");
  check(
    metrics.some((row) => row["policy/ratio_max"] > 1),
    "with ratios that differ from 1",
  );
  const config = readFileSync(join(project, "runs/soft-cap/config.yaml"), "utf8");
  check(/objective: soft-cap/.test(config), "its run names it");
  for (const name of ["mine", "soft-hits"])
    check(
      readFileSync(join(project, `runs/${name}/metrics.jsonl`), "utf8")
        .trim()
        .split("\n").length >= 2,
      `runs/${name}: own functions by name trained two steps`,
    );
  check(/finished 3/.test(all), "the objective in JavaScript trained three steps");

  // every entry, by Node and by a TypeScript compiler
  const { exports } = JSON.parse(readFileSync("package.json", "utf8"));
  const entries = Object.keys(exports).filter((entry) => !entry.endsWith(".json"));
  const imports = entries.map((entry, i) => `import * as m${i} from "rank-grpo${entry.slice(1)}";\n`).join("");
  const used = entries
    .map((_, i) => `if (Object.keys(m${i}).length === 0) throw new Error("m${i} is empty");\n`)
    .join("");
  writeFileSync(join(project, "entries.mts"), imports + used);
  const tsc = resolve("node_modules/typescript/bin/tsc");
  must(
    `node ${tsc} --module nodenext --target es2023 --strict --noEmit --types node --typeRoots ${resolve("node_modules/@types")} entries.mts`,
    at,
  );
  writeFileSync(join(project, "entries.mjs"), imports + used);
  must("node entries.mjs", at);
  check(true, `${entries.length} entries import, with types`);

  // the same addon under another version of the package
  const manifest = join(project, "node_modules/rank-grpo/package.json");
  const text = readFileSync(manifest, "utf8");
  writeFileSync(manifest, text.replace(/"version": "[^"]+"/, '"version": "99.0.0"'));
  const refused = spawnSync("npx", ["rank-grpo", "objectives"], { encoding: "utf8", ...at });
  const said = /Expected an addon of rank-grpo 99\.0\.0 in .*\.rank-grpo.*, got one of .*rank-grpo build/.test(
    refused.stderr,
  );
  check(refused.status !== 0 && said, "an addon of another version is refused in words");
  writeFileSync(manifest, text);
} finally {
  rmSync(folder, { recursive: true, force: true });
}
