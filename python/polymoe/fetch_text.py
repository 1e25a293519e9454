# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Fetch real text: the LibreOffice help, translated into 33 languages.

Downloads the Debian packages libreoffice-help-<language> with apt-get (neither
root nor an installation is needed), and turns their pages into documents:
navigation, scripts, code samples, paragraphs that a translation left in
English and paragraphs repeated on many pages are dropped. A page has the same
"id" in all languages.

Writes WORK/text/<language>.jsonl with one {"id", "language", "text"} a line.
What is there already is not fetched again.

examples:
  polymoe fetch-text el hu tr en es zh
  polymoe fetch-text all --work /data/polymoe
"""

import collections
import multiprocessing
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from polymoe.errors import UserError
from polymoe.files import read_json, write_documents, write_json
from polymoe.languages import HELP_PACKAGES
from polymoe.progress import check_jobs, progress, say

# Raised when the cleaning changes, so that cached text is made anew.
CLEANER_VERSION = 1

# A paragraph on more pages than this is boilerplate.
MAX_PAGES_PER_PARAGRAPH = 4
# A document with fewer characters says nothing.
MIN_DOCUMENT_CHARACTERS = 60
# An identical paragraph this long was not translated.
MIN_UNTRANSLATED_CHARACTERS = 24

_BLOCKS = {"p", "h1", "h2", "h3", "h4", "h5", "h6"}
_DROPPED_TAGS = {"script", "style", "nav", "pre", "code", "img", "button", "noscript"}
_DROPPED_CLASSES = {
    "code",
    "codeintable",
    "smathcode",
    "bascode",
    "pycode",
    "sqlcode",
    "related",
    "howtoget",
    "relatedtopics",
    "MAC",
}
_SPACE = re.compile(r"\s+")


def add_arguments(parser):
    parser.add_argument("languages", nargs="+", metavar="LANGUAGE", help="codes such as el or pt-br, or 'all'")
    parser.add_argument(
        "--work", type=Path, default=Path("work"), help="where packages and text are kept (default: work)"
    )
    parser.add_argument("--force", action="store_true", help="clean the pages again, even if the text is there")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count(), help="processes that clean pages (default: one a core)"
    )


def run(args):
    fetch(args.languages, args.work, args.jobs, args.force)


def fetch(languages, work, jobs=None, force=False):
    """Fetches the languages that are missing; returns {language: path}."""
    jobs = check_jobs(jobs)
    languages = sorted(HELP_PACKAGES) if languages == ["all"] else list(dict.fromkeys(languages))
    for language in languages:
        if language not in HELP_PACKAGES:
            raise UserError(f"no help package for '{language}'; expected one of: {' '.join(sorted(HELP_PACKAGES))}")
    paths = {language: work / "text" / f"{language}.jsonl" for language in languages}
    missing = [language for language in languages if force or not _is_current(paths[language])]
    if missing:
        # English is needed to tell which paragraphs were left untranslated.
        packages = _download(list(dict.fromkeys(["en", *missing])), work / "debs")
        _clean_all(missing, packages, paths, jobs)
    for language in languages:
        about = read_json(_sidecar(paths[language]))
        say(f"{language}: {about['documents']} documents, {about['characters']} characters, {paths[language]}")
    return paths


def _sidecar(path):
    return path.with_suffix(".about.json")


def _is_current(path):
    return path.exists() and _sidecar(path).exists() and read_json(_sidecar(path)).get("cleaner") == CLEANER_VERSION


# Downloading.


def _download(languages, folder):
    """Returns {language: .deb}, downloading what is not in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    packages = {language: _find_package(language, folder) for language in languages}
    missing = [language for language in languages if packages[language] is None]
    if missing:
        if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
            raise UserError(
                "fetch-text needs apt-get and dpkg-deb (Debian or Ubuntu); import-text takes your own text anywhere"
            )
        options = _apt_options(missing, folder)
        with progress("downloading", len(missing)) as advance:
            for language in missing:
                _apt("download", [_package_name(language)], options, folder)
                packages[language] = _find_package(language, folder)
                if packages[language] is None:
                    raise UserError(f"{folder}: apt-get downloaded no {_package_name(language)}_*.deb")
                advance(note=language)
    return packages


def _package_name(language):
    return f"libreoffice-help-{HELP_PACKAGES[language]}"


def _find_package(language, folder):
    found = sorted(folder.glob(f"{_package_name(language)}_*.deb"))
    return found[-1] if found else None


def _apt_options(languages, folder):
    """Options under which apt knows the packages: none, or lists of our own
    where the system's lists are missing (as in a bare container)."""
    names = [_package_name(language) for language in languages]
    if all(_apt_knows(name, []) for name in names):
        return []
    state = (folder / "apt").resolve()
    (state / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (state / "cache" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    options = ["-o", f"Dir::State::Lists={state}/lists", "-o", f"Dir::Cache={state}/cache"]
    say("reading the package lists")
    _apt("update", [], options, folder)
    for name in names:
        if not _apt_knows(name, options):
            raise UserError(f"apt knows no package {name}; expected it in the configured Debian sources")
    return options


def _apt_knows(name, options):
    result = subprocess.run(["apt-cache", *options, "show", name], capture_output=True)
    return result.returncode == 0 and bool(result.stdout.strip())


def _apt(action, arguments, options, folder):
    # As root apt would drop to a user that may not write here.
    sandbox = ["-o", "APT::Sandbox::User=root"] if os.geteuid() == 0 else []
    command = ["apt-get", "-q", *options, *sandbox, action, *arguments]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if result.returncode != 0:
        reason = (result.stderr.strip() or result.stdout.strip() or "no reason given").splitlines()[-1]
        raise UserError(f"apt-get {action} {' '.join(arguments)} failed: {reason}")


# Cleaning.


def _clean_all(languages, packages, paths, jobs):
    with tempfile.TemporaryDirectory(prefix="polymoe-help-") as scratch, multiprocessing.Pool(jobs) as pool:
        english = _read_pages(packages["en"], Path(scratch) / "en", pool, "reading en")
        originals = {page: dict(paragraphs) for page, paragraphs in english.items()}
        for language in languages:
            if language == "en":
                pages = english
            else:
                pages = _read_pages(packages[language], Path(scratch) / language, pool, f"reading {language}")
            # British English rightly has most sentences as they are.
            documents = clean_pages(pages, language, None if language.startswith("en") else originals)
            if not documents:
                raise UserError(f"{packages[language]}: expected help pages, but found no text")
            write_documents(paths[language], documents)
            write_json(
                _sidecar(paths[language]),
                {
                    "cleaner": CLEANER_VERSION,
                    "source": packages[language].name,
                    "documents": len(documents),
                    "characters": sum(len(document["text"]) for document in documents),
                },
            )


def _read_pages(package, folder, pool, title):
    """{page: [(paragraph id or None, text), ...]} of a package."""
    result = subprocess.run(["dpkg-deb", "-x", package, folder], capture_output=True, text=True)
    if result.returncode != 0:
        raise UserError(
            f"{package}: expected a Debian package; delete the file to fetch it again: {result.stderr.strip().splitlines()[-1]}"
        )
    roots = sorted(folder.glob("usr/share/libreoffice/help/*/text"))
    files = [(root, path) for root in roots for path in sorted(root.rglob("*.html"))]
    pages = {}
    with progress(title, len(files)) as advance:
        for page, paragraphs in pool.imap(_read_page, files, chunksize=32):
            pages[page] = paragraphs
            advance()
    shutil.rmtree(folder)
    return pages


def _read_page(root_and_path):
    root, path = root_and_path
    return path.relative_to(root).with_suffix("").as_posix(), parse_page(path.read_bytes())


def parse_page(html):
    """[(paragraph id or None, text), ...] of one help page, in order."""
    import lxml.html

    tree = lxml.html.fromstring(html, parser=lxml.html.HTMLParser(encoding="utf-8"))
    areas = tree.xpath("//*[@id='DisplayArea']")
    paragraphs = []
    if areas:
        _collect(areas[0], paragraphs)
    return paragraphs


def _collect(element, paragraphs):
    if not isinstance(element.tag, str) or _is_dropped(element):
        return
    if element.tag in _BLOCKS:
        text = _SPACE.sub(" ", "".join(_text(element))).strip()
        if any(character.isalpha() for character in text):
            paragraphs.append((element.get("id"), text))
        return
    for child in element:
        _collect(child, paragraphs)


def _text(element):
    yield element.text or ""
    for child in element:
        if isinstance(child.tag, str) and child.tag == "br":
            yield " "
        # Inline code is part of its sentence; only blocks of code are dropped.
        elif isinstance(child.tag, str) and (child.tag == "code" or not _is_dropped(child)):
            yield from _text(child)
        yield child.tail or ""


def _is_dropped(element):
    return element.tag in _DROPPED_TAGS or not _DROPPED_CLASSES.isdisjoint((element.get("class") or "").split())


def clean_pages(pages, language, originals=None):
    """Documents of the pages, without untranslated and repeated paragraphs.

    `originals` is {page: {paragraph id: English text}}.
    """
    kept = {}
    for page, paragraphs in pages.items():
        english = (originals or {}).get(page, {})
        kept[page] = [
            text
            for identifier, text in paragraphs
            if not (len(text) >= MIN_UNTRANSLATED_CHARACTERS and identifier and english.get(identifier) == text)
        ]
    pages_of = collections.Counter(text for paragraphs in kept.values() for text in set(paragraphs))
    documents = []
    for page in sorted(kept):
        text = "\n".join(text for text in kept[page] if pages_of[text] <= MAX_PAGES_PER_PARAGRAPH)
        if len(text) >= MIN_DOCUMENT_CHARACTERS:
            documents.append({"id": page, "language": language, "text": text})
    return documents
