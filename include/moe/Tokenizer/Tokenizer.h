//===-- Tokenizer.h - text to token ids and back ----------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Reads the tokenizer.json of Hugging Face `tokenizers` and gives the same ids
// and the same text as that library, for BPE models: byte-level (BLOOM,
// Llama 3, Qwen2) and SentencePiece-style (Llama 2, Mistral, Gemma).
//
// A prompt is never cut or padded: the "truncation" and "padding" entries of
// the file are for batches, and transformers too ignores them unless asked.
//
// Character properties are those of PCRE2 10.42 (Unicode 14) and ICU 72
// (Unicode 15), and of younger characters as `tokenizers` 0.23 knows them
// (Unicode 16 and 17, lib/Tokenizer/YoungCharacters.cpp).
//
//===----------------------------------------------------------------------===//

#ifndef MOE_TOKENIZER_TOKENIZER_H
#define MOE_TOKENIZER_TOKENIZER_H

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace polymoe {

class Tokenizer {
public:
  /// Reads `path`, a tokenizer.json, and what tokenizer_config.json beside it
  /// adds (lib/Tokenizer/TokenizerConfig.h). Throws an Error that names the
  /// file, the component and what is wrong with it, also for a component or an
  /// option that this class does not know: ids that are nearly right are worse
  /// than none.
  static Tokenizer fromFile(const std::string &path);

  /// The same from the text of such a file; `name` is what errors call it.
  static Tokenizer fromJson(std::string_view json, const std::string &name);

  Tokenizer(Tokenizer &&) noexcept;
  Tokenizer &operator=(Tokenizer &&) noexcept;
  ~Tokenizer();

  /// The ids of `text`, with those that the post-processor adds (a beginning
  /// of text, say) if `addSpecialTokens`. Special tokens written out in the
  /// text are recognised either way. Throws an Error unless `text` is UTF-8.
  /// May be called from several threads; calls take turns.
  std::vector<int32_t> encode(std::string_view text,
                              bool addSpecialTokens) const;

  /// The text of `ids`, always valid UTF-8: bytes that form no character
  /// become U+FFFD. Ids outside the vocabulary stand for nothing.
  std::string decode(const std::vector<int32_t> &ids, bool skipSpecial) const;

  /// One more than the largest id.
  int32_t vocabularySize() const;
  /// Whether `id` is one that decode() skips on request.
  bool isSpecial(int32_t id) const;

private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl;
};

/// Decodes a text that is still being written. What push() returns can be
/// printed at once: it never ends in part of a character and is never taken
/// back. All of it together with finish() is decode() of all ids, with one
/// exception: where byte tokens ("<0xC3>") turn out to be ill-formed after
/// some of their run was returned, decode() would replace all of the run.
class TextStream {
public:
  TextStream(const Tokenizer &tokenizer, bool skipSpecial)
      : tokenizer(tokenizer), skipSpecial(skipSpecial) {}

  /// Takes the next id and returns the text that is now certain, often empty.
  std::string push(int32_t id);

  /// Returns what push() held back, and starts over.
  std::string finish();

private:
  std::string continueWith(const std::string &text);
  void shorten();

  const Tokenizer &tokenizer;
  bool skipSpecial;
  /// The latest ids, enough to decode the next one in its context, ...
  std::vector<int32_t> window;
  /// ... how many of them have been returned as text, ...
  size_t settled = 0;
  /// ... and that text.
  std::string returned;
};

/// Why two tokenizer.json files give other ids to some texts, as "396 of 400
/// tokens have other ids"; empty if they do not, however they are written.
/// Throws an Error that names the file.
std::string tokenizerDifference(const std::filesystem::path &one,
                                const std::filesystem::path &other);

} // namespace polymoe

#endif // MOE_TOKENIZER_TOKENIZER_H
