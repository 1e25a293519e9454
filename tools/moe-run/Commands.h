//===-- Commands.h - the subcommands of moe-run -----------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_TOOLS_MOE_RUN_COMMANDS_H
#define MOE_TOOLS_MOE_RUN_COMMANDS_H

#include <CLI/CLI.hpp>

#include <functional>

namespace polymoe {

/// What the command line asks for; returns the exit code.
using Command = std::function<int()>;

// Each adds its subcommand to `app`, which sets `command` when it is used.
void addTrainCommand(CLI::App &app, Command &command);
void addEvalCommand(CLI::App &app, Command &command);
void addScoreCommand(CLI::App &app, Command &command);
void addGenerateCommand(CLI::App &app, Command &command);
void addInspectCommand(CLI::App &app, Command &command);
void addProfileCommand(CLI::App &app, Command &command);
void addProfileTimeCommand(CLI::App &app, Command &command);
void addProfilePerplexityCommand(CLI::App &app, Command &command);
/// Adds `deviation` to the command `profile`.
void addProfileDeviation(CLI::App &profile, Command &command);

/// Writes out what standard output has taken. Throws Error: a full disk shows
/// here.
void flushOutput();

/// The exit code of a training that Ctrl-C ended, all of it saved.
constexpr int exitInterrupted = 3;

} // namespace polymoe

#endif // MOE_TOOLS_MOE_RUN_COMMANDS_H
