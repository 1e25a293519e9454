//===-- Progress.h - what a run shows of itself -----------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_RUNTIME_PROGRESS_H
#define MOE_RUNTIME_PROGRESS_H

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace polymoe {

/// One line about how far some work is: redrawn in place on a terminal, else
/// a new line every few seconds, at the start and at the end.
class Progress {
public:
  using Clock = std::chrono::steady_clock;

  struct Options {
    int descriptor = 2;       ///< where to; a terminal or not
    double flopsPerToken = 0; ///< model FLOPs, 0 when unknown
    double secondsApart = 5;  ///< between plain lines
    bool quiet = false;
  };

  /// `unit` is what is counted: "step", "batch".
  Progress(std::string label, std::string unit, int64_t total, Options options);
  Progress(const Progress &) = delete;
  ~Progress();

  /// Work begins at `done`, where a resumed run goes on.
  void start(int64_t done);
  /// `tokens` were handled since start().
  void update(int64_t done, int64_t tokens,
              std::optional<double> loss = std::nullopt);
  /// Of what is counted, `part` of `parts` are done beyond the last update.
  void updatePart(int64_t part, int64_t parts, int64_t tokens);
  /// A line of its own, above the bar.
  void note(std::string_view text);
  /// Takes the bar off the terminal, for something else to be printed there;
  /// the next update draws it again.
  void clear();
  void finish();

  /// The line for what was last updated, `width` columns at most; 0 for one
  /// without a bar. For tests: seconds since the start are given.
  std::string line(double seconds, int width) const;

private:
  void show(bool force);
  void write(std::string_view text) const;

  std::string label, unit;
  int64_t total, first = 0, done = 0, tokens = 0;
  int64_t part = 0, parts = 1;
  std::optional<double> loss;
  Options options;
  bool isTerminal = false, isShown = false;
  Clock::time_point started, shown;
};

/// "1h02m", "3m04s", "5s".
std::string formatSeconds(double seconds);
/// With three digits and a unit prefix: "12.3 G", "456 ".
std::string formatAmount(double amount);

} // namespace polymoe

#endif // MOE_RUNTIME_PROGRESS_H
