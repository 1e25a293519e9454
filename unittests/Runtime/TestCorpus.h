//===-- TestCorpus.h - corpora made for tests -------------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_UNITTESTS_RUNTIME_TESTCORPUS_H
#define MOE_UNITTESTS_RUNTIME_TESTCORPUS_H

#include "moe/Runtime/Error.h"
#include "moe/Runtime/Safetensors.h"

#include <nlohmann/json.hpp>

#include <filesystem>
#include <vector>

namespace polymoe {

/// Writes a corpus file by file; whatever a test sets wrong is written as it
/// is. The EOS is 0.
struct TestCorpus {
  struct Shard {
    std::string language, split;
    std::vector<int32_t> tokens;
    std::vector<int64_t> documents, bytes;
  };

  /// A shard of documents with these lengths (EOS included), whose tokens
  /// count up from `first`.
  void add(const std::string &language, const std::string &split,
           const std::vector<int64_t> &lengths, int32_t first = 1) {
    Shard shard{language, split, {}, {0}, {}};
    for (int64_t length : lengths) {
      for (int64_t i = 1; i < length; ++i)
        shard.tokens.push_back(1 + first++ % (vocabulary - 1));
      shard.tokens.push_back(0);
      shard.documents.push_back(int64_t(shard.tokens.size()));
      shard.bytes.push_back(3 * length);
    }
    shards.push_back(std::move(shard));
  }

  void write(const std::filesystem::path &folder) const {
    std::filesystem::create_directories(folder);
    nlohmann::json index = {{"format", "polymoe-corpus"},
                            {"version", 1},
                            {"vocabulary", vocabulary},
                            {"eos", 0},
                            {"tokenizer", "tokenizer.json"},
                            {"languages", nlohmann::json::array()},
                            {"shards", nlohmann::json::array()}};
    for (const auto &[code, round] : languages)
      index["languages"].push_back({{"code", code}, {"round", round}});
    for (size_t i = 0; i < shards.size(); ++i) {
      const Shard &shard = shards[i];
      const std::string name = concat(shard.split, "-", i, ".safetensors");
      SafetensorsWriter writer(folder / name);
      auto add = [&](const char *key, DType type, const auto &values) {
        writer.add(key, type, {int64_t(values.size())},
                   std::as_bytes(std::span(values)));
      };
      add("tokens", DType::I32, shard.tokens);
      add("documents", DType::I64, shard.documents);
      add("bytes", DType::I64, shard.bytes);
      writer.finish();
      index["shards"].push_back({{"file", name},
                                 {"split", shard.split},
                                 {"language", shard.language},
                                 {"documents", shard.bytes.size()},
                                 {"tokens", shard.tokens.size()}});
    }
    index.update(changes);
    writeText(folder / "corpus.json", index.dump());
  }

  int32_t vocabulary = 1000;
  std::vector<std::pair<std::string, int>> languages = {{"en", 0}, {"el", 1}};
  std::vector<Shard> shards;
  nlohmann::json changes = nlohmann::json::object();
};

} // namespace polymoe

#endif // MOE_UNITTESTS_RUNTIME_TESTCORPUS_H
