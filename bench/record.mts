// Records every suite into bench/results, one file each, from which docs/performance.md is made: npm run bench:record -- [--again]
// [--peers MODEL] [--seconds S] [SUITE ...]. What is recorded already stays, unless asked for again.
import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { parseArgs } from "node:util";

import { bench } from "../src/bench/run.ts";
import { suites } from "../src/bench/suites.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { again: { type: "boolean" }, peers: { type: "string" }, seconds: { type: "string", default: "1" } },
});
const folder = new URL("results/", import.meta.url);
await mkdir(folder, { recursive: true });
const seconds = Number(values.seconds);
const wanted = positionals.length > 0 ? positionals : [...Object.keys(suites), ...(values.peers ? ["peers"] : [])];
for (const name of wanted) {
  const json = new URL(`${name}.json`, folder).pathname;
  if (existsSync(json) && !values.again) console.log(`${name}: recorded already`);
  else if (name !== "peers") await bench({ suites: [name], seconds, json });
  // beside peers one small suite, for the machine and its bounds
  else
    await bench({ suites: ["objectives"], only: [], seconds, json, ...(values.peers ? { peers: values.peers } : {}) });
}
console.log("Now: npm run docs");
