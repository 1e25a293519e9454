//===-- AddedTokens.cpp - tokens found before the model runs --------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "AddedTokens.h"

#include "Unicode.h"

#include <algorithm>

namespace polymoe::tokenizer {

const uint32_t *Trie::child(uint32_t node, char byte) const {
  for (const auto &[label, target] : nodes[node].children)
    if (label == byte)
      return &target;
  return nullptr;
}

bool Trie::insert(std::string_view key, int32_t value) {
  uint32_t node = 0;
  for (char byte : key) {
    if (const uint32_t *known = child(node, byte)) {
      node = *known;
      continue;
    }
    auto added = static_cast<uint32_t>(nodes.size());
    nodes[node].children.emplace_back(byte, added);
    nodes.emplace_back();
    node = added;
  }
  begins[static_cast<unsigned char>(key[0])] = true;
  if (nodes[node].value >= 0)
    return false;
  nodes[node].value = value;
  return true;
}

Trie::Found Trie::longestAt(std::string_view text, size_t at) const {
  Found found;
  if (!begins[static_cast<unsigned char>(text[at])])
    return found;
  uint32_t node = 0;
  for (size_t i = at; i < text.size(); ++i) {
    const uint32_t *next = child(node, text[i]);
    if (!next)
      break;
    node = *next;
    if (nodes[node].value >= 0)
      found = {i + 1 - at, nodes[node].value};
  }
  return found;
}

AddedTokens::AddedTokens(const JsonReader &config,
                         const StringMap<int32_t> &vocabulary,
                         const Normalizer *normalizer) {
  auto nextId = static_cast<int32_t>(vocabulary.size());
  for (const JsonReader &entry : config.elements()) {
    entry.allow({"id", "content", "single_word", "lstrip", "rstrip",
                 "normalized", "special"});
    AddedToken token{entry.text("content"),    entry.flag("single_word"),
                     entry.flag("lstrip"),     entry.flag("rstrip"),
                     entry.flag("normalized"), entry.flag("special")};
    if (token.content.empty())
      continue;

    // `tokenizers` numbers the tokens itself and only warns if the file says
    // otherwise. The model knows one of the two numbers, and which is a guess.
    int32_t id = nextId;
    if (auto known = ids.find(token.content); known != ids.end())
      id = known->second;
    else if (auto inModel = vocabulary.find(token.content);
             inModel != vocabulary.end())
      id = inModel->second;
    else
      ++nextId;
    if (int32_t said = entry.at("id").integer<int32_t>(); said != id)
      entry.fail("expected id " + std::to_string(id) + " for '" +
                 token.content + "', but got " + std::to_string(said));

    if (token.normalized && normalizer) {
      Piece piece = Piece::whole(token.content);
      normalizer->apply(piece);
      if (piece.text().empty())
        entry.fail("nothing is left of '" + token.content +
                   "' after normalisation");
      if (piece.text() != token.content)
        normalizedContents[id] = piece.text();
    }
    ids.insert_or_assign(token.content, id);
    if (token.special)
      specials.insert_or_assign(token.content, true);
    tokens.insert_or_assign(id, std::move(token));
  }

  for (const auto &[id, token] : tokens) {
    auto changed = normalizedContents.find(id);
    const std::string &pattern =
        changed != normalizedContents.end() ? changed->second : token.content;
    if (!(token.normalized ? normalized : raw).insert(pattern, id))
      config.fail("two tokens become '" + pattern + "' after normalisation");
  }
}

void AddedTokens::cut(Pieces &parts, const Piece &piece,
                      const Trie &trie) const {
  const std::string &text = piece.text();
  if (text.empty())
    return;
  auto isWordBefore = [&](size_t at) {
    return at > 0 && isWord(previousCharacter(text, at));
  };
  auto isWordAfter = [&](size_t at) {
    return at < text.size() && isWord(nextCharacter(text, at));
  };

  size_t covered = 0;
  for (size_t at = 0; !trie.empty() && at < text.size();) {
    Trie::Found found = trie.longestAt(text, at);
    if (found.length == 0) {
      ++at;
      continue;
    }
    // Whatever becomes of a match, the search goes on behind it.
    size_t begin = at;
    size_t end = at + found.length;
    at = end;
    const AddedToken &token = tokens.at(found.value);
    if (token.singleWord && (isWordBefore(begin) || isWordAfter(end)))
      continue;
    if (token.leftStrip) {
      for (size_t i = begin; i > 0 && isSpace(previousCharacter(text, i));)
        begin = i;
      begin = std::max(begin, covered);
    }
    if (token.rightStrip)
      for (size_t i = end; i < text.size() && isSpace(nextCharacter(text, i));)
        end = i;
    if (covered < begin)
      parts.push_back(piece.slice(covered, begin));
    if (begin < end)
      parts.push_back(Piece::ofToken(found.value));
    covered = end;
  }
  if (covered < text.size())
    parts.push_back(piece.slice(covered, text.size()));
}

Pieces AddedTokens::split(std::string_view text,
                          const Normalizer *normalizer) const {
  Pieces pieces;
  cut(pieces, Piece::whole(std::string(text)), raw);
  Pieces parts;
  for (Piece &piece : pieces) {
    if (piece.isToken()) {
      parts.push_back(std::move(piece));
      continue;
    }
    if (normalizer)
      normalizer->apply(piece);
    cut(parts, piece, normalized);
  }
  return parts;
}

std::optional<int32_t> AddedTokens::idOf(std::string_view token) const {
  auto found = ids.find(token);
  return found == ids.end() ? std::nullopt : std::optional(found->second);
}

const std::string *AddedTokens::tokenOf(int32_t id) const {
  if (auto changed = normalizedContents.find(id);
      changed != normalizedContents.end())
    return &changed->second;
  auto found = tokens.find(id);
  return found == tokens.end() ? nullptr : &found->second.content;
}

} // namespace polymoe::tokenizer
