//===-- RunFolder.h - what a run leaves on the disk -------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A run folder (docs/Architecture.md, Files) and its checkpoints.
//
// A checkpoint is a folder that appears complete or not at all: it grows under
// a temporary name, every file and the folder are flushed to the disk, and then
// it is renamed. Its manifest has the length and the checksum of every file, so
// that one damaged later is found and the one before it is used.
//
//   parameters.safetensors   the masters of what trains, by parameter name
//   optimizer.safetensors    NAME.m and NAME.v, F32; or as codes, U8, with
//                            NAME.m.absmax and NAME.v.absmax, F32
//   state.json               the rest of the state (CheckpointState)
//   manifest.json            step, phase, and the files with their checksums
//
// Steps are numbered through all phases of a run.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_RUNTIME_RUNFOLDER_H
#define MOE_RUNTIME_RUNFOLDER_H

#include "moe/Runtime/Files.h"
#include "moe/Runtime/Parameters.h"

#include <nlohmann/json_fwd.hpp>

#include <functional>
#include <map>
#include <optional>
#include <string>

namespace polymoe {

/// What a run needs beside tensors to go on exactly.
struct CheckpointState {
  int64_t step = 0;           ///< optimiser steps of all phases
  int64_t phase = 0;          ///< 0, 1, ...
  int64_t phaseStep = 0;      ///< optimiser steps of this phase
  int64_t optimizerSteps = 0; ///< AdamW's count, for the bias correction
  uint64_t seed = 0;          ///< all randomness comes from it by counters
  int64_t tokens = 0;         ///< tokens trained on in this phase
  bool finished = false;      ///< the phase has done all its steps
  std::string data;           ///< BatchSource::position()
  std::string variant;        ///< instruction set that made the numbers
};

/// Whether the file holds values that a run trained, so its metadata say: a
/// checkpoint's, or those of a delta. What is left of them in a model is what
/// no base checkpoint has.
bool holdsTrained(const SafetensorsFile &file);
/// The metadata that say so.
std::map<std::string, std::string> trainedMetadata();

/// A checkpoint on the disk, by its manifest.
struct CheckpointInfo {
  std::filesystem::path folder;
  int64_t step = 0;
  int64_t phase = 0;
};

class RunFolder {
public:
  using Warn = std::function<void(const std::string &)>;

  enum class Access {
    Read, ///< must exist; takes no lock
    Write ///< is made when missing; fails when another process writes to it
  };

  /// Throws Error. With Write, what a killed process left half made is
  /// removed.
  RunFolder(std::filesystem::path path, Access access, Warn warn = {});
  ~RunFolder();

  const std::filesystem::path &path() const { return root; }
  std::filesystem::path modelPath() const { return root / "model.mlir"; }
  std::filesystem::path metricsPath() const { return root / "metrics.jsonl"; }
  std::filesystem::path checkpointPath(int64_t step) const;

  /// run.json: the options and phases, whatever the tools put there. Null
  /// when there is none yet.
  nlohmann::json readRun() const;
  void writeRun(const nlohmann::json &run);

  /// Appends one line.
  void appendMetrics(const nlohmann::json &record);
  /// Removes the lines with a "step" above `step`, and a torn last line: what
  /// was lost with the steps that a resumed run does again.
  void truncateMetrics(int64_t step);

  /// Writes a checkpoint; returns its folder. Throws Error, and then leaves
  /// nothing behind and all earlier checkpoints as they were.
  std::filesystem::path saveCheckpoint(const ParameterStore &store,
                                       const CheckpointState &state);

  /// The newest checkpoint whose files are what its manifest says; warns of
  /// newer ones that are not. Nothing when there is none.
  std::optional<CheckpointInfo> latestCheckpoint() const;

  /// Reads masters and, where the store has them, optimiser states; the
  /// compute copies are refreshed. Every trainable parameter must be there and
  /// no other. Throws Error.
  CheckpointState loadCheckpoint(const CheckpointInfo &info,
                                 ParameterStore &store) const;
  CheckpointState loadState(const CheckpointInfo &info) const;

  /// Removes checkpoints except, up to step `newest`, the newest `keep` (at
  /// least one) of the newest phase and the last one of every earlier phase,
  /// from which later phases have what no longer trains. Those after `newest`,
  /// which must be a good one, were damaged and passed over: counted, they
  /// would push out good ones.
  void pruneCheckpoints(int64_t keep, int64_t newest);

  /// The folders that are named as checkpoints are, damaged ones included, in
  /// no order.
  std::vector<std::filesystem::path> checkpointFolders() const;

  /// All checkpoints that have a manifest, oldest first, not verified.
  std::vector<CheckpointInfo> checkpoints() const;

private:
  void verify(const CheckpointInfo &info) const;
  void lock();
  void removeLeftovers();

  std::filesystem::path root;
  Warn warn;
  FileDescriptor lockFile, metricsFile;
};

} // namespace polymoe

#endif // MOE_RUNTIME_RUNFOLDER_H
