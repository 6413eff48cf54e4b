"""Examples of a dataset of TensorFlow Datasets by name, prepared on the first call.

Texts are prepared and read without TensorFlow; pictures are encoded by it when they are prepared, once.
"""

from collections.abc import Iterator, Sequence

from effjax.errors import UserError


def tfds_records(name: str, split: str, data_dir: str | None = None) -> Iterator[dict]:
    """The examples of a split, in the order of its files; see `tfds_source`."""
    source = tfds_source(name, split, data_dir)
    for i in range(len(source)):
        yield source[i]


def tfds_source(name: str, split: str, data_dir: str | None = None) -> Sequence[dict]:
    """The examples of a split, each read when it is asked for.

    Args:
      name: of the dataset, such as "cifar10".
      split: "train", "test", a part such as "train[:90%]", or several with + between them.
      data_dir: where datasets are kept; None: `TFDS_DATA_DIR` or ~/tensorflow_datasets.

    Raises:
      UserError: it is neither prepared nor to be downloaded.
    """
    import sys

    import tensorflow_datasets as tfds

    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    try:
        builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
        if not builder.data_path.exists():
            builder.download_and_prepare()
        return builder.as_data_source(split=split)
    except Exception as error:  # TensorFlow Datasets and its downloader have no common type
        raise UserError(
            f"the dataset {name} could not be had from TensorFlow Datasets ({reason_of(error)}): run once where there "
            "is a network, or give --config.data.path="
        ) from error


def reason_of(error: BaseException) -> str:
    """One line; where TensorFlow is missing somewhere below, that it is."""
    below = error
    while below is not None:
        if isinstance(below, ImportError):
            return "to prepare it takes TensorFlow, which is not installed: pip install tensorflow"
        below = below.__cause__ or below.__context__
    return " ".join(str(error).split())[:300] or type(error).__name__
