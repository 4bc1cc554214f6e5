// Pictures as inline SVG: curves with bands, and heat maps. Colours come from the page's style (light, dark, print); groups are told
// apart by letter, dash and colour alike. The data for tooltips stand in data-chart, read by the page's script.
import { html, type Markup, shortNumber } from "./html.ts";
import type { HeatColumn, Point } from "./series.ts";

export interface Series {
  /** Index of the group: its letter, colour and dash. */
  readonly group: number;
  readonly points: readonly Point[];
  /** Drawn thin and dotted: the beginning of a run beside its end. */
  readonly faint?: boolean;
}

export interface Line {
  readonly label: string;
  readonly value: number;
}

export interface CurveChart {
  readonly title: string;
  /** What it shows and how to read it. */
  readonly what: string;
  /** Name of the x axis. */
  readonly x: "step" | "rank";
  readonly series: readonly Series[];
  /** Horizontal lines. */
  readonly lines?: readonly Line[];
}

export interface HeatChart {
  readonly title: string;
  readonly what: string;
  readonly columns: readonly HeatColumn[];
  /** Smallest and largest of all maps that are looked at together. */
  readonly range: readonly [number, number];
}

/** A, B, ..., Z, A2, ... */
export const letterOf = (group: number): string =>
  String.fromCharCode(65 + (group % 26)) + (group < 26 ? "" : String(Math.floor(group / 26) + 1));

/** Colours in the page's style: --c0 to --c7. */
export const colors = 8;
const dashes = ["", "7 3", "2 3", "9 3 2 3", "4 2", "12 4", "2 2 6 2", "1 4"];
const styleOf = (group: number): Markup =>
  html`stroke="var(--c${group % colors})" stroke-dasharray="${dashes[(group + Math.floor(group / colors)) % dashes.length]!}"`;

const size = { width: 440, height: 236, left: 54, right: 30, top: 12, bottom: 36 };
const plot = { width: size.width - size.left - size.right, height: size.height - size.top - size.bottom };

const round = (value: number): number => Math.round(value * 100) / 100;

/** Round numbers from low to high, about `count` of them. */
export function ticks(low: number, high: number, count: number, whole = false): number[] {
  const raw = (high - low) / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(raw));
  const nice = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= raw * 0.999)!;
  const step = whole ? Math.max(1, Math.round(nice)) : nice;
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

/** Widened a little, and never empty. */
function domain(values: readonly number[]): [number, number] {
  let low = Math.min(...values);
  let high = Math.max(...values);
  if (low > 0 && low < 0.35 * high) low = 0;
  if (high === low) {
    const around = Math.abs(low) * 0.1 || 1;
    return low === 0 ? [0, 1] : [low - around, high + around];
  }
  const room = (high - low) * 0.06;
  high += room;
  if (low !== 0) low -= room;
  return [low, high];
}

/** Moves labels apart: at least `gap` between neighbours, within [top, bottom]. */
function spread(wanted: readonly number[], gap: number, top: number, bottom: number): number[] {
  const order = [...wanted.keys()].sort((a, b) => wanted[a]! - wanted[b]!);
  const placed = [...wanted];
  let free = top;
  for (const i of order) {
    placed[i] = Math.max(placed[i]!, free);
    free = placed[i]! + gap;
  }
  let limit = bottom;
  for (const i of order.toReversed()) {
    placed[i] = Math.min(placed[i]!, limit);
    limit = placed[i]! - gap;
  }
  return placed;
}

/** Numbers of one axis with the same number of decimals. */
function tickLabels(values: readonly number[]): string[] {
  const largest = Math.max(...values.map(Math.abs));
  if (largest > 0 && (largest < 1e-3 || largest >= 1e6)) return values.map(shortNumber);
  let decimals = 0;
  while (decimals < 6 && values.some((value) => Math.abs(value - Number(value.toFixed(decimals))) > 1e-9)) decimals++;
  return values.map((value) => (largest >= 1000 ? shortNumber(value) : value.toFixed(decimals).replace("-", "−")));
}

export function curveChart(chart: CurveChart): Markup {
  const drawn = chart.series.filter((series) => series.points.length > 0);
  const points = drawn.flatMap((series) => series.points);
  const lines = chart.lines ?? [];
  const xs = points.map((point) => point.x);
  const [x0, x1] = [Math.min(...xs), Math.max(Math.min(...xs) + 1, ...xs)];
  const [y0, y1] = domain([...points.flatMap((p) => [p.y, p.low, p.high]), ...lines.map((line) => line.value)]);
  const left = (x: number): number => round(size.left + ((x - x0) / (x1 - x0)) * plot.width);
  const top = (y: number): number => round(size.top + (1 - (y - y0) / (y1 - y0)) * plot.height);
  const yTicks = ticks(y0, y1, 4);
  const yLabels = tickLabels(yTicks);

  const grid = yTicks.map(
    (y, i) =>
      html`<path class="grid" d="M${size.left} ${top(y)}h${plot.width}"/><text x="${size.left - 6}" y="${top(y) + 4}" text-anchor="end">${yLabels[i]!}</text>`,
  );
  const axis = ticks(x0, x1, 5, true).map(
    (x) =>
      html`<text x="${left(x)}" y="${size.height - size.bottom + 16}" text-anchor="middle">${shortNumber(x)}</text>`,
  );
  const lineLabels = spread(
    lines.map((line) => top(line.value) - 4),
    12,
    size.top + 10,
    size.height - size.bottom - 2,
  );
  const baselines = lines.map(
    ({ label, value }, i) =>
      html`<path class="baseline" d="M${size.left} ${top(value)}h${plot.width}"/><text class="baseline-name" x="${size.left + 4}" y="${lineLabels[i]!}">${label} ${shortNumber(value)}</text>`,
  );
  const ends = drawn.filter((series) => !series.faint);
  const places = spread(
    ends.map((series) => top(series.points.at(-1)!.y) + 4),
    13,
    size.top + 8,
    size.height - size.bottom + 4,
  );
  const curves = drawn.map((series) => {
    const path = series.points.map(({ x, y }, i) => `${i === 0 ? "M" : "L"}${left(x)} ${top(y)}`).join("");
    const band = [
      ...series.points.map(({ x, high }) => `${left(x)} ${top(high)}`),
      ...series.points.toReversed().map(({ x, low }) => `${left(x)} ${top(low)}`),
    ].join("L");
    const wide = !series.faint && series.points.some(({ low, high }) => high > low);
    const dots = series.points.length <= 25 && !series.faint ? series.points : [];
    const end = ends.indexOf(series);
    return html`<g data-group="${series.group}">${wide && html`<path class="band" fill="var(--c${series.group % colors})" d="M${band}Z"/>`}<path class="${series.faint ? "curve faint" : "curve"}" ${styleOf(series.group)} d="${path}"/>${dots.map(
      ({ x, y }) => html`<circle fill="var(--c${series.group % colors})" cx="${left(x)}" cy="${top(y)}" r="2.6"/>`,
    )}${end >= 0 && html`<text class="letter" style="fill:var(--c${series.group % colors})" x="${left(series.points.at(-1)!.x) + 6}" y="${places[end]!}">${letterOf(series.group)}</text>`}</g>`;
  });
  const data = {
    x: chart.x,
    plot: [size.left, size.top, plot.width, plot.height],
    domain: [x0, x1],
    series: drawn.map((series) => ({
      group: series.group,
      name: letterOf(series.group) + (series.faint ? " first" : ""),
      points: series.points.map(({ x, y, low, high }) =>
        (high > low ? [x, y, low, high] : [x, y]).map((value) => Number(value.toPrecision(5))),
      ),
    })),
  };
  const summary = drawn
    .filter((series) => !series.faint)
    .map(({ group, points: [first, ...rest] }) => {
      const last = rest.at(-1) ?? first!;
      return `${letterOf(group)} from ${shortNumber(first!.y)} at ${chart.x} ${first!.x} to ${shortNumber(last.y)} at ${chart.x} ${last.x}`;
    })
    .join("; ");
  return figure(
    chart,
    data,
    `${chart.title}: ${summary}`,
    html`${grid}<path class="axis" d="M${size.left} ${size.height - size.bottom}h${plot.width}"/>${axis}<text class="axis-name" x="${size.left + plot.width / 2}" y="${size.height - 4}" text-anchor="middle">${chart.x}</text>${baselines}${curves}`,
    curveTable(chart, drawn),
  );
}

/** Rows of a chart's table at most; the rest are in metrics.jsonl. */
const tableRows = 25;

function curveTable(chart: CurveChart, drawn: readonly Series[]): Markup {
  const xs = [...new Set(drawn.flatMap((series) => series.points.map((point) => point.x)))].sort((a, b) => a - b);
  const every = Math.ceil(xs.length / tableRows);
  const shown = xs.filter((_, i) => i % every === 0 || i === xs.length - 1);
  const cell = (point: Point | undefined): string =>
    point === undefined
      ? ""
      : point.high > point.low
        ? `${shortNumber(point.y)} (${shortNumber(point.low)} to ${shortNumber(point.high)})`
        : shortNumber(point.y);
  return html`<table><thead><tr><th scope="col">${chart.x}</th>${drawn.map(
    (series) => html`<th scope="col">${letterOf(series.group)}${series.faint && ", first tenth"}</th>`,
  )}</tr></thead><tbody>${shown.map(
    (x) =>
      html`<tr><th scope="row">${x}</th>${drawn.map(
        (series) => html`<td>${cell(series.points.find((point) => point.x === x))}</td>`,
      )}</tr>`,
  )}</tbody></table>`;
}

export function heatChart(chart: HeatChart): Markup {
  const { columns } = chart;
  const ranks = Math.max(...columns.map((column) => column.values.length));
  const [low, high] = chart.range;
  const width = plot.width / columns.length;
  const height = plot.height / ranks;
  const shade = (value: number): number => (high > low ? Math.round(100 * ((value - low) / (high - low))) / 100 : 0);
  // one path for each shade: far fewer elements than cells
  const cells = new Map<number, string>();
  for (const [i, { values }] of columns.entries())
    for (const [k, value] of values.entries()) {
      const x = round(size.left + i * width);
      const y = round(size.top + k * height);
      const path = `M${x} ${y}h${round(width)}v${round(height)}h${-round(width)}z`;
      cells.set(shade(value), (cells.get(shade(value)) ?? "") + path);
    }
  const rankTicks = [1, ...ticks(1, ranks, 4, true).filter((rank) => rank > 1)];
  const names = rankTicks.map(
    (rank) =>
      html`<text x="${size.left - 6}" y="${round(size.top + (rank - 0.5) * height) + 4}" text-anchor="end">${rank}</text>`,
  );
  const stepOf = columns.map((column) => column.step);
  const steps = ticks(stepOf[0]!, Math.max(stepOf.at(-1)!, stepOf[0]! + 1), 5, true).map((step) => {
    const column = stepOf.findIndex((last) => last >= step);
    const x = round(size.left + ((column < 0 ? columns.length : column) + 0.5) * width);
    return html`<text x="${x}" y="${size.height - size.bottom + 16}" text-anchor="middle">${shortNumber(step)}</text>`;
  });
  const data = {
    plot: [size.left, size.top, plot.width, plot.height],
    steps: stepOf,
    cells: columns.map((column) => column.values.map((value) => Number(value.toPrecision(3)))),
  };
  const [first, last] = [columns[0]!, columns.at(-1)!];
  const every2 = Math.ceil(columns.length / 12);
  const shown = columns.filter((_, i) => i % every2 === 0 || i === columns.length - 1);
  return figure(
    chart,
    data,
    `${chart.title}: rank 1 from ${shortNumber(first.values[0]!)} to ${shortNumber(last.values[0]!)}, rank ${ranks} from ${shortNumber(first.values.at(-1)!)} to ${shortNumber(last.values.at(-1)!)}`,
    html`<rect class="ground" x="${size.left}" y="${size.top}" width="${plot.width}" height="${plot.height}"/>${[
      ...cells,
    ]
      .filter(([opacity]) => opacity > 0)
      .map(
        ([opacity, path]) => html`<path class="cell" fill-opacity="${opacity}" d="${path}"/>`,
      )}${names}<text class="axis-name" x="14" y="${size.top + plot.height / 2}" text-anchor="middle" transform="rotate(-90 14 ${size.top + plot.height / 2})">rank</text>${steps}<text class="axis-name" x="${size.left + plot.width / 2}" y="${size.height - 4}" text-anchor="middle">step</text>`,
    html`<table><thead><tr><th scope="col">step</th>${Array.from({ length: ranks }, (_, k) => html`<th scope="col">${k + 1}</th>`)}</tr></thead><tbody>${shown.map(
      ({ step, values }) =>
        html`<tr><th scope="row">${step}</th>${values.map((value) => html`<td>${shortNumber(value)}</td>`)}</tr>`,
    )}</tbody></table>`,
    html`<p class="scale"><span>${shortNumber(low)}</span><span class="ramp" aria-hidden="true"></span><span>${shortNumber(high)}</span></p>`,
  );
}

function figure(
  { title, what }: { title: string; what: string },
  data: object,
  summary: string,
  drawing: Markup,
  table: Markup,
  below?: Markup,
): Markup {
  return html`<figure class="chart"><figcaption><h4>${title}</h4><p>${what}</p></figcaption>
<div class="plot"><svg viewBox="0 0 ${size.width} ${size.height}" role="img" aria-label="${summary}" tabindex="0" data-chart="${JSON.stringify(data)}">${drawing}<path class="cursor" d="" /></svg><output class="tip" hidden></output>${below}</div>
<details class="values"><summary>Values</summary><div class="scroll" tabindex="0">${table}</div></details></figure>
`;
}

export interface Bar {
  readonly name: string;
  readonly parts: readonly { readonly name: string; readonly value: number; readonly text: string }[];
}

/** Horizontal bars made of parts; each part says its name and value in words below the bar. */
export function bars(rows: readonly Bar[], partNames: readonly string[]): Markup {
  const longest = Math.max(...rows.map((row) => row.parts.reduce((sum, part) => sum + part.value, 0)));
  return html`<div class="bars">${rows.map(
    (row) =>
      html`<p>${row.name}</p><div class="bar" aria-hidden="true">${row.parts.map(
        (part) =>
          html`<span class="p${partNames.indexOf(part.name) % 4}" style="width:${round((100 * part.value) / longest)}%"></span>`,
      )}</div><p class="parts">${row.parts.map(
        (part) =>
          html`<span><i class="p${partNames.indexOf(part.name) % 4}" aria-hidden="true"></i>${part.name} ${part.text}</span> `,
      )}</p>`,
  )}</div>`;
}

/** A group's line as in the charts, for the legend. */
export const swatch = (group: number): Markup =>
  html`<svg class="swatch" viewBox="0 0 34 12" width="34" height="12" aria-hidden="true"><path class="curve" ${styleOf(group)} d="M1 6h32"/></svg>`;
