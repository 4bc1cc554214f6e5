// OpenDialKG (Moon et al., ACL 2019): a CSV whose Messages column is a JSON list of chats and of walks over a knowledge graph. A walk
// names the entities of the turn that follows it. Which entities are movies, and of what year, only the graph or a catalogue knows:
// opendialkg_triples.txt beside the file (release_year), or --catalog.
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { tableRows, textLines } from "../stream.ts";
import { type AnnotatedMessage, dialogueRecords } from "./dialogue.ts";
import type { Importer } from "./importer.ts";
import type { Movie, Years } from "./movie.ts";

interface Entry {
  type?: string;
  sender?: string;
  message?: string;
  action_id?: string;
  metadata?: { path?: [number, [string, string, string][], string] };
}

/** Entities carry a description where a title is not unique: "Zodiac (Crime Fiction Film)". */
const withoutDescription = (entity: string): string => entity.replace(/ \([^()]*\D[^()]*\)$/, "");

/** Movies that a walk names and the message says, in the order of the message. */
function moviesOf(walk: readonly string[], message: string, years: Years): Movie[] {
  const text = message.toLowerCase();
  const found: { at: number; movie: Movie }[] = [];
  for (const entity of walk) {
    const year = years.find(entity) ?? years.find(withoutDescription(entity));
    const title = withoutDescription(entity);
    const at = text.indexOf(title.toLowerCase());
    if (year && at >= 0 && !found.some((f) => f.movie.title === title)) found.push({ at, movie: { title, year } });
  }
  return found.sort((a, b) => a.at - b.at).map((f) => f.movie);
}

export const opendialkg: Importer = {
  format: "opendialkg",
  help: "OpenDialKG: CSV with a Messages column; years from opendialkg_triples.txt beside it or from --catalog",
  async *read(path, bad, { years }) {
    const triples = join(dirname(path), "opendialkg_triples.txt");
    if (existsSync(triples))
      for await (const { text } of textLines(triples)) {
        const [head, relation, tail] = text.split("\t");
        if (relation === "release_year" && head && tail) years.add(head, tail);
      }
    let number = -1;
    for await (const { line, fields, excess } of tableRows(path)) {
      number++;
      let entries: Entry[];
      try {
        if (excess > 0) throw new Error("too many fields");
        if (fields["Messages"] === undefined) throw new Error("a table without Messages");
        entries = JSON.parse(fields["Messages"]) as Entry[];
        if (!Array.isArray(entries)) throw new Error("Messages that are no list");
      } catch (error) {
        bad.add(path, line, (error as Error).message);
        continue;
      }
      const messages: AnnotatedMessage[] = [];
      let walk: string[] = [];
      for (const entry of entries) {
        if (entry.type === "action" && entry.action_id === "kgwalk/choose_path") {
          walk = (entry.metadata?.path?.[1] ?? []).flatMap(([head, , tail]) => [head, tail]);
        } else if (entry.type === "chat" && typeof entry.message === "string") {
          const speaker = entry.sender === "assistant" ? "SYSTEM" : "USER";
          messages.push({ speaker, text: entry.message, movies: moviesOf(walk, entry.message, years) });
          walk = [];
        }
      }
      yield* dialogueRecords(`opendialkg-${number}`, "opendialkg", messages);
    }
  },
};
