//===-- Safetensors.h - tensors in files ------------------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A strict reader of mapped safetensors files and a streaming, atomic writer.
//
// The format: 8 bytes little-endian length N of the header, N bytes of JSON
// ({"name": {"dtype", "shape", "data_offsets": [begin, end]}, ...,
// "__metadata__": {text: text}}, padded by spaces), then the data, row-major,
// which the tensors cover without overlap and without holes.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_RUNTIME_SAFETENSORS_H
#define MOE_RUNTIME_SAFETENSORS_H

#include "moe/Runtime/Files.h"
#include "moe/Runtime/Program.h"

#include <functional>
#include <map>
#include <unordered_map>

namespace polymoe {

struct TensorInfo {
  std::string name;
  /// As the file names it.
  std::string dtypeName;
  /// Empty for the element types of safetensors that PolyMoE does not read
  /// (BOOL, I16, F8_E4M3, ...): such a tensor may be there and be ignored.
  std::optional<DType> dtype;
  std::vector<int64_t> shape;
  /// Bytes from the start of the file, and their number.
  int64_t offset = 0;
  int64_t bytes = 0;

  int64_t elements() const;
};

class SafetensorsFile {
public:
  /// Maps the file and checks all of its header; throws Error naming the file
  /// and the key.
  static std::shared_ptr<const SafetensorsFile>
  open(const std::filesystem::path &path);

  const std::filesystem::path &path() const { return filePath; }
  /// In the order of their data.
  std::span<const TensorInfo> tensors() const { return infos; }
  const std::map<std::string, std::string> &metadata() const { return meta; }

  /// The tensor called `name`, or null.
  const TensorInfo *find(const std::string &name) const;
  /// The tensor called `name`; throws Error when it is missing.
  const TensorInfo &get(const std::string &name) const;

  /// The tensor's memory, valid as long as this object. Its alignment is what
  /// the file gives it.
  std::span<const std::byte> data(const TensorInfo &tensor) const;

  /// The values of an I64, I32 or U8 tensor; throws Error for another type.
  std::vector<int64_t> integers(const TensorInfo &tensor) const;

  /// Tells the system that the tensor will be read soon, from first to last.
  void willRead(const TensorInfo &tensor) const;

private:
  explicit SafetensorsFile(const std::filesystem::path &path);
  void parseHeader();

  std::filesystem::path filePath;
  MappedFile file;
  std::vector<TensorInfo> infos;
  std::unordered_map<std::string, size_t> indexOf;
  std::map<std::string, std::string> meta;
};

/// The files of a folder, each opened once.
class SafetensorsFolder {
public:
  using File = std::shared_ptr<const SafetensorsFile>;

  explicit SafetensorsFolder(std::filesystem::path folder)
      : folder(std::move(folder)) {}

  File open(const std::string &name) {
    File &file = files[name];
    if (!file)
      file = SafetensorsFile::open(folder / name);
    return file;
  }
  const std::map<std::string, File> &opened() const { return files; }

private:
  std::filesystem::path folder;
  std::map<std::string, File> files;
};

/// Writes a safetensors file. Nothing is at `path` before finish(), which
/// streams the tensors to the disk; a file that cannot be finished leaves
/// nothing behind.
class SafetensorsWriter {
public:
  using Sink = std::function<void(std::span<const std::byte>)>;
  /// Hands the tensor's bytes to the sink, in as many pieces as it likes.
  using Source = std::function<void(const Sink &)>;

  explicit SafetensorsWriter(std::filesystem::path path,
                             std::map<std::string, std::string> metadata = {});

  /// `bytes` must live until finish().
  void add(std::string name, DType dtype, std::vector<int64_t> shape,
           std::span<const std::byte> bytes);
  /// For what is made only while it is written.
  void add(std::string name, DType dtype, std::vector<int64_t> shape,
           Source source);

  /// Throws Error (no space, no permission, a source of the wrong length).
  Checksum finish();

private:
  struct Tensor {
    std::string name;
    DType dtype;
    std::vector<int64_t> shape;
    int64_t bytes;
    Source source;
  };
  std::filesystem::path path;
  std::map<std::string, std::string> metadata;
  std::vector<Tensor> tensors;
};

/// The product of the sizes, or nothing when one is negative or the product
/// times `elementSize` does not fit 63 bits.
std::optional<int64_t> byteSizeOf(std::span<const int64_t> shape,
                                  int64_t elementSize);

} // namespace polymoe

#endif // MOE_RUNTIME_SAFETENSORS_H
