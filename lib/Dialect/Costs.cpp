//===-- Costs.cpp - what ops cost -----------------------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Verify.h"

using namespace mlir;
using namespace mlir::moe;

using Products = SmallVector<MatrixProduct>;

double mlir::moe::flopsOf(Operation *op) {
  double flops = 0;
  if (auto costs = dyn_cast<CostOpInterface>(op))
    for (const MatrixProduct &product : costs.getProducts())
      flops += product.flops;
  return flops;
}

int64_t mlir::moe::sizeInBytes(Type type) {
  if (auto routes = dyn_cast<RoutesType>(type))
    return routes.getNumIntegers() * static_cast<int64_t>(sizeof(int32_t));
  auto shaped = dyn_cast<ShapedType>(type);
  return shaped
             ? llvm::divideCeilSigned(
                   shaped.getNumElements() * shaped.getElementTypeBitWidth(), 8)
             : 0;
}

/// Of a [B,S,columns] value that sums `inner` terms for every element.
static double linearFlops(Value result, int64_t inner) {
  return productFlops(numTokens(result), inner, lastDim(result));
}

Products LinearOp::getProducts() {
  return {{getWeight(), linearFlops(getResult(), lastDim(getInput()))}};
}

Products RouterOp::getProducts() {
  return {{getWeight(), linearFlops(getLogits(), lastDim(getInput()))}};
}

Products LanguageGateOp::getProducts() {
  return {{getWeight(), linearFlops(getLogits(), lastDim(getInput()))}};
}

Products LinearInputGradOp::getProducts() {
  return {{getWeight(), linearFlops(getDx(), lastDim(getDy()))}};
}

Products LinearWeightGradOp::getProducts() {
  return {{Value(), linearFlops(getDy(), lastDim(getInput()))}};
}

Products LinearCrossEntropyOp::getProducts() {
  double flops = linearFlops(getInput(), typeOf(getWeight()).getDimSize(0));
  Products products = {{getWeight(), flops}};
  if (getDx())
    products.push_back({getWeight(), flops});
  if (getDweight())
    products.push_back({Value(), flops});
  return products;
}

//===----------------------------------------------------------------------===//
// Attention
//===----------------------------------------------------------------------===//

/// `count` products, each a sum over the width of a head for every key that a
/// query sees.
template <typename OpT>
static Products attentionProducts(OpT op, size_t count) {
  int64_t length = typeOf(op.getQuery()).getDimSize(1);
  double flops = 0;
  if (typeOf(op.getKey()).getDimSize(1) == length) {
    int64_t seen = std::min<int64_t>(op.getWindow().value_or(length), length);
    flops = productFlops(typeOf(op.getQuery()).getDimSize(0),
                         seen * (2 * length - seen + 1) / 2,
                         lastDim(op.getQuery()));
  }
  return Products(count, {Value(), flops});
}

Products AttentionOp::getProducts() {
  return attentionProducts(*this, 2); // scores, output
}

Products AttentionGradOp::getProducts() {
  // Scores, and gradients of probabilities, values, queries and keys.
  return attentionProducts(*this, 5);
}

//===----------------------------------------------------------------------===//
// Feed-forward networks
//===----------------------------------------------------------------------===//

/// `rows` rows of all experts times the matrices among their `weights`.
static Products expertProducts(ValueRange weights, int64_t rows, Value routes) {
  Products products;
  for (Value weight : weights)
    if (typeOf(weight).getRank() == 2)
      products.push_back(
          {weight,
           productFlops(rows, typeOf(weight).getDimSize(0), lastDim(weight)) /
               static_cast<double>(numExperts(routes))});
  return products;
}

/// Of a [R,width] value.
static int64_t rowsOf(Value value) { return typeOf(value).getDimSize(0); }

Products FfnOp::getProducts() {
  return expertProducts(getWeights(), numTokens(getInput()), Value());
}

Products ExpertsOp::getProducts() {
  return expertProducts(getWeights(), getRoutes().getType().getRows(),
                        getRoutes());
}

Products ExpertsGradOp::getProducts() {
  Products products;
  FfnLayout layout(getForm(), getActivation(), getWeights());
  for (auto [i, weight] : llvm::enumerate(getWeights()))
    for (const MatrixProduct &product :
         expertProducts(weight, rowsOf(getPreactivation()), getRoutes())) {
      // The down projection takes gradients to the hidden units, which all
      // other weights need.
      if (getDx() || static_cast<int64_t>(i) % layout.each() == layout.down())
        products.push_back(product);
      if (getWanted()[i])
        products.push_back({Value(), product.flops});
    }
  return products;
}

Products RoutedUpOp::getProducts() {
  return expertProducts(getWeights(), rowsOf(getHidden()), getRoutes());
}

Products RoutedDownOp::getProducts() {
  return expertProducts(getWeights(), rowsOf(getHidden()), getRoutes());
}

Products RoutedDownGradOp::getProducts() {
  return expertProducts(getWeights(), rowsOf(getDz()), getRoutes());
}

Products RoutedInputGradOp::getProducts() {
  return expertProducts(getWeights(), rowsOf(getDz()), getRoutes());
}

Products RoutedWeightGradOp::getProducts() {
  int64_t rows = typeOf(getLhs()).getRank() == 2
                     ? rowsOf(getLhs())
                     : numRows(getRoutes(), getLhs());
  Products products = expertProducts(getDweights(), rows, getRoutes());
  for (MatrixProduct &product : products)
    product.weight = Value();
  return products;
}
