//===-- TokenizerConfig.h - what tokenizer_config.json adds -----*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_LIB_TOKENIZER_TOKENIZERCONFIG_H
#define MOE_LIB_TOKENIZER_TOKENIZERCONFIG_H

#include "moe/Runtime/Json.h"

namespace polymoe::tokenizer {

/// Adds to the contents of a tokenizer.json the tokens that only files beside
/// it name, as `transformers` does when it loads a folder:
/// added_tokens_decoder, bos_token, ... of tokenizer_config.json; in old
/// folders added_tokens.json and special_tokens_map.json. What goes around a
/// text is the template's matter: beside a tokenizer.json, `transformers`
/// passes over add_bos_token.
void applyTokenizerConfig(nlohmann::json &tokenizer,
                          const std::filesystem::path &folder);

} // namespace polymoe::tokenizer

#endif // MOE_LIB_TOKENIZER_TOKENIZERCONFIG_H
