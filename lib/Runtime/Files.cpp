//===-- Files.cpp - mapped input, durable output --------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Runtime/Files.h"
#include "moe/Runtime/Error.h"

#include <xxhash.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <fcntl.h>
#include <linux/fs.h>
#include <memory>
#include <new>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

using namespace polymoe;

FaultHook polymoe::faultHook = nullptr;

/// The errno that a test wants of this call, or 0.
static int faultOf(const char *call, const std::filesystem::path &path) {
  return faultHook ? faultHook(call, path.c_str()) : 0;
}

//===----------------------------------------------------------------------===//
// Checksums
//===----------------------------------------------------------------------===//

static std::string digestOf(XXH128_hash_t hash) {
  static const char digits[] = "0123456789abcdef";
  std::string text(32, '0');
  for (int i = 0; i < 16; ++i) {
    text[15 - i] = digits[hash.high64 >> (4 * i) & 15];
    text[31 - i] = digits[hash.low64 >> (4 * i) & 15];
  }
  return text;
}

Checksum polymoe::checksumOf(std::span<const std::byte> bytes) {
  return {int64_t(bytes.size()),
          digestOf(XXH3_128bits(bytes.data(), bytes.size()))};
}

struct OutputFile::Hash {
  Hash() : state(XXH3_createState()) {
    if (!state)
      throw std::bad_alloc();
    XXH3_128bits_reset(state);
  }
  Hash(const Hash &) = delete;
  ~Hash() { XXH3_freeState(state); }
  XXH3_state_t *state;
};

Checksum polymoe::checksumOf(const std::filesystem::path &path) {
  MappedFile file(path);
  const std::span<const std::byte> bytes = file.bytes();
  const std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> hash(
      XXH3_createState(), XXH3_freeState);
  if (!hash)
    throw std::bad_alloc();
  XXH3_128bits_reset(hash.get());
  // Piece by piece: a checkpoint is as large as what trains.
  constexpr size_t piece = size_t(16) << 20;
  for (size_t done = 0; done < bytes.size(); done += piece) {
    auto part = bytes.subspan(done, std::min(piece, bytes.size() - done));
    XXH3_128bits_update(hash.get(), part.data(), part.size());
    dropPages(part);
  }
  return {int64_t(bytes.size()), digestOf(XXH3_128bits_digest(hash.get()))};
}

//===----------------------------------------------------------------------===//
// Input
//===----------------------------------------------------------------------===//

void FileDescriptor::reset() {
  if (descriptor >= 0)
    ::close(std::exchange(descriptor, -1));
}

/// Opens a regular file for reading and finds what the system says of it.
static FileDescriptor openForReading(const std::filesystem::path &path,
                                     struct stat &status) {
  // Without O_NONBLOCK, opening a pipe would wait for its writer.
  FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.get() < 0)
    failWithErrno(errno, path, ": cannot be opened");
  if (::fstat(file.get(), &status) != 0)
    failWithErrno(errno, path, ": cannot be read");
  if (!S_ISREG(status.st_mode))
    fail(path, ": expected a regular file");
  return file;
}

static FileDescriptor openForReading(const std::filesystem::path &path,
                                     int64_t &size) {
  struct stat status;
  FileDescriptor file = openForReading(path, status);
  size = status.st_size;
  return file;
}

FileState polymoe::fileState(const std::filesystem::path &path) {
  struct stat status;
  openForReading(path, status);
  auto nanoseconds = [](const timespec &time) {
    return int64_t(time.tv_sec) * 1'000'000'000 + time.tv_nsec;
  };
  return {status.st_size, nanoseconds(status.st_mtim),
          nanoseconds(status.st_ctim)};
}

MappedFile::MappedFile(const std::filesystem::path &path) {
  int64_t length = 0;
  FileDescriptor file = openForReading(path, length);
  size = size_t(length);
  if (size == 0)
    return; // an empty mapping is an error to the system
  void *address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (address == MAP_FAILED)
    failWithErrno(errno, path, ": cannot be mapped");
  data = static_cast<const std::byte *>(address);
}

MappedFile::~MappedFile() {
  if (data)
    ::munmap(const_cast<std::byte *>(data), size);
}

/// Tells the system how the pages are used that these bytes are on.
static void advise(std::span<const std::byte> mapped, int advice) {
  const auto page = uintptr_t(::sysconf(_SC_PAGESIZE));
  const size_t before = reinterpret_cast<uintptr_t>(mapped.data()) % page;
  // A hint: whether the system takes it does not matter.
  if (!mapped.empty())
    (void)::madvise(const_cast<std::byte *>(mapped.data()) - before,
                    mapped.size() + before, advice);
}

void polymoe::dropPages(std::span<const std::byte> mapped) {
  advise(mapped, MADV_DONTNEED);
}

void polymoe::readPagesAhead(std::span<const std::byte> mapped) {
  advise(mapped, MADV_WILLNEED);
}

std::string polymoe::readText(const std::filesystem::path &path,
                              int64_t limit) {
  int64_t size = 0;
  FileDescriptor file = openForReading(path, size);
  if (size > limit)
    fail(path, ": expected at most ", limit, " bytes, but got ", size);
  std::string text(size_t(size), '\0');
  size_t done = 0;
  while (done < text.size()) {
    ssize_t got = ::read(file.get(), text.data() + done, text.size() - done);
    if (got < 0 && errno == EINTR)
      continue;
    if (got < 0)
      failWithErrno(errno, path, ": cannot be read");
    if (got == 0)
      break; // the file shrank meanwhile
    done += size_t(got);
  }
  text.resize(done);
  return text;
}

//===----------------------------------------------------------------------===//
// Output
//===----------------------------------------------------------------------===//

static constexpr size_t bufferSize = size_t(1) << 20;

OutputFile::OutputFile(std::filesystem::path target)
    : path(std::move(target)), hash(std::make_unique<Hash>()) {
  // The process and a count make the name unique; a leftover of a killed
  // process with the same number is overwritten.
  static std::atomic<unsigned> count{0};
  temporary = path.parent_path() / concat(".", path.filename(), ".", ::getpid(),
                                          "-", ++count, ".tmp");
  int error = faultOf("open", path);
  if (!error) {
    file = FileDescriptor(::open(
        temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
    error = file.get() < 0 ? errno : 0;
  }
  if (error)
    failWithErrno(error, path, ": cannot be created");
  buffer.reserve(bufferSize);
}

OutputFile::OutputFile(OutputFile &&) noexcept = default;

OutputFile::~OutputFile() {
  if (file.get() >= 0)
    ::unlink(temporary.c_str());
}

void OutputFile::write(std::string_view text) {
  write(std::as_bytes(std::span(text.data(), text.size())));
}

void OutputFile::write(std::span<const std::byte> bytes) {
  XXH3_128bits_update(hash->state, bytes.data(), bytes.size());
  written += int64_t(bytes.size());
  while (!bytes.empty()) {
    size_t part = std::min(bytes.size(), bufferSize - buffer.size());
    buffer.insert(buffer.end(), bytes.begin(), bytes.begin() + part);
    bytes = bytes.subspan(part);
    if (buffer.size() == bufferSize)
      flush();
  }
}

void OutputFile::flush() {
  size_t done = 0;
  while (done < buffer.size()) {
    int error = faultOf("write", path);
    if (!error) {
      ssize_t got =
          ::write(file.get(), buffer.data() + done, buffer.size() - done);
      if (got >= 0) {
        done += size_t(got);
        continue;
      }
      error = errno;
    }
    if (error != EINTR)
      failWithErrno(error, path, ": cannot be written");
  }
  buffer.clear();
}

Checksum OutputFile::commit() {
  flush();
  int error = faultOf("fsync", path);
  if (!error && ::fsync(file.get()) != 0)
    error = errno;
  if (error)
    failWithErrno(error, path, ": cannot be flushed to the disk");
  error = faultOf("rename", path);
  if (!error && ::rename(temporary.c_str(), path.c_str()) != 0)
    error = errno;
  if (error)
    failWithErrno(error, path, ": cannot be put in place");
  file.reset();
  syncFolder(path.parent_path());
  return {written, digestOf(XXH3_128bits_digest(hash->state))};
}

Checksum polymoe::writeText(const std::filesystem::path &path,
                            std::string_view text) {
  OutputFile file(path);
  file.write(text);
  return file.commit();
}

void polymoe::syncFolder(const std::filesystem::path &folder) {
  const std::filesystem::path name = folder.empty() ? "." : folder;
  int error = faultOf("fsync", name);
  if (!error) {
    FileDescriptor file(
        ::open(name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    // Some file systems cannot flush a folder (EINVAL); their names are as
    // durable as they get.
    if (file.get() < 0 || (::fsync(file.get()) != 0 && errno != EINVAL))
      error = errno;
  }
  if (error)
    failWithErrno(error, name, ": folder cannot be flushed to the disk");
}

void polymoe::renameDurably(const std::filesystem::path &from,
                            const std::filesystem::path &to) {
  int error = faultOf("rename", to);
  if (!error && ::rename(from.c_str(), to.c_str()) != 0) {
    error = errno;
    if (error == ENOTEMPTY || error == EEXIST)
      error = ::syscall(SYS_renameat2, AT_FDCWD, from.c_str(), AT_FDCWD,
                        to.c_str(), RENAME_EXCHANGE) == 0
                  ? 0
                  : errno;
  }
  if (error)
    failWithErrno(error, to, ": cannot be put in place");
  syncFolder(to.parent_path());
}

void polymoe::linkOrCopy(const std::filesystem::path &from,
                         const std::filesystem::path &to) {
  std::error_code error;
  if (std::filesystem::equivalent(from, to, error))
    return;
  // The file itself, not a link to it: a link would not keep it alive.
  const std::filesystem::path real = std::filesystem::canonical(from, error);
  if (error)
    fail(from, ": cannot be opened: ", error.message());
  const std::filesystem::path temporary =
      to.parent_path() /
      concat(".", to.filename(), ".", ::getpid(), "-link.tmp");
  ::unlink(temporary.c_str());
  if (!faultOf("link", to) && ::link(real.c_str(), temporary.c_str()) == 0)
    return renameDurably(temporary, to);
  MappedFile source(real);
  OutputFile copy(to);
  copy.write(source.bytes());
  copy.commit();
}

void polymoe::removeFolder(const std::filesystem::path &folder) {
  std::error_code ignored;
  for (const auto &entry :
       std::filesystem::directory_iterator(folder, ignored)) {
    if (faultOf("remove", entry.path()))
      return;
    std::filesystem::remove(entry.path(), ignored);
  }
  std::filesystem::remove(folder, ignored);
}
