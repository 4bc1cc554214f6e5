// Validation during training: greedy lists on held-out samples, measured as `evaluate` does.
import { readSamples } from "../data/samples.ts";
import { refuse } from "../errors.ts";
import { evaluatePolicy, meansOf } from "../evaluate.ts";
import type { Policy } from "../policy.ts";
import type { Catalog } from "../ranking/catalog.ts";
import type { CatalogConstraint } from "../ranking/constraint.ts";
import type { ResolvedTrainConfig } from "./config.ts";
import type { Metrics } from "./run.ts";

/** Reads the samples once; the function that comes back measures the policy as it then is. @throws BAD_CONFIG without a catalog */
export async function validator(
  validation: NonNullable<ResolvedTrainConfig["validation"]>,
  policy: Policy,
  catalog: Catalog | undefined,
  defaults: { maxNewTokens?: number; maxRows?: number },
  constraint: CatalogConstraint | undefined,
): Promise<() => Promise<Metrics>> {
  const known =
    catalog ?? refuse("BAD_CONFIG", "a catalog", "validation", "none", "Set catalog: to a TSV, JSON or pickle file.");
  const samples = await readSamples(validation.data, validation.limit === undefined ? {} : { limit: validation.limit });
  const options = {
    catalog: known,
    maxNewTokens: validation.maxNewTokens ?? defaults.maxNewTokens ?? 512,
    maxRows: defaults.maxRows ?? 64,
    ...(constraint ? { constraint } : {}),
  };
  return async () => meansOf((await evaluatePolicy(policy, samples, options)).metrics);
}
