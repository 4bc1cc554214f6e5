// `rank-grpo objective check`: whether a rule's gradient is that of its loss, where it has kinks and jumps, how far it stays finite, what it
// does on-policy, and whether it is a rule that exists already. All in float64, over a grid.
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";

import { nearest, refuse } from "../errors.ts";
import type { NativeRule } from "../native.ts";
import type { Finding } from "./custom.ts";
import { headerFile, type RuleHeader, readHeader } from "./headers.ts";
import { type Point, Probe } from "./probe.ts";

/** A place where the slope (kink) or the loss itself (jump) is not continuous. */
export interface Kink {
  kind: "kink" | "jump";
  /** The ratio w. */
  ratio: number;
  /** In the parameters' words where it is one of them: "1 + clipHigh". */
  name: string;
  advantage: "A > 0" | "A < 0";
}

export interface CheckReport {
  rule: NativeRule;
  params: Record<string, number>;
  findings: Finding[];
  kinks: Kink[];
  /** Largest |dual - difference| over the grid, relative to 1 + |value|. */
  worst: number;
  passed: boolean;
}

/** Opens a probe with the header of `name` in `folder`, or without one where the package has the rule. */
export async function openRule(name: string, folder?: string): Promise<{ probe: Probe; rule: NativeRule }> {
  const headers: RuleHeader[] = [];
  let others: string[] = [];
  if (folder !== undefined) {
    const path = join(folder, headerFile(name));
    if (existsSync(path)) {
      const header = readHeader(path);
      if (header.name !== name) refuse("BAD_DATA", `name = "${name}", as the file is called`, path, header.name);
      headers.push(header);
    } else if (existsSync(folder)) {
      others = readdirSync(folder)
        .filter((file) => file.endsWith(".h"))
        .map((file) => file.slice(0, -2).replaceAll("_", "-"));
    }
  }
  const probe = await Probe.open(headers);
  const rule = probe.rules.find((r) => r.name === name);
  if (rule) return { probe, rule };
  probe.close();
  const names = probe.rules.map((r) => r.name);
  const near = nearest(name, [...others, ...names]);
  const where = folder === undefined ? "" : ` or a header ${join(folder, headerFile(name))}`;
  return refuse(
    "INVALID_ARGUMENT",
    `a rule (${names.join(", ")})${where}`,
    "the objective",
    name,
    near && `Did you mean ${near}?`,
  );
}

const ADVANTAGES = [-2, -0.7, 0.7, 2];
// off round numbers, where kinks like to be
const LOGPS = [-0.3017, -4.0039];
const STEPS = Array.from({ length: 601 }, (_, i) => (i - 300) / 100 + 0.00137); // log-ratios
const BESIDE = Array.from({ length: 81 }, (_, i) => (i - 40) / 2000 + 0.0000137); // nearer to 1
const slopes = (p: Point): number => p.ds + p.dl;

/** Checks a rule over a grid. The rule is `name` in `folder`'s header, or one of the package's. */
export async function checkObjective(name: string, folder?: string): Promise<CheckReport> {
  const { probe, rule } = await openRule(name, folder);
  try {
    return await checkRule(probe, rule);
  } finally {
    probe.close();
  }
}

export async function checkRule(probe: Probe, rule: NativeRule): Promise<CheckReport> {
  const params = Object.fromEntries(rule.parameters.map((p) => [p.name, p.value]));
  const findings: Finding[] = [...describeTable(rule)];
  const kinks: Kink[] = [];
  let worst = 0;
  let wrong = false;
  // the defaults, and every parameter moved: a formula can be right by accident at one setting
  for (const setting of [params, moved(rule)]) {
    const outcome = await compareGradients(probe, rule, setting);
    worst = Math.max(worst, outcome.worst);
    if (outcome.fault) findings.push({ grade: "fault", text: outcome.fault });
    wrong ||= outcome.fault !== undefined;
  }
  if (!wrong) {
    const text = `gradient = central differences, at ${2 * STEPS.length * ADVANTAGES.length * LOGPS.length} points, within ${worst.toExponential(1)}`;
    findings.push({ grade: "ok", text });
  }
  for (const A of [-1, 1])
    for (const { s, kind } of await findKinks(probe, rule, params, -1, A)) {
      const ratio = Math.exp(s);
      kinks.push({ kind, ratio, name: nameRatio(ratio, params), advantage: A > 0 ? "A > 0" : "A < 0" });
    }
  for (const kink of kinks) {
    const what = kink.kind === "kink" ? "the slope changes at once" : "the loss jumps";
    findings.push({ grade: "note", text: `${what} at w = ${kink.name}, ${kink.advantage}` });
  }
  if (kinks.length === 0) findings.push({ grade: "ok", text: "no kink: the slope is continuous in the ratio" });
  findings.push(...(await checkExtremes(probe, rule, params)), await onPolicy(probe, rule, params));
  findings.push(...(await compareKnown(probe, rule, params, kinks)));
  return { rule, params, findings, kinks, worst, passed: findings.every((f) => f.grade !== "fault") };
}

function describeTable(rule: NativeRule): Finding[] {
  const faults: Finding[] = [];
  const fault = (text: string): void => void faults.push({ grade: "fault", text });
  if (!rule.source.trim()) fault("source is empty: say where the rule comes from");
  if (!rule.formula.trim()) fault("formula is empty: say what it computes");
  for (const p of rule.parameters) {
    if (!/^[a-z][A-Za-z0-9]*$/.test(p.name)) fault(`parameter ${p.name}: expected a camelCase name`);
    if (!(p.min <= p.value && p.value <= p.max))
      fault(`parameter ${p.name}: its default ${p.value} is not in [${p.min}, ${p.max}]`);
    if (p.reason.trim().length < 3) fault(`parameter ${p.name}: expected a reason for its default`);
  }
  const names = rule.parameters.map((p) => p.name);
  if (new Set(names).size < names.length) fault("two parameters have one name");
  return faults;
}

/** Every parameter somewhere else in its range: half way towards its nearer finite end, or 1.5 where the default is infinite. */
function moved(rule: NativeRule): Record<string, number> {
  return Object.fromEntries(
    rule.parameters.map((p) => {
      if (!Number.isFinite(p.value)) return [p.name, Math.min(p.max, Math.max(p.min, 1.5))];
      const end =
        p.value - p.min >= 1e-12 * Math.abs(p.value) && p.value !== p.min ? Math.max(p.min, p.value - 1) : p.value + 1;
      return [p.name, Math.min(p.max, (p.value + end) / 2)];
    }),
  );
}

async function compareGradients(
  probe: Probe,
  rule: NativeRule,
  params: Record<string, number>,
): Promise<{ worst: number; fault?: string }> {
  const setting = Object.entries(params)
    .map(([key, value]) => `${key} ${value}`)
    .join(", ");
  let worst = 0;
  for (const [A, logp] of ADVANTAGES.flatMap((A) => LOGPS.map((logp) => [A, logp] as const))) {
    let kinks: readonly { s: number }[] | undefined; // where they are may hang on both
    const points = await probe.at(
      rule,
      params,
      STEPS.map((s) => [s, logp, A]),
    );
    for (const [i, p] of points.entries()) {
      const s = STEPS[i]!;
      for (const [by, dual, numeric] of [
        ["the pooled log-ratio", p.ds, p.numericDs],
        ["the token's log-prob", p.dl, p.numericDl],
      ] as const) {
        const error = Math.abs(dual - numeric) / (1 + Math.abs(p.value) + Math.abs(dual));
        if (error <= 1e-7) worst = Math.max(worst, error);
        else {
          kinks ??= await findKinks(probe, rule, params, logp, A);
          if (kinks.some((kink) => Math.abs(kink.s - s) < 3e-4)) continue;
          const at = `w ${Math.exp(s).toPrecision(4)}, logp ${logp}, A ${A} (${setting})`;
          return { worst: error, fault: `gradient by ${by} is ${dual}, by central differences ${numeric}, at ${at}` };
        }
      }
    }
  }
  return { worst };
}

/** Bisects every cell of the grid in which slope or value change: what remains at a width of 1e-12 is no smooth change. */
async function findKinks(
  probe: Probe,
  rule: NativeRule,
  params: Record<string, number>,
  logp: number,
  A: number,
): Promise<{ s: number; kind: Kink["kind"] }[]> {
  const fine = [...STEPS, ...BESIDE].sort((a, b) => a - b);
  const ask = (steps: readonly number[]): Promise<Point[]> =>
    probe.at(
      rule,
      params,
      steps.map((s) => [s, logp, A]),
    );
  const points = await ask(fine);
  const change = (a: Point, b: Point): number => Math.max(Math.abs(slopes(a) - slopes(b)), Math.abs(a.value - b.value));
  let cells = fine.slice(1).map((right, i) => ({ left: fine[i]!, right, a: points[i]!, b: points[i + 1]! }));
  cells = cells.filter(({ a, b }) => change(a, b) > 1e-9);
  while (cells.length > 0 && cells.some(({ left, right }) => right - left > 1e-12)) {
    const middles = cells.map(({ left, right }) => (left + right) / 2);
    const middle = await ask(middles);
    cells = cells
      .map((cell, i) => {
        const [m, p] = [middles[i]!, middle[i]!];
        return change(cell.a, p) >= change(p, cell.b) ? { ...cell, right: m, b: p } : { ...cell, left: m, a: p };
      })
      .filter(({ a, b }) => change(a, b) > 1e-7 * (1 + Math.abs(a.value) + Math.abs(slopes(a))));
  }
  return cells.map(({ left, a, b }) => {
    const jump = Math.abs(a.value - b.value) > 1e-7 * (1 + Math.abs(a.value));
    return { s: left, kind: jump ? "jump" : "kink" };
  });
}

/** A ratio in the words of the parameters, where it is one of the usual expressions of one. */
function nameRatio(ratio: number, params: Record<string, number>): string {
  const forms: [string, number][] = [["1", 1]];
  for (const [name, p] of Object.entries(params)) {
    forms.push([`1 + ${name}`, 1 + p], [`1 - ${name}`, 1 - p], [name, p], [`1 / ${name}`, 1 / p]);
    forms.push([`exp(${name})`, Math.exp(p)], [`exp(-${name})`, Math.exp(-p)]);
  }
  const found = forms.filter(([, value]) => Math.abs(value - ratio) < 1e-9 * (1 + ratio));
  const side = ratio > 1 ? /high|upper|max/i : /low|min/i; // where two parameters are alike, the one that speaks of this side
  const [name] = found.find(([form]) => side.test(form)) ?? found[0] ?? ["1"];
  const shown = String(Number(ratio.toPrecision(6)));
  return name === "1" ? shown : `${name} = ${shown}`;
}

/** How far from 1 the ratio may go: up to e^50 everything must be a number; beyond, the log-ratio where it ends is named. */
async function checkExtremes(probe: Probe, rule: NativeRule, params: Record<string, number>): Promise<Finding[]> {
  const distances = [1, 10, 20, 50, 85, 100, 200, 300, 350, 400, 500, 700, 800];
  const findings: Finding[] = [];
  for (const sign of [-1, 1]) {
    for (const side of ["A > 0", "A < 0"]) {
      const points = distances.flatMap((distance) =>
        [1e-3, 1, 100].flatMap((size) =>
          [0, -1e-6, -50].map((logp) => [sign * distance, logp, side === "A > 0" ? size : -size]),
        ),
      );
      const answers = await probe.at(rule, params, points);
      const bad = answers.findIndex(
        (p) => !Number.isFinite(p.value) || !Number.isFinite(p.ds) || !Number.isFinite(p.dl),
      );
      if (bad < 0) continue;
      const [s] = points[bad]!;
      const got = answers[bad]!;
      const what = [got.value, got.ds, got.dl].some(Number.isNaN) ? "not a number" : "infinite";
      const far = Math.abs(s!) > 50;
      findings.push({
        grade: far ? "note" : "fault",
        text: `${what} at a log-ratio of ${s}, ${side}${far ? ": training stops there with NOT_FINITE" : ""}`,
      });
    }
  }
  if (findings.length === 0) findings.push({ grade: "ok", text: "finite at every ratio from e^-800 to e^800" });
  return findings;
}

async function onPolicy(probe: Probe, rule: NativeRule, params: Record<string, number>): Promise<Finding> {
  const [up, down] = await probe.at(rule, params, [
    [0, -1, 1],
    [0, -1, -1],
  ]);
  const [a, b] = [slopes(up!), slopes(down!)];
  const round = (x: number): string => String(Number(x.toPrecision(4)));
  if (Math.abs(a + 1) < 1e-9 && Math.abs(b - 1) < 1e-9) {
    return { grade: "ok", text: "on-policy (w = 1) the slope is -A: the policy gradient" };
  }
  const grade = a < 0 && b > 0 ? "note" : a <= 0 && b >= 0 ? "note" : "fault";
  const text = `on-policy (w = 1, logp = -1) the slope is ${round(a)} for A = 1 and ${round(b)} for A = -1`;
  return { grade, text: grade === "fault" ? `${text}: it pushes against the advantage` : text };
}

/** Other rules that are this one, with their parameters at values of mine, their defaults, 0 or 1. */
async function compareKnown(
  probe: Probe,
  rule: NativeRule,
  params: Record<string, number>,
  kinks: readonly Kink[],
): Promise<Finding[]> {
  const gridOf = (steps: readonly number[]): number[][] =>
    ADVANTAGES.flatMap((A) => LOGPS.flatMap((logp) => steps.map((s) => [s, logp, A])));
  const beside = kinks.flatMap(({ ratio }) => [Math.log(ratio) - 5e-4, Math.log(ratio) + 5e-4]); // a kink elsewhere is another rule
  const coarse = gridOf(STEPS.filter((_, i) => i % 60 === 0));
  const full = gridOf([...STEPS, ...beside]);
  const [mineCoarse, mineFull] = [await probe.at(rule, params, coarse), await probe.at(rule, params, full)];
  const close = (x: number, y: number): boolean => Math.abs(x - y) <= 1e-9 * (1 + Math.abs(x));
  const sameSlopes = (a: readonly Point[], b: readonly Point[]): boolean =>
    a.every((p, i) => close(p.ds, b[i]!.ds) && close(p.dl, b[i]!.dl));
  const findings: Finding[] = [];
  for (const other of probe.rules) {
    if (other.name === rule.name) continue;
    for (const setting of settingsLike(other, params)) {
      if (!sameSlopes(await probe.at(other, setting, coarse), mineCoarse)) continue;
      const points = await probe.at(other, setting, full);
      if (!sameSlopes(points, mineFull)) continue;
      const same = points.every((p, i) => close(p.value, mineFull[i]!.value));
      const shown = Object.entries(setting)
        .map(([key, value]) => `${key} ${value}`)
        .join(", ");
      findings.push({ grade: "note", text: `${same ? "equal to" : "the same gradient as"} ${other.name} (${shown})` });
      break;
    }
  }
  if (findings.length === 0) findings.push({ grade: "ok", text: `unlike the other ${probe.rules.length - 1} rules` });
  return findings;
}

/** Settings of a rule worth comparing: a parameter of the same name takes the same value, others any value of mine, the default, 0 or 1. */
function settingsLike(rule: NativeRule, params: Record<string, number>): Record<string, number>[] {
  let settings: Record<string, number>[] = [{}];
  for (const p of rule.parameters) {
    const named = params[p.name];
    const values = named === undefined ? [p.value, ...Object.values(params), 0, 1] : [named];
    const allowed = [...new Set(values)].filter((value) => value >= p.min && value <= p.max);
    settings = settings.flatMap((setting) => allowed.map((value) => ({ ...setting, [p.name]: value })));
  }
  return settings.slice(0, 200);
}

/** The report as lines of text. */
export function formatReport(report: CheckReport): string {
  const marks = { ok: "ok   ", note: "note ", fault: "FAULT" };
  return [
    `${report.rule.name}: ${report.rule.formula}`,
    ...report.findings.map((finding) => `  ${marks[finding.grade]} ${finding.text}`),
  ].join("\n");
}
