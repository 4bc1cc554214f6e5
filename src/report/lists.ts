// Dialogues with their lists, line by line: what hits, repeats, is outside the catalogue, was named before, or cannot be read.
import type { Content, Sample } from "../data/sample.ts";
import type { Catalog } from "../ranking/catalog.ts";
import { formatItem, readList } from "../ranking/list.ts";
import { type MetricOptions, measureRow } from "../ranking/metrics.ts";
import { groundTruths, hits, repeats, seenTitles, truthsIn } from "../ranking/rewards.ts";
import type { StepSample } from "../training/run.ts";
import type { StoredEvaluation } from "./evaluations.ts";

export type Mark = "hit" | "repeat" | "outside" | "seen" | "unreadable";

export interface MarkedLine {
  /** `Title (Year)`, or the line as it stands where it cannot be read. */
  readonly text: string;
  readonly marks: readonly Mark[];
  /** The reward of its rank in a rollout. */
  readonly reward?: number;
}

export interface MarkedList {
  readonly caption: string;
  readonly lines: readonly MarkedLine[];
  /** NDCG@20 of an evaluated list. */
  readonly ndcg?: number;
}

export interface Dialogue {
  readonly id: string;
  /** Step of a rollout. */
  readonly step?: number;
  readonly prompt: string;
  /** What was wanted; empty where the data are not at hand. */
  readonly truths: readonly string[];
  readonly lists: readonly MarkedList[];
}

/** What marks stand on; without a sample or catalogue only repeats and unreadable lines are marked. */
export interface Known {
  readonly sample?: Sample | undefined;
  readonly catalog?: Catalog | undefined;
}

export function markList(text: string, { sample, catalog }: Known, rewards?: readonly number[]): MarkedLine[] {
  const lines = text.split("\n").filter((line) => line.trim() !== "");
  const slots = readList(text);
  const again = repeats(slots);
  const seen = sample ? seenTitles(sample) : new Set<string>();
  const hit = sample && catalog ? hits(slots, truthsIn(sample), seen, catalog, slots.length) : undefined;
  return slots.map((slot, k) => {
    const marks: Mark[] = [];
    if (slot === null) marks.push("unreadable");
    else {
      if (hit?.[k] === 1) marks.push("hit");
      if (again[k] === 1) marks.push("repeat");
      if (seen.has(slot.title)) marks.push("seen");
      if (catalog && !catalog.has(slot)) marks.push("outside");
    }
    const reward = rewards?.[k];
    return {
      text: slot === null ? (lines[k] ?? "") : formatItem(slot),
      marks,
      ...(reward === undefined ? {} : { reward }),
    };
  });
}

export const promptText = (prompt: Content): string => {
  if (typeof prompt === "string") return prompt;
  if (prompt instanceof Int32Array) return `${prompt.length} token ids`;
  return prompt.map(({ role, content }) => (prompt.length === 1 ? content : `${role}: ${content}`)).join("\n");
};

/** The first `count` samples that both evaluations have lists for: no choosing. */
export function evaluatedDialogues(
  evaluations: readonly { caption: string; evaluation: StoredEvaluation }[],
  samples: readonly Sample[],
  catalog: Catalog,
  count: number,
): Dialogue[] {
  const lists = evaluations.map(({ caption, evaluation }) => ({
    caption,
    options: { truncation: evaluation.truncation, ideal: evaluation.ideal } as MetricOptions,
    byId: new Map(evaluation.lists.map(({ id, completion }) => [id, completion])),
  }));
  return samples
    .filter((sample) => lists.every(({ byId }) => byId.has(sample.id)))
    .slice(0, count)
    .map((sample) => ({
      id: sample.id,
      prompt: promptText(sample.prompt),
      truths: groundTruths(sample).map(formatItem),
      lists: lists.map(({ caption, options, byId }) => {
        const text = byId.get(sample.id)!;
        const row = { slots: readList(text), truths: groundTruths(sample), seen: seenTitles(sample) };
        const ndcg = measureRow(row, catalog, options)["ndcg@20"];
        return {
          caption,
          lines: markList(text, { sample, catalog }),
          ...(ndcg === undefined ? {} : { ndcg }),
        };
      }),
    }));
}

/** Rollouts of a group that are shown, the first ones. */
const shownRollouts = 2;

/** Rollouts of `count` steps, evenly spaced from the first to the last. */
export function rolloutDialogues(
  samples: readonly StepSample[],
  known: { readonly samples: ReadonlyMap<string, Sample>; readonly catalog: Catalog | undefined },
  count: number,
): Dialogue[] {
  const last = samples.length - 1;
  const indices = new Set(
    Array.from({ length: Math.min(count, samples.length) }, (_, i) =>
      Math.round((i * last) / Math.max(1, Math.min(count, samples.length) - 1)),
    ),
  );
  return [...indices].map((index) => {
    const { step, id, completions } = samples[index]!;
    const sample = known.samples.get(id);
    return {
      id,
      step,
      prompt: sample ? promptText(sample.prompt) : "",
      truths: sample ? truthsIn(sample).map(formatItem) : [],
      lists: completions.slice(0, shownRollouts).map(({ text, rewards }, i) => ({
        caption: `rollout ${i + 1} of ${completions.length}`,
        lines: markList(text, { sample, catalog: known.catalog }, rewards),
      })),
    };
  });
}
