"""All pictures of a model, mixer by mixer."""

from collections.abc import Iterator

from effjax.pictures.buckets import draw_buckets
from effjax.pictures.features import draw_errors
from effjax.pictures.figure import Picture
from effjax.pictures.panels import draw_rules
from effjax.pictures.spans import draw_spans
from effjax.pictures.subject import Subject

DRAWERS = (draw_rules, draw_buckets, draw_spans, draw_errors)


def gallery(subject: Subject) -> Iterator[Picture]:
    """Every picture that there is of the mixers in a model's pattern; a remark for a mixer that has none."""
    for name in dict.fromkeys(subject.names):
        pictures = [picture for draw in DRAWERS for picture in draw(subject, name)]
        yield from pictures or [Picture(name, None, f"{name}: there is no picture of this mixer")]
