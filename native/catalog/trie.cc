// See trie.h. The file and the memory hold the same bytes: a header, the key, then the arrays, each padded to 8 bytes.
#include "trie.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "../core/error.h"

namespace rank_grpo {
namespace {

constexpr int64_t kMagic = 0x3145495254475252;  // "RRGTRIE1": the version is its last letter
enum Header { kMagicAt, kChecksum, kKeyBytes, kLines, kNodes, kChildren, kTokens, kLongest, kHeaderSize };

int64_t padded(int64_t bytes) { return (bytes + 7) / 8 * 8; }

// FNV-1a over 8-byte words: torn and flipped files are found, nothing more is wanted
int64_t digest(const char* data, int64_t bytes) {
  uint64_t h = 0xcbf29ce484222325u;
  for (int64_t i = 0; i + 8 <= bytes; i += 8) {
    uint64_t word;
    std::memcpy(&word, data + i, 8);
    h = (h ^ word) * 0x100000001b3u;
    h ^= h >> 29;
  }
  return static_cast<int64_t>(h);
}

// What `build` fills before it is laid out flat.
struct Parts {
  std::vector<int64_t> offsets{0};
  std::vector<int32_t> tokens, items, ranks, depths, firsts{0}, child_tokens, child_lows, child_highs, child_nodes;
};

template <class T>
void append(std::vector<char>& out, const std::vector<T>& values) {
  const size_t at = out.size();
  out.resize(at + static_cast<size_t>(padded(static_cast<int64_t>(values.size() * sizeof(T)))), 0);
  if (!values.empty()) std::memcpy(out.data() + at, values.data(), values.size() * sizeof(T));
}

}  // namespace

std::unique_ptr<Trie> Trie::build(const std::vector<int32_t>& offsets, const std::vector<int32_t>& tokens,
                                  const std::vector<std::string>& names) {
  const int32_t count = static_cast<int32_t>(offsets.size()) - 1;
  expect(count >= 1, "at least one item", "catalog", "none");
  for (int32_t token : tokens) expect(token >= 0, "token ids of 0 and more", "the catalog's lines", std::to_string(token));
  auto begin = [&](int32_t i) { return tokens.begin() + offsets[static_cast<size_t>(i)]; };
  auto end = [&](int32_t i) { return tokens.begin() + offsets[static_cast<size_t>(i) + 1]; };
  Parts p;
  p.items.resize(static_cast<size_t>(count));
  std::iota(p.items.begin(), p.items.end(), 0);
  std::sort(p.items.begin(), p.items.end(), [&](int32_t a, int32_t b) {
    const int order = std::lexicographical_compare(begin(a), end(a), begin(b), end(b)) ? -1 : 0;
    if (order) return true;
    return std::lexicographical_compare(begin(b), end(b), begin(a), end(a)) ? false : a < b;
  });
  p.ranks.resize(static_cast<size_t>(count));
  int32_t longest_line = 0;
  for (int32_t line = 0; line < count; ++line) {
    const int32_t item = p.items[static_cast<size_t>(line)];
    expect(begin(item) != end(item), "at least one token", "the line of " + names[static_cast<size_t>(item)], "none");
    p.ranks[static_cast<size_t>(item)] = line;
    p.tokens.insert(p.tokens.end(), begin(item), end(item));
    p.offsets.push_back(static_cast<int64_t>(p.tokens.size()));
    longest_line = std::max(longest_line, static_cast<int32_t>(end(item) - begin(item)));
    if (line == 0) continue;
    const int32_t before = p.items[static_cast<size_t>(line) - 1];
    if (end(before) - begin(before) <= end(item) - begin(item) && std::equal(begin(before), end(before), begin(item)))
      fail("INVALID_ARGUMENT", "Expected lines that differ before either ends, got \"" + names[static_cast<size_t>(before)] + "\" and \"" +
                                   names[static_cast<size_t>(item)] + "\", whose tokens are the same or begin with the other's.");
  }
  auto length_of = [&](int32_t line) { return p.offsets[static_cast<size_t>(line) + 1] - p.offsets[static_cast<size_t>(line)]; };
  auto token_of = [&](int32_t line, int64_t depth) { return p.tokens[static_cast<size_t>(p.offsets[static_cast<size_t>(line)] + depth)]; };

  // Nodes breadth first, so that a node's children are numbered when it is reached.
  struct Range {
    int32_t low, high;
    int64_t depth;
  };
  std::vector<Range> ranges;
  if (count > 1) ranges.push_back({0, count, 0});
  for (size_t n = 0; n < ranges.size(); ++n) {
    auto [low, high, depth] = ranges[n];
    // sorted: what the first and the last share, all share
    while (depth < std::min(length_of(low), length_of(high - 1)) && token_of(low, depth) == token_of(high - 1, depth)) ++depth;
    p.depths.push_back(static_cast<int32_t>(depth));
    for (int32_t first = low; first < high;) {
      const int32_t token = token_of(first, depth);
      int32_t last = first + 1;
      while (last < high && token_of(last, depth) == token) ++last;
      p.child_tokens.push_back(token);
      p.child_lows.push_back(first);
      p.child_highs.push_back(last);
      p.child_nodes.push_back(last - first == 1 ? -1 : static_cast<int32_t>(ranges.size()));
      if (last - first > 1) ranges.push_back({first, last, depth + 1});
      first = last;
    }
    p.firsts.push_back(static_cast<int32_t>(p.child_tokens.size()));
  }

  std::vector<char> data;
  append(data, p.offsets);
  append(data, p.tokens);
  append(data, p.items);
  append(data, p.ranks);
  append(data, p.depths);
  append(data, p.firsts);
  append(data, p.child_tokens);
  append(data, p.child_lows);
  append(data, p.child_highs);
  append(data, p.child_nodes);
  int64_t header[kHeaderSize] = {};
  header[kMagicAt] = kMagic;
  header[kLines] = count;
  header[kNodes] = static_cast<int64_t>(p.depths.size());
  header[kChildren] = static_cast<int64_t>(p.child_tokens.size());
  header[kTokens] = static_cast<int64_t>(p.tokens.size());
  header[kLongest] = longest_line;
  std::unique_ptr<Trie> trie(new Trie());
  trie->owned_ = std::move(data);
  trie->attach(header, trie->owned_.data());
  return trie;
}

int64_t Trie::bytes() const {
  const int64_t I = lines_, N = nodes_, C = children_;
  return padded((I + 1) * 8) + padded(token_count_ * 4) + 2 * padded(I * 4) + padded(N * 4) + padded((N + 1) * 4) + 4 * padded(C * 4);
}

void Trie::attach(const int64_t* header, const char* data) {
  lines_ = static_cast<int32_t>(header[kLines]);
  nodes_ = static_cast<int32_t>(header[kNodes]);
  children_ = header[kChildren];
  token_count_ = header[kTokens];
  longest_ = static_cast<int32_t>(header[kLongest]);
  auto take = [&](int64_t count, int64_t size) {
    const char* at = data;
    data += padded(count * size);
    return at;
  };
  auto ints = [&](int64_t count) { return reinterpret_cast<const int32_t*>(take(count, 4)); };
  offsets_ = reinterpret_cast<const int64_t*>(take(lines_ + int64_t{1}, 8));
  tokens_ = ints(token_count_);
  items_ = ints(lines_);
  ranks_ = ints(lines_);
  depths_ = ints(nodes_);
  firsts_ = ints(nodes_ + int64_t{1});
  child_tokens_ = ints(children_);
  child_lows_ = ints(children_);
  child_highs_ = ints(children_);
  child_nodes_ = ints(children_);
  largest_token_ = token_count_ ? *std::max_element(tokens_, tokens_ + token_count_) : 0;
}

void Trie::save(const std::string& path, const std::string& key) const {
  const char* data = reinterpret_cast<const char*>(offsets_);
  int64_t header[kHeaderSize] = {kMagic,  digest(data, bytes()), static_cast<int64_t>(key.size()), lines_, nodes_, children_, token_count_,
                                 longest_};
  std::string padded_key = key;
  padded_key.resize(static_cast<size_t>(padded(static_cast<int64_t>(key.size()))), '\0');
  AtomicFile file(path);
  file.write(header, sizeof header);
  file.write(padded_key.data(), padded_key.size());
  file.write(data, static_cast<size_t>(bytes()));
  file.commit();
}

std::unique_ptr<Trie> Trie::open(const std::string& path, const std::string& key) {
  auto file = std::make_unique<MappedFile>(path);
  auto bad = [&](const std::string& wanted, const std::string& got) {
    fail("BAD_CHECKPOINT", path + ": Expected " + wanted + ", got " + got + ". Remove the file: it is made again from the catalog.");
  };
  int64_t header[kHeaderSize];
  if (file->size() < sizeof header) bad("a catalog cache", std::to_string(file->size()) + " bytes");
  std::memcpy(header, file->data(), sizeof header);
  if (header[kMagicAt] != kMagic) bad("a catalog cache of this version", "another file");
  const int64_t size = static_cast<int64_t>(file->size());
  for (int field : {kKeyBytes, kLines, kNodes, kChildren, kTokens, kLongest})
    if (header[field] < 0 || header[field] > size) bad("sound sizes", std::to_string(header[field]));
  std::unique_ptr<Trie> trie(new Trie());
  const char* start = reinterpret_cast<const char*>(file->data()) + sizeof header;
  const int64_t head = static_cast<int64_t>(sizeof header) + padded(header[kKeyBytes]);
  trie->lines_ = static_cast<int32_t>(header[kLines]);
  trie->nodes_ = static_cast<int32_t>(header[kNodes]);
  trie->children_ = header[kChildren];
  trie->token_count_ = header[kTokens];
  if (head + trie->bytes() != size) bad(std::to_string(head + trie->bytes()) + " bytes", std::to_string(size));
  if (std::string(start, static_cast<size_t>(header[kKeyBytes])) != key) bad("the cache of this catalog and tokenizer", "another one's");
  const char* data = start + padded(header[kKeyBytes]);
  if (digest(data, trie->bytes()) != header[kChecksum]) bad("an unchanged file", "a damaged one (checksum)");
  trie->attach(header, data);
  trie->file_ = std::move(file);
  return trie;
}

Trie::Place Trie::child(const Place& p, int32_t c) const {
  const int32_t at = firsts_[p.node] + c;
  return {child_lows_[at], child_highs_[at], p.depth + 1, child_nodes_[at]};
}

int32_t Trie::find_child(const Place& p, int32_t token) const {
  const int32_t *begin = child_tokens_ + firsts_[p.node], *end = child_tokens_ + firsts_[p.node + 1];
  const int32_t* found = std::lower_bound(begin, end, token);
  return found != end && *found == token ? static_cast<int32_t>(found - begin) : -1;
}

}  // namespace rank_grpo
