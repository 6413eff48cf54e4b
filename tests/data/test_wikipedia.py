"""Articles of the sample in the package: plain text of their markup, people among them, paragraphs in pairs."""

import pytest

from effjax.data import wikipedia_passages
from effjax.data.labelled_sources import get_source
from effjax.data.wikipedia import plain_text, read_articles
from effjax.data.wikipedia_people import is_person
from effjax.errors import UserError
from effjax.training.config import load_config


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("The '''Aa''' is a [[river]] in [[France|the north]].", "The Aa is a river in the north."),
        ("{{box|{{inner}} of}}Here{| a table {| in one |} |}.", "Here."),
        ("[[Image:a.png|thumb|A [[cat]]]]Cat<ref name=x>Where</ref><br/>s<!-- no -->", "Cats"),
        ("At [http://a.example/b its page] or [http://a.example].[[de:Seite]][[Category:Pages]]", "At its page or ."),
        ("5&nbsp;km & more", "5\xa0km & more"),
    ],
)
def test_markup_becomes_what_a_reader_sees(markup, text):
    assert plain_text(markup) == text


def test_every_article_is_in_one_split():
    articles = read_articles()
    names = [article.names["en"] for split in articles.values() for article in split]
    assert len(names) == 120 and {split: len(found) for split, found in articles.items()} == {
        "train": 90,
        "valid": 15,
        "test": 15,
    }
    lincoln = next(article for article in articles["test"] if article.names["en"] == "Abraham Lincoln")
    assert lincoln.names["de"] == "Abraham Lincoln" and "1809 births" in lincoln.categories
    assert lincoln.paragraphs[0].startswith("Abraham Lincoln (February 12, 1809")
    marked = [p for split in articles.values() for a in split for p in a.paragraphs if "[[" in p or "''" in p]
    assert not marked


def test_people_are_those_who_were_born():
    people = {split: [a.names["en"] for a in found if is_person(a)] for split, found in read_articles().items()}
    assert people["valid"] == ["Ang Lee", "Albert Sidney Johnston"] and people["test"] == [
        "Abraham Lincoln",
        "Ayn Rand",
    ]
    assert "Aristotle" in people["train"] and "Apollo" not in people["train"]


def test_half_the_pairs_of_paragraphs_follow_one_another():
    config = load_config("configs/lra_retrieval.py:tiny")
    splits = get_source("wikipedia_passages").load(config)
    again = wikipedia_passages.load(config)
    for split, found in splits.items():
        assert found.labels.mean() == 0.5 and (found.documents[1].ids == again[split].documents[1].ids).all()
    texts = {
        paragraph.encode()[: config.data.length]: article.names["en"]
        for article in read_articles()["test"]
        for paragraph in article.paragraphs
    }
    test = splits["test"]
    for i, label in enumerate(test.labels):
        one, other = (
            part.ids[part.starts[i] : part.starts[i + 1]].astype("uint8").tobytes() for part in test.documents
        )
        assert (texts[one] == texts[other]) == bool(label)


def test_a_path_is_refused():
    config = load_config("configs/lra_text.py:tiny").unlock()
    config.data.path = "aclImdb"
    with pytest.raises(UserError, match="wikipedia_people ships with effjax and takes no path; for aclImdb give"):
        get_source("wikipedia_people").load(config)
