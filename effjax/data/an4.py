"""AN4, the census database of Carnegie Mellon: 948 and 130 utterances of letters, digits and short commands."""

import re

import numpy as np

from effjax.data.sound_files import Files, read_sound
from effjax.data.utterances import Utterance
from effjax.errors import UserError

SAMPLE_RATE = 16_000
COEFFICIENTS = 13  # of Sphinx's cepstra
VALID_SPEAKERS = 16  # every 16th speaker of the training part is held out for validation; there is no official part


def an4(path: str, *, features: bool) -> dict[str, list[Utterance]]:
    """The splits of AN4 as it is distributed: lists of files and transcripts in `etc`, sound in `wav` or cepstra in
    `feat`.

    Args:
      path: the folder or tar archive, such as an4_sphere.tar.gz.
      features: read Sphinx's cepstra instead of sound.

    Raises:
      UserError: a missing or damaged file or a line that is no transcript, by name.
    """
    files = Files(path)
    root = next((name[: -len("etc/an4_train.fileids")] for name in files.names("etc/an4_train.fileids")), None)
    if root is None:
        raise UserError(f"{path} holds no etc/an4_train.fileids: it is not AN4")
    official = {part: _part(files, root, part, features) for part in ("train", "test")}
    speakers = sorted({utterance.speaker for utterance in official["train"]})
    held_out = set(speakers[VALID_SPEAKERS - 1 :: VALID_SPEAKERS])
    return {
        "train": [utterance for utterance in official["train"] if utterance.speaker not in held_out],
        "valid": [utterance for utterance in official["train"] if utterance.speaker in held_out],
        "test": official["test"],
    }


def _part(files: Files, root: str, part: str, features: bool) -> list[Utterance]:
    names = files.text(f"{root}etc/an4_{part}.fileids").split()
    lines = files.text(f"{root}etc/an4_{part}.transcription").splitlines()
    if len(names) != len(lines):
        raise UserError(f"{files.root}: {len(names)} files and {len(lines)} transcripts in an4_{part}")
    utterances = []
    for number, (name, line) in enumerate(zip(names, lines), 1):
        match = re.fullmatch(r"(?:<s> )?(.*?)(?: </s>)? \((.+)\)", line)
        if not match or match[2] != name.rsplit("/", 1)[-1]:
            raise UserError(f"{files.root}: line {number} of an4_{part}.transcription is none of {name}: {line!r}")
        if features:
            file = f"{root}feat/{name}.mfc"
            cepstra = read_cepstra(files.read(file), f"{files.root}: {file}")
        else:
            file = f"{root}wav/{name}.sph"
            cepstra = read_sound(files.read(file), f"{files.root}: {file}", SAMPLE_RATE)
        speaker = name.split("/")[-2]
        utterances.append(Utterance(name, speaker, match[1], len(cepstra), lambda cepstra=cepstra: cepstra))
    return utterances


def read_cepstra(data: bytes, name: str, coefficients: int = COEFFICIENTS) -> np.ndarray:
    """The frames `[T, 13]` of a Sphinx feature file: a count of numbers, int32, then as many of float32.

    The byte order is the one in which the count fits the file.

    Raises:
      UserError: a file that is truncated or fits in neither order.
    """
    for order in (">", "<"):
        count = int(np.frombuffer(data[:4], f"{order}i4")[0]) if len(data) >= 4 else -1
        if count > 0 and 4 + 4 * count == len(data) and count % coefficients == 0:
            frames = np.frombuffer(data, f"{order}f4", offset=4).astype(np.float32).reshape(-1, coefficients)
            if not np.isfinite(frames).all():
                raise UserError(f"{name} holds numbers that are not finite")
            return frames
    raise UserError(f"{name} is truncated or no file of {coefficients} cepstra: its count fits in no byte order")
