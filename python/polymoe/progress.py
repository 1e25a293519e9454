# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Progress on stderr: a live bar on a terminal, a line now and then elsewhere."""

import contextlib
import os
import sys
import time

from polymoe.errors import UserError


@contextlib.contextmanager
def progress(title, total):
    """Yields advance(amount=1, note=None); shows how far `title` has come."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=Console(stderr=True)) as bars:
            task = bars.add_task(title, total=total, note="")

            def advance(amount=1, note=None):
                bars.update(task, advance=amount, **({} if note is None else {"note": note}))

            yield advance
        return

    start = last = time.monotonic()
    done = 0

    def advance(amount=1, note=None):
        nonlocal done, last
        done += amount
        now = time.monotonic()
        if now - last >= 5 or (done == total and now - start >= 2):
            last = now
            took = now - start
            left = f", {took * (total - done) / done:.0f} s left" if 0 < done < total else ""
            say(f"{title}: {done}/{total} ({took:.0f} s{left}){' ' + note if note else ''}")

    yield advance


def say(message):
    """One line on stderr, so that stdout stays for results."""
    print(message, file=sys.stderr, flush=True)


def check_jobs(jobs):
    """The number of processes: one a core where it is None."""
    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs: expected at least 1, but got {jobs}")
    return jobs or os.cpu_count()
