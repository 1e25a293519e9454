# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Tables and plots of bits per byte before, during and after."""

import csv
import json
import math

from polymoe.errors import UserError
from polymoe.files import atomic_path, read_json

# The first phase of a table is the rival, the others are of one family.
_PALETTE = ("#d98c3f", "#8fb8de", "#2c6fad", "#16405f", "#6f9e4c", "#a05a9c")
_BASE_COLOUR = "#7a7f85"


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


def table(results, kinds):
    """Lines of text; `results` is {column: {language: bits per byte}}, `kinds`
    is {language: old, new or other}."""
    lines = [f"{'bits per byte':<20}" + "".join(f"{column:>18}" for column in results)]
    for kind in ("old", "new", "other"):
        languages = _of_kind(kinds, kind)
        for group in [[language] for language in languages] + ([languages] if len(languages) > 1 else []):
            base = mean(results["base"], group)
            cells = [f"{base:.4f}"]
            for column in list(results)[1:]:
                cells.append(f"{mean(results[column], group):.4f} {change(results, column, group):+6.2f}%")
            name = group[0] if len(group) == 1 else "mean"
            lines.append(f"{name:<12}{kind:<8}" + "".join(f"{cell:>18}" for cell in cells))
    return lines


def _of_kind(kinds, kind):
    return [language for language, mine in kinds.items() if mine == kind]


def mean(figures, languages):
    return sum(figures[language] for language in languages) / len(languages)


def change(results, column, languages):
    """Of the mean bits per byte of these languages against the base, in percent."""
    return 100 * (mean(results[column], languages) / mean(results["base"], languages) - 1)


def findings(results, kinds, goals):
    """[(holds, sentence)]: what the method promises, against what was measured."""
    old, new, domains = (_of_kind(kinds, kind) for kind in ("old", "new", "other"))

    def method(*languages):
        return change(results, goals.method, languages)

    least, most = max(new, key=method), max(old, key=method)
    found = [
        (
            method(least) < 0 and method(least) <= -goals.new_gain,
            f"every new language improves by at least {goals.new_gain:g}% (least: {least} {method(least):+.2f}%)",
        ),
        (
            method(most) <= goals.old_loss,
            f"no old language loses more than {goals.old_loss:g}% (most: {most} {method(most):+.2f}%)",
        ),
    ]
    if domains and goals.domain_loss is not None:
        worst = max(domains, key=method)
        found.append(
            (
                method(*domains) <= goals.domain_loss,
                f"other domains lose at most {goals.domain_loss:g}% on average ({method(*domains):+.2f}%;"
                f" most: {worst} {method(worst):+.2f}%)",
            )
        )
    kept, name = (domains, "other domains") if domains else (old, "old languages")
    ours, theirs = method(*kept), change(results, goals.rival, kept)
    found.append(
        (
            theirs - ours >= goals.forgotten,
            f"{goals.rival} forgets at least {goals.forgotten:g} percentage points more of {name}"
            f" ({theirs:+.2f}% against {ours:+.2f}%)",
        )
    )
    share = gain_share(results, new, goals)
    if share is None:
        found.append((False, f"{goals.rival} gains nothing on new languages that could be kept"))
    else:
        each = {language: gain_share(results, [language], goals) for language in new}
        parts = ", ".join(f"{language} {100 * part:.0f}%" for language, part in each.items() if part is not None)
        found.append(
            (
                100 * share >= goals.kept_gain,
                f"at least {goals.kept_gain:g}% of the gain of {goals.rival} on new languages is kept"
                f" ({100 * share:.0f}%: {parts})",
            )
        )
    return found


def gain_share(results, new, goals):
    """The method's gain as a share of its rival's, or None if that has none."""
    ours, theirs = (mean(results["base"], new) - mean(results[column], new) for column in (goals.method, goals.rival))
    return ours / theirs if theirs > 0 else None


def write_csv(path, results, kinds):
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["language", "kind", *(column.replace(" ", "_") for column in results)])
        for language, kind in kinds.items():
            writer.writerow([language, kind, *(f"{results[column][language]:.6f}" for column in results)])


def plot_languages(path, results, kinds):
    """Bars: what each phase did to the new languages, and to what the base knew,
    whose changes are far smaller and have a scale of their own."""
    pyplot = _pyplot()
    columns = list(results)[1:]
    panels = {
        "new languages": _of_kind(kinds, "new"),
        "what the base knew": _of_kind(kinds, "old") + _of_kind(kinds, "other"),
    }
    figure, all_axes = pyplot.subplots(
        1, 2, figsize=(12, 4.2), width_ratios=[max(3, len(languages)) for languages in panels.values()]
    )
    width = 0.8 / len(columns)
    for axes, (title, languages) in zip(all_axes, panels.items(), strict=True):
        for index, column in enumerate(columns):
            places = [i + (index - (len(columns) - 1) / 2) * width for i in range(len(languages))]
            changes = [change(results, column, [language]) for language in languages]
            axes.bar(places, changes, width, label=column, color=_PALETTE[index % len(_PALETTE)])
        labels = [f"{language.replace('-', '-' + chr(10))}\n{results['base'][language]:.2f}" for language in languages]
        axes.set_xticks(range(len(languages)), labels)
        axes.set_title(title)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    all_axes[0].set_ylabel("change of bits per byte, %\n(below zero: better than the base)")
    figure.supxlabel("language or domain, and the base's bits per byte", fontsize="medium")
    handles, labels = all_axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, ncols=len(columns), loc="upper center", bbox_to_anchor=(0.5, 1.06))
    _save(pyplot, figure, path)


def plot_losses(path, runs, base="base"):
    """Training losses; `runs` is {name: metrics.jsonl}. All but the base begin
    where it ends, or at the first step where it was not trained here."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(9, 4))
    losses = {name: read_losses(metrics) for name, metrics in runs.items()}
    colours = [_BASE_COLOUR] * (base in losses) + [_PALETTE[0], _PALETTE[2], *_PALETTE[3:]]
    for index, (name, values) in enumerate(losses.items()):
        first = 1 if name == base else 1 + len(losses.get(base, []))
        colour = colours[index % len(colours)]
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
        figure.savefig(temporary, format="png", dpi=150, bbox_inches="tight", metadata={"Software": None})
    pyplot.close(figure)
