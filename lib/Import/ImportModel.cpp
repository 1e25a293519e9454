//===-- ImportModel.cpp - from a Hugging Face folder to a module
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Dialect/MoE.h"
#include "moe/Import/Checkpoint.h"
#include "moe/Import/Import.h"
#include "moe/Import/Module.h"
#include "moe/Runtime/Error.h"
#include "moe/Transforms/Layers.h"

#include "mlir/IR/Builders.h"

#include <cmath>
#include <map>

using namespace mlir;
using namespace polymoe;
namespace fs = std::filesystem;
namespace moe = mlir::moe;

using Part = ParameterLayout::Part;

namespace {

moe::ActivationKind activationOf(FfnActivation activation) {
  switch (activation) {
  case FfnActivation::Silu:
    return moe::ActivationKind::Silu;
  case FfnActivation::Gelu:
    return moe::ActivationKind::Gelu;
  case FfnActivation::GeluTanh:
    return moe::ActivationKind::GeluTanh;
  case FfnActivation::Xielu:
    return moe::ActivationKind::Xielu;
  }
  llvm_unreachable("an activation");
}

moe::Role roleOf(const ParameterLayout &parameter) {
  if (parameter.part == Part::Router)
    return moe::Role::Router;
  if (parameter.part == Part::LanguageGate)
    return moe::Role::LanguageGate;
  // Expert 0 is the original FFN.
  return parameter.expert > 0 ? moe::Role::Expert : moe::Role::Backbone;
}

/// What the user should know of frequencies that depend on the length of a
/// sequence, if these do. In transformers the longest sequence of a batch
/// chooses them; here they are the same for all.
std::optional<std::string> contextNote(const RopeConfig &rope,
                                       std::optional<int64_t> context) {
  using Type = RopeConfig::Type;
  if (rope.type != Type::LongRope && rope.type != Type::Dynamic)
    return std::nullopt;
  if (auto limit = ropeContext(rope, context))
    return "the rotary embedding is made for sequences of at most " +
           std::to_string(*limit) +
           " tokens; --context=N makes it for longer ones";
  return "the rotary embedding has the long factors for all sequences; "
         "without --context it has the short ones, for at most " +
         std::to_string(static_cast<int64_t>(rope.originalPositions)) +
         " tokens";
}

/// Builds the module of a model. Values that stand for parameters are looked up
/// by the part of the layer that they are.
class ModelBuilder {
public:
  ModelBuilder(const ModelConfig &config, DType type,
               const FoundTensors &tensors, const ImportOptions &options,
               MLIRContext &context)
      : config(config), family(*config.family), tensors(tensors),
        options(options), builder(&context), loc(builder.getUnknownLoc()),
        element(elementTypeOf(type, context)),
        precise(moe::preciseType(element)),
        ids(RankedTensorType::get({dynamic, dynamic}, builder.getI32Type())) {}

  OwningOpRef<ModuleOp> build(const fs::path &moduleFolder) {
    OwningOpRef<ModuleOp> module = ModuleOp::create(loc);
    builder.setInsertionPointToEnd(module->getBody());
    for (const FoundTensor &tensor : tensors.parameters)
      declare(tensor, moduleFolder);
    buildForward();
    return module;
  }

private:
  static constexpr int64_t dynamic = ShapedType::kDynamic;

  /// Parameters by part, in the order of the layout.
  using Weights = std::map<Part, SmallVector<Value>>;

  /// The properties of a layer that decide which function it calls.
  using LayerKind = std::tuple<std::optional<int64_t>, int64_t, bool, bool>;

  LayerKind kindOf(int64_t layer) const {
    return {config.windows[layer], config.experts[layer], config.gates[layer],
            config.rotates[layer]};
  }

  RankedTensorType typeOf(const ParameterLayout &parameter) {
    return RankedTensorType::get(parameter.shape, element);
  }

  RankedTensorType activation(int64_t width) {
    return RankedTensorType::get({dynamic, dynamic, width}, element);
  }

  RankedTensorType preciseTensor(int64_t width) {
    return RankedTensorType::get({dynamic, dynamic, width}, precise);
  }

  void declare(const FoundTensor &found, const fs::path &moduleFolder) {
    DenseI64ArrayAttr rows;
    if (auto selection = found.location->rows)
      rows = builder.getDenseI64ArrayAttr(
          {selection->offset, selection->block, selection->stride});
    auto origin = moe::CheckpointAttr::get(
        builder.getContext(),
        builder.getStringAttr(
            relativePath(found.entry->file->path(), moduleFolder)),
        builder.getStringAttr(found.entry->tensor->name), rows);
    moe::ParameterOp::create(builder, loc, /*trainable=*/false,
                             roleOf(*found.parameter), found.parameter->name,
                             typeOf(*found.parameter), origin);
  }

  //===--------------------------------------------------------------------===//
  // @forward
  //===--------------------------------------------------------------------===//

  void buildForward() {
    RankedTensorType logits = activation(config.vocabulary);
    auto forward = func::FuncOp::create(
        builder, loc, "forward",
        builder.getFunctionType({ids, ids, ids, ids}, {logits}));
    StringRef inputs[] = {"tokens", "positions", "slots", "segments"};
    for (auto [i, name] : llvm::enumerate(inputs))
      forward.setArgAttrs(
          i, binding(moe::BindingKind::Input, name).asAttributes());
    forward.setResultAttrs(
        0, binding(moe::BindingKind::Output, "logits").asAttributes());

    OpBuilder::InsertionGuard guard(builder);
    builder.setInsertionPointToEnd(forward.addEntryBlock());
    Value tokens = forward.getArgument(0), positions = forward.getArgument(1);
    Value slots = forward.getArgument(2), segments = forward.getArgument(3);

    Weights weights = getParameters(/*layer=*/-1);
    Value table = weights[Part::Embedding].front();
    Value hidden = moe::EmbeddingOp::create(
        builder, loc, activation(config.width), tokens, table,
        builder.getF64FloatAttr(embeddingRoot()));
    hidden = scale(hidden, config.embeddingScale);
    hidden = norm(hidden, weights[Part::EmbeddingNorm]);

    buildRotaryTables(positions);

    for (int64_t layer = 0; layer < config.layers; ++layer) {
      SmallVector<Value> arguments = {hidden};
      llvm::append_range(arguments, rotaryTable(layer));
      arguments.append({slots, segments});
      for (const ParameterLayout *parameter : parametersOf(layer))
        arguments.push_back(getParameter(*parameter));
      hidden = func::CallOp::create(builder, loc,
                                    layerFunction(layer, forward, arguments),
                                    arguments)
                   .getResult(0);
    }

    // Scaling the row costs less than scaling its logits.
    hidden = scale(norm(hidden, weights[Part::FinalNorm]), config.logitScale);
    Value head = config.tied ? table : weights[Part::Head].front();
    Value result = moe::LinearOp::create(builder, loc, logits, hidden, head,
                                         /*bias=*/Value());
    if (config.logitCap)
      result =
          moe::SoftCapOp::create(builder, loc, logits, result,
                                 builder.getF64FloatAttr(*config.logitCap));
    func::ReturnOp::create(builder, loc, result);
  }

  moe::BindingAttr binding(moe::BindingKind kind, StringRef name) {
    return moe::BindingAttr::get(builder.getContext(), kind,
                                 builder.getStringAttr(name));
  }

  /// The factor that the lookup applies: computed in f64 and rounded to f32
  /// before anything else.
  double embeddingRoot() const {
    return family.embeddingTimesRoot ? static_cast<float>(std::sqrt(
                                           static_cast<double>(config.width)))
                                     : 1.0;
  }

  /// One table for each rotary embedding that layers have.
  void buildRotaryTables(Value positions) {
    for (int64_t layer = 0; layer < config.layers; ++layer) {
      const RopeConfig *rope = config.ropeOf(layer);
      if (!rope || !rotaryTable(layer).empty())
        continue;
      std::vector<float> frequencies =
          ropeFrequencies(*rope, config.headDim, options.context);
      Type type = preciseTensor(static_cast<int64_t>(frequencies.size()));
      IntegerAttr maxLength;
      if (auto tokens = ropeContext(*rope, options.context))
        maxLength = builder.getI64IntegerAttr(*tokens);
      auto table = moe::RotaryTableOp::create(
          builder, loc, type, type, positions,
          builder.getDenseF32ArrayAttr(frequencies),
          builder.getF64FloatAttr(rope->attentionFactor), maxLength);
      tables.emplace_back(*rope, table);
    }
  }

  /// The cosines and sines of a layer; none in one that does not rotate.
  ValueRange rotaryTable(int64_t layer) {
    const RopeConfig *rope = config.ropeOf(layer);
    for (auto &[known, table] : tables)
      if (rope && known == *rope)
        return table.getResults();
    return {};
  }

  /// Layer -1 has the parameters outside the layers.
  SmallVector<const ParameterLayout *> parametersOf(int64_t layer) const {
    SmallVector<const ParameterLayout *> result;
    for (const FoundTensor &found : tensors.parameters)
      if (found.parameter->layer == layer)
        result.push_back(found.parameter);
    return result;
  }

  Value getParameter(const ParameterLayout &parameter) {
    return moe::GetParameterOp::create(builder, loc, typeOf(parameter),
                                       parameter.name);
  }

  Weights getParameters(int64_t layer) {
    Weights weights;
    for (const ParameterLayout *parameter : parametersOf(layer))
      weights[parameter->part].push_back(getParameter(*parameter));
    return weights;
  }

  //===--------------------------------------------------------------------===//
  // A layer
  //===--------------------------------------------------------------------===//

  /// The function of this kind of layer, built at its first use.
  func::FuncOp layerFunction(int64_t layer, func::FuncOp forward,
                             ValueRange arguments) {
    func::FuncOp &function = functions[kindOf(layer)];
    if (function)
      return function;
    std::string name = "decoder_layer";
    if (functions.size() > 1)
      name += "_" + std::to_string(functions.size() - 1);

    OpBuilder::InsertionGuard guard(builder);
    // The function comes after the earlier layer functions, before @forward.
    builder.setInsertionPoint(forward);
    function = func::FuncOp::create(
        builder, loc, name,
        builder.getFunctionType(TypeRange(arguments),
                                {activation(config.width)}));
    function.setPrivate();
    builder.setInsertionPointToEnd(function.addEntryBlock());
    buildLayer(layer, function.getArguments());
    return function;
  }

  void buildLayer(int64_t layer, ValueRange arguments) {
    Value hidden = arguments.front();
    arguments = arguments.drop_front();
    ValueRange table = arguments.take_front(config.rotates[layer] ? 2 : 0);
    arguments = arguments.drop_front(table.size());
    Value slots = arguments[0], segments = arguments[1];
    Weights weights;
    for (auto [parameter, value] :
         llvm::zip_equal(parametersOf(layer), arguments.drop_front(2)))
      weights[parameter->part].push_back(value);

    Value input = norm(hidden, weights[Part::AttentionInputNorm]);
    Value attended = attention(layer, input, table, slots, segments, weights);
    attended = norm(attended, weights[Part::AttentionOutputNorm]);
    hidden = addToResidual(hidden, attended);
    if (!family.parallel)
      input = norm(hidden, weights[Part::FfnInputNorm]);
    Value fed = feedForward(layer, input, weights);
    hidden = addToResidual(hidden, norm(fed, weights[Part::FfnOutputNorm]));
    func::ReturnOp::create(builder, loc, hidden);
  }

  Value addToResidual(Value hidden, Value result) {
    return moe::AddOp::create(builder, loc, hidden,
                              scale(result, config.residualScale));
  }

  Value attention(int64_t layer, Value input, ValueRange table, Value slots,
                  Value segments, Weights &weights) {
    Value query = linear(input, weights[Part::Query]);
    Value key = linear(input, weights[Part::Key]);
    Value value = linear(input, weights[Part::Value]);
    query = norm(query, weights[Part::QueryNorm]);
    key = norm(key, weights[Part::KeyNorm]);
    if (!table.empty()) {
      query = rotated(query, *config.ropeOf(layer), table);
      key = rotated(key, *config.ropeOf(layer), table);
    }
    IntegerAttr window;
    if (config.windows[layer])
      window = builder.getI64IntegerAttr(*config.windows[layer]);
    FloatAttr cap;
    if (config.attentionCap)
      cap = builder.getF64FloatAttr(*config.attentionCap);
    auto attended = moe::AttentionOp::create(
        builder, loc, query.getType(), /*lse=*/Type(), query, key, value, slots,
        segments, builder.getI64IntegerAttr(config.heads),
        builder.getI64IntegerAttr(config.kvHeads),
        builder.getF64FloatAttr(config.attentionScale), window,
        family.positions == Positions::Alibi ? builder.getUnitAttr()
                                             : UnitAttr(),
        cap);
    return linear(attended.getResult(), weights[Part::Output]);
  }

  Value rotated(Value heads, const RopeConfig &rope, ValueRange table) {
    IntegerAttr headDim;
    if (rotatedWidth(rope, config.headDim) != config.headDim)
      headDim = builder.getI64IntegerAttr(config.headDim);
    return moe::RotaryOp::create(
        builder, loc, heads.getType(), heads, table[0], table[1],
        /*inverse=*/UnitAttr(),
        rope.interleaved ? builder.getUnitAttr() : UnitAttr(), headDim);
  }

  Value feedForward(int64_t layer, Value input, Weights &weights) {
    moe::FfnForm form =
        family.gated() ? moe::FfnForm::Gated : moe::FfnForm::Plain;
    moe::ActivationKind activation = activationOf(config.activation);
    ArrayRef<Value> ffn = weights[Part::Ffn];
    if (config.experts[layer] == 1)
      return moe::FfnOp::create(builder, loc, input.getType(),
                                /*preactivation=*/Type(), input, ffn, form,
                                activation)
          .getResult();
    moe::MixtureWeights mixture;
    mixture.router = weights[Part::Router].front();
    llvm::append_range(mixture.experts, ffn);
    if (config.gates[layer]) {
      mixture.gate = weights[Part::LanguageGate].front();
      mixture.pool = gatePool();
    }
    return moe::buildMixture(builder, loc, input, mixture, form, activation,
                             config.topK);
  }

  /// Null for a gate that looks at the token alone.
  moe::PoolKindAttr gatePool() {
    if (config.gatePool == GatePool::Token)
      return nullptr;
    return moe::PoolKindAttr::get(builder.getContext(),
                                  config.gatePool == GatePool::CausalMean
                                      ? moe::PoolKind::CausalMean
                                      : moe::PoolKind::SequenceSum);
  }

  /// `input` itself where the family has no such norm.
  Value norm(Value input, ArrayRef<Value> weights) {
    if (weights.empty())
      return input;
    const NormKind kind = family.norms.kind;
    FloatAttr epsilon = builder.getF64FloatAttr(config.epsilon);
    if (kind == NormKind::Layer || kind == NormKind::LayerBiased)
      return moe::LayerNormOp::create(
          builder, loc, input.getType(), input, weights[0],
          weights.size() > 1 ? weights[1] : Value(), epsilon);
    double offset = kind == NormKind::RmsPlusOne ? 1.0 : 0.0;
    return moe::RmsNormOp::create(builder, loc, input.getType(), input,
                                  weights[0], epsilon,
                                  builder.getF64FloatAttr(offset));
  }

  Value scale(Value input, double factor) {
    if (factor == 1.0)
      return input;
    return moe::ScaleOp::create(builder, loc, input.getType(), input,
                                builder.getF64FloatAttr(factor));
  }

  Value linear(Value input, ArrayRef<Value> weights) {
    int64_t width = cast<RankedTensorType>(weights[0].getType()).getDimSize(0);
    return moe::LinearOp::create(builder, loc, activation(width), input,
                                 weights[0],
                                 weights.size() > 1 ? weights[1] : Value());
  }

  const ModelConfig &config;
  const Family &family;
  const FoundTensors &tensors;
  const ImportOptions &options;
  OpBuilder builder;
  Location loc;
  Type element, precise;
  RankedTensorType ids;
  std::map<LayerKind, func::FuncOp> functions;
  SmallVector<std::pair<RopeConfig, moe::RotaryTableOp>> tables;
};

} // namespace

ImportedModel polymoe::importHuggingFace(const fs::path &folder,
                                         const fs::path &moduleFolder,
                                         MLIRContext &context,
                                         const ImportOptions &options) {
  if (!fs::is_directory(folder))
    fail(folder, ": expected a folder with config.json and safetensors");
  fs::path configFile = folder / "config.json";
  ModelConfig config = readConfig(configFile, options.ignoredConfigKeys);
  std::vector<ParameterLayout> layout = layoutOf(config);
  Checkpoint checkpoint(folder);
  checkpoint.renameAll(config);
  FoundTensors tensors = findTensors(config, layout, checkpoint);
  DType type = chooseType(config, tensors);

  registerModuleDialects(context);
  context.loadDialect<moe::MoEDialect, func::FuncDialect>();
  ImportedModel imported;
  imported.module =
      ModelBuilder(config, type, tensors, options, context).build(moduleFolder);
  imported.ignored = tensors.ignored;
  if (config.rope)
    if (auto note = contextNote(config.rope->full, options.context))
      imported.notes.push_back(*note);

  Builder builder(&context);
  NamedAttrList model;
  model.set("family", builder.getStringAttr(config.family->name));
  model.set("config",
            builder.getStringAttr(relativePath(configFile, moduleFolder)));
  fs::path tokenizer = folder / "tokenizer.json";
  if (fs::exists(tokenizer))
    model.set("tokenizer",
              builder.getStringAttr(relativePath(tokenizer, moduleFolder)));
  auto setList = [&](StringRef key, const std::vector<std::string> &values) {
    if (!values.empty())
      model.set(key, builder.getStrArrayAttr(
                         SmallVector<StringRef>(values.begin(), values.end())));
  };
  std::vector<std::string> unread = tensors.ignored;
  llvm::append_range(unread, tensors.constants);
  setList("ignored", unread);
  setList("ignored_config", options.ignoredConfigKeys);
  moe::MoEDialect::ModelAttrHelper(&context).setAttr(
      *imported.module, model.getDictionary(&context));
  return imported;
}
