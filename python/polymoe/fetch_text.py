# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Fetch real text: the LibreOffice help, translated into 33 languages.

Downloads the Debian packages libreoffice-help-<language> with apt-get (neither
root nor an installation is needed), and turns their pages into documents:
navigation, scripts, code samples, paragraphs that a translation left in
English and paragraphs repeated on many pages are dropped. A page has the same
"id" in all languages.

Beside the languages there is English of other domains, for evaluation alone:
en-manual, en-packages, en-licences, en-books and en-code, small samples of what
their Debian packages hold.

Writes WORK/text/<language>.jsonl with one {"id", "language", "text"} a line.
What is there already is not fetched again.

examples:
  polymoe fetch-text el hu tr en es zh
  polymoe fetch-text en-manual en-books
  polymoe fetch-text all --work /data/polymoe
"""

import collections
import multiprocessing
import os
import re
import shutil
import tempfile
from pathlib import Path

from polymoe import debian
from polymoe.domains import DOMAINS
from polymoe.domains import VERSION as DOMAINS_VERSION
from polymoe.domains import fetch as fetch_domain
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
        if language not in HELP_PACKAGES and language not in DOMAINS:
            raise UserError(
                f"no help package for '{language}'; expected one of: {' '.join([*sorted(HELP_PACKAGES), *DOMAINS])}"
            )
    paths = {language: work / "text" / f"{language}.jsonl" for language in languages}
    missing = [language for language in languages if force or not _is_current(paths[language])]
    _fetch_domains([code for code in missing if code in DOMAINS], work / "debs", paths)
    _fetch_help([code for code in missing if code not in DOMAINS], work / "debs", paths, jobs)
    for language in languages:
        about = read_json(_sidecar(paths[language]))
        say(f"{language}: {about['documents']} documents, {about['characters']} characters, {paths[language]}")
    return paths


def _sidecar(path):
    return path.with_suffix(".about.json")


def _is_current(path):
    version = DOMAINS_VERSION if path.stem in DOMAINS else CLEANER_VERSION
    return path.exists() and _sidecar(path).exists() and read_json(_sidecar(path)).get("cleaner") == version


def _write(path, documents, source, version):
    write_documents(path, documents)
    characters = sum(len(document["text"]) for document in documents)
    about = {"cleaner": version, "source": source, "documents": len(documents), "characters": characters}
    write_json(_sidecar(path), about)


def _fetch_domains(codes, folder, paths):
    for code in codes:
        documents, source = fetch_domain(code, folder)
        _write(paths[code], documents, source, DOMAINS_VERSION)


def _fetch_help(languages, folder, paths, jobs):
    if not languages:
        return
    # English is needed to tell which paragraphs were left untranslated.
    names = {language: f"libreoffice-help-{HELP_PACKAGES[language]}" for language in ["en", *languages]}
    found = debian.download(list(names.values()), folder)
    _clean_all(languages, {language: found[name] for language, name in names.items()}, paths, jobs)


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
            _write(paths[language], documents, packages[language].name, CLEANER_VERSION)


def _read_pages(package, folder, pool, title):
    """{page: [(paragraph id or None, text), ...]} of a package."""
    debian.unpack(package, folder)
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
