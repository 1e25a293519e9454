//===-- CompiledExecutor.cpp - models run by compiled code ----------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Target/CompiledExecutor.h"

#include "GivenProgram.h"
#include "moe/Dialect/MoE.h"
#include "moe/Runtime/Error.h"
#include "moe/Transforms/Pipelines.h"

#include "mlir/IR/Diagnostics.h"

#include <algorithm>
#include <cstring>
#include <utility>

using namespace polymoe;

namespace {

int64_t elementsOf(const Binding &binding) {
  int64_t count = 1;
  for (int64_t extent : binding.shape)
    count *= extent;
  return count;
}

int64_t bytesOf(const Binding &binding) {
  return elementsOf(binding) * sizeOf(binding.dtype);
}

std::string shapeKey(const char *name, std::initializer_list<int64_t> shape) {
  std::string key = name;
  for (int64_t extent : shape)
    key += " " + std::to_string(extent);
  return key;
}

void fillIds(void *memory, const std::vector<int32_t> &ids) {
  std::memcpy(memory, ids.data(), ids.size() * sizeof(int32_t));
}

/// 0, 1, 2, ... in every row.
void fillSlots(void *memory, int64_t rows, int64_t length) {
  auto *slots = static_cast<int32_t *>(memory);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t i = 0; i < length; ++i)
      *slots++ = static_cast<int32_t>(i);
}

void fillScalar(void *memory, DType type, double value) {
  convert(DType::F64, &value, type, memory, 1);
}

/// What a batch says of its tokens.
bool fillFromBatch(const Batch &batch, const Binding &binding, void *memory) {
  if (binding.name == "tokens")
    fillIds(memory, batch.tokens);
  else if (binding.name == "labels")
    fillIds(memory, batch.labels);
  else if (binding.name == "positions")
    fillIds(memory, batch.positions);
  else if (binding.name == "segments")
    fillIds(memory, batch.segments);
  else if (binding.name == "old")
    fillIds(memory, batch.old);
  else if (binding.name == "slots")
    fillSlots(memory, batch.rows, batch.length);
  else
    return false;
  return true;
}

} // namespace

/// A value made of parameters.
struct CompiledExecutor::Packed {
  Buffer memory;
  int64_t version = 0; ///< of the parameters that it was made of
};

struct CompiledExecutor::Program {
  /// An entry point that packs weights.
  struct Preparation {
    const EntryPoint *entry;
    std::vector<void *> arguments;
    std::vector<Packed *> makes;
    bool trains; ///< whether it is to be repeated
  };

  std::unique_ptr<mlir::moe::CompiledProgram> code;
  std::vector<Buffer> buffers; ///< of inputs and outputs
  std::vector<void *> arguments;
  std::vector<Preparation> preparations;

  /// The one that is not a preparation: those come after it.
  const EntryPoint &entry() const { return code->program().entries.front(); }
};

CompiledExecutor::CompiledExecutor(mlir::ModuleOp module, ParameterStore &store,
                                   ThreadPool &pool, const Objective &objective,
                                   const CompiledExecutorOptions &options)
    : module(module), store(store), objective(objective), options(options) {
  context.pool = &pool;
  if (options.given)
    loadGiven();
}

CompiledExecutor::~CompiledExecutor() = default;

CompiledExecutor::Program &
CompiledExecutor::program(const std::string &key, const ProgramUse &use,
                          const BuildPipeline &build,
                          mlir::moe::PackedOnce packedOnce) {
  if (given) {
    checkUse(given->entry(), use, options.givenFile);
    return *given;
  }
  std::unique_ptr<Program> &known = programs[key];
  if (known)
    return *known;
  mlir::OwningOpRef<mlir::ModuleOp> copy = module.clone();
  using Code = llvm::FailureOr<std::unique_ptr<mlir::moe::CompiledProgram>>;
  auto compile = [&]() -> Code {
    mlir::PassManager pm(module.getContext());
    build(pm);
    if (failed(pm.run(*copy)))
      return mlir::failure();
    mlir::moe::CompilerOptions compiler = options.compiler;
    compiler.packedOnce = packedOnce;
    compiler.gradients = gradients;
    return mlir::moe::CompiledProgram::compile(*copy, compiler);
  };
  known = makeProgram("compiling " + key, module.getContext(), compile);
  return *known;
}

std::unique_ptr<CompiledExecutor::Program>
CompiledExecutor::makeProgram(const std::string &what, mlir::MLIRContext *in,
                              const MakeCode &make) {
  std::string diagnostics;
  mlir::ScopedDiagnosticHandler handler(in, [&](mlir::Diagnostic &diagnostic) {
    diagnostics += (diagnostics.empty() ? "" : "; ") + diagnostic.str();
    return mlir::success();
  });
  auto made = std::make_unique<Program>();
  auto code = make();
  if (failed(code))
    fail(what, ": ", diagnostics);
  made->code = std::move(*code);
  if (made->code->program().entries.empty())
    fail(what, ": expected an entry point, but there is none");

  for (const Binding &binding : made->entry().bindings)
    made->arguments.push_back(memoryOf(binding, *made));
  addPreparation(*made, "prepare_frozen", /*trains=*/false);
  addPreparation(*made, "prepare_trainable", /*trains=*/true);
  return made;
}

void CompiledExecutor::loadGiven() {
  const std::string &file = options.givenFile;
  checkTarget(options.given, options.compiler.bf16Products, file);
  mlir::OwningOpRef<mlir::ModuleOp> copy = options.given.clone();
  auto load = [&] {
    auto code = mlir::moe::CompiledProgram::load(*copy, options.compiler);
    if (succeeded(code))
      checkParameters((*code)->program(), store, file);
    return code;
  };
  given = makeProgram(file, copy->getContext(), load);
}

void CompiledExecutor::requireTraining(int64_t rows, int64_t length,
                                       int64_t microBatches) {
  if (!given)
    return;
  checkUse(given->entry(), {"step", rows, length}, options.givenFile);
  gradientsOf(given->entry(), microBatches, options.givenFile);
  // Without gates there is no classifier, whatever its coefficient.
  Objective effective = objective;
  bool hasGates = module
                      .walk([](mlir::moe::LanguageGateOp) {
                        return mlir::WalkResult::interrupt();
                      })
                      .wasInterrupted();
  if (!hasGates)
    effective.classifier = 0;
  checkTraining(options.given, given->entry(), store, effective,
                options.givenFile);
}

void CompiledExecutor::requireScoring(int64_t rows, int64_t length,
                                      bool logits) const {
  if (given)
    checkUse(given->entry(), {"score", rows, length, logits},
             options.givenFile);
}

void *CompiledExecutor::memoryOf(const Binding &binding, Program &program) {
  switch (binding.kind) {
  case Binding::Kind::Input:
  case Binding::Kind::Output:
    return program.buffers.emplace_back(bytesOf(binding), binding.name).data();
  case Binding::Kind::Parameter:
    return store.value(binding.name);
  case Binding::Kind::Packed: {
    Buffer &memory = packed[binding.name].memory;
    if (memory.size() == 0)
      memory = Buffer(bytesOf(binding), binding.name);
    return memory.data();
  }
  case Binding::Kind::Gradient:
  case Binding::Kind::State:
  case Binding::Kind::Arena:
  case Binding::Kind::StepGradient:
    return nullptr; // Known at each run.
  }
  __builtin_unreachable();
}

void CompiledExecutor::addPreparation(Program &program, const char *name,
                                      bool trains) {
  const EntryPoint *entry = program.code->program().find(name);
  if (!entry)
    return;
  Program::Preparation preparation{entry, {}, {}, trains};
  for (const Binding &binding : entry->bindings) {
    preparation.arguments.push_back(memoryOf(binding, program));
    if (binding.kind == Binding::Kind::Packed)
      preparation.makes.push_back(&packed[binding.name]);
  }
  program.preparations.push_back(std::move(preparation));
}

/// Packs what was never packed, or before the parameters changed.
void CompiledExecutor::prepare(Program &program) {
  for (Program::Preparation &preparation : program.preparations) {
    const int64_t needed = preparation.trains ? parameterVersion : 1;
    auto isCurrent = [&](const Packed *made) {
      return made->version >= needed;
    };
    if (llvm::all_of(preparation.makes, isCurrent))
      continue;
    preparation.entry->function(&context, preparation.arguments.data());
    // What is packed is hardly read again: the pages of its checkpoint need not
    // take memory beside it.
    if (!preparation.trains)
      store.dropMappedPages();
    for (Packed *made : preparation.makes)
      made->version = parameterVersion;
  }
}

int64_t CompiledExecutor::packedBytes() const {
  int64_t bytes = 0;
  for (const auto &[name, value] : packed)
    bytes += value.memory.size();
  return bytes;
}

const std::vector<KernelCost> &CompiledExecutor::kernelCosts() const {
  static const std::vector<KernelCost> none;
  return latest ? latest->code->program().kernels : none;
}

void *CompiledExecutor::state(const Binding &binding) {
  State &state = states[binding.name];
  state.bytesOfPlace = bytesOf(binding) / binding.shape[0];
  const int64_t bytes =
      state.bytesOfPlace * static_cast<int64_t>(sequences.size());
  if (state.memory.size() != bytes)
    state.memory = Buffer(bytes, binding.name);
  return static_cast<char *>(state.memory.data()) +
         firstPlace * state.bytesOfPlace;
}

CompiledExecutor::Outputs CompiledExecutor::run(Program &program,
                                                const FillInput &fill) {
  const EntryPoint &entry = program.entry();
  latest = &program;
  Outputs outputs;
  for (size_t i = 0; i < entry.bindings.size(); ++i) {
    const Binding &binding = entry.bindings[i];
    void *&memory = program.arguments[i];
    if (binding.kind == Binding::Kind::Input) {
      if (!fill(binding, memory))
        polymoe::fail("expected an input that the driver knows, but the "
                      "program asks for '",
                      binding.name, "'");
    } else if (binding.kind == Binding::Kind::Output) {
      outputs[binding.name] = {&binding, memory};
    } else if (binding.kind == Binding::Kind::Gradient) {
      memory = store.gradient(binding.name); // may have been placed elsewhere
    } else if (binding.kind == Binding::Kind::State) {
      memory = state(binding);
    } else if (binding.kind == Binding::Kind::Arena) {
      if (arena.size() < bytesOf(binding))
        arena = Buffer(bytesOf(binding), "the arena of " + entry.name);
      memory = arena.data();
    }
  }
  for (size_t i = 0; i < entry.bindings.size(); ++i)
    if (entry.bindings[i].kind == Binding::Kind::StepGradient)
      program.arguments[i] = arena.as<std::byte>() + entry.bindings[i].offset;
  // Kernels keep their scratch on the stack, and this thread runs some too.
  runOnLargeStack([&] {
    prepare(program);
    entry.function(&context, program.arguments.data());
  });
  return outputs;
}

void CompiledExecutor::beginStep(int64_t count) {
  using mlir::moe::Gradients;
  microBatches = count;
  gradients = microBatches == 1 ? Gradients::Written : Gradients::Added;
  if (given)
    gradients = gradientsOf(given->entry(), microBatches, options.givenFile);
  if (gradients == Gradients::Added)
    store.zeroGradients();
}

Losses CompiledExecutor::accumulateGradients(const Batch &batch,
                                             const LossWeights &weights) {
  // A gradient that has no memory must not be written.
  requireTraining(batch.rows, batch.length, microBatches);
  Program &step = program(
      shapeKey(gradients == mlir::moe::Gradients::Added
                   ? "a training step that accumulates of"
                   : "a training step of",
               {batch.rows, batch.length}),
      {"step", batch.rows, batch.length},
      [&](mlir::OpPassManager &pm) {
        mlir::moe::TrainPipelineOptions pipeline;
        pipeline.embedModel = false;
        pipeline.rows = batch.rows;
        pipeline.length = batch.length;
        pipeline.balance = objective.balance;
        pipeline.balanceForm = nameOf(objective.balanceForm);
        pipeline.languagePrior = objective.languagePrior;
        pipeline.languagePriorForm = nameOf(objective.languagePriorForm);
        pipeline.classifier = objective.classifier;
        pipeline.memoryBudget = options.memoryBudget;
        pipeline.chunk = options.chunk;
        mlir::moe::buildTrainPipeline(pm, pipeline);
      },
      // What trains changes at every step.
      mlir::moe::PackedOnce::Frozen);
  Outputs outputs = run(step, [&](const Binding &binding, void *memory) {
    if (binding.name == "token_weight")
      fillScalar(memory, binding.dtype, weights.token);
    else if (binding.name == "old_weight")
      fillScalar(memory, binding.dtype, weights.oldToken);
    else if (binding.name == "micro_batch_weight")
      fillScalar(memory, binding.dtype, weights.microBatch);
    else if (binding.name == "position_weight")
      fillScalar(memory, binding.dtype, weights.position);
    else
      return fillFromBatch(batch, binding, memory);
    return true;
  });
  if (gradients == mlir::moe::Gradients::Written)
    placeGradients(step);
  Losses losses;
  for (auto &[name, output] : outputs)
    convert(output.first->dtype, output.second, DType::F64, &losses[name], 1);
  return losses;
}

void CompiledExecutor::placeGradients(const Program &step) {
  std::map<std::string, void *> places;
  for (auto [binding, memory] :
       llvm::zip_equal(step.entry().bindings, step.arguments))
    if (binding.kind == Binding::Kind::StepGradient)
      places[binding.name] = memory;
  store.placeGradients(places);
}

void CompiledExecutor::score(const Batch &batch, std::span<float> logprobs,
                             std::span<float> logits) {
  bool withLogits = !logits.empty();
  Program &scoring = program(
      shapeKey(withLogits ? "scoring with logits of" : "scoring of",
               {batch.rows, batch.length}),
      {"score", batch.rows, batch.length, withLogits},
      [&](mlir::OpPassManager &pm) {
        mlir::moe::ScorePipelineOptions pipeline;
        pipeline.embedModel = false;
        pipeline.rows = batch.rows;
        pipeline.length = batch.length;
        pipeline.logits = withLogits;
        mlir::moe::buildScorePipeline(pm, pipeline);
      },
      options.compiler.packedOnce);
  Outputs outputs = run(scoring, [&](const Binding &binding, void *memory) {
    return fillFromBatch(batch, binding, memory);
  });
  auto read = [&](const char *name, std::span<float> to) {
    auto [binding, memory] = outputs.at(name);
    convert(binding->dtype, memory, DType::F32, to.data(),
            static_cast<int64_t>(to.size()));
  };
  read("logprobs", logprobs);
  if (withLogits)
    read("logits", logits);
}

void CompiledExecutor::beginSequences(int64_t count, int64_t newCapacity) {
  // Prompts take programs of two lengths, with caches of the text's own size.
  if (given)
    fail(options.givenFile, ": expected a module of the model level to "
                            "generate with, but this one is compiled");
  sequences.assign(count, {});
  inPlaces.clear();
  capacity = newCapacity;
}

void CompiledExecutor::clearSequence(int64_t sequence) {
  std::optional<int64_t> place = std::exchange(sequences[sequence], {}).place;
  if (!place)
    return;
  // The last one moves into its place.
  auto last = static_cast<int64_t>(inPlaces.size()) - 1;
  if (*place != last) {
    for (auto &[name, state] : states) {
      auto *memory = static_cast<char *>(state.memory.data());
      std::memcpy(memory + *place * state.bytesOfPlace,
                  memory + last * state.bytesOfPlace, state.bytesOfPlace);
    }
    inPlaces[*place] = inPlaces.back();
    sequences[inPlaces.back()].place = place;
  }
  inPlaces.pop_back();
}

void CompiledExecutor::extendSequences(std::span<Continuation> continuations,
                                       std::span<float> logits) {
  if (continuations.empty())
    return;
  const size_t vocabulary = logits.size() / continuations.size();
  auto logitsOf = [&](size_t i) {
    return logits.subspan(i * vocabulary, vocabulary);
  };
  // Those that go on by one token, in one step.
  std::vector<size_t> stepping;
  for (size_t i = 0; i < continuations.size(); ++i) {
    Continuation &continuation = continuations[i];
    auto count = static_cast<int64_t>(continuation.tokens.size());
    Sequence &sequence = sequences[continuation.sequence];
    if (count < 1 || sequence.length + count > capacity)
      fail("expected from 1 to ", capacity - sequence.length,
           " further tokens of a sequence, but got ", count);
    if (!sequence.place) {
      sequence.place = static_cast<int64_t>(inPlaces.size());
      inPlaces.push_back(continuation.sequence);
    }
    continuation.taken = feedPieces(continuation, logitsOf(i));
    if (continuation.taken == 0)
      stepping.push_back(i);
  }
  if (stepping.empty())
    return;

  const int64_t rows = rowsOfStep(), used = inPlaces.size();
  // A row that takes no part writes behind its last token, what the next one
  // replaces, or into a place that is free. Nothing goes on in a full one.
  Feed step{.first = 0, .rows = rows, .count = 1};
  step.tokens.assign(rows, 0);
  step.slots.assign(rows, 0);
  for (int64_t place = 0; place < used; ++place)
    step.slots[place] = static_cast<int32_t>(
        std::min(sequences[inPlaces[place]].length, capacity - 1));
  for (size_t i : stepping)
    step.tokens[*sequences[continuations[i].sequence].place] =
        continuations[i].tokens[0];
  std::vector<float> all(rows * vocabulary);
  feed(step, all);
  for (size_t i : stepping) {
    Sequence &sequence = sequences[continuations[i].sequence];
    std::copy_n(all.begin() + *sequence.place * vocabulary, vocabulary,
                logitsOf(i).begin());
    ++sequence.length;
    continuations[i].taken = 1;
  }
}

/// Feeds a text in pieces of few sizes, where it is long enough for the
/// smallest: few programs serve every length, and the results are the same bits
/// as token by token. Returns how many tokens it fed, all or none.
int64_t CompiledExecutor::feedPieces(const Continuation &continuation,
                                     std::span<float> logits) {
  Sequence &sequence = sequences[continuation.sequence];
  auto count = static_cast<int64_t>(continuation.tokens.size());
  if (options.prefill.empty() || count < options.prefill.back())
    return 0;
  for (int64_t done = 0; done < count;) {
    auto fits = llvm::find_if(
        options.prefill, [&](int64_t size) { return size <= count - done; });
    // The last piece begins with tokens that were fed already, and puts the
    // same into their slots.
    int64_t piece =
        fits == options.prefill.end() ? options.prefill.back() : *fits;
    int64_t first = std::min(done, count - piece);
    auto tokens = continuation.tokens.subspan(first, piece);
    Feed one{.first = *sequence.place, .rows = 1, .count = piece};
    one.tokens.assign(tokens.begin(), tokens.end());
    for (int64_t i = 0; i < piece; ++i)
      one.slots.push_back(static_cast<int32_t>(sequence.length + first + i));
    feed(one, logits);
    done = first + piece;
  }
  sequence.length += count;
  return count;
}

/// Rows of the program for a step of all sequences that have a place: of few
/// sizes, each half of the one before.
int64_t CompiledExecutor::rowsOfStep() const {
  auto used = static_cast<int64_t>(inPlaces.size());
  auto rows = static_cast<int64_t>(sequences.size());
  while (rows > 1 && (rows + 1) / 2 >= used)
    rows = (rows + 1) / 2;
  return rows;
}

void CompiledExecutor::feed(const Feed &feed, std::span<float> logits) {
  Program &extend = program(
      shapeKey("generation of", {feed.rows, feed.count, capacity}),
      {"extend", feed.rows, feed.count},
      [&](mlir::OpPassManager &pm) {
        mlir::moe::GeneratePipelineOptions pipeline;
        pipeline.embedModel = false;
        pipeline.rows = feed.rows;
        pipeline.length = feed.count;
        pipeline.capacity = capacity;
        mlir::moe::buildGeneratePipeline(pm, pipeline);
      },
      options.compiler.packedOnce);
  firstPlace = feed.first;
  Outputs outputs = run(extend, [&](const Binding &binding, void *memory) {
    if (binding.name == "tokens")
      fillIds(memory, feed.tokens);
    else if (binding.name == "slots" || binding.name == "positions")
      fillIds(memory, feed.slots);
    else if (binding.name == "segments")
      std::memset(memory, 0, bytesOf(binding));
    else
      return false;
    return true;
  });
  auto [binding, memory] = outputs.at("logits");
  convert(binding->dtype, memory, DType::F32, logits.data(),
          static_cast<int64_t>(logits.size()));
}
