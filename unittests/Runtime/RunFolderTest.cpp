//===-- RunFolderTest.cpp -------------------------------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Runtime/RunFolder.h"
#include "TestExecutor.h"
#include "TestFolder.h"
#include "moe/Runtime/Safetensors.h"
#include "moe/Runtime/ThreadPool.h"

#include <nlohmann/json.hpp>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <sys/wait.h>
#include <unistd.h>

using namespace polymoe;
using Access = RunFolder::Access;

namespace {
class Checkpoints : public testing::Test {
protected:
  Checkpoints() : pool(1), store(QuadraticModel::parameters(5), ".", pool) {}

  RunFolder open(Access access = Access::Write) {
    return RunFolder(folder / "run", access, [this](const std::string &text) {
      warnings.push_back(text);
    });
  }

  /// Saves step `step`, with the bias set to its number.
  void save(RunFolder &run, int64_t step, int64_t phase = 0) {
    *static_cast<float *>(store.master("bias")) = float(step);
    store.trainables()[0].m[1] = float(step) / 2;
    run.saveCheckpoint(store, {.step = step,
                               .phase = phase,
                               .phaseStep = step,
                               .optimizerSteps = step,
                               .seed = ~uint64_t(0),
                               .data = "position",
                               .variant = "x86-64-v4"});
  }

  /// The step of the newest checkpoint, loaded, or -1.
  int64_t latest(RunFolder &run) {
    std::optional<CheckpointInfo> info = run.latestCheckpoint();
    if (!info)
      return -1;
    ParameterStore other(QuadraticModel::parameters(5), ".", pool);
    const CheckpointState state = run.loadCheckpoint(*info, other);
    EXPECT_EQ(*static_cast<float *>(other.master("bias")), float(info->step));
    EXPECT_EQ(*static_cast<float *>(other.value("bias")), float(info->step));
    EXPECT_EQ(other.trainables()[0].m[1], float(info->step) / 2);
    EXPECT_EQ(state.step, info->step);
    EXPECT_EQ(state.seed, ~uint64_t(0));
    EXPECT_EQ(state.data, "position");
    EXPECT_EQ(state.variant, "x86-64-v4");
    return info->step;
  }

  void damage(const std::filesystem::path &path, int64_t at) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(at);
    const char byte = char(file.get());
    file.seekp(at);
    file.put(char(byte ^ 1));
  }

  TestFolder folder;
  ThreadPool pool;
  ParameterStore store;
  std::vector<std::string> warnings;
};
} // namespace

TEST_F(Checkpoints, ComeBack) {
  RunFolder run = open();
  EXPECT_EQ(latest(run), -1);
  save(run, 3);
  save(run, 12);
  EXPECT_EQ(latest(run), 12);
  EXPECT_EQ(run.checkpointPath(12).filename(), "step-00000012");
  save(run, 12); // again: replaces
  EXPECT_EQ(latest(run), 12);
  EXPECT_EQ(run.checkpoints().size(), 2u);
  // A compute copy comes from the master that was loaded.
  auto file =
      SafetensorsFile::open(run.checkpointPath(12) / "parameters.safetensors");
  EXPECT_EQ(file->get("table").dtype, DType::F32);
  EXPECT_EQ(file->find("frozen"), nullptr);
}

TEST_F(Checkpoints, DamagedOnesArePassedOver) {
  for (const char *name : {"parameters.safetensors", "optimizer.safetensors",
                           "state.json", "manifest.json"}) {
    std::filesystem::remove_all(folder / "run");
    RunFolder run = open();
    save(run, 1);
    save(run, 2);
    const std::filesystem::path path = run.checkpointPath(2) / name;
    for (int64_t at = 1; at < int64_t(std::filesystem::file_size(path));
         at += 37) {
      damage(path, at);
      warnings.clear();
      const int64_t got = latest(run);
      // Some bytes of the manifest bear no meaning: spaces.
      if (std::string(name) != "manifest.json") {
        EXPECT_EQ(got, 1) << name << " at " << at;
        ASSERT_EQ(warnings.size(), 1u);
        EXPECT_NE(warnings[0].find(name), std::string::npos) << warnings[0];
      }
      damage(path, at);
    }
    EXPECT_EQ(latest(run), 2);
    std::filesystem::resize_file(path, 5);
    EXPECT_EQ(latest(run), 1);
    std::filesystem::remove(path);
    EXPECT_EQ(latest(run), 1);
    save(run, 2); // the run comes by again
    EXPECT_EQ(latest(run), 2);
  }
}

TEST_F(Checkpoints, MustFitTheModel) {
  RunFolder run = open();
  save(run, 1);
  auto loadInto = [&](std::vector<ParameterSpec> specs) {
    ParameterStore other(std::move(specs), ".", pool);
    run.loadCheckpoint(*run.latestCheckpoint(), other);
  };
  EXPECT_ERROR(loadInto(QuadraticModel::parameters(6)),
               "key 'table': expected F32 [6], but got F32 [5]");
  std::vector<ParameterSpec> specs = QuadraticModel::parameters(5);
  specs[2].trainable = true;
  EXPECT_ERROR(loadInto(specs), "key 'frozen' is missing");
  specs = QuadraticModel::parameters(5);
  specs[1].trainable = false;
  EXPECT_ERROR(loadInto(specs), "key 'bias': unexpected key");
}

TEST_F(Checkpoints, CarryStatesOf8Bits) {
  auto specs = [] {
    return std::vector<ParameterSpec>{
        {"w",
         DType::BF16,
         {50, 100},
         true,
         InitOrigin{InitOrigin::Kind::Normal, 1, 3}},
        {"b", DType::F32, {3}, true, InitOrigin{}}};
  };
  ParameterOptions options;
  options.states = OptimizerStates::Blockwise8;
  ParameterStore first(specs(), ".", pool, options);
  const TrainableParameter &state = first.trainables()[0];
  for (int64_t i = 0; i < state.elements; ++i) {
    const float value = float(i) * 1.0001f;
    state.writeMaster(i, 1, &value);
    state.m8.codes[i] = uint8_t(i * 7);
    state.v8.codes[i] = uint8_t(i * 11);
  }
  for (int64_t i = 0; i < blocksOf(state.elements); ++i) {
    state.m8.absmax[i] = float(i) + 0.5f;
    state.v8.absmax[i] = float(i) + 0.25f;
  }
  RunFolder run = open();
  CheckpointState saved;
  saved.step = 1;
  run.saveCheckpoint(first, saved);

  ParameterStore second(specs(), ".", pool, options);
  run.loadCheckpoint(*run.latestCheckpoint(), second);
  const TrainableParameter &got = second.trainables()[0];
  auto expectSame = [](const void *a, const void *b, int64_t bytes) {
    EXPECT_EQ(0, std::memcmp(a, b, size_t(bytes)));
  };
  expectSame(got.split.high, state.split.high, state.elements * 2);
  expectSame(got.split.low, state.split.low, state.elements * 2);
  expectSame(got.m8.codes, state.m8.codes, state.elements);
  expectSame(got.v8.codes, state.v8.codes, state.elements);
  expectSame(got.m8.absmax, state.m8.absmax, blocksOf(state.elements) * 4);
  expectSame(got.v8.absmax, state.v8.absmax, blocksOf(state.elements) * 4);

  ParameterStore other(specs(), ".", pool);
  EXPECT_ERROR(run.loadCheckpoint(*run.latestCheckpoint(), other),
               "key 'w.m': expected F32 [50, 100], but got U8 [50, 100]");
}

TEST_F(Checkpoints, PruningKeepsWhatLaterPhasesStandOn) {
  RunFolder run = open();
  for (int64_t step : {1, 2, 3})
    save(run, step, 0);
  for (int64_t step : {4, 5, 6, 7})
    save(run, step, 1);
  run.pruneCheckpoints(2, 7);
  std::vector<int64_t> steps;
  for (const CheckpointInfo &info : run.checkpoints())
    steps.push_back(info.step);
  EXPECT_EQ(steps, (std::vector<int64_t>{3, 6, 7}));
  run.pruneCheckpoints(0, 7);
  EXPECT_EQ(run.checkpoints().size(), 2u);
  EXPECT_EQ(latest(run), 7);
}

TEST_F(Checkpoints, PruningDoesNotCountWhatWasPassedOver) {
  RunFolder run = open();
  for (int64_t step : {1, 2, 5, 8})
    save(run, step, 0);
  save(run, 9, 1);
  for (int64_t step : {5, 8, 9})
    damage(run.checkpointPath(step) / "parameters.safetensors", 99);
  ASSERT_EQ(latest(run), 2);
  save(run, 4, 0);
  run.pruneCheckpoints(2, 4);
  EXPECT_EQ(run.checkpoints().size(), 2u);
  EXPECT_EQ(latest(run), 4);
  std::filesystem::remove_all(run.checkpointPath(4));
  EXPECT_EQ(latest(run), 2);
  // Those without a manifest count neither, and are no checkpoints.
  std::filesystem::remove(run.checkpointPath(2) / "manifest.json");
  EXPECT_EQ(run.checkpointFolders().size(), 1u);
  EXPECT_TRUE(run.checkpoints().empty());
}

//===----------------------------------------------------------------------===//
// Faults
//===----------------------------------------------------------------------===//

static int callsLeft;

static int dieLater(const char *, const char *) {
  if (callsLeft-- == 0)
    ::_exit(9);
  return 0;
}

static int failLater(const char *, const char *) {
  return callsLeft-- == 0 ? ENOSPC : 0;
}

// A process that dies at any system call of a save or of what follows.
TEST_F(Checkpoints, AKillAtAnyCallLosesNothingSaved) {
  {
    RunFolder run = open();
    save(run, 1);
    save(run, 2);
  }
  for (int after = 0;; ++after) {
    pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      RunFolder run = open();
      callsLeft = after;
      faultHook = dieLater;
      save(run, 3);
      run.pruneCheckpoints(1, 3);
      ::_exit(0);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFEXITED(status));
    RunFolder run = open(); // the lock went with the process
    const int64_t got = latest(run);
    EXPECT_TRUE(got == 2 || got == 3);
    EXPECT_TRUE(warnings.empty()) << warnings[0];
    for (const auto &entry :
         std::filesystem::directory_iterator(folder / "run" / "checkpoints"))
      EXPECT_TRUE(entry.path().filename().string().starts_with("step-"))
          << entry.path();
    if (WEXITSTATUS(status) == 0) {
      EXPECT_EQ(got, 3);
      EXPECT_EQ(run.checkpoints().size(), 1u);
      EXPECT_GT(after, 15); // the hook was there
      break;
    }
    std::filesystem::remove_all(run.checkpointPath(3));
    save(run, 1);
    save(run, 2);
  }
}

static std::vector<std::string> calls;
static int noteCall(const char *call, const char *path) {
  calls.push_back(concat(call, " ", std::filesystem::path(path).filename()));
  return 0;
}

// What no test can see, power that fails, rests on this order alone.
TEST_F(Checkpoints, AreOnTheDiskBeforeTheyHaveTheirName) {
  RunFolder run = open();
  calls.clear();
  faultHook = noteCall;
  save(run, 2);
  faultHook = nullptr;
  auto at = [&](const std::string &call) {
    auto it = std::find(calls.begin(), calls.end(), call);
    EXPECT_NE(it, calls.end()) << call;
    return it - calls.begin();
  };
  for (const char *name : {"parameters.safetensors", "optimizer.safetensors",
                           "state.json", "manifest.json"}) {
    EXPECT_LT(at(concat("fsync ", name)), at(concat("rename ", name)));
    EXPECT_LE(at(concat("rename ", name)), at("rename manifest.json"));
  }
  const auto named = at("rename step-00000002");
  // The folder that was made is flushed once more with all its names in it.
  EXPECT_EQ(calls[size_t(named) - 1], "fsync .making-step-00000002");
  EXPECT_LT(at("rename manifest.json"), named - 1);
  EXPECT_EQ(calls[size_t(named) + 1], "fsync checkpoints");
}

TEST_F(Checkpoints, AFullDiskAtAnyCallLosesNothingSaved) {
  RunFolder run = open();
  save(run, 1);
  for (int after = 0;; ++after) {
    callsLeft = after;
    faultHook = failLater;
    const std::string message = messageOf([&] { save(run, 2); });
    faultHook = nullptr;
    if (message == "(no error)") {
      // Removing what is not needed any more may fail without harm.
      EXPECT_EQ(latest(run), 2);
      EXPECT_GT(after, 15);
      break;
    }
    EXPECT_NE(message.find("No space left on device"), std::string::npos)
        << message;
    EXPECT_NE(message.find("run/checkpoints"), std::string::npos) << message;
    const int64_t got = latest(run);
    EXPECT_TRUE(got == 1 || got == 2);
    std::filesystem::remove_all(run.checkpointPath(2));
  }
}

//===----------------------------------------------------------------------===//
// The rest of the folder
//===----------------------------------------------------------------------===//

TEST_F(Checkpoints, OneWriterAtATime) {
  {
    RunFolder first = open();
    EXPECT_ERROR(open(), concat("process ", ::getpid(), " does"));
    RunFolder reader = open(Access::Read); // reading is always possible
  }
  open();
}

TEST_F(Checkpoints, TheLockDiesWithItsProcess) {
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  pid_t child = ::fork();
  if (child == 0) {
    RunFolder run = open();
    (void)!::write(ready[1], "x", 1);
    ::pause();
  }
  char byte;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  EXPECT_ERROR(open(), concat("process ", child, " does"));
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  open();
  ::close(ready[0]);
  ::close(ready[1]);
}

TEST_F(Checkpoints, FoldersThatCannotBe) {
  EXPECT_ERROR(open(Access::Read), "expected a run folder");
  std::ofstream(folder / "run") << "a file";
  EXPECT_ERROR(open(), "cannot be created");
  EXPECT_ERROR(RunFolder("/proc/run", Access::Write), "/proc/run");
}

TEST_F(Checkpoints, RunFile) {
  RunFolder run = open();
  EXPECT_TRUE(run.readRun().is_null());
  run.writeRun({{"phases", {1, 2}}});
  EXPECT_EQ(open(Access::Read).readRun()["phases"][1], 2);
  std::ofstream(folder / "run" / "run.json") << "[]";
  EXPECT_ERROR(run.readRun(), "run.json: expected a JSON object");
}

TEST_F(Checkpoints, MetricsForgetWhatIsDoneAgain) {
  RunFolder run = open();
  run.truncateMetrics(0);
  for (int64_t step : {1, 2, 3})
    run.appendMetrics({{"step", step}});
  std::ofstream(run.metricsPath(), std::ios::app) << "{\"step\": 2, \"torn";
  run.truncateMetrics(2);
  run.appendMetrics({{"step", 3}, {"again", true}});
  EXPECT_EQ(readText(run.metricsPath()),
            "{\"step\":1}\n{\"step\":2}\n{\"again\":true,\"step\":3}\n");
}
