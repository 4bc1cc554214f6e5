// See scores.h. Rows are split over threads; sums over rows are taken in the rows' order, so threads change no bit.
#include "scores.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>

#include "../core/error.h"
#include "../cpu/backend.h"
#include "../cpu/score.h"

namespace rank_grpo {
namespace {

constexpr int64_t kBlockRows = 2048;             // R: 61 MB of scores for 7,404 items; a similarity read from memory serves many rows
constexpr int64_t kChunkRows = 16;               // rows of one task; their slopes are summed in f32 before they join the f64 sum
constexpr int64_t kColumns = 1024;               // columns of one tile of scores (4 KiB, in the first cache), and of one task of that sum
constexpr uint64_t kMaxSimilarity = 4ull << 30;  // bytes

// The rows of `m` by column, in ascending row order.
SparseMatrix transposed(const SparseMatrix& m, int64_t columns) {
  SparseMatrix t;
  t.offsets.assign(static_cast<size_t>(columns) + 1, 0);
  for (int32_t c : m.columns) ++t.offsets[static_cast<size_t>(c) + 1];
  std::partial_sum(t.offsets.begin(), t.offsets.end(), t.offsets.begin());
  t.columns.resize(m.columns.size());
  t.values.resize(m.columns.size());
  std::vector<int32_t> next(t.offsets.begin(), t.offsets.end() - 1);
  for (int64_t r = 0; r < m.rows(); ++r)
    for (int32_t i = m.offsets[static_cast<size_t>(r)]; i < m.offsets[static_cast<size_t>(r) + 1]; ++i) {
      const int32_t at = next[static_cast<size_t>(m.columns[static_cast<size_t>(i)])]++;
      t.columns[static_cast<size_t>(at)] = static_cast<int32_t>(r);
      t.values[static_cast<size_t>(at)] = m.values[static_cast<size_t>(i)];
    }
  return t;
}

// s += scale (row of m) x postings
void add_products(float* s, const SparseMatrix& m, int64_t row, const SparseMatrix& postings, float scale) {
  for (int32_t i = m.offsets[static_cast<size_t>(row)]; i < m.offsets[static_cast<size_t>(row) + 1]; ++i) {
    const size_t feature = static_cast<size_t>(m.columns[static_cast<size_t>(i)]);
    const float value = scale * m.values[static_cast<size_t>(i)];
    for (int32_t p = postings.offsets[feature]; p < postings.offsets[feature + 1]; ++p)
      s[postings.columns[static_cast<size_t>(p)]] += value * postings.values[static_cast<size_t>(p)];
  }
}

void check_finite(const std::vector<float>& values, const char* name) {
  for (float x : values)
    if (!std::isfinite(x)) expect(false, "finite numbers", name, std::to_string(x));
}

}  // namespace

void SparseMatrix::check(const char* name, int64_t rows, int64_t width, bool with_values) const {
  const std::string label = name;
  expect(static_cast<int64_t>(offsets.size()) == rows + 1, std::to_string(rows + 1) + " offsets", label, std::to_string(offsets.size()));
  expect(offsets.front() == 0 && offsets.back() == static_cast<int64_t>(columns.size()), "offsets from 0 to the number of columns", label,
         std::to_string(offsets.back()));
  for (size_t i = 1; i < offsets.size(); ++i)
    if (offsets[i] < offsets[i - 1]) expect(false, "ascending offsets", label, "a smaller one at " + std::to_string(i));
  for (int32_t c : columns)
    if (c < 0 || c >= width) expect(false, "columns below " + std::to_string(width), label, std::to_string(c));
  if (with_values)
    expect(values.size() == columns.size(), std::to_string(columns.size()) + " values", label, std::to_string(values.size()));
  check_finite(values, name);
}

Stage1Scores::Stage1Scores(std::shared_ptr<CpuBackend> backend, ScoreInputs inputs) : backend_(std::move(backend)), in_(std::move(inputs)) {
  const int64_t D = in_.dialogues, U = in_.teacher_items, I = in_.items, F = in_.features.width;
  expect(I >= 1, "at least one item", "items", std::to_string(I));
  in_.positions.check("positions", D, U, true);
  if (in_.excluded.offsets.empty()) in_.excluded.offsets.assign(static_cast<size_t>(D) + 1, 0);
  if (in_.truths.offsets.empty()) in_.truths.offsets.assign(static_cast<size_t>(D) + 1, 0);
  in_.excluded.check("excluded", D, I, false);
  in_.truths.check("truths", D, I, false);
  expect(static_cast<int64_t>(in_.membership.size()) == U, std::to_string(U) + " entries", "membership",
         std::to_string(in_.membership.size()));
  for (int32_t m : in_.membership)
    if (m < -1 || m >= I) expect(false, "-1 or an item below " + std::to_string(I), "membership", std::to_string(m));
  ratings_.offsets.assign(static_cast<size_t>(D) + 1, 0);
  auto& f = in_.features;
  if (F > 0 && f.dense) {
    const auto expect_size = [&](const std::vector<float>& v, int64_t rows, const char* name) {
      expect(static_cast<int64_t>(v.size()) == rows * F, std::to_string(rows * F) + " values", name, std::to_string(v.size()));
      check_finite(v, name);
    };
    expect_size(f.items, I, "features of the items");
    expect_size(f.teacher, U, "features of the teacher's items");
    if (!f.context.empty()) expect_size(f.context, D, "features of the dialogues");
    panels_ = backend_->make_panels(I, F, Compute::f32);
    backend_->pack(*panels_, f.items.data());
    f.items = {};
  } else if (F > 0) {
    f.sparse_items.check("features of the items", I, F, true);
    f.sparse_teacher.check("features of the teacher's items", U, F, true);
    if (!f.sparse_context.offsets.empty()) f.sparse_context.check("features of the dialogues", D, F, true);
    similarities();
  }
}

Stage1Scores::~Stage1Scores() = default;

void Stage1Scores::similarities() {
  const int64_t U = in_.teacher_items, I = in_.items;
  const uint64_t bytes = static_cast<uint64_t>(U) * static_cast<uint64_t>(I) * sizeof(float);
  if (bytes > kMaxSimilarity)
    fail("OUT_OF_MEMORY", "Expected at most 4 GiB of similarities, got " + std::to_string(bytes >> 20) + " MiB for " + std::to_string(U) +
                              " x " + std::to_string(I) + " items. Use dense embeddings, or fewer dialogues at a time.");
  postings_ = transposed(in_.features.sparse_items, in_.features.width);
  similarity_ = DeviceBuffer(*backend_, bytes);
  backend_->pool().run(static_cast<int>((U + kChunkRows - 1) / kChunkRows), [&](int chunk) {
    for (int64_t u = chunk * kChunkRows; u < std::min(U, (chunk + 1) * kChunkRows); ++u) {
      float* s = similarity_.floats() + u * I;
      add_products(s, in_.features.sparse_teacher, u, postings_, 1.f);
      if (in_.membership[static_cast<size_t>(u)] >= 0) s[in_.membership[static_cast<size_t>(u)]] += 1.f;
    }
  });
}

void Stage1Scores::set_ratings(SparseMatrix ratings, float gamma) {
  ratings.check("ratings", in_.dialogues, in_.items, true);
  ratings_ = std::move(ratings);
  gamma_ = gamma;
}

// Adds to columns first .. first + n of s what the teacher's items give: similarity with membership in it, or membership alone.
void Stage1Scores::add_positions(float* s, int64_t row, int64_t first, int64_t n) const {
  const auto& p = in_.positions;
  for (int32_t i = p.offsets[static_cast<size_t>(row)]; i < p.offsets[static_cast<size_t>(row) + 1]; ++i) {
    const int64_t u = p.columns[static_cast<size_t>(i)];
    const float weight = p.values[static_cast<size_t>(i)];
    if (similarity_.data()) {
      backend_->kernels().score->add_scaled(s, similarity_.floats() + u * in_.items + first, weight, n);
    } else {
      const int64_t item = in_.membership[static_cast<size_t>(u)] - first;
      if (item >= 0 && item < n) s[item] += weight;
    }
  }
}

// Adds the context of sparse features, and the ratings, to s [I].
void Stage1Scores::add_row(float* s, int64_t row) const {
  const size_t r = static_cast<size_t>(row);
  if (!in_.features.dense && !in_.features.sparse_context.offsets.empty())
    add_products(s, in_.features.sparse_context, row, postings_, in_.lambda);
  for (int32_t i = ratings_.offsets[r]; i < ratings_.offsets[r + 1]; ++i)
    s[ratings_.columns[static_cast<size_t>(i)]] += gamma_ * ratings_.values[static_cast<size_t>(i)];
}

void Stage1Scores::check_rows(const std::vector<int32_t>& rows) const {
  for (int32_t r : rows)
    if (r < 0 || r >= in_.dialogues) expect(false, "rows below " + std::to_string(in_.dialogues), "rows", std::to_string(r));
}

// Calls use(first row of the block, rows of it) with the block's scores in block_.
template <class Use>
void Stage1Scores::for_blocks(const std::vector<int32_t>& rows, Use&& use) {
  check_rows(rows);
  const int64_t I = in_.items, F = in_.features.width, total = static_cast<int64_t>(rows.size());
  const bool dense = in_.features.dense && F > 0;
  block_.reserve(*backend_, static_cast<size_t>(std::min(total, kBlockRows) * I) * sizeof(float));
  if (dense) query_.resize(static_cast<size_t>(std::min(total, kBlockRows) * F));
  for (int64_t first = 0; first < total; first += kBlockRows) {
    const int64_t R = std::min(kBlockRows, total - first);
    const int chunks = static_cast<int>((R + kChunkRows - 1) / kChunkRows);
    if (dense) {
      // p S = p (E_U E_I^T) = (p E_U) E_I^T: similarity and context are one product with the items' features
      backend_->pool().run(chunks, [&](int chunk) {
        for (int64_t i = chunk * kChunkRows; i < std::min(R, (chunk + 1) * kChunkRows); ++i) {
          const int64_t row = rows[static_cast<size_t>(first + i)];
          float* q = query_.data() + i * F;
          std::fill(q, q + F, 0.f);
          const auto& p = in_.positions;
          for (int32_t k = p.offsets[static_cast<size_t>(row)]; k < p.offsets[static_cast<size_t>(row) + 1]; ++k)
            backend_->kernels().score->add_scaled(q, in_.features.teacher.data() + p.columns[static_cast<size_t>(k)] * F,
                                                  p.values[static_cast<size_t>(k)], F);
          if (!in_.features.context.empty()) backend_->kernels().score->add_scaled(q, in_.features.context.data() + row * F, in_.lambda, F);
        }
      });
      backend_->linear_forward(block_.floats(), query_.data(), *panels_, nullptr, R);
    }
    // Tile by tile for all rows of the block: a tile of the similarities stays in the caches while many rows read it.
    for (int64_t column = 0; column < I; column += kColumns) {
      const int64_t n = std::min(kColumns, I - column);
      backend_->pool().run(chunks, [&](int chunk) {
        for (int64_t i = chunk * kChunkRows; i < std::min(R, (chunk + 1) * kChunkRows); ++i) {
          float* s = block_.floats() + i * I + column;
          if (!dense) std::fill(s, s + n, 0.f);
          add_positions(s, rows[static_cast<size_t>(first + i)], column, n);
        }
      });
    }
    backend_->pool().run(chunks, [&](int chunk) {
      for (int64_t i = chunk * kChunkRows; i < std::min(R, (chunk + 1) * kChunkRows); ++i)
        add_row(block_.floats() + i * I, rows[static_cast<size_t>(first + i)]);
    });
    use(first, R);
  }
}

std::vector<float> Stage1Scores::dense(const std::vector<int32_t>& rows) {
  std::vector<float> out(rows.size() * static_cast<size_t>(in_.items));
  for_blocks(rows, [&](int64_t first, int64_t R) { std::copy_n(block_.floats(), R * in_.items, out.data() + first * in_.items); });
  return out;
}

Ranking Stage1Scores::rank(const std::vector<int32_t>& rows, int64_t n, const std::vector<float>& w, const std::vector<float>& b) {
  const int64_t I = in_.items;
  expect(n >= 1, "at least 1", "n", std::to_string(n));
  for (const auto* v : {&w, &b})
    expect(v->empty() == w.empty() && (v->empty() || static_cast<int64_t>(v->size()) == I), "one value for each item", "w and b",
           std::to_string(v->size()));
  check_finite(w, "w");
  check_finite(b, "b");
  Ranking out{std::vector<int32_t>(rows.size() * static_cast<size_t>(n), -1),
              std::vector<float>(rows.size() * static_cast<size_t>(n), 0.f)};
  std::vector<int32_t> order(static_cast<size_t>(kBlockRows / kChunkRows * I));
  for_blocks(rows, [&](int64_t first, int64_t R) {
    backend_->pool().run(static_cast<int>((R + kChunkRows - 1) / kChunkRows), [&](int chunk) {
      int32_t* candidates = order.data() + chunk * I;
      for (int64_t i = chunk * kChunkRows; i < std::min(R, (chunk + 1) * kChunkRows); ++i) {
        const size_t row = static_cast<size_t>(rows[static_cast<size_t>(first + i)]);
        float* s = block_.floats() + i * I;
        if (!w.empty()) backend_->kernels().score->affine(s, s, w.data(), b.data(), I);
        for (int32_t e = in_.excluded.offsets[row]; e < in_.excluded.offsets[row + 1]; ++e)
          s[in_.excluded.columns[static_cast<size_t>(e)]] = -std::numeric_limits<float>::infinity();
        std::iota(candidates, candidates + I, 0);
        const int64_t kept = std::min(n, I);
        const auto better = [s](int32_t x, int32_t y) { return s[x] != s[y] ? s[x] > s[y] : x < y; };
        std::nth_element(candidates, candidates + (kept - 1), candidates + I, better);
        std::sort(candidates, candidates + kept, better);
        for (int64_t k = 0; k < kept && s[candidates[k]] != -std::numeric_limits<float>::infinity(); ++k) {
          out.items[static_cast<size_t>((first + i) * n + k)] = candidates[k];
          out.scores[static_cast<size_t>((first + i) * n + k)] = s[candidates[k]];
        }
      }
    });
  });
  return out;
}

template <class Use>
std::vector<std::vector<double>> Stage1Scores::likelihood_sums(const std::vector<int32_t>& rows, const std::vector<float>& w,
                                                               const std::vector<float>& b, size_t count, Use&& use) {
  const int64_t I = in_.items;
  expect(static_cast<int64_t>(w.size()) == I && static_cast<int64_t>(b.size()) == I, std::to_string(I) + " values", "w and b",
         std::to_string(w.size()));
  std::vector<std::vector<double>> out(count, std::vector<double>(static_cast<size_t>(I)));
  constexpr int64_t kChunks = kBlockRows / kChunkRows;
  const int64_t width = static_cast<int64_t>(count) * I;
  std::vector<float> logits(static_cast<size_t>(kChunks * I)), sums(static_cast<size_t>(kChunks * width));
  const auto& kernels = *backend_->kernels().score;
  for_blocks(rows, [&](int64_t first, int64_t R) {
    const int chunks = static_cast<int>((R + kChunkRows - 1) / kChunkRows);
    backend_->pool().run(chunks, [&](int chunk) {
      float *y = logits.data() + chunk * I, *own = sums.data() + chunk * width;
      std::fill(own, own + width, 0.f);
      for (int64_t i = chunk * kChunkRows; i < std::min(R, (chunk + 1) * kChunkRows); ++i) {
        const size_t row = static_cast<size_t>(rows[static_cast<size_t>(first + i)]);
        const int32_t begin = in_.truths.offsets[row], end = in_.truths.offsets[row + 1];
        if (begin == end) continue;
        const float* s = block_.floats() + i * I;
        const float top = kernels.affine(y, s, w.data(), b.data(), I);
        double positives = 0;  // their logits below the largest
        for (int32_t t = begin; t < end; ++t)
          positives += static_cast<double>(top) - static_cast<double>(y[in_.truths.columns[static_cast<size_t>(t)]]);
        const float sum = kernels.exponentials(y, top, I);
        use(first + i, own, y, sum, s, &in_.truths.columns[static_cast<size_t>(begin)], end - begin, positives);
      }
    });
    backend_->pool().run(static_cast<int>((I + kColumns - 1) / kColumns), [&](int range) {
      const int64_t from = range * kColumns, to = std::min(I, from + kColumns);
      for (int chunk = 0; chunk < chunks; ++chunk)
        for (size_t part = 0; part < count; ++part) {
          const float* own = sums.data() + chunk * width + static_cast<int64_t>(part) * I;
          for (int64_t j = from; j < to; ++j) out[part][static_cast<size_t>(j)] += static_cast<double>(own[j]);
        }
    });
  });
  return out;
}

Slope Stage1Scores::slope(const std::vector<int32_t>& rows, const std::vector<float>& w, const std::vector<float>& b) {
  const int64_t I = in_.items;
  std::vector<double> losses(rows.size());
  const auto& kernels = *backend_->kernels().score;
  auto sums = likelihood_sums(
      rows, w, b, 2,
      [&](int64_t row, float* out, const float* e, float sum, const float* s, const int32_t* truths, int32_t count, double positives) {
        losses[static_cast<size_t>(row)] = positives + count * std::log(static_cast<double>(sum));
        float *dw = out, *db = out + I;
        kernels.slopes(dw, db, e, s, static_cast<float>(count) / sum, I);
        for (int32_t t = 0; t < count; ++t) {
          dw[truths[t]] -= s[truths[t]];
          db[truths[t]] -= 1.f;
        }
      });
  Slope out{std::accumulate(losses.begin(), losses.end(), 0.), std::move(sums[0]), std::move(sums[1])};
  if (!std::isfinite(out.loss))
    fail("NOT_FINITE", "Expected a finite loss, got " + std::to_string(out.loss) + ". Weights or biases are too large.");
  return out;
}

Curvature Stage1Scores::curvature(const std::vector<int32_t>& rows, const std::vector<float>& w, const std::vector<float>& b) {
  const int64_t I = in_.items;
  auto sums = likelihood_sums(rows, w, b, 3,
                              [&](int64_t, float* out, const float* e, float sum, const float* s, const int32_t*, int32_t count, double) {
                                float *ww = out, *wb = out + I, *bb = out + 2 * I;
                                const float scale = 1 / sum, n = static_cast<float>(count);
                                for (int64_t j = 0; j < I; ++j) {
                                  const float p = e[j] * scale, c = n * p * (1 - p);
                                  bb[j] += c;
                                  wb[j] += c * s[j];
                                  ww[j] += c * s[j] * s[j];
                                }
                              });
  for (const auto& part : sums)
    for (double x : part)
      if (!std::isfinite(x))
        fail("NOT_FINITE", "Expected a finite curvature, got " + std::to_string(x) + ". Weights or biases are too large.");
  return {std::move(sums[0]), std::move(sums[1]), std::move(sums[2])};
}

}  // namespace rank_grpo
