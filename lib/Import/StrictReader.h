//===-- StrictReader.h - an object whose keys all matter --------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_LIB_IMPORT_STRICTREADER_H
#define MOE_LIB_IMPORT_STRICTREADER_H

#include "moe/Runtime/Json.h"

#include <functional>
#include <set>

namespace polymoe {

/// A JSON object in which every key has to be read or known to be harmless. A
/// key whose value is null counts as absent.
class StrictReader {
public:
  using Json = JsonReader::Json;

  explicit StrictReader(JsonReader object) : object(std::move(object)) {}

  const std::string &fileName() const { return object.fileName(); }

  JsonReader at(const std::string &key);
  /// The entry, if there is one.
  std::optional<JsonReader> find(const std::string &key);

  /// True if the key is there, even if it is null.
  bool contains(const std::string &key);

  std::optional<int64_t> findInteger(const std::string &key);
  std::optional<double> findNumber(const std::string &key);
  std::optional<bool> findBool(const std::string &key);
  std::optional<std::string> findString(const std::string &key);

  /// The same for keys that have to be there. Integers are from 1 to
  /// 2147483647, which is larger than any size in a real configuration, and a
  /// product of two fits 64 bits.
  int64_t integer(const std::string &key);
  double positiveNumber(const std::string &key);
  /// `missing` where the key is not there.
  double positiveNumber(const std::string &key, double missing);
  std::string string(const std::string &key);

  /// The integer of a key that has two spellings, which must agree.
  int64_t integer(const std::string &key, const std::string &otherKey);

  /// Checks that a key has the only value supported or, unless it is
  /// `required`, is absent.
  void only(const std::string &key, const Json &supported,
            bool required = false);

  /// Whether the key was asked for.
  bool hasRead(const std::string &key) const { return read.count(key) != 0; }

  /// Checks that every key was read, is harmless, null or in `ignored`, and
  /// that those are there and unknown.
  void finish(const std::function<bool(const std::string &)> &isHarmless,
              const std::vector<std::string> &ignored) const;
  /// Checks that every key was read or is null.
  void finish() const;

  [[noreturn]] void fail(const std::string &key, const std::string &expected,
                         const std::string &got) const {
    object.at(key).expected(expected, got);
  }

private:
  const JsonReader object;
  std::set<std::string> read;
};

} // namespace polymoe

#endif // MOE_LIB_IMPORT_STRICTREADER_H
