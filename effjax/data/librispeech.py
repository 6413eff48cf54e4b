"""LibriSpeech: read speech from flac folders or archives as they are distributed, or through TensorFlow Datasets."""

import numpy as np

from effjax.data.sound_files import Files, read_sound
from effjax.data.tfds_records import tfds_source
from effjax.data.utterances import Utterance
from effjax.errors import UserError

SAMPLE_RATE = 16_000
# Which folders make up a split; those that are not there are left out, but a split needs one.
PARTS = {
    "train": ("train-clean-100", "train-clean-360", "train-other-500"),
    "valid": ("dev-clean",),
    "valid_other": ("dev-other",),
    "test": ("test-clean",),
    "test_other": ("test-other",),
}
TFDS_SPLITS = {
    "train": "train_clean100+train_clean360+train_other500",
    "valid": "dev_clean",
    "valid_other": "dev_other",
    "test": "test_clean",
    "test_other": "test_other",
}


def librispeech(path: str) -> dict[str, list[Utterance]]:
    """The splits of LibriSpeech.

    Args:
      path: a folder or tar archive with folders of `PARTS`, whose chapters have a `.trans.txt`; or one with a
        `transcripts.tsv` (name, seconds, transcript) and `flac/NAME.flac`, a slice without official parts, of which
        every tenth utterance is for validation and the one behind it for testing; empty: TensorFlow Datasets.

    Raises:
      UserError: no transcripts, a transcript without a sound file, or a file that cannot be read.
    """
    if not path:
        return _from_tfds()
    files = Files(path)
    if "transcripts.tsv" in files:
        return _slice(files)
    chapters = list(files.names(".trans.txt"))
    splits = {split: [] for split in PARTS}
    for chapter in chapters:
        split = next((split for split, parts in PARTS.items() if set(parts) & set(chapter.split("/"))), None)
        if split is None:
            raise UserError(f"{files.root}: {chapter} lies in none of the parts of LibriSpeech")
        for line in files.text(chapter).splitlines():
            name, _, transcript = line.partition(" ")
            file = f"{chapter.rpartition('/')[0]}/{name}.flac"
            splits[split].append(_utterance(files, file, name, transcript))
    splits = {split: utterances for split, utterances in splits.items() if utterances}
    if missing := {"train", "valid", "test"} - set(splits):
        raise UserError(f"{files.root} holds nothing of the {', '.join(sorted(missing))} split of LibriSpeech")
    return splits


def _slice(files: Files) -> dict[str, list[Utterance]]:
    splits = {"train": [], "valid": [], "test": []}
    for number, line in enumerate(files.text("transcripts.tsv").splitlines()):
        columns = line.split("\t")
        if len(columns) != 3:
            raise UserError(f"{files.root}: line {number + 1} of transcripts.tsv has {len(columns)} columns, not 3")
        name, _, transcript = columns
        split = {8: "valid", 9: "test"}.get(number % 10, "train")
        splits[split].append(_utterance(files, f"flac/{name}.flac", name, transcript))
    return splits


def _utterance(files: Files, file: str, name: str, transcript: str) -> Utterance:
    """An utterance whose length is read from the header, the sound only when it is needed."""
    import soundfile

    try:
        with files.open(file) as opened:
            length = soundfile.info(opened).frames
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise UserError(f"{files.root}: {file} is no sound file that can be read: {error}") from error
    read = lambda: read_sound(files.read(file), f"{files.root}: {file}", SAMPLE_RATE)
    return Utterance(name, name.split("-")[0], transcript, length, read)


def _from_tfds() -> dict[str, list[Utterance]]:
    """Through TensorFlow Datasets, prepared on the first call; sound takes TensorFlow, to prepare and to read. Every
    recording is read once for its length."""
    sources = {split: tfds_source("librispeech", parts) for split, parts in TFDS_SPLITS.items()}
    return {split: [_record(source, i) for i in range(len(source))] for split, source in sources.items()}


def _record(source, index: int) -> Utterance:
    record = source[index]
    name, text = (record[key].decode() if isinstance(record[key], bytes) else record[key] for key in ("id", "text"))
    read = lambda: np.asarray(source[index]["speech"], np.float32) / 2**15
    return Utterance(name, str(record["speaker_id"]), text, len(record["speech"]), read)
