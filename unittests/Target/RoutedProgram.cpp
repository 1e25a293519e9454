//===-- RoutedProgram.cpp - grouped products in words ---------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "RoutedProgram.h"

using namespace polymoe::test;

/// What stands inside `tensor<>`.
static std::string tensorOf(const std::vector<int64_t> &extents,
                            const std::string &element) {
  std::string text;
  for (int64_t extent : extents)
    text += std::to_string(extent) + "x";
  return text + element;
}

static std::string joined(const std::vector<std::string> &items,
                          const std::string &before = "") {
  std::string text;
  for (const std::string &item : items)
    text += (text.empty() ? "" : ", ") + before + item;
  return text;
}

/// `name = array<type: items>`.
static std::string arrayOf(const std::string &name, const std::string &type,
                           const std::vector<std::string> &items) {
  return name + " = array<" + type + ": " + joined(items) + ">";
}

std::vector<std::string> RoutedShape::weightNames(int64_t e) const {
  std::vector<std::string> names{"up", "down"};
  if (gated)
    names = {"gate", "up", "down"};
  else if (biased)
    names = {"up", "b", "down", "c"};
  if (hasScalars())
    names.insert(names.end(), {"p", "n"});
  for (std::string &name : names)
    name += std::to_string(e);
  return names;
}

std::vector<int64_t> RoutedShape::weightShape(const std::string &name) const {
  switch (name[0]) {
  case 'd':
    return {width, hidden};
  case 'b':
    return {hidden};
  case 'c':
    return {width};
  case 'p':
  case 'n':
    return {1};
  default:
    return {hidden, width};
  }
}

RoutedProgram::RoutedProgram(const RoutedShape &shape)
    : shape(shape), form(std::string("form = #moe.ffn<") +
                         (shape.gated ? "gated" : "plain") + ">"),
      activation("activation = #moe.activation<" + shape.activation + ">") {
  auto tokens = [&](int64_t width, const char *element) {
    return tensorOf({shape.batch, shape.length, width}, element);
  };
  for (const char *name : {"x", "dy", "y", "dx"})
    declare(name, tokens(shape.width, "$T"));
  declare("routes", "!moe.routes<" +
                        tensorOf({shape.batch * shape.length},
                                 std::to_string(shape.experts)) +
                        ", " + std::to_string(shape.topK) + ">");
  declare("logits", tokens(shape.experts, "$P"));
  declare("gate", tokens(2, "$P"));
  for (const char *name : {"scores", "own", "dscores"})
    declare(name, tokens(shape.topK, "$P"));
  for (const char *name : {"h", "scaled"})
    declare(name, tensorOf({shape.rows(), shape.hidden}, "$T"));
  for (const char *name : {"z", "dz"})
    declare(name, tensorOf({shape.rows(), (shape.gated ? 2 : 1) * shape.hidden},
                           "$T"));
  for (const char *name : {"prows", "nrows"})
    declare(name, tensorOf({shape.rows(), 1}, "$P"));
  for (const char *name : {"rows", "dxrows"})
    declare(name, tensorOf({shape.rows(), shape.width}, "$T"));
  for (int64_t e = 0; e < shape.experts; ++e)
    for (const std::string &name : shape.weightNames(e)) {
      declare(name, tensorOf(shape.weightShape(name), "$T"));
      declare("d" + name, tensorOf(shape.weightShape(name), "$P"));
    }
  // The first input says how many tokens there are.
  program.inputs.push_back({"x", types.at("x")});
  known.insert("x");
}

void RoutedProgram::declare(const std::string &name, const std::string &type) {
  types[name] = type;
}

RoutedProgram::Names RoutedProgram::ifRouted(const std::string &name) const {
  return shape.routed ? Names{name} : Names{};
}

RoutedProgram::Names RoutedProgram::weights(const std::string &kinds) const {
  Names names;
  for (int64_t e = 0; e < shape.experts; ++e)
    for (const std::string &name : shape.weightNames(e))
      if (kinds.find(name[0]) != std::string::npos)
        names.push_back(name);
  return names;
}

/// Appends `text`, in parentheses after `keyword` where there is one.
static void appendTo(std::string &list, const std::string &keyword,
                     const std::string &text) {
  if (!keyword.empty())
    list += " " + keyword + "(" + text + ")";
  else if (!text.empty())
    list += (list.empty() ? "" : ", ") + text;
}

void RoutedProgram::append(Step step) {
  std::string operands, resultTypes;
  Names operandTypes;
  for (size_t i = 0; i < step.operands.size(); ++i) {
    for (const std::string &name : step.operands[i]) {
      if (known.insert(name).second)
        program.inputs.push_back({name, types.at(name)});
      operandTypes.push_back(typeOf({name, types.at(name)}));
    }
    if (!step.operands[i].empty())
      appendTo(operands, step.keywords[i], joined(step.operands[i], "%"));
  }
  for (size_t i = 0; i < step.results.size(); ++i) {
    const std::string &name = step.results[i],
                      &keyword = step.resultKeywords[i];
    std::string type = typeOf({name, types.at(name)});
    known.insert(name);
    // Results of one keyword share its parentheses.
    if (i > 0 && !keyword.empty() && keyword == step.resultKeywords[i - 1])
      resultTypes.insert(resultTypes.size() - 1, ", " + type);
    else
      appendTo(resultTypes, keyword, type);
  }
  if (step.op != "routed_down_grad")
    resultTypes = "(" + resultTypes + ")";
  program.body += "  " + joined(step.results, "%") + " = moe." + step.op + " " +
                  operands + " {" + joined(step.attributes) + "} : (" +
                  joined(operandTypes) + ") -> " + resultTypes + "\n";
}

void RoutedProgram::route() {
  append(
      {.op = "route",
       .operands = {{"logits"}, shape.languageGate ? Names{"gate"} : Names{}},
       .results = {"routes", "own"},
       .attributes = {"renormalize"}});
}

void RoutedProgram::up() {
  append({.op = "routed_up",
          .operands = {{"x"},
                       ifRouted("routes"),
                       weights(shape.gated ? "gu" : "ub"),
                       weights("pn")},
          .results = {"h", "z"},
          .attributes = {form, activation},
          .keywords = {"", "routes", "weights", "scalars"}});
}

void RoutedProgram::down() {
  append({.op = "routed_down",
          .operands = {{"h"},
                       ifRouted("routes"),
                       weights(shape.gated ? "d" : "dc")},
          .results = {shape.routed ? "rows" : "y"},
          .attributes = {form},
          .keywords = {"", "routes", "weights"}});
}

void RoutedProgram::combine() {
  if (shape.routed)
    append({.op = "combine",
            .operands = {{"rows"}, {"routes"}, {"scores"}},
            .results = {"y"}});
}

void RoutedProgram::downGrad() {
  Names results{"dz", "scaled"}, keywords{"", "scaled"};
  if (shape.routed) {
    results.push_back("dscores");
    keywords.push_back("dscores");
  }
  if (shape.hasScalars()) {
    results.insert(results.end(), {"prows", "nrows"});
    keywords.insert(keywords.end(), 2, "dscalars");
  }
  append({.op = "routed_down_grad",
          .operands = {{"dy"},
                       ifRouted("scores"),
                       ifRouted("routes"),
                       {"z"},
                       weights(shape.gated ? "d" : "dc"),
                       weights("pn")},
          .results = results,
          .attributes = {form, activation},
          .keywords = {"", "scores", "routes", "preactivation", "weights",
                       "scalars"},
          .resultKeywords = keywords});
}

void RoutedProgram::inputGrad() {
  append({.op = "routed_input_grad",
          .operands = {{"dz"},
                       ifRouted("routes"),
                       weights(shape.gated ? "gu" : "u")},
          .results = {shape.routed ? "dxrows" : "dx"},
          .attributes = {form},
          .keywords = {"", "routes", "weights"}});
  if (shape.routed)
    append({.op = "combine",
            .operands = {{"dxrows"}, {"routes"}},
            .results = {"dx"}});
}

void RoutedProgram::appendGradient(const std::string &kind, Step step) {
  Names experts;
  for (int64_t e = shape.firstTrained; e < shape.experts; ++e) {
    experts.push_back(std::to_string(e));
    step.results.push_back("d" + kind + experts.back());
    step.resultKeywords.push_back("");
  }
  gradients.insert(gradients.end(), step.results.begin(), step.results.end());
  step.attributes.push_back(arrayOf("experts", "i64", experts));
  append(step);
}

void RoutedProgram::weightGrads() {
  Names routes = ifRouted("routes");
  appendGradient("down", {.op = "routed_weight_grad",
                          .operands = {{"dy"}, {"scaled"}, routes}});
  if (shape.gated)
    appendGradient("gate", {.op = "routed_weight_grad",
                            .operands = {{"dz"}, {"x"}, routes}});
  appendGradient(
      "up", {.op = "routed_weight_grad",
             .operands = {{"dz"}, {"x"}, routes},
             .attributes = {
                 "offset = " + std::to_string(shape.gated ? shape.hidden : 0) +
                 " : i64"}});
  if (shape.hasScalars())
    for (const char *scalar : {"p", "n"})
      appendGradient(scalar,
                     {.op = "routed_bias_grad",
                      .operands = {{scalar + std::string("rows")}, routes},
                      .keywords = {"", "routes"}});
  if (shape.gated || !shape.biased)
    return;
  appendGradient("b", {.op = "routed_bias_grad",
                       .operands = {{"dz"}, routes},
                       .keywords = {"", "routes"}});
  appendGradient("c", {.op = "routed_bias_grad",
                       .operands = {{"dy"}, routes, ifRouted("scores")},
                       .keywords = {"", "routes", "scores"}});
}

TestProgram
RoutedProgram::returning(const std::vector<std::string> &results) const {
  TestProgram returned = program;
  for (const std::string &name : results)
    returned.results.push_back({name, types.at(name)});
  return returned;
}

void polymoe::test::makeParameters(TestProgram &program,
                                   const RoutedShape &shape, int64_t first,
                                   int64_t last) {
  for (int64_t e = first; e < last; ++e)
    for (const std::string &name : shape.weightNames(e))
      for (Port &port : program.inputs)
        if (port.name == name)
          port.kind = "parameter";
}
