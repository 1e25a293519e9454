//===-- Compiler.cpp - modules to machine code ----------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Target/CPU/Compiler.h"

#include "moe/Dialect/MoE.h"
#include "moe/Runtime/ThreadPool.h"

#include "mlir/Conversion/ControlFlowToLLVM/ControlFlowToLLVM.h"
#include "mlir/Dialect/AMX/Transforms.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/ExecutionEngine/ExecutionEngine.h"
#include "mlir/Target/LLVMIR/Dialect/Builtin/BuiltinToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Dialect/LLVMIR/LLVMToLLVMIRTranslation.h"
#include "llvm/ExecutionEngine/Orc/JITTargetMachineBuilder.h"
#include "llvm/IR/Module.h"
#include "llvm/Passes/PassBuilder.h"
#include "llvm/Passes/StandardInstrumentations.h"
#include "llvm/Support/TargetSelect.h"

using namespace mlir;
using namespace mlir::moe;

CompiledProgram::CompiledProgram() = default;
CompiledProgram::~CompiledProgram() = default;

void mlir::moe::registerCompilerDialects(DialectRegistry &registry) {
  registry.insert<MoEDialect, arith::ArithDialect, func::FuncDialect>();
  registerBuiltinDialectTranslation(registry);
  registerLLVMDialectTranslation(registry);
  cf::registerConvertControlFlowToLLVMInterface(registry);
  registerConvertAMXToLLVMInterface(registry);
}

static polymoe::DType dtypeOf(Type type) {
  if (type.isF64())
    return polymoe::DType::F64;
  if (type.isBF16())
    return polymoe::DType::BF16;
  if (type.isInteger(32))
    return polymoe::DType::I32;
  if (type.isInteger(8))
    return polymoe::DType::U8;
  return polymoe::DType::F32;
}

/// The runtime, which includes no MLIR, has its own enum of a binding's kinds.
static polymoe::Binding::Kind kindOf(BindingKind kind) {
  using Kind = polymoe::Binding::Kind;
  constexpr auto agree = [](BindingKind ours, Kind runtimes) {
    return static_cast<int>(ours) == static_cast<int>(runtimes);
  };
  static_assert(
      agree(BindingKind::Input, Kind::Input) &&
      agree(BindingKind::Output, Kind::Output) &&
      agree(BindingKind::Parameter, Kind::Parameter) &&
      agree(BindingKind::Gradient, Kind::Gradient) &&
      agree(BindingKind::Packed, Kind::Packed) &&
      agree(BindingKind::State, Kind::State) &&
      agree(BindingKind::Arena, Kind::Arena) &&
      agree(BindingKind::StepGradient, Kind::StepGradient) &&
      agree(BindingKind{getMaxEnumValForBindingKind()}, Kind::StepGradient));
  return static_cast<Kind>(kind);
}

/// Removes the entry points' bindings from the module and returns them.
static std::vector<polymoe::EntryPoint> takeEntries(ModuleOp module) {
  MoEDialect::BindingsAttrHelper bindingsAttr(module.getContext());
  std::vector<polymoe::EntryPoint> entries;
  for (auto function : module.getOps<LLVM::LLVMFuncOp>()) {
    ArrayAttr bindings = bindingsAttr.getAttr(function);
    if (!bindings)
      continue;
    bindingsAttr.removeAttr(function);
    polymoe::EntryPoint entry;
    entry.name = function.getName().str();
    for (auto binding : bindings.getAsRange<BindingAttr>())
      entry.bindings.push_back(
          {kindOf(binding.getKind()), binding.getName().str(),
           dtypeOf(binding.getType().getElementType()),
           binding.getType().getShape().vec(), binding.getOffset()});
    entries.push_back(std::move(entry));
  }
  return entries;
}

/// Removes the kernels' costs from the module and returns them.
static std::vector<polymoe::KernelCost> takeCosts(ModuleOp module) {
  MoEDialect::CostAttrHelper costAttr(module.getContext());
  std::vector<polymoe::KernelCost> costs;
  for (auto function : module.getOps<LLVM::LLVMFuncOp>()) {
    DenseF64ArrayAttr cost = costAttr.getAttr(function);
    if (!cost)
      continue;
    costAttr.removeAttr(function);
    costs.push_back({function.getName().str(), cost[0], cost[1]});
  }
  return costs;
}

/// Keeps the backend from using narrower vectors, which it prefers on some
/// hosts.
static void setVectorWidth(llvm::Module &module, int64_t bytes) {
  std::string bits = std::to_string(bytes * 8);
  for (llvm::Function &function : module) {
    function.addFnAttr("prefer-vector-width", bits);
    function.addFnAttr("min-legal-vector-width", bits);
  }
}

/// Runs LLVM's default pipeline. mlir::makeOptimizingTransformer would optimise
/// functions marked optnone, too: it does not register the instrumentation that
/// skips them.
static void optimize(llvm::Module &module, llvm::TargetMachine &machine,
                     llvm::OptimizationLevel level) {
  llvm::LoopAnalysisManager loops;
  llvm::FunctionAnalysisManager functions;
  llvm::CGSCCAnalysisManager callGraph;
  llvm::ModuleAnalysisManager modules;
  llvm::PassInstrumentationCallbacks callbacks;
  llvm::StandardInstrumentations instrumentations(module.getContext(),
                                                  /*DebugLogging=*/false);
  instrumentations.registerCallbacks(callbacks, &modules);
  llvm::PassBuilder builder(&machine, llvm::PipelineTuningOptions(),
                            std::nullopt, &callbacks);
  builder.registerModuleAnalyses(modules);
  builder.registerCGSCCAnalyses(callGraph);
  builder.registerFunctionAnalyses(functions);
  builder.registerLoopAnalyses(loops);
  builder.crossRegisterProxies(loops, functions, callGraph, modules);
  builder.buildPerModuleDefaultPipeline(level).run(module, modules);
}

/// LLVM's level of CompilerOptions::optimizationLevel.
static llvm::OptimizationLevel levelOf(unsigned number) {
  using Level = llvm::OptimizationLevel;
  const Level levels[] = {Level::O0, Level::O1, Level::O2, Level::O3};
  return levels[std::min(number, 3u)];
}

FailureOr<std::unique_ptr<CompiledProgram>>
CompiledProgram::compile(ModuleOp module, const CompilerOptions &options) {
  DialectRegistry registry;
  registerCompilerDialects(registry);
  module.getContext()->appendDialectRegistry(registry);
  PassManager pm(module.getContext());
  buildCpuPipeline(pm, options);
  if (failed(pm.run(module)))
    return failure();
  return load(module, options);
}

FailureOr<std::unique_ptr<CompiledProgram>>
CompiledProgram::load(ModuleOp module, const CompilerOptions &options) {
  static const bool initialized = [] {
    llvm::InitializeNativeTarget();
    llvm::InitializeNativeTargetAsmPrinter();
    return true;
  }();
  (void)initialized;

  DialectRegistry registry;
  registerCompilerDialects(registry);
  module.getContext()->appendDialectRegistry(registry);
  std::vector<polymoe::EntryPoint> entries = takeEntries(module);
  std::vector<polymoe::KernelCost> kernels = takeCosts(module);

  auto report = [&](llvm::Error error) {
    module.emitError() << "machine code: " << toString(std::move(error));
    return failure();
  };
  auto host = llvm::orc::JITTargetMachineBuilder::detectHost();
  if (!host)
    return report(host.takeError());
  auto machine = host->createTargetMachine();
  if (!machine)
    return report(machine.takeError());
  int64_t vectorBytes = options.vectorBytes ? options.vectorBytes : 64;
  llvm::TargetMachine &target = **machine; // The engine takes it over.
  auto transform = [&](llvm::Module *llvmModule) {
    llvmModule->setTargetTriple(target.getTargetTriple());
    llvmModule->setDataLayout(target.createDataLayout());
    setVectorWidth(*llvmModule, vectorBytes);
    optimize(*llvmModule, target, levelOf(options.optimizationLevel));
    return llvm::Error::success();
  };
  ExecutionEngineOptions engineOptions;
  engineOptions.transformer = transform;
  engineOptions.jitCodeGenOptLevel = llvm::CodeGenOptLevel::Default;
  engineOptions.enableGDBNotificationListener = false;
  engineOptions.enablePerfNotificationListener = false;
  auto engine =
      ExecutionEngine::create(module, engineOptions, std::move(*machine));
  if (!engine)
    return report(engine.takeError());
  (*engine)->registerSymbols([](llvm::orc::MangleAndInterner interner) {
    llvm::orc::SymbolMap symbols;
    for (const polymoe::AbiSymbol &symbol : polymoe::abiSymbols())
      symbols[interner(symbol.name)] = {
          llvm::orc::ExecutorAddr::fromPtr(symbol.address),
          llvm::JITSymbolFlags::Exported};
    return symbols;
  });

  std::unique_ptr<CompiledProgram> result(new CompiledProgram());
  result->description.kernels = std::move(kernels);
  for (polymoe::EntryPoint &entry : entries) {
    auto address = (*engine)->lookup(entry.name);
    if (!address)
      return report(address.takeError());
    entry.function = reinterpret_cast<MoeEntry>(*address);
    result->description.entries.push_back(std::move(entry));
  }
  result->engine = std::move(*engine);
  return result;
}
