//===-- Pipelines.cpp - from the fused level to LLVM ----------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Target/CPU/Compiler.h"
#include "moe/Target/Passes.h"

#include "mlir/Conversion/ArithToLLVM/ArithToLLVM.h"
#include "mlir/Conversion/ConvertToLLVM/ToLLVMPass.h"
#include "mlir/Conversion/FuncToLLVM/ConvertFuncToLLVMPass.h"
#include "mlir/Conversion/IndexToLLVM/IndexToLLVM.h"
#include "mlir/Conversion/MathToLLVM/MathToLLVM.h"
#include "mlir/Conversion/MathToLibm/MathToLibm.h"
#include "mlir/Conversion/MemRefToLLVM/MemRefToLLVM.h"
#include "mlir/Conversion/ReconcileUnrealizedCasts/ReconcileUnrealizedCasts.h"
#include "mlir/Conversion/SCFToControlFlow/SCFToControlFlow.h"
#include "mlir/Conversion/VectorToLLVM/ConvertVectorToLLVMPass.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/MemRef/Transforms/Passes.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Pass/PassRegistry.h"
#include "mlir/Transforms/Passes.h"
#include "llvm/TargetParser/Host.h"

#include <sys/syscall.h>
#include <unistd.h>

using namespace mlir;
using namespace mlir::moe;

/// Bytes of the widest vector register of the host.
static int64_t hostVectorBytes() {
  llvm::StringMap<bool> features = llvm::sys::getHostCPUFeatures();
  if (features.lookup("avx512f"))
    return 64;
  return features.lookup("avx2") ? 32 : 16;
}

/// Bytes of a core's L2 cache, where the system says it.
static int64_t hostL2Bytes() {
  constexpr int64_t fewest = 256 << 10;
  int64_t bytes = ::sysconf(_SC_LEVEL2_CACHE_SIZE);
  return bytes < fewest ? TargetDescription().l2Bytes : bytes;
}

/// Requests permission to use AMX, whose register state Linux saves only for
/// processes that have requested it.
static bool mayUseAmx() {
#ifdef SYS_arch_prctl
  constexpr long requestPermission = 0x1023, tileData = 18;
  return ::syscall(SYS_arch_prctl, requestPermission, tileData) == 0;
#else
  return false;
#endif
}

Bf16Products mlir::moe::hostBf16Products() {
  static const Bf16Products products = [] {
    llvm::StringMap<bool> features = llvm::sys::getHostCPUFeatures();
    // Vectors of less than 64 bytes need AVX512-VL.
    if (!features.lookup("avx512bf16") || !features.lookup("avx512vl"))
      return Bf16Products::Widened;
    bool hasAmx = features.lookup("amx-tile") && features.lookup("amx-bf16");
    return hasAmx && mayUseAmx() ? Bf16Products::Amx : Bf16Products::Pairs;
  }();
  return products;
}

/// The name of the instruction set that such code needs.
static std::string variantOf(int64_t vectorBytes, Bf16Products products) {
  std::string name = vectorBytes == 64   ? "avx512"
                     : vectorBytes == 32 ? "avx2"
                                         : "generic";
  if (products == Bf16Products::Amx && vectorBytes == 64)
    return name + "-amx";
  return products == Bf16Products::Widened ? name : name + "-bf16";
}

std::string mlir::moe::hostVariant(Bf16Products products) {
  return variantOf(hostVectorBytes(), products);
}

static int64_t vectorBytesOf(const CompilerOptions &options) {
  return options.vectorBytes ? options.vectorBytes : hostVectorBytes();
}

void mlir::moe::buildCpuPlanPipeline(OpPassManager &pm,
                                     const CompilerOptions &options) {
  // Programs are straight-line code that launches kernels on memrefs.
  pm.addPass(createConvertMoEToKernels(ConvertMoEToKernelsOptions{
      vectorBytesOf(options), options.bf16Products, hostL2Bytes(),
      options.frozenWeights, options.packedOnce,
      options.gradients == Gradients::Written}));
  // Entry points of their own do the work that depends on parameters only.
  pm.addPass(
      createHoistParameterWork(HoistParameterWorkOptions{options.packedOnce}));
  // All buffers of a program are in its arena.
  pm.addPass(createPlanArena());
}

void mlir::moe::buildCpuPipeline(OpPassManager &pm,
                                 const CompilerOptions &options) {
  buildCpuPlanPipeline(pm, options);
  // Launches are calls of the runtime's ABI, and no op of moe is left.
  pm.addPass(createConvertMoEToLLVM(ConvertMoEToLLVMOptions{
      variantOf(vectorBytesOf(options), options.bf16Products)}));
  // Kernels are the only functions that are not in the LLVM dialect yet. Their
  // vector math becomes arithmetic; their scalar math becomes calls of libm.
  OpPassManager &kernels = pm.nest<func::FuncOp>();
  kernels.addPass(createCanonicalizerPass());
  kernels.addPass(createCSEPass());
  kernels.addPass(createLoopInvariantCodeMotionPass());
  kernels.addPass(createExpandMath());
  kernels.addPass(createSCFToControlFlowPass());
  // What has an intrinsic is converted before the rest goes to libm: fused
  // multiply-adds must not become calls. Conversion to libm takes vectors
  // apart, so vectors are lowered after it.
  kernels.addPass(createConvertMathToLLVMPass());
  pm.addPass(createConvertMathToLibmPass());
  OpPassManager &vectors = pm.nest<func::FuncOp>();
  ConvertVectorToLLVMPassOptions vectorOptions;
  vectorOptions.x86Vector = true;
  vectors.addPass(createConvertVectorToLLVMPass(vectorOptions));
  vectors.addPass(memref::createExpandStridedMetadataPass());
  vectors.addPass(createArithToLLVMConversionPass());
  vectors.addPass(createConvertIndexToLLVMPass());
  pm.addPass(createFinalizeMemRefToLLVMConversionPass());
  pm.addPass(createConvertFuncToLLVMPass(
      ConvertFuncToLLVMPassOptions{/*useBarePtrCallConv=*/true}));
  // Branches have AMX tiles as operands, so both are converted at once.
  pm.addPass(createConvertToLLVMPass({.filterDialects = {"cf", "amx"}}));
  pm.addPass(createReconcileUnrealizedCastsPass());
}

namespace {
struct CpuPipelineOptions : PassPipelineOptions<CpuPipelineOptions> {
  Option<int64_t> vectorBytes{
      *this, "vector-bytes",
      llvm::cl::desc("bytes of a vector register, 0 for the host's widest"),
      llvm::cl::init(0)};
  Option<Bf16Products> bf16Products{
      *this, "bf16-products",
      llvm::cl::desc("how two operands in bf16 are multiplied; the default is "
                     "the best that the host can do"),
      llvm::cl::init(hostBf16Products()), bf16ProductsValues()};
  Option<FrozenWeights> frozenWeights{
      *this, "frozen-weights",
      llvm::cl::desc("how weights that do not train are kept; int8 is for "
                     "programs without gradients"),
      llvm::cl::init(FrozenWeights::AsIs), frozenWeightsValues()};
  Option<PackedOnce> packedOnce{
      *this, "packed-once",
      llvm::cl::desc("parameters whose weights are packed once: all, or those "
                     "that do not train"),
      llvm::cl::init(PackedOnce::All), packedOnceValues()};
  Option<Gradients> gradients{
      *this, "gradients",
      llvm::cl::desc("what a step does with gradients of parameters"),
      llvm::cl::init(Gradients::Added),
      llvm::cl::values(
          clEnumValN(Gradients::Added, "added",
                     "adds to them: any accumulation"),
          clEnumValN(Gradients::Written, "written",
                     "writes them into its arena: less memory, and one "
                     "micro-batch a step"))};
};
} // namespace

void mlir::moe::registerTargetPipelines() {
  PassPipelineRegistration<CpuPipelineOptions>(
      "moe-cpu-pipeline", "from the fused level to the LLVM dialect",
      [](OpPassManager &pm, const CpuPipelineOptions &options) {
        CompilerOptions compilerOptions;
        compilerOptions.vectorBytes = options.vectorBytes;
        compilerOptions.bf16Products = options.bf16Products;
        compilerOptions.frozenWeights = options.frozenWeights;
        compilerOptions.packedOnce = options.packedOnce;
        compilerOptions.gradients = options.gradients;
        buildCpuPipeline(pm, compilerOptions);
      });
}
