// Discardable attributes of the dialect where they do not belong, or of another type, and what
// mends them, as constraints.py says.
// RUN: moe-opt %s --split-input-file --verify-diagnostics

// expected-error@below {{expected moe.backward to be the name of a func.func, but got @g}}
func.func private @f() attributes {moe.backward = @g}
// mended: @g => @f

// -----

// expected-error@below {{expected moe.backward to be the name of a func.func, but got "f"}}
func.func private @f() attributes {moe.backward = "f"}
// mended: "f" => @f

// -----

// expected-error@below {{expected moe.backward on a func.func}}
module attributes {moe.backward = @f} {
  func.func private @f()
}
// mended: module attributes {moe.backward = @f} => module

// -----

// expected-error@below {{expected moe.cost to be array<f64: FLOPs, bytes>, but got array<f64: 1.000000e+00>}}
func.func private @f() attributes {moe.cost = array<f64: 1.0>}
// mended: <f64: 1.0> => <f64: 1.0, 2.0>

// -----

// expected-error@below {{expected moe.bindings on an llvm.func}}
func.func private @f() attributes {moe.bindings = []}
// mended: func.func private @f() => llvm.func @f()

// -----

// expected-error@below {{expected moe.bindings to be an array of #moe.binding with types, but got [#moe.binding<input, "x">]}}
llvm.func @f(!llvm.ptr, !llvm.ptr) attributes {moe.bindings = [#moe.binding<input, "x">]}
// mended: "x"> => "x" in memref<4xf32>>

// -----

// expected-error@below {{expected moe.model on a module}}
func.func private @f() attributes {moe.model = {family = "llama", config = "config.json"}}
// mended: func.func private @f() => module
// mended: "config.json"}} => "config.json"}} {}

// -----

// expected-error@below {{expected moe.model to be {family, config} and where known tokenizer, ignored tensors and ignored keys of the configuration, strings, but got "llama"}}
module attributes {moe.model = "llama"} {
}
// mended: "llama" => {family = "llama", config = "config.json"}

// -----

// expected-error@below {{expected moe.model to be {family, config} and where known tokenizer, ignored tensors and ignored keys of the configuration, strings, but got {family = "llama"}}}
module attributes {moe.model = {family = "llama"}} {
}
// mended: "llama"} => "llama", config = "config.json"}

// -----

// expected-error@below {{expected moe.model to be {family, config} and where known tokenizer, ignored tensors and ignored keys of the configuration, strings, but got {config = "config.json", family = "llama", ignored = [1]}}}
module attributes {moe.model = {family = "llama", config = "config.json", ignored = [1]}} {
}
// mended: [1] => ["x"]

// -----

// expected-error@below {{expected moe.model to be {family, config} and where known tokenizer, ignored tensors and ignored keys of the configuration, strings, but got {config = "config.json", family = "llama", tokeniser = "tokenizer.json"}}}
module attributes {moe.model = {family = "llama", config = "config.json", tokeniser = "tokenizer.json"}} {
}
// mended: tokeniser => tokenizer

// -----

// expected-error@below {{expected moe.objective to be {balance, balance_form, classifier, language_prior, language_prior_form, router_cross_entropy}, floats and forms of router losses, but got {balance = 0.000000e+00 : f64, balance_form = "mean", classifier = 0.000000e+00 : f64, language_prior = 0.000000e+00 : f64, language_prior_form = "paper", router_cross_entropy = 0.000000e+00 : f64}}}
module attributes {moe.objective = {balance = 0.0, balance_form = "mean", classifier = 0.0, language_prior = 0.0, language_prior_form = "paper", router_cross_entropy = 0.0}} {
}
// mended: "mean" => "paper"

// -----

// expected-error@below {{expected moe.groups to be {language = group, ...}, integers of 64 bits that count from 0 without a gap, but got {el = 0 : i64, en = 2 : i64}}}
module attributes {moe.groups = {el = 0, en = 2}} {
}
// mended: en = 2 => en = 1

// -----

// expected-error@below {{expected moe.groups to be {language = group, ...}, integers of 64 bits that count from 0 without a gap, but got {el = 0 : i32}}}
module attributes {moe.groups = {el = 0 : i32}} {
}
// mended: 0 : i32 => 0

// -----

// expected-error@below {{expected moe.groups to be {language = group, ...}, integers of 64 bits that count from 0 without a gap, but got {}}}
module attributes {moe.groups = {}} {
}
// mended: {moe.groups = {}} => {}

// -----

// expected-error@below {{expected moe.groups on a module}}
func.func private @f() attributes {moe.groups = {el = 0}}
// mended: @f() attributes {moe.groups = {el = 0}} => @f()

// -----

// expected-error@below {{expected moe.target to be {abi, variant}, an integer and a string, but got {variant = "avx2"}}}
module attributes {moe.target = {variant = "avx2"}} {
}
// mended: variant = "avx2" => abi = 1 : i64, variant = "avx2"

// -----

// expected-error@below {{expected moe.source to be a resource of bytes, but got "module {}"}}
module attributes {moe.source = "module {}"} {
}
// mended: "module {}" => dense_resource<s> : tensor<1xui8>

// -----

// expected-error@below {{expected an attribute of operations, but got moe.sauce}}
module attributes {moe.sauce} {
}
// mended: {moe.sauce} => {}

// -----

// expected-error@below {{expected an attribute of operations, but got moe.binding}}
func.func private @f() attributes {moe.binding = #moe.binding<input, "x">}
// mended: @f() attributes {moe.binding = #moe.binding<input, "x">} => @f()

// -----

// expected-error@below {{expected moe.binding to be a #moe.binding without a type, which the argument or result has, but got "x"}}
func.func @f(%x: tensor<4xf32> {moe.binding = "x"}) {
  return
}
// mended: "x" => #moe.binding<input, "x">

// -----

// expected-error@below {{expected moe.binding to be a #moe.binding without a type, which the argument or result has, but got #moe.binding<input, "x" in memref<4xf32>>}}
func.func @f(%x: tensor<4xf32> {moe.binding = #moe.binding<input, "x" in memref<4xf32>>}) {
  return
}
// mended: "x" in memref<4xf32>> => "x">

// -----

// expected-error@below {{expected moe.binding on an entry point, not a private function}}
func.func private @f(%x: tensor<4xf32>) -> (tensor<4xf32> {moe.binding = #moe.binding<output, "x">}) {
  return %x : tensor<4xf32>
}
// mended: func.func private => func.func

// -----

// expected-error@below {{expected an attribute of arguments and results, but got moe.model}}
func.func @f(%x: tensor<4xf32> {moe.model = {}}) {
  return
}
// mended: moe.model = {} => moe.binding = #moe.binding<input, "x">
