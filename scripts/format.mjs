// Formats the C++ of native, bindings and test/native by .clang-format; with --check it only names what differs.
// The binary is the pinned npm package's, so every machine formats alike.
import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const check = process.argv.includes("--check");
const binary = createRequire(import.meta.url)("clang-format").getNativeBinary();
const files = ["native", "bindings", "test/native"].flatMap((folder) =>
  readdirSync(folder, { recursive: true })
    .filter((name) => /\.(cc|cu|cuh|h|inl)$/.test(name))
    .map((name) => join(folder, name)),
);

const different = [];
for (const file of files) {
  const { status, stdout, stderr } = spawnSync(binary, [file], { encoding: "utf8", maxBuffer: 1 << 26 });
  if (status !== 0) throw new Error(`clang-format ${file}: ${stderr}`);
  if (stdout === readFileSync(file, "utf8")) continue;
  different.push(file);
  if (!check) writeFileSync(file, stdout);
}
console.log(`${check ? "to format" : "formatted"}: ${different.length ? different.join(" ") : "nothing"}`);
process.exit(check && different.length ? 1 : 0);
