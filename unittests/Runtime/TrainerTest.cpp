//===-- TrainerTest.cpp ---------------------------------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Runtime/Trainer.h"
#include "TestCorpus.h"
#include "TestExecutor.h"
#include "TestFolder.h"
#include "moe/Runtime/Metrics.h"
#include "moe/Runtime/ThreadPool.h"

#include <nlohmann/json.hpp>

#include <csignal>
#include <cstring>
#include <sys/wait.h>
#include <unistd.h>

using namespace polymoe;
using Access = RunFolder::Access;
using Status = TrainResult::Status;

namespace {
class Training : public testing::Test {
protected:
  Training() {
    TestCorpus made;
    made.add("en", "train", {50, 30, 9, 10, 70}, 1);
    made.add("el", "train", {40, 60, 80}, 500);
    made.write(folder / "corpus");
    corpus = std::make_unique<Corpus>(folder / "corpus", 1000);
  }

  static TrainerOptions defaults() {
    TrainerOptions options;
    options.steps = 20;
    options.rows = 2;
    options.accumulate = 2;
    options.saveEvery = 3;
    options.schedule = {.rate = 1e-2, .warmup = 3};
    return options;
  }

  /// One process's worth of training into `run`.
  TrainResult train(const std::string &run, TrainerOptions options,
                    TrainerHooks hooks = {},
                    const std::function<void(QuadraticModel &)> &prepare = {}) {
    ThreadPool pool(threads);
    ParameterStore store(QuadraticModel::parameters(1000), ".", pool);
    MoeContext context{&pool};
    QuadraticModel model(store, context);
    if (prepare)
      prepare(model);
    CorpusSampler source(*corpus, {.length = 8, .seed = 7});
    RunFolder out(folder / run, Access::Write);
    return Trainer(model, store, source, out, options, std::move(hooks)).run();
  }

  /// All bytes of a checkpoint.
  static std::map<std::string, std::string>
  filesOf(const std::filesystem::path &checkpoint) {
    std::map<std::string, std::string> files;
    for (const auto &entry : std::filesystem::directory_iterator(checkpoint))
      files[entry.path().filename().string()] = readText(entry.path());
    return files;
  }

  /// The metrics without what the clock says.
  std::vector<nlohmann::json> metricsOf(const std::string &run) const {
    std::vector<nlohmann::json> lines;
    std::istringstream text(readText(folder / run / "metrics.jsonl"));
    for (std::string line; std::getline(text, line);) {
      lines.push_back(nlohmann::json::parse(line));
      lines.back().erase("seconds");
    }
    return lines;
  }

  int threads = 1;
  TestFolder folder;
  std::unique_ptr<Corpus> corpus;
};
} // namespace

TEST_F(Training, Learns) {
  TrainResult result = train("a", defaults());
  EXPECT_EQ(result.status, Status::Finished);
  EXPECT_EQ(result.step, 20);
  auto lines = metricsOf("a");
  ASSERT_EQ(lines.size(), 20u);
  EXPECT_LT(double(lines[19]["loss"]), double(lines[0]["loss"]));
  EXPECT_EQ(lines[0]["learning_rate"], 0);
  EXPECT_EQ(lines[3]["learning_rate"], 1e-2);
  EXPECT_EQ(lines[19]["tokens"], 20 * 4 * 8);
}

TEST_F(Training, DoesNotDependOnThreads) {
  TrainResult one = train("a", defaults());
  threads = 3;
  TrainResult three = train("b", defaults());
  EXPECT_EQ(filesOf(one.checkpoint), filesOf(three.checkpoint));
}

// The same rows in one batch or in four: the same loss up to rounding.
TEST_F(Training, AccumulationNormalisesOverTheStep) {
  TrainerOptions options = defaults();
  train("a", options);
  options.rows = 4;
  options.accumulate = 1;
  train("b", options);
  auto a = metricsOf("a"), b = metricsOf("b");
  for (size_t i = 0; i < 20; ++i)
    EXPECT_NEAR(double(a[i]["loss"]), double(b[i]["loss"]), 1e-5);
}

TEST_F(Training, ResumesWithTheSameBits) {
  TrainResult whole = train("whole", defaults());
  for (int64_t stopAt = 1; stopAt <= 40; ++stopAt) {
    // Dies in the middle of a micro-batch, as a kill would.
    struct Killed {};
    auto dieAt = [&](QuadraticModel &model) {
      model.onMicroBatch = [&model, stopAt] {
        if (model.microBatches == stopAt)
          throw Killed();
      };
    };
    std::filesystem::remove_all(folder / "cut");
    EXPECT_THROW(train("cut", defaults(), {}, dieAt), Killed);
    TrainerOptions resume = defaults();
    resume.resume = true;
    TrainResult result = train("cut", resume);
    EXPECT_EQ(result.status, Status::Finished);
    ASSERT_EQ(filesOf(result.checkpoint), filesOf(whole.checkpoint));
    ASSERT_EQ(metricsOf("cut"), metricsOf("whole"));
  }
}

TEST_F(Training, OnADeviceGivesTheSameCheckpoints) {
  TrainResult whole = train("whole", defaults());
  struct Killed {};
  TrainerHooks hooks;
  hooks.checkpointSaved = [](const CheckpointInfo &info) {
    if (info.step == 9)
      throw Killed();
  };
  TrainerOptions options = defaults();
  options.resume = true;
  auto trainOnDevice = [&] {
    ThreadPool pool(1);
    ParameterStore store(QuadraticModel::parameters(1000), ".", pool);
    DeviceModel model(store, pool);
    CorpusSampler source(*corpus, {.length = 8, .seed = 7});
    RunFolder out(folder / "cut", Access::Write);
    return Trainer(model, store, source, out, options, hooks).run();
  };
  EXPECT_THROW(trainOnDevice(), Killed);
  hooks.checkpointSaved = {};
  EXPECT_EQ(filesOf(trainOnDevice().checkpoint), filesOf(whole.checkpoint));
}

static int callsLeft;
static int dieLater(const char *, const char *) {
  if (callsLeft-- == 0)
    ::_exit(9);
  return 0;
}

// Killed at system calls of saving, again and again in one run.
TEST_F(Training, SurvivesManyKills) {
  TrainResult whole = train("whole", defaults());
  TrainerOptions resume = defaults();
  resume.resume = true;
  int kills = 0;
  for (int round = 0;; ++round) {
    ASSERT_LT(round, 200);
    pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      callsLeft = 13 + 5 * round % 40;
      faultHook = dieLater;
      train("cut", resume);
      ::_exit(0);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFEXITED(status));
    if (WEXITSTATUS(status) == 0)
      break;
    ++kills;
  }
  EXPECT_GT(kills, 3);
  EXPECT_EQ(filesOf(folder / "cut" / "checkpoints" / "step-00000020"),
            filesOf(whole.checkpoint));
  EXPECT_EQ(metricsOf("cut"), metricsOf("whole"));
}

TEST_F(Training, AnInterruptSaves) {
  TrainResult whole = train("whole", defaults());
  auto interruptAt7 = [](QuadraticModel &model) {
    model.onMicroBatch = [&model] {
      if (model.microBatches == 13)
        ::raise(SIGINT);
    };
  };
  TrainResult result = train("cut", defaults(), {}, interruptAt7);
  EXPECT_EQ(result.status, Status::Interrupted);
  EXPECT_EQ(result.step, 7);
  EXPECT_EQ(result.checkpoint.filename(), "step-00000007");
  TrainerOptions resume = defaults();
  resume.resume = true;
  EXPECT_EQ(filesOf(train("cut", resume).checkpoint),
            filesOf(whole.checkpoint));
}

TEST_F(Training, ResumeOfNothingOrOfAFinishedRun) {
  TrainerOptions resume = defaults();
  resume.resume = true;
  TrainResult first = train("a", resume);
  auto before = filesOf(first.checkpoint);
  auto never = [](QuadraticModel &model) {
    model.onMicroBatch = [] { FAIL() << "trains a finished run"; };
  };
  TrainResult second = train("a", resume, {}, never);
  EXPECT_EQ(second.status, Status::Finished);
  EXPECT_EQ(second.step, 20);
  EXPECT_EQ(second.checkpoint, first.checkpoint);
  EXPECT_EQ(filesOf(second.checkpoint), before);
  EXPECT_ERROR(train("a", defaults()), "--resume goes on");
}

TEST_F(Training, PhasesFollowEachOther) {
  train("a", defaults());
  TrainerOptions second = defaults();
  second.phase = 1;
  second.steps = 4;
  TrainResult result = train("a", second);
  EXPECT_EQ(result.step, 24);
  EXPECT_EQ(result.phaseStep, 4);
  EXPECT_TRUE(
      std::filesystem::exists(folder / "a" / "checkpoints" / "step-00000020"));
  second.resume = true;
  EXPECT_EQ(train("a", second).step, 24);
  TrainerOptions first = defaults();
  first.resume = true;
  EXPECT_ERROR(train("a", first), "but the run is in phase 1 already");
}

TEST_F(Training, NoStepsSaveTheInitialState) {
  TrainerOptions options = defaults();
  options.steps = 0;
  TrainResult result = train("a", options);
  EXPECT_EQ(result.status, Status::Finished);
  EXPECT_EQ(result.checkpoint.filename(), "step-00000000");
  // A later phase does not overwrite the checkpoint that it came from.
  options.phase = 1;
  EXPECT_EQ(train("a", options).checkpoint.filename(), "step-00000001");
  options.resume = true;
  EXPECT_EQ(train("a", options).checkpoint.filename(), "step-00000001");
}

TEST_F(Training, StopsBeforeAPoisonedStepIsSaved) {
  auto poisonAt = [](QuadraticModel &model) {
    model.onMicroBatch = [&model] { model.poison = model.microBatches > 9; };
  };
  EXPECT_ERROR(train("a", defaults(), {}, poisonAt),
               "step 5: expected a finite loss 'loss', but got nan");
  RunFolder run(folder / "a", Access::Read);
  EXPECT_EQ(run.latestCheckpoint()->step, 3);
}

TEST_F(Training, ValidatesAndCallsHooks) {
  std::vector<int64_t> saved;
  TrainerHooks hooks;
  hooks.validate = [] {
    return std::map<std::string, double>{{"valid/el", 2}};
  };
  hooks.checkpointSaved = [&](const CheckpointInfo &info) {
    EXPECT_TRUE(std::filesystem::exists(info.folder / "manifest.json"));
    saved.push_back(info.step);
  };
  TrainerOptions options = defaults();
  options.validateEvery = 8;
  train("a", options, hooks);
  EXPECT_EQ(saved, (std::vector<int64_t>{3, 6, 9, 12, 15, 18, 20}));
  std::vector<int64_t> validated;
  for (const nlohmann::json &line : metricsOf("a"))
    if (line.contains("valid/el"))
      validated.push_back(line["step"]);
  EXPECT_EQ(validated, (std::vector<int64_t>{8, 16, 20}));
}

TEST_F(Training, SavesBeforeItValidates) {
  TrainerHooks hooks;
  hooks.validate = []() -> std::map<std::string, double> { fail("no text"); };
  TrainerOptions options = defaults();
  options.validateEvery = 6;
  EXPECT_ERROR(train("a", options, hooks), "no text");
  EXPECT_EQ(RunFolder(folder / "a", Access::Read).latestCheckpoint()->step, 6);
  options.validateEvery = 100; // the last step only
  options.resume = true;
  EXPECT_ERROR(train("a", options, hooks), "no text");
  TrainResult result = train("a", options, hooks);
  EXPECT_EQ(result.status, Status::Finished);
  EXPECT_EQ(result.checkpoint.filename(), "step-00000020");
}

TEST_F(Training, ResumesBeforeDamagedCheckpoints) {
  TrainResult whole = train("whole", defaults());
  TrainerOptions options = defaults();
  options.keep = 9;
  train("cut", options);
  const std::filesystem::path all = folder / "cut" / "checkpoints";
  for (const char *step :
       {"step-00000012", "step-00000015", "step-00000018", "step-00000020"})
    std::filesystem::resize_file(all / step / "state.json", 5);
  options.keep = 1;
  options.saveEvery = 5;
  options.resume = true;
  TrainerHooks hooks;
  hooks.checkpointSaved = [](const CheckpointInfo &info) {
    if (info.step == 15)
      throw Error("stop");
  };
  EXPECT_ERROR(train("cut", options, hooks), "stop");
  EXPECT_EQ(RunFolder(folder / "cut", Access::Read).latestCheckpoint()->step,
            15);
  EXPECT_EQ(filesOf(train("cut", options).checkpoint),
            filesOf(whole.checkpoint));
}

TEST_F(Training, WarnsOfAnotherInstructionSet) {
  TrainerOptions options = defaults();
  options.variant = "avx512";
  options.steps = 2;
  train("a", options);
  options.variant = "avx2";
  options.resume = true;
  std::vector<std::string> warnings;
  TrainerHooks hooks;
  hooks.warn = [&](const std::string &text) { warnings.push_back(text); };
  train("a", options, hooks);
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_NE(warnings[0].find("avx512"), std::string::npos);
}

TEST_F(Training, CountsRowsBeforehand) {
  SafetensorsWriter writer(folder / "t",
                           {{"languages", "en"}, {"rounds", "0"}});
  std::vector<int32_t> tokens(3 * 4, 1), languages(3, 0);
  writer.add("tokens", DType::I32, {3, 4}, std::as_bytes(std::span(tokens)));
  writer.add("languages", DType::I32, {3}, std::as_bytes(std::span(languages)));
  writer.finish();
  TokensFile source(folder / "t", 1000);
  ThreadPool pool(1);
  ParameterStore store(QuadraticModel::parameters(1000), ".", pool);
  MoeContext context{&pool};
  QuadraticModel model(store, context);
  RunFolder out(folder / "run", Access::Write);
  TrainerOptions options = defaults();
  options.steps = 1;
  EXPECT_ERROR(Trainer(model, store, source, out, options).run(),
               "expected at least 4 rows, but got 3");
  EXPECT_EQ(model.microBatches, 0);
}

TEST_F(Training, RefusesWhatCannotTrain) {
  ThreadPool pool(1);
  ParameterStore store({{"w", DType::F32, {1}, false, InitOrigin{}}}, ".",
                       pool);
  MoeContext context{&pool};
  QuadraticModel model(store, context);
  CorpusSampler source(*corpus, {.length = 8});
  RunFolder out(folder / "run", Access::Write);
  EXPECT_ERROR(Trainer(model, store, source, out, defaults()),
               "all are frozen");
}

TEST(LossWeights, AreInverseCountsOfTheWholeStep) {
  Batch a, b;
  a.rows = b.rows = 1;
  a.length = b.length = 2;
  a.labels = {2, -1};
  b.labels = {2, 3};
  a.old = {0, 0};
  b.old = {0, 1};
  LossWeights weights = lossWeightsOf({a, b});
  EXPECT_DOUBLE_EQ(weights.token, 1.0 / 3);
  EXPECT_DOUBLE_EQ(weights.oldToken, 1);
  EXPECT_DOUBLE_EQ(weights.microBatch, 0.5);
  EXPECT_DOUBLE_EQ(weights.position, 0.25);
  EXPECT_EQ(lossWeightsOf({a}).oldToken, 0); // never a division by zero
}
