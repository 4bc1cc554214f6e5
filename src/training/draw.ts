// The order in which a run meets its samples: passes over shuffled data, a function of seed and position alone.
import { permutation, Stream } from "../random.ts";

/** A run holds its position as `drawn` in its state; a resume goes on from there. */
export class Draws<T> {
  readonly #items: readonly T[];
  readonly #seed: number;
  #order: { epoch: number; indices: Int32Array } = { epoch: -1, indices: new Int32Array() };

  constructor(items: readonly T[], seed: number) {
    this.#items = items;
    this.#seed = seed;
  }

  /** What is drawn `position`-th, from 0. */
  at(position: number): T {
    const count = this.#items.length;
    const epoch = Math.floor(position / count);
    if (epoch !== this.#order.epoch)
      this.#order = { epoch, indices: permutation(count, this.#seed, Stream.shuffle, epoch) };
    return this.#items[this.#order.indices[position % count]!]!;
  }
}
