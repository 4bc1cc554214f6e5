// The catalog constraint of a run, from its configuration, and what it does to the objective.
import { refuse } from "../errors.ts";
import type { RowPlan } from "../objectives.ts";
import { forcedTokens, type Group, type Policy } from "../policy.ts";
import type { Catalog } from "../ranking/catalog.ts";
import { CatalogConstraint, type Constraint } from "../ranking/constraint.ts";
import type { ResolvedSftConfig, ResolvedTrainConfig } from "./config.ts";

/** Undefined where lists are free. @throws BAD_CONFIG without a catalog or a tokenizer */
export async function openConstraint(
  config: Pick<
    ResolvedTrainConfig | ResolvedSftConfig,
    "constrain" | "listLength" | "exclude" | "excludeColumn" | "unreadable" | "catalogCache" | "ranks"
  >,
  policy: Policy,
  catalog: Catalog | undefined,
): Promise<CatalogConstraint | undefined> {
  if (config.constrain === "none") return undefined;
  if (!catalog)
    refuse("BAD_CONFIG", "a catalog", "constrain: catalog", "none", "Set catalog: to a TSV, JSON or pickle file.");
  if (!policy.tokenizer || policy.stopId === undefined)
    refuse("BAD_CONFIG", "a checkpoint with a tokenizer and a stop token", "constrain: catalog", "one without");
  return CatalogConstraint.create(catalog, policy.tokenizer, policy.stopId, {
    length: config.listLength ?? config.ranks,
    exclude: config.exclude,
    unreadable: config.unreadable,
    ...(config.excludeColumn === undefined ? {} : { excludeColumn: config.excludeColumn }),
    ...(config.catalogCache === undefined ? {} : { cache: config.catalogCache }),
  });
}

/**
 * Takes tokens without an alternative out of the objective: their log-prob is 0 and has no gradient whatever the policy, so in an item's
 * mean they would only scale it down, by a share that differs from item to item. `plans` is one row for each completion, by group.
 */
export function maskForced(
  groups: readonly Group[],
  plans: readonly (readonly Pick<RowPlan, "item">[])[],
  constraint: Constraint,
): void {
  const forced = forcedTokens(groups, constraint);
  let token = 0;
  for (const { item } of plans.flat()) for (let t = 0; t < item.length; t++, token++) if (forced[token]) item[t] = -1;
}
