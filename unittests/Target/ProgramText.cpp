//===-- ProgramText.cpp - programs of the fused level, in words -----------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "ProgramText.h"

using namespace polymoe::test;

static std::string replaceAll(std::string text, const std::string &from,
                              const std::string &to) {
  for (size_t at = 0; (at = text.find(from, at)) != std::string::npos;
       at += to.size())
    text.replace(at, from.size(), to);
  return text;
}

std::string polymoe::test::typeOf(const Port &port) {
  return port.type[0] == '!' ? port.type : "tensor<" + port.type + ">";
}

static std::string bindingOf(const Port &port, const std::string &kind) {
  return " {moe.binding = #moe.binding<" + kind + ", \"" + port.name + "\">}";
}

std::string TestProgram::text(const std::string &type) const {
  std::string arguments, values, types, resultTypes;
  auto append = [](std::string &list, const std::string &item) {
    list += (list.empty() ? "" : ", ") + item;
  };
  for (const Port &port : inputs)
    append(arguments,
           "%" + port.name + ": " + typeOf(port) + bindingOf(port, port.kind));
  for (const Port &port : results) {
    append(values, "%" + port.name);
    append(types, typeOf(port));
    append(resultTypes, typeOf(port) + bindingOf(port, "output"));
  }
  std::string text = "func.func @step(" + arguments + ") -> (" + resultTypes +
                     ") {\n" + body + "\n  return " + values + " : " + types +
                     "\n}\n";
  text = replaceAll(text, "$T", type);
  return replaceAll(text, "$P", type == "f64" ? "f64" : "f32");
}
