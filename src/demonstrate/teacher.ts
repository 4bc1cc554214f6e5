// Who answers: an OpenAI-compatible endpoint, or the engine with a local checkpoint. Both take chats in batches, keep every answer in the
// cache, and count what was asked, paid and unreadable.
import type OpenAI from "openai";
import pLimit from "p-limit";

import type { Message, Sample } from "../data/sample.ts";
import { RankGrpoError, refuse } from "../errors.ts";
import { generateLists } from "../evaluate.ts";
import { stampOf } from "../files.ts";
import { Policy } from "../policy.ts";
import { Stream, uniform } from "../random.ts";
import { AnswerCache } from "./cache.ts";

export interface Answer {
  text: string;
  /** Tokens that the service counted; 0 where it did not say. */
  promptTokens: number;
  completionTokens: number;
}

export interface Usage {
  /** Questions answered, of which from the cache (free). */
  questions: number;
  cached: number;
  /** Requests that failed and were sent again. */
  retries: number;
  promptTokens: number;
  completionTokens: number;
  /** In the unit of the prices, of this run alone: cached answers cost nothing. */
  cost: number;
}

export interface AskOptions {
  /** Longest answer in tokens. */
  maxTokens: number;
  onProgress?: (done: number, total: number) => void;
}

export interface Teacher {
  /** Differs where answers to the same questions may. */
  readonly name: string;
  readonly usage: Usage;
  /** One answer for each chat, in order. */
  ask(chats: readonly (readonly Message[])[], options: AskOptions): Promise<Answer[]>;
  dispose(): void;
}

const noUsage = (): Usage => ({ questions: 0, cached: 0, retries: 0, promptTokens: 0, completionTokens: 0, cost: 0 });

export interface EndpointOptions {
  /** Base URL of an OpenAI-compatible service, such as http://127.0.0.1:8000/v1. */
  url: string;
  model: string;
  /** Default: the environment's OPENAI_API_KEY, or none for services that ask for none. */
  apiKey?: string;
  /** Folder of the answers. */
  cache: string;
  /** Default 0, the most probable answer: the paper does not say. */
  temperature?: number;
  /** Requests under way at once. Default 8. */
  concurrency?: number;
  /** Times that a failed request is sent again (429, 408, 409, 5xx, broken or stalled connections, unreadable bodies). Default 5. */
  retries?: number;
  /** Waits double from `backoffMs` up to a minute, with a random half against crowds; a Retry-After header is obeyed. Default 1000. */
  backoffMs?: number;
  /** A request without an answer after this long is given up and sent again. Default 120,000. */
  timeoutMs?: number;
  /** Price of a million tokens. Defaults 0: costs are not counted. */
  promptPrice?: number;
  completionPrice?: number;
  /** No request is sent once the run has cost this much. Default: no limit. */
  budget?: number;
  /** What `budget` is held against; endpoints that share it share the budget. Default: this one's alone. */
  account?: { cost: number };
  signal?: AbortSignal;
}

/** Retries, time limit and budget around one client; chats and embeddings share it. */
export class Endpoint {
  readonly options: Required<Omit<EndpointOptions, "apiKey" | "signal">> & Pick<EndpointOptions, "signal">;
  readonly usage = noUsage();
  readonly cache: AnswerCache;
  private readonly limit: ReturnType<typeof pLimit>;
  private readonly apiKey: string;
  private client: OpenAI | undefined;
  private readonly underWay = new Map<string, Promise<unknown>>();

  constructor(options: EndpointOptions) {
    const { url, model, cache, signal } = options;
    if (!/^https?:\/\//.test(url)) refuse("INVALID_ARGUMENT", "an http or https address", "url", url);
    if (!model) refuse("INVALID_ARGUMENT", "the model's name", "model", model);
    this.options = {
      url: url.replace(/\/+$/, ""),
      model,
      cache,
      temperature: options.temperature ?? 0,
      concurrency: options.concurrency ?? 8,
      retries: options.retries ?? 5,
      backoffMs: options.backoffMs ?? 1000,
      timeoutMs: options.timeoutMs ?? 120_000,
      promptPrice: options.promptPrice ?? 0,
      completionPrice: options.completionPrice ?? 0,
      budget: options.budget ?? Number.POSITIVE_INFINITY,
      account: options.account ?? { cost: 0 },
      ...(signal && { signal }),
    };
    this.apiKey = options.apiKey ?? process.env["OPENAI_API_KEY"] ?? "none";
    this.cache = new AnswerCache(cache);
    this.limit = pLimit(this.options.concurrency);
  }

  private async connect(): Promise<OpenAI> {
    if (this.client) return this.client;
    const { default: Client } = await import("openai"); // some 20 MB that only stage 1 with an endpoint needs
    this.client ??= new Client({
      baseURL: this.options.url,
      apiKey: this.apiKey,
      maxRetries: 0,
      timeout: this.options.timeoutMs,
    });
    return this.client;
  }

  /** What `request` gives, from the cache where it was asked before; equal questions under way are sent once. */
  async answer<T extends Answer>(
    question: object,
    request: (client: OpenAI, signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const key = AnswerCache.key({ url: this.options.url, model: this.options.model, ...question });
    this.usage.questions++;
    let pending = this.underWay.get(key) as Promise<T> | undefined;
    if (pending) this.usage.cached++;
    else {
      // the cache is read inside the limit: questions are sent in the order in which they are asked
      pending = this.limit(async () => {
        const known = await this.cache.get<T>(key);
        if (known) {
          this.usage.cached++;
          return known;
        }
        const fresh = await this.request(request);
        await this.cache.set(key, fresh);
        return fresh;
      }).finally(() => this.underWay.delete(key));
      this.underWay.set(key, pending);
    }
    return pending;
  }

  /** Sends until an answer comes, within retries, time limit and budget; counts tokens and cost. Not cached. */
  async request<T extends Omit<Answer, "text">>(
    request: (client: OpenAI, signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const { retries, backoffMs, timeoutMs, budget, account, promptPrice, completionPrice, signal } = this.options;
    const client = await this.connect();
    for (let attempt = 0; ; attempt++) {
      signal?.throwIfAborted();
      if (account.cost >= budget)
        throw new RankGrpoError(
          "ABORTED",
          `Expected to stay within the budget of ${budget}, got a cost of ${account.cost.toFixed(4)}. What was paid for is kept: run again with a larger --budget.`,
        );
      try {
        // the client's own limit ends with the headers; a body that stalls needs this one
        const clock = AbortSignal.timeout(timeoutMs);
        const fresh = await request(client, signal ? AbortSignal.any([signal, clock]) : clock);
        this.usage.promptTokens += fresh.promptTokens;
        this.usage.completionTokens += fresh.completionTokens;
        const cost = (fresh.promptTokens * promptPrice + fresh.completionTokens * completionPrice) / 1e6;
        this.usage.cost += cost;
        account.cost += cost;
        return fresh;
      } catch (error) {
        signal?.throwIfAborted();
        const { status, headers } = error as { status?: number; headers?: Headers };
        const passing = status === undefined || status === 408 || status === 409 || status === 429 || status >= 500;
        if (error instanceof RankGrpoError || !passing || attempt >= retries) throw this.failure(error, attempt + 1);
        this.usage.retries++;
        const asked = Number(headers?.get?.("retry-after"));
        const wait =
          Math.min(60_000, backoffMs * 2 ** attempt) * (0.5 + 0.5 * uniform(0, Stream.teacher, this.usage.retries));
        await new Promise((resolve) =>
          setTimeout(resolve, Number.isFinite(asked) && asked > 0 ? Math.min(asked * 1000, 300_000) : wait),
        );
      }
    }
  }

  private failure(error: unknown, attempts: number): Error {
    if (error instanceof RankGrpoError) return error;
    const { status, message } = error as { status?: number; message: string };
    const what = status === undefined ? message : `status ${status}: ${message}`;
    const fix =
      status === 401 || status === 403
        ? "Set OPENAI_API_KEY."
        : status === 404
          ? "Check the address (most services want /v1 at its end) and the model's name."
          : "What was answered before is kept: run again to go on.";
    return new RankGrpoError(
      "IO",
      `Expected an answer of ${this.options.url}, got ${what} (${attempts} attempts). ${fix}`,
      { cause: error },
    );
  }
}

export class EndpointTeacher implements Teacher {
  readonly name: string;
  readonly endpoint: Endpoint;
  constructor(options: EndpointOptions) {
    this.endpoint = new Endpoint(options);
    const { url, temperature } = this.endpoint.options;
    this.name = `${options.model} at ${url}, temperature ${temperature}`;
  }

  get usage(): Usage {
    return this.endpoint.usage;
  }

  async ask(chats: readonly (readonly Message[])[], { maxTokens, onProgress }: AskOptions): Promise<Answer[]> {
    const { model, temperature } = this.endpoint.options;
    let done = 0;
    let failed: unknown;
    const answers = Promise.all(
      chats.map(async (chat) => {
        const messages = chat.map(({ role, content }) => ({ role, content }));
        const answer = await this.endpoint.answer(
          { kind: "chat", messages, temperature, maxTokens },
          async (client, signal) => {
            if (failed) throw failed; // what waits is not sent, or paid, for nothing
            const reply = await client.chat.completions.create(
              { model, messages: messages as OpenAI.ChatCompletionMessageParam[], temperature, max_tokens: maxTokens },
              { signal },
            );
            const text = reply?.choices?.[0]?.message?.content;
            // a body of another shape: worth another try, as a cut one is
            if (typeof text !== "string")
              throw new Error(`a reply without choices[0].message.content: ${JSON.stringify(reply).slice(0, 200)}`);
            return {
              text,
              promptTokens: reply.usage?.prompt_tokens ?? 0,
              completionTokens: reply.usage?.completion_tokens ?? 0,
            };
          },
        );
        onProgress?.(++done, chats.length);
        return answer;
      }),
    );
    return answers.catch((error: unknown) => {
      failed = error;
      throw error;
    });
  }

  dispose(): void {}
}

/** A local checkpoint as the teacher: greedy answers of the engine, cached like any other. */
export class EngineTeacher implements Teacher {
  readonly name: string;
  readonly usage = noUsage();
  private readonly policy: Policy;
  private readonly cache: AnswerCache;
  private constructor(policy: Policy, model: string, cache: string) {
    this.policy = policy;
    this.name = `${model} on the engine, ${JSON.stringify(stampOf(model))}`;
    this.cache = new AnswerCache(cache);
  }

  static async load(model: string, cache: string): Promise<EngineTeacher> {
    return new EngineTeacher(await Policy.load(model, { trainable: false }), model, cache);
  }

  async ask(chats: readonly (readonly Message[])[], { maxTokens, onProgress }: AskOptions): Promise<Answer[]> {
    const keys = chats.map((messages) => AnswerCache.key({ engine: this.name, messages, maxTokens }));
    const answers = await Promise.all(keys.map((key) => this.cache.get<Answer>(key)));
    const open = [...answers.keys()].filter((i) => answers[i] === undefined);
    this.usage.questions += chats.length;
    this.usage.cached += chats.length - open.length;
    const PART = 64; // questions between two visits to the cache
    for (let first = 0; first < open.length; first += PART) {
      const part = open.slice(first, first + PART);
      const samples = part.map((i): Sample => ({ index: i, id: String(i), prompt: chats[i]!, columns: {} }));
      const texts = await generateLists(this.policy, samples, { maxNewTokens: maxTokens });
      for (const [j, i] of part.entries()) {
        const answer = { text: texts[j]!, promptTokens: 0, completionTokens: 0 };
        answers[i] = answer;
        await this.cache.set(keys[i]!, answer);
      }
      onProgress?.(chats.length - open.length + first + part.length, chats.length);
    }
    return answers as Answer[];
  }

  dispose(): void {
    this.policy.dispose();
  }
}
