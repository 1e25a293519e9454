//===-- Program.h - what a compiled program says of itself ------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Plain data that the compiler writes and the runtime reads: the parameters of
// a model with the origin of each, and the entry points of a program with the
// binding of each argument.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_RUNTIME_PROGRAM_H
#define MOE_RUNTIME_PROGRAM_H

#include "moe/Runtime/ABI.h"

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace polymoe {

enum class DType { F64, F32, BF16, F16, I64, I32, I8, U8 };

/// Bytes of one element.
int64_t sizeOf(DType type);
/// The name that safetensors uses: "F32", "BF16", "I32", ...
const char *nameOf(DType type);

/// Rows `offset + stride * i + [0, block)` of a checkpoint tensor seen as a
/// matrix [product of leading dimensions, last dimension] (a vector is a
/// matrix with one column). This selects q, k or v out of BLOOM's interleaved
/// query_key_value, or one expert out of a packed [E, 2F, D].
struct RowSelection {
  int64_t offset = 0;
  int64_t block = 0;
  int64_t stride = 0;
};

/// The value is tensor `key` of the safetensors file `file` (relative to the
/// module's folder), or some rows of it.
struct CheckpointOrigin {
  std::string file;
  std::string key;
  std::optional<RowSelection> rows;
};

/// The value is a copy of parameter `source` at load time (upcycling).
struct CopyOrigin {
  std::string source;
};

/// The value is drawn by an initialiser, from a seed and the parameter's name.
struct InitOrigin {
  enum class Kind { Zeros, Ones, Normal, XavierNormal };
  Kind kind = Kind::Zeros;
  /// The standard deviation of Normal.
  double standardDeviation = 0.02;
  uint64_t seed = 0;
};

using Origin = std::variant<CheckpointOrigin, CopyOrigin, InitOrigin>;

struct ParameterSpec {
  std::string name;
  /// The type that compiled code reads. A trainable parameter of a narrower
  /// type than F32 has an F32 master beside it (Parameters.h).
  DType dtype = DType::F32;
  std::vector<int64_t> shape;
  bool trainable = false;
  Origin origin;
};

/// One element of the pointer array that an entry point takes.
struct Binding {
  enum class Kind {
    Input,       ///< `name` says which: tokens, labels, positions, ...
    Output,      ///< `name` says which: loss, logprobs, logits, ...
    Parameter,   ///< the value of parameter `name`
    Gradient,    ///< gradient of parameter `name`, F32 (F64 for F64), to which
                 ///< the step adds; bound in the order of completion
    Packed,      ///< memory for a value derived from parameters, kept between
                 ///< calls; written by the entry points named prepare_*
    State,       ///< memory that lasts over calls: key and value caches
    Arena,       ///< memory of all buffers, undefined between calls
    StepGradient ///< the gradient of parameter `name` that the last call
                 ///< computed, not a sum over calls, in the arena at `offset`
  };
  Kind kind;
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;
  int64_t offset = -1; ///< of a step gradient, in bytes

  int64_t elements() const;
  int64_t bytes() const { return elements() * sizeOf(dtype); }
};

struct EntryPoint {
  std::string name;
  MoeEntry function = nullptr;
  std::vector<Binding> bindings;
};

/// What one launch of a kernel does, as far as shapes tell; 0 where they do
/// not.
struct KernelCost {
  std::string name;
  double flops = 0; ///< of products; a fused multiply-add counts two
  double bytes = 0; ///< of all buffers that it is given, each once; those in
                    ///< tables, such as experts' weights, are not counted
};

struct Program {
  std::vector<EntryPoint> entries;
  std::vector<KernelCost> kernels;

  /// The entry point called `name`, or null.
  const EntryPoint *find(const std::string &name) const;
};

/// What a program does, and for which batches.
struct ProgramUse {
  enum class Entry { Step, Score, Extend, Probe };
  Entry entry;
  int64_t rows, length;
  bool logits = false;      ///< whether scoring returns logits too
  int64_t microBatches = 1; ///< of a step
  int64_t capacity = 0;     ///< tokens of a sequence that is extended
  std::string what = {};    ///< what a probe measures (moe-add-probe)

  auto operator<=>(const ProgramUse &) const = default;
};

/// The name of the entry point.
inline const char *nameOf(ProgramUse::Entry entry) {
  constexpr const char *names[] = {"step", "score", "extend", "probe"};
  return names[static_cast<int>(entry)];
}

/// Provides programs: compiles them, or has one from a file.
class ProgramSource {
public:
  virtual ~ProgramSource() = default;

  /// Throws Error if it has no such program and cannot make it.
  virtual void require(const ProgramUse &) {}
  /// The program for `use`, which lasts as long as its source. Its first entry
  /// point is `use.entry`. Throws Error as `require` does.
  virtual const Program &get(const ProgramUse &use) = 0;
};

} // namespace polymoe

#endif // MOE_RUNTIME_PROGRAM_H
