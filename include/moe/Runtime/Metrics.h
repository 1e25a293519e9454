//===-- Metrics.h - TensorBoard event files ---------------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_RUNTIME_METRICS_H
#define MOE_RUNTIME_METRICS_H

#include "moe/Runtime/Files.h"

#include <map>

namespace polymoe {

/// CRC-32C (Castagnoli) of the bytes.
uint32_t crc32c(std::string_view bytes);

/// A file events.out.tfevents.* of scalars. It says at its beginning from
/// which step on it counts, which makes TensorBoard drop what an earlier file
/// has of later steps: those that a resumed run does again.
class EventFile {
public:
  /// Makes a new file in `folder`; throws Error.
  EventFile(const std::filesystem::path &folder, int64_t firstStep);

  /// Appends one event with these scalars, by tag.
  void write(int64_t step, const std::map<std::string, double> &scalars);

  const std::filesystem::path &path() const { return filePath; }

private:
  void append(const std::string &event);
  std::filesystem::path filePath;
  FileDescriptor file;
};

} // namespace polymoe

#endif // MOE_RUNTIME_METRICS_H
