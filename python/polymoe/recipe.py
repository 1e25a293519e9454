# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""A recipe: the one TOML file that decides an experiment's figures.

Every key is a field here. A key that is unknown, missing or of another type is
an error that names it.
"""

import dataclasses
import math
import re
import tomllib
import types
import typing
from pathlib import Path

from polymoe.errors import UserError
from polymoe.languages import check_language

FOLDER = Path(__file__).parent / "recipes"
STAGES = ("dense", "1", "2")


@dataclasses.dataclass(frozen=True)
class Phase:
    """Training on one mix of languages: one column of the table."""

    name: str
    stage: str  # as `moe-run train --stage`
    mix: dict[str, float]  # language -> its share of the tokens
    steps: int
    batch: int  # rows a step
    sequence: int  # tokens a row
    lr: float
    warmup: float = 0.0  # steps, or below one a share of them
    # Coefficients of the losses; without them, moe-run's for the stage.
    balance: float | None = None
    language_prior: float | None = None


@dataclasses.dataclass(frozen=True)
class Expansion:
    """Experts beside the FFNs of the base: `experts` or `budget`, not both."""

    top_k: int
    experts: int | list[int] | None = None  # of every layer from first_layer on, or of each layer
    first_layer: int = 0  # those below stay dense, and no gradient reaches them
    # New experts of all layers together, more where languages are less alike (LayerMoE).
    budget: int | None = None
    gates: int = 0  # layers with a language gate, those where languages are most alike
    profile_tokens: int = 100_000  # of each language, to measure how alike they are

    def is_profiled(self):
        return self.budget is not None or self.gates > 0


@dataclasses.dataclass(frozen=True)
class Run:
    """Phases one after the other, from the base or from its expansion."""

    name: str
    phase: list[Phase]
    expansion: Expansion | None = None


@dataclasses.dataclass(frozen=True)
class NewModel:
    """A small base that is made and trained here, with its tokenizer."""

    family: str
    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    phase: Phase


@dataclasses.dataclass(frozen=True)
class Base:
    """The model that all runs begin from: `model` or `new`, not both."""

    model: str | None = None  # what `polymoe fetch-model` knows, or a Hugging Face folder
    new: NewModel | None = None


@dataclasses.dataclass(frozen=True)
class Evaluation:
    sequence: int  # tokens of context at most
    documents: int = 0  # of each language, 0 for all
    # Text that no phase trains on, where forgetting shows.
    domains: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Samples:
    tokens: int
    # How a text begins; other languages begin like one of their validation documents.
    prompts: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Goals:
    """What the report holds the figures against, in percent of the base's bits per byte."""

    method: str  # the phase that is judged
    rival: str  # the phase that it is compared with
    new_gain: float  # every new language gets better by this much
    old_loss: float  # no old language gets worse by more
    forgotten: float  # the rival loses so many percentage points more on what the base knew
    kept_gain: float  # percent of the rival's gain on the new languages that the method has, too
    domain_loss: float | None = None  # the domains together get worse by no more


@dataclasses.dataclass(frozen=True)
class Quick:
    """What --quick cuts, to see that all works."""

    steps: int
    documents: int


@dataclasses.dataclass(frozen=True)
class Recipe:
    seed: int
    dtype: str
    base: Base
    languages: dict[str, int]  # language -> round: 0 for what the base knows, from 1 on new
    run: list[Run]
    evaluation: Evaluation
    samples: Samples
    goals: Goals
    quick: Quick

    def phases(self):
        return [phase for run in self.run for phase in run.phase]

    def kinds(self):
        """{language or domain: old, new or other}, as the table has them."""
        kinds = {language: "new" if round_ else "old" for language, round_ in self.languages.items()}
        return kinds | dict.fromkeys(self.evaluation.domains, "other")


def read(path):
    try:
        with open(path, "rb") as file:
            table = tomllib.load(file)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected a recipe") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: expected TOML: {error}") from None
    recipe = _value(Recipe, table, path, "")
    _check(recipe, path)
    return recipe


def quick(recipe):
    """The recipe with its documents and the steps of every phase cut."""

    def cut(phase):
        return dataclasses.replace(phase, steps=min(phase.steps, recipe.quick.steps), warmup=0.0)

    new = recipe.base.new
    return dataclasses.replace(
        recipe,
        base=dataclasses.replace(recipe.base, new=new and dataclasses.replace(new, phase=cut(new.phase))),
        run=[dataclasses.replace(run, phase=[cut(phase) for phase in run.phase]) for run in recipe.run],
        evaluation=dataclasses.replace(recipe.evaluation, documents=recipe.quick.documents),
    )


def flat(value, key=""):
    """{dotted key: value} of a recipe, for comparison."""
    if dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif isinstance(value, list):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return {key: value}
    return {name: leaf for part in value for name, leaf in flat(value[part], _join(key, part)).items()}


def _join(key, part):
    return f"{key}.{part}" if key else str(part)


# Reading a table by the types of the fields.


def _value(kind, value, path, key):
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _table(kind, value, path, key)
    if origin is types.UnionType:
        # TOML has no null: what is there is one of the other kinds.
        kinds = [argument for argument in arguments if argument is not type(None)]
        fitting = [argument for argument in kinds if isinstance(value, typing.get_origin(argument) or argument)]
        return _value((fitting or kinds)[0], value, path, key)
    if origin is list:
        _expect(isinstance(value, list), "a list", value, path, key)
        return [_value(arguments[0], item, path, _join(key, i)) for i, item in enumerate(value)]
    if origin is dict:
        _expect(isinstance(value, dict), "a table", value, path, key)
        return {name: _value(arguments[1], item, path, _join(key, name)) for name, item in value.items()}
    if kind is str:
        _expect(isinstance(value, str), "a string", value, path, key)
        return value
    accepted = int if kind is int else int | float
    _expect(isinstance(value, accepted) and not isinstance(value, bool), _NAMES[kind], value, path, key)
    _expect(math.isfinite(value) and value >= 0, "a number from 0 on", value, path, key)
    return kind(value)


_NAMES = {int: "a whole number", float: "a number"}


def _table(kind, value, path, key):
    _expect(isinstance(value, dict), "a table", value, path, key)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name in value:
        if name not in fields:
            raise UserError(f"{path}: {_join(key, name)}: unknown key; expected one of: {', '.join(fields)}")
    hints = typing.get_type_hints(kind)
    given = {}
    for name, field in fields.items():
        if name in value:
            given[name] = _value(hints[name], value[name], path, _join(key, name))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UserError(f"{path}: {_join(key, name)}: expected this key, but it is not there")
    return kind(**given)


def _expect(holds, expected, value, path, key):
    if not holds:
        raise UserError(f"{path}: {key}: expected {expected}, but got {value!r}")


# What types do not say.


def _check(recipe, path):
    def expect(holds, expected, value, key):
        _expect(holds, expected, value, path, key)

    for language in [*recipe.languages, *recipe.evaluation.domains]:
        code = check_language(language, f"{path}: languages")
        expect(code == language, f"'{code}', as languages are written here", language, "languages")
    rounds = set(recipe.languages.values())
    expect(len(rounds) > 1 and 0 in rounds, "old languages (0) and new ones (1)", recipe.languages, "languages")
    for domain in recipe.evaluation.domains:
        expect(domain not in recipe.languages, "no language as a domain", domain, "evaluation.domains")
    measured = recipe.goals.domain_loss is None or recipe.evaluation.domains
    expect(measured, "domains to measure it on", recipe.goals.domain_loss, "goals.domain_loss")
    expect(recipe.dtype in ("fp32", "bf16"), "fp32 or bf16", recipe.dtype, "dtype")
    expect((recipe.base.model is None) != (recipe.base.new is None), "one of model and new", recipe.base, "base")
    expect(recipe.evaluation.sequence > 1, "at least 2", recipe.evaluation.sequence, "evaluation.sequence")
    expect(recipe.quick.steps > 0, "at least 1", recipe.quick.steps, "quick.steps")

    expect(recipe.run and all(run.phase for run in recipe.run), "runs with phases", recipe.run, "run")
    for i, run in enumerate(recipe.run):
        expect(re.fullmatch(r"[a-z0-9-]+", run.name), "a name for a folder, such as moe", run.name, f"run.{i}.name")
        if run.expansion:
            _check_expansion(run.expansion, expect, f"run.{i}.expansion")
        for j, phase in enumerate(run.phase):
            _check_phase(phase, recipe.languages, expect, f"run.{i}.phase.{j}")
    if recipe.base.new:
        _check_phase(recipe.base.new.phase, recipe.languages, expect, "base.new.phase")
    runs, phases = [run.name for run in recipe.run], [phase.name for phase in recipe.phases()]
    expect(len({"base", *runs}) > len(runs), "each run's name once, and no 'base'", runs, "run")
    # Results lie in files that are called so, without the spaces.
    columns = [phase.replace(" ", "") for phase in phases]
    expect(len({"base", *columns}) > len(columns), "each phase's name once, and no 'base'", phases, "run")
    for phase in phases:
        expect(re.fullmatch(r"\w[\w -]*", phase), "a phase's name of letters, digits, spaces and -", phase, "run")
    for language in recipe.samples.prompts:
        expect(language in recipe.languages, "a language of the recipe", language, "samples.prompts")
    for key in ("method", "rival"):
        name = getattr(recipe.goals, key)
        expect(name in phases, f"one of the phases ({', '.join(phases)})", name, f"goals.{key}")


def _check_expansion(expansion, expect, key):
    expect((expansion.experts is None) != (expansion.budget is None), "one of experts and budget", expansion, key)
    expect(expansion.top_k > 0, "at least 1", expansion.top_k, f"{key}.top_k")
    expect(expansion.profile_tokens > 0, "at least 1", expansion.profile_tokens, f"{key}.profile_tokens")
    if expansion.experts is None:
        expect(expansion.budget > 0, "at least 1", expansion.budget, f"{key}.budget")
        expect(expansion.first_layer == 0, "experts beside it", expansion.first_layer, f"{key}.first_layer")
        return
    experts = expansion.experts if isinstance(expansion.experts, list) else [expansion.experts]
    expect(experts and min(experts) > 0, "at least 1", expansion.experts, f"{key}.experts")
    expect(expansion.top_k <= max(experts), "no more than experts", expansion.top_k, f"{key}.top_k")


def _check_phase(phase, languages, expect, key):
    expect(phase.stage in STAGES, f"one of {', '.join(STAGES)}", phase.stage, f"{key}.stage")
    for name in ("steps", "batch", "sequence", "lr"):
        expect(getattr(phase, name) > 0, "a positive number", getattr(phase, name), f"{key}.{name}")
    for language in phase.mix:
        expect(language in languages, f"a language of the recipe ({', '.join(languages)})", language, f"{key}.mix")
    expect(any(phase.mix.values()), "a language with a share above 0", phase.mix, f"{key}.mix")
