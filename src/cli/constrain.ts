// The flags of catalog-constrained lists, shared by generate, score, evaluate and recommend.
import { type Command, InvalidArgumentError, Option } from "commander";

import { RankGrpoError } from "../errors.ts";
import type { Policy } from "../policy.ts";
import { Catalog } from "../ranking/catalog.ts";
import { CatalogConstraint } from "../ranking/constraint.ts";

export interface ConstrainFlags {
  constrain: "none" | "catalog";
  catalog?: string;
  exclude: ("seen" | "repeated")[];
  excludeColumn?: string;
  listLength: [number, number];
  unreadable: "error" | "skip";
  catalogCache?: string;
}

const excluded = (text: string): ConstrainFlags["exclude"] => {
  const names = text.split(",").filter((name) => name !== "" && name !== "none");
  for (const name of names)
    if (name !== "seen" && name !== "repeated")
      throw new InvalidArgumentError("Expected seen, repeated, both with a comma, or none.");
  return names as ConstrainFlags["exclude"];
};

const lengths = (text: string): [number, number] => {
  const match = /^(\d+)(?:-(\d+))?$/.exec(text);
  if (!match) throw new InvalidArgumentError("Expected a number or a range, such as 20 or 5-20.");
  return [Number(match[1]), Number(match[2] ?? match[1])];
};

/** Adds what says how lists stay in the catalog; --catalog itself where `catalog` is set, and where `constrain` is, whether and how long they are. */
export function withConstrainFlags(command: Command, options: { catalog: boolean; constrain: boolean }): Command {
  if (options.constrain)
    command
      .addOption(
        new Option("--constrain <what>", "catalog: lists hold items of the catalog only, none twice")
          .choices(["none", "catalog"])
          .default("none"),
      )
      .addOption(
        new Option("--list-length <N>", "items of a constrained list, a number or a range such as 5-20")
          .argParser(lengths)
          .default([20, 20], "20"),
      );
  if (options.catalog) command.option("--catalog <file>", "TSV (title, year), JSON, or pickle of (title, year)");
  return command
    .option("--exclude <what>", "items that constrained lists may not hold: seen,repeated or none", excluded, [
      "seen",
      "repeated",
    ])
    .option("--exclude-column <name>", "column of further titles that a row's list may not hold")
    .addOption(
      new Option("--unreadable <way>", "catalog titles that are not read back from their line")
        .choices(["error", "skip"])
        .default("error"),
    )
    .option("--catalog-cache <file>", "file where the tokenised catalog is kept between calls");
}

/** Undefined where lists are free. */
export async function readConstraint(
  flags: ConstrainFlags,
  policy: Policy,
  catalog?: Catalog,
): Promise<CatalogConstraint | undefined> {
  if (flags.constrain === "none") return undefined;
  if (flags.catalog === undefined)
    throw new RankGrpoError("INVALID_ARGUMENT", "Expected --catalog with --constrain catalog, got none.");
  if (!policy.tokenizer || policy.stopId === undefined)
    throw new RankGrpoError(
      "INVALID_ARGUMENT",
      "Expected a checkpoint with a tokenizer and a stop token for --constrain catalog, got one without.",
    );
  return CatalogConstraint.create(catalog ?? (await Catalog.load(flags.catalog)), policy.tokenizer, policy.stopId, {
    length: flags.listLength,
    exclude: flags.exclude,
    unreadable: flags.unreadable,
    ...(flags.excludeColumn === undefined ? {} : { excludeColumn: flags.excludeColumn }),
    ...(flags.catalogCache === undefined ? {} : { cache: flags.catalogCache }),
  });
}
