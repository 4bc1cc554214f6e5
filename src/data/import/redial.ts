// ReDial as published (Li et al., NeurIPS 2018): JSON Lines of conversations whose messages name movies as @ids. Years of names without
// one come from the same movie named with a year elsewhere in the file, from movies_with_mentions.csv beside it and from --catalog.
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";

import { requireFile } from "../../files.ts";
import { collapseBlanks } from "../../ranking/title.ts";
import { tableRows, textLines } from "../stream.ts";
import { type AnnotatedMessage, dialogueRecords } from "./dialogue.ts";
import type { Importer } from "./importer.ts";
import { type Movie, movieText } from "./movie.ts";

interface Conversation {
  conversationId: string | number;
  respondentWorkerId: number;
  movieMentions: Record<string, string | null> | [] | null;
  initiatorQuestions?: Record<string, { liked?: number }> | [] | null;
  messages: { senderWorkerId: number; text: string }[];
}

const mention = /@(\d+)/g;

function parseConversation(text: string): Conversation {
  const value = JSON.parse(text) as Partial<Conversation> | null;
  if (!value || !Array.isArray(value.messages)) throw new Error("a line without a list of messages");
  if (value.conversationId === undefined || value.respondentWorkerId === undefined)
    throw new Error("a line without conversationId or respondentWorkerId");
  return value as Conversation;
}

/** Movie names by id; an empty list stands for no mentions in the published files. */
const mentionsOf = (conversation: Conversation): Record<string, string | null> =>
  Array.isArray(conversation.movieMentions) ? {} : (conversation.movieMentions ?? {});

export const redial: Importer = {
  format: "redial",
  help: "ReDial as published: JSON Lines of conversations with @ids (train_data.jsonl, test_data.jsonl)",
  async *read(path, bad, { years }) {
    requireFile(path);
    const names = join(dirname(path), "movies_with_mentions.csv");
    if (existsSync(names)) for await (const row of tableRows(names)) years.addName(row.fields["movieName"]);
    for await (const { text } of textLines(path)) {
      if (!text.trim()) continue;
      try {
        for (const name of Object.values(mentionsOf(parseConversation(text)))) years.addName(name);
      } catch {
        // counted in the second pass
      }
    }
    for await (const { line, text } of textLines(path)) {
      if (!text.trim()) continue;
      let conversation: Conversation;
      try {
        conversation = parseConversation(text);
      } catch (error) {
        bad.add(path, line, (error as Error).message);
        continue;
      }
      const mentions = mentionsOf(conversation);
      const answers = Array.isArray(conversation.initiatorQuestions) ? {} : (conversation.initiatorQuestions ?? {});
      const movieOf = (id: string): Movie | undefined => {
        const name = mentions[id];
        return name ? years.movie(name) : undefined;
      };
      const messages = conversation.messages.map(({ senderWorkerId, text }): AnnotatedMessage => {
        const ids = [...text.matchAll(mention)].map((match) => match[1]!);
        return {
          speaker: senderWorkerId === conversation.respondentWorkerId ? "SYSTEM" : "USER",
          text: collapseBlanks(
            text.replace(mention, (whole, id: string) => {
              const movie = movieOf(id);
              return movie ? movieText(movie) : (mentions[id]?.trim() ?? whole); // a name that is all year stays as it is
            }),
          ),
          movies: ids.flatMap((id) => movieOf(id) ?? []),
          // the seeker's questionnaire: 0 did not like it, 1 liked it, 2 did not say
          rejected: new Set(ids.filter((id) => answers[id]?.liked === 0).flatMap((id) => movieOf(id)?.title ?? [])),
        };
      });
      yield* dialogueRecords(`redial-${conversation.conversationId}`, "redial", messages);
    }
  },
};
