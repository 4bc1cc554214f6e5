// Group repair: what is done to the lists of one prompt before advantages are made, where sampling alone gives a poor signal. The built-in
// ones are made by name; one of your own is any function of the type `GroupRepair`.
import type { Sample } from "../data/sample.ts";
import { refuse } from "../errors.ts";
import type { Catalog } from "./catalog.ts";
import { formatItem, readList } from "./list.ts";
import { type Completion, groundTruths, seenTitles } from "./rewards.ts";
import { normalizeTitle } from "./title.ts";

/** The lists of one prompt. G lists. */
export interface RepairGroup {
  readonly sample: Sample;
  readonly completions: readonly Completion[];
  /** [G] mean log-prob of a list's tokens under the policy that sampled, nats; NaN for a list that was put in by an earlier repair. */
  readonly likelihood: readonly number[];
  /** [G]: total reward of a list */
  readonly rewards: readonly number[];
  /** [G]: false where an earlier repair left a list out */
  readonly kept: readonly boolean[];
}

export interface Repair {
  /** Texts that take the place of lists, by their number in the group: scored by the rewards and trained on like sampled ones. */
  readonly replace?: ReadonlyMap<number, string>;
  /** [G]: false leaves a list out of means, deviations, loss and KL. Default: all stay. */
  readonly keep?: readonly boolean[];
}

export type GroupRepair = (group: RepairGroup) => Repair;

/** What a repair makes of a group. @throws RankGrpoError INVALID_ARGUMENT naming it where that cannot be used, also where it comes later */
export function repaired(name: string, repair: GroupRepair, group: RepairGroup): Required<Repair> {
  const G = group.kept.length;
  const given = repair(group) as Repair | undefined;
  if (typeof given !== "object" || given === null || given instanceof Promise) {
    const got = given instanceof Promise ? "a promise" : given;
    refuse("INVALID_ARGUMENT", "an object with replace, keep, or neither", `repair ${name}`, got);
  }
  const { replace = new Map<number, string>(), keep = group.kept } = given;
  if (!Array.isArray(keep) || keep.length !== G || keep.some((k) => typeof k !== "boolean"))
    refuse("INVALID_ARGUMENT", `${G} of true or false`, `keep of repair ${name}`, keep);
  if (!(replace instanceof Map))
    refuse("INVALID_ARGUMENT", "a Map from numbers of lists to texts", `replace of repair ${name}`, replace);
  for (const [row, text] of replace) {
    if (!Number.isInteger(row) || row < 0 || row >= G)
      refuse("INVALID_ARGUMENT", `a list from 0 to ${G - 1}`, `replace of repair ${name}`, row);
    if (typeof text !== "string") refuse("INVALID_ARGUMENT", "a text", `replace of repair ${name}, list ${row}`, text);
  }
  return { replace, keep };
}

/** Names of the built-in repairs, as the configuration spells them. */
export const repairNames = ["anchor", "pair", "window"] as const;
export type RepairName = (typeof repairNames)[number];

export interface RepairOptions {
  /** Of anchor: items that may be put in. */
  readonly catalog: Catalog | undefined;
  /** Of window: share of the likeliest lists without a hit to pass over, from 0 to below 1. Default 0. */
  readonly low?: number | undefined;
  /** Of window: width of the window as a share of the lists without a hit, above 0. Default 0.5. */
  readonly width?: number | undefined;
}

/**
 * A built-in repair by name:
 *
 *   anchor   a group without a hit (no total reward above 0) gets one: the first ground truth of the catalog that the dialogue does not name
 *            becomes the first line of the list that earned least (the least likely, in a tie). ReCast (arXiv 2604.22169): the repair
 *   pair     the strongest positive (largest reward; the likeliest in a tie) and the hardest negative (the likeliest of those that earned
 *            least) stay alone. ReCast: the contrast. A group whose lists earned alike stays whole
 *   window   of lists without a hit those stay that are the likeliest, from `low` over a share of `width`: the false positive rates that top-K
 *            metrics look at. TAWin (arXiv 2604.22504): partial AUC over a window [low, low + width]
 *
 * The papers train on single items; here a list is what is compared. ReCast is [anchor, pair].
 *
 * @throws RankGrpoError INVALID_ARGUMENT for an unknown name, a window that is none, or an anchor without a catalog.
 */
export function createRepair(name: string, options: RepairOptions): GroupRepair {
  switch (name as RepairName) {
    case "anchor":
      return anchor(
        options.catalog ??
          refuse("BAD_CONFIG", "a catalog", "repair anchor", "none", "Set catalog: to a TSV, JSON or pickle file."),
      );
    case "pair":
      return pair;
    case "window":
      return windowed(options.low ?? 0, options.width ?? 0.5);
    default:
      return refuse("INVALID_ARGUMENT", `one of ${repairNames.join(", ")}`, "the repair's name", name);
  }
}

/** Lists that are kept, the likeliest first; where likelihoods are equal or unknown, in the group's order. */
const likeliest = ({ kept, likelihood }: RepairGroup): number[] => {
  const of = (row: number): number => (Number.isNaN(likelihood[row]) ? Number.NEGATIVE_INFINITY : likelihood[row]!);
  return [...kept.keys()].filter((row) => kept[row]).sort((a, b) => (of(a) === of(b) ? a - b : of(b) > of(a) ? 1 : -1));
};

const anchor =
  (catalog: Catalog): GroupRepair =>
  (group) => {
    const order = likeliest(group);
    if (order.length === 0 || order.some((row) => group.rewards[row]! > 0)) return {};
    const seen = seenTitles(group.sample);
    const item = groundTruths(group.sample).find((truth) => catalog.has(truth) && !seen.has(truth.title));
    if (item === undefined) return {};
    const row = order.reduce((least, r) => (group.rewards[r]! <= group.rewards[least]! ? r : least));
    const title = normalizeTitle(item.title);
    const { text, finish } = group.completions[row]!;
    const lines = text.split("\n").filter((line) => line.trim() !== "");
    if (finish === "length") lines.pop(); // cut off, it is no end of a list
    // a line that names the item already would now be a repeat; it goes in place of the first
    const named = lines.findIndex((line) =>
      readList(line).some((slot) => slot && normalizeTitle(slot.title) === title),
    );
    lines.splice(Math.max(0, named), 1);
    return { replace: new Map([[row, [formatItem(item), ...lines].join("\n")]]) };
  };

const pair: GroupRepair = (group) => {
  const order = likeliest(group);
  const first = (wanted: number): number => order.find((row) => group.rewards[row] === wanted)!;
  const earned = order.map((row) => group.rewards[row]!);
  const [most, least] = [Math.max(...earned), Math.min(...earned)];
  if (order.length === 0 || most === least) return {};
  const stay = [first(most), first(least)];
  return { keep: group.kept.map((_, row) => stay.includes(row)) };
};

function windowed(low: number, width: number): GroupRepair {
  if (!(low >= 0 && low < 1)) refuse("INVALID_ARGUMENT", "a number from 0 to below 1", "low of repair window", low);
  if (!(width > 0 && width <= 1))
    refuse("INVALID_ARGUMENT", "a number above 0, at most 1", "width of repair window", width);
  return (group) => {
    const misses = likeliest(group).filter((row) => !(group.rewards[row]! > 0));
    if (misses.length === group.kept.filter(Boolean).length) return {}; // no hit to compare with
    const from = Math.floor(low * misses.length);
    const to = Math.max(from + 1, Math.round((low + width) * misses.length));
    const out = new Set(misses.filter((_, i) => i < from || i >= to));
    return { keep: group.kept.map((kept, row) => kept && !out.has(row)) };
  };
}
