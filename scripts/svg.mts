// Charts of the pages as SVG files that read well in light and dark.
export const escaped = (text: string): string =>
  text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
/** A whole file. Lines and dots take their colour from classes s0 to s6. */
export const svg = (width: number, height: number, title: string, body: string): string =>
  `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" aria-label="${escaped(title)}">
<title>${escaped(title)}</title>
<style>
text { font: 12px system-ui, sans-serif; fill: #24292f; }
.faint { fill: #57606a; } .grid { stroke: #d0d7de; } .bar { fill: #0969da; } .bar.bf16 { fill: #8250df; } .bound { stroke: #cf222e; }
.s0 { --c: #0969da; } .s1 { --c: #8250df; } .s2 { --c: #1a7f37; } .s3 { --c: #9a6700; } .s4 { --c: #cf222e; } .s5 { --c: #bf3989; } .s6 { --c: #57606a; }
.line { fill: none; stroke: var(--c); stroke-width: 2; } .dot { fill: var(--c); } .band { fill: var(--c); opacity: 0.15; }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3; } .faint { fill: #8d96a0; } .grid { stroke: #30363d; } .bar { fill: #4493f8; } .bar.bf16 { fill: #ab7df8; } }
</style>
${body}
</svg>
`;

export interface Curve {
  readonly name: string;
  readonly points: readonly (readonly [x: number, y: number])[];
  /** Lowest and highest at every x, for a band. */
  readonly band?: readonly (readonly [x: number, low: number, high: number])[];
}

export interface Axis {
  readonly ticks: readonly number[];
  readonly label: (value: number) => string;
  readonly title: string;
}

/** Curves over a grid, with a legend at the right. Axes reach from the first tick to the last. */
export function curves(title: string, series: readonly Curve[], x: Axis, y: Axis): string {
  const [left, top, width, height] = [64, 16, 440, 300];
  const round = (value: number): string => value.toFixed(1);
  const scale = (axis: Axis, value: number): number =>
    (value - axis.ticks[0]!) / (axis.ticks.at(-1)! - axis.ticks[0]! || 1);
  const px = (value: number): string => round(left + width * scale(x, value));
  const py = (value: number): string => round(top + height * (1 - scale(y, value)));
  const grid = [
    ...x.ticks.map(
      (tick) =>
        `<line class="grid" x1="${px(tick)}" x2="${px(tick)}" y1="${top}" y2="${top + height}"/><text x="${px(tick)}" y="${top + height + 16}" text-anchor="middle">${x.label(tick)}</text>`,
    ),
    ...y.ticks.map(
      (tick) =>
        `<line class="grid" x1="${left}" x2="${left + width}" y1="${py(tick)}" y2="${py(tick)}"/><text x="${left - 6}" y="${Number(py(tick)) + 4}" text-anchor="end">${y.label(tick)}</text>`,
    ),
  ];
  const lines = series.map(({ name, points, band = [] }, s) => {
    const outline = [
      ...band.map(([at, low]) => [at, low] as const),
      ...band.toReversed().map(([at, , high]) => [at, high] as const),
    ];
    const list = (pairs: readonly (readonly [number, number])[]): string =>
      pairs.map(([a, b]) => `${px(a)},${py(b)}`).join(" ");
    const dash = s >= 7 ? ' stroke-dasharray="6 3"' : "";
    return (
      `<g class="s${s % 7}">${outline.length > 0 ? `<polygon class="band" points="${list(outline)}"/>` : ""}` +
      `<polyline class="line" points="${list(points)}"${dash}/>${points.map(([a, b]) => `<circle class="dot" cx="${px(a)}" cy="${py(b)}" r="2.5"/>`).join("")}` +
      `<rect class="dot" x="${left + width + 16}" y="${top + s * 20}" width="12" height="12"/></g><text x="${left + width + 34}" y="${top + 11 + s * 20}">${escaped(name)}</text>`
    );
  });
  const labels =
    `<text x="${left + width / 2}" y="${top + height + 34}" text-anchor="middle" class="faint">${escaped(x.title)}</text>` +
    `<text x="14" y="${top + height / 2}" text-anchor="middle" class="faint" transform="rotate(-90 14 ${top + height / 2})">${escaped(y.title)}</text>`;
  return svg(
    left + width + 330,
    top + Math.max(height + 44, series.length * 20),
    title,
    [...grid, ...lines, labels].join("\n"),
  );
}
