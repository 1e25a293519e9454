# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Tables and plots of bits per byte before, during and after."""

import csv
import json
import math

from polymoe.errors import UserError
from polymoe.files import atomic_path, read_json

COLUMNS = ("base", "continued", "stage 1", "stage 2")
_COLOURS = {"base": "#7a7f85", "continued": "#d98c3f", "stage 1": "#8fb8de", "stage 2": "#2c6fad"}


def read_bits_per_byte(path, languages):
    """{language: bits per byte} of what `moe-run eval --json` wrote."""
    measured = read_json(path).get("languages")
    if not isinstance(measured, list):
        raise UserError(f"{path}: expected a list as 'languages'")
    figures = {entry.get("language"): entry.get("bits_per_byte") for entry in measured}
    for language in languages:
        value = figures.get(language)
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(f"{path}: expected a number as 'bits_per_byte' of '{language}', but got {value!r}")
    return {language: float(figures[language]) for language in languages}


def table(results, rounds):
    """Lines of text; `results` is {column: {language: bits per byte}}."""
    lines = [f"{'bits per byte':<16}" + "".join(f"{column:>18}" for column in results)]
    for language, round_ in rounds.items():
        base = results["base"][language]
        cells = [f"{base:.4f}"]
        for column in list(results)[1:]:
            value = results[column][language]
            cells.append(f"{value:.4f} {100 * (value / base - 1):+6.2f}%")
        kind = "new" if round_ else "old"
        lines.append(f"{language:<8}{kind:<8}" + "".join(f"{cell:>18}" for cell in cells))
    return lines


def findings(results, rounds):
    """[(holds, sentence)]: what the method promises, against what was measured."""
    old = [language for language, round_ in rounds.items() if not round_]
    new = [language for language, round_ in rounds.items() if round_]
    base, continued, final = results["base"], results["continued"], results["stage 2"]

    def change(values, language):
        return 100 * (values[language] / base[language] - 1)

    worst_new = max(new, key=lambda language: change(final, language))
    worst_old = max(old, key=lambda language: change(final, language))
    found = [
        (
            change(final, worst_new) < 0,
            f"every new language improves on the base (least: {worst_new} {change(final, worst_new):+.2f}%)",
        ),
        (
            change(final, worst_old) <= 1,
            f"the old languages lose at most 1% (most: {worst_old} {change(final, worst_old):+.2f}%)",
        ),
    ]
    harmed = [language for language in old if change(continued, language) > 0]
    if harmed:
        lost = sum(change(continued, language) for language in harmed)
        ours = sum(max(0.0, change(final, language)) for language in harmed)
        found.append(
            (
                lost >= 3 * ours,
                f"continued pre-training loses at least three times as much on the old ones that it harms"
                f" ({', '.join(harmed)}: {lost / len(harmed):+.2f}% against {ours / len(harmed):+.2f}%)",
            )
        )
    else:
        found.append((False, "continued pre-training harms no old language, so nothing can be compared"))
    share = gain_share(results, new)
    if share is not None:
        found.append((True, f"share of continued pre-training's gain on the new languages: {100 * share:.0f}%"))
    return found


def gain_share(results, new):
    """The gain of stage 2 as a share of that of continued pre-training."""
    gains = {
        column: sum(results["base"][language] - results[column][language] for language in new)
        for column in ("continued", "stage 2")
    }
    return gains["stage 2"] / gains["continued"] if gains["continued"] > 0 else None


def write_csv(path, results, rounds):
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["language", "round", *(column.replace(" ", "_") for column in results)])
        for language, round_ in rounds.items():
            writer.writerow([language, round_, *(f"{results[column][language]:.6f}" for column in results)])


def plot_languages(path, results, rounds):
    """Bars: what each kind of training did to each language."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(9, 4))
    languages, columns = list(rounds), list(results)[1:]
    width = 0.8 / len(columns)
    for index, column in enumerate(columns):
        places = [i + (index - (len(columns) - 1) / 2) * width for i in range(len(languages))]
        changes = [100 * (results[column][language] / results["base"][language] - 1) for language in languages]
        axes.bar(places, changes, width, label=column, color=_COLOURS[column])
    labels = [
        f"{language} ({'new' if rounds[language] else 'old'})\nbase {results['base'][language]:.2f}"
        for language in languages
    ]
    axes.set_xticks(range(len(languages)), labels)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_ylabel("change of bits per byte, %\n(below zero: better than the base)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=len(columns), loc="lower center", bbox_to_anchor=(0.5, 1))
    _save(pyplot, figure, path)


def plot_losses(path, runs, base="base"):
    """Training losses; `runs` is {name: metrics.jsonl}. All but the base begin
    where it ends."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(9, 4))
    losses = {name: read_losses(metrics) for name, metrics in runs.items()}
    for name, values in losses.items():
        first = 1 if name == base else 1 + len(losses[base])
        colour = _COLOURS.get(name, _COLOURS["stage 2"])
        axes.plot(range(first, first + len(values)), _smooth(values), label=name, linewidth=1.2, color=colour)
    axes.set_xlabel("step")
    axes.set_ylabel("training loss (nats a token)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    _save(pyplot, figure, path)


def read_losses(path):
    """The next-token loss of every step of a run, in order, over its phases."""
    losses = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected the metrics of a run") from None
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}:{number}: expected one JSON object a line: {error.msg}") from None
        if "loss" in record:
            losses.append(float(record["loss"]))
    return losses


def _smooth(values, weight=0.9):
    """An exponential mean that does not start from zero."""
    smoothed, mean = [], None
    for value in values:
        mean = value if mean is None else weight * mean + (1 - weight) * value
        smoothed.append(mean)
    return smoothed


def _pyplot():
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(pyplot, figure, path):
    figure.tight_layout()
    with atomic_path(path) as temporary:
        # No date inside: the same figures give the same file.
        figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})
    pyplot.close(figure)
