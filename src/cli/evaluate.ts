// `rank-grpo evaluate`: a checkpoint, an endpoint's model, or completions made elsewhere, against the ground truth; baselines beside it.
import Table from "cli-table3";
import { Command, Option } from "commander";

import { readJsonl } from "../data/jsonl.ts";
import type { Sample } from "../data/sample.ts";
import { readSamples } from "../data/samples.ts";
import { type EndpointLists, endpointLists } from "../demonstrate/endpoint.ts";
import { RankGrpoError, refuse } from "../errors.ts";
import { type Evaluation, evaluateLists, evaluatePolicy, requireTruths } from "../evaluate.ts";
import { requireFreshFile, writeFileAtomic } from "../files.ts";
import { cooccurrenceLists, mixedLists, neighborLists, popularityLists } from "../ranking/baselines.ts";
import { Catalog } from "../ranking/catalog.ts";
import { formatItem, type Item } from "../ranking/list.ts";
import { cutoffs, type ListMetrics, type MetricOptions } from "../ranking/metrics.ts";
import { type ConstrainFlags, readConstraint, withConstrainFlags } from "./constrain.ts";
import { describeUsage, type EndpointFlags, endpointOf, withEndpointFlags } from "./endpoint.ts";
import { countNumber, type ModelFlags, openModel, withModelFlags } from "./options.ts";
import { ItemProgress } from "./progress.ts";

interface Flags extends ConstrainFlags, ModelFlags, EndpointFlags {
  model?: string;
  endpoint?: string;
  endpointModel?: string;
  completions?: string;
  data: string;
  catalog: string;
  train?: string;
  beams?: number;
  limit?: number;
  output?: string;
  maxNewTokens?: number;
  maxPromptTokens?: number;
  maxRows: number;
  truncation: NonNullable<MetricOptions["truncation"]>;
  ideal: NonNullable<MetricOptions["ideal"]>;
}

export function evaluateCommand(): Command {
  const command = new Command("evaluate")
    .description("Recall@k and NDCG@k (k = 5, 10, 15, 20) of a model's lists, with standard errors")
    .option("--model <path>", "Hugging Face folder or .gguf file; lists are generated greedily")
    .option(
      "--completions <file>",
      "instead: JSONL with id and completion (text), made by any system, or what `generate` writes",
    )
    .option("--endpoint <URL>", "instead: base URL of an OpenAI-compatible service, asked with the data's own prompts")
    .requiredOption("--data <file>", "JSONL with prompt, groundtruth_with_release_year and seen_titles")
    .requiredOption("--catalog <file>", "TSV (title, year), JSON, or pickle of (title, year)")
    .option(
      "--train <file>",
      "training JSONL: adds the baselines popularity, neighbor voting, co-occurrence and their mix",
    )
    .option("--limit <rows>", "the first rows only", countNumber)
    .option("--output <file>", "JSON with metrics, and every row's list and metrics (for report and compare)")
    .option(
      "--max-new-tokens <N>",
      "length limit of a list in tokens (default: 512, or half of the context; 1024 of an endpoint)",
      countNumber,
    )
    .option(
      "--max-prompt-tokens <N>",
      "longer prompts lose their beginning, as under a training's maxPromptTokens (default: what the context leaves)",
      countNumber,
    )
    .option(
      "--beams <N>",
      "with --constrain catalog: beam search over items instead of greedy tokens, keeping N lists",
      countNumber,
    )
    .option("--max-rows <N>", "rows decoded together", countNumber, 64)
    .addOption(
      new Option("--truncation <way>", "filter the whole list and then cut it to k, or the other way round")
        .choices(["filter-then-cut", "cut-then-filter"])
        .default("filter-then-cut"),
    )
    .addOption(
      new Option("--ideal <way>", "ideal DCG over min(truths, k), or as the published code over the filtered list too")
        .choices(["standard", "filtered"])
        .default("standard"),
    );
  withConstrainFlags(withModelFlags(command), { catalog: false, constrain: true })
    .optionsGroup("Endpoint:")
    .option("--endpoint-model <name>", "the service's model; its key is read from OPENAI_API_KEY");
  return withEndpointFlags(command, "the endpoint's model", "<data>.answers")
    .addHelpText(
      "after",
      `
Examples:
  rank-grpo evaluate --model runs/train/best --data test.jsonl --catalog catalog.tsv --train train.jsonl
  rank-grpo evaluate --endpoint https://api.openai.com/v1 --endpoint-model gpt-4o --data test.jsonl --catalog catalog.tsv \\
    --budget 5 --prompt-price 2.5 --completion-price 10
`,
    )
    .action(run);
}

/** One source of lists, and no option of another's. */
function checkFlags(flags: Flags): void {
  const given = (["model", "completions", "endpoint"] as const).filter((name) => flags[name] !== undefined);
  if (given.length !== 1)
    throw new RankGrpoError(
      "INVALID_ARGUMENT",
      `Expected one of --model, --completions and --endpoint, got ${given.map((name) => `--${name}`).join(" and ") || "none"}.`,
    );
  if (flags.endpoint !== undefined && flags.endpointModel === undefined)
    refuse("INVALID_ARGUMENT", "the service's model", "--endpoint-model", "none");
  if (flags.endpointModel !== undefined && flags.endpoint === undefined)
    refuse("INVALID_ARGUMENT", "--endpoint", "--endpoint-model", "none");
  if (flags.model === undefined && (flags.constrain !== "none" || flags.beams !== undefined))
    throw new RankGrpoError(
      "INVALID_ARGUMENT",
      `Expected --model with --constrain and --beams, got --${given[0]}: only the engine can hold lists inside a catalog.`,
    );
}

async function run(flags: Flags): Promise<void> {
  checkFlags(flags);
  if (flags.output) requireFreshFile(flags.output);
  const catalog = await Catalog.load(flags.catalog);
  const samples = await readSamples(flags.data, flags.limit === undefined ? {} : { limit: flags.limit });
  requireTruths(samples);
  const options = { catalog, truncation: flags.truncation, ideal: flags.ideal };
  const baselines =
    flags.train === undefined ? [] : evaluateBaselines(await readSamples(flags.train), samples, options);
  const asked = flags.endpoint === undefined ? undefined : await askEndpoint(flags.endpoint, flags, samples);
  const main: Result = {
    name: asked ? `${flags.endpointModel} at ${flags.endpoint}` : (flags.model ?? flags.completions!),
    evaluation: asked
      ? evaluateLists(samples, asked.lists, options)
      : flags.completions !== undefined
        ? evaluateLists(samples, await readCompletions(flags.completions, samples), options)
        : await evaluateModel(flags.model!, flags, samples, options),
  };
  process.stdout.write(`${describe([...baselines, main])}\n`);
  if (asked)
    process.stdout.write(
      `${describeUsage("endpoint", asked.usage)}\n${(100 * asked.unreadable).toFixed(1)} % of the answers could not be read.\n`,
    );
  if (flags.output) {
    const lists = samples.map((sample, i) => ({ id: sample.id, completion: main.evaluation.lists[i] }));
    const json = {
      ...main.evaluation.metrics,
      source: main.name,
      data: flags.data,
      baselines: Object.fromEntries(baselines.map(({ name, evaluation }) => [name, evaluation.metrics])),
      lists,
      row_metrics: main.evaluation.rows,
      ...(asked && { usage: asked.usage, unreadable: asked.unreadable }),
    };
    await writeFileAtomic(flags.output, `${JSON.stringify(json, null, 1)}\n`);
    process.stdout.write(`Written: ${flags.output}\n`);
  }
}

interface Result {
  name: string;
  evaluation: Evaluation;
}

function evaluateBaselines(
  train: readonly Sample[],
  samples: readonly Sample[],
  options: MetricOptions & { catalog: Catalog },
): Result[] {
  const measure = (lists: readonly (readonly Item[])[]): Evaluation =>
    evaluateLists(
      samples,
      lists.map((list) => list.map(formatItem).join("\n")),
      options,
    );
  const makers = {
    popularity: popularityLists,
    "neighbor voting": neighborLists,
    "co-occurrence": cooccurrenceLists,
    "voting + co-occurrence": mixedLists,
  };
  return Object.entries(makers).map(([name, make]) => ({
    name,
    evaluation: measure(make(train, samples, options.catalog, 20)),
  }));
}

async function evaluateModel(
  model: string,
  flags: Flags,
  samples: readonly Sample[],
  options: MetricOptions & { catalog: Catalog },
): Promise<Evaluation> {
  const policy = await openModel(model, flags);
  try {
    const constraint = await readConstraint(flags, policy, options.catalog);
    constraint?.check(samples);
    const progress = new ItemProgress("evaluate", samples.length);
    return await evaluatePolicy(policy, samples, {
      ...options,
      ...(flags.maxNewTokens === undefined ? {} : { maxNewTokens: flags.maxNewTokens }),
      ...(flags.maxPromptTokens === undefined ? {} : { maxPromptTokens: flags.maxPromptTokens }),
      maxRows: flags.maxRows,
      ...(constraint ? { constraint } : {}),
      ...(flags.beams === undefined ? {} : { beams: flags.beams }),
      onProgress: (done, total) => progress.update(done, total), // of the distinct prompts
    }).finally(() => progress.done());
  } finally {
    policy.dispose();
  }
}

async function askEndpoint(url: string, flags: Flags, samples: readonly Sample[]): Promise<EndpointLists> {
  const progress = new ItemProgress("endpoint", samples.length);
  try {
    return await endpointLists(samples, {
      ...endpointOf(flags, flags.cache ?? `${flags.data}.answers`),
      url,
      model: flags.endpointModel!,
      ...(flags.maxNewTokens === undefined ? {} : { maxTokens: flags.maxNewTokens }),
      onProgress: (done, total) => progress.update(done, total),
    });
  } finally {
    progress.done();
  }
}

/** Of a row that `generate` wrote, the only one that it sampled: a completion beside them is what the prompt came with. */
function completionOf({ completion, completions }: Record<string, unknown>): unknown {
  if (!Array.isArray(completions)) return completion;
  if (completions.length !== 1) refuse("BAD_DATA", "one completion for each prompt", "completions", completions.length);
  return (completions[0] as { text?: unknown } | null)?.text;
}

/** Lists by id, in the order of the samples. @throws BAD_DATA for a sample without a list, and for an id with several */
async function readCompletions(path: string, samples: readonly Sample[]): Promise<string[]> {
  const lists = new Map<string, string>();
  const read = (row: Record<string, unknown>): [string, string] => {
    const { id } = row;
    const completion = completionOf(row);
    if (typeof id !== "string" && typeof id !== "number") refuse("BAD_DATA", "a text or number", "id", id);
    if (typeof completion !== "string") refuse("BAD_DATA", "a text", "completion", completion);
    return [String(id), completion];
  };
  for await (const [id, completion] of readJsonl(path, read)) {
    if ((lists.get(id) ?? completion) !== completion)
      refuse(
        "BAD_DATA",
        `one completion for id ${id}`,
        path,
        "several that differ",
        "Give every row an id of its own.",
      );
    lists.set(id, completion);
  }
  return samples.map(
    (sample) => lists.get(sample.id) ?? refuse("BAD_DATA", `a completion for sample ${sample.id}`, path, "none"),
  );
}

function describe(results: readonly Result[]): string {
  const table = new Table({
    head: [
      "",
      ...cutoffs.map((k) => `Recall@${k}`),
      ...cutoffs.map((k) => `NDCG@${k}`),
      "in catalog",
      "repeats",
      "items",
    ],
    style: { head: [], border: [] },
  });
  for (const { name, evaluation } of results) {
    const m: ListMetrics = evaluation.metrics;
    table.push([
      name,
      ...cutoffs.map((k) => m[`recall@${k}`].toFixed(4)),
      ...cutoffs.map((k) => m[`ndcg@${k}`].toFixed(4)),
      m.in_catalog.toFixed(3),
      m.duplicates.toFixed(2),
      m.list_length.toFixed(1),
    ]);
  }
  const m = results.at(-1)!.evaluation.metrics;
  const error = (value: number | null): string => (value === null ? "?" : value.toFixed(4));
  return [
    table.toString(),
    `${m.rows} rows (${m.rows_with_truths} with ground truth) of ${m.dialogues} dialogues; ${m.truncation}, ${m.ideal} ideal DCG.`,
    `Standard errors of Recall@20 and NDCG@20: ${error(m["recall@20_stderr"])} and ${error(m["ndcg@20_stderr"])} by row, ` +
      `${error(m["recall@20_stderr_dialogue"])} and ${error(m["ndcg@20_stderr_dialogue"])} by dialogue.`,
  ].join("\n");
}
