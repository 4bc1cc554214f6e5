// Baselines without a model, from the samples of a training file: what is liked most, what the nearest dialogues' users liked, what is named
// together with the titles of a dialogue, and the mix of these.

import type { Content, Sample } from "../data/sample.ts";
import { refuse } from "../errors.ts";
import type { Catalog } from "./catalog.ts";
import type { Item } from "./list.ts";
import { dialogueOf } from "./metrics.ts";
import { groundTruths, seenTitles } from "./rewards.ts";

export interface OwnOptions {
  /** Dialogues that do not vote for a sample. Default: its own. Give more where samples are made of several dialogues. */
  readonly own?: (sample: Sample) => readonly string[];
}

export interface NeighborOptions extends OwnOptions {
  /** How many of the most similar training samples vote, at least 1. Default 200: best for ReDial's training dialogues among 20 to 400. */
  readonly neighbors?: number;
}

export interface CooccurrenceOptions extends OwnOptions {
  /** Added to the dialogues of a title before its shares are taken, from 0. Default 5: best for ReDial's training dialogues among 1, 5 and 20. */
  readonly shrink?: number;
}

export interface MixOptions extends NeighborOptions, CooccurrenceOptions {
  /** Weight of co-occurrence, from 0 to 1; neighbour voting has the rest. Default 0.5. */
  readonly cooccurrence?: number;
  /** Weight of popularity beside them, from 0 to 1. Default 0.1: with 0.5 best for half of ReDial's training rows among five pairs. */
  readonly popularity?: number;
}

/**
 * For each sample the n catalogue items that are most often a ground truth in the other dialogues of `train`, seen titles left out;
 * ties in catalogue order. Shorter only where the training file names fewer items.
 */
export function popularityLists(
  train: readonly Sample[],
  samples: readonly Sample[],
  catalog: Catalog,
  n: number,
): Item[][] {
  const popularity = new Popularity(train, votesOf(train, catalog), catalog.size);
  return samples.map((sample) => fill([], popularity.without([dialogueIn(sample)]), seenTitles(sample), catalog, n));
}

/**
 * Neighbour voting (the idea of NBCRS, Xie et al. 2024, with words instead of sentence embeddings): the training samples whose
 * dialogues are most like the sample's (cosine of TF-IDF over the words of the prompt) vote for their ground truths with their
 * similarity. Seen titles are left out, samples of the same dialogue do not vote, and places without votes go by popularity.
 * Prompts of token ids are compared by their ids.
 */
export function neighborLists(
  train: readonly Sample[],
  samples: readonly Sample[],
  catalog: Catalog,
  n: number,
  options: NeighborOptions = {},
): Item[][] {
  const votes = votesOf(train, catalog);
  return rankBy([[1, neighborVotes(train, votes, options)]], train, votes, samples, catalog, n, 0, options.own);
}

/**
 * Co-occurrence: every title that the sample's dialogue names adds, for each other item, the share of the training dialogues with that title
 * that name or like the item too; the share is shrunk where the title is rare. Own dialogue, seen titles and empty places as above.
 */
export function cooccurrenceLists(
  train: readonly Sample[],
  samples: readonly Sample[],
  catalog: Catalog,
  n: number,
  options: CooccurrenceOptions = {},
): Item[][] {
  const votes = votesOf(train, catalog);
  return rankBy(
    [[1, cooccurrences(train, votes, catalog, options)]],
    train,
    votes,
    samples,
    catalog,
    n,
    0,
    options.own,
  );
}

/** The sum of neighbour votes and co-occurrences, each scaled to 1 in all for every sample, and a little popularity. */
export function mixedLists(
  train: readonly Sample[],
  samples: readonly Sample[],
  catalog: Catalog,
  n: number,
  options: MixOptions = {},
): Item[][] {
  const { cooccurrence = 0.5, popularity = 0.1 } = options;
  for (const [name, value] of Object.entries({ cooccurrence, popularity }))
    if (!(value >= 0 && value <= 1)) refuse("INVALID_ARGUMENT", "a number from 0 to 1", name, value);
  const votes = votesOf(train, catalog);
  const parts: [number, Scorer][] = [
    [1 - cooccurrence, neighborVotes(train, votes, options)],
    [cooccurrence, cooccurrences(train, votes, catalog, options)],
  ];
  return rankBy(parts, train, votes, samples, catalog, n, popularity, options.own);
}

/** Scores above 0 of catalogue items for a sample; what its `own` dialogues say does not count. */
type Scorer = (sample: Sample, own: readonly string[]) => Map<number, number>;

/** The best n of a weighted sum of scorers, each scaled to 1 in all; what is left goes by popularity. */
function rankBy(
  parts: readonly (readonly [weight: number, scorer: Scorer])[],
  train: readonly Sample[],
  votes: readonly (readonly number[])[],
  samples: readonly Sample[],
  catalog: Catalog,
  n: number,
  popular = 0,
  ownOf: (sample: Sample) => readonly string[] = (sample) => [dialogueIn(sample)],
): Item[][] {
  const popularity = new Popularity(train, votes, catalog.size);
  return samples.map((sample) => {
    const own = ownOf(sample);
    const sum = new Map<number, number>();
    const add = (weight: number, scores: ReadonlyMap<number, number>): void => {
      let total = 0;
      for (const score of scores.values()) total += score;
      for (const [item, score] of scores) sum.set(item, (sum.get(item) ?? 0) + (weight * score) / total);
    };
    for (const [weight, scorer] of parts) if (weight > 0) add(weight, scorer(sample, own));
    if (popular > 0) add(popular, popularity.counts(own));
    const ranked = [...sum.keys()].sort((a, b) => sum.get(b)! - sum.get(a)! || a - b);
    return fill(ranked, popularity.without(own), seenTitles(sample), catalog, n);
  });
}

function neighborVotes(
  train: readonly Sample[],
  votes: readonly (readonly number[])[],
  { neighbors = 200 }: NeighborOptions,
): Scorer {
  if (!Number.isSafeInteger(neighbors) || neighbors < 1) {
    refuse("INVALID_ARGUMENT", "a whole number from 1", "neighbors", neighbors);
  }
  const dialogues = train.map(dialogueIn);
  const index = new TextIndex(train.map((sample) => termsOf(sample.prompt)));
  return (sample, own) => {
    const scores = new Map<number, number>();
    const nearest = index.nearest(termsOf(sample.prompt), neighbors, (row) => !own.includes(dialogues[row]!));
    for (const [row, similarity] of nearest)
      for (const item of votes[row]!) scores.set(item, (scores.get(item) ?? 0) + similarity);
    return scores;
  };
}

function cooccurrences(
  train: readonly Sample[],
  votes: readonly (readonly number[])[],
  catalog: Catalog,
  { shrink = 5 }: CooccurrenceOptions,
): Scorer {
  if (!(shrink >= 0)) refuse("INVALID_ARGUMENT", "a number from 0", "shrink", shrink);
  const byTitle = new Map<string, number[]>();
  for (const [i, { title }] of catalog.items.entries()) byTitle.set(title, [...(byTitle.get(title) ?? []), i]);
  const seenIn = (sample: Sample): number[] => [...seenTitles(sample)].flatMap((title) => byTitle.get(title) ?? []);
  const named = new Map<string, Set<number>>(); // of each dialogue: what it names and what it likes
  for (const [row, sample] of train.entries()) {
    const key = dialogueIn(sample);
    const items = named.get(key) ?? new Set();
    named.set(key, items);
    for (const item of [...seenIn(sample), ...votes[row]!]) items.add(item);
  }
  const dialoguesWith = new Map<number, string[]>();
  for (const [key, items] of named)
    for (const item of items) dialoguesWith.set(item, [...(dialoguesWith.get(item) ?? []), key]);
  return (sample, own) => {
    const scores = new Map<number, number>();
    for (const title of seenIn(sample)) {
      const dialogues = (dialoguesWith.get(title) ?? []).filter((key) => !own.includes(key));
      const share = 1 / (dialogues.length + shrink);
      for (const key of dialogues)
        for (const item of named.get(key)!) if (item !== title) scores.set(item, (scores.get(item) ?? 0) + share);
    }
    return scores;
  };
}

/** Catalogue indices of each sample's ground truths. */
function votesOf(train: readonly Sample[], catalog: Catalog): number[][] {
  return train.map((sample) =>
    groundTruths(sample)
      .map((truth) => catalog.indexOf(truth))
      .filter((index) => index >= 0),
  );
}

const dialogueIn = (sample: Sample): string => dialogueOf(sample.id, sample.columns["dialogue"]);

/** Catalogue indices that got any vote, most votes first, ties in catalogue order. */
class Popularity {
  readonly #counts: Int32Array;
  readonly #order: readonly number[];
  readonly #ofDialogue = new Map<string, number[]>();

  constructor(train: readonly Sample[], votes: readonly (readonly number[])[], size: number) {
    this.#counts = new Int32Array(size);
    for (const [row, sample] of train.entries()) {
      const dialogue = dialogueIn(sample);
      const own = this.#ofDialogue.get(dialogue) ?? [];
      this.#ofDialogue.set(dialogue, own);
      for (const item of votes[row]!) {
        own.push(item);
        this.#counts[item]!++;
      }
    }
    this.#order = this.#ranked([...this.#counts.keys()]);
  }

  #votesOf(dialogues: readonly string[]): number[] {
    return [...new Set(dialogues)].flatMap((dialogue) => this.#ofDialogue.get(dialogue) ?? []);
  }

  /** Votes above 0 without those of some dialogues. */
  counts(dialogues: readonly string[]): Map<number, number> {
    const counts = new Map<number, number>();
    for (const item of this.#order) counts.set(item, this.#counts[item]!);
    for (const item of this.#votesOf(dialogues)) {
      const left = counts.get(item)! - 1;
      if (left > 0) counts.set(item, left);
      else counts.delete(item);
    }
    return counts;
  }

  /** The order without the votes of some dialogues. */
  without(dialogues: readonly string[]): readonly number[] {
    const own = this.#votesOf(dialogues);
    if (own.length === 0) return this.#order;
    for (const item of own) this.#counts[item]!--;
    const order = this.#ranked(this.#order); // nearly sorted already: quick
    for (const item of own) this.#counts[item]!++;
    return order;
  }

  #ranked(items: readonly number[]): number[] {
    const counts = this.#counts;
    return items.filter((item) => counts[item]! > 0).sort((a, b) => counts[b]! - counts[a]! || a - b);
  }
}

/** The first n items of `ranked`, then of `rest`, without seen titles and repeats. */
function fill(
  ranked: readonly number[],
  rest: readonly number[],
  seen: ReadonlySet<string>,
  catalog: Catalog,
  n: number,
): Item[] {
  const chosen = new Set<number>();
  for (const indices of [ranked, rest]) {
    for (const index of indices) {
      if (chosen.size >= n) break;
      if (!seen.has(catalog.items[index]!.title)) chosen.add(index);
    }
  }
  return Array.from(chosen, (index) => catalog.items[index]!);
}

/** The lower-cased words of a prompt, or its token ids. */
function termsOf(prompt: Content): (string | number)[] {
  if (prompt instanceof Int32Array) return [...prompt];
  const text = typeof prompt === "string" ? prompt : prompt.map((message) => message.content).join("\n");
  return text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];
}

/**
 * TF-IDF vectors of documents behind an inverted index: (1 + log count) x log((D + 1) / (documents with the term + 1)), length 1.
 * Words that every document has, such as those of a fixed instruction, weigh nothing and are left out.
 */
class TextIndex {
  readonly #documents: number;
  readonly #postings = new Map<
    string | number,
    { readonly idf: number; readonly rows: Int32Array; readonly weights: Float64Array }
  >();

  constructor(documents: readonly (readonly (string | number)[])[]) {
    this.#documents = documents.length;
    const occurrences = new Map<string | number, { rows: number[]; counts: number[] }>();
    for (const [row, terms] of documents.entries()) {
      for (const [term, count] of countTerms(terms)) {
        const posting = occurrences.get(term) ?? { rows: [], counts: [] };
        occurrences.set(term, posting);
        posting.rows.push(row);
        posting.counts.push(count);
      }
    }
    const squares = new Float64Array(documents.length);
    for (const [term, { rows, counts }] of occurrences) {
      const idf = Math.log((documents.length + 1) / (rows.length + 1));
      if (idf === 0) continue;
      const weights = Float64Array.from(counts, (count) => (1 + Math.log(count)) * idf);
      for (const [i, row] of rows.entries()) squares[row]! += weights[i]! ** 2;
      this.#postings.set(term, { idf, rows: Int32Array.from(rows), weights });
    }
    for (const { rows, weights } of this.#postings.values()) {
      for (const [i, row] of rows.entries()) weights[i]! /= Math.sqrt(squares[row]!);
    }
  }

  /** The rows most similar to a query among those allowed, as [row, similarity > 0], nearest first, ties in the rows' order. */
  nearest(query: readonly (string | number)[], limit: number, allowed: (row: number) => boolean): [number, number][] {
    const similarity = new Float64Array(this.#documents);
    for (const [term, count] of countTerms(query)) {
      const posting = this.#postings.get(term);
      if (posting === undefined) continue;
      const { idf, rows, weights } = posting;
      const weight = (1 + Math.log(count)) * idf;
      for (let i = 0; i < rows.length; i++) similarity[rows[i]!]! += weight * weights[i]!;
    }
    for (let row = 0; row < similarity.length; row++) if (!allowed(row)) similarity[row] = 0;
    const least = similarity.toSorted().at(-Math.min(limit, similarity.length)) ?? 0;
    const found: [number, number][] = [];
    for (const [row, value] of similarity.entries()) if (value > 0 && value >= least) found.push([row, value]);
    return found.sort((a, b) => b[1] - a[1] || a[0] - b[0]).slice(0, limit);
  }
}

function countTerms(terms: readonly (string | number)[]): Map<string | number, number> {
  const counts = new Map<string | number, number>();
  for (const term of terms) counts.set(term, (counts.get(term) ?? 0) + 1);
  return counts;
}
