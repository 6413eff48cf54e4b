"""Toy sentences in German and English, and toy documents with summaries, from a grammar of a few words.

They are for first steps and tests: large enough to learn something within minutes, and nobody else's.
"""

import functools

import numpy as np

from effjax.data.text_pairs import TextPairs
from effjax.errors import UserError

SIZES = {"train": 4000, "valid": 200, "test": 200}
LANGUAGES = ("de", "en")
# German nouns with their gender; endings of "ein" and of adjectives after it, as subject and as object.
NOUNS = (("Hund", "m", "dog"), ("Mann", "m", "man"), ("Junge", "m", "boy"), ("Vogel", "m", "bird"),
         ("Baum", "m", "tree"), ("Frau", "f", "woman"), ("Katze", "f", "cat"), ("Blume", "f", "flower"),
         ("Lampe", "f", "lamp"), ("Kind", "n", "child"), ("Haus", "n", "house"), ("Pferd", "n", "horse"),
         ("Buch", "n", "book"))  # fmt: skip
ADJECTIVES = (("klein", "small"), ("groß", "big"), ("alt", "old"), ("neu", "new"), ("rot", "red"), ("ruhig", "quiet"))
VERBS = (("sieht", "sees"), ("sucht", "seeks"), ("malt", "paints"), ("kennt", "knows"), ("findet", "finds"))
TIMES = (
    ("heute", "today"),
    ("oft", "often"),
    ("dort", "there"),
    ("am Morgen", "in the morning"),
    ("im Winter", "in winter"),
)
ENDINGS = {
    "subject": {"m": ("ein", "er"), "f": ("eine", "e"), "n": ("ein", "es")},
    "object": {"m": ("einen", "en"), "f": ("eine", "e"), "n": ("ein", "es")},
}


def pairs(name: str, split: str, source: str, target: str) -> TextPairs:
    """The pairs of a split: "phrases", a sentence and its translation, or "digests", a document and its summary.

    Raises:
      UserError: languages other than German and English.
    """
    if name == "phrases" and {source, target} != set(LANGUAGES):
        raise UserError(f"phrases are in de and en, not in {source!r} and {target!r}")
    made = _made(name, split)
    sides = [
        [pair[LANGUAGES.index(target if i else source)] if name == "phrases" else pair[i] for pair in made]
        for i in (0, 1)
    ]
    return TextPairs(*sides, f"{name}, {split}")


@functools.cache
def _made(name: str, split: str) -> list[tuple[str, str]]:
    rng = np.random.default_rng((list(SIZES).index(split), name == "digests"))
    make = sentence if name == "phrases" else digest
    return [make(rng) for _ in range(SIZES[split])]


def sentence(rng: np.random.Generator) -> tuple[str, str]:
    """A sentence in German and in English; German puts the verb second, whatever comes first."""
    pick = lambda words: words[rng.integers(len(words))]
    subject, thing = (_noun_phrase(rng, case) for case in ("subject", "object"))
    verb, time, first = pick(VERBS), pick(TIMES), rng.random() < 0.5
    if first:
        german = f"{time[0]} {verb[0]} {subject[0]} {thing[0]} ."
    else:
        german = f"{subject[0]} {verb[0]} {time[0]} {thing[0]} ."
    english = f"{subject[1]} {verb[1]} {thing[1]} {time[1]} ."
    return german[0].upper() + german[1:], english[0].upper() + english[1:]


def _noun_phrase(rng, case):
    noun, gender, english = NOUNS[rng.integers(len(NOUNS))]
    article, ending = ENDINGS[case][gender]
    if rng.random() < 0.5:
        return f"{article} {noun}", f"{'an' if english[0] in 'aeiou' else 'a'} {english}"
    german, adjective = ADJECTIVES[rng.integers(len(ADJECTIVES))]
    return f"{article} {german}{ending} {noun}", f"{'an' if adjective[0] in 'aeiou' else 'a'} {adjective} {english}"


def digest(rng: np.random.Generator) -> tuple[str, str]:
    """Several English sentences, and those among them that are said to matter."""
    sentences = [sentence(rng)[1] for _ in range(int(rng.integers(4, 9)))]
    matter = set(rng.choice(len(sentences), size=2, replace=False).tolist())
    document = " ".join(f"Note : {s}" if i in matter else s for i, s in enumerate(sentences))
    return document, "\n".join(sentences[i] for i in sorted(matter))
