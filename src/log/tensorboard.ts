// TensorBoard event files: TFRecord framing with masked CRC-32C around tensorflow.Event messages, written by hand (the few protobuf fields
// that scalars, histograms and texts need). Scalars keep their names; arrays by rank are histograms whose bar at k is rank k's value.
import { appendFile, readdir } from "node:fs/promises";
import { hostname } from "node:os";
import { join } from "node:path";

import { reportLine, type StepReport } from "../training/report.ts";
import type { Logger } from "./logger.ts";

// ---- records ----

/** Of each byte; polynomial 0x1EDC6F41, reflected. */
const table = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  return crc;
});

/** CRC-32C (Castagnoli), RFC 3720. */
export function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = table[(crc ^ byte) & 0xff]! ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

/** So that a CRC of data that holds CRCs is no trouble: rotated right by 15 bits, plus a constant. */
const masked = (bytes: Uint8Array): number => {
  const crc = crc32c(bytes);
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
};

/** length (u64), its CRC (u32), data, its CRC (u32); little-endian. */
function record(data: Buffer): Buffer {
  const head = Buffer.alloc(12);
  head.writeBigUInt64LE(BigInt(data.length), 0);
  head.writeUInt32LE(masked(head.subarray(0, 8)), 8);
  const tail = Buffer.alloc(4);
  tail.writeUInt32LE(masked(data), 0);
  return Buffer.concat([head, data, tail]);
}

// ---- protobuf ----

function varint(value: number): Buffer {
  const bytes: number[] = [];
  for (; value >= 128; value = Math.floor(value / 128)) bytes.push((value % 128) | 128);
  bytes.push(value);
  return Buffer.from(bytes);
}
const whole = (field: number, value: number): Buffer => Buffer.concat([varint(field << 3), varint(value)]);
const bytes = (field: number, value: Uint8Array): Buffer =>
  Buffer.concat([varint((field << 3) | 2), varint(value.length), value]);
const text = (field: number, value: string): Buffer => bytes(field, Buffer.from(value, "utf8"));
const message = (field: number, ...parts: Buffer[]): Buffer => bytes(field, Buffer.concat(parts));
function doubles(values: readonly number[]): Buffer {
  const data = Buffer.alloc(8 * values.length);
  for (const [i, value] of values.entries()) data.writeDoubleLE(value, 8 * i);
  return data;
}
const double = (field: number, value: number): Buffer => Buffer.concat([varint((field << 3) | 1), doubles([value])]);
function float(field: number, value: number): Buffer {
  const data = Buffer.alloc(4);
  data.writeFloatLE(value, 0);
  return Buffer.concat([varint((field << 3) | 5), data]);
}

/** tensorflow.Event; `content` is one of its oneof. */
const event = (step: number, ...content: Buffer[]): Buffer =>
  record(Buffer.concat([double(1, Date.now() / 1000), whole(2, step), ...content]));

/** tensorflow.Summary.Value, in the Summary's field. */
const value = (tag: string, ...content: Buffer[]): Buffer => message(1, text(1, tag), ...content);

/** HistogramProto: bucket k from k - 1/2 to k + 1/2, its count the value at rank k (0 where that is negative). */
function byRank(values: readonly number[]): Buffer {
  const counts = values.map((x) => (Number.isFinite(x) ? Math.max(0, x) : 0));
  const sum = (f: (count: number, rank: number) => number): number =>
    counts.reduce((total, count, k) => total + f(count, k + 1), 0);
  return message(
    5,
    double(1, 0.5),
    double(2, values.length + 0.5),
    double(
      3,
      sum((count) => count),
    ),
    double(
      4,
      sum((count, rank) => count * rank),
    ),
    double(
      5,
      sum((count, rank) => count * rank ** 2),
    ),
    bytes(6, doubles(counts.map((_, k) => k + 1.5))),
    bytes(7, doubles(counts)),
  );
}

/** A string tensor with the text plugin's metadata; TensorBoard reads it as Markdown. */
const markdown = (content: string): Buffer[] => [
  message(9, message(1, text(1, "text"))),
  message(8, whole(1, 7), message(2), text(8, content)),
];

/** Of the group that a step shows. */
const shownLists = 4;

function samplesOf(report: StepReport): Buffer[] {
  return (report.samples ?? []).map(({ id, completions }) => {
    const lists = completions.slice(0, shownLists).map(({ text: list, rewards }) => {
      const lines = list.split("\n").map((line) => `    ${line}`); // indented: shown as it stands
      return `reward ${rewards.reduce((a, b) => a + b, 0).toFixed(3)}\n\n${lines.join("\n")}`;
    });
    return value("samples/lists", ...markdown(`**${id}**\n\n${lists.join("\n\n")}`));
  });
}

/**
 * Writes an event file into a run folder: `tensorboard --logdir runs` shows every run by its folder's name. A resumed run opens a new file
 * and tells TensorBoard to drop the steps after `resumedAt` that it does again.
 */
export function tensorboardLogger(folder: string, resumedAt: number | undefined): Logger {
  const seconds = Math.floor(Date.now() / 1000);
  const prefix = "events.out.tfevents.";
  const file = join(folder, `${prefix}${seconds}.${hostname()}.${process.pid}`);
  let begun = false;
  return async function tensorboard(report) {
    const parts: Buffer[] = [];
    if (!begun) {
      parts.push(event(0, text(3, "brain.Event:2")));
      const before = (await readdir(folder)).some((name) => name.startsWith(prefix)); // of a run without a checkpoint yet, too
      const from = resumedAt === undefined ? 0 : resumedAt + 1;
      if (from > 0 || before) parts.push(event(from, message(7, whole(1, 1)))); // SessionLog START
      begun = true;
    }
    const values = Object.entries(reportLine(report)).flatMap(([name, x]) => {
      if (name === "step") return [];
      if (typeof x !== "number") return [value(name, byRank(x))];
      return Number.isFinite(x) ? [value(name, float(2, x))] : [];
    });
    parts.push(event(report.step, message(5, ...values, ...samplesOf(report))));
    await appendFile(file, Buffer.concat(parts));
  };
}
