// `rank-grpo objective new | check | show` on the package's rules and on headers that are wrong in every way one can be.
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

import { addon } from "../src/native.ts";
import { type CheckReport, checkObjective, checkRule, formatReport } from "../src/objective/check.ts";
import { extraRules, readHeader, readHeaders } from "../src/objective/headers.ts";
import { newObjective } from "../src/objective/new.ts";
import { Probe } from "../src/objective/probe.ts";
import { drawObjective, drawSvg, drawText, drawWith, pageOf } from "../src/objective/show.ts";
import { packageTypes, projectTypes } from "../src/objective/types.ts";

const folder = mkdtempSync(join(tmpdir(), "rank-grpo-test-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const failure = async (work: () => unknown): Promise<string> => {
  try {
    await work();
  } catch (error) {
    return `${(error as { code: string }).code}: ${(error as Error).message}`;
  }
  throw new Error("was accepted");
};
const texts = (report: CheckReport): string => report.findings.map(({ grade, text }) => `${grade} ${text}`).join("\n");

/** A header with this loss. */
function header(
  name: string,
  loss: string,
  table = '{{"cap", 2, 1, 1e9, "a reason"}}',
  fields = "double cap;",
): string {
  const type = `${name.replace(/(^|-)(\w)/g, (_, __, letter: string) => letter.toUpperCase())}Rule`;
  const path = join(folder, `${name.replaceAll("-", "_")}.h`);
  writeFileSync(
    path,
    `#pragma once
#include "objectives/rule.h"
namespace rank_grpo {
struct ${type} : Rule {
  static constexpr const char *name = "${name}", *source = "a test", *formula = "${loss.replaceAll('"', "'")}";
  static constexpr ObjectiveParameter parameters[] = ${table};
  ${fields}
  RANK_GRPO_HD Dual loss(Dual s, Dual logp, double A) const { (void)s; (void)logp; (void)A; ${loss} }
};
}
`,
  );
  return path;
}

describe("the package's rules", () => {
  let probe: Probe;
  const reports = new Map<string, CheckReport>();
  beforeAll(async () => {
    probe = await Probe.open();
    for (const rule of probe.rules) reports.set(rule.name, await checkRule(probe, rule));
  });
  afterAll(() => probe.close());

  it("the probe knows the addon's rules, tables and all", () => expect(probe.rules).toEqual(addon.objectiveList()));

  for (const rule of addon.objectiveList()) {
    it(`${rule.name}: gradient, limits, on-policy slope`, () => {
      const report = reports.get(rule.name)!;
      expect(report.passed, texts(report)).toBe(true);
      expect(report.worst).toBeLessThan(1e-10);
      expect(texts(report)).toContain("gradient = central differences");
    });
  }

  it("kinks are found where the formula has them, in the parameters' words", () => {
    const kinks = (name: string): string[] => reports.get(name)!.kinks.map((k) => `${k.kind} ${k.name} ${k.advantage}`);
    expect(kinks("clip")).toEqual(["kink 1 - clipLow = 0.94 A < 0", "kink 1 + clipHigh = 1.08 A > 0"]);
    expect(kinks("gmpo")).toEqual(["kink exp(-clipLow) = 0.67032 A < 0", "kink exp(clipHigh) = 1.49182 A > 0"]);
    expect(kinks("cispo-mask")).toEqual(["jump 1 - clipLow = 0.8 A < 0", "jump 1 + clipHigh = 1.28 A > 0"]);
    for (const smooth of ["cispo", "likelihood", "sapo", "p3o", "topr", "gppo", "spo", "nsr", "shaping"]) {
      expect(kinks(smooth), smooth).toEqual([]);
    }
  });

  it("twins are found through other parameters", () => {
    const of = (name: string): string => texts(reports.get(name)!);
    expect(of("p3o")).toContain("equal to sapo (tauPositive 4, tauNegative 4)");
    expect(of("clip")).toContain("equal to rollback (clipLow 0.06, clipHigh 0.08, alpha 0)");
    expect(of("clip")).toContain("the same gradient as gppo (clipLow 0.06, clipHigh 0.08, keepLow 0, keepHigh 0)");
    expect(of("clip")).not.toContain("gmpo"); // its bounds are in the log-ratio: near, but another rule
    expect(of("spo")).toContain("unlike the other");
  });

  it("drawings in docs/rules are those of the rules", async () => {
    for (const rule of probe.rules) {
      const file = new URL(`../docs/rules/${rule.name}.svg`, import.meta.url);
      expect(readFileSync(file, "utf8"), `${rule.name}: npx tsx scripts/rules.mts`).toBe(
        drawSvg(await drawWith(probe, rule)),
      );
    }
  });

  it("src/rules.ts is made from the tables", () => {
    const text = readFileSync(new URL("../src/rules.ts", import.meta.url), "utf8");
    expect(text, "npx tsx scripts/rules.mts").toBe(packageTypes(probe.rules));
  });
});

describe("new", () => {
  it("writes a header that compiles, passes, and is commented line by line", async () => {
    const path = await newObjective("two-fold", folder);
    const lines = readFileSync(path, "utf8").trimEnd().split("\n");
    expect(lines.length).toBeLessThanOrEqual(25);
    expect(lines.filter((line) => line.includes("//")).length).toBeGreaterThan(10);
    const report = await checkObjective("two-fold", folder);
    expect(report.passed, texts(report)).toBe(true);
    expect(formatReport(report)).toContain("w = cap = 2, A > 0");
    expect(readHeader(path)).toEqual({ path, type: "TwoFoldRule", name: "two-fold" });
  });

  it("overwrites nothing, and takes no name that is taken or no name", async () => {
    expect(await failure(() => newObjective("two-fold", folder))).toMatch(/^IO: Expected a new file/);
    for (const name of ["clip", "cispo-mask", "dapo", "dr-grpo", "kl-cov", "dpo"]) {
      expect(await failure(() => newObjective(name, folder)), name).toMatch(/^INVALID_ARGUMENT: .*no rule, preset/);
    }
    for (const name of ["", "Upper", "a b", "../x", "-x", "x-", "a--b"]) {
      expect(await failure(() => newObjective(name, folder)), name).toMatch(/^INVALID_ARGUMENT/);
    }
  });
});

describe("check passes what is right", () => {
  it("kinks at a ratio that hangs on the advantage, at a log-prob, at neither", async () => {
    const loss = "return -min(A * exp(s), cap) - min(A * logp, 4) - min(logp, -0.3);";
    const path = header("bounded", loss, '{{"cap", 0.9, 0, 1e9, "a reason"}}'); // log(cap / 0.7) is next to a point of the grid
    const report = await checkObjective("bounded", folder);
    expect(report.passed, texts(report)).toBe(true);
    rmSync(path);
  });
});

describe("a rule without parameters", () => {
  it("is one all the same: checked, drawn, a page and types of its own", async () => {
    const path = header("plain-ratio", "return -(A * exp(s));", "", "");
    writeFileSync(path, readFileSync(path, "utf8").replace(/^.*parameters\[\].*$/m, ""));
    const report = await checkObjective("plain-ratio", folder);
    expect(report.passed, texts(report)).toBe(true);
    expect(texts(report)).toContain("equal to nsr (positive 1)");
    expect(drawText(await drawObjective("plain-ratio", { folder }))).toContain("plain-ratio:");
    expect((await pageOf("plain-ratio", folder)).page).toContain("# plain-ratio");
    expect(projectTypes([report.rule])).toContain('"plain-ratio": {');
    rmSync(path);
  });
});

describe("check finds what is wrong", () => {
  it("a gradient lost through .value", async () => {
    header("lost", "return -(A * Dual(exp(s).value));");
    const report = await checkObjective("lost", folder);
    expect(report.passed).toBe(false);
    expect(texts(report)).toMatch(/fault gradient by the pooled log-ratio is -?0, by central differences/);
    rmSync(join(folder, "lost.h"));
  });

  it("a gradient that is right at the defaults alone", async () => {
    // derived by hand, and right for cap = 2 only
    header("by-hand", "const double w = std::exp(s.value); return Dual(-A * cap * w, -A * 2 * w * s.ds, 0);");
    const report = await checkObjective("by-hand", folder);
    expect(texts(report)).toContain("cap 1.5");
    expect(report.passed).toBe(false);
    rmSync(join(folder, "by-hand.h"), { force: true });
    rmSync(join(folder, "by_hand.h"), { force: true });
  });

  it("a loss that is no number near 1, and a slope against the advantage", async () => {
    header("undefined-below", "return -(A * log(exp(s) - 0.5));");
    expect(texts(await checkObjective("undefined-below", folder))).toMatch(/fault .*not a number/i);
    header("backwards", "return A * exp(s);");
    expect(texts(await checkObjective("backwards", folder))).toContain("pushes against the advantage");
    for (const file of ["undefined_below.h", "backwards.h"]) rmSync(join(folder, file));
  });

  it("tables that contradict themselves", async () => {
    header("outside", "return -(A * min(exp(s), cap));", '{{"cap", 0.5, 1, 1e9, ""}}');
    const text = texts(await checkObjective("outside", folder));
    expect(text).toContain("its default 0.5 is not in [1, 1000000000]");
    expect(text).toContain("expected a reason");
    expect(text).toContain("ok gradient = central differences"); // which does not hang on the table
    rmSync(join(folder, "outside.h"));
  });

  it("fields in another order than the table's, which would be swapped", async () => {
    const table = '{{"low", 0.2, 0, 1, "a reason"}, {"high", 0.3, 0, 9, "a reason"}}';
    const loss = "return -(A * clamp(exp(s), 1 - low, 1 + high));";
    const path = header("swapped", loss, table, "double high, low;");
    expect(await failure(() => checkObjective("swapped", folder))).toMatch(
      /^BAD_DATA: Expected fields in the table's order, low, high, for .*swapped\.h, got "high, low"/,
    );
    header("swapped", loss, table, "double low; double high;");
    expect((await checkObjective("swapped", folder)).passed).toBe(true);
    rmSync(path);
  });

  it("headers that do not compile, with the compiler's words", async () => {
    header("broken", "return A * exp(s)");
    expect(await failure(() => checkObjective("broken", folder))).toMatch(
      /^BAD_DATA: Expected a rule that compiles in .*broken\.h, got:\n[\s\S]*error/,
    );
    header("fields", "return -(A * exp(s));", '{{"a", 1, 0, 2, "a reason"}, {"b", 1, 0, 2, "a reason"}}', "double a;");
    expect(await failure(() => checkObjective("fields", folder))).toContain(
      "declares each parameter of its table as a double",
    );
    for (const file of ["broken.h", "fields.h"]) rmSync(join(folder, file));
  });

  it("headers that are no rule, wrong names and folders", async () => {
    writeFileSync(join(folder, "nothing.h"), "// struct Rule : Rule in a comment\n");
    expect(await failure(() => checkObjective("nothing", folder))).toMatch(/^BAD_DATA: .*0 structs/);
    rmSync(join(folder, "nothing.h"));
    const path = header("called-so", "return -(A * exp(s));");
    writeFileSync(join(folder, "other.h"), readFileSync(path));
    expect(await failure(() => checkObjective("other", folder))).toContain("as the file is called");
    expect(await failure(() => readHeaders(folder))).toContain("one rule name in each file");
    for (const file of ["called_so.h", "other.h"]) rmSync(join(folder, file));
    // the trainer would take the preset, or the rule that is listed first
    for (const name of ["grpo", "s-dpo", "clip"]) {
      const taken = header(name, "return -(A * exp(s));");
      expect(await failure(() => checkObjective(name, folder)), name).toMatch(/^BAD_DATA: .*no rule, preset/);
      expect(await failure(() => readHeaders(folder)), name).toMatch(/^BAD_DATA: .*no rule, preset/);
      rmSync(taken);
    }
    expect(await failure(() => checkObjective("two-fald", folder))).toContain("Did you mean two-fold?");
    expect(await failure(() => readHeaders(join(folder, "none")))).toMatch(/^IO/);
  });
});

describe("show", () => {
  it("text: both signs, the parameters that were set", async () => {
    const text = drawText(await drawObjective("clip", { params: { clipLow: 0.5 } }));
    expect(text).toContain("clipLow 0.5, clipHigh 0.08");
    expect(text).toContain("A = +1");
    expect(text).toContain("A = -1");
    expect(Math.max(...text.split("\n").map((line) => line.length))).toBeLessThanOrEqual(100);
  });

  it("refuses a parameter that the rule does not have, or out of its range", async () => {
    const refused = (params: Record<string, number>): Promise<string> =>
      failure(() => drawObjective("two-fold", { folder, params }));
    expect(await refused({ cpa: 3 })).toMatch(/Expected cap for a parameter of two-fold, got "cpa"/);
    expect(await refused({ cap: 0.5 })).toMatch(/Expected a number from 1 to 1000000000 for cap of two-fold, got 0\.5/);
  });

  it("svg: a curve of loss and slope for each sign, no infinite coordinate", async () => {
    const svg = drawSvg(await drawObjective("shaping"));
    expect(svg.match(/<path class="l" d="M[\d.]+ [\d.]+L/g)).toHaveLength(2);
    expect(svg).not.toMatch(/NaN|Infinity/);
  });

  it("page: formula, parameters, findings, drawing", async () => {
    const { page, svg } = await pageOf("two-fold", folder);
    expect(page).toContain("| `cap` | 2 | 1 to 1000000000 |");
    expect(page).toContain("gradient = central differences");
    expect(svg).toContain("two-fold over the ratio w");
  });
});

it("what a build includes, and the types it writes", () => {
  expect(existsSync(join(folder, "two_fold.h"))).toBe(true);
  const headers = readHeaders(folder);
  expect(extraRules(headers)).toContain("#define RANK_GRPO_EXTRA_RULE_NAMES ::rank_grpo::TwoFoldRule");
  const rule = {
    name: "two-fold",
    source: "s",
    formula: "f",
    parameters: [{ name: "cap", value: 2, min: 1, max: 9, reason: "r" }],
  };
  expect(projectTypes([rule])).toContain('"two-fold": {');
});
