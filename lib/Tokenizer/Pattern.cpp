//===-- Pattern.cpp - what splits and replaces look for -------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#define PCRE2_CODE_UNIT_WIDTH 8

#include "Pattern.h"

#include "Unicode.h"

#include "moe/Runtime/Error.h"

#include <pcre2.h>

namespace polymoe::tokenizer {

namespace {
template <auto Free> struct Freed {
  template <typename T> void operator()(T *pointer) const { Free(pointer); }
};
} // namespace

struct Pattern::Regex {
  std::unique_ptr<pcre2_code, Freed<pcre2_code_free>> code;
  std::unique_ptr<pcre2_jit_stack, Freed<pcre2_jit_stack_free>> stack;
  std::unique_ptr<pcre2_match_context, Freed<pcre2_match_context_free>> context;
};

Pattern::Pattern() = default;
Pattern::Pattern(Pattern &&) noexcept = default;
Pattern &Pattern::operator=(Pattern &&) noexcept = default;
Pattern::~Pattern() = default;

static std::string messageOf(int code) {
  PCRE2_UCHAR buffer[256];
  pcre2_get_error_message(code, buffer, sizeof(buffer));
  return reinterpret_cast<const char *>(buffer);
}

Pattern Pattern::pcre(const std::string &regex) {
  int code = 0;
  PCRE2_SIZE at = 0;
  std::unique_ptr<pcre2_compile_context, Freed<pcre2_compile_context_free>>
      options(pcre2_compile_context_create(nullptr));
  pcre2_set_newline(options.get(), PCRE2_NEWLINE_LF);
  // In Oniguruma ^ and $ look at lines, always.
  std::unique_ptr<pcre2_code, Freed<pcre2_code_free>> compiled(pcre2_compile(
      reinterpret_cast<PCRE2_SPTR>(regex.data()), regex.size(),
      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &code, &at, options.get()));
  if (!compiled)
    throw Error("cannot compile the regular expression '" + regex +
                "': " + messageOf(code) + " at byte " + std::to_string(at));

  Pattern pattern;
  pattern.text = regex;
  pattern.regex = std::make_unique<Regex>();
  pattern.regex->code = std::move(compiled);
  pattern.regex->context.reset(pcre2_match_context_create(nullptr));
  // Without a JIT (not every machine has one) matching is slower, not other.
  if (pcre2_jit_compile(pattern.regex->code.get(), PCRE2_JIT_COMPLETE) == 0) {
    pattern.regex->stack.reset(
        pcre2_jit_stack_create(32 << 10, 16 << 20, nullptr));
    pcre2_jit_stack_assign(pattern.regex->context.get(), nullptr,
                           pattern.regex->stack.get());
  }
  return pattern;
}

Pattern Pattern::oniguruma(std::string_view regex) {
  return pcre(translateRegex(regex));
}

Pattern Pattern::literal(std::string text) {
  // An empty literal matches between any two characters, as an empty regular
  // expression does.
  if (text.empty())
    return pcre("");
  Pattern pattern;
  pattern.text = std::move(text);
  return pattern;
}

std::vector<Span> Pattern::split(std::string_view subject) const {
  std::vector<Span> spans;
  size_t covered = 0;
  auto add = [&](size_t begin, size_t end) {
    if (covered != begin)
      spans.push_back({covered, begin, false});
    spans.push_back({begin, end, true});
    covered = end;
  };

  if (subject.empty())
    return {{0, 0, false}};

  if (!regex) {
    for (size_t at = subject.find(text); at != std::string_view::npos;
         at = subject.find(text, covered))
      add(at, at + text.size());
  } else {
    std::unique_ptr<pcre2_match_data, Freed<pcre2_match_data_free>> found(
        pcre2_match_data_create_from_pattern(regex->code.get(), nullptr));
    const PCRE2_SIZE *bounds = pcre2_get_ovector_pointer(found.get());
    auto data = reinterpret_cast<PCRE2_SPTR>(subject.data());
    bool any = false;
    for (size_t start = 0; start <= subject.size();) {
      int result =
          pcre2_match(regex->code.get(), data, subject.size(), start,
                      PCRE2_NO_UTF_CHECK, found.get(), regex->context.get());
      if (result == PCRE2_ERROR_NOMATCH)
        break;
      if (result < 0)
        throw Error("cannot match the regular expression '" + text +
                    "': " + messageOf(result));
      if (bounds[0] == bounds[1] && any && bounds[0] == covered) {
        start += start < subject.size() ? characterLength(subject[start]) : 1;
        continue;
      }
      any = true;
      add(bounds[0], bounds[1]);
      start = bounds[1];
    }
  }
  if (covered != subject.size())
    spans.push_back({covered, subject.size(), false});
  return spans;
}

std::vector<Span> splitAt(std::string_view text,
                          bool (*hasProperty)(char32_t)) {
  std::vector<Span> spans;
  size_t covered = 0;
  for (size_t at = 0; at < text.size();) {
    size_t begin = at;
    if (!hasProperty(nextCharacter(text, at)))
      continue;
    if (covered != begin)
      spans.push_back({covered, begin, false});
    spans.push_back({begin, at, true});
    covered = at;
  }
  if (covered != text.size() || text.empty())
    spans.push_back({covered, text.size(), false});
  return spans;
}

} // namespace polymoe::tokenizer
