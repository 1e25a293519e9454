# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The main job: teach a small model three languages without forgetting three others.

Fetches text, trains a small base model on the old languages with a tenth of
the new ones among it, then, from the same base:
  continued   trains the whole model further on the new languages
  stage 1     trains new experts and their routers on the same tokens
  stage 2     trains the routers alone on old and new text
and measures bits per byte of test text in every language.

Prints the table and whether the method kept its promises. OUT then holds
table.csv, languages.png, losses.png, samples.txt and all models. A finished
step is not done again and an interrupted one goes on: just repeat the command.

examples:
  polymoe demo
  polymoe demo --seed 1 --out work/demo-1
  polymoe demo --quick --out /tmp/demo      a minute, to see that all works
"""

import dataclasses
import time
from pathlib import Path

from polymoe.errors import UserError
from polymoe.files import read_documents, read_json, write_json, write_text
from polymoe.languages import parse_rounds
from polymoe.progress import say
from polymoe.report import (
    COLUMNS,
    findings,
    plot_languages,
    plot_losses,
    read_bits_per_byte,
    table,
    write_csv,
)
from polymoe.splits import split_of
from polymoe.tools import Tools, Training


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that decides the figures."""

    rounds: str = "en=0,es=0,zh=0,el=1,hu=1,tr=1"
    family: str = "llama"
    # Embeddings and head stay frozen, so what the base has not learned of a
    # token is lost to new experts: few tokens, each seen often, and most
    # parameters in FFNs.
    vocabulary: int = 2048
    hidden: int = 192
    intermediate: int = 1024
    layers: int = 4
    heads: int = 3
    # The first layer stays dense: its router sees little but the token itself
    # and cannot tell the languages that share it apart.
    experts: str = "1,6,6,6"
    top_k: int = 2
    sequence: int = 256
    batch: int = 4
    base_steps: int = 4000
    base_lr: float = 2e-3
    # What the base has seen of a new language, against an old one: real
    # checkpoints have seen a little of most languages, and a base that never
    # saw a script has meaningless embeddings for it, which then stay frozen.
    new_share: float = 0.1
    stage1_steps: int = 600
    stage1_lr: float = 1e-3
    stage2_steps: int = 800
    stage2_lr: float = 5e-3
    continued_lr: float = 1e-3
    seed: int = 0


QUICK = {
    "vocabulary": 512,
    "hidden": 32,
    "intermediate": 64,
    "layers": 2,
    "heads": 2,
    "experts": "1,3",
    "sequence": 32,
    "batch": 2,
    "base_steps": 20,
    "stage1_steps": 10,
    "stage2_steps": 5,
}

# How a page of the help begins in each language; others start like one of
# their validation documents.
PROMPTS = {
    "en": "To insert a chart",
    "es": "Para insertar un gráfico",
    "zh": "要插入图表",
    "el": "Για να εισαγάγετε ένα γράφημα",
    "hu": "Diagram beszúrásához",
    "tr": "Bir grafik eklemek için",
}
SAMPLE_TOKENS = 48


def add_arguments(parser):
    parser.add_argument(
        "--out", type=Path, default=Path("work/demo"), help="folder of the results (default: work/demo)"
    )
    parser.add_argument("--work", type=Path, default=Path("work"), help="where fetched text is kept (default: work)")
    parser.add_argument("--text", type=Path, help="folder with <language>.jsonl to use in place of fetched text")
    parser.add_argument("--bin", type=Path, default=Path("build/bin"), help="folder of the tools (default: build/bin)")
    parser.add_argument("--threads", type=int, help="threads of the tools (default: theirs)")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), help="arithmetic (default: the tools')")
    parser.add_argument("--quick", action="store_true", help="tiny sizes and a few steps, to see that all works")
    recipe = parser.add_argument_group("what decides the figures")
    for field in dataclasses.fields(Recipe):
        flag = f"--{field.name.replace('_', '-')}"
        recipe.add_argument(flag, type=field.type, dest=field.name, help=f"(default: {field.default})")


def run(args):
    recipe = _recipe(args)
    demo = Demo(recipe, args.out, Tools(args.bin, args.threads, args.dtype), args.work, args.text)
    for step in demo.steps():
        demo.do(*step)
    print("\n".join(demo.report()))


def _recipe(args):
    given = {field.name: getattr(args, field.name) for field in dataclasses.fields(Recipe)}
    given = {name: value for name, value in given.items() if value is not None}
    recipe = Recipe(**((QUICK if args.quick else {}) | given))
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        if field.name != "seed" and not isinstance(value, str) and value <= 0:
            raise UserError(f"--{field.name.replace('_', '-')}: expected a positive number, but got {value}")
    experts = recipe.experts.split(",")
    if len(experts) not in (1, recipe.layers) or not all(count.isdecimal() and int(count) > 0 for count in experts):
        raise UserError(
            f"--experts: expected a number of experts, or one for each of the {recipe.layers} layers with commas,"
            f" but got '{recipe.experts}'"
        )
    rounds = set(parse_rounds(recipe.rounds).values())
    if rounds != {0, 1}:
        raise UserError(f"--rounds: expected old languages (round 0) and new ones (round 1), but got '{recipe.rounds}'")
    return recipe


class Demo:
    """The steps, each with a name under which it is remembered as done."""

    def __init__(self, recipe, out, tools, work, text):
        self.recipe, self.out, self.tools, self.work = recipe, out, tools, work
        self.rounds = parse_rounds(recipe.rounds)
        self.old = [language for language, round_ in self.rounds.items() if round_ == 0]
        self.new = [language for language, round_ in self.rounds.items() if round_ == 1]
        self.text = text or work / "text"
        self.fetched = text is None
        self.state_path = out / "demo.json"
        self.state = self._read_state()

    def _read_state(self):
        mine = dataclasses.asdict(self.recipe) | {"text": str(self.text)}
        if not self.state_path.exists():
            return {"recipe": mine, "seconds": {}}
        state = read_json(self.state_path)
        for key, value in mine.items():
            if state["recipe"].get(key) != value:
                raise UserError(
                    f"{self.state_path}: begun with {key} {state['recipe'].get(key)}, but now it is {value};"
                    " expected the same options, or another --out"
                )
        return state

    def steps(self):
        """(name, what it does, function), in order."""
        new = ", ".join(self.new)
        yield "text", "text", self._text
        yield "tokenizer", "tokenizer", self._tokenizer
        yield "corpus", "corpus", self._corpus
        yield "model", "random model", self._model
        yield "base", f"base model on {', '.join(self.old)} with a little of {new}", self._base
        yield "base-hf", "base model as a checkpoint", self._base_hf
        yield "continued", f"continued pre-training on {new}", self._continued
        yield "upcycle", "mixture of experts", self._upcycle
        yield "stage1", f"stage 1: new experts on {new}", self._stage1
        yield "stage1-eval", "evaluation after stage 1", lambda: self._evaluate("moe", "stage 1")
        yield "stage2", "stage 2: routers on old and new text", self._stage2
        yield "eval", "evaluation", self._evaluate_all
        yield "samples", "a sample for each language", self._samples
        yield "export", "the result as a checkpoint", self._export

    def do(self, name, title, function):
        if name in self.state["seconds"]:
            return
        say(f"== {title}")
        start = time.monotonic()
        self.out.mkdir(parents=True, exist_ok=True)
        # Written before the first step, so that its options are compared.
        write_json(self.state_path, self.state)
        function()
        self.state["seconds"][name] = round(time.monotonic() - start, 1)
        write_json(self.state_path, self.state)

    # Text and model.

    def _text(self):
        if self.fetched:
            from polymoe.fetch_text import fetch

            fetch(list(self.rounds), self.work)

    def _files(self):
        return [self.text / f"{language}.jsonl" for language in self.rounds]

    def _tokenizer(self):
        from polymoe.train_tokenizer import train, write

        write(train(self._files(), self.recipe.vocabulary), self.out / "tokenizer")

    def _corpus(self):
        from polymoe.tokenize import tokenize

        tokenize(self._files(), self.out / "tokenizer", self.rounds, self.out / "corpus", force=True)

    def _model(self):
        from polymoe.new_model import new_model

        recipe = self.recipe
        new_model(
            recipe.family,
            self.out / "random-hf",
            tokenizer=self.out / "tokenizer",
            hidden=recipe.hidden,
            intermediate=recipe.intermediate,
            layers=recipe.layers,
            heads=recipe.heads,
            seed=recipe.seed,
            force=True,
        )
        self.tools.import_hf(self.out / "random-hf", self.out / "random.mlir")

    # Training.

    def _mix(self, shares):
        """Weights for documents that make each language's share of the tokens."""
        tokens = dict.fromkeys(self.rounds, 0)
        for shard in read_json(self.out / "corpus" / "corpus.json")["shards"]:
            if shard["split"] == "train":
                tokens[shard["language"]] += shard["tokens"]
        fewest = min(tokens[language] for language in shares)
        # At most one for a share of one: no document comes twice in an epoch.
        return {language: round(shares.get(language, 0) * fewest / tokens[language], 6) for language in self.rounds}

    def _train(self, model, out, stage, shares, steps, lr):
        recipe = self.recipe
        training = Training(
            stage=stage,
            mix=self._mix(shares),
            steps=steps,
            lr=lr,
            batch=recipe.batch,
            length=recipe.sequence,
            warmup=max(1, steps // 30),
            save_every=max(1, steps // 5),
        )
        self.tools.train(self.out / model, training, self.out / "corpus", self.out / out, recipe.seed)

    def _base(self):
        shares = dict.fromkeys(self.old, 1.0) | dict.fromkeys(self.new, self.recipe.new_share)
        self._train("random.mlir", "base", "dense", shares, self.recipe.base_steps, self.recipe.base_lr)

    def _base_hf(self):
        # From here on the base is what a user has: a checkpoint on disk.
        self.tools.export_hf(self.out / "base", self.out / "base-hf")
        self.tools.import_hf(self.out / "base-hf", self.out / "base.mlir")

    def _upcycle(self):
        recipe = self.recipe
        self.tools.upcycle(self.out / "base.mlir", self.out / "moe.mlir", recipe.experts, recipe.top_k, recipe.seed)

    def _continued(self):
        shares = dict.fromkeys(self.new, 1.0)
        self._train("base.mlir", "continued", "dense", shares, self.recipe.stage1_steps, self.recipe.continued_lr)

    def _stage1(self):
        # The same mix, steps and seed as continued pre-training: the same tokens.
        shares = dict.fromkeys(self.new, 1.0)
        self._train("moe.mlir", "moe", "1", shares, self.recipe.stage1_steps, self.recipe.stage1_lr)

    def _stage2(self):
        # Twice as much of each new language as of each old one, as in the paper.
        shares = dict.fromkeys(self.old, 1.0) | dict.fromkeys(self.new, 2.0)
        self._train("moe", "moe", "2", shares, self.recipe.stage2_steps, self.recipe.stage2_lr)

    # Results.

    def _evaluate(self, model, column):
        self.tools.evaluate(self.out / model, self.out / "corpus", "test", self.recipe.sequence, self._result(column))

    def _evaluate_all(self):
        for model, column in (("base", "base"), ("continued", "continued"), ("moe", "stage 2")):
            self._evaluate(model, column)

    def _result(self, column):
        (self.out / "results").mkdir(exist_ok=True)
        return self.out / "results" / f"{column.replace(' ', '')}.json"

    def _samples(self):
        lines = []
        for language in self.rounds:
            prompt = PROMPTS.get(language) if self.fetched else None
            prompt = prompt or self._prompt(language)
            text = self.tools.generate(self.out / "moe", prompt, SAMPLE_TOKENS).strip()
            # Some tools print the prompt too.
            continuation = text.removeprefix(prompt)
            lines.append(f"[{language}] {prompt} ▸{' ' + continuation.strip() if continuation else ''}")
        write_text(self.out / "samples.txt", "\n\n".join(lines) + "\n")

    def _prompt(self, language):
        path = self.text / f"{language}.jsonl"
        for split in ("valid", "train"):
            for _, record in read_documents(path):
                if split_of(record["id"]) == split:
                    return record["text"][:24]
        raise UserError(f"{path}: expected at least one document")

    def _export(self):
        self.tools.export_hf(self.out / "moe", self.out / "moe-hf")

    def report(self):
        """Writes the table and the plots; returns what to print."""
        results = {column: read_bits_per_byte(self._result(column), self.rounds) for column in COLUMNS}
        write_csv(self.out / "table.csv", results, self.rounds)
        plot_languages(self.out / "languages.png", results, self.rounds)
        runs = {"base": "base", "continued": "continued", "stage 1, then stage 2": "moe"}
        plot_losses(self.out / "losses.png", {name: self.out / run / "metrics.jsonl" for name, run in runs.items()})
        seconds = sum(self.state["seconds"].values())
        return [
            *table(results, self.rounds),
            "",
            *(f"{'yes' if holds else 'NO':<4}{sentence}" for holds, sentence in findings(results, self.rounds)),
            "",
            (self.out / "samples.txt").read_text(encoding="utf-8"),
            f"{self.out}: table.csv, languages.png, losses.png, samples.txt, and the model in moe-hf ({seconds / 60:.1f} minutes)",
        ]
