// Compiles native/objectives/probe.cc with a user's rule headers and asks it for values and gradients, point by point.
import { type ChildProcessWithoutNullStreams, spawn, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { RankGrpoError } from "../errors.ts";
import type { NativeRule } from "../native.ts";
import { extraRules, packageRoot, type RuleHeader } from "./headers.ts";

/** A rule at one token alone in its segment: the gradient by dual numbers, and by central differences that hold what the rule stops. */
export interface Point {
  value: number;
  /** dL/ds, s the log-ratio. */
  ds: number;
  /** dL/dlogp of the token's own log-prob. */
  dl: number;
  numericDs: number;
  numericDl: number;
  /** 0, or 1 below, 2 above the range, 4 above a cap. */
  clipped: number;
}

/** The C++ compiler: CXX, or the first of c++, g++, clang++ that runs. @throws NO_DEVICE */
export function findCompiler(): string {
  const given = process.env["CXX"];
  for (const compiler of given ? [given] : ["c++", "g++", "clang++"]) {
    if (spawnSync(compiler, ["--version"], { stdio: "ignore" }).status === 0) return compiler;
  }
  const tried = given ? `CXX=${given}, which does not run` : "none of c++, g++, clang++";
  throw new RankGrpoError(
    "NO_DEVICE",
    `Expected a C++17 compiler, got ${tried}. Install one (apt install g++, xcode-select --install) or set CXX.`,
  );
}

export class Probe {
  readonly rules: readonly NativeRule[];
  readonly #folder: string;
  readonly #child: ChildProcessWithoutNullStreams;
  #buffer = "";
  #waiting: { lines: number; resolve: (lines: string[]) => void; reject: (error: Error) => void } | undefined;

  private constructor(folder: string, child: ChildProcessWithoutNullStreams, rules: NativeRule[]) {
    this.#folder = folder;
    this.#child = child;
    this.rules = rules;
  }

  /** Compiles and starts a probe; `close` it. @throws BAD_DATA with the compiler's words where a header does not compile */
  static async open(headers: readonly RuleHeader[] = []): Promise<Probe> {
    const compiler = findCompiler();
    const folder = mkdtempSync(join(tmpdir(), "rank-grpo-"));
    try {
      const native = join(packageRoot, "native");
      const program = join(folder, "probe");
      const flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-DRANK_GRPO_PROBE", `-I${native}`];
      if (headers.length > 0) {
        writeFileSync(join(folder, "extra_rules.h"), extraRules(headers));
        flags.push(`-I${folder}`, '-DRANK_GRPO_EXTRA_RULES="extra_rules.h"');
      }
      const built = spawnSync(compiler, [...flags, join(native, "objectives/probe.cc"), "-o", program], {
        encoding: "utf8",
      });
      if (built.status !== 0) {
        const files = headers.map((header) => header.path).join(", ") || "the package's rules";
        throw new RankGrpoError("BAD_DATA", `Expected a rule that compiles in ${files}, got:\n${built.stderr.trim()}`);
      }
      const child = spawn(program, { stdio: "pipe" });
      const probe = new Probe(folder, child, []);
      probe.#listen();
      const [line] = await probe.#ask(["list"]);
      const unquote = (_: string, value: unknown): unknown =>
        value === "Infinity" ? Number.POSITIVE_INFINITY : value === "-Infinity" ? Number.NEGATIVE_INFINITY : value;
      Object.assign(probe, { rules: JSON.parse(line!, unquote) as NativeRule[] });
      return probe;
    } catch (error) {
      rmSync(folder, { recursive: true, force: true });
      throw error;
    }
  }

  #listen(): void {
    this.#child.stdout.setEncoding("utf8");
    this.#child.stdout.on("data", (text: string) => {
      this.#buffer += text;
      const waiting = this.#waiting;
      if (!waiting) return;
      const lines = this.#buffer.split("\n");
      if (lines.length <= waiting.lines) return;
      this.#waiting = undefined;
      this.#buffer = "";
      waiting.resolve(lines.slice(0, waiting.lines));
    });
    this.#child.on("close", () => {
      this.#waiting?.reject(
        new RankGrpoError("BAD_DATA", "Expected answers from the rule, got the end of its program: it crashed."),
      );
    });
    this.#child.stdin.on("error", () => {}); // the close handler reports a program that ended
  }

  #ask(lines: readonly string[]): Promise<string[]> {
    return new Promise((resolve, reject) => {
      this.#waiting = { lines: lines.length, resolve, reject };
      this.#child.stdin.write(`${lines.join("\n")}\nflush\n`);
    });
  }

  async #choose(rule: NativeRule, params: Readonly<Record<string, number>>): Promise<void> {
    const values = rule.parameters.map((p) => params[p.name] ?? p.value);
    await this.#ask([`rule ${rule.name} ${values.join(" ")}`]);
  }

  /** The rule at points [log-ratio, logp, A]. */
  async at(
    rule: NativeRule,
    params: Readonly<Record<string, number>>,
    points: readonly (readonly number[])[],
  ): Promise<Point[]> {
    await this.#choose(rule, params);
    const lines = await this.#ask(points.map((point) => `at ${point.join(" ")}`));
    return lines.map((line) => {
      const [value, ds, dl, numericDs, numericDl, clipped] = line.split(" ").map(parse);
      return { value: value!, ds: ds!, dl: dl!, numericDs: numericDs!, numericDl: numericDl!, clipped: clipped! };
    });
  }

  close(): void {
    this.#child.removeAllListeners("close");
    this.#child.kill();
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

/** C's inf and nan as JavaScript's. */
const parse = (text: string): number =>
  text === "inf"
    ? Number.POSITIVE_INFINITY
    : text === "-inf"
      ? Number.NEGATIVE_INFINITY
      : text.endsWith("nan")
        ? Number.NaN
        : Number(text);
