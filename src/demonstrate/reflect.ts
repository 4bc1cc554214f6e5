// Reflect (Rank-GRPO, Eq. 11): a judge rates the best candidates of Remap on five levels, given the dialogue.

import { conversationOf } from "../data/record.ts";
import type { Message, Sample } from "../data/sample.ts";
import { refuse } from "../errors.ts";
import { permutation, Stream } from "../random.ts";
import { formatItem, type Item } from "../ranking/list.ts";
import { readRatings } from "./answer.ts";
import type { Teacher } from "./teacher.ts";

export interface ReflectOptions {
  /** Shuffles each dialogue's candidates, so that a judge that favours the first ones favours none in the mean. `false` (paper): as ranked. */
  shuffle?: boolean;
  /** Default 0. */
  seed?: number;
  /** Rating levels, an odd number from 3: five are -2 to 2. Default 5, the paper's. */
  levels?: number;
  /** Longest answer. Default 32 tokens a candidate: a title, its year and the rating. */
  maxTokens?: number;
  onProgress?: (done: number, total: number) => void;
}

export interface Reflection {
  /** Of every dialogue the rating (-2 to 2 on five levels) of each of its candidates, null where the judge gave none. */
  ratings: (number | null)[][];
  /** Share of candidates without a readable rating, and of answers without any. */
  unrated: number;
  unreadable: number;
}

export function judgeChat(conversation: string, candidates: readonly Item[], top = 2): Message[] {
  const scale =
    top === 2
      ? "2 (great), 1 (good), 0 (normal), -1 (not good) or -2 (bad)"
      : `a whole number from ${top} (great) over 0 (normal) to -${top} (bad)`;
  return [
    {
      role: "user",
      content: [
        "You judge the suggestions of a movie recommender system.",
        "Here is a conversation between a user and the system:",
        conversation.trim(),
        "",
        "Here are candidate movies:",
        ...candidates.map(formatItem),
        "",
        `Rate how well each candidate fits what the user asks for in the conversation: ${scale}.`,
        "Answer with one line for each candidate, in the form movie_name (release_year)####rating, and nothing else.",
      ].join("\n"),
    },
  ];
}

/** Asks the judge about every dialogue's candidates. Answers are cached by the teacher. */
export async function reflect(
  samples: readonly Sample[],
  candidates: readonly (readonly Item[])[],
  judge: Teacher,
  options: ReflectOptions = {},
): Promise<Reflection> {
  const { shuffle = true, seed = 0, levels = 5, onProgress } = options;
  if (!(Number.isInteger(levels) && levels >= 3 && levels % 2 === 1))
    refuse("INVALID_ARGUMENT", "an odd number from 3", "levels", levels);
  const top = (levels - 1) / 2;
  const orders = candidates.map((list, i) =>
    shuffle ? [...permutation(list.length, seed, Stream.demonstrate, samples[i]!.index)] : [...list.keys()],
  );
  const longest = candidates.reduce((most, list) => Math.max(most, list.length), 1);
  const chats = samples.map((sample, i) =>
    judgeChat(
      sample.prompt instanceof Int32Array ? "" : conversationOf(sample.prompt),
      orders[i]!.map((k) => candidates[i]![k]!),
      top,
    ),
  );
  const answers = await judge.ask(chats, {
    maxTokens: options.maxTokens ?? 32 * longest,
    ...(onProgress && { onProgress }),
  });
  let [rated, asked, unreadable] = [0, 0, 0];
  const ratings = answers.map(({ text }, i) => {
    const found = readRatings(text, candidates[i]!, top).ratings;
    rated += found.size;
    asked += candidates[i]!.length;
    if (found.size === 0 && candidates[i]!.length > 0) unreadable++;
    return candidates[i]!.map((_, k) => found.get(k) ?? null);
  });
  return {
    ratings,
    unrated: asked === 0 ? 0 : 1 - rated / asked,
    unreadable: samples.length === 0 ? 0 : unreadable / samples.length,
  };
}
