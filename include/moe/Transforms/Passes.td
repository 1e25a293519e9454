//===-- Passes.td - the passes of the moe dialect ----------*- tablegen -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_TRANSFORMS_PASSES
#define MOE_TRANSFORMS_PASSES

include "mlir/Pass/PassBase.td"

//===----------------------------------------------------------------------===//
// Changes to a model, at the model level
//===----------------------------------------------------------------------===//

def Upcycle : Pass<"moe-upcycle", "mlir::ModuleOp"> {
  let summary = "turn every FFN into a mixture of copies of itself";
  let description = [{
    Replaces each `moe.ffn` by a router, routes and `moe.experts` (MoE-LPR,
    section 3.1). Expert 0 has the original FFN's own parameters; experts 1 to
    E-1 begin as copies of them (`#moe.copy`); the router is new and drawn
    Xavier-normal. With K >= 2 the model computes what it did, up to rounding,
    whatever the routers say.

    `counts` gives the number of experts of every layer, including the original
    FFN, in place of `experts`; a layer with one expert stays dense, without a
    router. Layers that come to differ get functions of their own.

    New parameters are named after the FFN's: `P.gate_proj.weight` gives
    `P.experts.<e>.gate_proj.weight` and `P.gate.weight`.

    ```mlir
    %y = moe.ffn %x, %g, %u, %d {activation = silu, form = gated}
    // ==>
    %l = moe.router %x, %router
    %r, %s = moe.route %l {renormalize}
    %y = moe.experts %x, %s, %r, %g, %u, %d, %g1, %u1, %d1, ... {activation = silu, form = gated}
    ```
  }];
  let options = [
    Option<"experts", "experts", "int64_t", "6", "experts of every layer, the original FFN included">,
    ListOption<"counts", "counts", "int64_t", "experts of each layer, in place of experts">,
    Option<"topK", "top-k", "int64_t", "2", "experts of a token (at most the layer's)">,
    Option<"seed", "seed", "uint64_t", "0", "seed of the routers' initialisation">,
  ];
  let statistics = [
    Statistic<"numLayers", "layers", "FFNs turned into mixtures">,
    Statistic<"numExperts", "new-experts", "experts added">,
  ];
}

def AllocateExperts : Pass<"moe-allocate-experts", "mlir::ModuleOp"> {
  let summary = "give each layer the experts that a profile asks for";
  let description = [{
    Gives layer `i`, with the similarity `S_i` of the languages in it, `N_i - 1`
    new experts, where `N_i = ceil((1/S_i) / sum_j (1/S_j) * delta)` (LayerMoE,
    section 3.2). `profile` is the file that `moe-run profile similarity` wrote
    for this model. Either `delta` is given, or `budget`, the new experts of all
    layers together: then `delta` is the largest that keeps to it. Where several
    layers are equally similar they get an expert together or not at all, so
    less than the budget may be spent.

    A dense layer becomes a mixture as by `moe-upcycle`; one without new experts
    stays as it is. A layer that is a mixture already (lifelong expansion: the
    model of an earlier round) keeps its experts, which do not train again and
    have the role `backbone` from now on. Its new experts are copies of expert
    0, the original FFN, and its router is drawn anew for all of them, and its
    language gate too.

    ```mlir
    %l = moe.router %x, %router : (..., tensor<3x64xf32>) -> ...
    %y = moe.experts %x, %s, %r, %u0, %d0, %u1, %d1, %u2, %d2 ...
    // ==>
    %l = moe.router %x, %router : (..., tensor<4x64xf32>) -> ...
    %y = moe.experts %x, %s, %r, %u0, %d0, %u1, %d1, %u2, %d2, %u3, %d3 ...
    ```
  }];
  let options = [
    Option<"profile", "profile", "std::string", "\"\"", "file of moe-run profile similarity">,
    Option<"delta", "delta", "double", "0", "delta of the formula">,
    Option<"budget", "budget", "int64_t", "0", "new experts of all layers together, at most">,
    Option<"topK", "top-k", "int64_t", "2", "experts of a token (at most the layer's)">,
    Option<"seed", "seed", "uint64_t", "0", "seed of the routers' initialisation">,
  ];
  let statistics = [
    Statistic<"numLayers", "layers", "layers that got experts">,
    Statistic<"numExperts", "new-experts", "experts added">,
  ];
}

def GroupLanguages : Pass<"moe-group-languages", "mlir::ModuleOp"> {
  let summary = "give groups of languages experts of their own";
  let description = [{
    Chooses groups of languages and layers, and gives each of these layers one
    expert for each group (DMoE, "Group then Scale"): the original FFN for group
    0 and copies of it for the others. The routers are new and drawn from N(0,
    0.02^2). The module notes which language is in which group (`moe.groups`).

    What is not given is chosen from `profile`, which `moe-run profile
    deviation` measures on the model:

    - groups: `num-groups` of them, made one after the other. Of up to 20
      languages a group is the set whose smallest similarity is the largest
      among all sets of its size that are left. Of more languages a group
      begins with the most similar pair that is left, and takes in the language
      whose smallest similarity to the group is the largest until it is full. Of
      equal ones the first is taken, in the lexicographic order of the
      profile's languages. Where the number of groups does not divide that of
      languages, the first groups have one language more.
    - layers: those whose deviation, a mean over languages that is scaled to [0,
      1] over the layers, is at least `epsilon`; or the `top` layers of largest
      deviation, the first of equal ones.

    A profile of another model is an error. So is a chosen layer that has
    experts already.

    ```mlir
    module {
      ...
      %y = moe.ffn %x, %g, %u, %d {activation = silu, form = gated}
    // ==>
    module attributes {moe.groups = {el = 0 : i64, en = 1 : i64, es = 1 : i64}} {
      ...
      %l = moe.router %x, %router
      %r, %s = moe.route %l {renormalize}
      %y = moe.experts %x, %s, %r, %g, %u, %d, %g1, %u1, %d1 {activation = silu, form = gated}
    ```
  }];
  let options = [
    Option<"profile", "profile", "std::string", "\"\"", "file that moe-run profile deviation wrote">,
    ListOption<"groups", "groups", "std::string", "languages of each group, as en+es,el+hu">,
    Option<"numGroups", "num-groups", "int64_t", "0", "groups to make of the profile's languages">,
    ListOption<"layers", "layers", "int64_t", "layers that get experts">,
    Option<"epsilon", "epsilon", "double", "0.6", "least deviation of the layers that get experts">,
    Option<"top", "top", "int64_t", "0", "how many layers get experts, in place of epsilon">,
    Option<"topK", "top-k", "int64_t", "2", "experts of a token (at most the groups)">,
    Option<"seed", "seed", "uint64_t", "0", "seed of the routers' initialisation">,
  ];
  let statistics = [
    Statistic<"numLayers", "layers", "FFNs turned into mixtures">,
    Statistic<"numExperts", "new-experts", "experts added">,
  ];
}

def AddLanguage : Pass<"moe-add-language", "mlir::ModuleOp"> {
  let summary = "give a further language an expert of its own";
  let description = [{
    Adds to every layer with experts one more, for a language that is in no
    group (DMoE). It begins as a copy of expert `expert`, the one under which
    the language has the lowest perplexity, and its row of the router as a copy
    of that expert's. The language becomes a group of its own in `moe.groups`.

    Only the new experts and rows of routers train: all other parameters become
    frozen parts of the backbone. A router is its old rows and the new one,
    joined by `moe.concat_rows`. By groups (`moe-route-by-group`) tokens of all
    other languages go where they went, so their results stay the same, bit for
    bit. By routers they may go to the new expert.

    The router has to be in a checkpoint, and experts have to be as many as
    groups.

    ```mlir
    %l = moe.router %x, %router
    // ==>
    %w = moe.concat_rows %router, %row
    %l = moe.router %x, %w
    ```
  }];
  let options = [
    Option<"language", "language", "std::string", "\"\"", "code of the language">,
    Option<"expert", "expert", "int64_t", "-1", "expert to copy; has to be given">,
  ];
  let statistics = [
    Statistic<"numLayers", "layers", "layers that got an expert">,
  ];
}

def EmbedModel : Pass<"moe-embed-model", "mlir::ModuleOp"> {
  let summary = "keep the model beside the program that is made of it";
  let description = [{
    Attaches the text of the module to the module, as the resource
    `moe.source`. The pipelines that make programs begin with this pass, so that
    `moe-run` finds in a compiled module the parameters with their origins and
    whatever else it asks of a model.

    ```mlir
    module { ... }
    // ==>
    module attributes {moe.source = dense_resource<model> : tensor<4096xui8>} { ... }
    ```
  }];
}

def ForceExpert : Pass<"moe-force-expert", "mlir::ModuleOp"> {
  let summary = "send every token to one expert with a score of 1";
  let description = [{
    Sets `forced_expert` on every `moe.route` and removes its language gate.
    With expert 0 forced, the model equals the dense one bit for bit if expert 0
    has not trained. The pass fails where anything but `moe.experts` and
    `moe.balance_loss` uses the routes.

    ```mlir
    %r, %s = moe.route %l {renormalize} : (tensor<?x?x6xf32>) -> (!moe.routes<?x6, 2>, tensor<?x?x2xf32>)
    // ==>
    %r, %s = moe.route %l {forced_expert = 0 : i64} : (tensor<?x?x6xf32>) -> (!moe.routes<?x6, 1>, tensor<?x?x1xf32>)
    ```
  }];
  let options = [
    Option<"expert", "expert", "int64_t", "0", "which expert">,
  ];
}

def InsertLanguageGates : Pass<"moe-insert-language-gates", "mlir::ModuleOp"> {
  let summary = "put a classifier of languages in front of routers";
  let description = [{
    Puts a language gate (LayerMoE) in front of the router of every layer in
    `layers`. A token that the gate takes for one of an old language goes to
    expert 0 alone with a score of exactly 1, so that the layer computes for it
    what the dense layer computes, bit for bit. `layers` are numbers of layers,
    from 0, dense ones included; by default all layers with experts get a gate.
    The paper gates the layers in which languages are most alike: with `profile`,
    the file of `moe-run profile similarity`, the `most-similar` layers among
    those with experts are taken. The profile was measured on the model as it is,
    or on the one that it was expanded from.

    `pool` says what a gate looks at: `token`, the token alone; `causal-mean`,
    the mean of the row up to the token, for which generation keeps a cache;
    `sequence-sum`, the form of the released code, the sum over the whole row,
    which is not known while text is generated.

    The gate's parameter is named after the router's: `P.gate.weight` gives
    `P.language_gate.weight`. It is frozen. Stage 2 trains it, and until then it
    takes no part (`moe-drop-untrained-gates`).

    ```mlir
    %l = moe.router %x, %router
    %r, %s = moe.route %l {renormalize}
    // ==>
    %l = moe.router %x, %router
    %g = moe.language_gate %x, %gate
    %r, %s = moe.route %l, %g {renormalize}
    ```
  }];
  let options = [
    ListOption<"layers", "layers", "int64_t", "layers to gate (default: all with experts)">,
    Option<"profile", "profile", "std::string", "\"\"", "file of moe-run profile similarity, in place of layers">,
    Option<"mostSimilar", "most-similar", "int64_t", "7", "layers to gate with a profile">,
    Option<"pool", "pool", "std::string", "\"token\"", "token, causal-mean or sequence-sum">,
    Option<"seed", "seed", "uint64_t", "0", "seed of the gates' initialisation">,
  ];
  let statistics = [
    Statistic<"numGates", "gates", "routers that got a gate">,
  ];
}

def DropUntrainedGates : Pass<"moe-drop-untrained-gates", "mlir::ModuleOp"> {
  let summary = "route without gates that nothing has trained";
  let description = [{
    Removes the gate from every `moe.route` whose gate is frozen and has an
    initialiser as its origin: a random classifier would send half of the text
    of new languages to expert 0. A model may therefore have its gates from the
    start, and stage 1 and its evaluation run as if it had none. `moe-run` runs
    this pass on every model that it executes; `moe-translate --export-hf`
    leaves such gates out as well.

    ```mlir
    %r, %s = moe.route %l, %g {renormalize}
    // ==>
    %r, %s = moe.route %l {renormalize}
    ```
  }];
  let statistics = [
    Statistic<"numDropped", "dropped", "routes that lost their gate">,
  ];
}

def RouteByGroup : Pass<"moe-route-by-group", "mlir::ModuleOp"> {
  let summary = "send every token to the expert of its language's group";
  let description = [{
    Makes every `moe.route` go by groups instead of by its router: a token of a
    language of group g goes to expert g alone with a score of exactly 1 (DMoE,
    stage 1). `@forward` gets an input that is bound to `groups`, the group of
    each token's language. Which language has which group is what `moe.groups`
    of the module says. A language gate in front of a route goes.

    `moe-run` runs this pass on a copy of the model where it is asked to
    (`--routes=group`); the model itself keeps its routers and its groups.

    ```mlir
    %r, %s = moe.route %l {renormalize} : (tensor<?x?x6xf32>) -> (!moe.routes<?x6, 2>, tensor<?x?x2xf32>)
    // ==>
    %r, %s = moe.route %l groups(%groups) : (tensor<?x?x6xf32>, tensor<?x?xi32>) -> (!moe.routes<?x6, 1>, tensor<?x?x1xf32>)
    ```
  }];
  let statistics = [
    Statistic<"numRoutes", "routes", "layers whose tokens go by groups">,
  ];
}

def FreezeBackbone : Pass<"moe-freeze-backbone", "mlir::ModuleOp"> {
  let summary = "say which parameters train";
  let description = [{
    Marks the parameters of the given roles trainable and all others frozen.
    By default new experts and routers train, as in stage 1 of MoE-LPR. `none`
    freezes all; with other roles it is an error if no parameter has them.

    The value of a parameter that trains is going to change, so a frozen copy of
    it (`#moe.copy`) gets its origin, which has to be a checkpoint.

    ```mlir
    moe.parameter trainable backbone @w : ...
    moe.parameter expert @e : ...
    // ==>
    moe.parameter backbone @w : ...
    moe.parameter trainable expert @e : ...
    ```
  }];
  let options = [
    ListOption<"train", "train", "std::string",
               "roles that train: backbone, expert, router, language_gate; or none (default: expert, router)">,
  ];
  let statistics = [
    Statistic<"numTrainable", "trainable", "parameters that train">,
    Statistic<"numFrozen", "frozen", "parameters that do not">,
  ];
}

def ConvertDType : Pass<"moe-convert-dtype", "mlir::ModuleOp"> {
  let summary = "let a model compute in another type";
  let description = [{
    Gives parameters, and what is computed from them, the element type `dtype`.
    Router logits, scores and rotary tables, which are more precise than the
    model, become f32. The module has to be at the model level.

    ```mlir
    %y = moe.linear %x, %w : (tensor<?x?x64xf32>, tensor<96x64xf32>) -> tensor<?x?x96xf32>
    %l = moe.router %y, %r : (tensor<?x?x96xf32>, tensor<6x96xf32>) -> tensor<?x?x6xf32>
    // ==>
    %y = moe.linear %x, %w : (tensor<?x?x64xbf16>, tensor<96x64xbf16>) -> tensor<?x?x96xbf16>
    %l = moe.router %y, %r : (tensor<?x?x96xbf16>, tensor<6x96xbf16>) -> tensor<?x?x6xf32>
    ```
  }];
  let options = [
    Option<"dtype", "dtype", "std::string", "\"bf16\"", "fp32 or bf16">,
  ];
  let statistics = [
    Statistic<"numConverted", "converted", "parameters that changed their type">,
  ];
}

//===----------------------------------------------------------------------===//
// From a model to a program
//===----------------------------------------------------------------------===//

def AddObjective : Pass<"moe-add-objective", "mlir::ModuleOp"> {
  let summary = "turn @forward into the training objective of a stage";
  let description = [{
    Replaces `@forward` by `@step`, which also takes `labels`, `old` and the
    loss weights. It returns `loss`, the sum that is differentiated, and each of
    its terms (`next_token`, `balance`, `language_prior`, `classifier`,
    `router_cross_entropy`) without its coefficient. Functions that hold routers
    return their router losses. Each kind is averaged over the MoE layers, the
    classifier's over the layers with a gate. A term is left out if its
    coefficient is zero, and the classifier's also if the model has no gates.

    The router's cross-entropy teaches routers the groups of languages
    (`moe.groups`): `@step` then also takes `groups`, the group of each token's
    language.

    ```mlir
    func.func @forward(%tokens, %positions, %slots, %segments) -> logits
    // ==>
    func.func @step(%tokens, ..., %labels, %old, %token_weight, %old_weight, %micro_batch_weight, %position_weight)
        -> (%loss, %next_token, %balance)
    ```
  }];
  let options = [
    Option<"balance", "balance", "double", "0.0", "coefficient of the balance loss (stage 1: 0.01)">,
    Option<"balanceForm", "balance-form", "std::string", "\"paper\"", "paper or reference">,
    Option<"languagePrior", "language-prior", "double", "0.0", "coefficient of the language-prior loss (stage 2: 0.1)">,
    Option<"languagePriorForm", "language-prior-form", "std::string", "\"paper\"", "paper or reference">,
    Option<"classifier", "classifier", "double", "0.0", "coefficient of the classifier's loss (stage 2: 0.1)">,
    Option<"routerCrossEntropy", "router-cross-entropy", "double", "0.0", "coefficient of the router's cross-entropy (DMoE, stage 1: 1.28)">,
  ];
}

def AddScoring : Pass<"moe-add-scoring", "mlir::ModuleOp"> {
  let summary = "turn @forward into a program that scores text";
  let description = [{
    Replaces `@forward` by `@score`, which also takes `labels`. It returns
    `logprobs`, and `logits` if the option asks for them.
  }];
  let options = [
    Option<"logits", "logits", "bool", "false", "return the logits too">,
  ];
}

def AddProbe : Pass<"moe-add-probe", "mlir::ModuleOp"> {
  let summary = "turn @forward into a program that measures hidden states";
  let description = [{
    Replaces `@forward` by `@probe`, which also takes `labels` and returns, in
    place of the logits, what a profile is made of, a sum for each row of the
    batch and each layer:

    - `directions`: of the directions of what the FFN or the mixture reads
      (`directions.<layer>`, all layers), for `moe-run profile similarity`;
    - `loads`: of the tokens that each expert gets (`loads.<layer>`, layers with
      experts), for `moe-run profile routing`.

    ```mlir
    %h1 = call @layer(%h0, %up, %down)
    // ==>
    %h1, %sum = call @layer(%h0, %up, %down, %labels)  // which has a moe.direction_sum
    ```
  }];
  let options = [
    Option<"what", "what", "std::string", "\"directions\"", "directions or loads">,
  ];
}

def InsertCache : Pass<"moe-insert-cache", "mlir::ModuleOp"> {
  let summary = "turn @forward into a program that extends sequences";
  let description = [{
    Replaces `@forward` by `@extend`. Every attention writes its keys and values
    into a cache of `capacity` slots and then attends to the cache. The caches
    are arguments bound as state (`keys.<layer>`, `values.<layer>`), and only
    the logits of the last token are returned. The pool of a language gate that
    looks back reads the gate's logits from a cache, too (`gates.<layer>`); a
    gate that looks ahead is an error.

    ```mlir
    %o = moe.attention %q, %k, %v, %slots, %segments
    // ==>
    %k1 = moe.cache_update %keys, %k, %slots
    %v1 = moe.cache_update %values, %v, %slots
    %o = moe.attention %q, %k1, %v1, %slots
    ```
  }];
  let options = [
    Option<"capacity", "capacity", "int64_t", "512", "slots of a cache">,
  ];
}

def SpecializeShapes : Pass<"moe-specialize-shapes", "mlir::ModuleOp"> {
  let summary = "fix the batch and the length of its rows";
  let description = [{
    Replaces the two leading dynamic dimensions of every tensor by `rows` and
    `length`, and the tokens of routes by their product. After the pass
    every shape in the module is static.

    ```mlir
    tensor<?x?x64xf32>  ==>  tensor<4x512x64xf32>
    !moe.routes<?x6, 2>  ==>  !moe.routes<2048x6, 2>
    ```
  }];
  let options = [
    Option<"rows", "rows", "int64_t", "1", "rows of a batch">,
    Option<"length", "length", "int64_t", "1", "tokens of a row">,
  ];
}

def VerifyLevel : Pass<"moe-verify-level", "mlir::ModuleOp"> {
  let summary = "check the contract of a level";
  let description = [{
    Fails on the first op that does not belong to `level`:

    - `model`: parameters, backbone ops, `func`; all dimensions but the two
      leading ones are static.
    - `objective`: the ops of `model`, losses and caches; all shapes are static.
    - `step`: the ops of `objective` and gradients; every trainable parameter
      that can influence the loss has a `moe.accumulate_gradient`.
    - `fused`: the ops of `step` and fused ops; no `moe.ffn`, `moe.experts` or
      `moe.experts_grad` is left.
    - `kernels`: any op; no tensor is left.

    At all levels only entry points (public functions) read parameters and no
    function calls itself; above `kernels` every argument and result of an entry
    point is bound.
  }];
  let options = [
    Option<"level", "level", "std::string", "\"model\"", "model, objective, step, fused or kernels">,
  ];
}

//===----------------------------------------------------------------------===//
// Step level
//===----------------------------------------------------------------------===//

def Differentiate : Pass<"moe-differentiate", "mlir::ModuleOp"> {
  let summary = "add the backward of @step";
  let description = [{
    Adds the reverse-mode derivative of the first result of `@step` with respect
    to every trainable parameter. A value is active if a trainable parameter
    influences it. Only active values get gradients, so the backward ends at the
    first layer that has something to train.

    A function `f` that `@step` calls becomes two: `f.forward`, which also
    returns what its backward reads, and `f.backward`, which the attribute
    `moe.backward` of the forward names. Each pattern of active arguments and
    wanted results has one such pair, and layers with the same pattern share it.
    The pairs of further patterns are `f.forward_1`, `f.backward_1` and so on.
    The operands of a backward are the arguments of `f` that it reads, then the
    values that the forward saved, then the gradients of the results.

    Shapes have to be static, and only `@step` may read trainable parameters.
    Every op on the way from an active value to the loss needs a derivative
    (`DifferentiableOpInterface`).

    ```mlir
    %h1 = call @layer(%h0, %w)
    %loss = moe.cross_entropy %h1, %labels, %weight
    // ==>
    %h1, %saved = call @layer.forward(%h0, %w)
    %loss = moe.cross_entropy %h1, %labels, %weight
    %one = arith.constant dense<1.0> : tensor<f32>
    %dh1 = moe.cross_entropy_grad %one, %h1, %labels, %weight
    %dw = call @layer.backward(%h0, %w, %saved, %dh1)
    moe.accumulate_gradient @w, %dw
    ```
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect"];
  let statistics = [
    Statistic<"numFunctions", "functions", "forward and backward pairs made">,
    Statistic<"numSaved", "saved", "values saved for the backward">,
  ];
}

def PlanActivations : Pass<"moe-plan-activations", "mlir::ModuleOp"> {
  let summary = "choose what to save and what to recompute";
  let description = [{
    Works on every function that has a `moe.backward`. A value that cheap ops
    (`CheapToRecompute`) make from what the backward has anyway is recomputed in
    the backward instead of saved. If the values that are still saved exceed
    `memory-budget`, further ones are recomputed from the arguments of the
    function, those that free most bytes per operation first, until the rest
    fits or nothing more can be recomputed.

    Layers that share a function are planned alike, and no call is repeated. No
    bit changes, since the backward repeats the operations of the forward.

    ```mlir
    %dh = call @layer.backward(%h, %n, %x, %dy)  // x = moe.rms_norm %h, %n
    // ==>
    %dh = call @layer.backward(%h, %n, %dy)      // which has the moe.rms_norm
    ```
  }];
  let options = [
    Option<"memoryBudget", "memory-budget", "int64_t", "0", "MiB for saved activations, 0 for no limit">,
  ];
  let statistics = [
    Statistic<"numRecomputed", "recomputed", "values recomputed in a backward">,
  ];
}

//===----------------------------------------------------------------------===//
// Fused level
//===----------------------------------------------------------------------===//

def FuseRoutedMatmuls : Pass<"moe-fuse-routed-matmuls", "mlir::ModuleOp"> {
  let summary = "turn FFNs and experts into grouped matmuls";
  let description = [{
    Replaces `moe.ffn`, `moe.experts` and `moe.experts_grad` by grouped matmuls
    into which gather and activation are fused, and a combine. The only
    temporaries of forward and backward are rows of the model width and of the
    hidden width.

    ```mlir
    %y = moe.experts %x, %s, %r, %g0, %u0, %d0, ... {form = gated}
    // ==>
    %h = moe.routed_up %x routes(%r) weights(%g0, %u0, ...) {form = gated}
    %rows = moe.routed_down %h routes(%r) weights(%d0, ...) {form = gated}
    %y = moe.combine %rows, %r, %s
    ```
  }];
}

def FuseLoss : Pass<"moe-fuse-loss", "mlir::ModuleOp"> {
  let summary = "compute the loss in chunks of logits";
  let description = [{
    Replaces an output projection, the next-token loss and their gradients by
    `moe.linear_cross_entropy`, which never holds all logits, with the soft cap
    between projection and loss where there is one. The projection has to be
    without bias, and nothing else may read its logits; other projections stay
    as they are.

    ```mlir
    %logits = moe.linear %h, %w
    %loss = moe.cross_entropy %logits, %labels, %weight
    %dlogits = moe.cross_entropy_grad %one, %logits, %labels, %weight
    %dh = moe.linear_input_grad %dlogits, %w
    // ==>
    %loss, %dh = moe.linear_cross_entropy %h, %w, %labels, %weight {chunk = 256}
    ```
  }];
  let options = [
    Option<"chunk", "chunk", "int64_t", "256", "rows of logits held at a time">,
  ];
}

#endif // MOE_TRANSFORMS_PASSES
