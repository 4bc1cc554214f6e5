// `rank-grpo objective show`: a rule's loss and slope over the ratio, for A > 0 and A < 0, in the terminal, as SVG, and as a page.
import { refuse } from "../errors.ts";
import type { NativeRule } from "../native.ts";
import { checkRule, formatReport, openRule } from "./check.ts";
import type { Probe } from "./probe.ts";

export interface Curve {
  advantage: 1 | -1;
  /** The ratio w. */
  ratios: number[];
  loss: number[];
  /** dL/dlog-ratio + dL/dlogp: what reaches the token's log-prob. */
  slope: number[];
}

export interface Drawing {
  rule: NativeRule;
  params: Record<string, number>;
  curves: [Curve, Curve];
}

const LAST = 2.5; // ratios are drawn from 0 to here
const POINTS = 251;
const LOGP = -1; // of the token, for rules that read it

/** Draws a rule of an open probe, with parameters changed. @throws INVALID_ARGUMENT for one that the rule does not have, or out of its range */
export async function drawWith(
  probe: Probe,
  rule: NativeRule,
  changes: Readonly<Record<string, number>> = {},
): Promise<Drawing> {
  for (const [name, value] of Object.entries(changes)) {
    const known = rule.parameters.find((p) => p.name === name);
    if (!known)
      refuse(
        "INVALID_ARGUMENT",
        rule.parameters.map((p) => p.name).join(", ") || "no parameter",
        `a parameter of ${rule.name}`,
        name,
      );
    if (!(value >= known.min && value <= known.max))
      refuse("INVALID_ARGUMENT", `a number from ${known.min} to ${known.max}`, `${name} of ${rule.name}`, value);
  }
  const params = Object.fromEntries(rule.parameters.map((p) => [p.name, changes[p.name] ?? p.value]));
  const ratios = Array.from({ length: POINTS }, (_, i) => (LAST * (i + 0.5)) / POINTS);
  const curve = async (advantage: 1 | -1): Promise<Curve> => {
    const points = await probe.at(
      rule,
      params,
      ratios.map((w) => [Math.log(w), LOGP, advantage]),
    );
    return { advantage, ratios, loss: points.map((p) => p.value), slope: points.map((p) => p.ds + p.dl) };
  };
  return { rule, params, curves: [await curve(1), await curve(-1)] };
}

/** Draws rule `name` (of `folder`'s headers, or of the package) with parameters changed. */
export async function drawObjective(
  name: string,
  options: { folder?: string; params?: Record<string, number> } = {},
): Promise<Drawing> {
  const { probe, rule } = await openRule(name, options.folder);
  try {
    return await drawWith(probe, rule, options.params);
  } finally {
    probe.close();
  }
}

/** The vertical range of both curves, 0 within it. */
function range(curve: Curve): [low: number, high: number] {
  const values = [...curve.loss, ...curve.slope].filter(Number.isFinite);
  const [low, high] = [Math.min(0, ...values), Math.max(0, ...values)];
  return low === high ? [-1, 1] : [low, high];
}

const short = (x: number): string => String(Number(x.toPrecision(3)));
const title = (curve: Curve): string => (curve.advantage > 0 ? "A = +1" : "A = -1");
const settings = (params: Record<string, number>): string =>
  Object.entries(params)
    .map(([name, value]) => `${name} ${value}`)
    .join(", ");

/** Plain characters: # the loss, . the slope, | w = 1, - zero. */
export function drawText(drawing: Drawing): string {
  const [width, height] = [64, 15];
  const lines = [`${drawing.rule.name}: ${drawing.rule.formula}`, `  ${settings(drawing.params)}`, ""];
  for (const curve of drawing.curves) {
    const [low, high] = range(curve);
    const cells = Array.from({ length: height }, () => new Array<string>(width).fill(" "));
    const rowOf = (y: number): number => Math.round(((high - y) / (high - low)) * (height - 1));
    cells[rowOf(0)]!.fill("-");
    const one = Math.floor(width / LAST);
    for (const row of cells) row[one] = "|";
    for (const [mark, values] of [
      [".", curve.slope],
      ["#", curve.loss],
    ] as const) {
      for (const [i, y] of values.entries()) {
        if (Number.isFinite(y)) cells[rowOf(y)]![Math.floor((i * width) / POINTS)] = mark;
      }
    }
    lines.push(`  ${title(curve)}    # loss   . slope by the log-prob   (${short(low)} to ${short(high)})`);
    lines.push(
      ...cells.map((row) => `  ${row.join("").trimEnd()}`),
      `  ${"0".padEnd(one)}1${" ".repeat(width - one - 4)}w ${LAST}`,
      "",
    );
  }
  return lines.join("\n");
}

/** Two panels side by side; colours that hold on light and dark ground. */
export function drawSvg(drawing: Drawing): string {
  const [panel, height, left, top] = [300, 200, 46, 46];
  const parts: string[] = [];
  drawing.curves.forEach((curve, k) => {
    const [low, high] = range(curve);
    const x0 = left + k * (panel + left);
    const x = (w: number): string => (x0 + (w / LAST) * panel).toFixed(1);
    const y = (v: number): string => (top + ((high - v) / (high - low)) * height).toFixed(1);
    const path = (values: readonly number[]): string => {
      let pen = false;
      return values
        .map((v, i) => {
          if (!Number.isFinite(v)) {
            pen = false;
            return "";
          }
          const step = `${pen ? "L" : "M"}${x(curve.ratios[i]!)} ${y(v)}`;
          pen = true;
          return step;
        })
        .join("");
    };
    parts.push(
      `<g><text x="${x0}" y="${top - 10}" class="t">${title(curve)}</text>`,
      `<path class="a" d="M${x(0)} ${y(0)}H${x(LAST)}M${x(1)} ${top}V${top + height}M${x(0)} ${top}V${top + height}"/>`,
      `<path class="l" d="${path(curve.loss)}"/><path class="s" d="${path(curve.slope)}"/>`,
      ...[0, 0.5, 1, 1.5, 2, 2.5].map(
        (w) => `<text x="${x(w)}" y="${top + height + 16}" class="n" text-anchor="middle">${w}</text>`,
      ),
      ...[low, 0, high]
        .filter((v) => v !== 0 || [low, high].every((end) => end === 0 || Math.abs(Number(y(end)) - Number(y(0))) > 13))
        .filter((v, i, all) => all.indexOf(v) === i)
        .map((v) => `<text x="${x0 - 5}" y="${Number(y(v)) + 4}" class="n" text-anchor="end">${short(v)}</text>`),
      "</g>",
    );
  });
  const width = 2 * (panel + left) + 20;
  const legend = `<path class="l" d="M${width - 210} 14h24"/><text x="${width - 181}" y="18" class="n">loss</text><path class="s" d="M${width - 140} 14h24"/><text x="${width - 111}" y="18" class="n">slope by log-prob</text>`;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${top + height + 30}" font-family="system-ui, sans-serif" role="img" aria-label="${drawing.rule.name}: loss and slope over the ratio">
<style>.l,.s,.a{fill:none}.l{stroke:#2477c9;stroke-width:2}.s{stroke:#d9722b;stroke-width:2;stroke-dasharray:5 3}.a{stroke:#8888;stroke-width:1}.t{font-size:13px;font-weight:600;fill:#888}.n{font-size:11px;fill:#888}</style>
<text x="${left}" y="18" class="t">${drawing.rule.name} over the ratio w</text>${legend}
${parts.join("\n")}
</svg>
`;
}

/** A page in Markdown: formula, source, parameters, what the check found, and the plot `NAME.svg` beside it. */
export async function pageOf(name: string, folder?: string): Promise<{ page: string; svg: string }> {
  const { probe, rule } = await openRule(name, folder);
  try {
    const drawing = await drawWith(probe, rule);
    const report = await checkRule(probe, rule);
    const rows = rule.parameters.map((p) => `| \`${p.name}\` | ${p.value} | ${p.min} to ${p.max} | ${p.reason} |`);
    const page = [
      `# ${rule.name}`,
      "",
      "```",
      rule.formula,
      "```",
      `${rule.source}`,
      "",
      "| parameter | default | range | why |",
      "| --- | --- | --- | --- |",
      ...rows,
      "",
      `![loss and slope over the ratio](${rule.name}.svg)`,
      "",
      "`rank-grpo objective check`:",
      "```",
      formatReport(report),
      "```",
      "",
    ].join("\n");
    return { page, svg: drawSvg(drawing) };
  } finally {
    probe.close();
  }
}
