// The stages on files: each reads the one before and writes JSON Lines; `demonstrate` runs them all and goes on where it was stopped.
import { createHash } from "node:crypto";
import { createReadStream, existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";

import { readJsonl } from "../data/jsonl.ts";
import type { Sample } from "../data/sample.ts";
import { readSamples } from "../data/samples.ts";
import { writeLines } from "../data/write.ts";
import { RankGrpoError, refuse } from "../errors.ts";
import { requireFreshFile, writeFileAtomic } from "../files.ts";
import { Catalog } from "../ranking/catalog.ts";
import { compact, formatItem, type Item, readList } from "../ranking/list.ts";
import { heldOutPopularity, type StageEffect, stageEffects } from "./ablate.ts";
import type { Adjustment, AdjustOptions } from "./adjust.ts";
import {
  type Embedding,
  Grounding,
  type GroundOptions,
  teach,
  teachByNeighbors,
  trainableCatalog,
} from "./demonstrate.ts";
import { describeItems, MetadataTable } from "./metadata.ts";
import { type ReflectOptions, reflect } from "./reflect.ts";
import type { Teacher } from "./teacher.ts";

export const stageNames = ["teach", "remap", "reflect", "adjust"] as const;

export interface DemonstrateOptions extends Omit<GroundOptions, "metadata"> {
  /** JSON Lines to demonstrate, and the training split whose ground truths may vote and fit. */
  data: string;
  feedback: string;
  catalog: string;
  output: string;
  /** "none": neighbour voting over the feedback. */
  teacher: Teacher | "none";
  /** Who rates in Reflect. Default: the teacher; without one the stage is left out. */
  judge?: Teacher | "none";
  /** Lists made elsewhere (JSON Lines with id and titles, or with a completion), in place of the teacher's. */
  lists?: string;
  /** Stop after this stage; its file is in the stages' folder, and `output` is not written. Default: all stages. */
  until?: (typeof stageNames)[number];
  /** N. Default 20. */
  listLength?: number;
  /** N_r. Default 100, the paper's example. */
  candidates?: number;
  /** Default 0.5, the paper's. */
  gamma?: number;
  /** Without a teacher: dialogues that vote. Default 300, chosen on ReDial's training split. */
  neighbors?: number;
  reflect?: Omit<ReflectOptions, "onProgress">;
  adjust?: Omit<AdjustOptions, "onIteration">;
  /** Keywords and plots of items, in CSV, TSV or JSON Lines. */
  metadata?: string;
  /** Let the teacher write what the table lacks, as the paper does. Default false. */
  describe?: boolean;
  /** w and b of an earlier run (`adjustment.json`), for data without feedback of their own. */
  adjustment?: string;
  /** Measure every stage on held-out feedback. Default false. */
  ablate?: boolean;
  /** Folder of the stages' files. Default `<output>.stages`. */
  stages?: string;
  overwrite?: boolean;
  onStage?: (stage: string, note: string) => void;
  onFit?: (fold: number, adjustment: Adjustment) => void;
}

export interface DemonstrateResult {
  rows: number;
  /** Stages taken from files of an earlier run. */
  kept: string[];
  unreadable: { lists: number; ratings?: number; metadata?: number };
  /** Share of candidates that the judge left without a rating. */
  unrated?: number;
  adjustments: Adjustment[];
  effects: StageEffect[];
}

// ---- files ----

export async function readLists(path: string, samples: readonly Sample[]): Promise<Item[][]> {
  const byId = new Map<string, Item[]>();
  for await (const row of readJsonl(path)) {
    const { titles, completion } = row;
    const text = Array.isArray(titles)
      ? titles.join("\n")
      : Array.isArray(completion)
        ? (completion as { content?: unknown }[])[0]?.content
        : completion;
    if (typeof text !== "string")
      refuse("BAD_DATA", "titles or a completion", `${path}, id ${String(row["id"])}`, Object.keys(row).join(", "));
    byId.set(String(row["id"]), compact(readList(text)));
  }
  return samples.map(
    (sample) => byId.get(sample.id) ?? refuse("BAD_DATA", `a list for sample ${sample.id}`, path, "none"),
  );
}

const writeLists = (
  path: string,
  samples: readonly Sample[],
  lists: readonly (readonly Item[])[],
  extra: (i: number) => object = () => ({}),
): Promise<void> =>
  writeLines(
    path,
    samples.map((sample, i) => ({ id: sample.id, titles: lists[i]!.map(formatItem), ...extra(i) })),
    true,
  );

export async function readRatings(
  path: string,
  samples: readonly Sample[],
): Promise<{ candidates: Item[][]; ratings: (number | null)[][] }> {
  const byId = new Map<string, (number | null)[]>();
  for await (const row of readJsonl(path)) byId.set(String(row["id"]), row["ratings"] as (number | null)[]);
  const candidates = await readLists(path, samples);
  return { candidates, ratings: samples.map((sample) => byId.get(sample.id)!) };
}

/** The sample's columns with the demonstration as TRL's completion column. */
export const demonstration = (sample: Sample, list: readonly Item[]): object => ({
  ...sample.columns,
  id: sample.id,
  completion: [{ role: "assistant", content: list.map(formatItem).join("\n") }],
});

async function hashFile(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
  return hash.digest("hex");
}

/** w and b with their titles, so that they can be used with the same catalogue later. */
export async function writeAdjustment(
  path: string,
  catalog: Catalog,
  { w, b, loss, iterations, converged }: Adjustment,
): Promise<void> {
  const items = catalog.items.map(({ title, year }, i) => [title, year, w[i], b[i]]);
  await writeFileAtomic(path, `${JSON.stringify({ loss, iterations, converged, items })}\n`);
}

export async function readAdjustment(path: string, catalog: Catalog): Promise<Adjustment> {
  const stored = JSON.parse(await readFile(path, "utf8")) as {
    loss: number;
    iterations: number;
    converged: boolean;
    items: [string, number, number, number][];
  };
  const adjustment: Adjustment = {
    w: new Float32Array(catalog.size).fill(1),
    b: new Float32Array(catalog.size),
    initialLoss: Number.NaN,
    loss: stored.loss,
    gradientNorm: Number.NaN,
    iterations: stored.iterations,
    converged: stored.converged,
  };
  let known = 0;
  for (const [title, year, w, b] of stored.items) {
    const index = catalog.indexOf({ title, year });
    if (index < 0) continue;
    known++;
    adjustment.w[index] = w;
    adjustment.b[index] = b;
  }
  if (known === 0)
    throw new RankGrpoError("BAD_DATA", `Expected weights of this catalogue's titles in ${path}, got none.`);
  return adjustment;
}

// ---- all of stage 1 ----

/** Default decays of Adjust without a teacher: voted lists come from little feedback, where the paper's 0.01 over-fits (docs/data.md). */
export const votingDecays = { weightDecay: 0.3, biasDecay: 100 } as const;

/**
 * The whole of stage 1: `data` with a grounded demonstration for every row. Each stage's file is kept in the stages' folder and taken again
 * by a later run with the same inputs and options; answers of teacher and judge are in their cache, whatever happens.
 */
export async function demonstrate(options: DemonstrateOptions): Promise<DemonstrateResult> {
  const {
    teacher,
    output,
    overwrite = false,
    listLength = 20,
    candidates: depth = 100,
    gamma = 0.5,
    neighbors = 300,
    onStage,
  } = options;
  const judge = options.judge ?? teacher;
  const folder = options.stages ?? `${output}.stages`;
  const voting = teacher === "none" && options.lists === undefined;
  const embedding: Embedding = options.embedding;
  const last = stageNames.indexOf(options.until ?? "adjust");
  if (!overwrite && last === 3) requireFreshFile(output, "Give another name or --overwrite.");
  const catalog = trainableCatalog(await Catalog.load(options.catalog));
  const wanted = await readSamples(options.data);
  const feedback = options.feedback === options.data ? wanted : await readSamples(options.feedback);
  const ids = new Set(wanted.map((sample) => sample.id));
  if (options.until === "reflect" && judge === "none")
    throw new RankGrpoError("INVALID_ARGUMENT", "Expected a judge for reflect, got none. Give --judge, or --teacher.");
  if (ids.size < wanted.length)
    refuse("BAD_DATA", "different ids", options.data, `${wanted.length - ids.size} repeated ones`);
  // Without a teacher lists cost nothing, so Adjust may fit on all feedback; else on the rows that have lists.
  const samples = voting ? [...wanted, ...feedback.filter((sample) => !ids.has(sample.id))] : wanted;

  // a stage's file is good for the same inputs, options and stages before it
  let print = "";
  const manifest = join(folder, "manifest.json");
  const before = existsSync(manifest) ? (JSON.parse(await readFile(manifest, "utf8")) as Record<string, string>) : {};
  const prints: Record<string, string> = {};
  const kept: string[] = [];
  const stage = async (name: string, given: unknown): Promise<{ path: string; fresh: boolean }> => {
    print = createHash("sha256")
      .update(JSON.stringify([print, name, given]))
      .digest("hex");
    prints[name] = print;
    const path = join(folder, `${name}.jsonl`);
    const fresh = before[name] !== print || !existsSync(path);
    if (!fresh) kept.push(name);
    return { path, fresh };
  };
  const finished = (): Promise<void> =>
    writeFileAtomic(manifest, `${JSON.stringify({ ...before, ...prints }, null, 1)}\n`);

  const result: DemonstrateResult = {
    rows: wanted.length,
    kept,
    unreadable: { lists: 0 },
    adjustments: [],
    effects: [],
  };
  const hashes = await Promise.all([options.data, options.feedback, options.catalog].map(hashFile));
  const origin =
    options.lists !== undefined
      ? await hashFile(options.lists)
      : teacher === "none"
        ? ["neighbours", neighbors]
        : teacher.name;
  const taught = await stage("teach", [hashes, origin, listLength]);
  if (taught.fresh) {
    const made =
      options.lists !== undefined
        ? await readLists(options.lists, samples)
        : teacher === "none"
          ? teachByNeighbors(samples, feedback, catalog, listLength, neighbors)
          : await teach(samples, teacher, listLength, (done, total) => options.onProgress?.("teach", done, total));
    await writeLists(taught.path, samples, made);
    await finished();
  }
  const lists = await readLists(taught.path, samples);
  result.unreadable.lists =
    samples.length === 0 ? 0 : lists.filter((list) => list.length === 0).length / samples.length;
  onStage?.("teach", `${lists.length} lists, ${(100 * result.unreadable.lists).toFixed(1)} % unreadable`);
  if (last === 0) return result;

  const metadata = options.metadata === undefined ? new MetadataTable() : await MetadataTable.load(options.metadata);
  if (options.describe) {
    if (teacher === "none")
      throw new RankGrpoError(
        "INVALID_ARGUMENT",
        "Expected a teacher to describe items, got none. Give --teacher, or metadata in a table.",
      );
    const items = [...catalog.items, ...lists.flat()];
    result.unreadable.metadata = await describeItems(items, metadata, teacher, (done, total) =>
      options.onProgress?.("describe", done, total),
    );
  }
  const grounding = await Grounding.build(samples, feedback, lists, catalog, { ...options, embedding, metadata });
  try {
    const measured: { stage: string; lists: Item[][] }[] = [];
    const measure = async (name: string): Promise<void> => {
      if (options.ablate) measured.push({ stage: name, lists: await grounding.lists(listLength) });
    };
    if (options.ablate) {
      const folds = new Map(samples.map((sample, i) => [sample.id, grounding.fold[i]!]));
      measured.push({
        stage: "popularity",
        lists: heldOutPopularity(wanted, feedback, (sample) => folds.get(sample.id) ?? -1, catalog, listLength),
      });
      measured.push({
        stage: voting ? "neighbour voting" : options.lists === undefined ? "teacher" : "given lists",
        lists,
      });
    }
    await measure("remap");

    if (judge !== "none" || last === 1) {
      const described = embedding.kind === "encoder" ? embedding.encoder.name : embedding;
      const remapped = await stage("remap", [
        described,
        depth,
        options.lambda,
        options.positionPower,
        options.dropSeen,
        options.folds,
        options.seed,
        options.metadata && (await hashFile(options.metadata)),
        options.describe && teacher !== "none" ? teacher.name : "",
      ]);
      if (remapped.fresh) {
        const ranked = await grounding.rank(depth);
        await writeLists(
          remapped.path,
          samples,
          ranked.map(({ items }) => items),
          (i) => ({ scores: [...ranked[i]!.scores] }),
        );
        await finished();
      }
      if (judge === "none" || last === 1) return result;
      const rated = await stage("reflect", [judge.name, options.reflect]);
      if (rated.fresh) {
        const candidates = await readLists(remapped.path, samples);
        const reflection = await reflect(samples, candidates, judge, {
          ...options.reflect,
          onProgress: (done, total) => options.onProgress?.("reflect", done, total),
        });
        await writeLists(rated.path, samples, candidates, (i) => ({ ratings: reflection.ratings[i] }));
        await finished();
      }
      const { candidates, ratings } = await readRatings(rated.path, samples);
      const all = ratings.flat();
      result.unrated = all.length === 0 ? 0 : all.filter((rating) => rating === null).length / all.length;
      result.unreadable.ratings =
        ratings.filter((row) => row.length > 0 && row.every((rating) => rating === null)).length /
        Math.max(1, ratings.length);
      onStage?.(
        "reflect",
        `${(100 * result.unrated).toFixed(1)} % of candidates without a rating, ${(100 * result.unreadable.ratings).toFixed(1)} % of answers unreadable`,
      );
      await grounding.reflect(candidates, ratings, gamma);
      await measure("reflect");
      if (last === 2) return result;
    }

    if (options.adjustment !== undefined) grounding.useAdjustment(await readAdjustment(options.adjustment, catalog));
    else {
      result.adjustments = await grounding.adjust({
        ...(voting && votingDecays),
        ...options.adjust,
        ...(options.onFit && { onFit: options.onFit }),
      });
      await writeAdjustment(join(folder, "adjustment.json"), catalog, result.adjustments.at(-1)!);
    }
    await measure("adjust");
    const final = (await grounding.lists(listLength)).slice(0, wanted.length);
    await writeLines(
      output,
      wanted.map((sample, i) => demonstration(sample, final[i]!)),
      overwrite,
    );
    if (options.ablate)
      result.effects = stageEffects(
        wanted,
        measured.map(({ stage, lists }) => ({ stage, lists: lists.slice(0, wanted.length) })),
        catalog,
      );
    return result;
  } finally {
    grounding.dispose();
  }
}
