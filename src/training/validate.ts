// Validation during training: greedy lists on held-out samples, measured as `evaluate` does.
import type { Sample } from "../data/sample.ts";
import { readSamples } from "../data/samples.ts";
import { refuse } from "../errors.ts";
import { completionLimit, evaluateLists, evaluatePolicy, meansOf, promptLimit } from "../evaluate.ts";
import type { Policy, Workload } from "../policy.ts";
import type { Catalog } from "../ranking/catalog.ts";
import type { CatalogConstraint } from "../ranking/constraint.ts";
import { longestPrompt } from "../text/encode.ts";
import type { ResolvedTrainConfig } from "./config.ts";
import { type Metrics, metricValue } from "./run.ts";

export interface Validation {
  readonly samples: readonly Sample[];
  /** The most that it asks of the policy; no two rows share a prompt. */
  workload(policy: Policy): Pick<Workload, "rows" | "groupSize" | "promptTokens" | "newTokens">;
  /** Metrics of the policy as it now is. */
  measure(policy: Policy, constraint: CatalogConstraint | undefined): Promise<Metrics>;
}

/** Reads the samples, before a model is opened; undefined where nothing is validated. @throws BAD_CONFIG without a catalog, BAD_DATA, IO */
export async function openValidation(
  validation: ResolvedTrainConfig["validation"],
  catalog: Catalog | undefined,
  defaults: Partial<Pick<ResolvedTrainConfig, "maxNewTokens" | "maxPromptTokens" | "maxRows">>,
): Promise<Validation | undefined> {
  if (!validation) return undefined;
  const known =
    catalog ?? refuse("BAD_CONFIG", "a catalog", "validation", "none", "Set catalog: to a TSV, JSON or pickle file.");
  const samples = await readSamples(validation.data, validation.limit === undefined ? {} : { limit: validation.limit });
  // of empty lists: what cannot be measured, or is no metric, is refused now
  const empty = samples.map(() => "");
  metricValue(meansOf(evaluateLists(samples, empty, { catalog: known }).metrics), validation.metric);
  const maxNewTokens = validation.maxNewTokens ?? defaults.maxNewTokens;
  const { maxPromptTokens, maxRows = 64 } = defaults;
  const options = {
    catalog: known,
    ...(maxNewTokens === undefined ? {} : { maxNewTokens }),
    ...(maxPromptTokens === undefined ? {} : { maxPromptTokens }),
    maxRows,
  };
  return {
    samples,
    workload(policy) {
      const newTokens = completionLimit(policy, maxNewTokens);
      const prompts = samples.map(({ prompt }) => prompt);
      return {
        rows: Math.min(maxRows, samples.length),
        groupSize: 1,
        promptTokens: Math.min(
          promptLimit(policy, newTokens, maxPromptTokens),
          longestPrompt(policy.tokenizer, prompts),
        ),
        newTokens,
      };
    },
    async measure(policy, constraint) {
      const { metrics } = await evaluatePolicy(policy, samples, { ...options, ...(constraint ? { constraint } : {}) });
      return meansOf(metrics);
    },
  };
}
