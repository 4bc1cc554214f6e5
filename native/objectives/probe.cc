// A program of its own that evaluates rules point by point, for `rank-grpo objective check` and `show`: values, gradients by dual
// numbers, and gradients by central differences that hold what stop_gradient holds. It reads lines and answers each with one, when told to:
//
//   flush                  no answer; what was answered so far is sent
//   list                   every rule as JSON
//   rule NAME P0 P1 ...    the rule and parameters that follow
//   at D LOGP A            a token alone in its segment, log-ratio d: loss, by d, by logp, the same two by differences, clipped or not
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "list.h"

namespace rank_grpo {
namespace {

// What stop_gradient saw at the point itself is what it sees at its neighbours.
struct Tape {
  std::vector<double> values;
  size_t next = 0;
  bool replay = false;
};
Tape tape;

}  // namespace

double held(double value) {
  if (!tape.replay) {
    tape.values.push_back(value);
    return value;
  }
  return tape.next < tape.values.size() ? tape.values[tape.next++] : value;
}

namespace {

template <class F>
double difference(F&& f) {  // four points: the error is of order h^4
  const double h = 1e-4;
  auto at = [&](double step) {
    tape.next = 0;
    return f(step * h);
  };
  tape.replay = true;
  const double slope = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * h);
  tape.replay = false;
  return slope;
}

struct Probe {
  virtual ~Probe() = default;
  virtual std::string at(double d, double logp, double A) const = 0;
};

std::string numbers(std::initializer_list<double> values) {
  std::string out;
  char text[40];
  for (double v : values) {
    std::snprintf(text, sizeof text, "%s%.17g", out.empty() ? "" : " ", v);
    out += text;
  }
  return out;
}

template <class R>
struct ProbeOf final : Probe {
  R rule;
  explicit ProbeOf(const std::vector<double>& values) : rule(make_rule<R>(values.data())) {}
  std::string at(double d, double logp, double A) const override {
    auto loss = [&](Dual x, Dual y) { return rule.loss(rule.term(x, A), y, A); };
    tape.values.clear();
    const Dual y = loss(Dual(d, 1, 0), Dual(logp, 0, 1));
    const double by_d = difference([&](double h) { return loss(d + h, logp).value; });
    const double by_l = difference([&](double h) { return loss(d, logp + h).value; });
    return numbers({y.value, y.ds, y.dl, by_d, by_l, double(rule.clipped(d, A, y))});
  }
};

std::string quoted(const char* text) {
  std::string out = "\"";
  for (; *text; ++text) {
    if (*text == '"' || *text == '\\') out += '\\';
    out += *text;
  }
  return out + '"';
}

std::string number(double v) { return std::isinf(v) ? (v > 0 ? "\"Infinity\"" : "\"-Infinity\"") : numbers({v}); }

std::string list() {
  std::string out = "[";
  AllRules::each([&](auto* pointer) {
    using R = std::remove_pointer_t<decltype(pointer)>;
    out += (out.size() > 1 ? ",{" : "{") + std::string("\"name\":") + quoted(R::name) + ",\"source\":" + quoted(R::source) +
           ",\"formula\":" + quoted(R::formula) + ",\"parameters\":[";
    bool first = true;
    for (const auto& p : R::parameters) {
      out += (first ? "{\"name\":" : ",{\"name\":") + quoted(p.name) + ",\"value\":" + number(p.value) + ",\"min\":" + number(p.min) +
             ",\"max\":" + number(p.max) + ",\"reason\":" + quoted(p.reason) + "}";
      first = false;
    }
    out += "]}";
  });
  return out + "]";
}

}  // namespace
}  // namespace rank_grpo

int main() {
  using namespace rank_grpo;
  std::unique_ptr<Probe> probe;
  static char line[4096];
  while (std::fgets(line, sizeof line, stdin)) {
    std::vector<std::string> words;
    for (char* word = std::strtok(line, " \n"); word; word = std::strtok(nullptr, " \n")) words.push_back(word);
    const std::string verb = words.empty() ? "" : words[0], name = verb == "rule" && words.size() > 1 ? words[1] : "";
    std::vector<double> values;
    for (size_t i = name.empty() ? 1 : 2; i < words.size(); ++i) values.push_back(std::strtod(words[i].c_str(), nullptr));
    std::string answer = "cannot " + verb;
    if (verb == "list") {
      answer = list();
    } else if (verb == "rule") {
      probe.reset();
      AllRules::each([&](auto* pointer) {
        using R = std::remove_pointer_t<decltype(pointer)>;
        if (name == R::name && values.size() == std::size(R::parameters)) probe = std::make_unique<ProbeOf<R>>(values);
      });
      answer = probe ? "ok" : "no such rule";
    } else if (probe && verb == "at" && values.size() == 3) {
      answer = probe->at(values[0], values[1], values[2]);
    }
    if (verb == "flush") {
      std::fflush(stdout);
    } else {
      std::puts(answer.c_str());
    }
  }
}
