//===-- JsonReader.cpp - strict reading of a JSON object
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "JsonReader.h"

#include "moe/Runtime/Error.h"

#include <cmath>

using namespace polymoe;

/// Larger than any size in a real configuration, small enough that products
/// of two stay in 64 bits.
static constexpr int64_t largest = (int64_t(1) << 31) - 1;

JsonReader::JsonReader(const Json &object, std::string where)
    : object(object), location(std::move(where)) {}

const JsonReader::Json *JsonReader::find(const std::string &key) {
  read.insert(key);
  auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

bool JsonReader::contains(const std::string &key) {
  read.insert(key);
  return object.contains(key);
}

void JsonReader::fail(const std::string &key, const std::string &expected,
                      const std::string &got) const {
  throw Error(location + ": key '" + key + "': expected " + expected +
              ", but got " + got);
}

void JsonReader::fail(const std::string &key, const std::string &expected,
                      const Json &got) const {
  std::string text = got.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > 80)
    text = text.substr(0, 77) + "...";
  fail(key, expected, text);
}

std::optional<int64_t> JsonReader::findInteger(const std::string &key) {
  const Json *value = find(key);
  if (!value)
    return std::nullopt;
  if (!value->is_number_integer() || *value < 1 || *value > largest)
    fail(key, "a whole number from 1 to 2147483647", *value);
  return value->get<int64_t>();
}

std::optional<double> JsonReader::findNumber(const std::string &key) {
  const Json *value = find(key);
  if (!value)
    return std::nullopt;
  if (!value->is_number() || !std::isfinite(value->get<double>()))
    fail(key, "a number", *value);
  return value->get<double>();
}

std::optional<bool> JsonReader::findBool(const std::string &key) {
  const Json *value = find(key);
  if (!value)
    return std::nullopt;
  if (!value->is_boolean())
    fail(key, "true or false", *value);
  return value->get<bool>();
}

std::optional<std::string> JsonReader::findString(const std::string &key) {
  const Json *value = find(key);
  if (!value)
    return std::nullopt;
  if (!value->is_string())
    fail(key, "a string", *value);
  return value->get<std::string>();
}

int64_t JsonReader::integer(const std::string &key) {
  if (auto value = findInteger(key))
    return *value;
  fail(key, "a whole number from 1 to 2147483647", "none");
}

int64_t JsonReader::integer(const std::string &key,
                            const std::string &otherKey) {
  auto value = findInteger(key), other = findInteger(otherKey);
  if (value && other && *value != *other)
    fail(key, "the value of '" + otherKey + "', " + std::to_string(*other),
         std::to_string(*value));
  if (!value && !other)
    fail(key, "a whole number from 1 to 2147483647", "none");
  return value ? *value : *other;
}

double JsonReader::positiveNumber(const std::string &key) {
  auto value = findNumber(key);
  if (!value)
    fail(key, "a positive number", "none");
  if (*value <= 0)
    fail(key, "a positive number", object.at(key));
  return *value;
}

std::string JsonReader::string(const std::string &key) {
  if (auto value = findString(key))
    return *value;
  fail(key, "a string", "none");
}

void JsonReader::only(const std::string &key, const Json &supported) {
  const Json *value = find(key);
  if (value && *value != supported)
    fail(key, supported.is_null() ? "none" : supported.dump() + " or none",
         *value);
}

void JsonReader::finish(const std::set<std::string> &harmless) {
  for (const auto &[key, value] : object.items())
    if (!value.is_null() && !read.count(key) && !harmless.count(key))
      fail(key, "no such key, since its effect on the model is not known",
           value);
}
