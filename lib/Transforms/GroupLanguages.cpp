//===-- GroupLanguages.cpp - gives groups of languages experts
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "AddExperts.h"
#include "LayerProfile.h"

#include "moe/Transforms/LanguageGroups.h"
#include "moe/Transforms/Passes.h"

#include "mlir/IR/Builders.h"
#include "llvm/ADT/BitVector.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/Support/FormatVariadic.h"

namespace mlir::moe {
#define GEN_PASS_DEF_GROUPLANGUAGES
#include "moe/Transforms/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;
using polymoe::DeviationProfile;

namespace {

/// The codes of the languages of each group.
using Groups = std::vector<std::vector<std::string>>;

struct GroupLanguages
    : FailablePass<moe::impl::GroupLanguagesBase<GroupLanguages>> {
  using FailablePass::FailablePass;

  LogicalResult run(ModuleOp module) override;
  LogicalResult checkOptions(ModuleOp module);
  FailureOr<Groups> chooseGroups(ModuleOp module,
                                 const DeviationProfile *profile);
  FailureOr<llvm::BitVector> chooseLayers(ModuleOp module,
                                          ArrayRef<Layer> layers,
                                          const DeviationProfile *profile);
};

LogicalResult GroupLanguages::checkOptions(ModuleOp module) {
  if (profile.empty() && (groups.empty() || layers.empty()))
    return module.emitError()
           << "expected a profile, or groups and layers, but got none; moe-run "
              "profile deviation measures one";
  if (!groups.empty() && numGroups != 0)
    return module.emitError() << "expected groups or num-groups, but got both";
  if (!layers.empty() && top != 0)
    return module.emitError() << "expected layers or top, but got both";
  if (groups.empty() && numGroups < 2)
    return module.emitError() << "expected num-groups of at least 2, but got "
                              << numGroups.getValue();
  if (top < 0)
    return module.emitError()
           << "expected top of at least 1, or 0 to choose by epsilon, but got "
           << top.getValue();
  if (!(epsilon >= 0 && epsilon <= 1))
    return module.emitError() << "expected epsilon in [0, 1], but got "
                              << llvm::formatv("{0}", epsilon.getValue()).str();
  if (MoEDialect::GroupsAttrHelper(&getContext()).isAttrPresent(module))
    return module.emitError() << "expected a model without groups of "
                                 "languages, but it has them already";
  return success();
}

FailureOr<Groups>
GroupLanguages::chooseGroups(ModuleOp module, const DeviationProfile *profile) {
  Groups chosen;
  if (groups.empty()) {
    auto count = static_cast<int64_t>(profile->languages.size());
    if (numGroups > count)
      return module.emitError() << "expected num-groups of at most " << count
                                << ", the languages of " << this->profile
                                << ", but got " << numGroups.getValue();
    for (const std::vector<int64_t> &group :
         groupLanguages(profile->similarities, numGroups)) {
      std::vector<std::string> &codes = chosen.emplace_back();
      for (int64_t language : group)
        codes.push_back(profile->languages[language].code);
    }
    return chosen;
  }
  llvm::StringSet<> seen;
  for (StringRef group : groups) {
    std::vector<std::string> &codes = chosen.emplace_back();
    for (StringRef code : llvm::split(group, '+')) {
      if (code.empty())
        return module.emitError() << "expected groups as 'en+es,el+hu', but "
                                     "got an empty code in '"
                                  << group << "'";
      if (!seen.insert(code).second)
        return module.emitError() << "expected every language in one group, "
                                     "but got '"
                                  << code << "' twice";
      codes.push_back(code.str());
    }
  }
  if (chosen.size() < 2)
    return module.emitError()
           << "expected at least 2 groups, but got " << chosen.size();
  return chosen;
}

FailureOr<llvm::BitVector>
GroupLanguages::chooseLayers(ModuleOp module, ArrayRef<Layer> all,
                             const DeviationProfile *profile) {
  std::vector<int64_t> indices(layers.begin(), layers.end());
  if (top > static_cast<int64_t>(all.size()))
    return module.emitError()
           << "expected top of at most " << all.size()
           << ", the layers of this model, but got " << top.getValue();
  if (layers.empty()) {
    std::vector<double> deviations = normalisedDeviations(profile->deviations);
    indices =
        top > 0 ? topLayers(deviations, top) : layersFrom(deviations, epsilon);
  }
  llvm::BitVector chosen(all.size());
  for (int64_t index : indices) {
    if (index < 0 || index >= static_cast<int64_t>(all.size()))
      return module.emitError() << "expected layers in [0, " << all.size()
                                << "), but got " << index;
    if (chosen.test(index))
      return module.emitError()
             << "expected every layer once, but got " << index << " twice";
    if (func::CallOp call = all[index].call; !all[index].ffn)
      return call.emitOpError() << "expected a dense layer " << index
                                << ", but it has experts already";
    chosen.set(index);
  }
  return chosen;
}

LogicalResult GroupLanguages::run(ModuleOp module) {
  if (failed(checkOptions(module)))
    return failure();
  FailureOr<SmallVector<Layer>> all = findLayers(module, SymbolTable(module));
  if (failed(all))
    return failure();
  std::optional<DeviationProfile> measured;
  if (!profile.empty()) {
    FailureOr<DeviationProfile> read = readDeviations(module, *all, profile);
    if (failed(read))
      return failure();
    measured = std::move(*read);
  }
  const DeviationProfile *known = measured ? &*measured : nullptr;
  FailureOr<Groups> chosenGroups = chooseGroups(module, known);
  if (failed(chosenGroups))
    return failure();
  FailureOr<llvm::BitVector> chosen = chooseLayers(module, *all, known);
  if (failed(chosen))
    return failure();

  SmallVector<NewExperts> wanted;
  for (auto [i, layer] : llvm::enumerate(*all)) {
    if (!layer.ffn)
      continue;
    int64_t added =
        chosen->test(i) ? static_cast<int64_t>(chosenGroups->size()) - 1 : 0;
    wanted.push_back({layer, added});
    numLayers += added > 0;
    numExperts += added;
  }
  OpBuilder builder(&getContext());
  if (failed(addExperts(
          module, wanted,
          {topK, InitAttr::get(&getContext(), Initializer::Normal, seed,
                               builder.getF64FloatAttr(0.02))})))
    return failure();

  NamedAttrList groupOf;
  for (auto [group, codes] : llvm::enumerate(*chosenGroups))
    for (const std::string &code : codes)
      groupOf.set(code, builder.getI64IntegerAttr(group));
  MoEDialect::GroupsAttrHelper(&getContext())
      .setAttr(module, groupOf.getDictionary(&getContext()));
  return success();
}

} // namespace
