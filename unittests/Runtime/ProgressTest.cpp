//===-- ProgressTest.cpp --------------------------------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Runtime/Progress.h"
#include "TestFolder.h"
#include "moe/Runtime/Files.h"

#include <fcntl.h>
#include <unistd.h>

using namespace polymoe;

TEST(Progress, FormatsNumbers) {
  EXPECT_EQ(formatSeconds(4.6), "5s");
  EXPECT_EQ(formatSeconds(184), "3m04s");
  EXPECT_EQ(formatSeconds(3725), "1h02m");
  EXPECT_EQ(formatSeconds(456 * 86400 + 36600), "456d10h");
  EXPECT_EQ(formatSeconds(1e300), "?");
  EXPECT_EQ(formatAmount(12), "12 ");
  EXPECT_EQ(formatAmount(999.7), "1.00 k");
  EXPECT_EQ(formatAmount(1234), "1.23 k");
  EXPECT_EQ(formatAmount(12.34e9), "12.3 G");
  EXPECT_EQ(formatAmount(456e12), "456 T");
}

TEST(Progress, PlainLinesWhereThereIsNoTerminal) {
  TestFolder folder;
  FileDescriptor file(
      ::open((folder / "log").c_str(), O_WRONLY | O_CREAT, 0600));
  {
    Progress progress("train", "step", 200,
                      {.descriptor = file.get(), .flopsPerToken = 1e6});
    progress.start(100);
    for (int i = 101; i <= 150; ++i)
      progress.update(i, 1000 * (i - 100), 2.5);
    progress.note("valid el 1.5");
    EXPECT_EQ(progress.line(10, 0),
              "train step 150/200  loss 2.5000  5.00 ktokens/s  5.00 GFLOP/s  "
              "10s left");
  }
  const std::string text = readText(folder / "log");
  EXPECT_EQ(text.find('\r'), std::string::npos);
  // The first, the note, the last; fifty updates within an instant are one.
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 3);
  EXPECT_NE(text.find("\nvalid el 1.5\n"), std::string::npos);
}

TEST(Progress, FitsItsWidth) {
  Progress progress("train", "step", 200, {.quiet = true});
  progress.start(0);
  progress.update(50, 1000, 2.5);
  for (int width : {10, 40, 79, 200})
    EXPECT_LE(progress.line(10, width).size(), size_t(width));
  EXPECT_NE(progress.line(10, 100).find("[#######.......................]"),
            std::string::npos);
  progress.update(200, 4000, 2.5);
  EXPECT_NE(progress.line(40, 100).find("took 40s"), std::string::npos);
}
