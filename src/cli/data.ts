// `rank-grpo data`: from any dialogue data to training files, and stage 1's demonstrations.
import { Command, InvalidArgumentError, Option } from "commander";

import { collectCatalog, writeCatalog } from "../data/catalog.ts";
import { type ExportFormat, exportData, exportFormats } from "../data/export.ts";
import type { ColumnNames } from "../data/import/columns.ts";
import { importData, importers, importFormats } from "../data/import.ts";
import { type Histogram, type Inspection, inspectData, type Spread } from "../data/inspect.ts";
import { splitData } from "../data/split.ts";
import { isJsonl } from "../data/stream.ts";
import { RankGrpoError } from "../errors.ts";
import { Catalog } from "../ranking/catalog.ts";
import { loadTokenizer } from "../text/tokenizer.ts";
import { demonstrateCommands } from "./demonstrate.ts";
import { collect, countNumber, realNumber, wholeNumber } from "./options.ts";

const columnKeys = ["id", "prompt", "completion", "messages", "groundtruth", "seen"] as const;

function parseColumns(text: string): ColumnNames {
  const names: ColumnNames = {};
  for (const pair of text.split(",")) {
    const [key, name] = pair.split("=", 2);
    if (!columnKeys.includes(key as (typeof columnKeys)[number]) || !name)
      throw new InvalidArgumentError(`Expected pairs like prompt=question with ${columnKeys.join(", ")}.`);
    names[key as (typeof columnKeys)[number]] = name;
  }
  return names;
}

export function dataCommand(): Command {
  const data = new Command("data").description("Import, inspect, split and export dialogue data; make demonstrations");
  for (const command of [
    importCommand(),
    inspectCommand(),
    splitCommand(),
    catalogCommand(),
    exportCommand(),
    ...demonstrateCommands(),
  ])
    data.addCommand(command);
  return data;
}

function importCommand(): Command {
  return new Command("import")
    .description("Read a data set into the unified schema (JSON Lines)")
    .addOption(new Option("--format <format>", "what the input is").choices(importFormats).makeOptionMandatory())
    .requiredOption("--input <path>", "file or folder; .gz and .zst are read as they are")
    .requiredOption("--output <file>", "JSON Lines; compressed where it ends in .gz")
    .option("--split <name>", "one split of a Hugging Face folder (default: all)")
    .option(
      "--columns <mapping>",
      `columns of generic tables, such as prompt=question,seen=known (${columnKeys.join(", ")})`,
      parseColumns,
    )
    .option("--catalog <file>", "gives years to titles that come without one")
    .option(
      "--items <file>",
      "interactions: file with item ids and titles (default: movies.csv or items.csv beside the input)",
    )
    .option("--instruct", "generic: put each prompt into the recommendation instruction of the paper")
    .option("--min-rating <x>", "interactions: ratings below it are not likes", realNumber, 4)
    .option("--history <N>", "interactions: liked titles that the prompt names", countNumber, 20)
    .option("--targets <N>", "interactions: last liked titles that are the ground truth", countNumber, 1)
    .option("--strict", "fail at the first line that cannot be used (default: count them, show ten)")
    .option("--overwrite", "replace the output")
    .addHelpText(
      "after",
      `\nFormats:\n${importers.map(({ format, help }) => `  ${format.padEnd(13)} ${help}`).join("\n")}\n\nExample:\n  rank-grpo data import --format redial --input train_data.jsonl --output redial_train.jsonl\n`,
    )
    .action(async (flags: ImportFlags) => {
      const movies = flags.catalog === undefined ? undefined : (await Catalog.load(flags.catalog)).items;
      const { records, dialogues, groundTruths, bad } = await importData(flags.format, flags.input, flags.output, {
        ...(flags.split !== undefined && { split: flags.split }),
        ...(flags.columns && { columns: flags.columns }),
        ...(movies && { movies }),
        ...(flags.items !== undefined && { items: flags.items }),
        instruct: flags.instruct ?? false,
        strict: flags.strict ?? false,
        overwrite: flags.overwrite ?? false,
        interactions: { minRating: flags.minRating, history: flags.history, targets: flags.targets },
      });
      console.log(`${records} records of ${dialogues} dialogues with ${groundTruths} ground truths: ${flags.output}`);
      if (bad.count === 0) return;
      console.log(
        `${bad.count} lines could not be used${bad.count > bad.first.length ? `, the first ${bad.first.length}` : ""}:`,
      );
      for (const { file, line, reason } of bad.first) console.log(`  ${file}:${line}: ${reason}`);
    });
}

interface ImportFlags {
  format: string;
  input: string;
  output: string;
  split?: string;
  columns?: ColumnNames;
  catalog?: string;
  items?: string;
  instruct?: boolean;
  minRating: number;
  history: number;
  targets: number;
  strict?: boolean;
  overwrite?: boolean;
}

function exportCommand(): Command {
  return new Command("export")
    .description("Write records as JSON Lines, parquet, or a folder for datasets.load_from_disk")
    .addOption(new Option("--format <format>", "what to write").choices(exportFormats).makeOptionMandatory())
    .requiredOption(
      "--input <file>",
      "JSON Lines; for a Hugging Face folder with splits once for each, as name=file",
      collect,
    )
    .requiredOption("--output <path>", "file, or folder for huggingface")
    .option("--shard-rows <N>", "huggingface: rows of an Arrow file, a multiple of 1000", wholeNumber, 100_000)
    .option("--overwrite", "replace the output")
    .addHelpText(
      "after",
      "\nExample:\n  rank-grpo data export --format huggingface --input train=train.jsonl --input test=test.jsonl --output redial\n",
    )
    .action(
      async (flags: {
        format: ExportFormat;
        input: string[];
        output: string;
        shardRows: number;
        overwrite?: boolean;
      }) => {
        const named = flags.input.map((text) => /^(\w+)=(.+)$/.exec(text));
        let input: string | Record<string, string>;
        if (named.every((match) => match !== null))
          input = Object.fromEntries(named.map((match) => [match![1]!, match![2]!]));
        else if (flags.input.length === 1) input = flags.input[0]!;
        else
          throw new RankGrpoError(
            "INVALID_ARGUMENT",
            `Expected name=file for each of several --input, got ${flags.input.join(", ")}.`,
          );
        const rows = await exportData(flags.format, input, flags.output, {
          shardRows: flags.shardRows,
          overwrite: flags.overwrite ?? false,
        });
        console.log(`${rows} rows: ${flags.output}`);
      },
    );
}

function splitCommand(): Command {
  return new Command("split")
    .description("Split into train, validation and test; dialogues and equal prompts stay together")
    .requiredOption("--input <file>", "JSON Lines")
    .requiredOption("--output <folder>", "gets train.jsonl, validation.jsonl and test.jsonl")
    .addOption(
      new Option("--by <way>", "shuffled, or the newest dialogues tested")
        .choices(["dialogue", "time"])
        .default("dialogue"),
    )
    .option("--validation <share>", "share of the dialogues", realNumber, 0.1)
    .option("--test <share>", "share of the dialogues", realNumber, 0.1)
    .option("--time-column <name>", "column with a number or date", "time")
    .option("--seed <N>", "of the shuffle", wholeNumber, 0)
    .option("--overwrite", "replace files in the folder")
    .action(
      async (flags: {
        input: string;
        output: string;
        by: "dialogue" | "time";
        validation: number;
        test: number;
        timeColumn: string;
        seed: number;
        overwrite?: boolean;
      }) => {
        const { parts } = await splitData(flags.input, flags.output, flags);
        for (const [name, { rows, groups }] of Object.entries(parts))
          console.log(`${name}: ${rows} rows of ${groups} dialogues`);
      },
    );
}

function catalogCommand(): Command {
  return new Command("catalog")
    .description("Make a catalogue (title TAB year) of the titles in data, or of another catalogue file")
    .requiredOption("--input <file>", "JSON Lines, or a catalogue in TSV, JSON or pickle; may be repeated", collect)
    .requiredOption("--output <file>", "TSV")
    .option("--ground-truths-only", "leave out the titles of demonstrations")
    .option("--min-count <N>", "records that must name a title", wholeNumber, 1)
    .option("--overwrite", "replace the output")
    .action(
      async (flags: {
        input: string[];
        output: string;
        groundTruthsOnly?: boolean;
        minCount: number;
        overwrite?: boolean;
      }) => {
        const data = flags.input.filter(isJsonl);
        const items =
          data.length > 0
            ? await collectCatalog(data, { completions: !flags.groundTruthsOnly, minCount: flags.minCount })
            : [];
        const loaded = await Promise.all(
          flags.input.filter((file) => !isJsonl(file)).map((file) => Catalog.load(file)),
        );
        const catalog = Catalog.from([...loaded.flatMap((other) => other.items), ...items]);
        await writeCatalog(flags.output, catalog.items, flags.overwrite);
        console.log(`${catalog.size} titles: ${flags.output}`);
      },
    );
}

function inspectCommand(): Command {
  return new Command("inspect")
    .description("What is in a file, and what in it makes rewards silently zero")
    .requiredOption("--input <file>", "JSON Lines")
    .option("--catalog <file>", "TSV (title, year), JSON, or pickle of (title, year)")
    .option("--model <path>", "folder or .gguf file whose tokenizer counts and whose chat template renders")
    .option("--max-tokens <N>", "warn of rows with more tokens", wholeNumber)
    .option("--against <file>", "another split, checked for the same dialogues and prompts; may be repeated", collect)
    .option("--list-length <N>", "titles that a demonstration should have", wholeNumber, 20)
    .option("--json", "print the findings as JSON")
    .action(
      async (flags: {
        input: string;
        catalog?: string;
        model?: string;
        maxTokens?: number;
        against?: string[];
        listLength: number;
        json?: boolean;
      }) => {
        const tokenizer = flags.model === undefined ? undefined : await loadTokenizer(flags.model);
        if (flags.model !== undefined && !tokenizer)
          throw new RankGrpoError("BAD_CHECKPOINT", `Expected a tokenizer in ${flags.model}, got none.`);
        const found = await inspectData(flags.input, {
          ...(flags.catalog !== undefined && { catalog: await Catalog.load(flags.catalog) }),
          ...(tokenizer && { tokenizer }),
          ...(flags.maxTokens !== undefined && { maxTokens: flags.maxTokens }),
          ...(flags.against && { against: flags.against }),
          listLength: flags.listLength,
        });
        console.log(flags.json ? JSON.stringify(found, null, 2) : describeInspection(found));
      },
    );
}

const spreadText = (s: Spread): string =>
  `${s.min} to ${s.max}, median ${s.median}, 95 % within ${s.p95}, mean ${s.mean.toFixed(1)}`;

function histogramText({ from, counts }: Histogram): string[] {
  const top = Math.max(...counts, 1);
  const width = String(from.at(-1) ?? 0).length;
  return counts.map(
    (count, i) => `  ${String(from[i]).padStart(width)} ${"#".repeat(Math.ceil((40 * count) / top))} ${count}`,
  );
}

export function describeInspection(found: Inspection): string {
  const { groundTruths: truths, completions: lists, tokens } = found;
  const lines = [
    `${found.rows} rows of ${found.dialogues} dialogues (${Object.entries(found.sources)
      .map(([source, n]) => `${source} ${n}`)
      .join(", ")})`,
    `columns: ${Object.entries(found.columns)
      .map(([name, n]) => (n === found.rows ? name : `${name} (${n} rows)`))
      .join(", ")}`,
    `ground truths: ${truths.total}, a row ${spreadText(truths.perRow)}; years ${truths.years.text} text, ${truths.years.number} numbers, ${truths.years.unreadable} unreadable`,
  ];
  if (truths.inCatalog) {
    const { exact, otherCase, otherYear, missing } = truths.inCatalog;
    const all = Math.max(1, exact + otherCase + otherYear + missing);
    lines.push(
      `in the catalogue: ${exact} exactly (${((100 * exact) / all).toFixed(1)} %), ${otherCase} in other letters, ${otherYear} within 2 years, ${missing} not`,
    );
  }
  lines.push(`seen titles a row: ${spreadText(found.seenTitles)}`);
  if (lists) {
    lines.push(
      `demonstrations: ${lists.rows}, titles a list ${spreadText(lists.titles)}; ${lists.unreadableLines} unreadable lines, ${lists.repeats} repeats, ${lists.seen} seen`,
    );
    if (lists.inCatalog !== undefined)
      lines.push(
        `  in the catalogue ${(100 * lists.inCatalog).toFixed(2)} %, hits of the own ground truth a list ${lists.hitsPerList!.toFixed(3)}`,
      );
  }
  if (tokens) {
    lines.push(`prompt tokens: ${spreadText(tokens.prompt)}`, ...histogramText(tokens.promptHistogram));
    if (tokens.completion) lines.push(`completion tokens: ${spreadText(tokens.completion)}`);
    lines.push(`tokens together: ${spreadText(tokens.total)}`);
  }
  lines.push(
    "",
    found.warnings.length === 0 ? "No warnings." : `${found.warnings.length} warnings:`,
    ...found.warnings.map((text) => `  ! ${text}`),
  );
  lines.push("", "The first row as the model reads it:", ...found.sample.split("\n").map((line) => `  | ${line}`));
  return lines.join("\n");
}
