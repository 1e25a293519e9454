//===-- Files.h - mapped input, durable output ------------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Everything that the runtime keeps goes through these functions: a reader
// sees the old file or the new one, never half of one, whatever happens to the
// process, the disk or the power.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_RUNTIME_FILES_H
#define MOE_RUNTIME_FILES_H

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace polymoe {

/// Owns a file descriptor.
class FileDescriptor {
public:
  FileDescriptor() = default;
  explicit FileDescriptor(int descriptor) : descriptor(descriptor) {}
  FileDescriptor(FileDescriptor &&other) noexcept
      : descriptor(std::exchange(other.descriptor, -1)) {}
  FileDescriptor &operator=(FileDescriptor &&other) noexcept {
    std::swap(descriptor, other.descriptor);
    return *this;
  }
  ~FileDescriptor() { reset(); }

  int get() const { return descriptor; }
  void reset();

private:
  int descriptor = -1;
};

/// A whole regular file, mapped read-only. Truncating the file while it is
/// mapped is the one thing that a reader cannot be protected from.
class MappedFile {
public:
  /// Throws Error when the file cannot be opened or is not a regular file.
  explicit MappedFile(const std::filesystem::path &path);
  MappedFile(const MappedFile &) = delete;
  MappedFile &operator=(const MappedFile &) = delete;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data, size}; }

private:
  const std::byte *data = nullptr;
  size_t size = 0;
};

/// Tells the system that bytes of a mapped file will be read soon.
void readPagesAhead(std::span<const std::byte> mapped);
/// Gives back the memory of bytes that lie in a mapped file; they are read
/// again when they are looked at.
void dropPages(std::span<const std::byte> mapped);

/// What a checksum function says of some bytes: XXH3, 128 bits, as 32
/// hexadecimal digits, high half first.
struct Checksum {
  int64_t bytes = 0;
  std::string digest;
  bool operator==(const Checksum &) const = default;
};

/// Reads the whole file. Throws Error.
Checksum checksumOf(const std::filesystem::path &path);
Checksum checksumOf(std::span<const std::byte> bytes);

/// What changes with a regular file, in nanoseconds: `modified` when it is
/// written to, `changed` also when another file gets its name or its times are
/// set.
struct FileState {
  int64_t bytes = 0, modified = 0, changed = 0;
};
/// Throws Error.
FileState fileState(const std::filesystem::path &path);

/// A file in the making. It grows under a temporary name in the folder of
/// `path`; commit() makes it durable and gives it its name. Destroyed before
/// that, it leaves nothing behind.
class OutputFile {
public:
  explicit OutputFile(std::filesystem::path path);
  OutputFile(OutputFile &&) noexcept;
  ~OutputFile();

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);

  /// Flushes to the disk, renames, flushes the folder. Returns the checksum
  /// of all that was written.
  Checksum commit();

private:
  struct Hash;
  void flush();
  std::filesystem::path path, temporary;
  FileDescriptor file;
  std::vector<std::byte> buffer;
  std::unique_ptr<Hash> hash;
  int64_t written = 0;
};

/// The file's text. Throws Error when it cannot be read or is longer than
/// `limit` bytes.
std::string readText(const std::filesystem::path &path,
                     int64_t limit = int64_t(1) << 30);

/// Replaces the file by one with this text, atomically and durably.
Checksum writeText(const std::filesystem::path &path, std::string_view text);

/// Makes the names in a folder durable.
void syncFolder(const std::filesystem::path &folder);

/// Renames and makes the names durable; a folder that bears the new name is
/// exchanged with the old one in one step, and then lies under the old name.
void renameDurably(const std::filesystem::path &from,
                   const std::filesystem::path &to);

/// Gives a file that nobody changes a second name, durably: it stays when the
/// first one goes. Where the disk cannot link the two it is copied. What `to`
/// named before is replaced.
void linkOrCopy(const std::filesystem::path &from,
                const std::filesystem::path &to);

/// Removes a folder of files, if it is there. One that cannot be removed stays:
/// nothing depends on it.
void removeFolder(const std::filesystem::path &folder);

/// For tests: called before each system call that changes the disk, with its
/// name ("open", "write", "fsync", "rename", "remove") and the path. A result
/// other than 0 is taken for the errno of that call. Null (the default) costs
/// nothing.
using FaultHook = int (*)(const char *call, const char *path);
extern FaultHook faultHook;

} // namespace polymoe

#endif // MOE_RUNTIME_FILES_H
