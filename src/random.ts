// Counter-based random numbers: Philox4x32-10 (Salmon et al., SC 2011), bit for bit those of native/core/philox.h.
// A number depends on its key and counter alone, so order, threads and a resume cannot change it.

/** Separates the uses of one seed; the first counter word of every stream in TypeScript. */
export const Stream = {
  shuffle: 1,
  world: 2,
  resample: 3,
  demonstrate: 4,
  teacher: 5,
  bootstrap: 6,
  select: 7,
} as const;

/** Upper and lower 32 bits of a * b. */
function multiply(a: number, b: number): [high: number, low: number] {
  const al = a & 0xffff;
  const ah = a >>> 16;
  const bl = b & 0xffff;
  const bh = b >>> 16;
  const low = al * bl;
  const middle = ah * bl + (low >>> 16); // below 2^33: exact
  const cross = al * bh + (middle % 0x10000);
  const high = ah * bh + Math.floor(middle / 0x10000) + Math.floor(cross / 0x10000);
  return [high >>> 0, Math.imul(a, b) >>> 0];
}

/** One block of four 32-bit words. `seed`: a whole number in [0, 2^53]. */
export function philox(seed: number, c0: number, c1: number, c2: number, c3: number): [number, number, number, number] {
  let k0 = seed >>> 0;
  let k1 = Math.floor(seed / 0x100000000) >>> 0;
  let [x0, x1, x2, x3] = [c0 >>> 0, c1 >>> 0, c2 >>> 0, c3 >>> 0];
  for (let round = 0; round < 10; round++) {
    const [h0, l0] = multiply(0xd2511f53, x0);
    const [h1, l1] = multiply(0xcd9e8d57, x2);
    [x0, x1, x2, x3] = [(h1 ^ x1 ^ k0) >>> 0, l1, (h0 ^ x3 ^ k1) >>> 0, l0];
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  return [x0, x1, x2, x3];
}

/** Uniform in [0, 1) with 53 bits, at counter (a, b, c) of a stream. */
export function uniform(seed: number, stream: number, a: number, b = 0, c = 0): number {
  const [x, y] = philox(seed, stream, a, b, c);
  return ((x >>> 5) * 67108864 + (y >>> 6)) * 2 ** -53;
}

/** A permutation of 0 .. n - 1 (Fisher and Yates), one for each (seed, stream, epoch). */
export function permutation(n: number, seed: number, stream: number, epoch: number): Int32Array {
  const order = Int32Array.from({ length: n }, (_, i) => i);
  for (let i = n - 1; i > 0; i--) {
    const j = Math.floor(uniform(seed, stream, epoch, i) * (i + 1));
    const held = order[i]!;
    order[i] = order[j]!;
    order[j] = held;
  }
  return order;
}
