//===-- Config.h - a part of tokenizer.json ---------------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Access to the file that checks as it reads: each part must have all its
// entries, of the right type, and no others.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_LIB_TOKENIZER_CONFIG_H
#define MOE_LIB_TOKENIZER_CONFIG_H

#include <nlohmann/json.hpp>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace polymoe::tokenizer {

class Config {
public:
  Config(const nlohmann::json &value, std::string file, std::string path)
      : value(value), file(std::move(file)), path(std::move(path)) {}

  /// Throws an Error: "<file>: <path>: <message>".
  [[noreturn]] void fail(const std::string &message) const;

  const nlohmann::json &json() const { return value; }
  const std::string &fileName() const { return file; }
  bool has(const std::string &key) const;
  /// Whether the entry is there and not null.
  bool isSet(const std::string &key) const;
  Config at(const std::string &key) const;
  /// The elements of this array.
  std::vector<Config> elements() const;

  std::string text() const;
  bool flag() const;
  int32_t number() const;
  char32_t character() const;

  std::string text(const std::string &key) const { return at(key).text(); }
  bool flag(const std::string &key) const { return at(key).flag(); }
  bool flag(const std::string &key, bool otherwise) const {
    return isSet(key) ? at(key).flag() : otherwise;
  }

  /// The entry "type".
  std::string type() const { return text("type"); }
  /// Refuses entries other than these.
  void allow(std::initializer_list<const char *> keys) const;

  /// One of `values` by its name.
  template <typename T>
  T oneOf(std::initializer_list<std::pair<const char *, T>> values) const {
    std::string name = text();
    std::string names;
    for (const auto &[known, result] : values) {
      if (name == known)
        return result;
      names += names.empty() ? known : std::string(", ") + known;
    }
    fail("expected one of " + names + ", but got '" + name + "'");
  }

private:
  void expectObject() const;

  const nlohmann::json &value;
  std::string file;
  std::string path;
};

} // namespace polymoe::tokenizer

#endif // MOE_LIB_TOKENIZER_CONFIG_H
