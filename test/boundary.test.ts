// The native boundary under hostile calls: every exported function and method, in child processes, where a crash is a failure with the
// call's name. The calls are in fixtures/hostile.mjs, the ends of things (workers, exit, unwritable files) in fixtures/worlds.mjs.
import { execFileSync, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";

import { addon } from "../src/native.ts";

const file = (name: string): string => fileURLToPath(new URL(name, import.meta.url));
const addonPath = process.env["RANK_GRPO_ADDON"] ?? file("../build-cmake/Release/rank_grpo.node");

interface Ended {
  code: number | null;
  signal: string | null;
  lines: string[];
  errors: string;
}

/** Runs a script of fixtures/ in a folder of its own that goes afterwards. */
function child(script: string, argument: string, folder: string, prefix: string[] = []): Promise<Ended> {
  const command = [...prefix, process.execPath, "--expose-gc", file(`fixtures/${script}`), addonPath, argument];
  return new Promise((resolve, reject) => {
    const process = spawn(command[0]!, command.slice(1), { cwd: folder, stdio: ["ignore", "pipe", "pipe"] });
    const [out, errors]: Buffer[][] = [[], []];
    process.stdout.on("data", (chunk: Buffer) => out!.push(chunk));
    process.stderr.on("data", (chunk: Buffer) => errors!.push(chunk));
    process.on("error", reject);
    process.on("close", (code, signal) =>
      resolve({
        code,
        signal,
        lines: Buffer.concat(out!).toString().trim().split("\n"),
        errors: Buffer.concat(errors!).toString(),
      }),
    );
  });
}

async function inFolder<T>(work: (folder: string) => Promise<T>): Promise<T> {
  const folder = mkdtempSync(join(tmpdir(), "rank-grpo-boundary-"));
  try {
    return await work(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const { targets, callable } = JSON.parse(
  execFileSync(process.execPath, [file("fixtures/hostile.mjs"), addonPath, "list"], { encoding: "utf8" }),
) as { targets: string[]; callable: string[] };

describe.concurrent("hostile calls end in a result or a typed error", () => {
  it("reach everything that is exported", () => {
    // a measurement takes seconds whatever it is given: its two arguments are tried below
    for (const name of callable.filter((name) => !name.startsWith("bench"))) expect(targets).toContain(name);
  });
  it("refuse a measurement of nothing, or without an end", () => {
    for (const seconds of [0, -1, Number.NaN, Number.POSITIVE_INFINITY, "1"])
      expect(() => addon.benchNative("matmul", seconds as number)).toThrow(/seconds/);
    expect(() => addon.benchNative("other" as "matmul", 1)).toThrow(/matmul/);
  });
  for (const target of targets) {
    it(target, async () => {
      const ended = await inFolder((folder) => child("hostile.mjs", target, folder));
      const last = ended.lines.at(-1)!;
      expect(ended.code, `crashed (${ended.signal ?? "error"}) at: ${last}\n${ended.errors}`).toBe(0);
      const summary = JSON.parse(last) as { accepted: number; refused: number; wrong: string[] };
      expect(summary.wrong).toEqual([]);
      expect(summary.refused).toBeGreaterThan(5);
    });
  }
});

describe.concurrent("the ends of things", () => {
  const held: [string, string][] = [
    ["terminate", "workers terminated in the middle of their work"],
    ["workers", "one engine for several threads"],
    ["outlive", "work that nobody awaits"],
    ["dispose", "dispose under way"],
    ["abort", "abort under way"],
    ["detach", "arrays detached, shrunk and collected"],
    ["optimizer", "broken optimizer files"],
    ["memory", "more memory than there is"],
  ];
  for (const [scenario, title] of held) {
    it(title, async () => {
      const ended = await inFolder((folder) => child("worlds.mjs", scenario, folder));
      expect(ended.errors).toBe("");
      expect([ended.code, ended.lines.at(-1)]).toEqual([0, "held"]);
    });
  }

  it("process.exit in the middle of minutes of work", async () => {
    const ended = await inFolder((folder) => child("worlds.mjs", "exit", folder));
    expect([ended.code, ended.signal, ended.errors]).toEqual([0, null, ""]);
  });

  it("output that cannot be written, and a disk that is full", async () => {
    await inFolder(async (folder) => {
      const unwritable = await child("worlds.mjs", "unwritable", folder);
      expect(unwritable.errors).toBe("");
      expect(unwritable.lines.at(-1)).toBe("held");
      // no file may grow beyond 10 KiB: what a full disk looks like to a writer
      const full = await child("worlds.mjs", "full", folder, ["bash", "-c", 'ulimit -f 10 && exec "$@"', "bash"]);
      expect(full.errors).toBe("");
      expect(full.lines.at(-1)).toBe("held");
    });
  });
});
