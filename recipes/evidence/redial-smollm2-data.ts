// ReDial for SmolLM2-135M-Instruct on few cores: a short instruction and the dialogue's end, lists of ten titles, a tenth of the training
// dialogues held out, and demonstrations by neighbour voting, Remap and Adjust over the rest.
import { existsSync } from "node:fs";
import { join } from "node:path";

import { conversationOf } from "../../src/data/record.ts";
import type { Message, Sample } from "../../src/data/sample.ts";
import { readSamples } from "../../src/data/samples.ts";
import { splitData } from "../../src/data/split.ts";
import { writeLines } from "../../src/data/write.ts";
import { trainableCatalog } from "../../src/demonstrate/demonstrate.ts";
import { demonstrate, readLists } from "../../src/demonstrate/stages.ts";
import { writeFileAtomic } from "../../src/files.ts";
import { Catalog } from "../../src/ranking/catalog.ts";
import { formatItem } from "../../src/ranking/list.ts";
import { loadTokenizer } from "../../src/text/tokenizer.ts";

export const unified = "../shared/data/unified";
export const pretrained = "../shared/models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf";
export const ranks = 10;
export const testRows = 1000;
/** Of the dialogue: what a step costs grows with them. */
export const dialogueTokens = 96;
export const instruction = `Recommend ${ranks} movies for the user of this conversation. Write one a line, as Title (Year), and nothing else.`;

/** Writes catalog.tsv, train.jsonl, validation.jsonl and test.jsonl into `data`, where they are missing; split/train.jsonl has the prompts as published. */
export async function writeData(data: string): Promise<void> {
  if (existsSync(join(data, "test.jsonl"))) return;
  const tokenizer = (await loadTokenizer(pretrained))!;
  const row = (sample: Sample): object => {
    const text = conversationOf(sample.prompt as readonly Message[]).trim();
    const end = tokenizer.decode(tokenizer.encode(text).slice(-dialogueTokens));
    const prompt = [
      { role: "system", content: instruction },
      { role: "user", content: end },
    ];
    return { ...sample.columns, id: sample.id, prompt };
  };
  const catalog = trainableCatalog(await Catalog.load(join(unified, "catalog_redial.tsv")));
  await writeFileAtomic(
    join(data, "catalog.tsv"),
    catalog.items.map(({ title, year }) => `${title}\t${year}\n`).join(""),
  );
  const split = join(data, "split");
  await splitData(join(unified, "redial_train.jsonl"), split, { validation: 0.1, test: 0, overwrite: true });
  const rows = join(split, "train.jsonl");
  const output = join(data, "demonstrated.jsonl");
  await demonstrate({
    data: rows,
    feedback: rows,
    catalog: join(data, "catalog.tsv"),
    output,
    teacher: "none",
    embedding: { kind: "cooccurrence" },
    overwrite: true,
  });
  const train = await readSamples(rows);
  const lists = await readLists(output, train);
  await writeLines(
    join(data, "train.jsonl"),
    train.map((sample, i) => ({
      ...row(sample),
      completion: lists[i]!.slice(0, ranks).map(formatItem).join("\n"),
    })),
    true,
  );
  await writeLines(join(data, "validation.jsonl"), (await readSamples(join(split, "validation.jsonl"))).map(row), true);
  const test = (await readSamples(join(unified, "redial_test.jsonl"))).slice(0, testRows);
  await writeLines(join(data, "test.jsonl"), test.map(row), true);
}
