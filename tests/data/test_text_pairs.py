"""Pairs of texts: aligned files, talks, prepared records, byte pairs, rows of pairs, and what is wrong with them."""

import gzip
import importlib
import io
import itertools
import sys
import tarfile

import numpy as np
import pytest

from effjax.data.bpe import BEGIN, END, BytePairs
from effjax.data.pair_batches import PairExamples
from effjax.data.phrases import SIZES
from effjax.data.text_pairs import TextPairs, load_text_pairs
from effjax.errors import UserError

GERMAN = ["Ein Hund läuft.", "Zwei Männer warten.", "Eine Frau liest.", "Ein Kind schläft."]
ENGLISH = ["A dog runs.", "Two men wait.", "A woman reads.", "A child sleeps."]


def multi30k_files(**changes):
    files = {}
    for stem in ("train", "val", "test_2016_flickr", "test_2018_flickr"):
        files[f"data/task1/raw/{stem}.de.gz"] = gzip.compress(("\n".join(GERMAN) + "\n").encode())
        files[f"data/task1/raw/{stem}.en.gz"] = gzip.compress(("\n".join(ENGLISH) + "\n").encode())
        files[f"data/task1/tok/{stem}.lc.norm.tok.de"] = b"not these\n"
    return {name: data for name, data in (files | changes).items() if data is not None}


def write_archive(path, files, mode="w:xz"):
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def test_multi30k_is_read_from_its_archive_or_folder(tmp_path):
    archive = write_archive(tmp_path / "task1.tar.xz", multi30k_files())
    for name, data in multi30k_files().items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(data)
    for path in (archive, tmp_path / "folder"):
        splits = load_text_pairs("multi30k", path=str(path), source="de", target="en")
        assert tuple(splits) == ("train", "valid", "test", "test_2018")
        assert list(zip(splits["test"].source, splits["test"].target)) == list(zip(GERMAN, ENGLISH))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data/task1/raw/val.en.gz": None}, r"there is no file val\.en"),
        ({"data/task1/raw/test_2018_flickr.de.gz": None}, r"there is no file test_2018_flickr\.de"),
        ({"data/task1/raw/train.de.gz": gzip.compress(b"one\ntwo\n")}, r"train\.de and train\.en: 2 sources and 4"),
        ({"data/task1/raw/train.de.gz": gzip.compress(b"x" * 99)[:-9]}, r"train\.de\.gz is truncated or corrupt"),
        ({"data/task1/raw/train.de.gz": gzip.compress(b"a\nb\n\xff\nd\n")}, r"line 3 of train\.de is no UTF-8"),
    ],
)
def test_what_is_wrong_with_files_is_named(tmp_path, change, message):
    path = write_archive(tmp_path / "task1.tar.xz", multi30k_files(**change))
    with pytest.raises(UserError, match=message):
        load_text_pairs("multi30k", path=str(path), source="de", target="en")["train"]


def test_archives_that_are_missing_or_cut_short_are_named(tmp_path):
    path = write_archive(tmp_path / "task1.tar.xz", multi30k_files())
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"task1\.tar\.xz is truncated or corrupt"):
        load_text_pairs("multi30k", path=str(path), source="de", target="en")
    with pytest.raises(UserError, match=r"nowhere\.tar: there is no such archive"):
        load_text_pairs("multi30k", path=str(tmp_path / "nowhere.tar"), source="de", target="en")
    with pytest.raises(UserError, match=r"multi30k is read from an archive or a folder: give --config\.data\.path="):
        load_text_pairs("multi30k", source="de", target="en")
    with pytest.raises(UserError, match=r"the nearest is 'multi30k'"):
        load_text_pairs("multi30", source="de", target="en")


def test_iwslt14_is_divided_as_in_the_usual_recipe(tmp_path, capsys):
    lines = {
        "de": [
            "<url>http://x</url>",
            "<title>Ein Titel hier</title>",
            "zu lang " * 40,
            *(f"Satz Nummer {i}" for i in range(45)),
        ],
        "en": [
            "<url>http://x</url>",
            "<title>A title here</title>",
            "too short",
            *(f"sentence number {i}" for i in range(45)),
        ],
    }
    files = {f"de-en/train.tags.de-en.{language}": "\n".join(text).encode() for language, text in lines.items()}
    for test, language in itertools.product(
        ("TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012"), ("de", "en")
    ):
        text = f'<mteval><doc docid="1"><title>x</title><seg id="1"> {test} {language} &amp; </seg></doc></mteval>'
        files[f"de-en/IWSLT14.{test}.de-en.{language}.xml"] = text.encode()
    path = write_archive(tmp_path / "de-en.tgz", files, "w:gz")
    splits = load_text_pairs("iwslt14", path=str(path), source="en", target="de")
    assert (len(splits["train"]), len(splits["valid"]), len(splits["test"])) == (44, 2, 5)
    assert splits["valid"].source[0] == "A title here" and splits["valid"].target[1] == "Satz Nummer 22"
    assert splits["test"].source[1] == "TEDX.dev2012 en &"
    assert "46 of 48 lines are pairs that the recipe keeps" in capsys.readouterr().err
    files["de-en/IWSLT14.TED.tst2011.de-en.de.xml"] = b"<mteval><doc>"
    path = write_archive(tmp_path / "de-en.tgz", files, "w:gz")
    with pytest.raises(UserError, match=r"IWSLT14\.TED\.tst2011\.de-en\.de\.xml is truncated or corrupt"):
        load_text_pairs("iwslt14", path=str(path), source="en", target="de")["test"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "folder", "fields"),
    [
        ("wmt14", "wmt14_translate/fr-en", ("en", "fr")),
        ("arxiv", "scientific_papers/arxiv", ("article", "abstract")),
        ("cnn_dailymail", "cnn_dailymail", ("article", "highlights")),
    ],
)
def test_prepared_records_are_read_by_their_name(tmp_path, monkeypatch, name, folder, fields):
    """Tiny records of the builders of TensorFlow Datasets, whose sources are replaced."""
    import tensorflow_datasets as tfds

    from effjax.data import tfds_pairs

    known, module, _ = tfds_pairs.BUILDERS[name]
    importlib.import_module(module)
    builder = tfds.builder(known.format(pair="fr-en"), data_dir=tmp_path, file_format="array_record")
    assert set(fields) <= set(builder.info.features) and str(builder.data_path).startswith(f"{tmp_path}/{folder}/")

    def splits(self, _):
        records = [{field: f"{field} {i}" for field in self.info.features} for i in range(3)]
        return {split: iter(enumerate(records)) for split in ("train", "validation", "test")}

    with monkeypatch.context() as patch:
        patch.setattr(type(builder), "_split_generators", splits)
        builder.download_and_prepare()
    pairs = load_text_pairs(name, path=str(tmp_path), source="en", target="fr")["valid"]
    assert sorted(zip(pairs.source, pairs.target)) == [tuple(f"{field} {i}" for field in fields) for i in range(3)]
    assert "tensorflow" not in sys.modules


def test_wmt14_languages_and_missing_data_are_named(tmp_path):
    with pytest.raises(UserError, match="wmt14 has no pair en-it"):
        load_text_pairs("wmt14", path=str(tmp_path), source="en", target="it")


def pairs_of(source, target):
    return TextPairs(source, target, "somewhere")


def test_byte_pairs_write_any_text_and_come_back_from_their_file(tmp_path):
    vocabulary = BytePairs.learn(GERMAN + ENGLISH, 300)
    (tmp_path / "byte_pairs.json").write_text(vocabulary.to_text())
    again = BytePairs.load(tmp_path / "byte_pairs.json")
    for text in ("Ein Hund schläft.", "汉字 — \u00a0😀", "two\nlines"):
        (ids,) = again.encode([text])
        assert ids.tolist() == next(vocabulary.encode([text])).tolist()
        assert again.decode([BEGIN, *ids, END, END]) == text
    assert len(next(vocabulary.encode(["Ein Hund läuft."]))) < len("Ein Hund läuft.".encode())
    (tmp_path / "byte_pairs.json").write_text(vocabulary.to_text()[:99])
    with pytest.raises(UserError, match=r"byte_pairs\.json is damaged"):
        BytePairs.load(tmp_path / "byte_pairs.json")
    small = BytePairs.learn(GERMAN, 300, lowercase=True)
    assert small.decode(next(small.encode(["EIN Hund"]))) == "ein hund"


def test_rows_hold_every_pair_once_and_nothing_else():
    vocabulary = BytePairs.learn(GERMAN + ENGLISH, 300)
    pairs = pairs_of(GERMAN * 5, ENGLISH * 5)
    examples = PairExamples(pairs, vocabulary, source_length=40, target_length=30, pack=True)
    assert len(examples) < 20
    batch = examples.batch(np.arange(len(examples)))
    found = []
    for row in range(len(examples)):
        for segment in range(1, batch["source_segments"][row].max() + 1):
            source, target = (batch[f"{side}_segments"][row] == segment for side in ("source", "target"))
            ids = batch["inputs"][row, source], batch["targets"][row, target], batch["previous"][row, target]
            assert ids[0][-1] == ids[1][-1] == END and ids[2][0] == BEGIN
            np.testing.assert_array_equal(ids[2][1:], ids[1][:-1])
            np.testing.assert_array_equal(batch["source_positions"][row, source], np.arange(source.sum()))
            np.testing.assert_array_equal(batch["target_positions"][row, target], np.arange(target.sum()))
            found.append(tuple(vocabulary.decode(x) for x in ids[:2]))
        assert not np.any(batch["inputs"][row, batch["source_segments"][row] == 0])
    assert sorted(found) == sorted(zip(pairs.source, pairs.target))


def test_empty_and_long_texts_are_counted_or_named(capsys):
    vocabulary = BytePairs.learn(GERMAN + ENGLISH, 300)
    pairs = pairs_of([*GERMAN, "  ", "Hund " * 30], [*ENGLISH, "Nothing.", "Dogs."])
    lengths = dict(source_length=24, target_length=24)
    examples = PairExamples(pairs, vocabulary, **lengths)
    assert examples.numbers.tolist() == [0, 1, 2, 3]
    said = capsys.readouterr().err
    assert "somewhere: 1 of 6 pairs left out, for their source is empty (the first is record 5)" in said
    assert "1 of 6 pairs left out, for their source has more than 23 tokens (the first is record 6)" in said
    with pytest.raises(UserError, match="somewhere: the source of record 5 is empty"):
        PairExamples(pairs, vocabulary, strict=True, **lengths)
    pairs = pairs_of(pairs.source[5:], pairs.target[5:])
    with pytest.raises(UserError, match="none of the 1 pairs can be used"):
        PairExamples(pairs, vocabulary, **lengths)
    shortened = PairExamples(pairs, vocabulary, truncate=True, **lengths).batch(np.array([0]))
    assert shortened["inputs"][0, -1] == END and np.all(shortened["inputs"] != 0)
    with pytest.raises(UserError, match="3 sources and 2 targets"):
        pairs_of(GERMAN[:3], ENGLISH[:2])


def test_toy_sentences_are_the_same_every_time():
    splits = load_text_pairs("phrases", source="de", target="en")
    back = load_text_pairs("phrases", source="en", target="de")
    assert {split: len(splits[split]) for split in splits} == SIZES
    assert splits["test"].source == back["test"].target and splits["test"].source[0] != splits["valid"].source[0]
    document, summary = (getattr(load_text_pairs("digests")["test"], side)[0] for side in ("source", "target"))
    assert all(f"Note : {line}" in document for line in summary.split("\n"))
    with pytest.raises(UserError, match="digests ships with effjax and takes no path; for somewhere give"):
        load_text_pairs("digests", path="somewhere")
    with pytest.raises(UserError, match="phrases are in de and en"):
        load_text_pairs("phrases", source="de", target="fr")["train"]


def test_titles_of_articles_are_pairs_in_two_languages():
    splits = load_text_pairs("wikipedia_titles", source="de", target="en")
    pairs = {split: list(zip(splits[split].source, splits[split].target)) for split in splits}
    assert ("Arktischer Ozean", "Arctic Ocean") in pairs["test"] and ("Agrarwissenschaft", "Agricultural science") in (
        pairs["train"]
    )
    assert sum(map(len, pairs.values())) == 90 and not any("(" in title for pair in pairs["train"] for title in pair)
    back = load_text_pairs("wikipedia_titles", source="en", target="de")
    assert list(zip(back["test"].target, back["test"].source)) == pairs["test"]
    with pytest.raises(UserError, match="no article has a title in 'xx'; af, "):
        load_text_pairs("wikipedia_titles", source="xx", target="en")["train"]
    with pytest.raises(UserError, match="no article of the valid split has a title both in 'kw' and in 'ps'"):
        load_text_pairs("wikipedia_titles", source="kw", target="ps")["valid"]


def test_leads_of_articles_are_their_summaries():
    splits = load_text_pairs("wikipedia_leads")
    documents, summaries = splits["train"].source, splits["train"].target
    found = summaries.index("Albedo is the measure of reflectivity of a surface or body.")
    assert documents[found].startswith("Human activities have changed the albedo (via forest clearance")
    assert all(summary not in document for summary, document in zip(summaries, documents))
