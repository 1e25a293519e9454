//===-- Parameters.h - the values of a model's parameters -------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The memory of a parameter:
//
//             value (compiled code)  master            gradient  m, v
//   frozen    its dtype, or mapped   -                 -         -
//   F64       is the master          F64               F64       F32
//   F32       is the master          F32               F32       F32 or 8 bits
//   F16       F16                    F32               F32       F32 or 8 bits
//   BF16      BF16                   16 bits beside it F32       F32 or 8 bits
//
// All rows but the first are for trainable parameters. Moments have 8 bits
// where ParameterOptions ask for it and the parameter has at least 4096
// elements, as Dettmers et al. advise. The master of a BF16 parameter is an F32
// number, of which the value is the upper half, rounded to nearest, ties away
// from zero; only the lower half, which tells how it was rounded, has memory of
// its own. A frozen parameter that has the dtype of the checkpoint and lies
// there in one piece stays in the mapped file.
//
// Initial values: element i of parameter NAME is computed from the sequence
// randomBits(key, .) with key = mix64(seed + mix64(fnv1a64(NAME))).
// Elements 2p and 2p+1 are r cos(a) and r sin(a) with r = sqrt(-2 ln(1 - u0)),
// a = 2 pi u1, u0 = uniform(bits 2p), u1 = uniform(bits 2p+1), in double, times
// the standard deviation, rounded to the master's type. The deviation of
// XavierNormal is sqrt(2 / (in + out)) for a parameter [out, in].
//
//===----------------------------------------------------------------------===//

#ifndef MOE_RUNTIME_PARAMETERS_H
#define MOE_RUNTIME_PARAMETERS_H

#include "moe/Runtime/Blockwise.h"
#include "moe/Runtime/Memory.h"
#include "moe/Runtime/Program.h"
#include "moe/Runtime/Safetensors.h"

#include <filesystem>
#include <set>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

namespace polymoe {

class ThreadPool;

/// The type in which the moments of AdamW are kept.
enum class OptimizerStates { F32, Blockwise8 };

struct ParameterOptions {
  /// Keys of the checkpoint that may stay unused; '*' stands for any text. The
  /// default names buffers that old checkpoints hold.
  std::vector<std::string> ignoredKeys = {
      "*.rotary_emb.inv_freq", "*.attn.masked_bias", "*.self_attn.masked_bias"};
  /// Whether a key that is neither used nor ignored is an error.
  bool requireAllKeys = true;
  /// Whether to make gradients and optimiser states.
  bool training = true;
  OptimizerStates states = OptimizerStates::F32;
};

/// The state of one trainable parameter.
struct TrainableParameter {
  size_t index = 0; ///< of the parameter among the specs
  int64_t elements = 0;
  DType masterType = DType::F32; ///< F32 or F64; also that of the gradient
  /// Null for a BF16 parameter.
  void *master = nullptr;
  /// Value and lower half of a BF16 parameter.
  SplitFloats split;
  void *gradient = nullptr; ///< null unless training
  /// Moments in F32; null if not training, or with moments in 8 bits.
  float *m = nullptr;
  float *v = nullptr;
  /// Moments in 8 bits, the second one unsigned; null if not training, or with
  /// moments in F32.
  BlockwiseValues m8, v8;

  /// Copies elements of the master from and to memory of masterType.
  void readMaster(int64_t begin, int64_t count, void *target) const;
  void writeMaster(int64_t begin, int64_t count, const void *source) const;
};

/// Whether the moments of a parameter of this size and type have 8 bits.
bool hasBlockwiseStates(OptimizerStates states, DType dtype, int64_t elements);
/// The bytes that training needs for a parameter beside its value: gradient,
/// moments, and the master's own memory.
int64_t trainingBytesOf(const ParameterSpec &spec, OptimizerStates states);
/// "fp32" or "8bit"; throws Error for another name.
OptimizerStates parseOptimizerStates(std::string_view name);

/// The memory of the gradient of a parameter; null means the store's own.
struct GradientPlace {
  std::string name;
  void *memory = nullptr;
};

class ParameterStore {
public:
  /// Loads every value. Files are relative to `base`. Throws Error: a missing
  /// file, key or source, a wrong shape or kind of type, a value that is not
  /// finite, a key that is not used.
  ParameterStore(std::vector<ParameterSpec> specs, std::filesystem::path base,
                 ThreadPool &pool, ParameterOptions options = {});
  ParameterStore(const ParameterStore &) = delete;
  ~ParameterStore();

  const std::vector<ParameterSpec> &specs() const { return parameters; }
  /// Index of the parameter among the specs; throws Error when unknown.
  size_t indexOf(const std::string &name) const;
  const ParameterSpec &spec(const std::string &name) const {
    return parameters[indexOf(name)];
  }

  /// The value that compiled code reads, aligned to 64 bytes. A frozen one may
  /// lie in a mapped file; then it is read-only and aligned to its elements.
  void *value(const std::string &name) const;
  /// Null for a frozen parameter and for one of BF16.
  void *master(const std::string &name) const;
  void *gradient(const std::string &name) const;
  bool isMapped(const std::string &name) const;

  /// The states of all trainable parameters, in the order of the specs.
  const std::vector<TrainableParameter> &trainables() const {
    return trainable;
  }
  /// The trainable parameter's state, or null for a frozen one.
  const TrainableParameter *findTrainable(const std::string &name) const;

  /// Says where gradients lie from now on. A gradient that `places` gives
  /// memory, as a step's arena does, has the value that is there. All others
  /// are set to zero and lie in one piece of the store's memory, one after the
  /// other: first those that `places` names, in its order, then the rest in the
  /// order of the specs. The executor names them in the order in which the
  /// backward completes them, so that an all-reduce could sum contiguous ranges
  /// while the backward goes on.
  void placeGradients(std::span<const GradientPlace> places);
  void zeroGradients() { placeGradients({}); }
  /// Rounds the masters to the values that compiled code reads. Has to be
  /// called after masters changed, except for BF16, where both are one number.
  void refreshComputeCopies();

  /// Sets a parameter that trains to the value of its origin and its moments to
  /// zero, as they were at first. Executors and compute copies have to be told,
  /// as after any change of masters.
  void reset(const std::string &name);

  /// "FILE: KEY" of the tensors in the files that were read that are neither
  /// used nor ignored.
  std::vector<std::string> unusedKeys() const;

  /// Lets the system drop the pages of mapped files; it reads them again when
  /// they are used.
  void dropMappedPages() const;

  /// Bytes of allocated memory, and bytes in mapped files.
  int64_t allocatedBytes() const { return allocated; }
  int64_t mappedBytes() const { return mapped; }

private:
  struct Entry;
  void checkSpecs();
  const ParameterSpec &rootOf(const ParameterSpec &spec) const;
  void load(size_t index);
  void loadValue(size_t index);
  void loadFromCheckpoint(size_t index, const ParameterSpec &root);
  bool put(size_t index, DType from, const std::byte *source, int64_t begin,
           int64_t count);
  void initialise(size_t index, const ParameterSpec &root);
  void makeTrainable(size_t index);
  void makeGradients();
  int64_t layOutGradients(std::span<const GradientPlace> places);
  Buffer allocate(int64_t bytes, const std::string &what);

  std::vector<ParameterSpec> parameters;
  std::unordered_map<std::string, size_t> names;
  ThreadPool &pool;
  ParameterOptions options;
  SafetensorsFolder files;
  std::set<const TensorInfo *> used;
  std::vector<Entry> entries;
  std::vector<TrainableParameter> trainable;
  Buffer gradientMemory;
  int64_t allocated = 0, mapped = 0;
};

/// Whether `text` matches `pattern`, in which '*' stands for any text.
bool matches(std::string_view pattern, std::string_view text);

} // namespace polymoe

#endif // MOE_RUNTIME_PARAMETERS_H
