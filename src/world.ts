// A synthetic world of items and tastes whose best possible recommendations are known exactly: the quickstart's data, and a test
// bed for objectives. Titles are made of words that carry no meaning, so a model has to learn the catalog.
//
// A taste is one genre, or a main and a second one. P(item | taste) is proportional to popularity x (genre share + a little for every
// genre). A dialogue names three items drawn from its taste without replacement; the ground truth is the next three draws.

import { refuse } from "./errors.ts";
import { Stream, uniform } from "./random.ts";
import type { Item } from "./ranking/list.ts";
import { formatItem } from "./ranking/list.ts";
import { makeTokenizer } from "./text/tokenizer.ts";
import type { Tokenizer } from "./text/types.ts";

export interface WorldOptions {
  /** Default 12. */
  genres?: number;
  /** Default 25: 300 items. At most 60 x 60 titles exist. */
  itemsPerGenre?: number;
  /** List length K, default 10. */
  ranks?: number;
  /** What a genre that nobody named counts for the teacher, beside half a named one's share; less makes a better teacher. Default 0.3. */
  teacherFloor?: number;
  seed?: number;
}

export interface Dialogue {
  named: readonly number[];
  truth: readonly number[];
}

interface Taste {
  prior: number;
  /** P(item | taste), sums to 1 */
  probability: Float64Array;
}

const adjectives =
  "Amber Ashen Bitter Brazen Broken Cobalt Crimson Distant Ebony Faded Feral Gilded Golden Hidden Hollow Iron Ivory Jagged Lunar Misty Noble Opal Pale Quiet Restless Rusted Silent Velvet Violet Wandering";
const nouns =
  "Anchor Arrow Bell Bridge Candle Canyon Castle Comet Crown Ember Falcon Feather Fountain Garden Harbor Key Lantern Meadow Mirror Orchard Raven River Sparrow Stone Storm Thorn Tiger Tower Valley Whisper";
/** Joined by worlds of more items than the first words give titles. */
const moreAdjectives =
  "Ancient Arctic Blazing Burning Calm Cloudy Cold Copper Crystal Dusty Eager Frozen Gentle Glass Grand Green Heavy Humble Jade Lonely Loud Marble Mellow Muted Narrow Olive Proud Royal Scarlet Timid";
const moreNouns =
  "Acorn Badger Beacon Branch Cabin Chapel Cliff Cloud Coral Desert Door Drum Fable Field Forge Glacier Hammer Island Ladder Lake Moon Needle Ocean Pillar Prairie Ribbon Saddle Temple Village Wagon";
const words = (text: string): string[] => text.split(" ");
const titleWords = (count: number): { adjective: string[]; noun: string[] } => {
  const few = { adjective: words(adjectives), noun: words(nouns) };
  return count <= few.adjective.length * few.noun.length
    ? few
    : {
        adjective: [...few.adjective, ...words(moreAdjectives)],
        noun: [...few.noun, ...words(moreNouns)],
      };
};
const firstYear = 1980;
const years = 40;

/** Index of a draw by cumulated weight, u in [0, 1). */
function pick(weights: Float64Array, excluded: ReadonlySet<number>, u: number): number {
  let total = 0;
  for (const [i, w] of weights.entries()) if (!excluded.has(i)) total += w;
  let left = u * total;
  let last = -1;
  for (const [i, w] of weights.entries()) {
    if (excluded.has(i)) continue;
    last = i;
    if (left < w) return i;
    left -= w;
  }
  return last;
}

export class World {
  readonly items: readonly Item[];
  readonly genreOf: Int32Array;
  readonly ranks: number;
  /** Popularity of every item within its genre. */
  readonly weight: Float64Array;
  readonly #seed: number;
  readonly #teacherFloor: number;
  readonly #tastes: readonly Taste[];

  constructor(options: WorldOptions = {}) {
    const { genres = 12, itemsPerGenre = 25, ranks = 10, teacherFloor = 0.3, seed = 1 } = options;
    this.#seed = seed;
    this.#teacherFloor = teacherFloor;
    this.ranks = ranks;
    const count = genres * itemsPerGenre;
    this.items = titles(count, seed);
    this.genreOf = Int32Array.from({ length: count }, (_, i) => Math.floor(i / itemsPerGenre));
    this.weight = Float64Array.from({ length: count }, (_, i) => 1 / ((i % itemsPerGenre) + 3) ** 0.7);
    const shares: { prior: number; share: Map<number, number> }[] = [];
    for (let g = 0; g < genres; g++) {
      shares.push({ prior: 0.4 / genres, share: new Map([[g, 1]]) });
      for (let h = 0; h < genres; h++)
        if (h !== g)
          shares.push({
            prior: 0.6 / (genres * (genres - 1)),
            share: new Map([
              [g, 0.7],
              [h, 0.3],
            ]),
          });
    }
    this.#tastes = shares.map(({ prior, share }) => {
      const probability = this.weight.map((w, i) => w * ((share.get(this.genreOf[i]!) ?? 0) + 0.02 / genres));
      const total = probability.reduce((a, b) => a + b, 0);
      return { prior, probability: probability.map((p) => p / total) };
    });
  }

  /** Dialogue number `index`: a function of seed and index alone. */
  dialogue(index: number): Dialogue {
    const u = (i: number): number => uniform(this.#seed, Stream.world, index, i);
    let left = u(0);
    let taste = this.#tastes.length - 1;
    for (const [t, { prior }] of this.#tastes.entries()) {
      if (left < prior) {
        taste = t;
        break;
      }
      left -= prior;
    }
    const drawn = new Set<number>();
    for (let i = 1; i <= 6; i++) drawn.add(pick(this.#tastes[taste]!.probability, drawn, u(i)));
    const all = [...drawn];
    return { named: all.slice(0, 3), truth: all.slice(3) };
  }

  /** Probability of every taste given the named items in their order (drawn without replacement). */
  posterior(named: readonly number[]): Float64Array {
    const joint = Float64Array.from(this.#tastes, ({ prior, probability }) => {
      let likelihood = prior;
      let rest = 1;
      for (const i of named) {
        likelihood *= probability[i]! / rest;
        rest -= probability[i]!;
      }
      return likelihood;
    });
    const total = joint.reduce((a, b) => a + b, 0);
    return joint.map((x) => x / total);
  }

  /**
   * The best list: items by their probability of being among the next three draws. Expected recall and NDCG are linear in these
   * probabilities (three ground truths always), so no list does better. Tastes below `negligible` posterior are left out.
   */
  bestList(named: readonly number[], negligible = 1e-4): number[] {
    const n = this.items.length;
    const inclusion = new Float64Array(n);
    for (const [t, weight] of this.posterior(named).entries()) {
      if (weight < negligible) continue;
      const own = inclusionOfThree(this.#tastes[t]!.probability, named);
      for (let i = 0; i < n; i++) inclusion[i]! += weight * own[i]!;
    }
    return topItems(inclusion, this.ranks, named);
  }

  /** A teacher's list: genre share among the named items and popularity, with noise; too fond of the popular, which rewards can mend. */
  teacherList(named: readonly number[], index: number): number[] {
    const score = this.weight.map((w, i) => {
      const share = named.filter((j) => this.genreOf[j] === this.genreOf[i]).length / named.length;
      const gumbel = -Math.log(-Math.log(uniform(this.#seed, Stream.demonstrate, index, i) + 1e-12));
      return Math.log(0.5 * share + this.#teacherFloor) + 1.3 * Math.log(w) + 0.4 * gumbel;
    });
    return topItems(score, this.ranks, named);
  }

  /** The most popular items that are not named. */
  popularList(named: readonly number[]): number[] {
    return topItems(this.weight, this.ranks, named);
  }

  text(list: readonly number[]): string {
    return list.map((i) => formatItem(this.items[i]!)).join("\n");
  }

  /** A sample in the unified schema; with a teacher's completion where asked for. */
  sample(index: number, demonstration = false): Record<string, unknown> {
    const { named, truth } = this.dialogue(index);
    return {
      id: `world-${index}`,
      prompt: `Liked:\n${this.text(named)}\nNext:\n`,
      ...(demonstration ? { completion: this.text(this.teacherList(named, index)) } : {}),
      groundtruth_with_release_year: truth.map((i) => [this.items[i]!.title, this.items[i]!.year]),
      seen_titles: named.map((i) => this.items[i]!.title),
    };
  }

  /** Three tokens a title and one for the newline. */
  tokenizer(): Tokenizer {
    const { adjective, noun } = titleWords(this.items.length);
    const vocabulary = [
      "<pad>",
      "<eos>",
      "\n",
      "Liked:",
      "Next:",
      ...adjective,
      ...noun.map((word) => ` ${word}`),
      ...Array.from({ length: years }, (_, y) => ` (${firstYear + y})`),
    ];
    const special = ["<pad>", "<eos>"].map((content, id) => ({
      id,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    }));
    return makeTokenizer(
      {
        version: "1.0",
        truncation: null,
        padding: null,
        added_tokens: special,
        normalizer: null,
        pre_tokenizer: { type: "Split", pattern: { Regex: "\\n| ?[^ \\n]+" }, behavior: "Isolated", invert: false },
        post_processor: null,
        decoder: { type: "Fuse" },
        model: {
          type: "WordLevel",
          vocab: Object.fromEntries(vocabulary.map((word, id) => [word, id])),
          unk_token: "<pad>",
        },
      },
      {
        tokenizer_class: "PreTrainedTokenizerFast",
        eos_token: "<eos>",
        pad_token: "<pad>",
        clean_up_tokenization_spaces: false,
      },
    );
  }
}

/** Distinct titles, assigned without regard to genre. */
function titles(count: number, seed: number): Item[] {
  const { adjective, noun } = titleWords(count);
  const most = adjective.length * noun.length;
  if (!(count >= 1 && count <= most)) refuse("INVALID_ARGUMENT", `1 to ${most}`, "genres x itemsPerGenre", count);
  const seen = new Set<number>();
  const items: Item[] = [];
  for (let draw = 0; items.length < count; draw++) {
    const pair = Math.floor(uniform(seed, Stream.world, 0xffffffff, draw) * adjective.length * noun.length);
    if (seen.has(pair)) continue; // titles differ by more than their year
    seen.add(pair);
    items.push({
      title: `${adjective[pair % adjective.length]} ${noun[Math.floor(pair / adjective.length)]}`,
      year: firstYear + Math.floor(uniform(seed, Stream.world, 0xfffffffe, draw) * years),
    });
  }
  return items;
}

/** The `count` largest scores, ties by index, without the named items. */
function topItems(score: ArrayLike<number>, count: number, named: readonly number[]): number[] {
  return Array.from({ length: score.length }, (_, i) => i)
    .filter((i) => !named.includes(i))
    .sort((a, b) => score[b]! - score[a]! || a - b)
    .slice(0, count);
}

/**
 * P(item among three draws without replacement), the named items gone. Items of equal probability are counted together: a taste knows few
 * distinct ones, and the sums run over pairs of them.
 */
export function inclusionOfThree(probability: Float64Array, named: readonly number[]): Float64Array {
  const gone = named.reduce((sum, i) => sum + probability[i]!, 0);
  const q = probability.map((p, i) => (named.includes(i) ? 0 : p / (1 - gone)));
  const counts = new Map<number, number>();
  for (const x of q) counts.set(x, (counts.get(x) ?? 0) + 1);
  const values = [...counts];
  // f(a, b) = P(a first, b second) / (1 - q_a - q_b): summed over ordered pairs of other items and times q_i it is P(i third)
  const f = (a: number, b: number): number => (a * b) / (1 - a) / (1 - a - b);
  let all = 0;
  let firstSum = 0; // over a of q_a / (1 - q_a): times q_i, without i itself, it is P(i second)
  const own = new Map<number, number>(); // by q_i: the pairs that i itself stands in
  for (const [a, as] of values) {
    firstSum += (as * a) / (1 - a);
    let pairs = 0;
    for (const [b, bs] of values) {
      const others = a === b ? bs - 1 : bs;
      if (others === 0) continue;
      all += as * others * f(a, b);
      pairs += others * (f(a, b) + f(b, a));
    }
    own.set(a, pairs);
  }
  return q.map((x) => x * (1 + firstSum - x / (1 - x) + all - own.get(x)!));
}
