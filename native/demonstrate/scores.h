// Stage 1's scores (Rank-GRPO, Eq. 10 to 13): Remap, the judge's ratings, and the likelihood that Adjust is fitted to. Scores are made
// block by block and used at once, so no dialogues x catalogue matrix is ever held.
//
// Letters: D dialogues, U items that the teacher named, I items of the catalogue, F features of an embedding, R rows of a block.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "../core/backend.h"
#include "../model/memory.h"

namespace rank_grpo {

class CpuBackend;

// Compressed rows: row r holds columns[offsets[r]] .. columns[offsets[r + 1]), with their values.
struct SparseMatrix {
  std::vector<int32_t> offsets, columns;
  std::vector<float> values;  // may be empty where only membership counts
  int64_t rows() const { return offsets.empty() ? 0 : static_cast<int64_t>(offsets.size()) - 1; }
  // INVALID_ARGUMENT unless it has `rows` ascending rows of columns below `columns`
  void check(const char* name, int64_t rows, int64_t columns, bool with_values) const;
};

// Embeddings, dense or sparse. Rows should have length 1 (or 0 where nothing is known): then products are cosines.
struct Features {
  int64_t width = 0;  // F; 0: no embeddings, similarity and context are zero
  bool dense = false;
  std::vector<float> items, teacher, context;  // [I, F], [U, F], [D, F] where dense; context may be empty
  SparseMatrix sparse_items, sparse_teacher, sparse_context;
};

struct ScoreInputs {
  int64_t dialogues = 0, teacher_items = 0, items = 0;  // D, U, I
  SparseMatrix positions;                               // [D, U]: the weight of each named item's rank, 1 / sqrt(k) in the paper
  std::vector<int32_t> membership;                      // [U]: the catalogue's identical item, or -1
  Features features;
  float lambda = 1;       // weight of the context similarity
  SparseMatrix excluded;  // [D, I]: left out of rankings (titles that the dialogue names); may be empty
  SparseMatrix truths;    // [D, I]: positives of the likelihood; may be empty
};

struct Ranking {
  std::vector<int32_t> items;  // [rows, n], -1 where fewer than n remain
  std::vector<float> scores;   // [rows, n]
};

// Of sum over rows and positives j of -log softmax_j(w s + b) over the whole catalogue (Eq. 13 without its regulariser).
struct Slope {
  double loss = 0;
  std::vector<double> dw, db;  // [I]
};

// Of the same sum, its second derivatives by an item's own w and b: sum of n p (1 - p) s^2, s and 1.
struct Curvature {
  std::vector<double> ww, wb, bb;  // [I]
};

class Stage1Scores {
 public:
  // Checks the inputs (INVALID_ARGUMENT) and, for sparse features, multiplies out the U x I similarities (OUT_OF_MEMORY above 4 GiB).
  Stage1Scores(std::shared_ptr<CpuBackend> backend, ScoreInputs inputs);
  ~Stage1Scores();
  Stage1Scores(const Stage1Scores&) = delete;
  Stage1Scores& operator=(const Stage1Scores&) = delete;

  // Adds gamma x ratings [D, I] to every score from now on (Eq. 11); replaces earlier ratings.
  void set_ratings(SparseMatrix ratings, float gamma);

  // s [rows, I]. For tests and small tables.
  std::vector<float> dense(const std::vector<int32_t>& rows);
  // The n best items of each row by w s + b (w and b empty: by s), excluded items left out, ties to the lower index.
  Ranking rank(const std::vector<int32_t>& rows, int64_t n, const std::vector<float>& w, const std::vector<float>& b);
  Slope slope(const std::vector<int32_t>& rows, const std::vector<float>& w, const std::vector<float>& b);
  Curvature curvature(const std::vector<int32_t>& rows, const std::vector<float>& w, const std::vector<float>& b);

 private:
  // Sums over rows, [count][I]: `use` adds to `sums` [count, I] of its thread what a row gives, from e = exp(logits - largest) and their sum
  template <class Use>  // use(row, sums, e, sum, s, truths, count, positives): their logits are `positives` in all below the largest
  std::vector<std::vector<double>> likelihood_sums(const std::vector<int32_t>& rows, const std::vector<float>& w,
                                                   const std::vector<float>& b, size_t count, Use&& use);
  template <class Use>
  void for_blocks(const std::vector<int32_t>& rows, Use&& use);
  void add_positions(float* s, int64_t row, int64_t first, int64_t n) const;
  void add_row(float* s, int64_t row) const;
  void similarities();
  void check_rows(const std::vector<int32_t>& rows) const;

  std::shared_ptr<CpuBackend> backend_;
  ScoreInputs in_;
  SparseMatrix ratings_, postings_;  // postings: [F, I], the catalogue's features by feature
  float gamma_ = 0;
  // In the backend's memory, whose pages are large: a tile of either is read in strides of a whole row.
  DeviceBuffer similarity_;         // [U, I], membership included; sparse features only
  DeviceBuffer block_;              // [R, I]
  std::unique_ptr<Panels> panels_;  // of the items' features; dense only
  std::vector<float> query_;        // [R, F]
};

}  // namespace rank_grpo
