//===-- Module.h - modules on disk and what the runtime needs ---*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_IMPORT_MODULE_H
#define MOE_IMPORT_MODULE_H

#include "moe/Runtime/Program.h"

#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/OwningOpRef.h"
#include "llvm/ADT/STLFunctionalExtras.h"

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace polymoe {

struct LoadedModule {
  mlir::OwningOpRef<mlir::ModuleOp> module;
  std::filesystem::path file;
  /// The folder of `file`, against which the paths in the module resolve.
  std::filesystem::path folder;
};

/// Registers the dialects that a module on disk may hold.
void registerModuleDialects(mlir::MLIRContext &context);

/// Parses and verifies the module at `path`: a file, or a run folder, whose
/// model.mlir it then is. Throws Error with the parser's or verifier's
/// diagnostics.
LoadedModule loadModule(const std::filesystem::path &path,
                        mlir::MLIRContext &context);

/// Parses and verifies the module in `text`. Errors call its file `name`.
/// Throws Error.
mlir::OwningOpRef<mlir::ModuleOp> parseModule(const std::string &text,
                                              const std::string &name,
                                              mlir::MLIRContext &context);

/// Calls `body` and throws an Error with the diagnostics that it emitted if it
/// fails.
void diagnose(mlir::MLIRContext &context,
              llvm::function_ref<llvm::LogicalResult()> body);

/// Verifies the module and writes it, atomically.
void saveModule(mlir::ModuleOp module, const std::filesystem::path &file);

/// The parameters of the module, in its order. Throws Error.
std::vector<ParameterSpec> extractParameterSpecs(mlir::ModuleOp module);

/// Makes `origin` the origin of the parameter called `name`. Throws Error if
/// there is no such parameter.
void setOrigin(mlir::ModuleOp module, const std::string &name,
               const CheckpointOrigin &origin);

/// Rewrites every relative path in the module (origins, configuration,
/// tokenizer) from one folder to another, so that it still leads to the same
/// file when the module is written there.
void rebasePaths(mlir::ModuleOp module, const std::filesystem::path &from,
                 const std::filesystem::path &to);

/// The path by which a module in `folder` names `file`: a relative one.
std::string relativePath(const std::filesystem::path &file,
                         const std::filesystem::path &folder);

/// The attribute `moe.model` of the module: what it was imported from.
struct ModelSource {
  std::string family;
  std::string config;
  std::optional<std::string> tokenizer;
  /// Keys of the checkpoint that the model does not use and loading ignores.
  std::vector<std::string> ignored;
  /// Keys of the configuration that are passed over.
  std::vector<std::string> ignoredConfig;
};

/// Throws Error if the module has none.
ModelSource modelSource(mlir::ModuleOp module);
bool hasModelSource(mlir::ModuleOp module);

/// Sets `key` of the module's source, "config" or "tokenizer", to `file`.
void setModelFile(mlir::ModuleOp module, llvm::StringRef key,
                  const std::string &file);

/// The element type for a type of the runtime (F64, F32, BF16).
mlir::Type elementTypeOf(DType type, mlir::MLIRContext &context);

} // namespace polymoe

#endif // MOE_IMPORT_MODULE_H
