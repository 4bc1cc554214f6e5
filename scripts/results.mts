// RESULTS.md and its curves, from the results of the recipes: no figure is typed by hand.
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";

import { type Results, section } from "../recipes/evidence/results.ts";
import { curves } from "./svg.mts";

/** In the order of the page. */
const files = [
  "world",
  "world-ablations",
  "world-ratios",
  "large-world",
  "redial",
  "redial-lists",
  "redial-truths",
  "redial-candidates",
  "redial-smollm2",
];

/** The mean over seeds of the arms that have curves, with bands from the lowest to the highest seed. */
function picture({ title, arms, descriptions, metric }: Results): string | undefined {
  const series = Object.keys(descriptions).flatMap((name) => {
    const own = arms.filter((arm) => arm.name === name && arm.curve.length > 1);
    const steps = own[0]?.curve.map(([step]) => step) ?? [];
    const at = (step: number): number[] =>
      own.flatMap(({ curve }) => curve.filter(([s]) => s === step).map(([, value]) => value));
    const points = steps.map((step) => [step, at(step).reduce((a, b) => a + b, 0) / at(step).length] as const);
    const band = steps.map((step) => [step, Math.min(...at(step)), Math.max(...at(step))] as const);
    return points.length > 0 ? [{ name, points, band }] : [];
  });
  if (series.length === 0) return undefined;
  const all = series.flatMap(({ band }) => band);
  const nice = (most: number, count: number): number[] => {
    const raw = most / count;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= raw)!;
    return Array.from({ length: Math.ceil(most / step - 1e-9) + 1 }, (_, i) => i * step);
  };
  const highest = Math.max(...all.map(([, , high]) => high));
  return curves(
    `${title}: ${metric} on validation rows`,
    series,
    { ticks: nice(Math.max(...all.map(([step]) => step)), 6), label: String, title: "step" },
    { ticks: nice(highest, 6), label: (value) => value.toFixed(3), title: metric },
  );
}

/** Pages by path; none where nothing was run. */
export function resultPages(root: string): Record<string, string> {
  const pages: Record<string, string> = {};
  const sections: string[] = [];
  for (const name of files) {
    const file = join(root, "recipes/evidence/results", `${name}.json`);
    if (!existsSync(file)) continue;
    const results = JSON.parse(readFileSync(file, "utf8")) as Results;
    const path = `docs/results/${name}.svg`;
    const drawn = picture(results);
    if (drawn !== undefined) pages[path] = drawn;
    sections.push(section(results, path));
  }
  if (sections.length === 0) return {};
  return {
    ...pages,
    "RESULTS.md": `# Results

Made from the results of [recipes](recipes/README.md) by \`npm run docs\`: runs that anybody can repeat, with what they gave, whatever it is.

${sections.join("\n")}`,
  };
}
