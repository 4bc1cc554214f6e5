// Embeddings of items and dialogues for Remap's similarities: TF-IDF, co-occurrence, an OpenAI-compatible embeddings endpoint, or a local
// sentence encoder through @huggingface/transformers (an optional peer, loaded when asked for).
import { existsSync } from "node:fs";
import { resolve } from "node:path";
import pLimit from "p-limit";

import { RankGrpoError, refuse } from "../errors.ts";
import type { NativeScoreInputs } from "../native.ts";
import { AnswerCache } from "./cache.ts";
import { tfidf } from "./features.ts";
import type { Endpoint } from "./teacher.ts";

export type Features = NonNullable<NativeScoreInputs["features"]>;

/** Turns texts into rows of one width; the same text gives the same row. */
export interface Encoder {
  readonly name: string;
  /** [texts, F], rows of length 1. */
  encode(
    texts: readonly string[],
    onProgress?: (done: number, total: number) => void,
  ): Promise<{ width: number; values: Float32Array }>;
}

/** Rows scaled to length 1 in place; all-zero rows stay. */
function normalizeRows(values: Float32Array, width: number): Float32Array {
  for (let from = 0; from < values.length; from += width) {
    let squares = 0;
    for (let i = from; i < from + width; i++) squares += values[i]! ** 2;
    const scale = squares > 0 ? 1 / Math.sqrt(squares) : 0;
    for (let i = from; i < from + width; i++) values[i]! *= scale;
  }
  return values;
}

/** Packs rows of equal width; refuses others. */
function packed(rows: readonly Float32Array[], name: string): { width: number; values: Float32Array } {
  const width = rows[0]?.length ?? 0;
  if (width === 0) throw new RankGrpoError("BAD_DATA", `Expected embeddings of ${name}, got empty ones.`);
  const values = new Float32Array(rows.length * width);
  rows.forEach((row, i) => {
    if (row.length !== width) refuse("BAD_DATA", `${width} numbers`, `an embedding of ${name}`, row.length);
    values.set(row, i * width);
  });
  return { width, values: normalizeRows(values, width) };
}

interface Embedded {
  vectors: number[][];
  promptTokens: number;
  completionTokens: number;
}

/** `/embeddings` of an OpenAI-compatible service; each text is cached by itself, requests carry 64. */
export function endpointEncoder(endpoint: Endpoint): Encoder {
  const BATCH = 64;
  const { model, url, concurrency } = endpoint.options;
  return {
    name: `${model} at ${url}`,
    async encode(texts, onProgress) {
      const distinct = [...new Set(texts)];
      const known = new Map<string, Float32Array>();
      const keyOf = (text: string): string => AnswerCache.key({ kind: "embedding", url, model, text });
      const read = pLimit(32);
      await Promise.all(
        distinct.map((text) =>
          read(async () => {
            const stored = await endpoint.cache.get<{ f32: string }>(keyOf(text));
            if (!stored) return;
            const bytes = Buffer.from(stored.f32, "base64");
            known.set(text, new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length)));
          }),
        ),
      );
      const open = distinct.filter((text) => !known.has(text));
      endpoint.usage.questions += distinct.length;
      endpoint.usage.cached += known.size;
      const send = pLimit(concurrency);
      let done = known.size;
      let failed: unknown;
      const parts = Array.from({ length: Math.ceil(open.length / BATCH) }, (_, i) =>
        open.slice(i * BATCH, (i + 1) * BATCH),
      );
      await Promise.all(
        parts.map((part) =>
          send(async () => {
            const { vectors } = await endpoint.request<Embedded>(async (client, signal) => {
              if (failed) throw failed; // what waits is not sent, or paid, for nothing
              const reply = await client.embeddings.create(
                { model, input: part, encoding_format: "float" },
                { signal },
              );
              const vectors = (reply?.data ?? []).toSorted((a, b) => a.index - b.index).map((entry) => entry.embedding);
              if (vectors.length !== part.length || vectors.some((vector) => !Array.isArray(vector)))
                throw new Error(`a reply with ${vectors.length} embeddings for ${part.length} texts`);
              return { vectors, promptTokens: reply.usage?.prompt_tokens ?? 0, completionTokens: 0 };
            });
            for (const [i, text] of part.entries()) {
              const row = Float32Array.from(vectors[i]!);
              known.set(text, row);
              await endpoint.cache.set(keyOf(text), { f32: Buffer.from(row.buffer).toString("base64") });
            }
            done += part.length;
            onProgress?.(done, distinct.length);
          }),
        ),
      ).catch((error: unknown) => {
        failed = error;
        throw error;
      });
      return packed(
        texts.map((text) => known.get(text)!),
        this.name,
      );
    },
  };
}

type Extractor = (
  texts: string[],
  options: { pooling: "mean"; normalize: boolean },
) => Promise<{ dims: number[]; data: Float32Array }>;

/** A sentence encoder on this machine: a model folder or name that @huggingface/transformers loads (ONNX). Mean pooling. */
export function localEncoder(model: string): Encoder {
  return {
    name: `${model} on this machine`,
    async encode(texts, onProgress) {
      const extract = await loadExtractor(model);
      const BATCH = 32;
      const rows: Float32Array[] = [];
      for (let first = 0; first < texts.length; first += BATCH) {
        const output = await extract(texts.slice(first, first + BATCH), { pooling: "mean", normalize: true });
        const width = output.dims.at(-1)!;
        for (let at = 0; at < output.data.length; at += width)
          rows.push(Float32Array.from(output.data.subarray(at, at + width)));
        onProgress?.(rows.length, texts.length);
      }
      return packed(rows, this.name);
    },
  };
}

async function loadExtractor(model: string): Promise<Extractor> {
  const peer = "@huggingface/transformers"; // optional: not resolved when this package is built
  let library: { pipeline(task: string, model: string): Promise<Extractor> };
  try {
    library = (await import(peer)) as typeof library;
  } catch (error) {
    throw new RankGrpoError(
      "INVALID_ARGUMENT",
      `Expected ${peer} for a local encoder, got ${(error as Error).message.split("\n")[0]}. Install it (npm install ${peer}), or use TF-IDF or an endpoint.`,
      { cause: error },
    );
  }
  try {
    // a relative path with one slash would be taken for a name on the hub
    return await library.pipeline("feature-extraction", existsSync(model) ? resolve(model) : model);
  } catch (error) {
    throw new RankGrpoError(
      "BAD_CHECKPOINT",
      `Expected a sentence encoder at ${model}, got ${(error as Error).message}.`,
      { cause: error },
    );
  }
}

/** What is embedded: texts of the catalogue's items, of the items that the teacher named, and of the dialogues. */
export interface EmbeddedTexts {
  items: readonly string[];
  teacher: readonly string[];
  contexts: readonly string[];
}

export function tfidfFeatures(texts: EmbeddedTexts): Features {
  const { width, rows } = tfidf([texts.items, texts.teacher, texts.contexts]);
  return { width, items: rows[0]!, teacher: rows[1]!, context: rows[2]! };
}

export async function encodedFeatures(
  encoder: Encoder,
  texts: EmbeddedTexts,
  onProgress?: (done: number, total: number) => void,
): Promise<Features> {
  const all = [...texts.items, ...texts.teacher, ...texts.contexts];
  const { width, values } = await encoder.encode(all, onProgress);
  const teacherFrom = texts.items.length * width;
  const contextFrom = teacherFrom + texts.teacher.length * width;
  return {
    width,
    dense: true,
    items: values.subarray(0, teacherFrom),
    teacher: values.subarray(teacherFrom, contextFrom),
    context: values.subarray(contextFrom),
  };
}
