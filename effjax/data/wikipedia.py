"""Articles of the sample of Wikipedia that ships with the package: names, plain paragraphs, categories."""

import functools
import html
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from effjax.data.archives import read_archive
from effjax.data.corpus import SAMPLE
from effjax.data.labelled import Labelled, Record, collect
from effjax.data.text_ids import encode
from effjax.data.texts import ENWIK8_SAMPLE
from effjax.errors import UserError

SHORTEST = 80  # characters of a line that counts as a paragraph and not as a caption or an item
SPLITS = {"train": range(6), "valid": (6,), "test": (7,)}  # of an article's number modulo eight
_PAGE = re.compile(r"<title>(.*?)</title>.*?<text[^>]*>(.*?)</text>", re.DOTALL)
_CATEGORY = re.compile(r"\[\[Category:([^\]|]+)")
_LANGUAGE = re.compile(r"\[\[([a-z]{2,3}(?:-[a-z-]+)?|simple):([^\]|]+)\]\]")
_INNERMOST = re.compile(r"\{\{[^{}]*\}\}|\{\|[^{}]*\|\}")  # templates and tables
_LINK = re.compile(r"\[\[(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]")
_NOT_TEXT = (
    re.compile(r"<!--.*?-->|<(math|ref|gallery|timeline|table)\b[^>]*>.*?</\1>", re.DOTALL | re.IGNORECASE),
    re.compile(r"<[^<>]*>"),
    re.compile(r"\[\[(?:[Ii]mage|Category|[a-z]{2,3}(?:-[a-z-]+)?|simple):(?:[^\[\]]|\[\[[^\[\]]*\]\])*\]\]?"),
)
_ADDRESS = re.compile(r"\[(?:https?://|ftp://|mailto:)[^\s\]]+ ?([^\]]*)\]")
_MARKS = re.compile(r"'{2,}")
_SENTENCE_END = re.compile(r"(?<=[^.\s]{4}[.!?]) +(?=[A-Z])")  # not behind an initial or "St."
_NO_PARAGRAPH = tuple("*#:;|!=<{[ ")


@dataclass(frozen=True)
class Article:
    """A page that is no redirection.

    Args:
      names: its title by language, without what tells it from others of that name ("Austin (Texas)"); "en" first.
      paragraphs: its text without markup, lists, tables and headings.
      categories: as their pages are called.
    """

    names: Mapping[str, str]
    paragraphs: tuple[str, ...]
    categories: tuple[str, ...]


@functools.cache
def read_articles() -> dict[str, tuple[Article, ...]]:
    """The articles of each split, an eighth in "valid" and in "test"."""
    text = ENWIK8_SAMPLE.verify(read_archive(SAMPLE), str(SAMPLE)).decode("utf-8", errors="ignore")  # its end is cut
    pages = [(title, html.unescape(body)) for title, body in _PAGE.findall(text)]
    found = [_article(title, body) for title, body in pages if not body.lower().startswith("#redirect")]
    return {split: tuple(a for i, a in enumerate(found) if i % 8 in parts) for split, parts in SPLITS.items()}


def plain_text(markup: str) -> str:
    """Wiki markup without its marks: what a reader sees of running text and links, line by line."""
    for pattern in _NOT_TEXT:
        markup = pattern.sub("", markup)
    for pattern, replacement in ((_INNERMOST, ""), (_LINK, r"\1")):
        while (shorter := pattern.sub(replacement, markup)) != markup:  # they are nested
            markup = shorter
    return html.unescape(_MARKS.sub("", _ADDRESS.sub(r"\1", markup)))  # once for XML, once for what stands in it


def _article(title, body):
    names = {"en": title} | {language: name for language, name in _LANGUAGE.findall(body)}
    lines = [line.rstrip() for line in plain_text(body).split("\n")]
    return Article(
        names={language: re.sub(r" \([^()]*\)$", "", name) for language, name in names.items()},
        paragraphs=tuple(line for line in lines if len(line) >= SHORTEST and not line.startswith(_NO_PARAGRAPH)),
        categories=tuple(name.strip() for name in _CATEGORY.findall(body)),
    )


def titles(split: str, source: str, target: str) -> tuple[list[str], list[str]]:
    """What the articles are called in two languages, of those that have a name in both.

    Raises:
      UserError: a language in which no article has a name, or no article of the split with a name in both.
    """
    known = {language for articles in read_articles().values() for article in articles for language in article.names}
    for language in (source, target):
        if language not in known:
            raise UserError(f"no article has a title in {language!r}; {', '.join(sorted(known))} are allowed")
    both = [article.names for article in read_articles()[split] if {source, target} <= set(article.names)]
    if not both:
        raise UserError(f"no article of the {split} split has a title both in {source!r} and in {target!r}")
    return [names[source] for names in both], [names[target] for names in both]


def leads(split: str) -> tuple[list[str], list[str]]:
    """The articles below their first paragraph, and the first sentence of that one."""
    long = [article.paragraphs for article in read_articles()[split] if len(article.paragraphs) > 1]
    return [" ".join(body) for _, *body in long], [_SENTENCE_END.split(first)[0] for first, *_ in long]


def labelled_splits(config, records: Callable[[str], Iterable[Record]]) -> dict[str, Labelled]:
    """The splits of a data set of paragraphs; those of one article are in one of them.

    Args:
      config: reads `data`.
      records: the examples of a split.

    Raises:
      UserError: a path, or a vocabulary that does not hold a byte.
    """
    name, path = config.data.name, config.data.path
    if path:
        raise UserError(f"{name} ships with effjax and takes no path; for {path} give --config.data.name= too")
    options = dict(origin=name, classes=2, length=config.data.length)
    return {split: collect(records(split), lambda text: encode(config, text), **options) for split in SPLITS}
