// What commands that ask an OpenAI-compatible endpoint share: its options, and the account of what it was asked.
import type { Command } from "commander";

import type { EndpointOptions, Usage } from "../demonstrate/teacher.ts";
import { countNumber, positiveNumber, realNumber, wholeNumber } from "./options.ts";

export interface EndpointFlags {
  temperature: number;
  concurrency: number;
  retries: number;
  timeout: number;
  promptPrice: number;
  completionPrice: number;
  budget?: number;
  cache?: string;
}

/** Adds how requests are sent, counted and kept; `who` answers, `cache` is where answers lie by default. */
export function withEndpointFlags(command: Command, who: string, cache: string): Command {
  return command
    .option("--temperature <T>", `of ${who}`, realNumber, 0)
    .option("--concurrency <N>", "requests under way at once", countNumber, 8)
    .option("--retries <N>", "times that a failed request is sent again", wholeNumber, 5)
    .option("--timeout <seconds>", "until a request is given up and sent again", positiveNumber, 120)
    .option("--prompt-price <x>", "price of a million prompt tokens, to count costs", realNumber, 0)
    .option("--completion-price <x>", "price of a million answer tokens", realNumber, 0)
    .option("--budget <x>", "send nothing more once this run has cost so much", realNumber)
    .option("--cache <folder>", `answers (default: ${cache})`);
}

/** Of one call: whatever it asks shares the budget. */
export const endpointOf = (flags: EndpointFlags, cache: string): Omit<EndpointOptions, "url" | "model"> => ({
  cache,
  temperature: flags.temperature,
  concurrency: flags.concurrency,
  retries: flags.retries,
  timeoutMs: flags.timeout * 1000,
  promptPrice: flags.promptPrice,
  completionPrice: flags.completionPrice,
  account: { cost: 0 },
  ...(flags.budget !== undefined && { budget: flags.budget }),
});

export const describeUsage = (name: string, usage: Usage): string =>
  `${name}: ${usage.questions} questions, ${usage.cached} from the cache, ${usage.retries} sent again; ` +
  `${usage.promptTokens} + ${usage.completionTokens} tokens${usage.cost > 0 ? `, cost ${usage.cost.toFixed(4)}` : ""}`;
