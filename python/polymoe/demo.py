# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The main job: teach a real model three languages, next to continued pre-training.

Fetches SmolLM2-135M-Instruct (quantised to 4 bits) and text, and from that base:
  continued   trains the whole model further on the new languages
  stage 1     trains new experts and their routers on the same tokens
  stage 2     trains the routers alone on old and new text
and measures bits per byte of test text in every language, and of English of
other domains that none of them trains on.

Prints the table, what was forgotten, and whether the method kept its promises.
OUT then holds table.csv, languages.png, losses.png, samples.txt and all models.
A finished step is not done again and an interrupted one goes on: just repeat
the command.

A recipe, one TOML file, decides all figures; those of --base are
python/polymoe/recipes/moe-lpr-<base>.toml. --base=small makes and trains a
small base first, which knows three languages.

examples:
  polymoe demo
  polymoe demo --quick                      a few minutes, to see that all works
  polymoe demo --base small --seed 1
  polymoe demo --recipe mine.toml --text mine --out work/mine
"""

import dataclasses
import json
import time
from pathlib import Path

from polymoe import recipe as recipes
from polymoe.domains import DOMAINS
from polymoe.errors import UserError
from polymoe.fetch_model import MODELS
from polymoe.files import read_documents, read_json, write_json, write_text
from polymoe.progress import say
from polymoe.report import (
    findings,
    plot_languages,
    plot_losses,
    read_bits_per_byte,
    table,
    write_csv,
)
from polymoe.splits import split_of
from polymoe.tools import Tools


def add_arguments(parser):
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--base", choices=("smollm2", "small"), default="smollm2", help="the recipe of this base (default: smollm2)"
    )
    which.add_argument("--recipe", type=Path, metavar="FILE.toml", help="a recipe of your own")
    parser.add_argument("--work", type=Path, default=Path("work"), help="where fetched files are kept (default: work)")
    parser.add_argument("--out", type=Path, help="folder of the results (default: in WORK, named by the recipe)")
    parser.add_argument(
        "--text", type=Path, help="folder with <language>.jsonl; what it does not have is fetched (default: all is)"
    )
    parser.add_argument("--bin", type=Path, help="folder of the tools (default: build/bin, or where PATH has moe-run)")
    parser.add_argument("--threads", type=int, help="threads of the tools (default: theirs)")
    parser.add_argument("--quick", action="store_true", help="a few steps and documents, to see that all works")
    parser.add_argument("--seed", type=int, help="of the data's order and the new weights (default: the recipe's)")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), help="arithmetic (default: the recipe's)")


def run(args):
    path = args.recipe or recipes.FOLDER / f"moe-lpr-{args.base}.toml"
    recipe = recipes.read(path)
    if args.quick:
        recipe = recipes.quick(recipe)
    given = {key: getattr(args, key) for key in ("seed", "dtype")}
    recipe = dataclasses.replace(recipe, **{key: value for key, value in given.items() if value is not None})
    name = args.recipe.stem if args.recipe else f"demo-{args.base}"
    suffix = ("-quick" if args.quick else "") + (f"-seed{args.seed}" if args.seed is not None else "")
    out = args.out or args.work / f"{name}{suffix}"
    demo = Demo(recipe, path, out, Tools(args.bin, args.threads, recipe.dtype), args.work, args.text)
    steps = list(demo.steps())
    for number, step in enumerate(steps, 1):
        demo.do(f"{number}/{len(steps)}", *step)
    print("\n".join(demo.report()))


class Demo:
    """The steps, each with a name under which it is remembered as done."""

    def __init__(self, recipe, path, out, tools, work, text):
        self.recipe, self.path, self.out, self.tools, self.work, self.text = recipe, path, out, tools, work, text
        self.kinds = recipe.kinds()
        self.corpus = out / "corpus"
        self.base = self._base_folder()
        self.state_path = out / "demo.json"
        self.state = self._read_state()

    def _base_folder(self):
        model = self.recipe.base.model
        if model is None:
            return self.out / "base-hf"
        if model in MODELS:
            return self.work / "models" / model
        if not (Path(model) / "config.json").is_file():
            raise UserError(
                f"{self.path}: base.model: expected one of {', '.join(sorted(MODELS))}, or a folder with config.json,"
                f" but got '{model}'"
            )
        return Path(model)

    def _read_state(self):
        mine = recipes.flat(self.recipe) | {"--text": str(self.text)}
        if not self.state_path.exists():
            return {"recipe": mine, "seconds": {}}
        state = read_json(self.state_path)
        for key in dict.fromkeys([*mine, *state["recipe"]]):
            before, now = state["recipe"].get(key), mine.get(key)
            if before != now:
                raise UserError(
                    f"{self.state_path}: begun with {key} = {before!r}, but now it is {now!r};"
                    " expected the same recipe and options, or another --out"
                )
        return state

    def steps(self):
        """(name, what it does, function), in order."""
        yield "text", "text", self._fetch_text
        yield from self._steps_of_new_base() if self.recipe.base.new else self._steps_of_real_base()
        # Before anything trains: a recipe that does not fit the base fails early.
        for run in self.recipe.run:
            if run.expansion and run.expansion.is_profiled():
                yield f"{run.name}-profile", "how alike the languages are", lambda run=run: self._profile(run)
            if run.expansion:
                yield f"{run.name}-expand", "mixture of experts", lambda run=run: self._expand(run, self._start(run))
        yield from self._steps_of_evaluation("base", self.out / "base.mlir")
        for run in self.recipe.run:
            start, folder = self._start(run), self.out / "runs" / run.name
            for phase in run.phase:
                languages = ", ".join(code for code, share in phase.mix.items() if share)
                yield from self._steps_of_phase(phase, f"{phase.name}: {languages}", start, folder)
                # The next phase goes on in the run's folder.
                start = folder
                yield from self._steps_of_evaluation(phase.name, folder)
        yield "samples", "samples before and after", self._samples
        yield "export", "the result as a Hugging Face folder", self._export

    def _start(self, run):
        """The module that a run's first phase trains."""
        return self.out / f"{run.name if run.expansion else 'base'}.mlir"

    def _steps_of_phase(self, phase, title, start, folder):
        yield f"train-{phase.name}", title, lambda: self._train(phase, start, folder)

    def _steps_of_evaluation(self, column, model):
        yield f"eval-{column}", f"evaluation of {column}", lambda: self._evaluate(column, model)

    def _steps_of_real_base(self):
        yield "model", "model", self._model
        yield "corpus", "corpus", lambda: self._tokenize(self.base)

    def _steps_of_new_base(self):
        phase = self.recipe.base.new.phase
        yield "tokenizer", "tokenizer", self._train_tokenizer
        yield "corpus", "corpus", lambda: self._tokenize(self.out / "tokenizer")
        yield "random", "random model", self._random_model
        shares = ", ".join(f"{code} {share:g}" for code, share in phase.mix.items())
        yield from self._steps_of_phase(phase, f"base: {shares}", self.out / "random.mlir", self.out / "runs" / "base")
        yield "base-hf", "base model as a checkpoint", self._export_base

    def do(self, number, name, title, function):
        if name in self.state["seconds"]:
            return
        say(f"== {number} {title}")
        start = time.monotonic()
        self.out.mkdir(parents=True, exist_ok=True)
        # Written before the first step, so that its options are compared.
        write_json(self.state_path, self.state)
        function()
        self.state["seconds"][name] = round(time.monotonic() - start, 1)
        write_json(self.state_path, self.state)

    # Text.

    def _own(self, code):
        """The user's own file of this language or domain, or None."""
        path = self.text and self.text / f"{code}.jsonl"
        return path if path and path.is_file() else None

    def _fetch_text(self):
        missing = [code for code in self.kinds if not self._own(code)]
        if missing:
            from polymoe.fetch_text import fetch

            fetch(missing, self.work)

    def _file(self, code):
        return self._own(code) or self.work / "text" / f"{code}.jsonl"

    def _tokenize(self, tokenizer):
        from polymoe.tokenize import tokenize

        domains = self.recipe.evaluation.domains
        # Any round will do for a domain, since none is trained on.
        rounds = self.recipe.languages | dict.fromkeys(domains, 0)
        files = [self._file(code) for code in self.kinds]
        tokenize(files, tokenizer, rounds, self.corpus, force=True, held_out=domains)

    # The base.

    def _model(self):
        if self.recipe.base.model in MODELS:
            from polymoe.fetch_model import fetch_model

            fetch_model(self.recipe.base.model, self.work)
        self.tools.import_hf(self.base, self.out / "base.mlir")

    def _train_tokenizer(self):
        from polymoe.train_tokenizer import train, write

        files = [self._file(language) for language in self.recipe.languages]
        write(train(files, self.recipe.base.new.vocabulary), self.out / "tokenizer")

    def _random_model(self):
        from polymoe.new_model import new_model

        sizes = {key: getattr(self.recipe.base.new, key) for key in ("hidden", "intermediate", "layers", "heads")}
        new_model(
            self.recipe.base.new.family,
            self.out / "random-hf",
            tokenizer=self.out / "tokenizer",
            seed=self.recipe.seed,
            force=True,
            **sizes,
        )
        self.tools.import_hf(self.out / "random-hf", self.out / "random.mlir")

    def _export_base(self):
        # From here on the base is what a user has: a checkpoint on disk.
        self.tools.export_hf(self.out / "runs" / "base", self.base)
        self.tools.import_hf(self.base, self.out / "base.mlir")

    # Training and evaluation.

    def _mix(self, shares):
        """Weights for documents that make each language's share of the tokens."""
        tokens = dict.fromkeys(self.recipe.languages, 0)
        for shard in read_json(self.corpus / "corpus.json")["shards"]:
            if shard["split"] == "train":
                tokens[shard["language"]] += shard["tokens"]
        drawn = [language for language, share in shares.items() if share]
        fewest = min(tokens[language] for language in drawn)
        # A weight is at most the language's share: with shares up to 1 no document comes twice in an epoch.
        return dict.fromkeys(tokens, 0) | {
            language: float(f"{shares[language] * fewest / tokens[language]:.6g}") for language in drawn
        }

    def _train(self, phase, start, folder):
        self.tools.train(start, phase, self._mix(phase.mix), self.corpus, folder, self.recipe.seed)

    def _similarity(self, run):
        return self.out / f"{run.name}-similarity.json"

    def _profile(self, run):
        self.tools.profile_similarity(
            self.out / "base.mlir", self.corpus, self.recipe.languages, run.expansion.profile_tokens,
            self.recipe.evaluation.sequence, self._similarity(run),
        )  # fmt: skip

    def _expand(self, run, moe):
        expansion, seed, base = run.expansion, self.recipe.seed, self.out / "base.mlir"
        gates = self.tools.language_gates(self._similarity(run), expansion.gates, seed)
        if expansion.budget is not None:
            self.tools.allocate(base, moe, self._similarity(run), expansion.budget, expansion.top_k, seed, gates)
        else:
            self.tools.upcycle(base, moe, self._counts(run), expansion.top_k, seed, gates)

    def _counts(self, run):
        """The experts of each layer."""
        from transformers import AutoConfig

        experts, first = run.expansion.experts, run.expansion.first_layer
        layers = AutoConfig.from_pretrained(self.base).get_text_config().num_hidden_layers
        counts = experts if isinstance(experts, list) else [1] * first + [experts] * (layers - first)
        if len(counts) != layers or set(counts) == {1}:
            raise UserError(
                f"{self.path}: expansion of '{run.name}': expected experts in some of the base's {layers} layers, and"
                f" a number for each, but got {counts}"
            )
        return counts

    def _evaluate(self, column, model):
        evaluation = self.recipe.evaluation
        result = self._result(column)
        result.parent.mkdir(exist_ok=True)
        self.tools.evaluate(model, self.corpus, "test", evaluation.sequence, result, evaluation.documents)

    def _result(self, column):
        return self.out / "results" / f"{column.replace(' ', '')}.json"

    # Results.

    def _last(self):
        return self.out / "runs" / self.recipe.run[-1].name

    def _samples(self):
        prompts = {code: self.recipe.samples.prompts.get(code) or self._prompt(code) for code in self.recipe.languages}
        path = self.out / "prompts.jsonl"
        write_text(path, "".join(json.dumps({"prompt": text}, ensure_ascii=False) + "\n" for text in prompts.values()))
        before, after = (
            self.tools.generate(model, path, self.recipe.samples.tokens)
            for model in (self.out / "base.mlir", self._last())
        )
        write_text(
            self.out / "samples.txt",
            "\n".join(
                f"[{code}] {prompt}\n  before ▸ {_line(old)}\n  after  ▸ {_line(new)}\n"
                for (code, prompt), old, new in zip(prompts.items(), before, after, strict=True)
            ),
        )

    def _prompt(self, language):
        path = self._file(language)
        for split in ("valid", "train"):
            for _, record in read_documents(path):
                if split_of(record["id"]) == split:
                    return record["text"][:24]
        raise UserError(f"{path}: expected at least one document")

    def _export(self):
        self.tools.export_hf(self._last(), self.out / "hf")

    def report(self):
        """Writes the table and the plots; returns what to print."""
        columns = ["base", *(phase.name for phase in self.recipe.phases())]
        results = {column: read_bits_per_byte(self._result(column), self.kinds) for column in columns}
        write_csv(self.out / "table.csv", results, self.kinds)
        plot_languages(self.out / "languages.png", results, self.kinds)
        runs = {", then ".join(phase.name for phase in run.phase): run.name for run in self.recipe.run}
        if self.recipe.base.new:
            runs = {"base": "base"} | runs
        plot_losses(
            self.out / "losses.png", {name: self.out / "runs" / run / "metrics.jsonl" for name, run in runs.items()}
        )
        domains = [code for code in self.recipe.evaluation.domains if code in DOMAINS]
        seconds = sum(self.state["seconds"].values())
        return [
            *table(results, self.kinds),
            "",
            *(f"{code:<12}{DOMAINS[code].about}" for code in domains),
            *([""] if domains else []),
            *(
                f"{'yes' if holds else 'NO':<4}{text}"
                for holds, text in findings(results, self.kinds, self.recipe.goals)
            ),
            "",
            (self.out / "samples.txt").read_text(encoding="utf-8"),
            f"{self.out}: table.csv, languages.png, losses.png, samples.txt, and the model in hf ({seconds / 60:.1f} minutes)",
        ]


def _line(text):
    return " ".join(text.split())
