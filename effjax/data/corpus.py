"""A text by name: found, verified, split and encoded."""

import difflib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from etils import epath

from effjax.data import pg19, texts
from effjax.data.archives import read_archive
from effjax.data.token_files import WIKITEXT103, TokenFiles
from effjax.data.vocabularies import Vocabulary, get_vocabulary
from effjax.data.words import WordVocabulary
from effjax.errors import UserError

SAMPLE = Path(__file__).parent / "sample" / "enwik8_sample.xz"
OFFICIAL = {text.name: text for text in (texts.ENWIK8_SAMPLE, texts.ENWIK8, texts.TEXT8)}
NAMES = (*OFFICIAL, "wikitext103", "pg19", "bytes_file", "token_files")
SEPARATED = ("pg19",)  # texts of documents that should not see each other


@dataclass(frozen=True)
class Corpus:
    """An encoded text in three parts.

    Args:
      name: as in the configuration.
      vocabulary: what the ids mean.
      splits: ids of "train", "valid" and "test", `[symbols]` each, of `vocabulary.dtype`.
      bytes_per_split: original bytes of each part, those that the vocabulary drops included:
        bits per original byte = bits per symbol * symbols / bytes.
      documents: of a text of separate documents, the position in each part at which each of them begins.
    """

    name: str
    vocabulary: Vocabulary | WordVocabulary
    splits: dict[str, np.ndarray]
    bytes_per_split: dict[str, int]
    documents: dict[str, np.ndarray] | None = None


def load_corpus(
    name: str, *, path: str | None = None, vocabulary: str = "bytes", cache_dir: epath.PathLike | None = None
) -> Corpus:
    """Reads a text, checks that it is the one it should be, and encodes its splits.

    Args:
      name: "enwik8_sample", the first 2,000,000 bytes of enwik8, which ship with the package (1.8M/100K/100K);
        "enwik8" or "text8" (90M/5M/5M), downloaded once through TensorFlow Datasets, or read from `path`;
        "wikitext103", likewise, in words; "pg19", the folder or archive of books at `path`; "bytes_file", any file
        given by `path` (90/5/5 per cent); "token_files", any files of WikiText-103's form.
      path: a raw, .zip, .gz or .xz file, local or gs://; for the texts in tokens a .zip file or a folder. TensorFlow
        Datasets is then not used.
      vocabulary: a name of `effjax.data.vocabularies`.
      cache_dir: where TensorFlow Datasets keeps what it downloaded; None: `TFDS_DATA_DIR` or ~/tensorflow_datasets.

    Raises:
      UserError: an unknown name, missing data, data that is not the official text, or a byte outside the vocabulary.
    """
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"no corpus {name!r}, only {', '.join(NAMES)}{hint}")
    symbols = get_vocabulary(vocabulary)
    if symbols.learned and name in ("wikitext103", "token_files"):
        return Corpus(name, *read_words(name, symbols, path, cache_dir))
    if name == "pg19":
        return read_documents(name, symbols, path)
    parts = read_parts(name, path, cache_dir)
    if symbols.learned:
        symbols = symbols.learn(parts["train"])
    splits = {}
    for split, part in parts.items():
        try:
            splits[split] = symbols.encode(part, end_of_file=True)
        except UserError as error:
            raise UserError(f"{name}, {split} split: {error}") from None
    return Corpus(name, symbols, splits, {split: len(part) for split, part in parts.items()})


def read_words(name: str, vocabulary: WordVocabulary, path: str | None, cache_dir: epath.PathLike | None):
    """A text in tokens: its vocabulary, the ids of each split and its length in bytes, derived once and kept."""
    if path or name == "token_files":
        return token_files(name, path).words(vocabulary)
    from effjax.data import wikitext103  # here, since it imports TensorFlow Datasets

    return wikitext103.prepared_words(vocabulary, cache_dir)


def read_documents(name: str, symbols, path: str | None) -> Corpus:
    """A text of documents, of a vocabulary that has an id for every byte."""
    if symbols.drops_bytes or symbols.learned:
        raise UserError(f"the corpus {name} keeps its documents apart byte by byte; with 'bytes', not {symbols.name!r}")
    parts, documents = pg19.read_books(path)
    splits = {split: symbols.encode(part) for split, part in parts.items()}
    return Corpus(name, symbols, splits, {split: len(part) for split, part in parts.items()}, documents)


def token_files(name: str, path: str | None) -> TokenFiles:
    """The files of a text in tokens."""
    if not path:
        raise UserError("the corpus token_files needs a .zip archive or a folder: give --config.data.path=")
    return TokenFiles(path, WIKITEXT103 if name == "wikitext103" else None)


def read_parts(name: str, path: str | None, cache_dir: epath.PathLike | None) -> dict[str, bytes]:
    """The raw bytes of each split."""
    if name == "token_files" or (name == "wikitext103" and path):
        return token_files(name, path).parts()
    if name == "bytes_file":
        if not path:
            raise UserError("the corpus bytes_file needs a file: give --config.data.path=")
        return cut_by_shares(read_archive(path), path)
    if name == "wikitext103":
        from effjax.data import text_builder, wikitext103

        return text_builder.read_or_download(wikitext103.WikiText103, cache_dir)
    text = OFFICIAL[name]
    if name == "enwik8_sample":
        if path:
            raise UserError(
                f"enwik8_sample ships with effjax and takes no path; for {path} "
                "give --config.data.name=enwik8, text8 or bytes_file as well"
            )
        return text.split(text.verify(read_archive(SAMPLE), str(SAMPLE)))
    if path:
        return text.split(text.verify(read_archive(path), path))
    from effjax.data import enwik8, text8, text_builder  # here, since they import TensorFlow Datasets

    builders = {"enwik8": enwik8.Enwik8, "text8": text8.Text8}
    return text_builder.read_or_download(builders[name], cache_dir)


def cut_by_shares(data: bytes, origin: str) -> dict[str, bytes]:
    """90, 5 and 5 per cent; each must hold a token to predict and one before it."""
    part = len(data) // 20
    if part < 2:
        raise UserError(f"{origin} holds {len(data)} bytes; at least 40 are needed for train, valid and test parts")
    return texts.cut(data, (len(data) - 2 * part, part, part))
