// The catalog constraint of a run, from its configuration.
import { refuse } from "../errors.ts";
import type { Policy } from "../policy.ts";
import type { Catalog } from "../ranking/catalog.ts";
import { CatalogConstraint } from "../ranking/constraint.ts";
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
