"""IWSLT14's talks from the official archive, `de-en.tgz`, divided as in the usual recipe."""

import re
import sys
from xml.etree import ElementTree

from effjax.data.folders import Folder
from effjax.data.text_pairs import Splits, TextPairs
from effjax.errors import UserError

EVERY = 23  # one pair of so many of the training talks is for validation
TESTS = ("TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012")
LONGEST, RATIO = 175, 1.5  # words of a training sentence; the longer of a pair over the shorter


def load(folder: Folder, source: str, target: str) -> Splits:
    """The splits of German and English, either way.

    Lines of `train.tags.de-en.*` that are markup are left out, and so are pairs of which one sentence has more than 175
    words or 1.5 times as many as the other (in the recipe, of the tokens that Moses makes of them); every 23rd pair of
    the rest is for validation. The test split is dev2010, dev2012 (TEDx) and tst2010 to tst2012. The recipe also makes
    all letters small, which is left to the vocabulary here (`config.options.lowercase`).

    Raises:
      UserError: a file that is missing, damaged, or not aligned with the other.

    Source: Ranzato et al. 2016 (1511.06732), section 4; fairseq's preparation of the data.
    """
    if {source, target} != {"de", "en"}:
        raise UserError(f"iwslt14 has de and en, not {source!r} and {target!r}")
    first = [f"train.tags.de-en.{language}" for language in (source, target)]
    for name in first:
        if folder.find(name) is None:
            raise UserError(f"{folder.path}: there is no file {name} (nor {name}.gz)")

    def read(split):
        if split == "test":
            parts = [talks(folder, test, source, target) for test in TESTS]
            sides = ([text for part in parts for text in getattr(part, side)] for side in ("source", "target"))
            return TextPairs(*sides, f"{folder.path}: {', '.join(TESTS)}")
        lines = TextPairs(*map(folder.lines, first), f"{folder.path}: {' and '.join(first)}")
        kept = [
            pair for pair in zip(*(map(tidy, side) for side in (lines.source, lines.target))) if well_matched(*pair)
        ]
        if split == "train":
            print(f"iwslt14: {len(kept):,} of {len(lines):,} lines are pairs that the recipe keeps", file=sys.stderr)
        chosen = [pair for i, pair in enumerate(kept) if (i % EVERY == 0) == (split == "valid")]
        return TextPairs(*map(list, zip(*chosen)), lines.origin)

    return Splits(("train", "valid", "test"), read)


def tidy(line: str) -> str:
    """A sentence of a training file; nothing of a line of markup."""
    line = line.strip()
    if re.match(r"<(url|talkid|keywords|speaker|reviewer|translator)\b", line):
        line = ""
    return re.sub(r"</?(title|description)>", "", line)


def well_matched(a: str, b: str) -> bool:
    """Whether two sentences are there, not too long, and of similar length."""
    short, long = sorted((len(a.split()), len(b.split())))
    return 1 <= short and long <= LONGEST and long <= RATIO * short


def talks(folder: Folder, test: str, source: str, target: str) -> TextPairs:
    """The pairs of a test set."""
    names = [f"IWSLT14.{test}.de-en.{language}.xml" for language in (source, target)]
    return TextPairs(*(segments(folder, name) for name in names), f"{folder.path}: {' and '.join(names)}")


def segments(folder: Folder, name: str) -> list[str]:
    """The sentences of a file of tests, in order."""
    try:
        root = ElementTree.fromstring(folder.read(name))
    except ElementTree.ParseError as error:
        raise UserError(f"{folder.path}: {name} is truncated or corrupt: {error}") from error
    return ["".join(segment.itertext()).strip() for segment in root.iter("seg")]
