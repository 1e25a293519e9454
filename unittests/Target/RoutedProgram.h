//===-- RoutedProgram.h - grouped products in words -------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_UNITTESTS_TARGET_ROUTEDPROGRAM_H
#define MOE_UNITTESTS_TARGET_ROUTEDPROGRAM_H

#include "ProgramText.h"

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace polymoe::test {

/// A mixture of experts or, unless `routed`, the FFN of a dense layer.
struct RoutedShape {
  int64_t batch, length, width, hidden;
  int64_t experts, topK;
  bool gated = true;
  std::string activation = "silu";
  bool routed = true;
  bool languageGate = false;
  /// Experts before this one get no weight gradients.
  int64_t firstTrained = 0;
  /// Whether a plain FFN has biases.
  bool biased = true;

  int64_t tokens() const { return batch * length; }
  int64_t rows() const { return routed ? tokens() * topK : tokens(); }
  /// Whether the activation has scalars, p and n.
  bool hasScalars() const { return activation == "xielu"; }
  /// The names of the weights of expert `e`: gate, up, down, or up, b, down, c,
  /// or up, down; then the scalars.
  std::vector<std::string> weightNames(int64_t e) const;
  std::vector<int64_t> weightShape(const std::string &name) const;
};

/// A program of some of the steps of a mixture, in any order that makes sense.
/// What a step reads and none before it has made is an input: x, dy, routes or
/// logits and gate, scores, h, z, dz, scaled, and the weights.
class RoutedProgram {
public:
  explicit RoutedProgram(const RoutedShape &shape);

  void route();       ///< routes, own (scores of its own)
  void up();          ///< h, z
  void down();        ///< rows, or y without routes
  void combine();     ///< y
  void downGrad();    ///< dz, scaled, dscores
  void inputGrad();   ///< dx, with routes summed over the rows of a token
  void weightGrads(); ///< d<weight>, of experts from firstTrained on

  /// What has been said, with the values `results` returned.
  TestProgram returning(const std::vector<std::string> &results) const;
  /// The names of all weight gradients made.
  std::vector<std::string> gradientNames() const { return gradients; }

private:
  using Names = std::vector<std::string>;
  struct Step {
    std::string op;
    /// Operands by segment; an optional one that is missing is an empty list.
    std::vector<Names> operands;
    Names results = {};
    Names attributes = {};
    /// What stands before each segment's parentheses in the text, or nothing.
    Names keywords = Names(operands.size());
    /// The same for each result.
    Names resultKeywords = Names(results.size());
  };
  void append(Step step);
  /// A step whose results are the gradients of the weights of `kind`.
  void appendGradient(const std::string &kind, Step step);
  void declare(const std::string &name, const std::string &type);
  /// `name` where there are routes, else nothing.
  Names ifRouted(const std::string &name) const;
  /// The weights whose name begins with one of `kinds`, expert by expert.
  Names weights(const std::string &kinds) const;

  RoutedShape shape;
  std::string form, activation;
  std::map<std::string, std::string> types;
  std::set<std::string> known;
  Names gradients;
  TestProgram program;
};

/// Makes the weights of experts [first, last) parameters of `program`, which
/// are packed once, in place of inputs.
void makeParameters(TestProgram &program, const RoutedShape &shape,
                    int64_t first, int64_t last);

} // namespace polymoe::test

#endif // MOE_UNITTESTS_TARGET_ROUTEDPROGRAM_H
