//===-- Module.cpp - modules on disk and what the runtime needs
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Import/Module.h"

#include "moe/Dialect/MoE.h"
#include "moe/Import/Base.h"
#include "moe/Runtime/Error.h"
#include "moe/Runtime/Files.h"

#include "mlir/IR/Diagnostics.h"
#include "mlir/IR/Verifier.h"
#include "mlir/InitAllDialects.h"
#include "mlir/Parser/Parser.h"
#include "llvm/ADT/TypeSwitch.h"
#include "llvm/Support/raw_ostream.h"

using namespace mlir;
using namespace polymoe;
namespace fs = std::filesystem;

namespace {

/// Collects errors and their notes as text while it lives.
class DiagnosticText {
public:
  explicit DiagnosticText(MLIRContext &context)
      : handler(&context, [this](Diagnostic &diagnostic) {
          if (diagnostic.getSeverity() != DiagnosticSeverity::Error)
            return failure();
          append(diagnostic);
          for (Diagnostic &note : diagnostic.getNotes())
            append(note);
          return success();
        }) {}

  const std::string &str() const { return text; }

private:
  void append(Diagnostic &diagnostic) {
    llvm::raw_string_ostream stream(text);
    if (!text.empty())
      stream << "\n";
    if (auto location =
            diagnostic.getLocation()->findInstanceOf<FileLineColLoc>())
      stream << location.getFilename().getValue() << ":" << location.getLine()
             << ":" << location.getColumn() << ": ";
    if (diagnostic.getSeverity() == DiagnosticSeverity::Note)
      stream << "note: ";
    stream << diagnostic;
  }

  std::string text;
  ScopedDiagnosticHandler handler;
};

} // namespace

void polymoe::registerModuleDialects(MLIRContext &context) {
  DialectRegistry registry;
  registerAllDialects(registry);
  registry.insert<mlir::moe::MoEDialect>();
  context.appendDialectRegistry(registry);
  // An error names its location; a note with a whole function would hide it.
  context.printOpOnDiagnostic(false);
}

static fs::path orCurrent(const fs::path &folder) {
  return folder.empty() ? fs::path(".") : folder;
}

LoadedModule polymoe::loadModule(const fs::path &path, MLIRContext &context) {
  LoadedModule loaded;
  loaded.file = fs::is_directory(path) ? path / "model.mlir" : path;
  loaded.folder = loaded.file.parent_path();
  if (fs::is_directory(path) && fs::exists(path / "delta.json"))
    fail(path, ": expected a model, but got a delta; moe-translate "
               "--merge-delta joins it with its base");
  if (fs::is_directory(path) && !fs::exists(loaded.file) &&
      fs::exists(path / "config.json"))
    fail(path,
         ": expected a module or a run folder, but got a Hugging Face "
         "folder; moe-translate --import-hf ",
         path, " -o model.mlir makes a module of it");
  if (!fs::is_regular_file(loaded.file))
    fail(loaded.file, ": expected a module, but there is no such file");
  if (loaded.file.filename() == "model.mlir")
    checkBase(orCurrent(loaded.folder));
  DiagnosticText text(context);
  // Parsing verifies too.
  loaded.module = parseSourceFile<ModuleOp>(
      loaded.file.string(), ParserConfig(&context, /*verifyAfterParse=*/true));
  if (!loaded.module)
    throw Error(text.str().empty() ? concat(loaded.file, ": expected a module")
                                   : text.str());
  return loaded;
}

OwningOpRef<ModuleOp> polymoe::parseModule(const std::string &source,
                                           const std::string &name,
                                           MLIRContext &context) {
  DiagnosticText text(context);
  OwningOpRef<ModuleOp> module = parseSourceString<ModuleOp>(
      source, ParserConfig(&context, /*verifyAfterParse=*/true), name);
  if (!module)
    throw Error(text.str().empty() ? concat(name, ": expected a module")
                                   : text.str());
  return module;
}

void polymoe::diagnose(MLIRContext &context,
                       llvm::function_ref<LogicalResult()> body) {
  DiagnosticText text(context);
  if (failed(body()))
    throw Error(text.str());
}

void polymoe::saveModule(ModuleOp module, const fs::path &file) {
  DiagnosticText text(*module.getContext());
  if (failed(verify(module)))
    throw Error(concat(file, ": expected a valid module, but ", text.str()));
  std::string printed;
  llvm::raw_string_ostream stream(printed);
  module.print(stream);
  stream << "\n";
  writeText(file, printed);
}

//===----------------------------------------------------------------------===//
// Parameters
//===----------------------------------------------------------------------===//

static DType typeOf(mlir::moe::ParameterOp parameter) {
  Type element = cast<RankedTensorType>(parameter.getType()).getElementType();
  if (element.isF64())
    return DType::F64;
  return element.isF32() ? DType::F32 : DType::BF16;
}

static Origin originOf(mlir::moe::ParameterOp parameter) {
  return llvm::TypeSwitch<Attribute, Origin>(parameter.getOrigin())
      .Case([](mlir::moe::CheckpointAttr attr) -> Origin {
        CheckpointOrigin origin{attr.getFile().str(), attr.getKey().str(),
                                std::nullopt};
        if (DenseI64ArrayAttr rows = attr.getRows())
          origin.rows = {rows[0], rows[1], rows[2]};
        return origin;
      })
      .Case([](mlir::moe::CopyAttr attr) -> Origin {
        return CopyOrigin{attr.getSource().getValue().str()};
      })
      .Case([](mlir::moe::InitAttr attr) -> Origin {
        InitOrigin origin;
        switch (attr.getKind()) {
        case mlir::moe::Initializer::Zeros:
          origin.kind = InitOrigin::Kind::Zeros;
          break;
        case mlir::moe::Initializer::Ones:
          origin.kind = InitOrigin::Kind::Ones;
          break;
        case mlir::moe::Initializer::Normal:
          origin.kind = InitOrigin::Kind::Normal;
          break;
        case mlir::moe::Initializer::XavierNormal:
          origin.kind = InitOrigin::Kind::XavierNormal;
          break;
        }
        if (FloatAttr std = attr.getStd())
          origin.standardDeviation = std.getValueAsDouble();
        origin.seed = attr.getSeed();
        return origin;
      });
}

std::vector<ParameterSpec> polymoe::extractParameterSpecs(ModuleOp module) {
  std::vector<ParameterSpec> specs;
  for (auto parameter : module.getOps<mlir::moe::ParameterOp>()) {
    auto shape = cast<RankedTensorType>(parameter.getType()).getShape();
    specs.push_back({parameter.getSymName().str(),
                     typeOf(parameter),
                     {shape.begin(), shape.end()},
                     parameter.getTrainable(),
                     originOf(parameter)});
  }
  return specs;
}

static mlir::moe::CheckpointAttr checkpointAttr(MLIRContext *context,
                                                const std::string &file,
                                                const std::string &key,
                                                DenseI64ArrayAttr rows) {
  return mlir::moe::CheckpointAttr::get(context, StringAttr::get(context, file),
                                        StringAttr::get(context, key), rows);
}

void polymoe::setOrigin(ModuleOp module, const std::string &name,
                        const CheckpointOrigin &origin) {
  auto parameter = module.lookupSymbol<mlir::moe::ParameterOp>(name);
  if (!parameter)
    fail("expected a parameter called '", name, "', but there is none");
  DenseI64ArrayAttr rows;
  if (origin.rows)
    rows = DenseI64ArrayAttr::get(
        module.getContext(),
        {origin.rows->offset, origin.rows->block, origin.rows->stride});
  parameter.setOriginAttr(
      checkpointAttr(module.getContext(), origin.file, origin.key, rows));
}

//===----------------------------------------------------------------------===//
// Paths
//===----------------------------------------------------------------------===//

std::string polymoe::relativePath(const fs::path &file,
                                  const fs::path &folder) {
  // The name of the file itself is not resolved: in a download cache it is a
  // link.
  fs::path parent = fs::weakly_canonical(orCurrent(file.parent_path()));
  fs::path base = fs::weakly_canonical(orCurrent(folder));
  return (fs::proximate(parent, base) / file.filename())
      .lexically_normal()
      .string();
}

void polymoe::rebasePaths(ModuleOp module, const fs::path &from,
                          const fs::path &to) {
  MLIRContext *context = module.getContext();
  auto rebase = [&](const std::string &path) {
    return fs::path(path).is_absolute() ? path : relativePath(from / path, to);
  };
  for (auto parameter : module.getOps<mlir::moe::ParameterOp>())
    if (auto origin =
            dyn_cast<mlir::moe::CheckpointAttr>(parameter.getOrigin()))
      parameter.setOriginAttr(
          checkpointAttr(context, rebase(origin.getFile().str()),
                         origin.getKey().str(), origin.getRows()));
  if (!hasModelSource(module))
    return;
  ModelSource model = modelSource(module);
  setModelFile(module, "config", rebase(model.config));
  if (model.tokenizer)
    setModelFile(module, "tokenizer", rebase(*model.tokenizer));
}

static mlir::moe::MoEDialect::ModelAttrHelper modelAttr(ModuleOp module) {
  return {module.getContext()};
}

bool polymoe::hasModelSource(ModuleOp module) {
  return modelAttr(module).isAttrPresent(module);
}

void polymoe::setModelFile(ModuleOp module, StringRef key,
                           const std::string &file) {
  NamedAttrList entries(modelAttr(module).getAttr(module));
  entries.set(key, StringAttr::get(module.getContext(), file));
  modelAttr(module).setAttr(module, entries.getDictionary(module.getContext()));
}

ModelSource polymoe::modelSource(ModuleOp module) {
  DictionaryAttr model = modelAttr(module).getAttr(module);
  if (!model)
    fail("expected a module with an attribute moe.model = {family, config}, as "
         "moe-translate --import-hf writes it");
  ModelSource source{model.getAs<StringAttr>("family").str(),
                     model.getAs<StringAttr>("config").str(),
                     std::nullopt,
                     {},
                     {}};
  if (auto tokenizer = model.getAs<StringAttr>("tokenizer"))
    source.tokenizer = tokenizer.str();
  auto readList = [&](StringRef name, std::vector<std::string> &list) {
    if (auto keys = model.getAs<ArrayAttr>(name))
      for (auto key : keys.getAsRange<StringAttr>())
        list.push_back(key.str());
  };
  readList("ignored", source.ignored);
  readList("ignored_config", source.ignoredConfig);
  return source;
}

Type polymoe::elementTypeOf(DType type, MLIRContext &context) {
  switch (type) {
  case DType::F64:
    return Float64Type::get(&context);
  case DType::F32:
    return Float32Type::get(&context);
  case DType::BF16:
    return BFloat16Type::get(&context);
  default:
    fail("expected a parameter of type F64, F32 or BF16, but got ",
         nameOf(type));
  }
}
