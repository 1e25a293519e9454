//===-- Json.h - typed reading of JSON --------------------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A source includes this, not a header of the project, since nlohmann/json.hpp
// takes long to compile.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_RUNTIME_JSON_H
#define MOE_RUNTIME_JSON_H

#include <nlohmann/json.hpp>

#include <concepts>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace polymoe {

inline constexpr int maxJsonDepth = 512;

/// The JSON that `text` is; errors name `file`. Text of more than maxJsonDepth
/// levels is refused: what goes through a value does so by recursion. `Json` is
/// nlohmann::json, or nlohmann::ordered_json for what is written again in the
/// same order.
template <typename Json = nlohmann::json>
Json parseJson(std::string_view text, const std::string &file);

/// The same, or nothing where `text` is not JSON.
std::optional<nlohmann::json> tryParseJson(std::string_view text);

/// The JSON object in a file.
template <typename Json = nlohmann::json>
Json readJsonObject(const std::filesystem::path &file);

/// A value in a JSON file and where it is. Reading it as a type that it does
/// not have throws an Error with the file and the key:
///
///   corpus.json: key 'shards[3].tokens': expected a whole number, but got "5"
class JsonReader {
public:
  using Json = nlohmann::json;

  /// The top of `file`; the value outlives the reader.
  JsonReader(const Json &value, std::string file, std::string path = "")
      : value(value), file(std::move(file)), path(std::move(path)) {}

  const Json &json() const { return value; }
  const std::string &fileName() const { return file; }

  bool has(const std::string &key) const;
  /// Whether the entry is there and not null.
  bool isSet(const std::string &key) const;
  /// The entry of this object. One that is not there can be read as no type.
  JsonReader at(const std::string &key) const;
  /// The elements of this list.
  std::vector<JsonReader> elements() const;
  void expectObject() const;
  /// Refuses entries other than these.
  void allow(std::initializer_list<const char *> keys) const;

  std::string text() const;
  bool flag() const;
  /// A finite number.
  double number() const;
  template <std::integral T = int64_t>
  T integer(T least = 0, T most = std::numeric_limits<T>::max()) const {
    return static_cast<T>(integerIn(least, most));
  }

  // Of an entry.
  std::string text(const std::string &key) const { return at(key).text(); }
  bool flag(const std::string &key) const { return at(key).flag(); }
  bool flag(const std::string &key, bool otherwise) const {
    return isSet(key) ? flag(key) : otherwise;
  }
  int64_t integer(const std::string &key) const { return at(key).integer(); }

  /// One of `values` by its name.
  template <typename T>
  T oneOf(std::initializer_list<std::pair<const char *, T>> values) const {
    std::string name = text(), names;
    for (const auto &[known, result] : values) {
      if (name == known)
        return result;
      names += names.empty() ? known : std::string(", ") + known;
    }
    expected("one of " + names);
  }

  /// Throws an Error: `FILE: key 'KEY': message`.
  [[noreturn]] void fail(const std::string &message) const;
  /// Fails with `expected WHAT, but got` and the value, or `got`.
  [[noreturn]] void expected(const std::string &what) const;
  [[noreturn]] void expected(const std::string &what,
                             const std::string &got) const;

private:
  int64_t integerIn(int64_t least, int64_t most) const;

  const Json &value;
  std::string file;
  std::string path;
};

} // namespace polymoe

#endif // MOE_RUNTIME_JSON_H
