//===-- DeviationProfile.cpp - how languages change a model
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Transforms/DeviationProfile.h"

#include "moe/Transforms/Layers.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/raw_ostream.h"
#include "llvm/Support/xxhash.h"

#include <cmath>

using namespace mlir;
using namespace mlir::moe;

FailureOr<ModelFacts> mlir::moe::modelFactsOf(ModuleOp module) {
  SymbolTable symbols(module);
  FailureOr<SmallVector<Layer>> layers = findLayers(module, symbols);
  if (failed(layers))
    return failure();
  if (layers->empty())
    return module.emitError()
           << "expected a model with layers, but it has none";
  Layer first = layers->front();
  Value input =
      first.ffn ? first.ffn.getInput()
                : first.route.getLogits().getDefiningOp<RouterOp>().getInput();
  std::string text;
  llvm::raw_string_ostream stream(text);
  for (auto parameter : module.getOps<ParameterOp>()) {
    stream << parameter.getSymName();
    for (int64_t size : cast<RankedTensorType>(parameter.getType()).getShape())
      stream << ' ' << size;
    stream << '\n';
  }
  return ModelFacts{static_cast<int64_t>(layers->size()),
                    cast<RankedTensorType>(input.getType()).getDimSize(2),
                    llvm::utohexstr(llvm::xxh3_64bits(text), /*LowerCase=*/true,
                                    /*Width=*/16)};
}

namespace {

/// Reads the fields of a file. The first that is not as expected is an error,
/// which names file and field.
class ProfileReader {
public:
  ProfileReader(StringRef file, ModuleOp module) : file(file), module(module) {}

  LogicalResult fail(const Twine &field, const Twine &expected) {
    return module.emitError() << file << ": field '" << field.str()
                              << "': expected " << expected.str();
  }

  /// The value at `path`, whose parts are divided by dots; null if it is not
  /// there.
  const llvm::json::Value *find(const llvm::json::Object &root,
                                StringRef path) {
    const llvm::json::Object *object = &root;
    auto [first, rest] = path.split('.');
    const llvm::json::Value *value = object->get(first);
    if (rest.empty() || !value || !value->getAsObject())
      return rest.empty() ? value : nullptr;
    return find(*value->getAsObject(), rest);
  }

  LogicalResult readText(const llvm::json::Object &root, StringRef path,
                         std::string &text) {
    const llvm::json::Value *value = find(root, path);
    std::optional<StringRef> found =
        value ? value->getAsString() : std::nullopt;
    if (!found)
      return fail(path, "a string");
    text = found->str();
    return success();
  }

  LogicalResult readInteger(const llvm::json::Object &root, StringRef path,
                            int64_t &number) {
    const llvm::json::Value *value = find(root, path);
    std::optional<int64_t> found = value ? value->getAsInteger() : std::nullopt;
    if (!found)
      return fail(path, "an integer");
    number = *found;
    return success();
  }

  /// A matrix of finite numbers.
  LogicalResult readMatrix(const llvm::json::Object &root, StringRef path,
                           size_t rows, size_t columns,
                           std::vector<std::vector<double>> &matrix) {
    const llvm::json::Value *value = find(root, path);
    const llvm::json::Array *list = value ? value->getAsArray() : nullptr;
    if (!list || list->size() != rows)
      return fail(path, "a list of " + Twine(rows) +
                            " lists, one for each "
                            "language, but got " +
                            (list ? Twine(list->size()) : Twine("no list")));
    for (const llvm::json::Value &row : *list) {
      const llvm::json::Array *numbers = row.getAsArray();
      std::string at = (path + "[" + Twine(matrix.size()) + "]").str();
      if (!numbers || numbers->size() != columns)
        return fail(at,
                    "a list of " + Twine(columns) + " numbers, but got " +
                        (numbers ? Twine(numbers->size()) : Twine("no list")));
      std::vector<double> &to = matrix.emplace_back();
      for (const llvm::json::Value &number : *numbers) {
        std::optional<double> found = number.getAsNumber();
        if (!found || !std::isfinite(*found))
          return fail(at, "finite numbers");
        to.push_back(*found);
      }
    }
    return success();
  }

  LogicalResult read(const llvm::json::Object &root, const ModelFacts &model,
                     DeviationProfile &profile);

private:
  StringRef file;
  ModuleOp module;
};

} // namespace

LogicalResult ProfileReader::read(const llvm::json::Object &root,
                                  const ModelFacts &model,
                                  DeviationProfile &profile) {
  std::string format;
  int64_t version = 0;
  if (failed(readText(root, "format", format)))
    return failure();
  if (format != deviationFormat)
    return fail("format", Twine("'") + deviationFormat +
                              "', which moe-run profile deviation writes, but "
                              "got '" +
                              format + "'");
  if (failed(readInteger(root, "version", version)))
    return failure();
  if (version != deviationVersion)
    return fail("version",
                Twine(deviationVersion) + ", but got " + Twine(version));

  auto isOfModel = [&](StringRef path, int64_t expected) -> LogicalResult {
    int64_t found = 0;
    if (failed(readInteger(root, path, found)))
      return failure();
    if (found != expected)
      return fail(path, Twine(expected) + ", as the model has, but got " +
                            Twine(found));
    return success();
  };
  if (failed(isOfModel("model.layers", model.layers)) ||
      failed(isOfModel("model.width", model.width)) ||
      failed(readText(root, "model.parameters", profile.model.parameters)))
    return failure();
  if (profile.model.parameters != model.parameters)
    return fail("model.parameters",
                "the digest of the model's parameters, " + model.parameters +
                    ", but got " + profile.model.parameters +
                    "; the profile was measured on another model");
  profile.model = model;

  const llvm::json::Array *languages = root.getArray("languages");
  if (!languages || languages->empty())
    return fail("languages", "a list of languages");
  for (const auto &[i, language] : llvm::enumerate(*languages)) {
    std::string at = ("languages[" + Twine(i) + "].code").str();
    const llvm::json::Object *object = language.getAsObject();
    std::optional<StringRef> code =
        object ? object->getString("code") : std::nullopt;
    if (!code || code->empty())
      return fail(at, "a language's code");
    if (llvm::is_contained(profile.languages, *code))
      return fail(at, "each language once, but got '" + *code + "' twice");
    profile.languages.push_back(code->str());
  }
  size_t count = profile.languages.size();
  if (failed(readMatrix(root, "layer_deviation", count, model.layers,
                        profile.deviations)) ||
      failed(
          readMatrix(root, "similarity", count, count, profile.similarities)))
    return failure();
  for (size_t i = 0; i < count; ++i)
    for (size_t j = 0; j < i; ++j)
      if (profile.similarities[i][j] != profile.similarities[j][i])
        return fail("similarity[" + Twine(i) + "][" + Twine(j) + "]",
                    "the same number as at [" + Twine(j) + "][" + Twine(i) +
                        "]");
  return success();
}

FailureOr<DeviationProfile> mlir::moe::readDeviationProfile(StringRef file,
                                                            ModuleOp module) {
  FailureOr<ModelFacts> model = modelFactsOf(module);
  if (failed(model))
    return failure();
  auto buffer = llvm::MemoryBuffer::getFile(file);
  if (!buffer)
    return module.emitError() << file << ": expected a profile, but "
                              << buffer.getError().message();
  llvm::Expected<llvm::json::Value> json =
      llvm::json::parse((*buffer)->getBuffer());
  if (!json)
    return module.emitError() << file << ": expected JSON, but got "
                              << llvm::toString(json.takeError());
  const llvm::json::Object *root = json->getAsObject();
  if (!root)
    return module.emitError() << file << ": expected a JSON object";
  DeviationProfile profile;
  if (failed(ProfileReader(file, module).read(*root, *model, profile)))
    return failure();
  return profile;
}
