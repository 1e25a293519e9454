//===-- Interpreter.h - runs a module op by op ------------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Walks the functions of a model-level module and computes every op with ATen,
// from the op's description. PyTorch's autograd records what is computed, so
// the derivatives are PyTorch's own and share nothing with the compiler's.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_LIB_TORCH_INTERPRETER_H
#define MOE_LIB_TORCH_INTERPRETER_H

#include "moe/Dialect/MoE.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

namespace polymoe {

/// The decisions of one `moe.route`, for the router losses.
struct RoutedLayer {
  at::Tensor logits;   ///< [B, S, E]
  at::Tensor selected; ///< [B, S, K] experts, I64; E if the route is missing
  at::Tensor gate;     ///< [B, S, 2], undefined without a language gate
};

/// The values of one call of a function. `!moe.routes` is the tensor
/// `selected` of RoutedLayer: ATen needs no other form of it.
class Frame {
public:
  explicit Frame(std::vector<RoutedLayer> &routed) : routed(routed) {}

  const at::Tensor &operator[](mlir::Value value) const {
    auto it = values.find(value);
    assert(it != values.end() && "operands are defined before their use");
    return it->second;
  }
  /// The value of an optional operand; an undefined tensor if it is absent.
  at::Tensor optional(mlir::Value value) const {
    return value ? (*this)[value] : at::Tensor();
  }
  void set(mlir::Value value, at::Tensor tensor) {
    values[value] = std::move(tensor);
  }
  void record(RoutedLayer layer) { routed.push_back(std::move(layer)); }

private:
  llvm::DenseMap<mlir::Value, at::Tensor> values;
  std::vector<RoutedLayer> &routed;
};

class Interpreter {
public:
  using ParameterSource = std::function<at::Tensor(llvm::StringRef name)>;

  Interpreter(mlir::ModuleOp module, ParameterSource parameters)
      : symbols(module), parameters(std::move(parameters)) {}

  /// Calls `function`. Appends the decisions of its routers to `routed`, in the
  /// order in which they run.
  std::vector<at::Tensor> run(mlir::func::FuncOp function,
                              llvm::ArrayRef<at::Tensor> arguments,
                              std::vector<RoutedLayer> &routed);

private:
  std::vector<at::Tensor> evaluateAny(mlir::Operation &op, Frame &frame,
                                      std::vector<RoutedLayer> &routed);

  mlir::SymbolTable symbols;
  ParameterSource parameters;
};

/// The type in which norms, softmax and losses are computed: F64 for F64, F32
/// for any other.
at::Tensor toPrecise(const at::Tensor &tensor);

using Results = std::vector<at::Tensor>;

// Each op has a function, in the file of its family.
Results evaluate(mlir::moe::EmbeddingOp op, Frame &frame);
Results evaluate(mlir::moe::RmsNormOp op, Frame &frame);
Results evaluate(mlir::moe::LayerNormOp op, Frame &frame);
Results evaluate(mlir::moe::ConcatRowsOp op, Frame &frame);
Results evaluate(mlir::moe::LinearOp op, Frame &frame);
Results evaluate(mlir::moe::AddOp op, Frame &frame);
Results evaluate(mlir::moe::ScaleOp op, Frame &frame);
Results evaluate(mlir::moe::SoftCapOp op, Frame &frame);
Results evaluate(mlir::moe::FfnOp op, Frame &frame);
Results evaluate(mlir::moe::RotaryTableOp op, Frame &frame);
Results evaluate(mlir::moe::RotaryOp op, Frame &frame);
Results evaluate(mlir::moe::AttentionOp op, Frame &frame);
Results evaluate(mlir::moe::RouterOp op, Frame &frame);
Results evaluate(mlir::moe::LanguageGateOp op, Frame &frame);
Results evaluate(mlir::moe::PoolOp op, Frame &frame);
Results evaluate(mlir::moe::RouteOp op, Frame &frame);
Results evaluate(mlir::moe::ExpertsOp op, Frame &frame);

/// `cap * tanh(tensor / cap)`.
at::Tensor softCap(const at::Tensor &tensor, double cap);

/// `rows` [n, D] through one feed-forward network.
at::Tensor feedForward(const at::Tensor &rows,
                       llvm::ArrayRef<at::Tensor> weights,
                       mlir::moe::FfnForm form,
                       mlir::moe::ActivationKind activation);

} // namespace polymoe

#endif // MOE_LIB_TORCH_INTERPRETER_H
