// `rank-grpo/data`: dialogue data in and out, and stage 1's demonstrations.

export { type StageEffect, stageEffects } from "../demonstrate/ablate.ts";
export { type Adjustment, type AdjustOptions, fitAdjustment, type ScoreRows } from "../demonstrate/adjust.ts";
export { readItems, readRatings } from "../demonstrate/answer.ts";
export { AnswerCache } from "../demonstrate/cache.ts";
export {
  type Embedding,
  Grounding,
  type GroundOptions,
  teach,
  teachByNeighbors,
  trainableCatalog,
} from "../demonstrate/demonstrate.ts";
export {
  type EmbeddedTexts,
  type Encoder,
  encodedFeatures,
  endpointEncoder,
  type Features,
  localEncoder,
  tfidfFeatures,
} from "../demonstrate/embed.ts";
export { type EndpointLists, type EndpointListsOptions, endpointLists } from "../demonstrate/endpoint.ts";
export { describeItems, type ItemMetadata, MetadataTable } from "../demonstrate/metadata.ts";
export { type Reflection, type ReflectOptions, reflect } from "../demonstrate/reflect.ts";
export { type NamedItems, nameItems, type RemapOptions, RemapRows, ScoreTable } from "../demonstrate/remap.ts";
export { type DemonstrateOptions, type DemonstrateResult, demonstrate, stageNames } from "../demonstrate/stages.ts";
export {
  type Answer,
  type AskOptions,
  Endpoint,
  type EndpointOptions,
  EndpointTeacher,
  EngineTeacher,
  type Teacher,
  type Usage,
} from "../demonstrate/teacher.ts";
export type { NativeScoreInputs, NativeSparse, NativeStage1 } from "../native.ts";
export { Catalog } from "../ranking/catalog.ts";
export { type CatalogOptions, collectCatalog, writeCatalog } from "./catalog.ts";
export { type ExportFormat, type ExportOptions, exportData, exportFormats } from "./export.ts";
export type { ColumnNames } from "./import/columns.ts";
export type { InteractionOptions } from "./import/importer.ts";
export { type ImportOptions, type ImportResult, importData, importFormats, readRecords } from "./import.ts";
export { type Histogram, type Inspection, type InspectOptions, inspectData, type Spread } from "./inspect.ts";
export { BadLines, conversationOf, mergeTurns, recommendationPrompt, type Turn, type UnifiedRecord } from "./record.ts";
export { type SplitOptions, type SplitResult, splitData } from "./split.ts";
