"""Corpora of speech in their official forms, made here; what is wrong with a file is said with its name."""

import io
import shutil
import tarfile

import numpy as np
import pytest
import soundfile

from effjax.data.an4 import an4, read_cepstra
from effjax.data.librispeech import librispeech
from effjax.data.sound_files import Files, read_sound
from effjax.data.spoken_digits import SAMPLE, WORDS, DigitStrings, digit_recordings
from effjax.data.utterances import Units, Utterance, UtteranceExamples
from effjax.errors import UserError

UNITS = Units(" ABCDEFGHIJKLMNOPQRSTUVWXYZ")


def wav(n=800, rate=8000, channels=1, kind="WAV"):
    file = io.BytesIO()
    samples = np.random.default_rng(n).uniform(-0.5, 0.5, (n, channels))
    soundfile.write(file, samples, rate, format=kind, subtype="PCM_16")
    return file.getvalue()


def write_an4(root, *, order=">", transcript="<s> {} </s> ({})"):
    """Two speakers of training, one of the test, in the form of Sphinx."""
    rng, frames = np.random.default_rng(0), {}
    for part, speakers in (("train", [f"s{i:02}" for i in range(17)]), ("test", ["zz"])):
        names = [f"an4_clstk/{speaker}/a{k}-{speaker}-b" for speaker in speakers for k in range(2)]
        for name in names:
            frames[name] = rng.normal(size=(20, 13)).astype(np.float32)
            path = root / "an4" / "feat" / f"{name}.mfc"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(np.array([260], f"{order}i4").tobytes() + frames[name].astype(f"{order}f4").tobytes())
        etc = root / "an4" / "etc"
        etc.mkdir(exist_ok=True)
        (etc / f"an4_{part}.fileids").write_text("\n".join(names) + "\n")
        lines = [transcript.format("A B", name.split("/")[-1]) for name in names]
        (etc / f"an4_{part}.transcription").write_text("\n".join(lines) + "\n")
    return frames


@pytest.mark.parametrize("order", [">", "<"])
@pytest.mark.parametrize("form", ["folder", "archive"])
def test_an4_in_either_byte_order(tmp_path, order, form):
    frames = write_an4(tmp_path, order=order, transcript="{} ({})" if order == ">" else "<s> {} </s> ({})")
    path = tmp_path
    if form == "archive":
        path = tmp_path / "an4.tar.xz"
        with tarfile.open(path, "w:xz") as archive:
            archive.add(tmp_path / "an4", "an4")
    splits = an4(str(path), features=True)
    assert {name: len(split) for name, split in splits.items()} == {"train": 32, "valid": 2, "test": 2}
    assert {u.speaker for u in splits["valid"]} == {"s15"}
    utterance = splits["test"][1]
    assert (utterance.name, utterance.transcript, utterance.length) == ("an4_clstk/zz/a1-zz-b", "A B", 20)
    np.testing.assert_array_equal(utterance.read(), frames[utterance.name])


def test_what_is_wrong_with_an4_is_named(tmp_path):
    write_an4(tmp_path)
    file = tmp_path / "an4/feat/an4_clstk/zz/a0-zz-b.mfc"
    whole = file.read_bytes()
    file.write_bytes(whole[:-4])
    with pytest.raises(UserError, match=r"a0-zz-b\.mfc is truncated"):
        an4(str(tmp_path), features=True)
    file.unlink()
    with pytest.raises(UserError, match=r"holds no an4/feat/an4_clstk/zz/a0-zz-b\.mfc"):
        an4(str(tmp_path), features=True)
    with pytest.raises(UserError, match="not finite"):
        read_cepstra(whole[:-4] + np.array([np.nan], ">f4").tobytes(), "x")
    (tmp_path / "an4/etc/an4_test.transcription").write_text("A B (other)\nA B (a1-zz-b)\n")
    with pytest.raises(UserError, match=r"line 1 of an4_test\.transcription is none of"):
        an4(str(tmp_path), features=True)
    with pytest.raises(UserError, match="it is not AN4"):
        an4(str(tmp_path / "an4/feat"), features=True)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"no sound", "is no sound file"),
        (wav()[:700], "x.wav (is truncated|holds)"),
        (wav(kind="FLAC")[:200], "is no sound file|holds"),
        (wav(rate=16000), "x.wav has 16000 samples a second; 8000 are needed"),
        (wav(channels=2), "2 channels"),
        (wav(n=0), "holds 0 of 0 samples"),
    ],
    ids=["no sound", "cut short", "flac cut short", "rate", "channels", "empty"],
)
def test_unreadable_sound_is_named(data, words):
    with pytest.raises(UserError, match=words):
        read_sound(data, "x.wav", 8000)


def test_archives_that_are_no_archives(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "x.txt").write_bytes(np.random.default_rng(0).bytes(50_000))
    path = tmp_path / "a.tar.xz"
    with tarfile.open(path, "w:xz") as archive:
        archive.add(folder, ".")
    assert Files(str(path)).names(".txt") == ["x.txt"] and len(Files(str(path)).read("x.txt")) == 50_000
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(UserError, match="truncated, corrupt or no tar archive"):
        Files(str(path))
    with pytest.raises(UserError, match="no such file or folder"):
        Files(str(tmp_path / "b"))
    with pytest.raises(UserError, match=r"give --config\.data\.path"):
        Files("")


def write_librispeech(root, parts=("train-clean-100", "dev-clean", "test-clean", "test-other")):
    for part in parts:
        chapter = root / part / "12" / "34"
        chapter.mkdir(parents=True)
        (chapter / "12-34.trans.txt").write_text("12-34-0000 A GOOD DAY\n12-34-0001 IT'S\n")
        for i in range(2):
            (chapter / f"12-34-000{i}.flac").write_bytes(wav(800 + i, 16000, kind="FLAC"))


def test_librispeech_from_its_folders(tmp_path):
    write_librispeech(tmp_path)
    splits = librispeech(str(tmp_path))
    assert {name: len(split) for name, split in splits.items()} == dict(train=2, valid=2, test=2, test_other=2)
    utterance = splits["test_other"][1]
    assert (utterance.transcript, utterance.speaker, utterance.length) == ("IT'S", "12", 801)
    assert utterance.read().shape == (801,)
    (tmp_path / "dev-clean/12/34/12-34-0001.flac").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"dev-clean/12/34/12-34-0001\.flac is no sound file"):
        librispeech(str(tmp_path))
    shutil.rmtree(tmp_path / "dev-clean")
    with pytest.raises(UserError, match="holds nothing of the valid split"):
        librispeech(str(tmp_path))


def test_a_slice_of_librispeech(tmp_path):
    (tmp_path / "flac").mkdir()
    lines = []
    for i in range(20):
        (tmp_path / "flac" / f"1-2-{i}.flac").write_bytes(wav(500, 16000, kind="FLAC"))
        lines.append(f"1-2-{i}\t0.03\tWORD")
    (tmp_path / "transcripts.tsv").write_text("\n".join(lines))
    sizes = {name: len(split) for name, split in librispeech(str(tmp_path)).items()}
    assert sizes == {"train": 16, "valid": 2, "test": 2}
    (tmp_path / "transcripts.tsv").write_text("1-2-0\tWORD")
    with pytest.raises(UserError, match=r"line 1 of transcripts\.tsv has 2 columns"):
        librispeech(str(tmp_path))


def utterance(name, transcript, length=10, speaker="s"):
    return Utterance(name, speaker, transcript, length, lambda: np.full((length, 2), length, np.float32))


def test_rows_are_filled_with_utterances_of_the_same_speaker():
    everything = [utterance("a", "AB", 10), utterance("b", "C", 20), utterance("c", "D", 20, speaker="t")]
    examples = UtteranceExamples(everything, UNITS, length=64, labels=12, fill=True)
    plain = examples.batch(np.array([0, 1]), None)
    assert plain["input_lengths"].tolist() == [10, 20] and plain["labels"][0, :3].tolist() == [2, 3, 0]
    batch = examples.batch(np.array([0, 2]), np.random.default_rng(0))
    assert set(np.unique(batch["inputs"][0])) <= {0, 10, 20} and batch["input_lengths"][0] > 40
    texts = [UNITS.decode(ids[:n]) for ids, n in zip(batch["labels"], batch["label_lengths"])]
    assert set(texts[0].split()) <= {"AB", "C"} and set(texts[1].split()) == {"D"}
    lengths = {"AB": 10, "C": 20, "D": 20}
    for text, length in zip(texts, batch["input_lengths"]):
        assert sum(lengths[word] for word in text.split()) == length


@pytest.mark.parametrize(
    ("transcript", "words"),
    [("", "u7: the transcript is empty"), ("  ", "u7: the transcript is empty"), ("A b", "u7: 'b' in the transcript")],
)
def test_bad_transcripts_are_named(transcript, words):
    with pytest.raises(UserError, match=words):
        UtteranceExamples([utterance("u7", transcript)], UNITS, length=64, labels=9)


def test_long_utterances_are_reported_in_training_and_refused_in_scoring(capsys):
    both = [utterance("short", "A"), utterance("long", "A", 65)]
    assert len(UtteranceExamples(both, UNITS, length=64, labels=9, drop_longer=True)) == 1
    assert "1 of 2 utterances are longer than config.options.length=64" in capsys.readouterr().out
    with pytest.raises(UserError, match="long: 65 samples or frames"):
        UtteranceExamples(both, UNITS, length=64, labels=9)
    lying = Utterance("u", "s", "A", 12, lambda: np.zeros((9, 2), np.float32))
    with pytest.raises(UserError, match="u holds 9 samples or frames, 12 were announced"):
        UtteranceExamples([lying], UNITS, length=64, labels=9).batch(np.array([0]), None)


def test_units():
    words = Units(WORDS)
    assert words.decode(words.encode("two two nine", "x")) == "two two nine" and words.size == 11
    assert UNITS.decode(UNITS.encode("A  BC", "x")) == "A BC"
    with pytest.raises(UserError, match="different symbols"):
        Units("AA")


def test_strings_of_digits_are_the_recordings_one_after_another():
    recordings = digit_recordings("")
    assert {split: list(speakers) for split, speakers in recordings.items()} == {
        "train": ["theo", "yweweler"],
        "valid": ["nicolas"],
        "test": ["yweweler"],
    }
    examples = DigitStrings(recordings["test"], digits=(2, 3), length=8000, labels=4, count=5, seed=1)
    batch, again = (examples.batch(np.array([3, 4]), None) for _ in range(2))
    assert all((batch[name] == again[name]).all() for name in batch)
    [take] = recordings["test"]["yweweler"][6]
    for row, count in enumerate(batch["label_lengths"]):
        assert count in (2, 3) and batch["labels"][row].tolist() == [7] * count + [0] * (4 - count)
        sound = batch["inputs"][row]
        np.testing.assert_array_equal(sound[: len(take)], take)
        end = batch["input_lengths"][row]
        np.testing.assert_array_equal(sound[end - len(take) : end], take)
        pause = (end - count * len(take)) / (count - 1) / 8000
        assert 0.05 <= pause <= 0.2
    other = examples.batch(np.array([3]), np.random.default_rng(0))
    assert (other["inputs"][0] != batch["inputs"][0]).any()


def test_digits_that_do_not_fit_or_are_not_there(tmp_path):
    recordings = digit_recordings("")["test"]
    with pytest.raises(UserError, match=r"config.options.digits=\(3, 9\)"):
        DigitStrings(recordings, digits=(3, 9), length=8000, labels=4, count=5, seed=1)
    with pytest.raises(UserError, match=r"at least .* samples, the longest recording"):
        DigitStrings(recordings, digits=(1, 2), length=80, labels=4, count=5, seed=1)
    for name in ("6_nicolas_7.wav", "6_yweweler_3.wav"):
        shutil.copy(SAMPLE / name, tmp_path / name)
    with pytest.raises(UserError, match="no recordings for the train split"):
        digit_recordings(str(tmp_path))
    shutil.copy(SAMPLE / "6_nicolas_7.wav", tmp_path / "six.wav")
    with pytest.raises(UserError, match=r"six\.wav is not named"):
        digit_recordings(str(tmp_path))
