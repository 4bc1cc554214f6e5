// ReDial for a small model: prompts without the fixed instruction, a tokenizer of the data, demonstrations by the mix of the baselines for
// every row and for altered copies of it. Run from the project's root: npx tsx recipes/redial-small/prepare.ts [output] [--validate]
// With --validate a tenth of the training dialogues is held out from everything, for choices; without, all of them are trained on.
import { join } from "node:path";

import { conversationOf } from "../../src/data/record.ts";
import type { Message, Sample } from "../../src/data/sample.ts";
import { readSamples } from "../../src/data/samples.ts";
import { writeLines } from "../../src/data/write.ts";
import { trainableCatalog } from "../../src/demonstrate/demonstrate.ts";
import { writeFileAtomic } from "../../src/files.ts";
import { permutation, philox, Stream } from "../../src/random.ts";
import { mixedLists } from "../../src/ranking/baselines.ts";
import { Catalog } from "../../src/ranking/catalog.ts";
import { formatItem } from "../../src/ranking/list.ts";
import { dialogueOf } from "../../src/ranking/metrics.ts";
import { groundTruths, seenTitles } from "../../src/ranking/rewards.ts";
import { tokenizerFiles } from "../../src/text/tokenizer.ts";
import { learnMerges, tokenizerOf } from "./bpe.ts";

const unified = "../shared/data/unified";
const copies = 6; // altered copies of a training row
const promptTokens = 96;

const validate = process.argv.includes("--validate");
const output = process.argv.slice(2).find((argument) => !argument.startsWith("--")) ?? "runs/redial-small/data";

/** Uniform numbers in [0, 1) of copy `copy` of row `row`. */
function numbers(row: number, copy: number): () => number {
  let at = 0;
  return () => (philox(5, Stream.demonstrate, row, copy, at++)[0] >>> 0) / 2 ** 32;
}

const dialogueIn = (sample: Sample): string => dialogueOf(sample.id, sample.columns["dialogue"]);
const turnsOf = (sample: Sample): string[] =>
  conversationOf(sample.prompt as readonly Message[])
    .trim()
    .split("\n")
    .filter((turn) => turn.trim() !== "");

const catalog = trainableCatalog(await Catalog.load(join(unified, "catalog_redial.tsv")));
const all = await readSamples(join(unified, "redial_train.jsonl"));
const test = await readSamples(join(unified, "redial_test.jsonl"));
const dialogues = [...new Set(all.map(dialogueIn))];
const held = new Set(
  validate
    ? [...permutation(dialogues.length, 1, Stream.demonstrate, 0)]
        .slice(0, Math.round(dialogues.length / 10))
        .map((i) => dialogues[i]!)
    : [],
);
const train = all.filter((sample) => !held.has(dialogueIn(sample)));
const validation = all.filter((sample) => held.has(dialogueIn(sample)));

// titles that a training dialogue names or likes are one token, the others are spelled
const everyTitle = catalog.items.map(formatItem);
const titleFinder = tokenizerOf([], everyTitle);
const firstTitle = titleFinder.vocabSize - everyTitle.length;
const titlesIn = (text: string): number[] =>
  titleFinder
    .encode(text)
    .filter((id) => id >= firstTitle)
    .map((id) => id - firstTitle);
/** Items of each training dialogue: named, or liked. */
const itemsOf = new Map<string, Set<number>>();
for (const sample of train) {
  const items = itemsOf.get(dialogueIn(sample)) ?? new Set();
  itemsOf.set(dialogueIn(sample), items);
  for (const item of titlesIn(turnsOf(sample).join("\n"))) items.add(item);
  for (const truth of groundTruths(sample)) {
    const item = catalog.indexOf(truth);
    if (item >= 0) items.add(item);
  }
}
const uses = new Map<number, number>();
for (const items of itemsOf.values()) for (const item of items) uses.set(item, (uses.get(item) ?? 0) + 1);
const frequent = [...uses.keys()];
frequent.sort((a, b) => uses.get(b)! - uses.get(a)! || a - b);

/** Letters in lower case but for titles. */
const folded = (text: string): string =>
  titleFinder
    .encode(text)
    .reduce<(string | number[])[]>((parts, id) => {
      const last = parts.at(-1);
      if (id >= firstTitle) parts.push(everyTitle[id - firstTitle]!);
      else if (Array.isArray(last)) last.push(id);
      else parts.push([id]);
      return parts;
    }, [])
    .map((part) => (typeof part === "string" ? part : titleFinder.decode(part).toLowerCase()))
    .join("");

const spoken = new Set(train.flatMap(turnsOf).map((turn) => folded(turn).replace(/^(user|system): */, "")));
const merges = learnMerges(
  [...spoken].map((text) => everyTitle.reduce((rest, title) => (rest.includes(title) ? rest.replaceAll(title, "\n") : rest), text)),
  1500,
);
const tokenizer = tokenizerOf(
  merges,
  frequent.map((item) => everyTitle[item]!),
);
for (const [name, text] of Object.entries(tokenizerFiles(tokenizer)))
  await writeFileAtomic(join(output, "tokenizer", name), text);

/** The turns' end, as many tokens as the model reads. */
function promptOf(turns: readonly string[]): string {
  const text = turns.map((turn) => `${folded(turn).replace(/^user: */, "u:").replace(/^system: */, "s:")}\n`).join("");
  const ids = tokenizer.encode(text);
  return `${tokenizer.decode(ids.slice(-promptTokens))}=>\n`;
}
const plain = (sample: Sample): object => ({ ...sample.columns, prompt: promptOf(turnsOf(sample)) });

interface Copy {
  sample: Sample;
  prompt: string;
  /** Items of the dialogue that the copy does not name, the row's own ground truths first. */
  liked: number[];
}

/** The row itself (copy 0) or with turns left out, the others in their order or shuffled; every title that is gone may be recommended. */
function altered(sample: Sample, copy: number): Copy {
  const next = numbers(sample.index, copy);
  let turns = turnsOf(sample);
  if (copy > 0) {
    const kept = turns.filter(() => next() < 0.6);
    turns = kept.length > 0 ? kept : [turns[Math.floor(next() * turns.length)]!];
    if (next() < 0.5) turns = turns.map((turn) => [next(), turn] as const).sort((a, b) => a[0] - b[0]).map(([, turn]) => turn);
  }
  const text = turns.join("\n");
  const named = copy === 0 ? [...seenTitles(sample)] : titlesIn(text).map((item) => catalog.items[item]!.title);
  const gone = new Set(named);
  const own = groundTruths(sample).map((truth) => catalog.indexOf(truth));
  const others = copy === 0 ? [] : [...itemsOf.get(dialogueIn(sample))!].map((item) => [next(), item] as const).sort((a, b) => a[0] - b[0]).map(([, item]) => item);
  const liked = [...new Set([...own, ...others])].filter((item) => item >= 0 && !gone.has(catalog.items[item]!.title));
  return {
    sample: {
      ...sample,
      id: `${sample.id.replace(/-(\d+)$/, `-$1${copy === 0 ? "" : `00${copy}`}`)}`,
      prompt: [{ role: "user", content: text }],
      columns: { ...sample.columns, seen_titles: named, dialogue: dialogueIn(sample) },
    },
    prompt: promptOf(turns),
    liked,
  };
}

const made = train.flatMap((sample) => Array.from({ length: copies + 1 }, (_, copy) => altered(sample, copy)));
const lists = mixedLists(
  train,
  made.map(({ sample }) => sample),
  catalog,
  20,
);
const row = ({ sample, prompt }: Copy, items: readonly string[]): object => ({
  ...sample.columns,
  id: sample.id,
  prompt,
  completion: items.join("\n"),
});
await writeLines(
  join(output, "mix.jsonl"),
  made.map((copy, i) => row(copy, lists[i]!.map(formatItem))),
  true,
);
await writeLines(
  join(output, "liked.jsonl"),
  made.map((copy, i) =>
    row(copy, [...new Set([...copy.liked.map((item) => everyTitle[item]!), ...lists[i]!.map(formatItem)])].slice(0, 20)),
  ),
  true,
);
await writeLines(join(output, "train.jsonl"), train.map(plain), true);
if (validate) await writeLines(join(output, "validation.jsonl"), validation.map(plain), true);
await writeLines(join(output, "test.jsonl"), test.map(plain), true);
await writeFileAtomic(join(output, "catalog.tsv"), catalog.items.map(({ title, year }) => `${title}\t${year}\n`).join(""));
const lengths = made.map(({ prompt }) => tokenizer.encode(prompt).length);
const listLengths = lists.map((list) => tokenizer.encode(list.map(formatItem).join("\n")).length + 1);
const mean = (values: readonly number[]): string => (values.reduce((a, b) => a + b, 0) / values.length).toFixed(1);
console.log(
  `${train.length} rows (${made.length} with copies), ${validation.length} held out; vocabulary ${tokenizer.vocabSize}, ${frequent.length} titles of it; ` +
    `${mean(lengths)} tokens a prompt, ${mean(listLengths)} a list.`,
);
