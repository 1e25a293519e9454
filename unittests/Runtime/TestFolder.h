//===-- TestFolder.h - a folder that goes away ------------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_UNITTESTS_RUNTIME_TESTFOLDER_H
#define MOE_UNITTESTS_RUNTIME_TESTFOLDER_H

#include "moe/Runtime/Error.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <unistd.h>

namespace polymoe {

class TestFolder {
public:
  TestFolder() {
    // In memory where the system allows it: these tests flush a lot.
    std::filesystem::path parent = "/dev/shm";
    if (::access(parent.c_str(), W_OK) != 0)
      parent = std::filesystem::temp_directory_path();
    std::string name = (parent / "polymoe-XXXXXX").string();
    if (!::mkdtemp(name.data()))
      std::abort();
    path = name;
  }
  TestFolder(const TestFolder &) = delete;
  ~TestFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  std::filesystem::path operator/(const std::string &name) const {
    return path / name;
  }
  /// How many names the folder holds.
  size_t count() const {
    auto all = std::filesystem::directory_iterator(path);
    return size_t(std::distance(begin(all), end(all)));
  }

  std::filesystem::path path;
};

/// The message of the Error that the call throws, or a note that it threw
/// none.
template <typename Call> std::string messageOf(const Call &call) {
  try {
    call();
  } catch (const Error &error) {
    return error.what();
  }
  return "(no error)";
}

} // namespace polymoe

#define EXPECT_ERROR(call, text)                                               \
  do {                                                                         \
    std::string thrownMessage = polymoe::messageOf([&] { call; });             \
    EXPECT_NE(thrownMessage.find(text), std::string::npos)                     \
        << "expected: " << (text) << "\nbut got:  " << thrownMessage;          \
  } while (false)

#endif // MOE_UNITTESTS_RUNTIME_TESTFOLDER_H
