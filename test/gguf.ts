// Writes small GGUF files for tests: metadata as given, a llama of one layer whose weights are zero.
import { writeFileSync } from "node:fs";

export type GgufValue =
  | string
  | boolean
  | { u32: number }
  | { f32: number }
  | { strings: string[] }
  | { i32s: number[] }
  | { f32s: number[] };

const u32 = (n: number): Buffer => {
  const b = Buffer.alloc(4);
  b.writeUInt32LE(n);
  return b;
};
const u64 = (n: number): Buffer => {
  const b = Buffer.alloc(8);
  b.writeBigUInt64LE(BigInt(n));
  return b;
};
const text = (s: string): Buffer => Buffer.concat([u64(Buffer.byteLength(s)), Buffer.from(s)]);
const floats = (values: number[]): Buffer => Buffer.from(Float32Array.from(values).buffer);

function value(v: GgufValue): Buffer {
  if (typeof v === "string") return Buffer.concat([u32(8), text(v)]);
  if (typeof v === "boolean") return Buffer.concat([u32(7), Buffer.of(v ? 1 : 0)]);
  if ("u32" in v) return Buffer.concat([u32(4), u32(v.u32)]);
  if ("f32" in v) return Buffer.concat([u32(6), floats([v.f32])]);
  if ("strings" in v) return Buffer.concat([u32(9), u32(8), u64(v.strings.length), ...v.strings.map(text)]);
  if ("i32s" in v)
    return Buffer.concat([u32(9), u32(5), u64(v.i32s.length), Buffer.from(Int32Array.from(v.i32s).buffer)]);
  return Buffer.concat([u32(9), u32(6), u64(v.f32s.length), floats(v.f32s)]);
}

/** `vocab` rows in the embedding; `metadata` beside the model's own keys (`architecture`: llama or qwen2). */
export function writeGguf(
  path: string,
  vocab: number,
  metadata: Record<string, GgufValue>,
  architecture = "llama",
): void {
  const width = 8;
  const keys: Record<string, GgufValue> = {
    "general.architecture": architecture,
    [`${architecture}.embedding_length`]: { u32: width },
    [`${architecture}.block_count`]: { u32: 1 },
    [`${architecture}.feed_forward_length`]: { u32: width },
    [`${architecture}.attention.head_count`]: { u32: 1 },
    ...metadata,
  };
  const matrix = [width, width];
  const shapes: Record<string, number[]> = {
    "token_embd.weight": [width, vocab],
    "output_norm.weight": [width],
    "blk.0.attn_norm.weight": [width],
    "blk.0.ffn_norm.weight": [width],
  };
  for (const name of ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"])
    shapes[`blk.0.${name}.weight`] = matrix;
  if (architecture === "qwen2") for (const name of ["q", "k", "v"]) shapes[`blk.0.attn_${name}.bias`] = [width];
  const tensors: Buffer[] = [];
  let offset = 0;
  for (const [name, shape] of Object.entries(shapes)) {
    tensors.push(text(name), u32(shape.length), ...shape.map(u64), u32(0), u64(offset));
    offset += Math.ceil((4 * shape.reduce((a, b) => a * b, 1)) / 32) * 32;
  }
  const head = Buffer.concat([
    Buffer.from("GGUF"),
    u32(3),
    u64(Object.keys(shapes).length),
    u64(Object.keys(keys).length),
    ...Object.entries(keys).flatMap(([key, v]) => [text(key), value(v)]),
    ...tensors,
  ]);
  writeFileSync(path, Buffer.concat([head, Buffer.alloc(((32 - (head.length % 32)) % 32) + offset)]));
}
