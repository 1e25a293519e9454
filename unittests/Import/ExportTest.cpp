//===-- ExportTest.cpp ----------------------------------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// What lit tests cannot make: runs with checkpoints of several phases.
//
//===----------------------------------------------------------------------===//

#include "moe/Import/Export.h"
#include "Runtime/TestFolder.h"
#include "moe/Dialect/MoE.h"
#include "moe/Import/Checkpoint.h"
#include "moe/Import/Import.h"
#include "moe/Import/Module.h"
#include "moe/Runtime/Json.h"
#include "moe/Runtime/RunFolder.h"
#include "moe/Runtime/ThreadPool.h"

#include "mlir/IR/MLIRContext.h"

#include <algorithm>
#include <functional>

using namespace polymoe;
namespace fs = std::filesystem;

namespace {

class Runs : public testing::Test {
protected:
  Runs() : pool(1) {
    writeBase();
    fs::create_directories(folder / "run");
    ImportedModel model =
        importHuggingFace(folder / "hf", folder / "run", context);
    saveModule(*model.module, folder / "run/model.mlir");
  }

  /// A mixture in bf16, all ones, with a tokenizer.
  void writeBase() {
    fs::create_directories(folder / "hf");
    writeText(folder / "hf/config.json", R"({
      "model_type": "polymoe_bloom", "vocab_size": 5, "hidden_size": 4,
      "n_layer": 2, "n_head": 2, "layer_norm_epsilon": 1e-5,
      "polymoe_experts": [1, 2], "polymoe_top_k": 2, "dtype": "bfloat16"})");
    writeText(folder / "hf/tokenizer.json", "{}");
    ModelConfig config = readConfig(folder / "hf/config.json");
    SafetensorsWriter writer(folder / "hf/model.safetensors");
    std::set<std::string> keys;
    for (const ParameterLayout &parameter : layoutOf(config)) {
      const TensorLocation &location = parameter.locations.front();
      if (!keys.insert(location.key).second)
        continue;
      writer.add(location.key, DType::BF16, location.shape,
                 [bytes = *byteSizeOf(location.shape, 2)](const auto &sink) {
                   std::vector<uint16_t> ones(bytes / 2, 0x3F80);
                   sink(std::as_bytes(std::span(ones)));
                 });
    }
    writer.finish();
  }

  /// Trains the parameters that `trains` is true for to `value`, in a phase of
  /// its own.
  void trainTo(float value, int64_t step, int64_t phase,
               const std::function<bool(const std::string &)> &trains) {
    LoadedModule loaded = loadModule(folder / "run", context);
    std::vector<ParameterSpec> specs = extractParameterSpecs(*loaded.module);
    for (ParameterSpec &spec : specs)
      spec.trainable = trains(spec.name);
    ParameterOptions options;
    options.requireAllKeys = false;
    ParameterStore store(specs, folder / "run", pool, options);
    for (const TrainableParameter &state : store.trainables())
      for (int64_t i = 0; i < state.elements; ++i)
        state.writeMaster(i, 1, &value);
    RunFolder run(folder / "run", RunFolder::Access::Write);
    CheckpointState state;
    state.step = step;
    state.phase = phase;
    run.saveCheckpoint(store, state);
  }

  /// The type and the first value of an exported tensor.
  std::pair<DType, float> exported(const std::string &key) {
    auto file = SafetensorsFile::open(folder / "out/model.safetensors");
    const TensorInfo &tensor = file->get(key);
    float value = 0;
    convert(*tensor.dtype, file->data(tensor).data(), DType::F32, &value, 1);
    return {*tensor.dtype, value};
  }

  TestFolder folder;
  mlir::MLIRContext context;
  ThreadPool pool;
};

bool isExpert(const std::string &name) {
  return name.find(".experts.1.") != std::string::npos;
}

bool isRouter(const std::string &name) {
  return name.find(".gate.") != std::string::npos;
}

using Value = std::pair<DType, float>;

} // namespace

TEST_F(Runs, AreExportedWithTheNewestValueOfEachParameter) {
  trainTo(2.5f, 10, 0,
          [](const auto &name) { return isExpert(name) || isRouter(name); });
  // Not a number of bf16: masters are not rounded.
  const float fine = 1.0f + 0x1p-20f;
  trainTo(fine, 20, 1, isRouter);

  exportHuggingFace(folder / "run", folder / "out", context);
  EXPECT_EQ(exported("transformer.h.1.mlp.gate.weight"),
            Value(DType::F32, fine));
  EXPECT_EQ(exported("transformer.h.1.mlp.experts.1.dense_h_to_4h.bias"),
            Value(DType::F32, 2.5f));
  EXPECT_EQ(exported("transformer.h.1.mlp.experts.0.dense_h_to_4h.bias"),
            Value(DType::BF16, 1.0f));
  EXPECT_EQ(exported("transformer.h.0.mlp.dense_h_to_4h.weight"),
            Value(DType::BF16, 1.0f));
  EXPECT_EQ(readText(folder / "out/tokenizer.json"), "{}");
  EXPECT_EQ(readJsonObject(folder / "out/config.json").at("dtype"), "bfloat16");

  // And it is imported again: masters of fp32 give a model of bf16.
  ImportedModel again = importHuggingFace(folder / "out", folder.path, context);
  for (const ParameterSpec &spec : extractParameterSpecs(*again.module))
    EXPECT_EQ(spec.dtype, DType::BF16) << spec.name;
}

TEST_F(Runs, WithADamagedCheckpointAreExportedFromTheOneBefore) {
  trainTo(2.0f, 1, 0, isRouter);
  trainTo(3.0f, 2, 0, isRouter);
  RunFolder run(folder / "run", RunFolder::Access::Read);
  writeText(run.checkpointPath(2) / "parameters.safetensors", "damaged");
  ExportOptions options;
  std::string warning;
  options.warn = [&](const std::string &text) { warning = text; };
  exportHuggingFace(folder / "run", folder / "out", context, options);
  EXPECT_EQ(exported("transformer.h.1.mlp.gate.weight"),
            Value(DType::F32, 2.0f));
  EXPECT_NE(warning.find("step-00000002"), std::string::npos) << warning;
}

TEST_F(Runs, DoNotReplaceWhatTheyComeFrom) {
  trainTo(2.0f, 1, 0, isRouter);
  size_t before = folder.count();
  ExportOptions options;
  options.replace = true;
  auto refused = [&](const fs::path &output, const char *file) {
    EXPECT_ERROR(exportHuggingFace(folder / "run", output, context, options),
                 "expected a folder that the model does not need, but ");
    EXPECT_ERROR(exportHuggingFace(folder / "run", output, context, options),
                 file);
  };
  refused(folder / "hf/", "hf/");
  refused(folder / "run", "run/");
  refused(folder / "run/checkpoints", "step-00000001");
  refused(folder / "run/..", "run");
  fs::create_directory_symlink("hf", folder / "link");
  refused(folder / "link", "hf/");
  fs::remove(folder / "link");
  // A folder of links, as downloads are stored.
  fs::create_directories(folder / "blobs");
  for (const char *name : {"config.json", "model.safetensors"}) {
    fs::rename(folder / "hf" / name, folder / "blobs" / name);
    fs::create_symlink(fs::path("../blobs") / name, folder / "hf" / name);
  }
  refused(folder / "hf", "hf/");
  refused(folder / "blobs", "hf/");
  EXPECT_EQ(folder.count(), before + 1);
  fs::create_directories(folder / "hf2/in");
  exportHuggingFace(folder / "run", folder / "hf2", context, options);
}

// Query and value trained, key frozen: one tensor, in the wider type.
TEST_F(Runs, InterleaveWhatTrainsWithWhatDoesNot) {
  trainTo(2.0f, 1, 0, [](const auto &name) {
    return name.find("h.0.self_attention.query_key_value.q") !=
           std::string::npos;
  });
  exportHuggingFace(folder / "run", folder / "out", context);
  auto file = SafetensorsFile::open(folder / "out/model.safetensors");
  const TensorInfo &bias =
      file->get("transformer.h.0.self_attention.query_key_value.bias");
  ASSERT_EQ(bias.dtype, DType::F32);
  ASSERT_EQ(bias.shape, std::vector<int64_t>{12});
  std::vector<float> values(12);
  convert(DType::F32, file->data(bias).data(), DType::F32, values.data(), 12);
  EXPECT_EQ(values, (std::vector<float>{2, 2, 1, 1, 1, 1, 2, 2, 1, 1, 1, 1}));
}

TEST_F(Runs, LeaveNothingBehindWhenTheyCannotBeExported) {
  size_t before = folder.count();
  writeText(folder / "file", "x");
  EXPECT_ERROR(exportHuggingFace(folder / "run", folder / "file", context),
               "expected a folder that is not there yet");
  EXPECT_ERROR(exportHuggingFace(folder / "run", folder / "file/out", context),
               "file/out: cannot be made");

  // A parameter that no key exists for.
  LoadedModule loaded = loadModule(folder / "run", context);
  auto parameter = loaded.module->lookupSymbol<mlir::moe::ParameterOp>(
      "transformer.ln_f.weight");
  mlir::OpBuilder builder(parameter);
  auto extra = mlir::cast<mlir::moe::ParameterOp>(builder.clone(*parameter));
  extra.setSymName("adapter.weight");
  saveModule(*loaded.module, folder / "run/extra.mlir");
  EXPECT_ERROR(
      exportHuggingFace(folder / "run/extra.mlir", folder / "out", context),
      "parameter 'adapter.weight': expected no such parameter");
  EXPECT_EQ(folder.count(), before + 1);
}
