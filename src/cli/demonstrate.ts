// `rank-grpo data demonstrate` and its stages teach, remap, reflect and adjust: one set of flags, for a stage needs those before it.
import Table from "cli-table3";
import { Command, Option } from "commander";

import type { StageEffect } from "../demonstrate/ablate.ts";
import type { Embedding } from "../demonstrate/demonstrate.ts";
import { endpointEncoder, localEncoder } from "../demonstrate/embed.ts";
import { type DemonstrateOptions, demonstrate, stageNames, votingDecays } from "../demonstrate/stages.ts";
import { Endpoint, EndpointTeacher, EngineTeacher, type Teacher, type Usage } from "../demonstrate/teacher.ts";
import { refuse } from "../errors.ts";
import { cutoffs } from "../ranking/metrics.ts";
import { describeUsage, type EndpointFlags, endpointOf, withEndpointFlags } from "./endpoint.ts";
import { realNumber, wholeNumber } from "./options.ts";
import { ItemProgress } from "./progress.ts";

interface Flags extends EndpointFlags {
  data: string;
  feedback: string;
  catalog: string;
  output?: string;
  teacher: string;
  teacherModel?: string;
  lists?: string;
  judge?: string;
  judgeModel?: string;
  embeddings?: string;
  embeddingModel?: string;
  metadata?: string;
  describe?: boolean;
  listLength: number;
  candidates: number;
  neighbors: number;
  shrink: number;
  lambda: number;
  positionPower: number;
  gamma: number;
  levels: number;
  shuffle: boolean;
  keepSeen?: boolean;
  weightDecay?: number;
  biasDecay?: number;
  tolerance: number;
  maxIterations: number;
  folds: number;
  seed: number;
  adjustment?: string;
  ablate?: boolean;
  stages?: string;
  overwrite?: boolean;
}

const what: Record<(typeof stageNames)[number], string> = {
  teach: "Stage 1, first part: the teacher's lists",
  remap: "Stage 1 up to Remap: the catalogue's best candidates for every list",
  reflect: "Stage 1 up to Reflect: the judge's ratings of the candidates",
  adjust: "Stage 1 up to Adjust: weights, biases and demonstrations (the same as demonstrate)",
};

/** `demonstrate`, and one command for each stage. */
export function demonstrateCommands(): Command[] {
  const whole = withFlags(
    new Command("demonstrate").description(
      "Stage 1: demonstrations grounded in the catalogue (Remap, Reflect, Adjust)",
    ),
    true,
  );
  whole
    .addHelpText(
      "after",
      `
Without a teacher (--teacher none) neighbours vote over the feedback, similarities are co-occurrences, Reflect is left out, and Adjust
decays w by ${votingDecays.weightDecay} and b by ${votingDecays.biasDecay}. The key of an endpoint is read from OPENAI_API_KEY. Every answer is kept: a run that is repeated or was
stopped pays for nothing twice.

Examples:
  rank-grpo data demonstrate --data train.jsonl --feedback train.jsonl --catalog catalog.tsv --output sft.jsonl --ablate
  rank-grpo data demonstrate --data sft.jsonl --feedback train.jsonl --catalog catalog.tsv --output demonstrations.jsonl \\
    --teacher https://api.openai.com/v1 --teacher-model gpt-4o --embeddings https://api.openai.com/v1 --embedding-model text-embedding-3-small \\
    --describe --budget 20 --prompt-price 2.5 --completion-price 10
`,
    )
    .action((flags: Flags) => run(flags, undefined));
  const parts = stageNames.map((name) =>
    withFlags(new Command(name).description(what[name]), name === "adjust").action((flags: Flags) => run(flags, name)),
  );
  return [whole, ...parts];
}

function withFlags(command: Command, writes: boolean): Command {
  command
    .requiredOption("--data <file>", "JSON Lines to demonstrate")
    .requiredOption(
      "--feedback <file>",
      "training split: its ground truths vote and fit, never those of the row's own dialogue",
    )
    .requiredOption("--catalog <file>", "TSV (title, year), JSON, or pickle of (title, year)");
  if (writes) command.requiredOption("--output <file>", "JSON Lines for SFT: the data with a completion");
  command
    .option(
      "--stages <folder>",
      writes ? "the stages' files (default: <output>.stages)" : "the stages' files (default: <data>.stages)",
    )
    .optionsGroup("Teacher and judge:")
    .option(
      "--teacher <who>",
      "none, engine (with --teacher-model), or the base URL of an OpenAI-compatible service",
      "none",
    )
    .option("--teacher-model <name>", "the service's model, or a checkpoint for engine")
    .option("--lists <file>", "instead of the teacher: JSON Lines with id and titles, or with a completion")
    .option("--judge <who>", "as --teacher (default: the teacher)")
    .option("--judge-model <name>", "as --teacher-model (default: the teacher's)")
    .option("--neighbors <N>", "teacher none: dialogues that vote", wholeNumber, 300);
  withEndpointFlags(command, "teacher or judge", "answers in the stages' folder")
    .optionsGroup("Remap:")
    .option("--list-length <N>", "titles of a list", wholeNumber, 20)
    .option(
      "--embeddings <kind>",
      "tfidf, cooccurrence, none, local, or a base URL (default: cooccurrence without a teacher, else tfidf)",
    )
    .option("--embedding-model <name>", "model of local (for @huggingface/transformers) or of the service")
    .option("--metadata <file>", "keywords and plots of items: CSV, TSV or JSON Lines with title, year, keywords, plot")
    .option("--describe", "let the teacher write the keywords and plots that are missing (one question an item)")
    .option("--shrink <x>", "cooccurrence: added to counts, so that rare pairs weigh less", realNumber, 5)
    .option("--lambda <x>", "weight of the similarity between dialogue and item", realNumber, 1)
    .option("--position-power <p>", "rank k weighs 1 / k^p", realNumber, 0.5)
    .option("--keep-seen", "keep titles that the dialogue names")
    .optionsGroup("Reflect:")
    .option("--candidates <N>", "titles that the judge rates (N_r)", wholeNumber, 100)
    .option("--gamma <x>", "weight of a rating", realNumber, 0.5)
    .option("--levels <N>", "rating levels, odd: 5 are -2 to 2", wholeNumber, 5)
    .option("--no-shuffle", "candidates in Remap's order, as the paper; default: shuffled against position bias")
    .optionsGroup("Adjust:")
    .option(
      "--weight-decay <x>",
      `of ||w - 1||^2 (default: 0.01; ${votingDecays.weightDecay} without a teacher)`,
      realNumber,
    )
    .option("--bias-decay <x>", `of ||b||^2 (default: 0.01; ${votingDecays.biasDecay} without a teacher)`, realNumber)
    .option("--tolerance <x>", "converged once an iteration gains less than this share of the loss", realNumber, 1e-5)
    .option("--max-iterations <N>", "of the fit", wholeNumber, 200)
    .option(
      "--folds <K>",
      "folds of dialogues for cross-fitting; 1 (paper): fitted on the rows themselves",
      wholeNumber,
      5,
    )
    .option("--adjustment <file>", "adjustment.json of an earlier run instead of a fit")
    .optionsGroup("Common:")
    .option("--seed <N>", "of folds and shuffles", wholeNumber, 0)
    .option("--ablate", "print Recall and NDCG after every stage on held-out feedback");
  if (writes) command.addOption(new Option("--overwrite", "replace the output"));
  return command;
}

async function makeTeacher(
  who: string,
  model: string | undefined,
  endpoint: ReturnType<typeof endpointOf>,
): Promise<Teacher | "none"> {
  if (who === "none") return "none";
  if (model === undefined)
    refuse(
      "INVALID_ARGUMENT",
      "a model",
      who === "engine" ? "--teacher-model (a checkpoint)" : "--teacher-model",
      "none",
    );
  if (who === "engine") return EngineTeacher.load(model, endpoint.cache);
  return new EndpointTeacher({ ...endpoint, url: who, model });
}

function embeddingOf(flags: Flags, common: ReturnType<typeof endpointOf>): { embedding: Embedding; usage?: Usage } {
  const kind = flags.embeddings ?? (flags.teacher === "none" && flags.lists === undefined ? "cooccurrence" : "tfidf");
  switch (kind) {
    case "none":
    case "tfidf":
      return { embedding: { kind } };
    case "cooccurrence":
      return { embedding: { kind, shrink: flags.shrink } };
    default: {
      const model = flags.embeddingModel ?? refuse("INVALID_ARGUMENT", "a model", "--embedding-model", "none");
      if (kind === "local") return { embedding: { kind: "encoder", encoder: localEncoder(model) } };
      if (!/^https?:/.test(kind))
        refuse("INVALID_ARGUMENT", "tfidf, cooccurrence, none, local or a URL", "--embeddings", kind);
      const endpoint = new Endpoint({ ...common, url: kind, model });
      return { embedding: { kind: "encoder", encoder: endpointEncoder(endpoint) }, usage: endpoint.usage };
    }
  }
}

async function run(flags: Flags, until: (typeof stageNames)[number] | undefined): Promise<void> {
  const stages = flags.stages ?? `${flags.output ?? flags.data}.stages`;
  const endpoint = endpointOf(flags, flags.cache ?? `${stages}/answers`);
  const teacher = await makeTeacher(flags.teacher, flags.teacherModel, endpoint);
  const judge =
    flags.judge === undefined
      ? teacher
      : await makeTeacher(flags.judge, flags.judgeModel ?? flags.teacherModel, endpoint);
  const { embedding, usage } = embeddingOf(flags, endpoint);
  const bars = new Map<string, ItemProgress>();
  const endBars = (): void => {
    for (const bar of bars.values()) bar.done();
  };
  let started = Date.now(); // the stage at hand, which is first heard of when a part of it is done
  const options: DemonstrateOptions = {
    data: flags.data,
    feedback: flags.feedback,
    catalog: flags.catalog,
    output: flags.output ?? `${stages}/none`,
    stages,
    teacher,
    judge,
    embedding,
    listLength: flags.listLength,
    candidates: flags.candidates,
    neighbors: flags.neighbors,
    lambda: flags.lambda,
    positionPower: flags.positionPower,
    gamma: flags.gamma,
    dropSeen: !flags.keepSeen,
    folds: flags.folds,
    seed: flags.seed,
    reflect: { shuffle: flags.shuffle, levels: flags.levels, seed: flags.seed },
    adjust: {
      tolerance: flags.tolerance,
      maxIterations: flags.maxIterations,
      ...(flags.weightDecay !== undefined && { weightDecay: flags.weightDecay }),
      ...(flags.biasDecay !== undefined && { biasDecay: flags.biasDecay }),
    },
    describe: flags.describe ?? false,
    ablate: flags.ablate ?? false,
    overwrite: flags.overwrite ?? false,
    ...(flags.metadata !== undefined && { metadata: flags.metadata }),
    ...(flags.lists !== undefined && { lists: flags.lists }),
    ...(flags.adjustment !== undefined && { adjustment: flags.adjustment }),
    ...(until !== undefined && { until }),
    onStage: (stage, note) => console.log(`${stage}: ${note}`),
    onFit: (fold, { initialLoss, loss, iterations, converged, gradientNorm }) =>
      console.log(
        `adjust: ${fold < flags.folds ? `without fold ${fold + 1} of ${flags.folds}` : "on all feedback"}: loss ${initialLoss.toFixed(1)} -> ${loss.toFixed(1)} in ${iterations} iterations, ` +
          `${converged ? "converged" : "not converged (--max-iterations)"}, gradient ${gradientNorm.toPrecision(2)}`,
      ),
    onProgress: (stage, done, total) => {
      if (!bars.has(stage)) {
        endBars();
        bars.set(stage, new ItemProgress(stage, total, { started }));
      }
      bars.get(stage)!.update(done, total);
      started = Date.now();
    },
  };
  try {
    const result = await demonstrate(options).finally(endBars);
    if (result.kept.length > 0) console.log(`kept from an earlier run: ${result.kept.join(", ")}`);
    if (result.effects.length > 0) console.log(describeEffects(result.effects));
    console.log(
      until === undefined || until === "adjust"
        ? `${result.rows} demonstrations: ${flags.output}`
        : `${result.rows} rows: ${stages}/${until}.jsonl`,
    );
  } finally {
    for (const [name, used] of new Map([
      ["teacher", teacher === "none" ? undefined : teacher.usage],
      ["judge", judge === "none" || judge === teacher ? undefined : judge.usage],
      ["embeddings", usage],
    ]))
      if (used) console.log(describeUsage(name, used));
    for (const one of new Set([teacher, judge])) if (one !== "none") one.dispose();
  }
}

/** The paper's Table 2 for demonstrations, with what each stage adds. */
export function describeEffects(effects: readonly StageEffect[]): string {
  const table = new Table({
    head: [
      "",
      ...cutoffs.map((k) => `R@${k}`),
      ...cutoffs.map((k) => `N@${k}`),
      "+- N@20",
      "gain in N@20",
      "in catalog",
    ],
    style: { head: [], border: [] },
  });
  for (const { stage, metrics, gain } of effects)
    table.push([
      stage,
      ...cutoffs.map((k) => metrics[`recall@${k}`].toFixed(4)),
      ...cutoffs.map((k) => metrics[`ndcg@${k}`].toFixed(4)),
      metrics["ndcg@20_stderr_dialogue"]?.toFixed(4) ?? "?",
      gain ? `${gain.ndcg >= 0 ? "+" : ""}${gain.ndcg.toFixed(4)} +- ${gain.stderr?.toFixed(4) ?? "?"}` : "",
      metrics.in_catalog.toFixed(3),
    ]);
  const { rows, dialogues } = { rows: effects[0]!.metrics.rows, dialogues: effects[0]!.metrics.dialogues };
  return `${table.toString()}\n${rows} rows of ${dialogues} dialogues, held out from what made their lists; standard errors clustered by dialogue, of gains over the same rows.`;
}
