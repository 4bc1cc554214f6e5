// Lists of any OpenAI-compatible endpoint for evaluation: the paper's zero-shot rows, asked with the data's own prompts.
import type { Sample } from "../data/sample.ts";
import { readItems } from "./answer.ts";
import { chatOf } from "./demonstrate.ts";
import { type EndpointOptions, EndpointTeacher, type Usage } from "./teacher.ts";

export interface EndpointListsOptions extends EndpointOptions {
  /** Longest answer in tokens. Default 1024, the paper's evaluation. */
  maxTokens?: number;
  onProgress?: (done: number, total: number) => void;
}

export interface EndpointLists {
  /** The answers as they came, one for each sample: evaluation reads them as it reads a checkpoint's. */
  lists: string[];
  usage: Usage;
  /** Share of answers in which no title could be read. */
  unreadable: number;
}

/** Asks once for every distinct prompt; answers are cached, failures retried and costs counted as for a teacher. */
export async function endpointLists(samples: readonly Sample[], options: EndpointListsOptions): Promise<EndpointLists> {
  const { maxTokens = 1024, onProgress, ...endpoint } = options;
  const teacher = new EndpointTeacher(endpoint);
  const answers = await teacher.ask(samples.map(chatOf), { maxTokens, ...(onProgress && { onProgress }) });
  const lists = answers.map((answer) => answer.text);
  const unreadable = lists.filter((text) => readItems(text, 1).length === 0).length / Math.max(1, lists.length);
  return { lists, usage: teacher.usage, unreadable };
}
