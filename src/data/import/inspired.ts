// INSPIRED (Hayati et al., EMNLP 2020): a TSV with one utterance a row; the `movies` column names the movies with their years.

import { tableRows } from "../stream.ts";
import { type AnnotatedMessage, dialogueRecords } from "./dialogue.ts";
import type { Importer } from "./importer.ts";

/** The digits of "20191202-103716_425_live.pkl": date, time and number, so that ids end in dialogue and turn as everywhere. */
const digits = (id: string): string => id.replace(/\D/g, "") || id;

const required = ["dialog_id", "speaker", "text", "movies"];

export const inspired: Importer = {
  format: "inspired",
  help: "INSPIRED: TSV dialogues with the columns dialog_id, speaker, text and movies (train.tsv, dev.tsv, test.tsv)",
  async *read(path, bad, { years }) {
    let dialogue = "";
    let messages: AnnotatedMessage[] = [];
    const finished = new Set<string>();
    for await (const { line, fields, excess } of tableRows(path, { delimiter: "\t", quotes: false })) {
      const missing = required.filter((name) => fields[name] === undefined);
      if (missing.length > 0 || excess !== 0) {
        bad.add(
          path,
          line,
          missing.length > 0
            ? `a table without ${missing.join(", ")}`
            : `${excess > 0 ? "too many" : "too few"} fields`,
        );
        continue;
      }
      const id = fields["dialog_id"]!;
      const speaker = fields["speaker"]!.toUpperCase();
      if (speaker !== "SEEKER" && speaker !== "RECOMMENDER") {
        bad.add(path, line, `the speaker ${JSON.stringify(fields["speaker"])}`);
        continue;
      }
      if (id !== dialogue) {
        if (messages.length > 0) yield* dialogueRecords(`inspired-${digits(dialogue)}`, "inspired", messages);
        finished.add(dialogue);
        if (finished.has(id)) bad.add(path, line, `dialogue ${id} again after other dialogues`);
        dialogue = id;
        messages = [];
      }
      const movies = fields["movies"]!.split(";").flatMap((name) => years.movie(name) ?? []);
      messages.push({
        speaker: speaker === "RECOMMENDER" ? "SYSTEM" : "USER",
        text: fields["text"]!.replaceAll("QUOTATION_MARK", '"'),
        movies,
      });
    }
    if (messages.length > 0) yield* dialogueRecords(`inspired-${digits(dialogue)}`, "inspired", messages);
  },
};
