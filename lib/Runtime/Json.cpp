//===-- Json.cpp - typed reading of JSON ----------------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Runtime/Json.h"
#include "moe/Runtime/Error.h"
#include "moe/Runtime/Files.h"

#include <algorithm>
#include <cmath>

using namespace polymoe;

/// Whether lists and objects are nested in more than maxJsonDepth levels.
static bool isTooDeep(std::string_view text) {
  int depth = 0;
  bool inString = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (inString && c == '\\')
      ++i;
    else if (c == '"')
      inString = !inString;
    else if (!inString && (c == '[' || c == '{'))
      if (++depth > maxJsonDepth)
        return true;
    if (!inString && (c == ']' || c == '}'))
      --depth;
  }
  return false;
}

template <typename Json>
Json polymoe::parseJson(std::string_view text, const std::string &file) {
  if (isTooDeep(text))
    fail(file, ": expected JSON of at most ", maxJsonDepth,
         " levels, but got more");
  try {
    return Json::parse(text);
  } catch (const typename Json::exception &error) {
    fail(file, ": expected JSON, but got ", error.what());
  }
}

std::optional<nlohmann::json> polymoe::tryParseJson(std::string_view text) {
  if (isTooDeep(text))
    return std::nullopt;
  auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  return json.is_discarded() ? std::nullopt : std::optional(std::move(json));
}

template <typename Json>
Json polymoe::readJsonObject(const std::filesystem::path &file) {
  Json json = parseJson<Json>(readText(file), file.string());
  if (!json.is_object())
    fail(file, ": expected a JSON object");
  return json;
}

template nlohmann::json polymoe::parseJson(std::string_view,
                                           const std::string &);
template nlohmann::json polymoe::readJsonObject(const std::filesystem::path &);
template nlohmann::ordered_json
polymoe::readJsonObject(const std::filesystem::path &);

/// Stands for an entry that is not there.
static const nlohmann::json missing;

bool JsonReader::has(const std::string &key) const {
  return value.is_object() && value.contains(key);
}

bool JsonReader::isSet(const std::string &key) const {
  return has(key) && !value.at(key).is_null();
}

JsonReader JsonReader::at(const std::string &key) const {
  expectObject();
  auto entry = value.find(key);
  return {entry == value.end() ? missing : *entry, file,
          path.empty() ? key : path + "." + key};
}

std::vector<JsonReader> JsonReader::elements() const {
  if (!value.is_array())
    expected("a list");
  std::vector<JsonReader> result;
  result.reserve(value.size());
  for (size_t i = 0; i < value.size(); ++i)
    result.emplace_back(value[i], file, path + "[" + std::to_string(i) + "]");
  return result;
}

void JsonReader::expectObject() const {
  if (!value.is_object())
    expected("an object");
}

void JsonReader::allow(std::initializer_list<const char *> keys) const {
  expectObject();
  for (const auto &entry : value.items())
    if (std::find(keys.begin(), keys.end(), entry.key()) == keys.end())
      fail("entry '" + entry.key() + "' is not supported");
}

std::string JsonReader::text() const {
  if (!value.is_string())
    expected("a string");
  return value.get<std::string>();
}

bool JsonReader::flag() const {
  if (!value.is_boolean())
    expected("true or false");
  return value.get<bool>();
}

double JsonReader::number() const {
  if (!value.is_number() || !std::isfinite(value.get<double>()))
    expected("a number");
  return value.get<double>();
}

int64_t JsonReader::integerIn(int64_t least, int64_t most) const {
  const bool fits = !value.is_number_unsigned() ||
                    value.get<uint64_t>() <= uint64_t(INT64_MAX);
  if (value.is_number_integer() && fits && value >= least && value <= most)
    return value.get<int64_t>();
  expected(most == INT64_MAX && least == 0
               ? "a whole number"
               : concat("a whole number from ", least, " to ", most));
}

void JsonReader::fail(const std::string &message) const {
  throw Error(file + ": " + (path.empty() ? "" : "key '" + path + "': ") +
              message);
}

void JsonReader::expected(const std::string &what) const {
  expected(what, &value == &missing
                     ? "none"
                     : shortened(value.dump(-1, ' ', false,
                                            Json::error_handler_t::replace),
                                 80));
}

void JsonReader::expected(const std::string &what,
                          const std::string &got) const {
  fail("expected " + what + ", but got " + got);
}
