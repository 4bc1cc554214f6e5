// The report: run folders and evaluations in, one HTML file out that needs nothing beside itself.
import { existsSync } from "node:fs";
import { join, resolve } from "node:path";

import type { Sample } from "../data/sample.ts";
import { readSamples } from "../data/samples.ts";
import { refuse } from "../errors.ts";
import { Catalog } from "../ranking/catalog.ts";
import { browser } from "./browser.ts";
import { letterOf, swatch } from "./charts.ts";
import { readEvaluation, type StoredEvaluation } from "./evaluations.ts";
import { html, Markup } from "./html.ts";
import { evaluatedDialogues, rolloutDialogues } from "./lists.ts";
import { groupRuns, type RunGroup, readRuns, seedsOf } from "./runs.ts";
import {
  configSection,
  listSection,
  otherSection,
  policySection,
  rewardSection,
  type Section,
  summaryTable,
  testSection,
  timeSection,
  validationSection,
} from "./sections.ts";
import { script, style } from "./style.ts";

export interface ReportOptions {
  /** Run folders, folders of them, or NAME=FOLDER. At least one. */
  runs: readonly string[];
  /** Default "Rank-GRPO: what the runs did". */
  title?: string;
  /** Evaluation files whose figures and baselines are shown; a run's own evaluation.json is found without being named. */
  evaluations?: readonly string[];
  /** Evaluation files whose lists are shown side by side; both or neither, with `data` and `catalog`. */
  before?: string;
  after?: string;
  /** The samples that were evaluated. Rollouts are of the run's own training file; this one where that is not at hand. */
  data?: string;
  /** Of the evaluated samples; for rollouts likewise. */
  catalog?: string;
  /** Dialogues in the browser, the first of the file; default 200. */
  dialogues?: number;
}

/** Steps whose rollouts are shown of each group. */
const rolloutSteps = 24;

/** @throws IO, BAD_DATA, INVALID_ARGUMENT; the same inputs give the same text */
export async function makeReport(options: ReportOptions): Promise<string> {
  const { runs: paths, title = "Rank-GRPO: what the runs did", dialogues: count = 200 } = options;
  if (paths.length === 0) refuse("INVALID_ARGUMENT", "at least one run folder", "runs", "none");
  if ((options.before === undefined) !== (options.after === undefined))
    refuse("INVALID_ARGUMENT", "both or neither", "before and after", "one of them");
  const runs = await readRuns(paths);
  const groups = groupRuns(runs);
  const own = runs.map((run) => join(run.folder, "evaluation.json")).filter((file) => existsSync(file));
  const read = await Promise.all([...(options.evaluations ?? []), ...own].map(readEvaluation));
  const evaluations = [...new Map(read.map((evaluation) => [resolve(evaluation.file), evaluation])).values()]; // a run's own may be given too
  const sections = [
    validationSection(groups, evaluations),
    testSection(evaluations),
    rewardSection(groups),
    listSection(groups),
    policySection(groups),
    timeSection(groups),
    otherSection(groups),
    ...(await beforeAndAfter(options, count)),
    ...(await rollouts(options, groups)),
    configSection(groups),
  ].filter((section) => section !== undefined);
  return page(title, groups, evaluations, sections).text;
}

async function beforeAndAfter(options: ReportOptions, count: number): Promise<Section[]> {
  const { before, after, data, catalog } = options;
  if (before === undefined || after === undefined) return [];
  if (data === undefined || catalog === undefined)
    refuse("INVALID_ARGUMENT", "data and catalog", "before and after", "lists alone", "Say which rows were evaluated.");
  const evaluations = [
    { caption: "before", evaluation: await readEvaluation(before) },
    { caption: "after", evaluation: await readEvaluation(after) },
  ];
  const dialogues = evaluatedDialogues(evaluations, await readSamples(data), await Catalog.load(catalog), count);
  if (dialogues.length === 0) refuse("BAD_DATA", `samples of ${before} and ${after}`, data, "none of them");
  const [a, b] = evaluations.map(({ evaluation }) => evaluation.source);
  return [
    {
      id: "dialogues",
      title: "Dialogues: lists before and after",
      intro: `Before: ${a}. After: ${b}. The first ${dialogues.length} rows of ${data}, not chosen.`,
      body: [browser(dialogues)],
    },
  ];
}

/** Of each group's first seed; marked as far as its data and catalogue are at hand. */
async function rollouts(options: ReportOptions, groups: readonly RunGroup[]): Promise<Section[]> {
  const body: Markup[] = [];
  const read = new Map<string, Promise<Sample[]>>();
  for (const [index, group] of groups.entries()) {
    const run = group.runs[0]!;
    if (run.samples.length === 0) continue;
    // what the run itself used, where it still lies there, before what was given for all
    const file = (key: string, given: string | undefined): string | undefined =>
      [run.config[key], given].find((path): path is string => typeof path === "string" && existsSync(path));
    const data = file("train", options.data);
    const catalog = file("catalog", options.catalog);
    if (data !== undefined && !read.has(data)) read.set(data, readSamples(data));
    const samples = data === undefined ? [] : await read.get(data)!;
    const dialogues = rolloutDialogues(
      run.samples,
      {
        samples: new Map(samples.map((sample) => [sample.id, sample])),
        catalog: catalog === undefined ? undefined : await Catalog.load(catalog),
      },
      rolloutSteps,
    );
    body.push(
      html`<details class="part wide"><summary>${letterOf(index)}: ${group.label}, seed ${seedsOf(group)[0]}, ${dialogues.length} steps</summary>${browser(dialogues)}</details>`,
    );
  }
  if (body.length === 0) return [];
  return [
    {
      id: "rollouts",
      title: "Rollouts",
      intro:
        "Sampled lists of one prompt a step, from the first step to the last. Small figures: the rank's reward where it is not 0.",
      body,
    },
  ];
}

function page(
  title: string,
  groups: readonly RunGroup[],
  evaluations: readonly StoredEvaluation[],
  sections: readonly Section[],
): Markup {
  const several = groups.some((group) => group.runs.length > 1);
  const seeds = groups.reduce((sum, group) => sum + group.runs.length, 0);
  const counted = (n: number, word: string): string => `${n} ${word}${n === 1 ? "" : "s"}`;
  return html`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:">
<link rel="icon" href="data:,"><title>${title}</title><style>${new Markup(style)}</style></head>
<body><a class="skip" href="#content">To the pictures</a>
<header><h1>${title}</h1><p class="intro">${counted(groups.length, "group")} of ${counted(seeds, "run")}${
    evaluations.length > 0 && `, ${counted(evaluations.length, "evaluation")}`
  }. ${several ? "Lines are means over seeds, bands reach from the smallest to the largest seed." : "One seed each: differences may be chance."} Point at a picture, or focus it and use the arrow keys, to read values.</p>
<nav aria-label="Sections">${sections.map((section) => html`<a href="#${section.id}">${section.title}</a>`)}</nav>
${summaryTable(groups)}</header>
<div class="legend"><fieldset><legend>Show</legend>${groups.map(
    (group, index) =>
      html`<label><input type="checkbox" value="${index}" checked>${swatch(index)}<span><b>${letterOf(index)}</b> ${group.label}</span></label>`,
  )}</fieldset></div>
<main id="content">${sections.map(
    (section) => html`<section aria-labelledby="${section.id}"><h2 id="${section.id}">${section.title}</h2>${
      section.intro !== "" && html`<p class="intro">${section.intro}</p>`
    }<div class="grid">${section.body}</div></section>
`,
  )}</main><footer>Made by rank-grpo report. Every value stands in the run folders' metrics.jsonl; docs/report.md says what each picture shows.</footer>
<script>${new Markup(script)}</script></body></html>
`;
}
