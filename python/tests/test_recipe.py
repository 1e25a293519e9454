# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Recipes: what they say, and what is refused."""

import pytest

from polymoe import recipe as recipes
from polymoe.errors import UserError

SMOLLM2 = recipes.FOLDER / "moe-lpr-smollm2.toml"


@pytest.mark.parametrize("path", sorted(recipes.FOLDER.glob("*.toml")), ids=lambda path: path.stem)
def test_continued_pre_training_reads_the_same_tokens(path):
    continued, *others = [phase for phase in recipes.read(path).phases() if phase.stage != "2"]
    assert continued.stage == "dense" and others
    for phase in others:
        for name in ("mix", "steps", "batch", "sequence"):
            assert getattr(phase, name) == getattr(continued, name)


def test_kinds_and_defaults():
    recipe = recipes.read(SMOLLM2)
    kinds = recipe.kinds()
    assert (kinds["en"], kinds["el"], kinds["en-books"]) == ("old", "new", "other")
    assert recipe.evaluation.documents == 0 and recipe.run[0].expansion is None


def test_quick_changes_steps_and_documents_alone():
    recipe = recipes.read(SMOLLM2)
    before, after = recipes.flat(recipe), recipes.flat(recipes.quick(recipe))
    changed = {key.split(".")[-1] for key in before if before[key] != after[key]}
    assert changed == {"steps", "warmup", "documents"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed = 0", "sed = 0", "sed: unknown key; expected one of: seed, dtype"),
        ("top_k = 2", "top_k = 2\ntopk = 2", "run.1.expansion.topk: unknown key; expected one of: top_k, experts"),
        ("seed = 0", "", "seed: expected this key, but it is not there"),
        ("top_k = 2", 'top_k = "2"', "run.1.expansion.top_k: expected a whole number, but got '2'"),
        ("top_k = 2", "top_k = true", "run.1.expansion.top_k: expected a whole number, but got True"),
        ("top_k = 2", "top_k = 0", "run.1.expansion.top_k: expected at least 1, but got 0"),
        ("experts = 4", "experts = 4\nbudget = 4", "run.1.expansion: expected one of experts and budget, but got "),
        ("experts = 4", "", "run.1.expansion: expected one of experts and budget, but got "),
        ("experts = 4", "budget = 0", "run.1.expansion.budget: expected at least 1, but got 0"),
        ("experts = 4", "budget = -1", "run.1.expansion.budget: expected a number from 0 on, but got -1"),
        ("experts = 4", "experts = [4, 0]", "run.1.expansion.experts: expected at least 1"),
        ("experts = 4", 'experts = "4"', "run.1.expansion.experts: expected a whole number"),
        ("batch = 4", "batch = 4.5", "run.0.phase.0.batch: expected a whole number, but got 4.5"),
        ("batch = 4", "batch = 0", "run.0.phase.0.batch: expected a positive number, but got 0"),
        ("lr = 5e-4", "lr = nan", "run.0.phase.0.lr: expected a number from 0 on, but got nan"),
        ('stage = "2"', 'stage = "3"', "run.1.phase.1.stage: expected one of dense, 1, 2, but got '3'"),
        ("mix = { el = 1,", "mix = { xx = 1, el = 1,", "run.0.phase.0.mix: expected a language of the recipe"),
        (
            "hu = 1\n",
            "hu = 0\nxxxx = 1\n",
            "languages: expected a language code such as 'el' or 'pt-br', but got 'xxxx'",
        ),
        ("el = 1\nhu = 1\ntr = 1", "", "languages: expected old languages (0) and new ones (1)"),
        ('"en-manual"', '"en"', "evaluation.domains: expected no language as a domain, but got 'en'"),
        ('"en-manual", ', "7, ", "evaluation.domains.0: expected a string, but got 7"),
        ('dtype = "bf16"', 'dtype = "fp16"', "dtype: expected fp32 or bf16, but got 'fp16'"),
        ('model = "smollm2"', "", "base: expected one of model and new"),
        ('name = "stage 2"', 'name = "stage 1"', "run: expected each phase's name once"),
        ('name = "stage 2"', 'name = "stage1"', "run: expected each phase's name once"),
        ('name = "stage 2"', 'name = "../x"', "run: expected a phase's name of letters, digits, spaces and -"),
        ('name = "moe"', 'name = "base"', "run: expected each run's name once, and no 'base'"),
        ('en = "To insert', 'eng = "To insert', "samples.prompts: expected a language of the recipe, but got 'eng'"),
        ('name = "moe"', 'name = "../moe"', "run.1.name: expected a name for a folder"),
        ('method = "stage 2"', 'method = "stage 3"', "goals.method: expected one of the phases (continued, stage 1"),
        ("[goals]", "[[goals]]", "goals: expected a table, but got ["),
        ("[goals]", "[goals", "expected TOML: "),
    ],
)
def test_a_mistake_is_named(old, new, message, tmp_path):
    text = SMOLLM2.read_text()
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new, 1))
    assert path.read_text() != text
    with pytest.raises(UserError) as error:
        recipes.read(path)
    assert str(error.value).startswith(f"{path}: ") and message in str(error.value)


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(UserError, match="no such file; expected a recipe"):
        recipes.read(tmp_path / "none.toml")
