"""An official text as a TensorFlow Datasets builder, read without TensorFlow through array_record files.

This module imports TensorFlow Datasets; `effjax.data` imports it only when a text has to be prepared.
"""

import sys
import urllib.request

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

from effjax.data.archives import read_archive
from effjax.data.texts import OfficialText
from effjax.errors import UserError

CHUNK_BYTES = 1 << 20
PROBE_SECONDS = 10


class TextBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """One example per MiB of a split, in order: `text` (bytes) and `offset` (of its first byte in the split).

    Subclasses set `TEXT`. The default file format is array_record, which `tfds.data_source` reads without TensorFlow;
    for a `tf.data` pipeline give `builder_kwargs={"file_format": "tfrecord"}` to `tfds.load`.
    """

    TEXT: OfficialText
    HOMEPAGE = "http://mattmahoney.net/dc/textdata.html"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Initial release."}  # noqa: RUF012 (the name and type are TensorFlow Datasets')

    def __init__(self, *, file_format: str | None = "array_record", **kwargs):
        super().__init__(file_format=file_format, **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__,
            features=tfds.features.FeaturesDict({"text": tfds.features.Text(), "offset": np.int64}),
            homepage=self.HOMEPAGE,
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        data = self.TEXT.verify(read_archive(dl_manager.download(self.TEXT.url)), self.TEXT.url)
        return {split: self._generate_examples(part) for split, part in self.TEXT.split(data).items()}

    def _generate_examples(self, part: bytes):
        for index, offset in enumerate(range(0, len(part), CHUNK_BYTES)):
            yield index, {"text": part[offset : offset + CHUNK_BYTES], "offset": offset}


def read_or_download(builder_class: type[TextBuilder], data_dir: epath.PathLike | None = None) -> dict[str, bytes]:
    """The splits of a text, prepared on the first call.

    Args:
      builder_class: a registered builder.
      data_dir: where prepared texts lie; None: TensorFlow Datasets' default.

    Raises:
      UserError: the text is neither prepared nor to be downloaded, or what was found is not the official text.
    """
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    text = builder_class.TEXT
    builder = builder_class(data_dir=data_dir)
    if not builder.data_path.exists():
        try:
            probe(text.url)
            builder.download_and_prepare()
        except (OSError, tfds.download.DownloadError, NonMatchingChecksumError) as error:
            # Several processes may prepare one text: whoever comes second finds it done and cannot put its own there.
            if not builder.data_path.exists():
                raise UserError(missing(text, builder.data_path, error)) from error
        builder = builder_class(data_dir=data_dir)
    return read_prepared(builder)


def read_prepared(builder: TextBuilder) -> dict[str, bytes]:
    """The splits of a text from its array_record files, verified like the archive they were made from.

    Raises:
      UserError: files that cannot be read, or that do not hold the official text.
    """
    try:
        source = builder.as_data_source()
        parts = {split: b"".join(example["text"] for example in source[split]) for split in ("train", "valid", "test")}
    except Exception as error:  # array_record and TensorFlow Datasets have no common type for damage
        raise UserError(
            f"{builder.data_path} cannot be read ({one_line(error)}); remove it, and it is prepared anew"
        ) from error
    builder.TEXT.verify(b"".join(parts.values()), str(builder.data_path))
    return parts


def probe(url: str):
    """Fails within seconds where there is no network; the download itself would try again for minutes."""
    request = urllib.request.Request(url, headers={"User-Agent": "effjax"})
    urllib.request.urlopen(request, timeout=PROBE_SECONDS).close()


def missing(text: OfficialText, prepared: epath.Path, error: Exception) -> str:
    """One line that names both ways to the data."""
    return (
        f"{text.name} is not in {prepared} and could not be downloaded ({one_line(error)}): "
        f"either run once where {text.url} can be reached, or fetch that file elsewhere and give "
        f"--config.data.path=/path/to/{text.name}.zip ({text.other_forms})"
    )


def one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
