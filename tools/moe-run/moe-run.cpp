//===-- moe-run.cpp - trains, evaluates and runs models -------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Commands.h"

#include "moe/Runtime/Error.h"
#include "moe/Runtime/ThreadPool.h"

#include <cerrno>
#include <cstdio>
#include <iostream>

using namespace polymoe;

void polymoe::flushOutput() {
  errno = 0;
  if (!std::cout.flush() || std::fflush(stdout) != 0)
    failWithErrno(errno ? errno : EIO, "standard output: cannot be written");
}

static int run(int argc, char **argv) {
  CLI::App app(
      "Trains, evaluates and runs multilingual mixtures of experts.\n\n"
      "  moe-run train moe.mlir --stage=1 --data corpus/ --out run/\n"
      "  moe-run train run/ --stage=2 --data corpus/\n"
      "  moe-run eval run/ --data corpus/\n"
      "  moe-run generate run/ --prompt 'Hello'\n\n"
      "A model is a .mlir file, as moe-translate and moe-opt write it, or the "
      "folder of a run.",
      "moe-run");
  app.require_subcommand(1);
  app.footer("moe-run COMMAND --help explains a command. Exit code 3: "
             "interrupted, and all is saved.");
  Command command;
  addTrainCommand(app, command);
  addEvalCommand(app, command);
  addScoreCommand(app, command);
  addGenerateCommand(app, command);
  addInspectCommand(app, command);
  addProfileCommand(app, command);
  CLI11_PARSE(app, argc, argv);
  // Not a thread for every run of a program: decoding makes many short ones.
  int code = 0;
  runOnLargeStack([&] { code = command(); });
  flushOutput();
  return code;
}

int main(int argc, char **argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception &error) {
    std::fprintf(stderr, "moe-run: error: %s\n", error.what());
    return 1;
  }
}
