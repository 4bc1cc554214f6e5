// The public library: train, fine-tune, sample, score, evaluate.
export type { Content, Message, Sample } from "./data/sample.ts";
export { readSamples } from "./data/samples.ts";
export { type ErrorCode, RankGrpoError } from "./errors.ts";
export {
  type EvaluateOptions,
  type Evaluation,
  evaluateLists,
  evaluatePolicy,
  type GenerateListsOptions,
  generateLists,
  type MeasuredRow,
} from "./evaluate.ts";
export type { Ended, Logger } from "./log/logger.ts";
export {
  addon,
  type NativeCatalog,
  type NativeExclusions,
  type NativeLines,
  type NativeListRules,
  type NativeObjective,
  type NativeObjectiveResult,
  type NativeOptimizerOptions,
  type NativeScores,
  type NativeStepInputs,
  type NativeWorkload,
} from "./native.ts";
export { type ClipCovOptions, clipCov, type KlCovOptions, klCov } from "./objective/covariance.ts";
export {
  type CustomObjective,
  checkCustomObjective,
  defineObjective,
  type Finding,
  type ObjectiveInput,
  type ObjectiveOutput,
  sampleStep,
} from "./objective/custom.ts";
export { type EntropyTargetOptions, entropyTarget } from "./objective/entropy.ts";
export type { NamedObjective } from "./objective/named.ts";
export { dpo, type PreferenceOptions, sDpo } from "./objective/preference.ts";
export {
  type Level,
  type Objective,
  type ObjectiveOf,
  type PresetName,
  presets,
  resolveObjective,
  type Weighting,
} from "./objectives.ts";
export {
  type ForwardOptions,
  type Generated,
  type GenerateOptions,
  type Group,
  type ModelShape,
  Policy,
  type PolicyMemory,
  type PolicyOptions,
  type Workload,
} from "./policy.ts";
export {
  type QuickstartOptions,
  type QuickstartResult,
  type QuickstartRow,
  quickstart,
  worldConfigs,
  writeWorld,
} from "./quickstart.ts";
export type { AdvantageOptions } from "./ranking/advantages.ts";
export { Catalog } from "./ranking/catalog.ts";
export { CatalogConstraint, type Constraint, type ConstraintOptions } from "./ranking/constraint.ts";
export {
  createTokenWeights,
  type TokenWeightName,
  type TokenWeightOptions,
  type TokenWeights,
  type WeightedTokens,
} from "./ranking/emphasis.ts";
export {
  type AdvantageEstimator,
  type AdvantageStep,
  createEstimator,
  type EstimatorName,
} from "./ranking/estimators.ts";
export { type BeamOptions, type ScoredList, type ScoreItemsOptions, scoreItems, searchLists } from "./ranking/items.ts";
export { compact, formatItem, type Item, type ReadingMode, readList, type Slot } from "./ranking/list.ts";
export type { Cutoff, ListMetrics, Metric, MetricOptions, RowMetrics } from "./ranking/metrics.ts";
export {
  createRepair,
  type GroupRepair,
  type Repair,
  type RepairGroup,
  type RepairName,
  type RepairOptions,
} from "./ranking/repair.ts";
export {
  type Completion,
  createReward,
  type GammaOptions,
  type Reward,
  type RewardOptions,
} from "./ranking/rewards.ts";
export {
  createSegmentation,
  type Segmentation,
  type SegmentationName,
  type SegmentationOptions,
  type TokenText,
} from "./ranking/segmentation.ts";
export {
  embeddingSimilarity,
  type GraphEdge,
  graphSimilarity,
  type ItemSimilarity,
  readEdges,
  readEmbeddings,
  type SimilarityOptions,
  softHits,
} from "./ranking/similarity.ts";
export { type CompareOptions, type Comparison, compareEvaluations, type Difference } from "./report/compare.ts";
export { readEvaluation, type StoredEvaluation } from "./report/evaluations.ts";
export { makeReport, type ReportOptions } from "./report/report.ts";
export type { RuleParameters } from "./rules.ts";
export type { ChatOptions } from "./text/template.ts";
export { loadTokenizer } from "./text/tokenizer.ts";
export type { Tokenizer } from "./text/types.ts";
export { type SftConfig, sftSchema, type TrainConfig, trainSchema } from "./training/config.ts";
export { type Extensions, loadExtensions } from "./training/extensions.ts";
export type { StageOptions } from "./training/loop.ts";
export type { MemoryPlan } from "./training/memory.ts";
export { readConfig } from "./training/parse.ts";
export type { StepReport, Summary } from "./training/report.ts";
export type { WeightedReward } from "./training/rollout.ts";
export type { Metrics, RunStatus, StepSample } from "./training/run.ts";
export { sft, sftSteps } from "./training/sft.ts";
export { type TrainOptions, train, trainSteps } from "./training/train.ts";
export { type Dialogue, World, type WorldOptions } from "./world.ts";
