//===-- Corpus.cpp - reader of corpus folders -----------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Runtime/Data.h"
#include "moe/Runtime/Error.h"
#include "moe/Runtime/Files.h"
#include "moe/Runtime/Json.h"
#include "moe/Runtime/Memory.h"
#include "moe/Runtime/Safetensors.h"

#include <algorithm>
#include <cstring>

using namespace polymoe;

Corpus::~Corpus() = default;

Corpus::Corpus(const std::filesystem::path &folder, int64_t vocabulary)
    : root(folder) {
  const nlohmann::json json = readJsonObject(folder / "corpus.json");
  const JsonReader index(json, (folder / "corpus.json").string());
  if (index.text("format") != "polymoe-corpus" || index.integer("version") != 1)
    index.fail("expected format polymoe-corpus, version 1");
  vocabularySize = index.at("vocabulary").integer<int64_t>(1);
  if (vocabularySize > vocabulary)
    index.at("vocabulary")
        .expected(concat("at most ", vocabulary, ", the model's"));
  endOfText = index.at("eos").integer<int32_t>(
      0, int32_t(std::min<int64_t>(vocabularySize - 1, INT32_MAX)));
  if (index.has("tokenizer"))
    tokenizerFile = index.text("tokenizer");

  for (const JsonReader &entry : index.at("languages").elements()) {
    Language language{
        entry.text("code"),
        int32_t(std::min<int64_t>(entry.integer("round"), INT32_MAX))};
    for (const Language &other : known)
      if (other.code == language.code)
        entry.fail(concat("language '", language.code, "' appears twice"));
    known.push_back(language);
  }
  for (const JsonReader &entry : index.at("shards").elements()) {
    const char *split = entry.at("split").oneOf<const char *>(
        {{"train", "train"}, {"valid", "valid"}, {"test", "test"}});
    addShard(entry.text("file"), split, languageIndex(entry.text("language")),
             entry.integer("documents"), entry.integer("tokens"));
  }
}

/// The tensor, which must be a vector of this type.
static const TensorInfo &vectorOf(const SafetensorsFile &file, const char *key,
                                  DType type) {
  const TensorInfo &info = file.get(key);
  if (info.dtype != type || info.shape.size() != 1)
    fail(file.path(), ": key '", key, "': expected a vector of ", type,
         ", but got ", info.dtypeName, " ", toString(info.shape));
  return info;
}

/// The first element outside of [0, limit), or -1.
static int64_t findOutside(const std::byte *tokens, int64_t count,
                           int64_t limit) {
  constexpr int64_t block = 4096;
  for (int64_t begin = 0; begin < count; begin += block) {
    const int64_t end = std::min(count, begin + block);
    // Without a branch inside, this reads as fast as memory gives.
    uint32_t largest = 0;
    for (int64_t i = begin; i < end; ++i) {
      uint32_t token; // a negative one is a very large one
      std::memcpy(&token, tokens + 4 * i, 4);
      largest = std::max(largest, token);
    }
    if (largest < limit)
      continue;
    for (int64_t i = begin; i < end; ++i) {
      uint32_t token;
      std::memcpy(&token, tokens + 4 * i, 4);
      if (token >= limit)
        return i;
    }
  }
  return -1;
}

void Corpus::addShard(const std::string &name, const std::string &split,
                      int32_t language, int64_t documents, int64_t tokens) {
  Shard shard;
  shard.split = split;
  shard.file = SafetensorsFile::open(root / name);
  const SafetensorsFile &file = *shard.file;
  const TensorInfo &tokenInfo = vectorOf(file, "tokens", DType::I32);
  const TensorInfo &offsetInfo = vectorOf(file, "documents", DType::I64);
  const TensorInfo &byteInfo = vectorOf(file, "bytes", DType::I64);
  const int64_t found = byteInfo.elements();
  if (found == 0 || tokenInfo.elements() == 0)
    fail(file.path(), ": empty shard: expected at least one document");
  if (offsetInfo.elements() != found + 1)
    fail(file.path(), ": expected one offset in 'documents' more than the ",
         found, " elements of 'bytes', but got ", offsetInfo.elements());
  if (found != documents || tokenInfo.elements() != tokens)
    fail(file.path(), ": expected ", documents, " documents and ", tokens,
         " tokens as corpus.json says, but got ", found, " and ",
         tokenInfo.elements());

  shard.tokens = file.data(tokenInfo).data();
  const int64_t bad = findOutside(shard.tokens, tokens, vocabularySize);
  auto tokenAt = [&](int64_t i) {
    int32_t token;
    std::memcpy(&token, shard.tokens + 4 * i, 4);
    return token;
  };
  if (bad >= 0)
    fail(file.path(), ": key 'tokens': expected numbers in [0, ",
         vocabularySize, "), but got ", tokenAt(bad), " at element ", bad);

  shard.digest = checksumOf(file.data(tokenInfo)).digest;
  const std::vector<int64_t> offsets = file.integers(offsetInfo);
  const std::vector<int64_t> bytes = file.integers(byteInfo);
  if (offsets.front() != 0 || offsets.back() != tokens)
    fail(file.path(), ": key 'documents': expected offsets from 0 to ", tokens,
         ", but got ", offsets.front(), " to ", offsets.back());
  const uint64_t key = hashOf(name);
  shard.documents.reserve(size_t(found));
  for (size_t i = 0; i < size_t(found); ++i) {
    if (offsets[i + 1] <= offsets[i] || offsets[i + 1] > tokens)
      fail(file.path(),
           ": key 'documents': expected offsets that grow, but "
           "got ",
           offsets[i], " and ", offsets[i + 1], " at element ", i);
    if (tokenAt(offsets[i + 1] - 1) != endOfText)
      fail(file.path(), ": document ", i, ": expected EOS (", endOfText,
           ") at its end, but got ", tokenAt(offsets[i + 1] - 1));
    if (bytes[i] < 0)
      fail(file.path(), ": key 'bytes': expected no negative number, but got ",
           bytes[i], " at element ", i);
    shard.documents.push_back({uint32_t(shards.size()), language,
                               mix64(key + i), offsets[i],
                               offsets[i + 1] - offsets[i], bytes[i]});
  }
  shards.push_back(std::move(shard));
}

int32_t Corpus::languageIndex(std::string_view code) const {
  for (size_t i = 0; i < known.size(); ++i)
    if (known[i].code == code)
      return int32_t(i);
  fail(root / "corpus.json", ": unknown language '", code, "'");
}

std::vector<Corpus::Document> Corpus::documents(std::string_view split) const {
  std::vector<Document> all;
  for (const Shard &shard : shards)
    if (shard.split == split)
      all.insert(all.end(), shard.documents.begin(), shard.documents.end());
  return all;
}

uint64_t Corpus::fingerprint(std::string_view split) const {
  std::string digests;
  for (const Shard &shard : shards)
    if (shard.split == split)
      digests += shard.digest;
  return hashOf(digests);
}

void Corpus::read(const Document &document, int64_t begin, int64_t count,
                  int32_t *into) const {
  std::memcpy(into,
              shards[document.shard].tokens + 4 * (document.begin + begin),
              size_t(4 * count));
}
