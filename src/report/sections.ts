// What a report shows, in which order: each section is a heading, a sentence on how to read it, and pictures of the metrics that are there.
import { type Bar, bars, curveChart, heatChart, type Line, letterOf } from "./charts.ts";
import type { StoredEvaluation } from "./evaluations.ts";
import { html, type Markup, shortNumber } from "./html.ts";
import { alike, flatConfig, type RunGroup, seedsOf } from "./runs.ts";
import {
  curve,
  hasMetric,
  heat,
  lastValues,
  meanValues,
  metricNames,
  type Point,
  profile,
  rangeCurve,
} from "./series.ts";

export interface Section {
  readonly id: string;
  readonly title: string;
  readonly intro: string;
  readonly body: readonly Markup[];
}

/** Title and reading of the metrics that have a picture of their own. */
const pictures = {
  "reward/mean": ["Reward of a list", "Sum of the rank rewards of a sampled list, mean over the step's rollouts."],
  "groups/live": [
    "Live groups",
    "Share of prompts whose rollouts differ in reward at some rank. Only these give a gradient from the reward.",
  ],
  "ranks/live": ["Live ranks", "Share of (prompt, rank) pairs whose rollouts differ in reward."],
  "policy/kl": ["KL divergence", "From the frozen reference, mean over tokens. Rises as the policy moves away."],
  "policy/clip_low": ["Clipped below", "Share of tokens held by the lower end of the clip range. 0 on-policy."],
  "policy/clip_high": ["Clipped above", "Share of tokens held by the upper end of the clip range. 0 on-policy."],
  "policy/loss": ["Loss", "The objective, KL term included. Its level says little; jumps do."],
  "policy/logprob_mean": ["Log-prob of sampled tokens", "Nats. Towards 0: the policy becomes surer, its lists alike."],
  "policy/mismatch_max": [
    "Sampler against trainer",
    "Largest difference of a token's log-prob between sampling and training. 0 in f32, unless determinism is fast.",
  ],
  "optimizer/grad_norm": ["Gradient norm", "Global, before clipping."],
  "optimizer/learning_rate": ["Learning rate", "After warm-up and schedule."],
  "sft/loss": ["Loss of demonstrations", "Mean negative log-likelihood of the completion's tokens, nats."],
  "list/duplicates": ["Repeats in a list", "Items of a sampled list that name an earlier one again."],
  "list/in_catalog": ["In the catalogue", "Share of the ranks whose item is in the catalogue."],
  "list/items": ["Length of a list", "Lines of a sampled list."],
  "rollout/tokens": ["Tokens of a list", "Mean length of a completion."],
  "rollout/stopped": ["Lists that end by themselves", "Share that ends with a stop token, not at the length limit."],
  "memory/rss_mb": ["Memory", "Resident memory of the process, MiB."],
  "time/tokens_per_second": ["Tokens per second", "Of the update."],
} as const satisfies Record<string, readonly [title: string, what: string]>;

type Pictured = keyof typeof pictures;

function draw(
  groups: readonly RunGroup[],
  title: string,
  what: string,
  of: (group: RunGroup) => Point[],
  lines: readonly Line[] = [],
): Markup[] {
  const series = groups.map((group, index) => ({ group: index, points: of(group) }));
  return series.some(({ points }) => points.length > 0) ? [curveChart({ title, what, x: "step", series, lines })] : [];
}

const pictured = (groups: readonly RunGroup[], ...metrics: readonly Pictured[]): Markup[] =>
  metrics.flatMap((metric) => {
    const [title, what] = pictures[metric];
    return draw(groups, title, what, (group) => curve(group, metric));
  });

/** The first and the last tenth of a run by rank. */
function byRank(groups: readonly RunGroup[], metric: string, title: string, what: string): Markup[] {
  const series = groups.flatMap((group, index) => [
    { group: index, points: profile(group, metric, "first"), faint: true },
    { group: index, points: profile(group, metric, "last") },
  ]);
  return series.some(({ points }) => points.length > 0) ? [curveChart({ title, what, x: "rank", series })] : [];
}

const tenth = "Full line: last tenth of the run. Dotted: first tenth.";

export function validationSection(
  groups: readonly RunGroup[],
  evaluations: readonly StoredEvaluation[],
): Section | undefined {
  const names = metricNames(groups)
    .filter((name) => /^validation\/(?!rows|dialogues)/.test(name))
    .sort((a, b) => validationOrder(a) - validationOrder(b));
  const lines = (metric: string): Line[] => {
    const found = new Map<string, number[]>();
    for (const { baselines } of evaluations)
      for (const [label, means] of Object.entries(baselines))
        if (means[metric] !== undefined) found.set(label, [...(found.get(label) ?? []), means[metric]]);
    const byValue = new Map<number, string[]>();
    for (const [label, values] of found) {
      const value = average(values);
      byValue.set(value, [...(byValue.get(value) ?? []), label]);
    }
    return [...byValue].map(([value, labels]) => ({ label: labels.join(", "), value }));
  };
  const seen = new Set<string>();
  const body = names.flatMap((name) => {
    const metric = name.replace("validation/", "");
    const drawn = groups.map((group) => curve(group, name));
    // with lists of 10, @15 and @20 say what @10 says
    const content = `${metric.replace(/@\d+$/, "")} ${JSON.stringify(drawn.map((points) => points.map((p) => p.y)))}`;
    if (seen.has(content)) return [];
    seen.add(content);
    const [title, what] = validationTitle(metric);
    return draw(groups, title, what, (group) => drawn[groups.indexOf(group)]!, lines(metric));
  });
  if (body.length === 0) return undefined;
  const measured = [...new Set(evaluations.filter((e) => Object.keys(e.baselines).length > 0).map((e) => e.data))];
  return {
    id: "validation",
    title: "Validation",
    intro:
      "Greedy lists on held-out dialogues, measured as evaluate does." +
      (measured.length > 0
        ? ` Dashed lines: baselines without a model, measured on ${measured.length > 1 ? "(means over) " : ""}${measured.join(", ")}.`
        : ""),
    body,
  };
}

/** NDCG and Recall by k first; the rest as they come. */
function validationOrder(name: string): number {
  const [, metric, k] = /(recall|ndcg)@(\d+)$/.exec(name) ?? [];
  return metric === undefined ? 1e6 : Number(k) + (metric === "recall" ? 1e3 : 0);
}

function validationTitle(metric: string): [title: string, what: string] {
  const [, name, k] = /^(recall|ndcg)@(\d+)$/.exec(metric) ?? [];
  if (name === "recall") return [`Recall@${k}`, `Share of the wanted items found among the first ${k}.`];
  if (name === "ndcg")
    return [`NDCG@${k}`, `Wanted items among the first ${k}, those nearer the top counting more; 1 is perfect.`];
  if (metric === "in_catalog") return ["In the catalogue", "Share of the first 20 items that exist (year within 2)."];
  if (metric === "duplicates") return ["Repeats in a list", "Items of a greedy list that name an earlier one again."];
  if (metric === "loss")
    return ["Loss on held-out demonstrations", "Nats a token. Rises while training's falls: overfitting."];
  const words = metric.replace(/_/g, " ");
  return [words.charAt(0).toUpperCase() + words.slice(1), "Mean over validation lists."];
}

export function rewardSection(groups: readonly RunGroup[]): Section | undefined {
  const maps = groups.flatMap((group, index) => {
    const columns = heat(group, "reward/by_rank");
    return columns.length > 0 ? [{ group, index, columns }] : [];
  });
  const values = maps.flatMap(({ columns }) => columns.flatMap((column) => column.values));
  const range: [number, number] = [Math.min(0, ...values), Math.max(...values)];
  const body = [
    ...pictured(groups, "reward/mean"),
    ...pictured(groups, "groups/live", "ranks/live"),
    ...byRank(groups, "reward/by_rank", "Reward by rank", `Mean reward of each place of the list. ${tenth}`),
    ...byRank(
      groups,
      "ranks/live_by_rank",
      "Live ranks by rank",
      `Share of prompts with a signal at this rank. ${tenth}`,
    ),
    ...maps.map(({ group, index, columns }) =>
      heatChart({
        title: `${letterOf(index)}: reward by rank over time`,
        what: `${group.label}. Stronger colour is more; the scale is the same for all maps.`,
        columns,
        range,
      }),
    ),
  ];
  return body.length === 0
    ? undefined
    : {
        id: "reward",
        title: "Reward and signal",
        intro: "What sampled lists earn, where in the list, and how many groups have anything to learn from.",
        body,
      };
}

export function policySection(groups: readonly RunGroup[]): Section | undefined {
  const ratio = draw(
    groups,
    "Importance ratio",
    "Line: mean over segments. Band: from the least to the largest. Exactly 1 on-policy.",
    (group) => rangeCurve(group, "policy/ratio_mean", "policy/ratio_min", "policy/ratio_max"),
  );
  const body = [
    ...pictured(groups, "sft/loss", "policy/kl"),
    ...ratio,
    ...pictured(
      groups,
      "policy/clip_low",
      "policy/clip_high",
      "policy/loss",
      "policy/logprob_mean",
      "policy/mismatch_max",
      "optimizer/grad_norm",
      "optimizer/learning_rate",
    ),
  ];
  return body.length === 0
    ? undefined
    : { id: "policy", title: "Policy and optimizer", intro: "How far and how fast the policy moves.", body };
}

export function listSection(groups: readonly RunGroup[]): Section | undefined {
  const body = [
    ...pictured(groups, "list/duplicates"),
    ...byRank(
      groups,
      "list/duplicates_by_rank",
      "Repeats by rank",
      `Share of lists that repeat at this rank. ${tenth}`,
    ),
    ...pictured(groups, "list/in_catalog"),
    ...byRank(
      groups,
      "list/in_catalog_by_rank",
      "In the catalogue by rank",
      `Share of lists with an existing item here. ${tenth}`,
    ),
    ...pictured(groups, "list/items", "rollout/tokens", "rollout/stopped"),
  ];
  return body.length === 0
    ? undefined
    : { id: "lists", title: "Lists", intro: "What sampled lists look like: repeats, inventions, length.", body };
}

const average = (values: readonly number[]): number => values.reduce((sum, x) => sum + x, 0) / values.length;

const milliseconds = (value: number): string =>
  value < 1000 ? `${Math.round(value)} ms` : `${(value / 1000).toFixed(value < 10_000 ? 2 : 1)} s`;

export function timeSection(groups: readonly RunGroup[]): Section | undefined {
  const phases = metricNames(groups).filter((name) => /^time\/.+_ms$/.test(name));
  const phaseName = (metric: string): string => metric.slice(5, -3).replace(/_/g, " ");
  const rows = groups.flatMap((group, index): Bar[] => {
    const parts = phases.flatMap((metric) => {
      const values = meanValues(group, metric);
      if (values.length === 0) return [];
      return [{ name: phaseName(metric), value: average(values), text: milliseconds(average(values)) }];
    });
    return parts.length > 0 ? [{ name: `${letterOf(index)}: ${group.label}`, parts }] : [];
  });
  const body = [
    ...(rows.length > 0
      ? [
          html`<figure class="chart"><figcaption><h4>Time of a step by phase</h4><p>Mean over steps and seeds; validation and checkpoints not counted.</p></figcaption>${bars(rows, phases.map(phaseName))}</figure>`,
        ]
      : []),
    ...phases.flatMap((metric) =>
      draw(groups, `Time: ${phaseName(metric)}`, "Milliseconds a step.", (group) => curve(group, metric)),
    ),
    ...pictured(groups, "time/tokens_per_second"),
    ...metricNames(groups)
      .filter((name) => name.startsWith("memory/") && !(name in pictures))
      .flatMap((name) => draw(groups, name, "MiB where the name says mb.", (group) => curve(group, name))),
    ...pictured(groups, "memory/rss_mb"),
  ];
  return body.length === 0
    ? undefined
    : { id: "time", title: "Time and memory", intro: "Where the time goes. Compare only runs of one machine.", body };
}

/** Metrics that no other section shows, such as those of an own objective. */
export function otherSection(groups: readonly RunGroup[]): Section | undefined {
  const elsewhere = /^(validation|time|memory)\/|^policy\/ratio_|_by_rank$|\/by_rank$|\/std$|\/rows$|^sft\/tokens$/;
  const body = metricNames(groups)
    .filter((name) => !(name in pictures) && !elsewhere.test(name))
    .flatMap((name) => draw(groups, name, "", (group) => curve(group, name)));
  return body.length === 0 ? undefined : { id: "other", title: "Further metrics", intro: "", body };
}

const range = (values: readonly number[]): string => {
  if (values.length === 0) return "–";
  const middle = shortNumber(average(values));
  return values.length === 1
    ? middle
    : `${middle} (${shortNumber(Math.min(...values))} to ${shortNumber(Math.max(...values))})`;
};

export function summaryTable(groups: readonly RunGroup[]): Markup {
  const best = groups.map((group) => {
    const metric = (group.runs[0]!.config["validation"] as { metric?: string } | undefined)?.metric;
    const values = group.runs.flatMap((run) => {
      const all = run.rows
        .map((row) => row.values[`validation/${metric}`])
        .filter((value) => typeof value === "number");
      return all.length > 0 ? [Math.max(...all)] : [];
    });
    return metric === undefined || values.length === 0 ? "–" : `${metric} ${range(values)}`;
  });
  const steps = (group: RunGroup): string => {
    const done = group.runs.map((run) => run.rows.at(-1)?.step ?? 0);
    return [...new Set(done)].sort((a, b) => a - b).join(", ");
  };
  const state = (group: RunGroup): string =>
    [...new Set(group.runs.map((run) => run.status?.state ?? "unknown"))].join(", ");
  const reward = groups.some((group) => hasMetric(group, "reward/mean"));
  return html`<div class="scroll" tabindex="0"><table class="summary"><thead><tr><th scope="col">Group</th><th scope="col">Seeds</th><th scope="col">Steps</th><th scope="col">State</th><th scope="col">Best validation</th>${
    reward && html`<th scope="col">Reward, last tenth</th>`
  }</tr></thead><tbody>${groups.map(
    (group, index) =>
      html`<tr data-group="${index}"><th scope="row">${letterOf(index)}: ${group.label}</th><td>${seedsOf(group).join(", ")}</td><td>${steps(group)}</td><td>${state(group)}</td><td>${best[index]!}</td>${
        reward && html`<td>${range(lastValues(group, "reward/mean"))}</td>`
      }</tr>`,
  )}</tbody></table></div>`;
}

/** What the evaluations found, baselines below each data set. */
export function testSection(evaluations: readonly StoredEvaluation[]): Section | undefined {
  if (evaluations.length === 0) return undefined;
  const columns = ["recall@5", "recall@10", "recall@20", "ndcg@5", "ndcg@10", "ndcg@20", "in_catalog", "duplicates"];
  const cell = (means: Readonly<Record<string, number>>, metric: string): string => {
    const value = means[metric];
    if (value === undefined) return "–";
    const error = means[`${metric}_stderr_dialogue`] ?? means[`${metric}_stderr`];
    return `${shortNumber(value)}${error === undefined || error === 0 ? "" : ` ± ${shortNumber(error)}`}`;
  };
  const row = (name: string, means: Readonly<Record<string, number>>): Markup =>
    html`<tr><th scope="row">${name}</th>${columns.map((metric) => html`<td>${cell(means, metric)}</td>`)}</tr>`;
  const data = [...new Set(evaluations.map((evaluation) => evaluation.data))];
  const tables = data.map((file) => {
    const of = evaluations.filter((evaluation) => evaluation.data === file);
    const baselines = new Map(of.flatMap((evaluation) => Object.entries(evaluation.baselines)));
    const rows = of[0]!.means["rows"];
    return html`<div class="scroll wide" tabindex="0"><table><caption>${file}${rows !== undefined && `, ${rows} rows`}; ${[...new Set(of.map((e) => `${e.truncation}, ${e.ideal} ideal`))].join("; ")}</caption><thead><tr><th scope="col">Lists of</th>${columns.map(
      (metric) => html`<th scope="col">${metric.replace("_", " ")}</th>`,
    )}</tr></thead><tbody>${of.map((evaluation) => row(evaluation.source, evaluation.means))}${[...baselines].map(
      ([name, means]) => row(name, means),
    )}</tbody></table></div>`;
  });
  return {
    id: "test",
    title: "Evaluations",
    intro: "Means over rows ± standard error (clustered by dialogue). rank-grpo compare tests differences.",
    body: tables,
  };
}

export function configSection(groups: readonly RunGroup[]): Section {
  const firsts = groups.map((group) => group.runs[0]!);
  const flat = firsts.map(flatConfig);
  const keys = [...new Set(flat.flatMap((config) => [...config.keys()]))];
  const differing = keys.filter((key) =>
    flat.some((config, i) => !alike(firsts[0]!, flat[0]!.get(key), firsts[i]!, config.get(key))),
  );
  const text = (value: unknown): string => (typeof value === "string" ? value : (JSON.stringify(value) ?? "–"));
  const table =
    groups.length > 1 &&
    html`<div class="scroll wide" tabindex="0"><table class="summary"><caption>What differs between the groups</caption><thead><tr><th scope="col">Key</th>${groups.map(
      (_, index) => html`<th scope="col">${letterOf(index)}</th>`,
    )}</tr></thead><tbody>${differing.map(
      (key) =>
        html`<tr><th scope="row"><code>${key}</code></th>${flat.map((config) => html`<td>${text(config.get(key))}</td>`)}</tr>`,
    )}</tbody></table></div>`;
  return {
    id: "configuration",
    title: "Configuration",
    intro: "",
    body: [
      html`${table}`,
      ...groups.map(
        (group, index) =>
          html`<details class="wide"><summary>${letterOf(index)}: ${group.label}</summary><pre>${group.runs[0]!.configText}</pre></details>`,
      ),
    ],
  };
}
