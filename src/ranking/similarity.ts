// Item similarity and the reward made of it: a rank earns part of a hit by how near its item is to one that was wanted.
import { readFile } from "node:fs/promises";

import { RankGrpoError, refuse } from "../errors.ts";
import { asIoError } from "../files.ts";
import type { Catalog } from "./catalog.ts";
import { compact, formatItem, readList } from "./list.ts";
import { groundTruths, matches, type Reward, type RewardOptions, seenTitles } from "./rewards.ts";

/** How near item b of a catalog is to item a, from 0 to 1, by their numbers in `catalog.items`. */
export type ItemSimilarity = (a: number, b: number) => number;

/**
 * Cosine of embeddings, 0 where it is negative or an item has none.
 * @param vectors by item number, of one width
 * @throws RankGrpoError BAD_DATA where widths differ or a number is not finite.
 */
export function embeddingSimilarity(vectors: ReadonlyMap<number, ArrayLike<number>>): ItemSimilarity {
  const units = new Map<number, Float64Array>();
  let width: number | undefined;
  for (const [item, vector] of vectors) {
    width ??= vector.length;
    if (vector.length !== width) refuse("BAD_DATA", `${width} numbers`, `the embedding of item ${item}`, vector.length);
    const unit = Float64Array.from(vector);
    const bad = unit.find((x) => !Number.isFinite(x));
    if (bad !== undefined) refuse("BAD_DATA", "finite numbers", `the embedding of item ${item}`, bad);
    const length = Math.hypot(...unit);
    if (length > 0)
      units.set(
        item,
        unit.map((x) => x / length),
      );
  }
  return (a, b) => {
    const [x, y] = [units.get(a), units.get(b)];
    if (!x || !y) return 0;
    let dot = 0;
    for (let i = 0; i < x.length; i++) dot += x[i]! * y[i]!;
    return Math.min(1, Math.max(0, dot));
  };
}

/** An undirected edge of a knowledge graph; nodes are items as `Title (Year)` or anything else (a director, a genre). */
export type GraphEdge = readonly [from: string, to: string, weight: number];

/**
 * The best path between two items of at most `depth` edges: the largest product of its weights.
 * @param edges weights in (0, 1]
 * @throws RankGrpoError BAD_DATA for a weight out of range; INVALID_ARGUMENT for a depth below 1.
 */
export function graphSimilarity(catalog: Catalog, edges: Iterable<GraphEdge>, depth = 2): ItemSimilarity {
  if (!Number.isSafeInteger(depth) || depth < 1) refuse("INVALID_ARGUMENT", "a whole number from 1", "depth", depth);
  const neighbours = new Map<string, [node: string, weight: number][]>();
  for (const [from, to, weight] of edges) {
    if (!(weight > 0 && weight <= 1))
      refuse("BAD_DATA", "a number above 0, at most 1", `the weight of ${from} - ${to}`, weight);
    for (const [a, b] of [
      [from, to],
      [to, from],
    ] as const) {
      const list = neighbours.get(a);
      if (list) list.push([b, weight]);
      else neighbours.set(a, [[b, weight]]);
    }
  }
  /** Everything within reach of an item, with the weight of the best path. */
  const reach = (item: number): Map<string, number> => {
    const best = new Map([[formatItem(catalog.items[item]!), 1]]);
    let front = new Map(best);
    for (let step = 0; step < depth; step++) {
      const next = new Map<string, number>();
      for (const [node, weight] of front)
        for (const [to, w] of neighbours.get(node) ?? [])
          if (weight * w > (best.get(to) ?? 0)) {
            best.set(to, weight * w);
            next.set(to, weight * w);
          }
      front = next;
    }
    return best;
  };
  // of wanted items: few in a step, asked again and again; of all of them a hub would be held once for each
  const known = new Map<number, Map<string, number>>();
  return (a, b) => {
    let from = known.get(a);
    if (!from) {
      from = reach(a);
      known.set(a, from);
      if (known.size > 256) known.delete(known.keys().next().value!);
    }
    return from.get(formatItem(catalog.items[b]!)) ?? 0;
  };
}

export interface SimilarityOptions extends RewardOptions {
  readonly similarity: ItemSimilarity;
  /** Similarities below earn nothing, from 0 to 1. Default 0.5: the cosine of items that have nothing in common is seldom 0. */
  readonly threshold?: number;
}

/**
 * Soft hits: a rank that hits earns 1, as under exp_inf. Each ground truth that no rank of the list hits gives its similarity to the nearest
 * item of the list, once, to the first rank that names it; a rank earns the largest that it is given. So an item repeated, or many that are
 * alike, earn no more than one. (Rank-GRPO, arXiv 2510.20150, names soft rewards as future work.)
 */
export function softHits(options: SimilarityOptions): Reward {
  const { catalog, ranks, similarity, threshold = 0.5, mode = "aligned" } = options;
  if (!Number.isSafeInteger(ranks) || ranks < 1) refuse("INVALID_ARGUMENT", "a whole number from 1", "ranks", ranks);
  if (!(threshold >= 0 && threshold <= 1)) refuse("INVALID_ARGUMENT", "a number from 0 to 1", "threshold", threshold);
  return (completion, sample) => {
    const truths = groundTruths(sample);
    const seen = seenTitles(sample);
    const matched = matches(completion.slots, truths, seen, catalog, ranks, mode);
    const earned = Float64Array.from(matched, (truth) => (truth < 0 ? 0 : 1));
    const slots = (mode === "reference" ? compact(completion.slots) : completion.slots).slice(0, ranks);
    const items = slots.map((slot) => (slot && !seen.has(slot.title) ? catalog.indexOf(slot) : -1));
    const open = truths.filter((_, index) => !matched.includes(index));
    for (const truth of open) {
      const wanted = catalog.indexOf(truth);
      if (wanted < 0) continue;
      let [rank, nearest] = [-1, 0];
      for (const [k, item] of items.entries()) {
        if (item < 0 || matched[k]! >= 0) continue;
        const near = similarity(wanted, item);
        if (!(near >= 0 && near <= 1)) refuse("BAD_REWARD", "a similarity from 0 to 1", formatItem(slots[k]!), near);
        if (near >= threshold && near > nearest) [rank, nearest] = [k, near];
      }
      if (rank >= 0) earned[rank] = Math.max(earned[rank]!, nearest);
    }
    return earned;
  };
}

/**
 * Reads embeddings: JSON lines of {title, year, embedding}; items outside the catalog are passed over.
 * @throws RankGrpoError IO; BAD_DATA with file and line, and where no item of the catalog has one.
 */
export async function readEmbeddings(file: string, catalog: Catalog): Promise<Map<number, Float64Array>> {
  const vectors = new Map<number, Float64Array>();
  for (const { line, place } of await linesOf(file)) {
    let row: { title?: unknown; year?: unknown; embedding?: unknown } | null;
    try {
      row = JSON.parse(line) as typeof row;
    } catch {
      return refuse("BAD_DATA", "JSON", place, line.slice(0, 80));
    }
    const { title, year, embedding } = row ?? {};
    if (typeof title !== "string" || !Array.isArray(embedding) || !embedding.every((x) => typeof x === "number"))
      refuse("BAD_DATA", "{title, year, embedding: numbers}", place, line.slice(0, 80));
    const item = catalog.indexOf({ title, year: Number(year) });
    if (item >= 0) vectors.set(item, Float64Array.from(embedding as number[]));
  }
  if (vectors.size === 0) refuse("BAD_DATA", "embeddings of items of the catalog", file, "none");
  return vectors;
}

/**
 * Reads the edges of a knowledge graph: lines of node TAB node, or node TAB node TAB weight (0.5 where it is missing). Items are written
 * `Title (Year)` as in the catalog.
 * @throws RankGrpoError IO; BAD_DATA with file and line, and where no edge touches an item of the catalog.
 */
export async function readEdges(file: string, catalog: Catalog): Promise<GraphEdge[]> {
  const edges = (await linesOf(file)).map(({ line, place }): GraphEdge => {
    const [from, to, weight = "0.5", ...more] = line.split("\t");
    if (!from || !to || more.length > 0 || !(Number(weight) > 0 && Number(weight) <= 1))
      refuse("BAD_DATA", "node TAB node, or node TAB node TAB weight above 0 and at most 1", place, line.slice(0, 80));
    return [from, to, Number(weight)];
  });
  const known = (node: string): boolean => readList(node).some((slot) => slot !== null && catalog.has(slot));
  if (!edges.some(([from, to]) => known(from) || known(to)))
    refuse("BAD_DATA", "an edge of an item of the catalog", file, "none", "Write items as Title (Year).");
  return edges;
}

async function linesOf(file: string): Promise<{ line: string; place: string }[]> {
  const text = await readFile(file, "utf8").catch((error: unknown) => {
    throw asIoError(error, file);
  });
  return text
    .split(/\r?\n/)
    .map((line, i) => ({ line, place: `${file}, line ${i + 1}` }))
    .filter(({ line }) => line.trim() !== "");
}

/** The soft-hit reward of a configuration; threshold 0.5 by default for embeddings, 0 for edges. @throws RankGrpoError BAD_CONFIG unless exactly one of embeddings and edges is given */
export async function openSoftHits(
  options: RewardOptions & {
    readonly embeddings?: string | undefined;
    readonly edges?: string | undefined;
    readonly depth?: number | undefined;
    readonly threshold?: number | undefined;
  },
): Promise<Reward> {
  const { embeddings, edges, depth, threshold = options.embeddings === undefined ? 0 : 0.5, ...rest } = options;
  if ((embeddings === undefined) === (edges === undefined))
    throw new RankGrpoError("BAD_CONFIG", "Expected embeddings or edges for reward similarity, got both or neither.");
  const similarity =
    embeddings !== undefined
      ? embeddingSimilarity(await readEmbeddings(embeddings, rest.catalog))
      : graphSimilarity(rest.catalog, await readEdges(edges!, rest.catalog), depth);
  return softHits({ ...rest, similarity, threshold });
}
