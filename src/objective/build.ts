// `rank-grpo build`: compiles the addon from the package's own sources into a folder of the user's project, with rules from a folder of
// headers among its own. Nothing inside node_modules changes; src/native.ts finds the result.
import { spawn, spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { copyFile, mkdir, readFile, rename, rm } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { join, resolve } from "node:path";

import { RankGrpoError } from "../errors.ts";
import { asIoError, writeFileAtomic } from "../files.ts";
import { ADDON_FILE, type NativeRule, PROJECT_FOLDER } from "../native.ts";
import { extraRules, packageRoot, readHeaders } from "./headers.ts";
import { findCompiler } from "./probe.ts";
import { projectTypes } from "./types.ts";

export interface BuildOptions {
  /** Folder of rule headers; none: the package's rules alone. */
  objectives?: string;
  /** Where the addon goes. Default: .rank-grpo in the working directory, where it is found by itself. */
  output?: string;
  /** Compilers at a time. Default: the machine's threads. */
  jobs?: number;
  /** Told what happens, a line at a time. */
  onLine?: (line: string) => void;
}

export interface BuildResult {
  /** The addon's file. */
  addon: string;
  /** Every rule it holds. */
  rules: NativeRule[];
  /** Names of the rules that came from `objectives`. */
  added: string[];
}

/**
 * Builds the addon. A second build compiles only what changed.
 * @throws NO_DEVICE without cmake or a compiler; BAD_DATA where a header is no rule or does not compile; IO
 */
export async function buildAddon(options: BuildOptions = {}): Promise<BuildResult> {
  const output = resolve(options.output ?? PROJECT_FOLDER);
  const headers = options.objectives === undefined ? [] : readHeaders(options.objectives);
  findCompiler();
  if (spawnSync("cmake", ["--version"], { stdio: "ignore" }).status !== 0) {
    throw new RankGrpoError(
      "NO_DEVICE",
      "Expected cmake 3.18 or newer, got none. Install it (apt install cmake, brew install cmake).",
    );
  }
  const work = join(output, "build");
  const arguments_ = [
    "-S",
    packageRoot,
    "-B",
    work,
    "-DCMAKE_BUILD_TYPE=Release",
    `-DCMAKE_LIBRARY_OUTPUT_DIRECTORY=${work}`,
  ];
  const extra = join(output, "extra_rules.h");
  try {
    await mkdir(output, { recursive: true });
    if (headers.length > 0) {
      const text = extraRules(headers);
      if ((await readFile(extra, "utf8").catch(() => "")) !== text) await writeFileAtomic(extra, text);
    }
  } catch (error) {
    throw asIoError(error, output);
  }
  await run("cmake", [...arguments_, `-DRANK_GRPO_EXTRA_RULES=${headers.length > 0 ? extra : ""}`], options.onLine);
  const jobs = String(options.jobs ?? availableParallelism());
  await run("cmake", ["--build", work, "--parallel", jobs, "--target", "rank_grpo"], options.onLine);

  const addon = join(output, ADDON_FILE);
  const temporary = `${addon}.tmp-${randomBytes(4).toString("hex")}`;
  try {
    const rules = inspect(join(work, ADDON_FILE));
    const missing = headers.find((header) => !rules.some((rule) => rule.name === header.name));
    if (missing)
      throw new RankGrpoError(
        "BAD_DATA",
        `Expected rule ${missing.name} in the addon, got it without. Its header is ${missing.path}.`,
      );
    await copyFile(join(work, ADDON_FILE), temporary);
    await rename(temporary, addon);
    const added = headers.map((header) => header.name);
    const own = rules.filter((rule) => added.includes(rule.name));
    await writeFileAtomic(join(output, "objectives.d.ts"), projectTypes(own));
    return { addon, rules, added };
  } catch (error) {
    await rm(temporary, { force: true });
    throw asIoError(error, addon);
  }
}

/** What an addon holds, asked in a process of its own: one that cannot be loaded must not take this one along. */
function inspect(path: string): NativeRule[] {
  // Infinity has no JSON
  const program =
    "console.log(JSON.stringify(require(process.argv[1]).objectiveList(), (_, v) => Math.abs(v) === Infinity ? String(v) : v))";
  const child = spawnSync(process.execPath, ["-e", program, path], { encoding: "utf8" });
  if (child.status !== 0)
    throw new RankGrpoError("NO_DEVICE", `Expected an addon that loads, got:\n${child.stderr.trim()}`);
  return JSON.parse(child.stdout, (_, v: unknown) =>
    v === "Infinity" || v === "-Infinity" ? Number(v) : v,
  ) as NativeRule[];
}

async function run(command: string, arguments_: readonly string[], onLine: BuildOptions["onLine"]): Promise<void> {
  const child = spawn(command, arguments_, { stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  let rest = "";
  const listen = (text: string): void => {
    output += text;
    const lines = (rest + text).split("\n");
    rest = lines.pop()!;
    for (const line of lines) onLine?.(line);
  };
  child.stdout.setEncoding("utf8").on("data", listen);
  child.stderr.setEncoding("utf8").on("data", listen);
  const status = await new Promise<number | null>((done, fail) => child.on("close", done).on("error", fail));
  if (status === 0) return;
  const errors = output.split("\n").filter((line) => /error/i.test(line));
  const shown = (errors.length > 0 ? errors : output.split("\n")).slice(0, 20).join("\n");
  throw new RankGrpoError("BAD_DATA", `Expected ${command} to build the addon, got:\n${shown.trim()}`);
}
