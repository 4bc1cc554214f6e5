// Micro-benchmarks of the development tree: npm run bench -- [SUITE ...] [--only WORD ...] [--seconds S] [--json FILE] [--compare FILE].
// Threads and instruction set: RANK_GRPO_THREADS, RANK_GRPO_ISA.
import { parseArgs } from "node:util";

import { bench } from "../src/bench/run.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    only: { type: "string", multiple: true },
    seconds: { type: "string" },
    json: { type: "string" },
    compare: { type: "string" },
  },
});
const { only, seconds, json, compare } = values;
await bench({
  suites: positionals,
  ...(only ? { only } : {}),
  ...(seconds ? { seconds: Number(seconds) } : {}),
  ...(json ? { json } : {}),
  ...(compare ? { compare } : {}),
});
