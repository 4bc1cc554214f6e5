// `rank-grpo bench`: this machine's own engine measured against what the machine allows, an earlier run, another build, or its peers.
import { Command } from "commander";

import { bench, benchBuilds } from "../bench/run.ts";
import { suites } from "../bench/suites.ts";
import { refuse } from "../errors.ts";
import { requireFreshFile } from "../files.ts";
import { collect, countNumber, positiveNumber } from "./options.ts";

interface Flags {
  only: string[];
  seconds: number;
  json?: string;
  overwrite?: boolean;
  compare?: string;
  rounds: number;
  peers?: string;
}

export function benchCommand(): Command {
  return new Command("bench")
    .description(
      `Measure the engine: every result is checked before it is timed, and stands beside what this machine allows, measured in the same run. ` +
        `Suites: ${Object.keys(suites).join(", ")} (default: all, some minutes)`,
    )
    .argument("[suites...]", "names of suites")
    .option("--only <word>", "only rows whose name, shape and dtype hold this word; may be repeated", collect, [])
    .option("--seconds <S>", "about so long for a row", positiveNumber, 1)
    .option("--json <file>", "write the recording")
    .option("--overwrite", "replace a recording that is there")
    .option(
      "--compare <file>",
      "a recording (.json): times relative to each run's own bounds; or another build (a .node file, a checkout, a folder with rank-grpo " +
        "installed): both run by turns, and the pairs' mean change has a 95 % interval",
    )
    .option("--rounds <N>", "pairs of runs, for another build", countNumber, 6)
    .option(
      "--peers <model>",
      "beside the suites, the same work by torch, transformers, TRL and Liger on the CPU, with this model (a folder or .gguf with its tokenizer); " +
        "needs Python 3, installs pinned packages into build-peers/",
    )
    .addHelpText(
      "after",
      `
Threads and instruction set: RANK_GRPO_THREADS, RANK_GRPO_ISA=avx512bf16|avx512|avx2|plain. A wrong result ends the bench with an error.

Examples:
  rank-grpo bench kernels --json before.json
  rank-grpo bench kernels --compare before.json
  rank-grpo bench generation --only bf16 --compare ../other-checkout
`,
    )
    .action(async (names: string[], flags: Flags) => {
      const { compare, peers: model, json, only, seconds, rounds } = flags;
      const build = compare !== undefined && !compare.endsWith(".json") ? compare : undefined;
      if (build !== undefined && (json !== undefined || model !== undefined))
        refuse("INVALID_ARGUMENT", "no --json and no --peers beside another build", "--compare", build);
      if (json !== undefined && !flags.overwrite) requireFreshFile(json, "Give another name or --overwrite.");
      const options = { suites: names, only, seconds };
      if (build !== undefined) await benchBuilds(build, { ...options, rounds });
      else
        await bench({
          ...options,
          ...(json === undefined ? {} : { json }),
          ...(compare === undefined ? {} : { compare }),
          ...(model === undefined ? {} : { peers: model }),
        });
    });
}
