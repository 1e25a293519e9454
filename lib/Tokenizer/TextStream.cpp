//===-- TextStream.cpp - decodes while ids arrive -------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Tokenizer/Tokenizer.h"

namespace polymoe {

static constexpr std::string_view replacement = "\uFFFD";

/// Ids that the window may hold before it is shortened, and that it keeps.
/// Decoding looks back over one character, or one run of byte tokens.
static constexpr size_t longWindow = 64;
static constexpr size_t shortWindow = 16;

std::string TextStream::push(int32_t id) {
  window.push_back(id);
  std::string text = tokenizer.decode(window, skipSpecial);
  // Bytes that form no character may be the beginning of one.
  if (std::string_view(text).ends_with(replacement))
    return "";
  std::string fresh = continueWith(text);
  settled = window.size();
  shorten();
  return fresh;
}

std::string TextStream::finish() {
  std::string rest = continueWith(tokenizer.decode(window, skipSpecial));
  window.clear();
  returned.clear();
  settled = 0;
  return rest;
}

std::string TextStream::continueWith(const std::string &text) {
  if (!text.starts_with(returned)) {
    // What was returned would read otherwise now. It stays, and what follows
    // is decoded without it.
    window.erase(window.begin(),
                 window.begin() + static_cast<ptrdiff_t>(settled));
    returned = tokenizer.decode(window, skipSpecial);
    return returned;
  }
  std::string fresh = text.substr(returned.size());
  returned = text;
  return fresh;
}

void TextStream::shorten() {
  if (window.size() <= longWindow)
    return;
  std::vector<int32_t> tail(window.end() - shortWindow, window.end());
  std::string tailText = tokenizer.decode(tail, skipSpecial);
  // A cut inside of a character would show; one in front of nothing would
  // make the next word the first of the text, which some decoders treat
  // otherwise.
  if (tailText.empty() || !returned.ends_with(tailText) ||
      std::string_view(tailText).starts_with(replacement))
    return;
  window = std::move(tail);
  returned = std::move(tailText);
  settled = window.size();
}

} // namespace polymoe
