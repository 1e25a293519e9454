//===-- Config.cpp - a part of tokenizer.json -----------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Config.h"

#include "Unicode.h"

#include "moe/Runtime/Error.h"

#include <algorithm>
#include <limits>

namespace polymoe::tokenizer {

void Config::fail(const std::string &message) const {
  throw Error(file + ": " + (path.empty() ? "" : path + ": ") + message);
}

void Config::expectObject() const {
  if (!value.is_object())
    fail(std::string("expected an object, but got ") + value.type_name());
}

bool Config::has(const std::string &key) const {
  return value.is_object() && value.contains(key);
}

bool Config::isSet(const std::string &key) const {
  return has(key) && !value.at(key).is_null();
}

Config Config::at(const std::string &key) const {
  expectObject();
  if (!has(key))
    fail("expected an entry '" + key + "', but there is none");
  return {value.at(key), file, path.empty() ? key : path + "." + key};
}

std::vector<Config> Config::elements() const {
  if (!value.is_array())
    fail(std::string("expected an array, but got ") + value.type_name());
  std::vector<Config> result;
  result.reserve(value.size());
  for (size_t i = 0; i < value.size(); ++i)
    result.emplace_back(value[i], file, path + "[" + std::to_string(i) + "]");
  return result;
}

std::string Config::text() const {
  if (!value.is_string())
    fail(std::string("expected a string, but got ") + value.type_name());
  return value.get<std::string>();
}

bool Config::flag() const {
  if (!value.is_boolean())
    fail(std::string("expected true or false, but got ") + value.type_name());
  return value.get<bool>();
}

int32_t Config::number() const {
  if (!value.is_number_unsigned() ||
      value.get<uint64_t>() > std::numeric_limits<int32_t>::max())
    fail("expected an integer from 0 to 2147483647, but got " + value.dump());
  return static_cast<int32_t>(value.get<uint64_t>());
}

char32_t Config::character() const {
  std::string content = text();
  size_t at = 0;
  if (content.empty() || characterLength(content[0]) != content.size())
    fail("expected one character, but got '" + content + "'");
  return nextCharacter(content, at);
}

void Config::allow(std::initializer_list<const char *> keys) const {
  expectObject();
  for (const auto &entry : value.items())
    if (std::none_of(keys.begin(), keys.end(),
                     [&](const char *key) { return entry.key() == key; }))
      fail("option '" + entry.key() + "' is not supported");
}

} // namespace polymoe::tokenizer
