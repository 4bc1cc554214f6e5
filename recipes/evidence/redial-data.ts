// ReDial for a small model: prompts without the fixed instruction, a tokenizer of the data, and demonstrations by the mix of the baselines for
// every row, for altered copies of it, and for copies of two dialogues each. A tenth of the training dialogues is held out for choices.
// Run from the project's root: npx tsx recipes/evidence/redial-data.ts [output]
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
import { candidates, unified } from "./redial-study.ts";

const alterations = 12; // copies of a training row that lack some of it
const pairings = 20; // copies with a second dialogue in them: 1,400 dialogues are few to learn from
const promptTokens = 96;

const output = process.argv[2] ?? "runs/redial-small/data";

/** Uniform numbers in [0, 1) of copy `copy` of row `row`. */
function numbers(row: number, copy: number): () => number {
  let at = 0;
  return () => (philox(5, Stream.demonstrate, row, copy, at++)[0] >>> 0) / 2 ** 32;
}

const shuffled = <T>(values: readonly T[], next: () => number): T[] =>
  values
    .map((value) => [next(), value] as const)
    .sort((a, b) => a[0] - b[0])
    .map(([, value]) => value);
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
const heldDialogues = permutation(dialogues.length, 1, Stream.demonstrate, 0).slice(
  0,
  Math.round(dialogues.length / 10),
);
const held = new Set(Array.from(heldDialogues, (i) => dialogues[i]!));
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

/** Text and catalogue items (numbers) in turn. */
const titleParts = (text: string): (string | number)[] => {
  const parts: (string | number)[] = [];
  let run: number[] = [];
  const flush = (): void => {
    if (run.length > 0) parts.push(titleFinder.decode(run));
    run = [];
  };
  for (const id of titleFinder.encode(text)) {
    if (id < firstTitle) run.push(id);
    else {
      flush();
      parts.push(id - firstTitle);
    }
  }
  flush();
  return parts;
};

/** Letters in lower case but for titles. */
const folded = (text: string): string =>
  titleParts(text)
    .map((part) => (typeof part === "number" ? everyTitle[part]! : part.toLowerCase()))
    .join("");

const spoken = new Set(train.flatMap(turnsOf).map((turn) => folded(turn).replace(/^(user|system): */, "")));
const merges = learnMerges(
  [...spoken].map((text) =>
    titleParts(text)
      .map((part) => (typeof part === "number" ? "\n" : part))
      .join(""),
  ),
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
  const text = turns
    .map(
      (turn) =>
        `${folded(turn)
          .replace(/^user: */, "u:")
          .replace(/^system: */, "s:")}\n`,
    )
    .join("");
  const ids = tokenizer.encode(text);
  return `${tokenizer.decode(ids.slice(-promptTokens))}=>\n`;
}
const plain = (sample: Sample): object => ({ ...sample.columns, prompt: promptOf(turnsOf(sample)) });

interface Copy {
  sample: Sample;
  prompt: string;
  /** Dialogues it is made of. */
  dialogues: string[];
  /** Items of the dialogue that the copy does not name, the row's own ground truths first. */
  liked: number[];
}

/** A turn without some of its words; titles stay. */
function thinned(turn: string, share: number, next: () => number): string {
  return titleParts(turn)
    .map((part) =>
      typeof part === "number"
        ? everyTitle[part]!
        : part.replace(/ ?[\p{L}\p{N}']+/gu, (word) => (next() < share ? "" : word)),
    )
    .join("");
}

/** Some of a sample's turns without some of their words, in their order or another. */
function alteredTurns(sample: Sample, next: () => number): string[] {
  const turns = turnsOf(sample);
  const share = 0.2 + 0.7 * next();
  const some = turns.filter(() => next() < share);
  const kept = some.length > 0 ? some : [turns[Math.floor(next() * turns.length)]!];
  const lost = 0.5 * next();
  return (next() < 0.5 ? shuffled(kept, next) : kept).map((turn) =>
    turn.replace(/^((?:USER|SYSTEM): )?(.*)$/su, (_, who = "", words) => who + thinned(words, lost, next)),
  );
}

/** The row itself (copy 0), or altered, then also with a second row's turns among its own. What is gone of its titles may be recommended. */
function copyOf(sample: Sample, copy: number): Copy {
  const next = numbers(sample.index, copy);
  const second = copy > alterations ? train[Math.floor(next() * train.length)]! : undefined;
  const own = copy === 0 ? turnsOf(sample) : alteredTurns(sample, next);
  const turns = second ? shuffled([...own, ...alteredTurns(second, next)], next) : own;
  const text = turns.join("\n");
  const named = copy === 0 ? [...seenTitles(sample)] : titlesIn(text).map((item) => catalog.items[item]!.title);
  const gone = new Set(named);
  const truths = groundTruths(sample).map((truth) => catalog.indexOf(truth));
  const others = copy === 0 ? [] : shuffled([...itemsOf.get(dialogueIn(sample))!], next);
  return {
    sample: {
      ...sample,
      id: copy === 0 ? sample.id : sample.id.replace(/-(\d+)$/, `-$1${String(copy).padStart(3, "0")}`),
      prompt: [{ role: "user", content: text }],
      columns: { ...sample.columns, seen_titles: named, dialogue: dialogueIn(sample) },
    },
    prompt: promptOf(turns),
    dialogues: [sample, ...(second ? [second] : [])].map(dialogueIn),
    liked: [...new Set([...truths, ...others])].filter((item) => item >= 0 && !gone.has(catalog.items[item]!.title)),
  };
}

const made = train.flatMap((sample) =>
  Array.from({ length: 1 + alterations + pairings }, (_, copy) => copyOf(sample, copy)),
);
const dialoguesOf = new Map(made.map(({ sample, dialogues }) => [sample, dialogues]));
const lists = mixedLists(
  train,
  made.map(({ sample }) => sample),
  catalog,
  candidates,
  { own: (sample) => dialoguesOf.get(sample)! },
).map((items) => items.map(formatItem));
const row = ({ sample, prompt }: Copy, items: readonly string[]): object => ({
  ...sample.columns,
  id: sample.id,
  prompt,
  completion: items.join("\n"),
});
await writeLines(
  join(output, "mix.jsonl"),
  made.map((copy, i) => row(copy, lists[i]!.slice(0, 20))),
  true,
);
const single = ({ dialogues }: Copy): boolean => dialogues.length === 1;
await writeLines(
  join(output, "candidates.jsonl"),
  made.flatMap((copy, i) => (single(copy) ? [{ id: copy.sample.id, candidates: lists[i]! }] : [])),
  true,
);
// for Rank-GRPO: whatever the dialogue names or likes and the prompt does not is a hit, so that more groups vary
await writeLines(
  join(output, "prompts.jsonl"),
  made.filter(single).map(({ sample, prompt, liked }) => ({
    ...sample.columns,
    id: sample.id,
    prompt,
    groundtruth_with_release_year: liked.map((item) => [catalog.items[item]!.title, String(catalog.items[item]!.year)]),
  })),
  true,
);
await writeLines(join(output, "train.jsonl"), train.map(plain), true);
// with the mix's lists, so that a training prints how well it imitates them where it has not seen the dialogue
const voted = mixedLists(train, validation, catalog, 20);
await writeLines(
  join(output, "validation.jsonl"),
  validation.map((sample, i) => ({ ...plain(sample), completion: voted[i]!.map(formatItem).join("\n") })),
  true,
);
await writeLines(join(output, "test.jsonl"), test.map(plain), true);
await writeFileAtomic(
  join(output, "catalog.tsv"),
  catalog.items.map(({ title, year }) => `${title}\t${year}\n`).join(""),
);
const lengths = made.map(({ prompt }) => tokenizer.encode(prompt).length);
const listLengths = lists.map((list) => tokenizer.encode(list.slice(0, 20).join("\n")).length + 1);
const mean = (values: readonly number[]): string => (values.reduce((a, b) => a + b, 0) / values.length).toFixed(1);
console.log(
  `${train.length} rows (${made.length} with copies), ${validation.length} held out; vocabulary ${tokenizer.vocabSize}, ${frequent.length} titles of it; ` +
    `${mean(lengths)} tokens a prompt, ${mean(listLengths)} a list.`,
);
