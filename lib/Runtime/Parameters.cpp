//===-- Parameters.cpp - the values of a model's parameters ---------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Runtime/Parameters.h"
#include "moe/Runtime/Error.h"
#include "moe/Runtime/Files.h"
#include "moe/Runtime/ThreadPool.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <numbers>

using namespace polymoe;

// The elements of a parameter that one work item handles; even, because initial
// values are drawn two at a time.
static constexpr int64_t chunk = int64_t(1) << 16;

/// Calls body(begin, end) for chunks of [0, count) on the pool.
template <typename Body>
static void forChunks(ThreadPool &pool, int64_t count, const Body &body) {
  parallelFor(pool, (count + chunk - 1) / chunk, [&](int64_t item) {
    body(item * chunk, std::min(count, (item + 1) * chunk));
  });
}

struct ParameterStore::Entry {
  int64_t elements = 0;
  void *value = nullptr;
  bool isMapped = false;
  int trainable = -1; ///< index among the trainable parameters
  Buffer valueMemory, masterMemory, mMemory, vMemory;
  Buffer mScaleMemory, vScaleMemory; ///< of moments in 8 bits
};

ParameterStore::~ParameterStore() = default;

ParameterStore::ParameterStore(std::vector<ParameterSpec> specs,
                               std::filesystem::path base, ThreadPool &pool,
                               ParameterOptions options)
    : parameters(std::move(specs)), pool(pool), options(std::move(options)),
      files(std::move(base)), entries(parameters.size()) {
  checkSpecs();
  for (size_t i = 0; i < parameters.size(); ++i)
    load(i);
  if (this->options.training)
    makeGradients();
  refreshComputeCopies();
  if (!this->options.requireAllKeys)
    return;
  std::vector<std::string> unused = unusedKeys();
  if (!unused.empty())
    fail(unused.front(), ": unexpected key, no parameter uses it",
         unused.size() > 1
             ? concat(" (and ", unused.size() - 1, " more such keys)")
             : std::string());
}

void ParameterStore::checkSpecs() {
  for (size_t i = 0; i < parameters.size(); ++i) {
    const ParameterSpec &spec = parameters[i];
    if (!names.emplace(spec.name, i).second)
      fail("parameter '", spec.name, "' is defined twice");
    std::optional<int64_t> bytes = byteSizeOf(spec.shape, 8);
    if (!bytes)
      fail("parameter '", spec.name, "': shape ", toString(spec.shape),
           " is too large");
    if (spec.trainable && !isFloat(spec.dtype))
      fail("parameter '", spec.name,
           "': expected a floating-point type for what trains, but got ",
           spec.dtype);
    entries[i].elements = *bytes / 8;
  }
}

size_t ParameterStore::indexOf(const std::string &name) const {
  auto it = names.find(name);
  if (it == names.end())
    fail("unknown parameter '", name, "'");
  return it->second;
}

/// The parameter at the end of a chain of copies. A copy is loaded from there,
/// so that its master is as precise as the origin.
const ParameterSpec &ParameterStore::rootOf(const ParameterSpec &spec) const {
  const ParameterSpec *root = &spec;
  for (size_t steps = 0; auto *copy = std::get_if<CopyOrigin>(&root->origin);
       ++steps) {
    auto it = names.find(copy->source);
    if (it == names.end())
      fail("parameter '", root->name, "': its source '", copy->source,
           "' does not exist");
    const ParameterSpec &source = parameters[it->second];
    if (source.shape != spec.shape)
      fail("parameter '", root->name, "': expected its source '", copy->source,
           "' to have shape ", toString(spec.shape), ", but got ",
           toString(source.shape));
    if (steps > parameters.size())
      fail("parameter '", spec.name, "' is a copy of itself");
    root = &source;
  }
  return *root;
}

Buffer ParameterStore::allocate(int64_t bytes, const std::string &what) {
  allocated += bytes;
  return Buffer(bytes, what);
}

bool polymoe::hasBlockwiseStates(OptimizerStates states, DType dtype,
                                 int64_t elements) {
  return states == OptimizerStates::Blockwise8 && dtype != DType::F64 &&
         elements >= 4096;
}

int64_t polymoe::trainingBytesOf(const ParameterSpec &spec,
                                 OptimizerStates states) {
  if (!spec.trainable)
    return 0;
  const int64_t elements = byteSizeOf(spec.shape, 1).value_or(0);
  const int64_t gradient = elements * (spec.dtype == DType::F64 ? 8 : 4);
  const int64_t moments = hasBlockwiseStates(states, spec.dtype, elements)
                              ? 2 * (elements + blocksOf(elements) * 4)
                              : elements * 8;
  const int64_t master = spec.dtype == DType::BF16  ? 2
                         : spec.dtype == DType::F16 ? 4
                                                    : 0;
  return gradient + moments + elements * master;
}

OptimizerStates polymoe::parseOptimizerStates(std::string_view name) {
  if (name == "fp32")
    return OptimizerStates::F32;
  if (name == "8bit")
    return OptimizerStates::Blockwise8;
  fail("optimizer states: expected fp32 or 8bit, but got '", name, "'");
}

/// Allocates everything that a trainable parameter has but its gradient.
void ParameterStore::makeTrainable(size_t index) {
  const ParameterSpec &spec = parameters[index];
  Entry &entry = entries[index];
  const std::string what = concat("parameter '", spec.name, "'");
  TrainableParameter state;
  state.index = index;
  state.elements = entry.elements;
  state.masterType = spec.dtype == DType::F64 ? DType::F64 : DType::F32;
  entry.valueMemory = allocate(entry.elements * sizeOf(spec.dtype), what);
  entry.value = entry.valueMemory.data();
  state.master = entry.value;
  const int64_t masterBytes = entry.elements * sizeOf(state.masterType);
  if (spec.dtype == DType::BF16) {
    entry.masterMemory = allocate(entry.elements * 2, what);
    state.master = nullptr;
    state.split = {entry.valueMemory.as<uint16_t>(),
                   entry.masterMemory.as<int16_t>()};
  } else if (spec.dtype != state.masterType) {
    entry.masterMemory = allocate(masterBytes, what);
    state.master = entry.masterMemory.data();
  }
  if (options.training) {
    const bool isBlockwise =
        hasBlockwiseStates(options.states, spec.dtype, entry.elements);
    const int64_t stateBytes = entry.elements * (isBlockwise ? 1 : 4);
    entry.mMemory = allocate(stateBytes, what);
    entry.vMemory = allocate(stateBytes, what);
    if (isBlockwise) {
      entry.mScaleMemory = allocate(blocksOf(entry.elements) * 4, what);
      entry.vScaleMemory = allocate(blocksOf(entry.elements) * 4, what);
      state.m8 = {entry.mMemory.as<uint8_t>(), entry.mScaleMemory.as<float>()};
      state.v8 = {entry.vMemory.as<uint8_t>(), entry.vScaleMemory.as<float>()};
    } else {
      state.m = entry.mMemory.as<float>();
      state.v = entry.vMemory.as<float>();
    }
  }
  entry.trainable = int(trainable.size());
  trainable.push_back(state);
}

/// The bytes of a gradient, and those up to the next gradient.
static int64_t gradientBytes(const TrainableParameter &state) {
  return state.elements * sizeOf(state.masterType);
}
static int64_t gradientStride(const TrainableParameter &state) {
  const auto alignment = int64_t(Buffer::alignment);
  return (gradientBytes(state) + alignment - 1) / alignment * alignment;
}

/// Gradients have one piece of memory. The system provides its pages at the
/// first write, so gradients that an executor keeps elsewhere take no memory
/// here.
void ParameterStore::makeGradients() {
  int64_t bytes = 0;
  for (const TrainableParameter &state : trainable) {
    bytes += gradientStride(state);
    allocated += gradientBytes(state);
  }
  gradientMemory = Buffer(bytes, "gradients");
  layOutGradients({});
}

void TrainableParameter::readMaster(int64_t begin, int64_t count,
                                    void *target) const {
  if (split.high)
    return join(split, begin, count, static_cast<float *>(target));
  const int64_t size = sizeOf(masterType);
  std::memcpy(target, static_cast<std::byte *>(master) + begin * size,
              size_t(count * size));
}

void TrainableParameter::writeMaster(int64_t begin, int64_t count,
                                     const void *source) const {
  if (split.high)
    return polymoe::split(static_cast<const float *>(source), count, split,
                          begin);
  const int64_t size = sizeOf(masterType);
  std::memcpy(static_cast<std::byte *>(master) + begin * size, source,
              size_t(count * size));
}

/// Writes elements of the master, or of the value of a frozen parameter.
/// Returns whether all are finite after the conversion, which may overflow.
bool ParameterStore::put(size_t index, DType from, const std::byte *source,
                         int64_t begin, int64_t count) {
  const Entry &entry = entries[index];
  DType to = parameters[index].dtype;
  auto *target = static_cast<std::byte *>(entry.value);
  if (entry.trainable >= 0) {
    const TrainableParameter &state = trainable[size_t(entry.trainable)];
    to = state.masterType;
    if (!state.master) {
      std::vector<float> values(static_cast<size_t>(count));
      convert(from, source, to, values.data(), count);
      state.writeMaster(begin, count, values.data());
      return allFinite(to, values.data(), count);
    }
    target = static_cast<std::byte *>(state.master);
  }
  target += begin * sizeOf(to);
  convert(from, source, to, target, count);
  return allFinite(to, target, count);
}

void ParameterStore::load(size_t index) {
  if (parameters[index].trainable)
    makeTrainable(index);
  loadValue(index);
}

void ParameterStore::reset(const std::string &name) {
  const size_t index = indexOf(name);
  Entry &entry = entries[index];
  if (entry.trainable < 0)
    fail("parameter '", name, "': expected one that trains to reset");
  // Zeros are what allocated memory holds at first.
  for (Buffer *memory :
       {&entry.valueMemory, &entry.masterMemory, &entry.mMemory, &entry.vMemory,
        &entry.mScaleMemory, &entry.vScaleMemory})
    if (memory->size() > 0)
      std::memset(memory->data(), 0, size_t(memory->size()));
  loadValue(index);
}

/// Reads or draws the value of a parameter, which has memory if it trains.
void ParameterStore::loadValue(size_t index) {
  const ParameterSpec &spec = parameters[index];
  const ParameterSpec &root = rootOf(spec);
  if (std::holds_alternative<CheckpointOrigin>(root.origin))
    return loadFromCheckpoint(index, root);
  if (!spec.trainable) {
    entries[index].valueMemory =
        allocate(entries[index].elements * sizeOf(spec.dtype),
                 concat("parameter '", spec.name, "'"));
    entries[index].value = entries[index].valueMemory.data();
  }
  initialise(index, root);
}

//===----------------------------------------------------------------------===//
// Checkpoint origins
//===----------------------------------------------------------------------===//

namespace {
/// `count` pieces of a tensor, each `length` elements long, the first at
/// element `begin`, `stride` elements apart.
struct Pieces {
  int64_t begin = 0, length = 0, stride = 0, count = 1;
};
} // namespace

/// The pieces of `tensor` that hold the selected rows of `spec`.
static Pieces select(const TensorInfo &tensor, const ParameterSpec &spec,
                     int64_t elements, const RowSelection &rows,
                     const std::string &where) {
  const std::vector<int64_t> &shape = tensor.shape;
  const int64_t columns = shape.size() < 2 ? 1 : shape.back();
  const int64_t available = columns ? tensor.elements() / columns : 0;
  const std::string wanted = concat("rows ", rows.offset, " + ", rows.stride,
                                    " i + [0, ", rows.block, ")");
  if (columns == 0 || rows.block <= 0 || rows.offset < 0 || rows.stride < 0 ||
      rows.block > available || elements == 0 ||
      elements % (columns * rows.block) != 0 ||
      (shape.size() > 1 &&
       (spec.shape.empty() || spec.shape.back() != columns)))
    fail(where, "cannot take shape ", toString(spec.shape), " as ", wanted,
         " of shape ", toString(shape));
  const int64_t count = elements / (columns * rows.block);
  if (count > 1 && rows.stride < rows.block)
    fail(where, wanted, " overlap");
  int64_t last = 0;
  if (__builtin_mul_overflow(rows.stride, count - 1, &last) ||
      __builtin_add_overflow(last, rows.offset, &last) ||
      last > available - rows.block)
    fail(where, wanted, ", ", count, " times, do not fit into the ", available,
         " rows of shape ", toString(shape));
  Pieces pieces{rows.offset * columns, rows.block * columns,
                rows.stride * columns, count};
  if (count == 1 || rows.stride == rows.block)
    return {pieces.begin, elements, 0, 1};
  return pieces;
}

void ParameterStore::loadFromCheckpoint(size_t index,
                                        const ParameterSpec &root) {
  const ParameterSpec &spec = parameters[index];
  Entry &entry = entries[index];
  const auto &origin = std::get<CheckpointOrigin>(root.origin);
  const SafetensorsFile &file = *files.open(origin.file);
  const TensorInfo *tensor = file.find(origin.key);
  if (!tensor)
    fail(file.path(), ": key '", origin.key, "' is missing (parameter '",
         root.name, "')");
  used.insert(tensor);

  const std::string where = concat(file.path(), ": key '", origin.key, "': ");
  const bool readable =
      tensor->dtype && (*tensor->dtype == spec.dtype ||
                        (isFloat(*tensor->dtype) && isFloat(spec.dtype)));
  if (!readable)
    fail(where, "expected ",
         isFloat(spec.dtype) ? "a floating-point type" : nameOf(spec.dtype),
         ", but got ", tensor->dtypeName);
  Pieces pieces{0, entry.elements, 0, 1};
  if (origin.rows)
    pieces = select(*tensor, spec, entry.elements, *origin.rows, where);
  else if (tensor->shape != spec.shape)
    fail(where, "expected shape ", toString(spec.shape), ", but got ",
         toString(tensor->shape));

  const DType from = *tensor->dtype;
  const std::byte *data = file.data(*tensor).data();
  file.willRead(*tensor);
  std::atomic<bool> finite = true;

  const std::byte *first = data + pieces.begin * sizeOf(from);
  const bool aligned =
      reinterpret_cast<uintptr_t>(first) % uintptr_t(sizeOf(from)) == 0;
  if (!spec.trainable && from == spec.dtype && pieces.count == 1 && aligned &&
      entry.elements) {
    // The mapped value is never written: drivers write only masters and values
    // that train.
    entry.value = const_cast<std::byte *>(first);
    entry.isMapped = true;
    mapped += entry.elements * sizeOf(from);
    forChunks(pool, entry.elements, [&](int64_t begin, int64_t end) {
      if (!allFinite(from, first + begin * sizeOf(from), end - begin))
        finite = false;
    });
  } else {
    if (!spec.trainable) {
      entry.valueMemory = allocate(entry.elements * sizeOf(spec.dtype),
                                   concat("parameter '", spec.name, "'"));
      entry.value = entry.valueMemory.data();
    }
    for (int64_t piece = 0; piece < pieces.count; ++piece) {
      const std::byte *source = first + piece * pieces.stride * sizeOf(from);
      const int64_t into = piece * pieces.length;
      forChunks(pool, pieces.length, [&](int64_t begin, int64_t end) {
        if (!put(index, from, source + begin * sizeOf(from), into + begin,
                 end - begin))
          finite = false;
      });
    }
    dropPages(file.data(*tensor));
  }
  if (!finite)
    fail(where, "holds a value that is not finite as ",
         spec.trainable ? trainable[size_t(entry.trainable)].masterType
                        : spec.dtype);
}

std::vector<std::string> ParameterStore::unusedKeys() const {
  std::vector<std::string> unused;
  for (const auto &[name, file] : files.opened())
    for (const TensorInfo &tensor : file->tensors())
      if (!used.contains(&tensor) &&
          std::none_of(options.ignoredKeys.begin(), options.ignoredKeys.end(),
                       [&](const std::string &pattern) {
                         return matches(pattern, tensor.name);
                       }))
        unused.push_back(concat(file->path(), ": key '", tensor.name, "'"));
  return unused;
}

bool polymoe::matches(std::string_view pattern, std::string_view text) {
  // On a mismatch the last star takes one more character.
  size_t p = 0, t = 0, star = std::string_view::npos, taken = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      taken = t;
    } else if (p < pattern.size() && pattern[p] == text[t]) {
      ++p, ++t;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      t = ++taken;
    } else {
      return false;
    }
  }
  return pattern.find_first_not_of('*', p) == std::string_view::npos;
}

//===----------------------------------------------------------------------===//
// Initial values
//===----------------------------------------------------------------------===//

void ParameterStore::initialise(size_t index, const ParameterSpec &root) {
  const ParameterSpec &spec = parameters[index];
  const Entry &entry = entries[index];
  const auto &origin = std::get<InitOrigin>(root.origin);
  if (origin.kind == InitOrigin::Kind::Zeros)
    return; // allocated memory is zero
  if (!isFloat(spec.dtype))
    fail("parameter '", spec.name,
         "': expected a floating-point type for its initial value, but got ",
         spec.dtype);

  double deviation = origin.standardDeviation;
  if (origin.kind == InitOrigin::Kind::XavierNormal) {
    if (spec.shape.size() != 2)
      fail("parameter '", spec.name,
           "': expected a shape [out, in] for a Xavier initial value, but got ",
           toString(spec.shape));
    deviation = std::sqrt(2.0 / double(spec.shape[0] + spec.shape[1]));
  }
  // The key depends on the root's name: a copy begins equal to its source.
  const uint64_t key = mix64(origin.seed + mix64(hashOf(root.name)));
  const bool ones = origin.kind == InitOrigin::Kind::Ones;
  forChunks(pool, entry.elements, [&](int64_t begin, int64_t end) {
    std::vector<double> values(size_t(end - begin) + 1, 1.0);
    for (int64_t i = begin; i < end && !ones; i += 2) {
      const double u0 = uniform(randomBits(key, uint64_t(i)));
      const double u1 = uniform(randomBits(key, uint64_t(i) + 1));
      const double radius = std::sqrt(-2 * std::log1p(-u0)) * deviation;
      const double angle = 2 * std::numbers::pi * u1;
      values[size_t(i - begin)] = radius * std::cos(angle);
      values[size_t(i - begin) + 1] = radius * std::sin(angle);
    }
    put(index, DType::F64, reinterpret_cast<const std::byte *>(values.data()),
        begin, end - begin);
  });
}

//===----------------------------------------------------------------------===//
// Access
//===----------------------------------------------------------------------===//

void *ParameterStore::value(const std::string &name) const {
  return entries[indexOf(name)].value;
}

bool ParameterStore::isMapped(const std::string &name) const {
  return entries[indexOf(name)].isMapped;
}

const TrainableParameter *
ParameterStore::findTrainable(const std::string &name) const {
  const int position = entries[indexOf(name)].trainable;
  return position < 0 ? nullptr : &trainable[size_t(position)];
}

void *ParameterStore::master(const std::string &name) const {
  const TrainableParameter *state = findTrainable(name);
  return state ? state->master : nullptr;
}

void *ParameterStore::gradient(const std::string &name) const {
  const TrainableParameter *state = findTrainable(name);
  return state ? state->gradient : nullptr;
}

void ParameterStore::dropMappedPages() const {
  for (size_t i = 0; i < entries.size(); ++i)
    if (entries[i].isMapped)
      dropPages({static_cast<const std::byte *>(entries[i].value),
                 size_t(entries[i].elements * sizeOf(parameters[i].dtype))});
}

/// Returns the bytes of the store's memory that gradients use.
int64_t ParameterStore::layOutGradients(std::span<const GradientPlace> places) {
  for (TrainableParameter &state : trainable)
    state.gradient = nullptr;
  auto *next = gradientMemory.as<std::byte>();
  auto place = [&](TrainableParameter &state, void *memory) {
    if (state.gradient)
      return;
    state.gradient = memory ? memory : next;
    if (!memory)
      next += gradientStride(state);
  };
  for (const auto &[name, memory] : places)
    place(trainable.at(size_t(entries[indexOf(name)].trainable)), memory);
  for (TrainableParameter &state : trainable)
    place(state, nullptr);
  return next - gradientMemory.as<std::byte>();
}

void ParameterStore::placeGradients(std::span<const GradientPlace> places) {
  forChunks(pool, layOutGradients(places), [&](int64_t begin, int64_t end) {
    std::memset(gradientMemory.as<std::byte>() + begin, 0, size_t(end - begin));
  });
}

void ParameterStore::refreshComputeCopies() {
  for (const TrainableParameter &state : trainable) {
    const DType to = parameters[state.index].dtype;
    void *value = entries[state.index].value;
    if (!state.master || value == state.master)
      continue;
    forChunks(pool, state.elements, [&](int64_t begin, int64_t end) {
      convert(state.masterType,
              static_cast<std::byte *>(state.master) +
                  begin * sizeOf(state.masterType),
              to, static_cast<std::byte *>(value) + begin * sizeOf(to),
              end - begin);
    });
  }
}
