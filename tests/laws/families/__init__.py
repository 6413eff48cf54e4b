"""Every attention family as the laws see it, one file each.

A new family is a file with a `Family`, one more entry here, and not done before every law beside this package passes.
"""

from tests.laws.families.family import CHUNK, Family
from tests.laws.families.full import FULL
from tests.laws.families.local import LOCAL
from tests.laws.families.lsh import LSH

FAMILIES = (
    FULL,
    LOCAL,
    LSH,
)

__all__ = ["CHUNK", "FAMILIES", "Family"]
