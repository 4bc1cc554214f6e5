// docs/performance.md and its charts, from the recordings in bench/results: no figure is typed by hand.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

import type { Recording, Row } from "../src/bench/harness.ts";
import type { PeerRow } from "../src/bench/peers.ts";
import { curves, escaped, svg } from "./svg.mts";

/** How a suite is introduced; recordings of other suites come after these, by name. */
const introductions: Record<string, string> = {
  kernels:
    "`rank-grpo/kernels` as JavaScript calls them: log-probs of logits, and of hidden states times a head, forward and backward.",
  matmul: "Matrix products alone, in the shapes of SmolLM2-135M and of a small model (0.4 M parameters).",
  attention: "Attention alone: a whole batch forward and backward, and one decoding step.",
  generation:
    "Sampling. A step reads every weight once and computes with it for each row: the bound is the longer of the two.",
  update: "The update of a step, the reference's pass included.",
  step: "Whole steps: sample, score under the reference, update, optimize.",
  constraint:
    "Lists from a catalog: sampling and update against free lists of equal length, exact top items, growth with the catalog.",
  objectives: "Every rule's loss and gradient over the tokens of a step.",
  data: "The data pipeline. What JavaScript does with text has no bound but the parser's own time.",
  growth: "Cost as work grows.",
};

const round = (x: number, digits: number): string => x.toFixed(digits);
const time = (ms: number): string => round(ms, ms < 10 ? 3 : ms < 1000 ? 1 : 0);
const optional = (x: number | undefined, digits = 1): string => (x === undefined ? "" : round(x, digits));
const cell = (text: string): string => text.replaceAll("|", "\\|");
const table = (header: readonly string[], rows: readonly (readonly string[])[]): string =>
  [header, header.map(() => "---"), ...rows].map((cells) => `| ${cells.map(cell).join(" | ")} |`).join("\n");

/** Bars of the share of the bound that each row reaches. */
function bars(title: string, rows: readonly Row[]): string {
  const [left, width, height] = [470, 300, 20];
  const most = Math.max(1, ...rows.map((row) => 1 / row.ratio!));
  const x = (share: number): string => round(left + (width * share) / most, 1);
  const parts = rows.map((row, i) => {
    const y = 28 + i * height;
    const share = 1 / row.ratio!;
    return (
      `<text x="${left - 8}" y="${y + 13}" text-anchor="end">${escaped(`${row.name}, ${row.shape}`.slice(0, 72))} <tspan class="faint">${row.dtype}</tspan></text>` +
      `<rect class="bar ${row.dtype}" x="${left}" y="${y + 2}" width="${round((width * share) / most, 1)}" height="${height - 5}"/>` +
      `<text x="${round(left + (width * share) / most + 5, 1)}" y="${y + 13}">${round(share, 2)}</text>`
    );
  });
  const bottom = 30 + rows.length * height;
  const bound = `<line class="bound" x1="${x(1)}" x2="${x(1)}" y1="22" y2="${bottom}"/><text x="${x(1)}" y="15" text-anchor="middle">bound</text>`;
  return svg(left + width + 60, bottom + 8, title, [...parts, bound].join("\n"));
}

/** Times over sizes, both logarithmic, each from its own first point. */
function growthChart(series: readonly { over: string; points: readonly (readonly [number, number])[] }[]): string {
  const relative = series.map(({ over, points }) => ({
    name: over,
    points: points.map(([size, ms]) => [Math.log2(size / points[0]![0]), Math.log2(ms / points[0]![1])] as const),
  }));
  const all = relative.flatMap(({ points }) => points);
  const range = (low: number, high: number): number[] => Array.from({ length: high - low + 1 }, (_, i) => low + i);
  const label = (value: number): string => `${value < 0 ? `1/${2 ** -value}` : 2 ** value}x`;
  const ys = all.map(([, y]) => y);
  return curves(
    "Growth: time over size",
    relative,
    { ticks: range(0, Math.ceil(Math.max(...all.map(([x]) => x)))), label, title: "size, from the first" },
    { ticks: range(Math.floor(Math.min(0, ...ys)), Math.ceil(Math.max(...ys))), label, title: "time, from the first" },
  );
}

function suiteSection(
  name: string,
  rows: readonly Row[],
  notes: readonly string[],
  pictures: Record<string, string>,
): string {
  const parts = [`## ${name}`, introductions[name] ?? "", ""];
  const grown = new Map<string, [number, number][]>();
  for (const { series, timeMs } of rows)
    if (series) grown.set(series.over, [...(grown.get(series.over) ?? []), [series.size, timeMs]]);
  const series = [...grown].map(([over, points]) => ({ over, points })).filter(({ points }) => points.length > 1);
  const measured = rows.filter((row) => row.ratio !== undefined);
  if (measured.length > 0 && series.length === 0 && name !== "objectives") {
    pictures[`docs/performance/${name}.svg`] = bars(`${name}: share of the bound`, measured);
    parts.push(`![Share of the bound that each row reaches](performance/${name}.svg)`, "");
  }
  if (series.length > 0) {
    pictures[`docs/performance/${name}.svg`] = growthChart(series);
    parts.push(`![Time over size, both logarithmic, from the first size of each](performance/${name}.svg)`, "");
  }
  parts.push(
    table(
      ["what", "shape", "dtype", "ms", "±", "GFLOP/s", "GB/s", "bound, ms", "time / bound", "extra MiB", "rate"],
      rows.map((row) => [
        row.name,
        row.shape,
        row.dtype,
        time(row.timeMs),
        time(row.spreadMs),
        optional(row.gflops),
        optional(row.gbps),
        row.boundMs === undefined ? "" : time(row.boundMs),
        optional(row.ratio, 2),
        optional(row.extraMiB, 0),
        row.rate ? `${round(row.rate.value, row.rate.value < 100 ? 1 : 0)} ${row.rate.unit}` : "",
      ]),
    ),
    "",
    ...notes.map((note) => `- ${note.replace(`${name}: `, "")}`),
    "",
  );
  return parts.join("\n");
}

function peerSection(recordings: readonly Recording[]): string {
  const rows = recordings.flatMap(({ peers }) => peers ?? []);
  if (rows.length === 0) return "";
  const versions = Object.entries(Object.assign({}, ...rows.map((row) => row.versions)) as Record<string, string>).map(
    ([name, version]) => `${name} ${version}`,
  );
  return `## Peers

The same work by what a user would run instead: ${versions.join(", ")}, on the same machine and threads, in the same run; the fastest of several ways where there are some (bench/peers/peers.py).
For rows that share a prompt, which is computed once here, transformers and llama.cpp compute it for each of them.
Each result was held against this engine's before its time counted.

${table(
  ["what", "shape", "dtype", "here, ms", "peer, ms", "peer / here", "peer's way", "peer's peak, MiB"],
  rows.map((row) => [
    row.name,
    row.shape,
    row.dtype,
    time(row.oursMs),
    time(row.theirsMs),
    `**${round(row.ratio, 1)}**`,
    row.way,
    round(row.theirsMiB, 0),
  ]),
)}
${lossTable(rows)}`;
}

/** What a loss with its gradients needs beside time. */
function lossTable(rows: readonly PeerRow[]): string {
  const losses = rows.flatMap(({ name, dtype, loss }) => (loss ? [{ name, dtype, ...loss }] : []));
  if (losses.length === 0) return "";
  return `
Memory of a call above its inputs, gradients included, and its largest error against float64, a gradient's in parts of its largest value:

${table(
  ["what", "dtype", "memory here, MiB", "peer, MiB", "error here", "peer's error"],
  losses.map(({ name, dtype, oursExtraMiB, theirsExtraMiB, oursError, theirsError }) => [
    name,
    dtype,
    optional(oursExtraMiB, 0),
    round(theirsExtraMiB, 0),
    oursError.toExponential(1),
    theirsError.toExponential(1),
  ]),
)}
`;
}

/** Pages by path. */
export function performancePages(root: string): Record<string, string> {
  const folder = join(root, "bench/results");
  const files = existsSync(folder) ? readdirSync(folder).filter((file) => file.endsWith(".json")) : [];
  if (files.length === 0) return {};
  const order = Object.keys(introductions);
  const place = (name: string): number => (order.includes(name) ? order.indexOf(name) : order.length);
  const recordings = files
    .map((file) => ({
      name: file.replace(".json", ""),
      ...(JSON.parse(readFileSync(join(folder, file), "utf8")) as Recording),
    }))
    .sort((a, b) => place(a.name) - place(b.name) || (a.name < b.name ? -1 : 1));
  const pictures: Record<string, string> = {};
  const sections = recordings
    .filter(({ name }) => name !== "peers")
    .map(({ name, rows, notes }) => suiteSection(name, rows, notes, pictures));
  const machines = recordings.map(
    ({ name, date, machine: m, bounds: b }) =>
      [
        name,
        date,
        `${m.cpu}, ${m.threads} threads, ${m.isa}`,
        `${m.system}, Node ${m.node}, rank-grpo ${m.version}`,
        round(b.readBytes / 1e9, 0),
        round(b.updateBytes / 1e9, 0),
        round(b.flopsF32 / 1e9, 0),
        round(b.flopsBf16 / 1e9, 0),
      ] as const,
  );
  const text = `# Performance

Made from bench/results by \`npm run docs\`; recorded by \`npm run bench:record\` (with a model, its peers too). Every row's result was checked before it was timed. The bound is
the longer of what its operations take at the machine's peak and what its bytes take at the machine's bandwidth, both probed in the same run, in recordings from 2026-11-26 on around the row's own samples, since both change from one second to the next; ± is half the distance between the quartiles.

${sections.join("\n")}
${peerSection(recordings)}
## Machines

${table(["recording", "date", "processor", "system", "GB/s read", "GB/s updated", "GFLOP/s f32", "GFLOP/s bf16"], machines)}
`;
  return { ...pictures, "docs/performance.md": text };
}
