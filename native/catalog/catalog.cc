// See catalog.h. Where all lines end alike and none's beginning is the whole of another (nearly always), both forms are one trie with two
// tails: "Heat (1995)" + newline and "Heat (1995)" + stop, or, where the tokenizer merges, "Heat (1995" + ")\n" and "Heat (1995" + ")" + stop.
#include "catalog.h"

#include <algorithm>

namespace rank_grpo {
namespace {

constexpr int64_t kMagic = 0x3245495254475252;  // "RRGTRIE2": the version is its last letter
struct Header {
  int64_t magic, checksum;  // of all that follows
};

// FNV-1a over 8-byte words, folded: torn and changed files are found, nothing more is wanted.
int64_t digest(const char* data, size_t bytes) {
  uint64_t h = 0xcbf29ce484222325u;
  for (size_t i = 0; i + 8 <= bytes; i += 8) {
    uint64_t word;
    std::memcpy(&word, data + i, 8);
    h = (h ^ word) * 0x100000001b3u;
    h ^= h >> 29;
  }
  return static_cast<int64_t>(h);
}

struct Tails {
  std::vector<int32_t> line, last;
  TokenLines bodies;
};

// What all lines end with in both forms, and what is before it; false where they end differently.
bool split_tails(const TokenLines& line, const TokenLines& last, Tails& out) {
  for (int32_t i = 0; i < line.count(); ++i) {
    const auto [x, y] = std::mismatch(line.begin(i), line.end(i), last.begin(i), last.end(i));
    if (i == 0) {
      out.line.assign(x, line.end(i));
      out.last.assign(y, last.end(i));
    } else if (!std::equal(x, line.end(i), out.line.begin(), out.line.end()) ||
               !std::equal(y, last.end(i), out.last.begin(), out.last.end())) {
      return false;
    }
    out.bodies.tokens.insert(out.bodies.tokens.end(), line.begin(i), x);
    out.bodies.offsets.push_back(static_cast<uint32_t>(out.bodies.tokens.size()));
  }
  return true;
}

// Sorted rows of a form on its own.
std::vector<int32_t> order_of(const TokenLines& lines, const std::vector<std::string>& names) {
  auto order = sorted_rows(lines);
  if (const auto [a, b] = first_prefix(lines, order); a >= 0)
    fail("INVALID_ARGUMENT", "Expected titles that the tokenizer writes differently, got \"" + names[static_cast<size_t>(a)] + "\" and \"" +
                                 names[static_cast<size_t>(b)] + "\", whose tokens are the same or begin with the other's.");
  return order;
}

}  // namespace

std::shared_ptr<const TokenCatalog> TokenCatalog::build(const std::vector<std::string>& names, const TokenLines& line,
                                                        const TokenLines& last) {
  const int32_t items = line.count();
  expect(items >= 1, "at least one item", "catalog", "none");
  expect(last.count() == items && names.size() == static_cast<size_t>(items), "as many names and last lines as lines", "catalog",
         std::to_string(names.size()) + " and " + std::to_string(last.count()));
  int64_t facts[kFacts] = {items, static_cast<int64_t>(line.tokens.size()), 0, 0};
  for (const auto* form : {&line, &last}) {
    for (int32_t i = 0; i < items; ++i) {
      if (form->length(i) == 0)
        fail("INVALID_ARGUMENT", "Expected at least one token for \"" + names[static_cast<size_t>(i)] + "\", got none.");
      facts[kLongest] = std::max<int64_t>(facts[kLongest], form->length(i));
    }
    const auto [least, most] = std::minmax_element(form->tokens.begin(), form->tokens.end());
    expect(*least >= 0, "token ids from 0", "catalog", std::to_string(*least));
    facts[kLargestToken] = std::max<int64_t>(facts[kLargestToken], *most);
  }

  FlatWriter out;
  out.put(facts, kFacts);
  Tails tails;
  bool shared = split_tails(line, last, tails) && !tails.line.empty() && !tails.last.empty();
  if (shared) {
    const auto order = sorted_rows(tails.bodies);
    shared = tails.bodies.length(order[0]) > 0 && first_prefix(tails.bodies, order).first < 0;
    if (shared) {
      out.put(tails.line);
      out.put(tails.last);
      Trie::write(out, tails.bodies, order);
    }
  }
  if (!shared) {
    const std::vector<int32_t> none;
    out.put(none);
    out.put(none);
    Trie::write(out, line, order_of(line, names));
    Trie::write(out, last, order_of(last, names));
  }
  std::shared_ptr<TokenCatalog> catalog(new TokenCatalog());
  catalog->owned_ = std::move(out.bytes);
  catalog->attach(catalog->owned_.data(), catalog->owned_.size());
  return catalog;
}

void TokenCatalog::attach(const char* data, size_t size) {
  data_ = data;
  size_ = size;
  FlatReader in(data, size);
  facts_ = in.take<int64_t>();
  const auto line_tail = in.take<int32_t>(), last_tail = in.take<int32_t>();
  line_ = Trie(in, line_tail);
  last_ = line_tail.count > 0 ? line_.with_tail(last_tail) : Trie(in, last_tail);
}

void TokenCatalog::save(const std::string& path, const std::string& key) const {
  FlatWriter out;
  out.put(key.data(), key.size());
  out.bytes.insert(out.bytes.end(), data_, data_ + size_);
  const Header header{kMagic, digest(out.bytes.data(), out.bytes.size())};
  AtomicFile file(path);
  file.write(&header, sizeof header);
  file.write(out.bytes.data(), out.bytes.size());
  file.commit();
}

std::shared_ptr<const TokenCatalog> TokenCatalog::open(const std::string& path, const std::string& key) {
  std::shared_ptr<TokenCatalog> catalog(new TokenCatalog());
  catalog->file_ = std::make_unique<MappedFile>(path);
  const auto& file = *catalog->file_;
  auto bad = [&](const std::string& wanted, const std::string& got) {
    fail("BAD_CHECKPOINT", path + ": Expected " + wanted + ", got " + got + ". Remove the file: it is made again from the catalog.");
  };
  Header header{};
  if (file.size() < sizeof header) bad("a cache of a catalog", std::to_string(file.size()) + " bytes");
  std::memcpy(&header, file.data(), sizeof header);
  if (header.magic != kMagic) bad("a cache of a catalog, of this version", "another file");
  const char* data = reinterpret_cast<const char*>(file.data()) + sizeof header;
  const size_t size = file.size() - sizeof header;
  if (size % 8 != 0 || digest(data, size) != header.checksum) bad("the file as it was written", "a changed or torn one");
  const auto stored = FlatReader(data, size).take<char>();
  if (std::string(stored.begin(), stored.end()) != key) bad("the cache of this catalog and tokenizer", "another one's");
  const size_t skip = 8 + (key.size() + 7) / 8 * 8;
  catalog->attach(data + skip, size - skip);
  return catalog;
}

}  // namespace rank_grpo
