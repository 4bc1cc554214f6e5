// Stage 1 as functions: teacher's lists -> Remap -> Reflect -> Adjust -> demonstrations, with every learned part cross-fitted. Dialogues of the
// feedback are dealt into folds; what is learned from feedback for a row (co-occurrence, w and b) comes from the other folds alone, so
// a row's own ground truth, and its dialogue's, never enters what is used for it.

import { conversationOf } from "../data/record.ts";
import type { Message, Sample } from "../data/sample.ts";
import { RankGrpoError, refuse } from "../errors.ts";
import { permutation, Stream } from "../random.ts";
import { neighborLists } from "../ranking/baselines.ts";
import { Catalog } from "../ranking/catalog.ts";
import { formatItem, type Item, readList } from "../ranking/list.ts";
import { dialogueOf } from "../ranking/metrics.ts";
import { isNearYear, normalizeTitle } from "../ranking/title.ts";
import { type Adjustment, type AdjustOptions, fitAdjustment } from "./adjust.ts";
import { readItems } from "./answer.ts";
import { type Encoder, encodedFeatures, type Features, tfidfFeatures } from "./embed.ts";
import { cooccurrence } from "./features.ts";
import type { MetadataTable } from "./metadata.ts";
import { type RemapOptions, RemapRows, type ScoreTable } from "./remap.ts";
import type { Teacher } from "./teacher.ts";

/** What similarities are made from. `cooccurrence` learns from the feedback, the others from texts. */
export type Embedding =
  | { kind: "none" }
  | { kind: "tfidf" }
  | { kind: "cooccurrence"; shrink?: number }
  | { kind: "encoder"; encoder: Encoder };

const dialogueKey = (sample: Sample): string => dialogueOf(sample.id, sample.columns["dialogue"]);

/**
 * The catalogue without titles that a list cannot carry: those that are not read back as themselves (a year of three digits, a line
 * break). Demonstrations with them would teach unreadable lines.
 */
export function trainableCatalog(catalog: Catalog): Catalog {
  const readable = catalog.items.filter((item) => {
    const slots = readList(formatItem(item));
    return slots.length === 1 && slots[0]?.title === item.title && slots[0].year === item.year;
  });
  if (readable.length === 0)
    throw new RankGrpoError("BAD_DATA", "Expected titles that read back from a list, got none in the catalogue.");
  return readable.length === catalog.size ? catalog : Catalog.from(readable);
}

// ---- the teacher's lists ----

/** Zero-shot lists with the data's own prompts, of at most n titles; an answer that cannot be read gives an empty list. */
export async function teach(
  samples: readonly Sample[],
  teacher: Teacher,
  n: number,
  onProgress?: (done: number, total: number) => void,
): Promise<Item[][]> {
  const answers = await teacher.ask(samples.map(chatOf), { maxTokens: 512, ...(onProgress && { onProgress }) });
  return answers.map(({ text }) => readItems(text, n));
}

/** The prompt as a chat. @throws BAD_DATA for token ids, which only their own model can read */
export function chatOf({ id, prompt }: Sample): readonly Message[] {
  if (prompt instanceof Int32Array) refuse("BAD_DATA", "text or messages", `the prompt of sample ${id}`, "token ids");
  return typeof prompt === "string" ? [{ role: "user", content: prompt }] : prompt;
}

/** Lists without a teacher: the dialogues most like a sample's vote for what their users liked; its own dialogue does not vote. */
export const teachByNeighbors = (
  samples: readonly Sample[],
  feedback: readonly Sample[],
  catalog: Catalog,
  n: number,
  neighbors: number,
): Item[][] => neighborLists(feedback, samples, catalog, n, { neighbors });

// ---- grounding ----

export interface GroundOptions extends RemapOptions {
  embedding: Embedding;
  /** What items are about, for text embeddings. */
  metadata?: MetadataTable;
  /** K >= 2 folds of dialogues; 1 (paper): no cross-fitting, a row's own feedback shapes w and b. Default 5. */
  folds?: number;
  /** Of the folds. Default 0. */
  seed?: number;
  onProgress?: (stage: string, done: number, total: number) => void;
}

/** Lists of samples grounded in a catalogue: Remap's scores, ratings on top, and the fit of Adjust. */
export class Grounding {
  readonly samples: readonly Sample[];
  readonly catalog: Catalog;
  readonly rows: RemapRows;
  readonly folds: number;
  /** [D] fold of each row; `folds` for rows whose dialogue gives no feedback */
  readonly fold: Int32Array;
  private readonly isFeedback: Uint8Array;
  private tables: ScoreTable[] = [];
  /** Of Adjust: one for each fold, then one of all feedback. */
  adjustments: Adjustment[] = [];

  private constructor(
    samples: readonly Sample[],
    feedback: readonly Sample[],
    lists: readonly (readonly Item[])[],
    catalog: Catalog,
    options: GroundOptions,
  ) {
    const { folds = 5, seed = 0 } = options;
    if (!(Number.isInteger(folds) && folds >= 1)) refuse("INVALID_ARGUMENT", "a whole number from 1", "folds", folds);
    if (folds === 1 && options.embedding.kind === "cooccurrence")
      throw new RankGrpoError(
        "INVALID_ARGUMENT",
        "Expected at least 2 folds for co-occurrence, got 1: a row's own ground truth would be among its similarities. Use more folds or another embedding.",
      );
    this.samples = samples;
    this.catalog = catalog;
    this.folds = folds;
    this.rows = new RemapRows(samples, lists, catalog, options);
    const dialogues = new Map<string, number>();
    for (const sample of feedback) dialogues.set(dialogueKey(sample), 0);
    const keys = [...dialogues.keys()];
    for (const [i, dialogue] of permutation(keys.length, seed, Stream.demonstrate, 0).entries())
      dialogues.set(keys[dialogue]!, i % folds);
    this.fold = Int32Array.from(samples, (sample) => dialogues.get(dialogueKey(sample)) ?? folds);
    const ids = new Set(feedback.map((sample) => sample.id));
    this.isFeedback = Uint8Array.from(samples, (sample) => (ids.has(sample.id) ? 1 : 0));
  }

  static async build(
    samples: readonly Sample[],
    feedback: readonly Sample[],
    lists: readonly (readonly Item[])[],
    catalog: Catalog,
    options: GroundOptions,
  ): Promise<Grounding> {
    const grounding = new Grounding(samples, feedback, lists, catalog, options);
    const { embedding, metadata, onProgress } = options;
    const everyRow = Int32Array.from(samples.keys());
    if (embedding.kind !== "cooccurrence") {
      const features = await grounding.textFeatures(embedding, metadata, onProgress);
      grounding.tables = [await grounding.rows.table(everyRow, features)];
      return grounding;
    }
    const named = grounding.dialoguesOf(feedback);
    for (let fold = 0; fold <= grounding.folds; fold++) {
      const rows = everyRow.filter((row) => grounding.fold[row] === fold);
      const others = [...named.values()].filter((dialogue) => dialogue.fold !== fold).map((dialogue) => dialogue.items);
      if (rows.length > 0)
        grounding.tables.push(
          await grounding.rows.table(rows, grounding.cooccurrences(others, rows, embedding.shrink ?? 5)),
        );
      onProgress?.("similarities", fold + 1, grounding.folds + 1);
    }
    return grounding;
  }

  private async textFeatures(
    embedding: Exclude<Embedding, { kind: "cooccurrence" }>,
    metadata: MetadataTable | undefined,
    onProgress: GroundOptions["onProgress"],
  ): Promise<Features | undefined> {
    if (embedding.kind === "none") return undefined;
    const textOf = (item: Item): string => metadata?.text(item) ?? formatItem(item);
    const texts = {
      items: this.catalog.items.map(textOf),
      teacher: this.rows.named.items.map(textOf),
      contexts: this.samples.map(({ prompt }) => (prompt instanceof Int32Array ? "" : conversationOf(prompt))),
    };
    if (embedding.kind === "tfidf") return tfidfFeatures(texts);
    return encodedFeatures(embedding.encoder, texts, (done, total) => onProgress?.("embeddings", done, total));
  }

  /** Catalogue items that each dialogue of the feedback names or likes, and its fold. */
  private dialoguesOf(feedback: readonly Sample[]): Map<string, { fold: number; items: Set<number> }> {
    const view = new RemapRows(
      feedback,
      feedback.map(() => []),
      this.catalog,
    );
    const foldOf = new Map(this.samples.map((sample, i) => [dialogueKey(sample), this.fold[i]!]));
    const named = new Map<string, { fold: number; items: Set<number> }>();
    feedback.forEach((sample, i) => {
      const key = dialogueKey(sample);
      const dialogue = named.get(key) ?? { fold: foldOf.get(key) ?? -1, items: new Set<number>() };
      for (const item of [...view.truths[i]!, ...view.seen[i]!]) dialogue.items.add(item);
      named.set(key, dialogue);
    });
    return named;
  }

  private cooccurrences(dialogues: readonly ReadonlySet<number>[], rows: Int32Array, shrink: number): Features {
    const { width, items, contexts } = cooccurrence(
      dialogues,
      this.catalog.size,
      Array.from(rows, (row) => this.rows.seen[row]!),
      shrink,
    );
    // a named item is embedded as its catalogue item, and not at all where it is outside
    const teacher = {
      offsets: new Int32Array(this.rows.named.items.length + 1),
      columns: [] as number[],
      values: [] as number[],
    };
    this.rows.named.membership.forEach((item, u) => {
      if (item >= 0)
        for (let i = items.offsets[item]!; i < items.offsets[item + 1]!; i++) {
          teacher.columns.push(items.columns[i]!);
          teacher.values.push(items.values[i]!);
        }
      teacher.offsets[u + 1] = teacher.columns.length;
    });
    return {
      width,
      items,
      teacher: {
        offsets: teacher.offsets,
        columns: Int32Array.from(teacher.columns),
        values: Float32Array.from(teacher.values),
      },
      context: contexts,
    };
  }

  /** The n best of every row with what has been added so far: s_remap, s_reflect, or (once fitted) s_final. */
  async rank(n: number): Promise<{ items: Item[]; scores: Float32Array }[]> {
    const out = new Array<{ items: Item[]; scores: Float32Array }>(this.samples.length);
    const take = (ranked: Awaited<ReturnType<ScoreTable["rank"]>>): void => {
      for (const [row, { items, scores }] of ranked)
        out[row] = { items: Array.from(items, (i) => this.catalog.items[i]!), scores };
    };
    for (const table of this.tables) {
      if (this.adjustments.length === 0) take(await table.rank(n));
      else
        for (let fold = 0; fold <= this.folds; fold++)
          take(await table.rank(n, (row) => this.fold[row] === fold, this.adjustments[this.folds === 1 ? 1 : fold]));
    }
    return out;
  }

  /** Demonstrations: n titles a row, none of them twice (a catalogue may hold a movie under two years). */
  async lists(n: number): Promise<Item[][]> {
    const SPARE = 10;
    return (await this.rank(n + SPARE)).map(({ items }) => {
      const list: Item[] = [];
      for (const item of items) {
        if (list.length === n) break;
        if (
          !list.some(
            (known) => isNearYear(known.year, item.year) && normalizeTitle(known.title) === normalizeTitle(item.title),
          )
        )
          list.push(item);
      }
      return list;
    });
  }

  /** Adds the judge's ratings of candidates to the scores (Eq. 11). */
  async reflect(
    candidates: readonly (readonly Item[])[],
    ratings: readonly (readonly (number | null)[])[],
    gamma = 0.5,
  ): Promise<void> {
    for (const table of this.tables)
      await table.setRatings(
        (row) =>
          candidates[row]!.flatMap((item, k): [number, number][] => {
            const index = this.catalog.indexOf(item);
            const rating = ratings[row]![k];
            return index >= 0 && rating !== null && rating !== undefined ? [[index, rating]] : [];
          }),
        gamma,
      );
  }

  /** Fits Adjust, once for every fold without it and once on all feedback. */
  async adjust(
    options: AdjustOptions & { onFit?: (fold: number, adjustment: Adjustment) => void } = {},
  ): Promise<Adjustment[]> {
    const adjustments: Adjustment[] = [];
    for (let fold = 0; fold <= this.folds; fold++) {
      if (this.folds === 1 && fold === 0) {
        adjustments.push({} as Adjustment); // one fold: the fit on all feedback serves every row
        continue;
      }
      const wanted = (row: number): boolean =>
        this.isFeedback[row] === 1 && this.fold[row] !== fold && this.rows.truths[row]!.length > 0;
      const adjustment = await fitAdjustment(
        this.tables.map((table) => table.part(wanted)),
        this.catalog.size,
        options,
      );
      options.onFit?.(fold, adjustment);
      adjustments.push(adjustment);
    }
    this.adjustments = this.folds === 1 ? [adjustments[1]!, adjustments[1]!] : adjustments;
    return this.adjustments;
  }

  /** Uses w and b from elsewhere for every row. */
  useAdjustment(adjustment: Adjustment): void {
    this.adjustments = new Array<Adjustment>(this.folds + 1).fill(adjustment);
  }

  dispose(): void {
    for (const table of this.tables) table.native.dispose();
  }
}
