//===-- RunFolder.cpp - what a run leaves on the disk ---------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Runtime/RunFolder.h"
#include "moe/Runtime/Error.h"
#include "moe/Runtime/Json.h"
#include "moe/Runtime/Safetensors.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <set>
#include <sys/file.h>
#include <unistd.h>

using namespace polymoe;
using nlohmann::json;
namespace fs = std::filesystem;

static const char *parametersName = "parameters.safetensors";
static const char *optimizerName = "optimizer.safetensors";
static const char *stateName = "state.json";
static const char *manifestName = "manifest.json";
static const char *stepPrefix = "step-";
static const char *temporaryPrefix = ".making-";
// A key of the metadata, and its value.
static const char *contentKey = "polymoe";
static const char *trainedContent = "trained values";

bool polymoe::holdsTrained(const SafetensorsFile &file) {
  auto content = file.metadata().find(contentKey);
  return content != file.metadata().end() && content->second == trainedContent;
}

std::map<std::string, std::string> polymoe::trainedMetadata() {
  return {{"format", "pt"}, {contentKey, trainedContent}};
}

RunFolder::RunFolder(fs::path path, Access access, Warn warning)
    : root(std::move(path)), warn(std::move(warning)) {
  std::error_code error;
  if (access == Access::Read) {
    if (!fs::is_directory(root, error))
      fail(root, ": expected a run folder");
    return;
  }
  fs::create_directories(root / "checkpoints", error);
  if (error)
    fail(root, ": cannot be created: ", error.message());
  lock();
  removeLeftovers();
}

RunFolder::~RunFolder() = default;

/// The lock belongs to the open file, so the system drops it with the process,
/// however that ends. The number in the file is for people only.
void RunFolder::lock() {
  const fs::path path = root / "lock";
  lockFile =
      FileDescriptor(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
  if (lockFile.get() < 0)
    failWithErrno(errno, path, ": cannot be opened");
  char owner[32] = {};
  if (::flock(lockFile.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK)
      failWithErrno(errno, path, ": cannot be locked");
    if (::pread(lockFile.get(), owner, sizeof(owner) - 1, 0) < 0)
      owner[0] = 0;
    fail(root,
         ": expected a run folder that no other run writes to, but "
         "process ",
         owner[0] ? owner : "(unknown)", " does");
  }
  const std::string self = std::to_string(::getpid());
  if (::ftruncate(lockFile.get(), 0) != 0 ||
      ::pwrite(lockFile.get(), self.data(), self.size(), 0) < 0)
    failWithErrno(errno, path, ": cannot be written");
}

void RunFolder::removeLeftovers() {
  std::error_code ignored;
  for (const auto &folder : {root, root / "checkpoints"})
    for (const auto &entry : fs::directory_iterator(folder, ignored)) {
      const std::string name = entry.path().filename().string();
      if (name.starts_with(temporaryPrefix) ||
          (name.starts_with(".") && name.ends_with(".tmp")))
        fs::remove_all(entry.path(), ignored);
    }
}

json RunFolder::readRun() const {
  const fs::path path = root / "run.json";
  std::error_code error;
  if (!fs::exists(path, error))
    return nullptr;
  return readJsonObject(path);
}

void RunFolder::writeRun(const json &run) {
  writeText(root / "run.json", run.dump(2) + "\n");
}

//===----------------------------------------------------------------------===//
// Metrics
//===----------------------------------------------------------------------===//

void RunFolder::appendMetrics(const json &record) {
  const fs::path path = metricsPath();
  if (metricsFile.get() < 0)
    metricsFile = FileDescriptor(
        ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666));
  if (metricsFile.get() < 0)
    failWithErrno(errno, path, ": cannot be opened");
  // One call, so that lines do not mix and are torn only by a full disk.
  const std::string line = record.dump() + "\n";
  const ssize_t got = ::write(metricsFile.get(), line.data(), line.size());
  if (got != ssize_t(line.size()))
    failWithErrno(got < 0 ? errno : ENOSPC, path, ": cannot be written");
}

void RunFolder::truncateMetrics(int64_t step) {
  const fs::path path = metricsPath();
  std::error_code error;
  if (!fs::exists(path, error))
    return;
  const std::string all = readText(path);
  std::string kept;
  for (size_t begin = 0; begin < all.size();) {
    const size_t end = all.find('\n', begin);
    if (end == std::string::npos)
      break;
    const std::string_view line(all.data() + begin, end - begin);
    const std::optional<json> record = tryParseJson(line);
    if (record && record->is_object() &&
        record->value("step", int64_t(0)) <= step)
      kept.append(line).append("\n");
    begin = end + 1;
  }
  if (kept == all)
    return;
  metricsFile.reset();
  writeText(path, kept);
}

//===----------------------------------------------------------------------===//
// Writing checkpoints
//===----------------------------------------------------------------------===//

static std::string folderNameOf(int64_t step) {
  std::string digits = std::to_string(step);
  if (digits.size() < 8)
    digits.insert(0, 8 - digits.size(), '0');
  return stepPrefix + digits;
}

fs::path RunFolder::checkpointPath(int64_t step) const {
  return root / "checkpoints" / folderNameOf(step);
}

static std::span<const std::byte> bytesAt(const void *memory, int64_t size) {
  return {static_cast<const std::byte *>(memory), size_t(size)};
}

/// Calls visit(begin, count) for pieces of the elements.
template <typename Visit>
static void forEachPiece(const TrainableParameter &state, Visit visit) {
  constexpr int64_t piece = int64_t(1) << 18;
  for (int64_t begin = 0; begin < state.elements; begin += piece)
    visit(begin, std::min(piece, state.elements - begin));
}

static Checksum writeParameters(const fs::path &path,
                                const ParameterStore &store) {
  SafetensorsWriter writer(path, trainedMetadata());
  for (const TrainableParameter &state : store.trainables()) {
    const ParameterSpec &spec = store.specs()[state.index];
    if (state.master) {
      writer.add(
          spec.name, state.masterType, spec.shape,
          bytesAt(state.master, state.elements * sizeOf(state.masterType)));
      continue;
    }
    writer.add(spec.name, state.masterType, spec.shape,
               [&state](const SafetensorsWriter::Sink &sink) {
                 forEachPiece(state, [&](int64_t begin, int64_t count) {
                   std::vector<float> piece(static_cast<size_t>(count));
                   state.readMaster(begin, count, piece.data());
                   sink(std::as_bytes(std::span(piece)));
                 });
               });
  }
  return writer.finish();
}

/// Calls visit(key, type, shape, memory) for each tensor of its moments.
template <typename Visit>
static void forEachMoment(const TrainableParameter &state,
                          const ParameterSpec &spec, Visit visit) {
  auto moment = [&](const char *suffix, float *values,
                    const BlockwiseValues &blocks) {
    const std::string key = spec.name + suffix;
    if (values)
      visit(key, DType::F32, spec.shape, values);
    if (!blocks.codes)
      return;
    visit(key, DType::U8, spec.shape, blocks.codes);
    visit(key + ".absmax", DType::F32,
          std::vector<int64_t>{blocksOf(state.elements)}, blocks.absmax);
  };
  moment(".m", state.m, state.m8);
  moment(".v", state.v, state.v8);
}

static Checksum writeOptimizer(const fs::path &path,
                               const ParameterStore &store) {
  SafetensorsWriter writer(path);
  for (const TrainableParameter &state : store.trainables()) {
    forEachMoment(state, store.specs()[state.index],
                  [&](const std::string &key, DType type,
                      const std::vector<int64_t> &shape, const void *memory) {
                    writer.add(
                        key, type, shape,
                        bytesAt(memory, *byteSizeOf(shape, sizeOf(type))));
                  });
  }
  return writer.finish();
}

static json toJson(const CheckpointState &state) {
  return {
      {"step", state.step},           {"phase", state.phase},
      {"phaseStep", state.phaseStep}, {"optimizerSteps", state.optimizerSteps},
      {"seed", state.seed},           {"tokens", state.tokens},
      {"finished", state.finished},   {"data", state.data},
      {"variant", state.variant}};
}

fs::path RunFolder::saveCheckpoint(const ParameterStore &store,
                                   const CheckpointState &state) {
  const fs::path target = checkpointPath(state.step);
  const fs::path making =
      root / "checkpoints" / (temporaryPrefix + folderNameOf(state.step));
  removeFolder(making);
  std::error_code error;
  fs::create_directories(making, error);
  if (error)
    fail(making, ": cannot be created: ", error.message());
  try {
    json files;
    auto note = [&](const char *name, const Checksum &checksum) {
      files[name] = {{"bytes", checksum.bytes}, {"xxh3", checksum.digest}};
    };
    note(parametersName, writeParameters(making / parametersName, store));
    note(optimizerName, writeOptimizer(making / optimizerName, store));
    note(stateName,
         writeText(making / stateName, toJson(state).dump(2) + "\n"));
    const json manifest = {{"format", "polymoe-checkpoint"},
                           {"version", 1},
                           {"step", state.step},
                           {"phase", state.phase},
                           {"files", files}};
    // The last file to be made: its commit flushes the folder with all names.
    writeText(making / manifestName, manifest.dump(2) + "\n");
    renameDurably(making, target);
  } catch (...) {
    removeFolder(making);
    throw;
  }
  // Where a checkpoint of this step was there already, it has changed places
  // with the new one.
  removeFolder(making);
  return target;
}

//===----------------------------------------------------------------------===//
// Reading checkpoints
//===----------------------------------------------------------------------===//

static json readManifest(const fs::path &folder) {
  const fs::path path = folder / manifestName;
  json read = readJsonObject(path);
  const JsonReader manifest(read, path.string());
  if (manifest.text("format") != "polymoe-checkpoint" ||
      manifest.integer("version") != 1)
    manifest.fail("expected format polymoe-checkpoint, version 1");
  if (folder.filename() != folderNameOf(manifest.integer("step")))
    manifest.at("step").expected("the step that names its folder");
  for (const char *name : {parametersName, optimizerName, stateName})
    manifest.at("files").at(name).expectObject();
  return read;
}

std::vector<fs::path> RunFolder::checkpointFolders() const {
  std::vector<fs::path> all;
  std::error_code ignored;
  for (const auto &entry :
       fs::directory_iterator(root / "checkpoints", ignored))
    if (entry.path().filename().string().starts_with(stepPrefix))
      all.push_back(entry.path());
  return all;
}

std::vector<CheckpointInfo> RunFolder::checkpoints() const {
  std::vector<CheckpointInfo> all;
  for (const fs::path &folder : checkpointFolders()) {
    try {
      const json read = readManifest(folder);
      const JsonReader manifest(read, (folder / manifestName).string());
      all.push_back(
          {folder, manifest.integer("step"), manifest.integer("phase")});
    } catch (const Error &error) {
      if (warn)
        warn(concat(error.what(), "; this checkpoint is passed over"));
    }
  }
  std::sort(all.begin(), all.end(),
            [](const auto &a, const auto &b) { return a.step < b.step; });
  return all;
}

void RunFolder::verify(const CheckpointInfo &info) const {
  const json manifest = readManifest(info.folder);
  const JsonReader files =
      JsonReader(manifest, (info.folder / manifestName).string()).at("files");
  for (const auto &[name, file] : files.json().items()) {
    const fs::path path = info.folder / name;
    const Checksum expected{files.at(name).integer("bytes"),
                            files.at(name).text("xxh3")};
    const Checksum got = checksumOf(path);
    if (got.bytes != expected.bytes)
      fail(path, ": expected ", expected.bytes, " bytes, but got ", got.bytes);
    if (got.digest != expected.digest)
      fail(path, ": expected checksum ", expected.digest, ", but got ",
           got.digest);
  }
}

std::optional<CheckpointInfo> RunFolder::latestCheckpoint() const {
  std::vector<CheckpointInfo> all = checkpoints();
  for (auto info = all.rbegin(); info != all.rend(); ++info) {
    try {
      verify(*info);
      return *info;
    } catch (const Error &error) {
      if (warn)
        warn(concat(error.what(), "; this checkpoint is passed over"));
    }
  }
  return std::nullopt;
}

CheckpointState RunFolder::loadState(const CheckpointInfo &info) const {
  const fs::path path = info.folder / stateName;
  const json read = readJsonObject(path);
  const JsonReader object(read, path.string());
  CheckpointState state;
  state.step = object.integer("step");
  state.phase = object.integer("phase");
  state.phaseStep = object.integer("phaseStep");
  state.optimizerSteps = object.integer("optimizerSteps");
  state.seed = read.value("seed", uint64_t(0));
  state.tokens = object.integer("tokens");
  state.finished = object.flag("finished", false);
  state.data = object.text("data");
  state.variant = object.text("variant");
  return state;
}

/// The bytes of a tensor, which must have exactly this type and shape.
static std::span<const std::byte>
expectTensor(const SafetensorsFile &file, const std::string &key, DType dtype,
             const std::vector<int64_t> &shape) {
  const TensorInfo &info = file.get(key);
  if (info.dtype != dtype || info.shape != shape)
    fail(file.path(), ": key '", key, "': expected ", dtype, " ",
         toString(shape), ", but got ", info.dtypeName, " ",
         toString(info.shape));
  return file.data(info);
}

CheckpointState RunFolder::loadCheckpoint(const CheckpointInfo &info,
                                          ParameterStore &store) const {
  const CheckpointState state = loadState(info);
  auto parameters = SafetensorsFile::open(info.folder / parametersName);
  auto optimizer = SafetensorsFile::open(info.folder / optimizerName);
  std::set<std::string> wanted;
  for (const TrainableParameter &trainable : store.trainables()) {
    const ParameterSpec &spec = store.specs()[trainable.index];
    wanted.insert(spec.name);
    const std::span<const std::byte> master =
        expectTensor(*parameters, spec.name, trainable.masterType, spec.shape);
    forEachPiece(trainable, [&](int64_t begin, int64_t count) {
      trainable.writeMaster(
          begin, count, master.data() + begin * sizeOf(trainable.masterType));
    });
    dropPages(master);
    forEachMoment(trainable, spec,
                  [&](const std::string &key, DType type,
                      const std::vector<int64_t> &shape, void *memory) {
                    const std::span<const std::byte> bytes =
                        expectTensor(*optimizer, key, type, shape);
                    if (!bytes.empty())
                      std::memcpy(memory, bytes.data(), bytes.size());
                    dropPages(bytes);
                  });
  }
  for (const TensorInfo &tensor : parameters->tensors())
    if (!wanted.contains(tensor.name))
      fail(parameters->path(), ": key '", tensor.name,
           "': unexpected key, no trainable parameter has this name");
  store.refreshComputeCopies();
  return state;
}

void RunFolder::pruneCheckpoints(int64_t keep, int64_t newest) {
  const std::vector<CheckpointInfo> all = checkpoints();
  // Those before `end` count.
  size_t end = all.size();
  while (end > 0 && all[end - 1].step > newest)
    --end;
  for (size_t i = 0; i < all.size(); ++i) {
    const bool isLastOfPhase =
        i + 1 == end || (i + 1 < end && all[i + 1].phase != all[i].phase);
    const bool isRecent = i < end && all[i].phase == all[end - 1].phase &&
                          int64_t(end - i) <= keep;
    if (isLastOfPhase || isRecent)
      continue;
    // Under a temporary name first: a kill amid the removal must not leave
    // half a checkpoint that looks like one.
    const fs::path doomed =
        root / "checkpoints" /
        (temporaryPrefix + all[i].folder.filename().string());
    removeFolder(doomed);
    renameDurably(all[i].folder, doomed);
    removeFolder(doomed);
  }
}
