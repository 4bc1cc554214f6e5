// What the rollouts of a step look like before the update: rewards, live groups, lists, rank by rank (docs/metrics.md).
import type { Catalog } from "../ranking/catalog.ts";
import { repeats, totalReward } from "../ranking/rewards.ts";
import type { RolloutGroup } from "./rollout.ts";

/** 0 for none. */
export function mean(values: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i]!;
  return sum / Math.max(1, values.length);
}

const total = (values: readonly number[]): number => values.reduce((sum, x) => sum + x, 0);

/** Metrics of all groups that were drawn, those that take no part in the update among them. */
export function describeRollouts(
  groups: readonly RolloutGroup[],
  ranks: number,
  catalog: Catalog | undefined,
): Record<string, number | readonly number[]> {
  const rows = groups.flatMap(({ sampled }) =>
    sampled.completions.map((completion, i) => ({ completion, reward: sampled.rewards[i]! })),
  );
  const byRank = Array.from({ length: ranks }, (_, k) => mean(rows.map(({ reward }) => reward[k] ?? 0)));
  const liveByRank = Array.from({ length: ranks }, (_, k) =>
    mean(groups.map((group) => (group.advantages.some((a) => a[k] !== 0) ? 1 : 0))),
  );
  const sums = rows.map(({ reward }) => totalReward(reward));
  const center = mean(sums);
  const duplicates = Array.from({ length: ranks }, () => 0);
  const known = Array.from({ length: ranks }, () => 0);
  for (const { completion } of rows) {
    const again = repeats(completion.slots);
    for (const [k, slot] of completion.slots.slice(0, ranks).entries()) {
      duplicates[k]! += again[k]! / rows.length;
      if (slot && catalog?.has(slot)) known[k]! += 1 / rows.length;
    }
  }
  return {
    "groups/live": mean(groups.map((group) => (group.live ? 1 : 0))),
    "reward/mean": center,
    "reward/std": Math.sqrt(mean(sums.map((x) => (x - center) ** 2))),
    "reward/by_rank": byRank,
    "ranks/live": mean(liveByRank),
    "ranks/live_by_rank": liveByRank,
    "list/items": mean(rows.map(({ completion }) => completion.slots.length)),
    "list/duplicates": total(duplicates),
    "list/duplicates_by_rank": duplicates,
    ...(catalog ? { "list/in_catalog": total(known) / ranks, "list/in_catalog_by_rank": known } : {}),
    "rollout/tokens": mean(rows.map(({ completion }) => completion.ids.length)),
    "rollout/stopped": mean(rows.map(({ completion }) => (completion.finish === "stop" ? 1 : 0))),
    "rollout/rows": rows.length,
  };
}
