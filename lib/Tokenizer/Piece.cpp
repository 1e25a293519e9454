//===-- Piece.cpp - a text on its way to tokens ---------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Piece.h"

#include "Unicode.h"

#include <algorithm>

namespace polymoe::tokenizer {

Piece Piece::whole(std::string text) {
  Piece piece;
  piece.atStart = true;
  piece.firstBytes = text.empty() ? 0 : characterLength(text[0]);
  piece.current = std::move(text);
  return piece;
}

Piece Piece::ofToken(int32_t id) {
  Piece piece;
  piece.id = id;
  return piece;
}

Piece Piece::slice(size_t begin, size_t end) const {
  Piece piece;
  piece.current = current.substr(begin, end - begin);
  // Once false this stays false, so that firstBytes no longer matters.
  piece.atStart = atStart && begin < firstBytes;
  if (piece.atStart)
    piece.firstBytes = std::min(firstBytes - begin, end - begin);
  return piece;
}

void Piece::prepend(std::string_view prefix) {
  if (current.empty())
    return;
  current.insert(0, prefix);
  // What is inserted counts as coming from the character behind it.
  if (firstBytes > 0)
    firstBytes += prefix.size();
}

void Piece::replace(const std::vector<Span> &spans, std::string_view content) {
  std::string changed;
  changed.reserve(current.size());
  size_t changedFirst = 0;
  for (const Span &span : spans) {
    if (span.isMatch) {
      changed += content;
      // What replaces a match counts as coming from its last character.
      if (span.end == 0 || span.end <= firstBytes)
        changedFirst = changed.size();
    } else {
      changed.append(current, span.begin, span.end - span.begin);
      if (span.begin < firstBytes)
        changedFirst =
            changed.size() - span.end + std::min(span.end, firstBytes);
    }
  }
  current = std::move(changed);
  firstBytes = changedFirst;
}

void Piece::strip(bool left, bool right) {
  size_t begin = 0;
  size_t end = current.size();
  if (left)
    for (size_t at = 0; at < end && isSpace(nextCharacter(current, at));)
      begin = at;
  if (right)
    for (size_t at = end;
         at > begin && isSpace(previousCharacter(current, at));)
      end = at;
  current = current.substr(begin, end - begin);
  firstBytes = std::min(firstBytes - std::min(firstBytes, begin), end - begin);
}

void splitInto(Pieces &parts, const Piece &piece, std::vector<Span> spans,
               SplitBehavior behavior) {
  std::vector<Span> joined;
  bool previousIsMatch = false;
  switch (behavior) {
  case SplitBehavior::Removed:
    std::erase_if(spans, [](const Span &span) { return span.isMatch; });
    break;
  case SplitBehavior::Isolated:
    break;
  case SplitBehavior::MergedWithPrevious:
  case SplitBehavior::Contiguous:
    for (const Span &span : spans) {
      bool joins = behavior == SplitBehavior::Contiguous
                       ? span.isMatch == previousIsMatch
                       : span.isMatch && !previousIsMatch;
      if (joins && !joined.empty())
        joined.back().end = span.end;
      else
        joined.push_back(span);
      previousIsMatch = span.isMatch;
    }
    spans = std::move(joined);
    break;
  case SplitBehavior::MergedWithNext:
    std::for_each(spans.rbegin(), spans.rend(), [&](const Span &span) {
      if (span.isMatch && !previousIsMatch && !joined.empty())
        joined.back().begin = span.begin;
      else
        joined.push_back(span);
      previousIsMatch = span.isMatch;
    });
    std::reverse(joined.begin(), joined.end());
    spans = std::move(joined);
    break;
  }
  for (const Span &span : spans)
    if (span.begin != span.end)
      parts.push_back(piece.slice(span.begin, span.end));
}

} // namespace polymoe::tokenizer
