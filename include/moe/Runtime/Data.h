//===-- Data.h - text as batches of tokens ----------------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Readers of the two forms of data (docs/Architecture.md, Files), and what
// makes batches of them: sources for training, whose position is a few numbers
// that a checkpoint keeps, and passes over a split for evaluation.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_RUNTIME_DATA_H
#define MOE_RUNTIME_DATA_H

#include "moe/Runtime/Executor.h"

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace polymoe {

class SafetensorsFile;
struct TensorInfo;

struct Language {
  std::string code;
  int32_t round = 0;  ///< 0: known to the base
  int32_t group = -1; ///< of the model's groups of languages; -1: in none
};

/// The groups of a model, by the codes of languages.
using LanguageGroups = std::map<std::string, int32_t>;

/// Says which group each language has; those that are not named have none.
void setGroups(std::vector<Language> &languages, const LanguageGroups &groups);
/// Throws Error when the language, which `file` holds, has no group.
void requireGroup(const Language &language, const std::filesystem::path &file);

/// Where training batches come from.
class BatchSource {
public:
  virtual ~BatchSource() = default;
  /// What Batch::languages indexes.
  virtual const std::vector<Language> &languages() const = 0;
  /// Tokens in a row.
  virtual int64_t length() const = 0;
  /// The next rows; throws Error when there are none left.
  virtual Batch next(int64_t rows) = 0;
  /// Throws Error when fewer than `rows` rows are left.
  virtual void require(int64_t rows) const = 0;
  /// Throws Error when a language that batches are made of has no group.
  virtual void requireGroups() const = 0;
  /// The position, as JSON text, and going back to it. Text of another
  /// source, or of other options, is an Error.
  virtual std::string position() const = 0;
  virtual void seek(std::string_view position) = 0;
};

//===----------------------------------------------------------------------===//
// Tokens file
//===----------------------------------------------------------------------===//

/// `tokens` [N,S], optionally `languages` [N] or [N,S]: rows in the order
/// given, unfiltered.
class TokensFile : public BatchSource {
public:
  /// Checks types, shapes, and every number. `vocabulary` bounds the tokens.
  TokensFile(const std::filesystem::path &path, int64_t vocabulary,
             bool needsLanguages = true);

  void setGroups(const LanguageGroups &groups) {
    polymoe::setGroups(known, groups);
  }

  int64_t rows() const { return rowCount; }
  /// Rows [begin, begin + count).
  Batch batch(int64_t begin, int64_t count) const;

  const std::vector<Language> &languages() const override { return known; }
  int64_t length() const override { return rowLength; }
  Batch next(int64_t rows) override;
  void require(int64_t rows) const override;
  void requireGroups() const override;
  std::string position() const override;
  void seek(std::string_view position) override;

private:
  std::filesystem::path path;
  std::vector<Language> known;
  int64_t rowCount = 0, rowLength = 0, cursor = 0;
  std::vector<int32_t> tokens;      // [N,S]
  std::vector<int32_t> languageIds; // [N,S]
  std::string fingerprint;          // of all that batches are made of
};

//===----------------------------------------------------------------------===//
// Corpus
//===----------------------------------------------------------------------===//

/// A corpus folder: its index and its mapped shards.
class Corpus {
public:
  /// One document: where its tokens lie.
  struct Document {
    uint32_t shard = 0;
    int32_t language = 0;
    uint64_t id = 0;    ///< depends on the file it is in and its number there
    int64_t begin = 0;  ///< first token in the shard
    int64_t length = 0; ///< tokens, the EOS among them
    int64_t bytes = 0;  ///< of UTF-8 text
  };

  /// Reads corpus.json and checks every shard wholly: keys, types, offsets,
  /// counts, tokens within `vocabulary`, EOS at the end of each document.
  explicit Corpus(const std::filesystem::path &folder, int64_t vocabulary);
  ~Corpus();

  void setGroups(const LanguageGroups &groups) {
    polymoe::setGroups(known, groups);
  }
  /// Throws Error when the language, by its index, has no group.
  void requireGroup(int32_t language) const {
    polymoe::requireGroup(known[size_t(language)], root / "corpus.json");
  }

  const std::filesystem::path &folder() const { return root; }
  const std::vector<Language> &languages() const { return known; }
  /// Index of the language; throws Error when the corpus lacks it.
  int32_t languageIndex(std::string_view code) const;
  int64_t vocabulary() const { return vocabularySize; }
  int32_t eos() const { return endOfText; }
  /// "tokenizer.json" or as corpus.json names it; empty when it names none.
  const std::filesystem::path &tokenizer() const { return tokenizerFile; }

  /// Documents of "train", "valid" or "test", in the order of the shards.
  std::vector<Document> documents(std::string_view split) const;

  /// Changes with the tokens of a split.
  uint64_t fingerprint(std::string_view split) const;

  /// Copies tokens [begin, begin + count) of the document.
  void read(const Document &document, int64_t begin, int64_t count,
            int32_t *into) const;

private:
  struct Shard {
    std::shared_ptr<const SafetensorsFile> file;
    const std::byte *tokens = nullptr;
    std::string split;
    std::string digest; // of the tokens
    std::vector<Document> documents;
  };
  void addShard(const std::string &file, const std::string &split,
                int32_t language, int64_t documents, int64_t tokens);

  std::filesystem::path root, tokenizerFile;
  std::vector<Language> known;
  int64_t vocabularySize = 0;
  int32_t endOfText = 0;
  std::vector<Shard> shards;
};

/// What of a corpus to train on, and how.
struct SamplerOptions {
  std::string split = "train";
  int64_t length = 512; ///< tokens in a row
  uint64_t seed = 0;
  /// Languages to take; all when empty.
  std::vector<std::string> languages = {};
  /// Rounds to take; all when empty.
  std::vector<int32_t> rounds = {};
  /// How often a language's documents come in an epoch, 1 when not named: 0.1
  /// takes each with probability 0.1, drawn anew every epoch; 2.5 takes each
  /// twice and half of them a third time.
  std::map<std::string, double> weights = {};
  /// Makes the text of languages, beside the weights, proportional to
  /// bytes^alpha: 1 takes them as the corpus has them, 0 all equally often.
  double alpha = 1;
  /// Tokens attend within their document only and positions restart with
  /// each. Otherwise a row is one segment with positions 0 to S-1.
  bool segmentAware = false;
};

/// "en=1,el=0.1"; throws Error.
std::map<std::string, double> parseWeights(std::string_view text);

/// Rows are windows over the concatenation of the documents in an order that
/// depends on seed and epoch alone; a window may begin and end in the middle
/// of one, and the next begins where it ends. An epoch follows the other
/// without a seam.
class CorpusSampler : public BatchSource {
public:
  /// Throws Error when the options leave no document.
  CorpusSampler(const Corpus &corpus, SamplerOptions options);

  const std::vector<Language> &languages() const override {
    return corpus.languages();
  }
  int64_t length() const override { return options.length; }
  Batch next(int64_t rows) override;
  void require(int64_t) const override {} // never runs out
  void requireGroups() const override;
  std::string position() const override;
  void seek(std::string_view position) override;

  /// Documents and tokens that the options leave to choose from, before
  /// weights.
  int64_t documents() const { return int64_t(all.size()); }
  int64_t tokens() const;
  int64_t epoch() const { return epochNumber; }

private:
  void shuffle();
  std::string fingerprint() const;

  const Corpus &corpus;
  SamplerOptions options;
  std::vector<Corpus::Document> all;
  std::vector<double> weightOf; // per language
  std::vector<uint32_t> order;  // of this epoch
  int64_t epochNumber = 0, documentNumber = 0, tokenNumber = 0;
};

/// Batches of text of one group of languages each, drawn as CorpusSampler does.
/// All groups that have text come equally often: each once in a round, in an
/// order that depends on seed and round alone.
class GroupSampler : public BatchSource {
public:
  /// Throws Error when the options leave no document, or one in a language
  /// without a group.
  GroupSampler(const Corpus &corpus, const SamplerOptions &options);

  const std::vector<Language> &languages() const override {
    return corpus.languages();
  }
  int64_t length() const override { return rowLength; }
  Batch next(int64_t rows) override;
  void require(int64_t) const override {} // never runs out
  void requireGroups() const override {}  // has been
  std::string position() const override;
  void seek(std::string_view position) override;

private:
  const Corpus &corpus;
  int64_t rowLength;
  uint64_t seed;
  std::vector<CorpusSampler> samplers; // of each group
  int64_t batchNumber = 0;
};

//===----------------------------------------------------------------------===//
// Evaluation
//===----------------------------------------------------------------------===//

/// How an evaluation cuts documents.
struct EvaluationWindows {
  int64_t length = 512; ///< tokens of context, at most
  int64_t rows = 8;     ///< in a batch
  /// Tokens from one window to the next, at most `length`, which 0 stands for:
  /// then windows overlap by one token.
  int64_t stride = 0;
  /// Lengths of rows: `length`, half of it, a quarter, ...; the shorter they
  /// are, the more a batch has. Short documents are then filled up by less.
  int64_t shapes = 1;
};

/// Batches that predict every token but the first of each document of one
/// split and language exactly once. A document is cut into windows of S + 1
/// tokens, each of which begins a stride after the one before; a row is a
/// window's first S tokens, its labels the last S. What an earlier window has
/// predicted, with less before it to read, has a label of -1. What is left of a
/// row is filled with EOS and labels of -1.
class EvaluationPass {
public:
  /// At most `maxDocuments` documents, the first ones; 0 for all.
  EvaluationPass(const Corpus &corpus, std::string_view split, int32_t language,
                 const EvaluationWindows &windows, int64_t maxDocuments = 0);

  /// The next batch, or nothing at the end. With one shape windows come in the
  /// order of the documents.
  std::optional<Batch> next();

  int64_t documents() const { return int64_t(all.size()); }
  /// Tokens predicted, and bytes of text, of all documents.
  int64_t predictedTokens() const;
  int64_t bytes() const;
  int64_t batches() const { return int64_t(planned.size()); }

private:
  struct Window {
    size_t document;
    int64_t begin, count; ///< tokens [begin, begin + count)
    int64_t unpredicted;  ///< the first that no window before predicts
    int64_t shape;
  };
  /// Some windows in the order in which they are taken.
  struct PlannedBatch {
    size_t first, count;
    int64_t shape;
  };
  void cut(size_t document, const EvaluationWindows &options);
  void plan(const EvaluationWindows &options);

  const Corpus &corpus;
  std::vector<Corpus::Document> all;
  int64_t length, rows;
  std::vector<Window> windows;
  std::vector<PlannedBatch> planned;
  size_t nextBatch = 0;
};

} // namespace polymoe

#endif // MOE_RUNTIME_DATA_H
