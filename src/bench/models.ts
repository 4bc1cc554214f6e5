// The two models that benchmarks run on, made from scratch (speed depends on no weight), what they have to compute, and batches for them.
import { type Group, type ModelShape, Policy, type PolicyOptions } from "../policy.ts";
import { philox } from "../random.ts";

export interface BenchModel {
  name: string;
  shape: ModelShape & { num_key_value_heads: number; head_dim: number };
  prompts: number;
  group: number;
  promptTokens: number;
  completionTokens: number;
}

const llama = { model_type: "llama", tie_word_embeddings: true, rms_norm_eps: 1e-5 } as const;

/** SmolLM2-135M with 64 lists of 208 tokens over 8 prompts of 160; and the size experiments live at, 512 lists of 50 over 64 prompts of 40. */
export const models: readonly BenchModel[] = [
  {
    name: "SmolLM2-135M",
    shape: {
      ...llama,
      vocab_size: 49152,
      hidden_size: 576,
      intermediate_size: 1536,
      num_hidden_layers: 30,
      num_attention_heads: 9,
      num_key_value_heads: 3,
      head_dim: 64,
      max_position_embeddings: 2048,
      rope_theta: 100000,
    },
    prompts: 8,
    group: 8,
    promptTokens: 160,
    completionTokens: 208,
  },
  {
    name: "small (0.4 M)",
    shape: {
      ...llama,
      vocab_size: 700,
      hidden_size: 96,
      intermediate_size: 256,
      num_hidden_layers: 3,
      num_attention_heads: 4,
      num_key_value_heads: 4,
      head_dim: 24,
      max_position_embeddings: 512,
    },
    prompts: 64,
    group: 8,
    promptTokens: 40,
    completionTokens: 50,
  },
];

/** Flops of one token: the matrices of the layers, those of attention for each token it sees (itself included), and the head's. */
export function tokenFlops({ shape: s }: BenchModel): { layers: number; seen: number; head: number } {
  const width = (s.num_attention_heads + 2 * s.num_key_value_heads) * s.head_dim;
  const perLayer = s.hidden_size * (width + s.num_attention_heads * s.head_dim + 3 * s.intermediate_size);
  return {
    layers: 2 * s.num_hidden_layers * perLayer,
    seen: 4 * s.num_hidden_layers * s.num_attention_heads * s.head_dim,
    head: 2 * s.hidden_size * s.vocab_size,
  };
}

/** Flops of the layers for tokens from `first` up to `end` of one sequence. */
export function spanFlops(model: BenchModel, first: number, end: number): number {
  const { layers, seen } = tokenFlops(model);
  return (end - first) * layers + ((end * (end + 1) - first * (first + 1)) / 2) * seen;
}

/** Flops of one forward pass over a batch: prompts once, each completion's last token never an input. */
export function forwardFlops(model: BenchModel): number {
  const lists = model.prompts * model.group;
  const prompt = model.promptTokens;
  return (
    model.prompts * spanFlops(model, 0, prompt) +
    lists * spanFlops(model, prompt, prompt + model.completionTokens - 1) +
    lists * model.completionTokens * tokenFlops(model).head
  );
}

export const createPolicy = (model: BenchModel, options: PolicyOptions): Promise<Policy> =>
  Policy.create(model.shape, { ...options, seed: 1, std: 0.05 });

/** Token ids of stream `stream`, the same in every run. */
export const tokens = (count: number, vocabulary: number, stream: number): Int32Array =>
  Int32Array.from({ length: count }, (_, i) => (philox(3, 0, stream, i, 0)[0] >>> 0) % vocabulary);

export const promptsOf = (model: BenchModel, count = model.prompts): Int32Array[] =>
  Array.from({ length: count }, (_, p) => tokens(model.promptTokens, model.shape.vocab_size, p));

export const groupsOf = (model: BenchModel): Group[] =>
  promptsOf(model).map((prompt, p) => ({
    prompt,
    completions: Array.from({ length: model.group }, (_, s) =>
      tokens(model.completionTokens, model.shape.vocab_size, 1000 + p * model.group + s),
    ),
  }));
