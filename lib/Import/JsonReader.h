//===-- JsonReader.h - strict reading of a JSON object ----------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_LIB_IMPORT_JSONREADER_H
#define MOE_LIB_IMPORT_JSONREADER_H

#include <nlohmann/json.hpp>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace polymoe {

/// A JSON object of which every key must be read or known to be harmless. A
/// key whose value is null counts as absent. Every failure throws an Error
/// that names the file and the key.
class JsonReader {
public:
  using Json = nlohmann::ordered_json;

  /// `where` names the object in errors: the file, and the key that holds it.
  JsonReader(const Json &object, std::string where);

  /// The value of `key`, or null if there is none.
  const Json *find(const std::string &key);

  /// True if the key is there, even if it is null.
  bool contains(const std::string &key);

  std::optional<int64_t> findInteger(const std::string &key);
  std::optional<double> findNumber(const std::string &key);
  std::optional<bool> findBool(const std::string &key);
  std::optional<std::string> findString(const std::string &key);

  /// As above, for keys that have to be there.
  int64_t integer(const std::string &key);
  double positiveNumber(const std::string &key);
  std::string string(const std::string &key);

  /// The integer of two spellings of one key, which must agree.
  int64_t integer(const std::string &key, const std::string &otherKey);

  /// Checks that a key is absent or has the only value supported.
  void only(const std::string &key, const Json &supported);

  /// Checks that every key was read, is in `harmless` or is null.
  void finish(const std::set<std::string> &harmless);

  /// Throws: `where: key 'key': expected E, but got G`.
  [[noreturn]] void fail(const std::string &key, const std::string &expected,
                         const std::string &got) const;
  [[noreturn]] void fail(const std::string &key, const std::string &expected,
                         const char *got) const {
    fail(key, expected, std::string(got));
  }
  [[noreturn]] void fail(const std::string &key, const std::string &expected,
                         const Json &got) const;

  const std::string &where() const { return location; }

private:
  const Json &object;
  std::string location;
  std::set<std::string> read;
};

} // namespace polymoe

#endif // MOE_LIB_IMPORT_JSONREADER_H
