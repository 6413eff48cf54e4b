"""Sources and their targets as texts: sentences and translations, documents and summaries; by corpus."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from effjax.data.folders import Folder
from effjax.errors import UserError

# Splits of the official files of Multi30k, as `SPLIT.LANGUAGE`; those of `pair_files` are named as they are here.
MULTI30K = {
    "train": "train",
    "valid": "val",
    "test": "test_2016_flickr",
    "test_2017": "test_2017_flickr",
    "test_2017_coco": "test_2017_mscoco",
    "test_2018": "test_2018_flickr",
}
PAIR_FILES = {split: split for split in ("train", "valid", "test")}
EMBEDDED = ("phrases", "digests", "wikipedia_titles", "wikipedia_leads")
NAMES = (*EMBEDDED, "multi30k", "pair_files", "iwslt14", "wmt14", "cnn_dailymail", "arxiv")


@dataclass(frozen=True)
class TextPairs:
    """Pairs of texts in order.

    Args:
      source, target: as many of the one as of the other.
      origin: where they come from, for errors; record i is its number i + 1.
    """

    source: Sequence[str]
    target: Sequence[str]
    origin: str

    def __post_init__(self):
        if len(self.source) != len(self.target):
            raise UserError(
                f"{self.origin}: {len(self.source):,} sources and {len(self.target):,} targets do not belong together"
            )

    def __len__(self) -> int:
        return len(self.source)


class Splits(Mapping):
    """The splits of a corpus, each read when it is first asked for.

    Args:
      names: of the splits, "train" first.
      read: gives the pairs of a split.
    """

    def __init__(self, names: Sequence[str], read: Callable[[str], TextPairs]):
        self._names, self._read, self._known = tuple(names), read, {}

    def __getitem__(self, split: str) -> TextPairs:
        if split not in self._names:
            raise UserError(f"split={split!r}; one of {', '.join(self._names)} is allowed")
        if split not in self._known:
            self._known[split] = self._read(split)
        return self._known[split]

    def __iter__(self):
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def load_text_pairs(name: str, *, path: str = "", source: str = "", target: str = "") -> Splits:
    """The splits of a corpus of pairs; nothing is read yet but what says that it is there.

    Args:
      name: "phrases" (toy sentences in German and English) and "digests" (toy documents and summaries), which are made
        here; "wikipedia_titles", names of articles in two languages, and "wikipedia_leads", articles and their first
        sentences, of the sample in the package; "multi30k", its archive or folder; "pair_files", a folder or archive
        with `train.de`, `train.en`, `valid.de` …; "iwslt14", its archive; "wmt14", "cnn_dailymail" and "arxiv"
        through TensorFlow Datasets.
      path: the archive or folder; for TensorFlow Datasets its data directory, "" for the usual one.
      source, target: languages, such as "de" and "en", where the corpus has some.

    Raises:
      UserError: an unknown name, a path for what ships with effjax, or data that cannot be read.
    """
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.0)[0]
        raise UserError(
            f"config.data.name={name!r}: no corpus of pairs; {', '.join(NAMES)} are; the nearest is {near!r}"
        )
    if path and name in EMBEDDED:
        raise UserError(f"{name} ships with effjax and takes no path; for {path} give --config.data.name= too")
    if name in ("phrases", "digests"):
        from effjax.data import phrases

        return Splits(phrases.SIZES, lambda split: phrases.pairs(name, split, source, target))
    if name in ("wikipedia_titles", "wikipedia_leads"):
        from effjax.data import wikipedia

        read = wikipedia.leads if name == "wikipedia_leads" else lambda split: wikipedia.titles(split, source, target)
        return Splits(wikipedia.SPLITS, lambda split: TextPairs(*read(split), f"{name}, {split}"))
    if name in ("wmt14", "cnn_dailymail", "arxiv"):
        from effjax.data import tfds_pairs  # here, since it imports TensorFlow Datasets

        return tfds_pairs.load(name, path, source, target)
    if not path:
        raise UserError(f"the corpus {name} is read from an archive or a folder: give --config.data.path=")
    if name == "iwslt14":
        from effjax.data import iwslt14

        return iwslt14.load(Folder(path), source, target)
    return aligned_files(Folder(path), MULTI30K if name == "multi30k" else PAIR_FILES, source, target)


def aligned_files(folder: Folder, splits: Mapping[str, str], source: str, target: str) -> Splits:
    """Splits whose line i in one file belongs to line i in another: train, valid and test, and what else there is.

    Raises:
      UserError: a file that is missing; when a split is read, a damaged file, or two of unequal lengths.
    """
    present = []
    for split, stem in splits.items():
        missing = [name for name in (f"{stem}.{source}", f"{stem}.{target}") if folder.find(name) is None]
        if missing and (split in PAIR_FILES or len(missing) == 1):
            raise UserError(f"{folder.path}: there is no file {missing[0]} (nor {missing[0]}.gz)")
        if not missing:
            present.append(split)

    def read(split):
        names = [f"{splits[split]}.{language}" for language in (source, target)]
        return TextPairs(*map(folder.lines, names), f"{folder.path}: {' and '.join(names)}")

    return Splits(present, read)
