// The kernels export against float64 references: log-probs, entropies and gradients from logits and from hidden x head, in f32 and
// bf16, at odd shapes; rank ratios; and refusals of hostile arguments.
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

import fc from "fast-check";
import { describe, expect, it } from "vitest";

import {
  fromBf16,
  headLogprobs,
  headLogprobsBackward,
  logprobs,
  logprobsBackward,
  type Matrix,
  objectiveList,
  policyLoss,
  rankRatios,
  toBf16,
} from "../src/kernels.ts";
import { addon } from "../src/native.ts";
import { uniform } from "../src/random.ts";

/** Normal numbers, the same in every run. */
const normal = (n: number, seed: number, scale = 1): Float32Array =>
  Float32Array.from({ length: n }, (_, i) => {
    const radius = Math.sqrt(-2 * Math.log(1 - uniform(seed, 100, i, 0)));
    return scale * radius * Math.cos(2 * Math.PI * uniform(seed, 100, i, 1));
  });
const targetsOf = (T: number, V: number): Int32Array =>
  Int32Array.from({ length: T }, (_, t) => (t * 7919 + V - 1) % V);
const wide = (x: Matrix): Float32Array => (x instanceof Uint16Array ? fromBf16(x) : x);

interface Reference {
  logprobs: Float64Array;
  entropies: Float64Array;
  /** [T, V], of sum dlogprob logprob + dentropy entropy */
  dlogits: Float64Array;
}
/** Float64, from the definitions. */
function reference(
  logits: ArrayLike<number>,
  targets: Int32Array,
  V: number,
  temperature: number,
  dlogprobs?: ArrayLike<number>,
  dentropies?: ArrayLike<number>,
): Reference {
  const T = targets.length;
  const out: Reference = {
    logprobs: new Float64Array(T),
    entropies: new Float64Array(T),
    dlogits: new Float64Array(T * V),
  };
  for (let t = 0; t < T; t++) {
    const x = Float64Array.from({ length: V }, (_, v) => logits[t * V + v]! / temperature);
    const top = Math.max(...x);
    const lse = top + Math.log(x.reduce((sum, y) => sum + Math.exp(y - top), 0));
    const logp = x.map((y) => y - lse);
    const H = -logp.reduce((sum, l) => sum + (l === Number.NEGATIVE_INFINITY ? 0 : Math.exp(l) * l), 0);
    out.logprobs[t] = logp[targets[t]!]!;
    out.entropies[t] = H;
    for (let v = 0; v < V; v++) {
      const p = Math.exp(logp[v]!);
      const own = v === targets[t] ? 1 : 0;
      const ofEntropy = p === 0 ? 0 : -p * (logp[v]! + H);
      out.dlogits[t * V + v] = ((dlogprobs?.[t] ?? 0) * (own - p) + (dentropies?.[t] ?? 0) * ofEntropy) / temperature;
    }
  }
  return out;
}
/** hidden [T, C] x head [V, C] transposed, float64. */
function product(hidden: Float32Array, head: Float32Array, T: number, V: number): Float64Array {
  const C = T ? hidden.length / T : 0;
  const out = new Float64Array(T * V);
  for (let t = 0; t < T; t++)
    for (let v = 0; v < V; v++) {
      let sum = 0;
      for (let c = 0; c < C; c++) sum += hidden[t * C + c]! * head[v * C + c]!;
      out[t * V + v] = sum;
    }
  return out;
}
const expectNear = (got: ArrayLike<number>, want: ArrayLike<number>, tolerance: number): void => {
  expect(got.length).toBe(want.length);
  let worst = 0;
  for (let i = 0; i < got.length; i++) {
    const error = Math.abs(got[i]! - want[i]!);
    worst = Math.max(worst, Number.isNaN(error) ? Number.POSITIVE_INFINITY : error);
  }
  expect(worst).toBeLessThanOrEqual(tolerance);
};

const shapes: [T: number, V: number][] = [
  [1, 1],
  [1, 2],
  [3, 7],
  [5, 17],
  [2, 383],
  [2, 384],
  [2, 385],
  [7, 1024],
  [3, 1025],
  [4, 2053],
  [65, 97],
];

describe("log-probs from logits", () => {
  for (const [T, V] of shapes) {
    for (const type of ["f32", "bf16"] as const) {
      it(`${T} x ${V} ${type}`, async () => {
        const plain = normal(T * V, V, 3);
        const logits = type === "bf16" ? toBf16(plain) : plain;
        const targets = targetsOf(T, V);
        const [dlogprobs, dentropies] = [normal(T, 1), normal(T, 2)];
        for (const temperature of [1, 0.6, 2.5]) {
          const input = { logits, targets, vocabulary: V, temperature };
          const forward = await logprobs({ ...input, entropies: true });
          const want = reference(wide(logits), targets, V, temperature, dlogprobs, dentropies);
          const size = 12 / temperature; // log-probs are differences of numbers of this size
          expectNear(forward.logprobs, want.logprobs, size * 2 ** -22);
          expectNear(forward.entropies!, want.entropies, size * 2 ** -21);
          const gradient = await logprobsBackward({ ...input, forward, dlogprobs, dentropies });
          expectNear(gradient, want.dlogits, (size / temperature) * 2 ** -20);
          const alone = await logprobs(input);
          expect(alone.entropies).toBeUndefined();
          expect(alone.logprobs).toEqual(forward.logprobs);
          const first = await logprobsBackward({ ...input, forward: alone, dlogprobs });
          expectNear(
            first,
            reference(wide(logits), targets, V, temperature, dlogprobs).dlogits,
            (4 / temperature) * 2 ** -21,
          );
        }
      });
    }
  }

  it("the gradient may overwrite the logits", async () => {
    const [T, V] = [5, 1031];
    const logits = normal(T * V, 4);
    const input = { logits, targets: targetsOf(T, V), vocabulary: V };
    const forward = await logprobs(input);
    const dlogprobs = normal(T, 5);
    const apart = await logprobsBackward({ ...input, forward, dlogprobs });
    expect(await logprobsBackward({ ...input, forward, dlogprobs, out: logits })).toBe(logits);
    expectNear(logits, apart, 0);
  });

  it("no rows", async () => {
    const none = new Float32Array(0);
    const input = { logits: none, targets: new Int32Array(0), vocabulary: 5 };
    const forward = await logprobs({ ...input, entropies: true });
    expect(forward).toEqual({ logprobs: none, logSumExp: none, entropies: none });
    expect(await logprobsBackward({ ...input, forward, dlogprobs: none, dentropies: none })).toHaveLength(0);
    const head = { hidden: none, head: new Float32Array(10), targets: input.targets, vocabulary: 5 };
    expect(await headLogprobs({ ...head, entropies: true })).toEqual(forward);
    expect(await logprobs(input)).not.toHaveProperty("entropies");
  });

  it("large and tied logits: log-probs stay finite, entropy within [0, log V]", async () => {
    const V = 400;
    const logits = new Float32Array(3 * V);
    logits.fill(1e4, V, 2 * V);
    logits[2 * V + 3] = 1e4;
    const out = await logprobs({ logits, targets: Int32Array.of(0, 5, 3), vocabulary: V, entropies: true });
    expectNear(out.logprobs, [-Math.log(V), -Math.log(V), 0], 1e-3);
    expectNear(out.entropies!, [Math.log(V), Math.log(V), 0], 1e-3);
  });

  it("rows of any size, blocks of a row around the ends of a float's range: no log-prob above 0", async () => {
    const V = 3000; // blocks of 1024
    const shifts = [0, -47, -49, 69, 71, 88, -104, 500, -500];
    const rows = shifts.flatMap((a) => shifts.map((b) => [a, b] as const));
    const logits = Float32Array.from({ length: rows.length * V }, (_, i) => {
      const [a, b] = rows[Math.floor(i / V)]!;
      return (i % V < 1500 ? a : b) + 3 * Math.sin(i);
    });
    const targets = Int32Array.from(rows.keys(), (r) => {
      const row = logits.subarray(r * V, (r + 1) * V);
      return row.indexOf(row.reduce((x, y) => Math.max(x, y)));
    });
    const out = await logprobs({ logits, targets, vocabulary: V, entropies: true });
    const want = reference(logits, targets, V, 1);
    const size = 512; // log-probs are differences of numbers of this size
    expectNear(out.logprobs, want.logprobs, size * 2 ** -23);
    expectNear(out.entropies!, want.entropies, size * 2 ** -21);
    expect(Math.max(...out.logprobs)).toBeLessThanOrEqual(0);
    const peaked = new Float32Array(V).fill(-30);
    peaked[7] = 40;
    const one = await logprobs({ logits: peaked, targets: Int32Array.of(7), vocabulary: V });
    expectNear(one.logprobs, [0], 40 * 2 ** -23);
    expect(one.logprobs[0]).toBeLessThanOrEqual(0);
  });

  it("logits of -Infinity are tokens that cannot be drawn", async () => {
    const V = 801;
    const logits = normal(2 * V, 9);
    for (let v = 0; v < 2 * V; v++) if (v % 3) logits[v] = Number.NEGATIVE_INFINITY;
    const targets = Int32Array.of(3, 0);
    logits[V] = 0.5;
    const out = await logprobs({ logits, targets, vocabulary: V, entropies: true });
    const want = reference(logits, targets, V, 1);
    expectNear(out.logprobs, want.logprobs, 2e-6);
    expectNear(out.entropies!, want.entropies, 2e-6);
    const [dlogprobs, dentropies] = [Float32Array.of(1, -2), Float32Array.of(0.5, 3)];
    const gradient = await logprobsBackward({ logits, targets, vocabulary: V, forward: out, dlogprobs, dentropies });
    expectNear(gradient, reference(logits, targets, V, 1, dlogprobs, dentropies).dlogits, 2e-6);
  });
});

describe("log-probs from hidden x head", () => {
  const sizes: [T: number, C: number, V: number][] = [
    [1, 1, 1],
    [1, 3, 2],
    [3, 5, 47],
    [2, 16, 385],
    [9, 31, 769],
    [65, 24, 401],
    [130, 8, 1153],
    [4, 577, 97],
  ];
  for (const [T, C, V] of sizes) {
    it(`${T} x ${C}, ${V} tokens: f32 within float32's rounding`, async () => {
      const [hidden, head] = [normal(T * C, C), normal(V * C, V, 2 / Math.sqrt(C))];
      const targets = targetsOf(T, V);
      const [dlogprobs, dentropies] = [normal(T, 1), normal(T, 2)];
      const input = { hidden, head, targets, vocabulary: V, temperature: 0.8 };
      const forward = await headLogprobs({ ...input, entropies: true });
      const want = reference(product(hidden, head, T, V), targets, V, 0.8, dlogprobs, dentropies);
      expectNear(forward.logprobs, want.logprobs, 1e-5);
      expectNear(forward.entropies!, want.entropies, 2e-5);
      const { dhidden, dhead } = await headLogprobsBackward({ ...input, forward, dlogprobs, dentropies });
      // dhidden = dlogits head, dhead = dlogits^T hidden
      const wantHidden = new Float64Array(T * C);
      const wantHead = new Float64Array(V * C);
      for (let t = 0; t < T; t++)
        for (let v = 0; v < V; v++)
          for (let c = 0; c < C; c++) {
            wantHidden[t * C + c]! += want.dlogits[t * V + v]! * head[v * C + c]!;
            wantHead[v * C + c]! += want.dlogits[t * V + v]! * hidden[t * C + c]!;
          }
      expectNear(dhidden, wantHidden, 3e-5);
      expectNear(dhead!, wantHead, 3e-5);
    });

    it(`${T} x ${C}, ${V} tokens: bf16 operands are multiplied exactly`, async () => {
      const hidden = toBf16(normal(T * C, C));
      const head = toBf16(normal(V * C, V, 2 / Math.sqrt(C)));
      const targets = targetsOf(T, V);
      const want = reference(product(wide(hidden), wide(head), T, V), targets, V, 1);
      const options = { targets, vocabulary: V, entropies: true };
      const forward = await headLogprobs({ hidden, head, ...options });
      expectNear(forward.logprobs, want.logprobs, 1e-5);
      expectNear(forward.entropies!, want.entropies, 2e-5);
      // mixed, and rounded on the way in: the same numbers
      const rounded = await headLogprobs({ hidden: wide(hidden), head: wide(head), ...options, compute: "bf16" });
      expect(rounded.logprobs).toEqual(forward.logprobs);
      const mixed = await headLogprobs({ hidden: wide(hidden), head, ...options });
      expectNear(mixed.logprobs, want.logprobs, 1e-5);
      // gradients: dlogits are rounded to bf16 before they are multiplied
      const dlogprobs = normal(T, 1);
      const { dhidden, dhead } = await headLogprobsBackward({ hidden, head, ...options, forward, dlogprobs });
      const exact = await headLogprobsBackward({ hidden, head, ...options, compute: "f32", forward, dlogprobs });
      const largest = (x: Float32Array): number => x.reduce((a, b) => Math.max(a, Math.abs(b)), 0);
      expectNear(dhidden, exact.dhidden, largest(exact.dhidden) * 2 ** -7 + 1e-6);
      expectNear(dhead!, exact.dhead!, largest(exact.dhead!) * 2 ** -7 + 1e-6);
      expect(dhead!.some((x) => x !== 0) || V === 1).toBe(true);
    });
  }

  it("a row's bits do not depend on its batch", async () => {
    const [T, C, V] = [70, 64, 1000];
    const [hidden, head] = [normal(T * C, 3), normal(V * C, 4)];
    const all = await headLogprobs({ hidden, head, targets: targetsOf(T, V), vocabulary: V });
    for (const t of [0, 63, 64, 69]) {
      const row = hidden.slice(t * C, (t + 1) * C);
      const one = await headLogprobs({ hidden: row, head, targets: targetsOf(T, V).slice(t, t + 1), vocabulary: V });
      expect(one.logprobs[0]).toBe(all.logprobs[t]);
    }
  });

  it("dhead adds up over micro-batches, and a frozen head needs none", async () => {
    const [T, C, V] = [6, 10, 50];
    const [hidden, head, targets] = [normal(T * C, 3), normal(V * C, 4), targetsOf(T, V)];
    const dlogprobs = normal(T, 5);
    const input = { hidden, head, targets, vocabulary: V };
    const whole = await headLogprobsBackward({ ...input, forward: await headLogprobs(input), dlogprobs });
    const dhead = new Float32Array(V * C);
    for (const [a, b] of [
      [0, 2],
      [2, 6],
    ] as const) {
      const part = { hidden: hidden.slice(a * C, b * C), head, targets: targets.slice(a, b), vocabulary: V };
      await headLogprobsBackward({
        ...part,
        forward: await headLogprobs(part),
        dlogprobs: dlogprobs.slice(a, b),
        dhead,
      });
    }
    expectNear(dhead, whole.dhead!, 1e-6);
    const frozen = await headLogprobsBackward({ ...input, forward: await headLogprobs(input), dlogprobs, dhead: null });
    expect(frozen.dhead).toBeNull();
    expect(frozen.dhidden).toEqual(whole.dhidden);
  });
});

describe("bf16", () => {
  it("every bf16 comes back as itself", () => {
    const bits = Uint16Array.from({ length: 65536 }, (_, i) => i);
    const back = toBf16(fromBf16(bits));
    for (let i = 0; i < 65536; i++) {
      const isNan = (i & 0x7fff) > 0x7f80;
      expect(isNan ? (back[i]! & 0x7fff) > 0x7f80 : back[i] === i).toBe(true);
    }
  });

  it("rounds to the nearest, ties to even, in views as well", () => {
    fc.assert(
      fc.property(fc.float({ noNaN: true, noDefaultInfinity: true, min: -(2 ** 100), max: 2 ** 100 }), (x) => {
        const [bits] = toBf16(Float32Array.of(9, x).subarray(1));
        const near = fromBf16(Uint16Array.of(bits! - 1, bits!, bits! + 1));
        const distance = Array.from(near, (y) => Math.abs(y - x));
        expect(distance[1]).toBeLessThanOrEqual(Math.min(...distance.filter((d) => !Number.isNaN(d))));
        if (distance[1] === distance[0] || distance[1] === distance[2])
          expect(bits! & 1 && distance[1] !== 0).toBeFalsy();
      }),
      { seed: 1 },
    );
    expect([...toBf16([1, -2, 3.140625])]).toEqual([0x3f80, 0xc000, 0x4049]);
  });
});

describe("rank ratios", () => {
  it("geometric means over ragged segments, float64 inside", () => {
    const logs = [-1, -2, -3, -4, -5.5];
    const old = [-1.5, -2, -2, -4, -5];
    const out = rankRatios({
      logprobs: Float32Array.from(logs),
      oldLogprobs: Float32Array.from(old),
      segmentOffsets: Int32Array.of(0, 2, 2, 5),
      segmentTokens: Int32Array.of(0, 1, 2, 3, 4),
    });
    expect([...out.logRatios]).toEqual([0.25, 0, -0.5]);
    expectNear(out.ratios, [Math.exp(0.25), 1, Math.exp(-0.5)], 1e-7);
  });

  it("cancelling log-ratios keep their small mean", () => {
    const n = 1000;
    const out = rankRatios({
      logprobs: Float32Array.from({ length: n }, (_, i) => (i % 2 ? -1000 : -0.001)),
      oldLogprobs: Float32Array.from({ length: n }, (_, i) => (i % 2 ? -0.001 : -1000)),
      segmentOffsets: Int32Array.of(0, n),
      segmentTokens: Int32Array.from({ length: n }, (_, i) => i),
    });
    expect(out.ratios[0]).toBe(1);
  });

  it("what gives no ratio is refused", () => {
    const ok = { logprobs: Float32Array.of(-1, -2), oldLogprobs: Float32Array.of(-1, -2) };
    const segments = { segmentOffsets: Int32Array.of(0, 2), segmentTokens: Int32Array.of(0, 1) };
    const off = Float32Array.of(-1, Number.NEGATIVE_INFINITY);
    expect(() => rankRatios({ ...ok, ...segments, logprobs: off })).toThrow(
      /finite numbers for logprobs, got -inf at 1/,
    );
    expect(() => rankRatios({ ...ok, ...segments, oldLogprobs: off })).toThrow(/finite numbers for oldLogprobs/);
    const twice = { ...segments, segmentTokens: Int32Array.of(0, 0) };
    expect(() => rankRatios({ ...ok, ...twice })).toThrow(/each token in one segment at most .*0 twice/);
  });
});

describe("device", () => {
  const [T, C, V] = [3, 5, 11];
  const [logits, hidden, head] = [normal(T * V, 1), normal(T * C, 2), normal(V * C, 3)];
  const [targets, vocabulary, dlogprobs] = [targetsOf(T, V), V, normal(T, 4)];
  const segments = { segmentOffsets: Int32Array.of(0, 2, 3), segmentTokens: Int32Array.of(0, 1, 2) };
  const tokens = { logprobs: normal(T, 5), oldLogprobs: normal(T, 6), ...segments };
  const loss = { ...tokens, advantages: normal(T, 7), weights: normal(T, 8) };
  const forward = { logprobs: new Float32Array(T), logSumExp: new Float32Array(T).fill(3) };
  const calls = (device: "auto" | "cpu" | "cuda"): [string, () => unknown][] => [
    ["logprobs", () => logprobs({ logits, targets, vocabulary, device, entropies: true })],
    ["logprobsBackward", () => logprobsBackward({ logits, targets, vocabulary, device, forward, dlogprobs })],
    ["headLogprobs", () => headLogprobs({ hidden, head, targets, vocabulary, device, entropies: true })],
    [
      "headLogprobsBackward",
      () => headLogprobsBackward({ hidden, head, targets, vocabulary, device, forward, dlogprobs }),
    ],
    ["rankRatios", () => rankRatios({ ...tokens, device })],
    ["policyLoss", () => policyLoss({ ...loss, device }, "rank-grpo")],
  ];
  const gpu = addon.deviceInfo().devices.find(({ device }) => device === "cuda")!;

  it.skipIf(gpu.usable).each(calls("cuda"))(
    "%s on a GPU that is not there: NO_DEVICE with the reason",
    async (_, call) => {
      const outcome = await (async () => call())().catch((error: unknown) => error);
      expect(outcome).toMatchObject({ code: "NO_DEVICE" });
      expect(String(outcome)).toContain(gpu.reason);
    },
  );
  it.skipIf(gpu.usable).each(calls("auto").map(([name, call], i) => [name, call, calls("cpu")[i]![1]] as const))(
    "%s with auto falls back to the CPU",
    async (_, call, onCpu) => {
      expect(await call()).toEqual(await onCpu());
    },
  );
  it.skipIf(!gpu.usable).each(calls("cuda").map(([name, call], i) => [name, call, calls("cpu")[i]![1]] as const))(
    "%s on the GPU gives the CPU's numbers",
    async (_, call, onCpu) => {
      const flat = (x: unknown): number[] =>
        typeof x === "number" ? [x] : x === null || x === undefined ? [] : Object.values(x).flatMap(flat);
      expectNear(flat(await call()), flat(await onCpu()), 1e-5);
    },
  );
  it("another device is refused", () => {
    expect(() => rankRatios({ ...tokens, device: "tpu" as "cpu" })).toThrow(
      /"auto", "cpu" or "cuda" for device, got "tpu"/,
    );
  });
});

describe("hostile arguments are refused before any work", () => {
  const logits = new Float32Array(12);
  const targets = new Int32Array(3);
  const detached = (): Float32Array => {
    const array = new Float32Array(12);
    structuredClone(array.buffer, { transfer: [array.buffer] });
    return array;
  };
  const forward = { logprobs: new Float32Array(3), logSumExp: new Float32Array(3) };
  const ok = { logits, targets, vocabulary: 4 };
  const table: [string, () => unknown, RegExp][] = [
    [
      "wrong kind of logits",
      () => logprobs({ ...ok, logits: new Float64Array(12) as unknown as Float32Array }),
      /logits, got Float64Array/,
    ],
    ["a short matrix", () => logprobs({ ...ok, logits: new Float32Array(11) }), /12 values for logits, got 11/],
    ["a detached matrix", () => logprobs({ ...ok, logits: detached() }), /got 0/],
    [
      "a target too high",
      () => logprobs({ ...ok, targets: Int32Array.of(0, 4, 0) }),
      /indices from 0 to 3 for targets, got 4/,
    ],
    ["a negative target", () => logprobs({ ...ok, targets: Int32Array.of(0, -1, 0) }), /got -1/],
    [
      "plain arrays",
      () => logprobs({ ...ok, targets: [0, 1, 2] as unknown as Int32Array }),
      /Int32Array for targets, got an array/,
    ],
    ["vocabulary 0", () => logprobs({ ...ok, vocabulary: 0 }), /vocabulary/],
    ["vocabulary 1.5", () => logprobs({ ...ok, vocabulary: 1.5 }), /vocabulary/],
    ["temperature 0", () => logprobs({ ...ok, temperature: 0 }), /number from 1e-6 to 1e6 for temperature/],
    ["temperature NaN", () => logprobs({ ...ok, temperature: Number.NaN }), /temperature/],
    ["temperature infinite", () => logprobs({ ...ok, temperature: 1e-320 }), /temperature/],
    [
      "a short output",
      () => logprobsBackward({ ...ok, forward, dlogprobs: new Float32Array(3), out: new Float32Array(5) }),
      /out/,
    ],
    [
      "short gradients",
      () => logprobsBackward({ ...ok, forward, dlogprobs: new Float32Array(2) }),
      /3 values for dlogprobs, got 2/,
    ],
    [
      "dentropies without entropies",
      () => logprobsBackward({ ...ok, forward, dlogprobs: new Float32Array(3), dentropies: new Float32Array(3) }),
      /entropies/,
    ],
    [
      "a head of no whole rows",
      () => headLogprobs({ hidden: new Float32Array(6), head: new Float32Array(9), targets, vocabulary: 4 }),
      /multiple of 4 values for head/,
    ],
    [
      "hidden of another width",
      () => headLogprobs({ hidden: new Float32Array(7), head: logits, targets, vocabulary: 4 }),
      /9 values for hidden, got 7/,
    ],
    [
      "another compute",
      () =>
        headLogprobs({ hidden: new Float32Array(9), head: logits, targets, vocabulary: 4, compute: "f16" as "f32" }),
      /compute/,
    ],
  ];
  for (const [name, call, message] of table) {
    it(name, async () => {
      const outcome = await (async () => call())().catch((error: unknown) => error);
      expect(outcome).toBeInstanceOf(Error);
      expect(String(outcome)).toMatch(message);
    });
  }

  const loss = {
    logprobs: new Float32Array(3),
    advantages: new Float32Array(3),
    weights: new Float32Array(3),
    segmentOffsets: Int32Array.of(0, 3),
    segmentTokens: Int32Array.of(0, 1, 2),
  };
  const losses: [string, () => unknown, RegExp][] = [
    [
      "short advantages",
      () => policyLoss({ ...loss, advantages: new Float32Array(2) }),
      /3 values for advantages, got 2/,
    ],
    [
      "an empty array for old log-probs",
      () => policyLoss({ ...loss, oldLogprobs: new Float32Array(0) }),
      /oldLogprobs/,
    ],
    [
      "offsets that do not end at the tokens",
      () => policyLoss({ ...loss, segmentOffsets: Int32Array.of(0, 2) }),
      /segmentOffsets/,
    ],
    ["offsets that fall", () => policyLoss({ ...loss, segmentOffsets: Int32Array.of(0, 3, 2, 3) }), /ascending/],
    ["no offsets", () => policyLoss({ ...loss, segmentOffsets: new Int32Array(0) }), /segmentOffsets/],
    ["a token twice", () => policyLoss({ ...loss, segmentTokens: Int32Array.of(0, 1, 1) }), /1 twice/],
    [
      "a token out of range",
      () => policyLoss({ ...loss, segmentTokens: Int32Array.of(0, 1, 3) }),
      /segmentTokens, got 3/,
    ],
    [
      "NaN",
      () => policyLoss({ ...loss, logprobs: Float32Array.of(0, Number.NaN, 0) }),
      /finite numbers for logprobs, got nan at 1/,
    ],
    [
      "an infinite weight",
      () => policyLoss({ ...loss, weights: Float32Array.of(0, 0, 1 / 0) }),
      /finite numbers for weights/,
    ],
    ["an unknown rule", () => policyLoss(loss, { rule: "klip" }), /Did you mean clip/],
    ["an entropy bonus without entropies", () => policyLoss(loss, { entropyCoef: 1 }), /entropies/],
    ["unknown estimators", () => policyLoss(loss, { kl: "k4" as "k3" }), /kl/],
    ["a parameter among the fields", () => policyLoss(loss, { clipHigh: 0.3 } as object), /field of an objective/],
    ["a misspelt field", () => policyLoss(loss, { entropyCoeff: 1 } as object), /Did you mean entropyCoef/],
    ["a negative weight of the KL", () => policyLoss(loss, { beta: -1 }), /from 0 to .* for objective.beta, got -1/],
    ["an endless weight of the KL", () => policyLoss(loss, { beta: 1 / 0 }), /objective.beta/],
    [
      "parameters that are none",
      () => policyLoss(loss, { params: 5 as unknown as Record<string, number> }),
      /objective.params, got 5/,
    ],
    ["no objective", () => policyLoss(loss, null as unknown as string), /objective, got null/],
  ];
  for (const [name, call, message] of losses) it(name, () => expect(call).toThrow(message));

  it("a field that is undefined is one that is left out", () => {
    const nothing = { rule: undefined, params: undefined, pool: undefined, beta: undefined } as object;
    const input = { ...loss, refLogprobs: new Float32Array(3).fill(-1) };
    expect(policyLoss(input, nothing)).toEqual(policyLoss(input));
  });

  it("a getter that answers differently each time is asked once", () => {
    let asked = 0;
    const input = {
      ...loss,
      get oldLogprobs(): Float32Array {
        asked++;
        return new Float32Array(asked % 2 ? 1 : 3);
      },
    };
    expect(() => policyLoss(input)).toThrow(/3 values for oldLogprobs, got 1/);
    expect(asked).toBe(1);
  });

  it("the raw addon checks parameters too", () => {
    expect(() => addon.policyLoss(loss, { rule: "clip", params: [2, 0.1, 5] })).toThrow(/clipLow/);
    expect(() => addon.policyLoss(loss, { rule: "clip", params: [0.1] })).toThrow(/3 parameters/);
  });
});

describe("worker threads", () => {
  // in a process of its own: what goes wrong here ends the process
  const addonFile = ["build-cmake/Release", "build/Release"]
    .map((folder) => fileURLToPath(new URL(`../${folder}/rank_grpo.node`, import.meta.url)))
    .find(existsSync);
  const program = `
    const { Worker } = require("node:worker_threads");
    const work = \`
      const addon = require(\${JSON.stringify(process.argv[1])});
      const [T, C, V] = [128, 128, 20000];
      const call = () => addon.headForward(new Float32Array(T * C), new Float32Array(V * C), new Int32Array(T), { vocabulary: V });
      const { parentPort } = require("node:worker_threads");
      parentPort.postMessage("busy");
      (async () => { for (;;) await Promise.all([call(), call(), call()]); })();
    \`;
    (async () => {
      for (let i = 0; i < 8; i++) {
        const worker = new Worker(work, { eval: true });
        await new Promise((done) => worker.once("message", done));
        await new Promise((done) => setTimeout(done, 10 + 15 * i));
        await worker.terminate();
      }
      const addon = require(process.argv[1]);
      const { logprobs } = await addon.headForward(new Float32Array(4), new Float32Array(8), new Int32Array(2), { vocabulary: 4 });
      console.log(logprobs.length);
    })();
  `;

  it("may be terminated while the engine reads their arrays", () => {
    const child = spawnSync(process.execPath, ["-e", program, addonFile!], { encoding: "utf8", timeout: 110_000 });
    expect({ status: child.status, signal: child.signal, stderr: child.stderr }).toEqual({
      status: 0,
      signal: null,
      stderr: "",
    });
    expect(child.stdout.trim()).toBe("2");
  });
});

it("the list of rules has a reason and a source for everything", () => {
  for (const rule of objectiveList()) {
    expect(rule.source.length).toBeGreaterThan(10);
    expect(rule.formula).toMatch(/A/);
    for (const p of rule.parameters) {
      expect(p.value).toBeGreaterThanOrEqual(p.min);
      expect(p.value).toBeLessThanOrEqual(p.max);
      expect(p.reason.length).toBeGreaterThan(10);
    }
  }
});
