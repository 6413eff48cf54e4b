"""Retrieval of the Long Range Arena: do two papers of the ACL Anthology Network cite one another? The official files
`new_aan_pairs.{train,eval,test}.tsv`: label, two identifiers, two texts, with tabs between them."""

from effjax.data.labelled import Labelled, Record, collect
from effjax.data.packed_files import packed_files
from effjax.data.text_ids import encode, vocab_size
from effjax.errors import UserError

__all__ = ["CLASSES", "OPTIONS", "PAIRS", "encode", "load", "records", "vocab_size"]

CLASSES = ("unrelated", "related")
PAIRS = True
OPTIONS = {}
FILES = {"train": ".train.tsv", "valid": ".eval.tsv", "test": ".test.tsv"}


def load(config) -> dict[str, Labelled]:
    """The three splits, from the folder or archive at `config.data.path`.

    Raises:
      UserError: no such files, or a line that is cut off or has no label.
    """
    path = config.data.path
    if not path:
        raise UserError(
            "the arena's retrieval task has no TensorFlow Dataset: give --config.data.path=, the folder or archive "
            "with new_aan_pairs.train.tsv, .eval.tsv and .test.tsv"
        )
    splits, suffixes = {}, {suffix: split for split, suffix in FILES.items()}
    for name, data in packed_files(path, lambda name: name.endswith(tuple(suffixes))):
        split = next(split for suffix, split in suffixes.items() if name.endswith(suffix))
        encoder = lambda text: encode(config, text)
        splits[split] = collect(
            records(data, name), encoder, origin=f"{path}: {name}", classes=2, length=config.data.length
        )
    if missing := [suffix for split, suffix in FILES.items() if split not in splits]:
        raise UserError(f"{path}: there is no file *{missing[0]} in it")
    return splits


def records(data: bytes, name: str):
    """The pairs of one file."""
    for number, line in enumerate(data.splitlines(), 1):
        fields = line.split(b"\t")
        try:
            label, _, _, first, second = fields
            label = float(label)
        except ValueError:
            raise UserError(
                f"{name}: line {number} has {len(fields)} fields and begins with {fields[0][:20]!r}; label, id1, id2, "
                "text1, text2 are needed: the file may be cut off"
            ) from None
        yield Record(f"line {number}", int(label) if label == int(label) else -1, (first, second))
