//===-- Error.h - errors that a user reads ----------------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// One exception type. Its text is the message as the user sees it: lower case,
// no full stop, naming file and key, `expected X, but got Y`.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_RUNTIME_ERROR_H
#define MOE_RUNTIME_ERROR_H

#include "moe/Runtime/Program.h"

#include <concepts>
#include <filesystem>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

namespace polymoe {

class Error : public std::runtime_error {
public:
  /// Text of more than some 4000 bytes, which quotes from a file may have, is
  /// shortened.
  explicit Error(const std::string &text);
};

/// Text of more than `limit` bytes without its middle, and how long it was:
/// "begin ... (3145728 bytes) ... end".
std::string shortened(std::string_view text, size_t limit);

/// A shape as messages show it: "[2, 3]".
std::string toString(std::span<const int64_t> shape);

namespace detail {
inline void append(std::string &to, std::string_view text) { to += text; }
inline void append(std::string &to, DType type) { to += nameOf(type); }
inline void append(std::string &to, std::span<const int64_t> shape) {
  to += toString(shape);
}
// A template, lest text could also be meant as a path.
template <std::same_as<std::filesystem::path> T>
void append(std::string &to, const T &path) {
  to += path.string();
}
template <std::integral T> void append(std::string &to, T number) {
  to += std::to_string(number);
}
template <std::floating_point T> void append(std::string &to, T number) {
  to += std::to_string(number);
}
} // namespace detail

/// The pieces (text, numbers, paths, shapes, types) as one string.
template <typename... Ts> std::string concat(const Ts &...pieces) {
  std::string text;
  (detail::append(text, pieces), ...);
  return text;
}

template <typename... Ts> [[noreturn]] void fail(const Ts &...pieces) {
  throw Error(concat(pieces...));
}

/// Fails with the system's reason for `error` (an errno value) after the
/// message.
template <typename... Ts>
[[noreturn]] void failWithErrno(int error, const Ts &...pieces) {
  throw Error(concat(pieces...) + ": " +
              std::generic_category().message(error));
}

} // namespace polymoe

#endif // MOE_RUNTIME_ERROR_H
