//===-- Piece.h - a text on its way to tokens -------------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_LIB_TOKENIZER_PIECE_H
#define MOE_LIB_TOKENIZER_PIECE_H

#include "Pattern.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace polymoe::tokenizer {

/// What a split does with a match.
enum class SplitBehavior {
  Removed,
  Isolated,
  MergedWithPrevious,
  MergedWithNext,
  Contiguous
};

/// Part of the text: an added token, or text that still becomes tokens.
///
/// `tokenizers` knows for every byte where in the user's text it comes from.
/// Only one question about that changes the tokens: whether a piece begins
/// where the text begins (Metaspace with prepend_scheme "first"). Two numbers
/// suffice to answer it through all changes and splits.
class Piece {
public:
  static constexpr int32_t noToken = -1;

  /// The whole of a user's text.
  static Piece whole(std::string text);
  static Piece ofToken(int32_t id);

  const std::string &text() const { return current; }
  int32_t token() const { return id; }
  bool isToken() const { return id != noToken; }
  bool beginsTheText() const { return atStart; }

  /// Bytes `begin` to `end` of the text.
  Piece slice(size_t begin, size_t end) const;
  void prepend(std::string_view prefix);
  void replace(const std::vector<Span> &spans, std::string_view content);
  void strip(bool left, bool right);

  /// Replaces the text by `change` of it, which must treat characters, or
  /// neighbours that combine, independently of the others.
  template <typename F> void transform(F change) {
    std::string changed = change(std::string_view(current));
    if (firstBytes > 0)
      firstBytes =
          firstBytes == current.size()
              ? changed.size()
              : change(std::string_view(current).substr(0, firstBytes)).size();
    current = std::move(changed);
  }

private:
  std::string current;
  int32_t id = noToken;
  /// Whether the piece begins where the user's text begins, ...
  bool atStart = false;
  /// ... and how many of its bytes come from the very first character.
  size_t firstBytes = 0;
};

using Pieces = std::vector<Piece>;

/// The parts of `piece` that `behavior` makes of `spans`; no empty ones.
void splitInto(Pieces &parts, const Piece &piece, std::vector<Span> spans,
               SplitBehavior behavior);

} // namespace polymoe::tokenizer

#endif // MOE_LIB_TOKENIZER_PIECE_H
