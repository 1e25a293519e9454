//===-- ModuleTest.cpp ----------------------------------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Import/Module.h"
#include "Runtime/TestFolder.h"
#include "moe/Runtime/Files.h"

#include "mlir/IR/MLIRContext.h"

using namespace polymoe;
namespace fs = std::filesystem;

static const char *const text = R"(
module attributes {moe.model = {config = "hf/config.json", family = "llama",
                                ignored = ["a.inv_freq"],
                                tokenizer = "/abs/tokenizer.json"}} {
  moe.parameter backbone @w : tensor<4x6xbf16>
    from #moe.checkpoint<"hf/model.safetensors", "q", rows = [2, 2, 6]>
  moe.parameter backbone @v : tensor<4x6xbf16>
    from #moe.checkpoint<"/abs/model.safetensors", "v">
  moe.parameter trainable expert @e : tensor<4x6xbf16> from #moe.copy<@w>
  moe.parameter trainable router @"layers.0.gate" : tensor<3x6xf32>
    from #moe.init<xavier_normal, seed = 18446744073709551615>
  moe.parameter router @n : tensor<2xf64>
    from #moe.init<normal, seed = 1, std = 5.0e-01>
})";

namespace {
class Modules : public testing::Test {
protected:
  Modules() { registerModuleDialects(context); }

  LoadedModule load(const char *content = text) {
    writeText(folder / "model.mlir", content);
    return loadModule(folder / "model.mlir", context);
  }

  TestFolder folder;
  mlir::MLIRContext context;
};
} // namespace

TEST_F(Modules, GiveTheirParameters) {
  LoadedModule loaded = load();
  std::vector<ParameterSpec> specs = extractParameterSpecs(*loaded.module);
  ASSERT_EQ(specs.size(), 5u);

  EXPECT_EQ(specs[0].name, "w");
  EXPECT_EQ(specs[0].dtype, DType::BF16);
  EXPECT_EQ(specs[0].shape, (std::vector<int64_t>{4, 6}));
  EXPECT_FALSE(specs[0].trainable);
  auto checkpoint = std::get<CheckpointOrigin>(specs[0].origin);
  EXPECT_EQ(checkpoint.file, "hf/model.safetensors");
  EXPECT_EQ(checkpoint.key, "q");
  ASSERT_TRUE(checkpoint.rows);
  EXPECT_EQ(checkpoint.rows->offset, 2);
  EXPECT_EQ(checkpoint.rows->block, 2);
  EXPECT_EQ(checkpoint.rows->stride, 6);
  EXPECT_FALSE(std::get<CheckpointOrigin>(specs[1].origin).rows);

  EXPECT_TRUE(specs[2].trainable);
  EXPECT_EQ(std::get<CopyOrigin>(specs[2].origin).source, "w");

  EXPECT_EQ(specs[3].name, "layers.0.gate");
  EXPECT_EQ(specs[3].dtype, DType::F32);
  auto init = std::get<InitOrigin>(specs[3].origin);
  EXPECT_EQ(init.kind, InitOrigin::Kind::XavierNormal);
  EXPECT_EQ(init.seed, ~uint64_t(0));

  EXPECT_EQ(specs[4].dtype, DType::F64);
  EXPECT_EQ(specs[4].shape, (std::vector<int64_t>{2}));
  init = std::get<InitOrigin>(specs[4].origin);
  EXPECT_EQ(init.kind, InitOrigin::Kind::Normal);
  EXPECT_EQ(init.standardDeviation, 0.5);
}

TEST_F(Modules, AreFoundInARunFolder) {
  load();
  LoadedModule loaded = loadModule(folder.path, context);
  EXPECT_EQ(loaded.file, folder / "model.mlir");
  EXPECT_EQ(loaded.folder, folder.path);
  EXPECT_EQ(extractParameterSpecs(*loaded.module).size(), 5u);
}

TEST_F(Modules, ThatAreNotThereAreNamed) {
  EXPECT_ERROR(loadModule(folder.path, context),
               "model.mlir: expected a module, but there is no such file");
  EXPECT_ERROR(loadModule(folder / "x.mlir", context), "x.mlir: expected");
}

TEST_F(Modules, ThatAreMalformedAreRefusedWithTheirPlace) {
  EXPECT_ERROR(load("module {\n  moe.parameter rubbish @w"),
               "model.mlir:2:17: ");
  EXPECT_ERROR(load("module {\n  \"moe.nothing\"() : () -> ()\n}"),
               "model.mlir:2:3: unregistered operation 'moe.nothing'");
  // Parses, but does not verify; the note is shown too.
  EXPECT_ERROR(load(R"(module {
  moe.parameter backbone @w : tensor<4xf32> from #moe.init<zeros, seed = 0>
  moe.parameter backbone @e : tensor<5xf32> from #moe.copy<@w>
})"),
               "model.mlir:3:3: 'moe.parameter' op expected the type of its "
               "origin, 'tensor<4xf32>', but got 'tensor<5xf32>'");
}

TEST_F(Modules, AreWrittenAsTheyWereRead) {
  LoadedModule loaded = load();
  saveModule(*loaded.module, folder / "again.mlir");
  LoadedModule again = loadModule(folder / "again.mlir", context);
  saveModule(*again.module, folder / "twice.mlir");
  EXPECT_EQ(readText(folder / "again.mlir"), readText(folder / "twice.mlir"));
  EXPECT_EQ(extractParameterSpecs(*again.module).size(), 5u);
}

TEST_F(Modules, GetNewOrigins) {
  LoadedModule loaded = load();
  setOrigin(*loaded.module, "layers.0.gate",
            {"checkpoints/step-1/parameters.safetensors", "layers.0.gate",
             std::nullopt});
  setOrigin(*loaded.module, "e", {"f", "k", RowSelection{0, 4, 8}});
  std::vector<ParameterSpec> specs = extractParameterSpecs(*loaded.module);
  auto gate = std::get<CheckpointOrigin>(specs[3].origin);
  EXPECT_EQ(gate.file, "checkpoints/step-1/parameters.safetensors");
  EXPECT_FALSE(gate.rows);
  EXPECT_EQ(std::get<CheckpointOrigin>(specs[2].origin).rows->stride, 8);
  EXPECT_ERROR(setOrigin(*loaded.module, "nobody", {"f", "k", std::nullopt}),
               "expected a parameter called 'nobody', but there is none");
}

TEST_F(Modules, KeepTheirPathsWhereverTheyAreWritten) {
  LoadedModule loaded = load();
  fs::create_directories(folder / "runs/a");
  rebasePaths(*loaded.module, folder.path, folder / "runs/a");
  std::vector<ParameterSpec> specs = extractParameterSpecs(*loaded.module);
  EXPECT_EQ(std::get<CheckpointOrigin>(specs[0].origin).file,
            "../../hf/model.safetensors");
  EXPECT_TRUE(std::get<CheckpointOrigin>(specs[0].origin).rows);
  EXPECT_EQ(std::get<CheckpointOrigin>(specs[1].origin).file,
            "/abs/model.safetensors");
  ModelSource source = modelSource(*loaded.module);
  EXPECT_EQ(source.family, "llama");
  EXPECT_EQ(source.config, "../../hf/config.json");
  EXPECT_EQ(source.tokenizer, "/abs/tokenizer.json");
  EXPECT_EQ(source.ignored, std::vector<std::string>{"a.inv_freq"});
}

TEST_F(Modules, SayWhatTheyWereImportedFrom) {
  LoadedModule loaded = load("module {}");
  EXPECT_ERROR(modelSource(*loaded.module),
               "expected a module with an attribute moe.model");
}

// A download cache has links to files that are named by their contents.
TEST_F(Modules, NameALinkAndNotWhatItLeadsTo) {
  fs::create_directories(folder / "blobs");
  fs::create_directories(folder / "snapshot");
  writeText(folder / "blobs/1234", "x");
  fs::create_symlink(folder / "blobs/1234", folder / "snapshot/config.json");
  EXPECT_EQ(relativePath(folder / "snapshot/config.json", folder.path),
            "snapshot/config.json");
  EXPECT_EQ(relativePath(folder / "snapshot/config.json", folder / "blobs"),
            "../snapshot/config.json");
}
