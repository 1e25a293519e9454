//===-- moe-tokenize.cpp - the tokenizer on a pipe ------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// For tests: reads JSON lines, writes a JSON line for each.
//
//   {"encode": "text", "special": true}  ->  {"ids": [1, 2]}
//   {"decode": [1, 2], "skip": true}     ->  {"text": "ab", "stream": ["a",
//   "b"]}
//
// "stream" holds what TextStream returns for every id, then its rest.
//
//===----------------------------------------------------------------------===//

#include "moe/Runtime/Error.h"
#include "moe/Tokenizer/Tokenizer.h"

#include <nlohmann/json.hpp>

#include <cstdio>
#include <iostream>

using namespace polymoe;
using nlohmann::json;

static json answer(const Tokenizer &tokenizer, const json &request) {
  if (request.contains("encode"))
    return {{"ids",
             tokenizer.encode(request["encode"].get_ref<const std::string &>(),
                              request.at("special").get<bool>())}};

  auto ids = request.at("decode").get<std::vector<int32_t>>();
  bool skip = request.at("skip").get<bool>();
  TextStream stream(tokenizer, skip);
  std::vector<std::string> parts;
  parts.reserve(ids.size() + 1);
  for (int32_t id : ids)
    parts.push_back(stream.push(id));
  parts.push_back(stream.finish());
  return {{"text", tokenizer.decode(ids, skip)}, {"stream", parts}};
}

int main(int argc, char **argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: moe-tokenize tokenizer.json < lines.jsonl\n");
    return 2;
  }
  try {
    Tokenizer tokenizer = Tokenizer::fromFile(argv[1]);
    std::ios::sync_with_stdio(false);
    for (std::string line; std::getline(std::cin, line);)
      std::cout << answer(tokenizer, json::parse(line)).dump() << '\n';
  } catch (const std::exception &error) {
    std::fprintf(stderr, "moe-tokenize: %s\n", error.what());
    return 1;
  }
}
