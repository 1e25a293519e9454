//===-- StrictReader.cpp - an object whose keys all matter
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "StrictReader.h"

#include <algorithm>

using namespace polymoe;

JsonReader StrictReader::at(const std::string &key) {
  read.insert(key);
  return object.at(key);
}

std::optional<JsonReader> StrictReader::find(const std::string &key) {
  JsonReader value = at(key);
  return value.json().is_null() ? std::nullopt : std::optional(value);
}

bool StrictReader::contains(const std::string &key) {
  read.insert(key);
  return object.has(key);
}

std::optional<int64_t> StrictReader::findInteger(const std::string &key) {
  auto value = find(key);
  return value ? std::optional(value->integer<int32_t>(1)) : std::nullopt;
}

std::optional<double> StrictReader::findNumber(const std::string &key) {
  auto value = find(key);
  return value ? std::optional(value->number()) : std::nullopt;
}

std::optional<bool> StrictReader::findBool(const std::string &key) {
  auto value = find(key);
  return value ? std::optional(value->flag()) : std::nullopt;
}

std::optional<std::string> StrictReader::findString(const std::string &key) {
  auto value = find(key);
  return value ? std::optional(value->text()) : std::nullopt;
}

int64_t StrictReader::integer(const std::string &key) {
  return at(key).integer<int32_t>(1);
}

int64_t StrictReader::integer(const std::string &key,
                              const std::string &otherKey) {
  auto value = findInteger(key), other = findInteger(otherKey);
  if (value && other && *value != *other)
    fail(key, "the value of '" + otherKey + "', " + std::to_string(*other),
         std::to_string(*value));
  return other && !value ? *other : integer(key);
}

double StrictReader::positiveNumber(const std::string &key) {
  JsonReader value = at(key);
  if (!value.json().is_number() || value.number() <= 0)
    value.expected("a positive number");
  return value.number();
}

double StrictReader::positiveNumber(const std::string &key, double missing) {
  return find(key) ? positiveNumber(key) : missing;
}

std::string StrictReader::string(const std::string &key) {
  return at(key).text();
}

void StrictReader::only(const std::string &key, const Json &supported,
                        bool required) {
  auto value = find(key);
  if (value ? value->json() != supported : required)
    at(key).expected(supported.is_null() ? "none"
                     : required          ? supported.dump()
                                         : supported.dump() + " or none");
}

void StrictReader::finish(
    const std::function<bool(const std::string &)> &isHarmless,
    const std::vector<std::string> &ignored) const {
  for (const std::string &key : ignored)
    if (!object.has(key) || read.count(key) || isHarmless(key))
      object.at(key).expected("a key whose effect on the model is not known, "
                              "since --ignore-config-key names it");
  for (const auto &[key, value] : object.json().items())
    if (!value.is_null() && !read.count(key) && !isHarmless(key) &&
        std::find(ignored.begin(), ignored.end(), key) == ignored.end())
      object.at(key).expected("no such key, since its effect on the model is "
                              "not known (--ignore-config-key " +
                              key + " passes over it)");
}

void StrictReader::finish() const {
  for (const auto &[key, value] : object.json().items())
    if (!value.is_null() && !read.count(key))
      object.at(key).expected(
          "no such key, since its effect on the model is not known");
}
