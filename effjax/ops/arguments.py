"""Checks of arguments that the attentions have in common: each names the argument, its value and what is allowed."""

from jaxtyping import Array, Int, Key


def check_dropout(dropout_rate: float, dropout_key: Key[Array, ""] | None) -> None:
    """Raises ValueError for a rate outside [0, 1), or a positive one without a key."""
    if not 0 <= dropout_rate < 1:
        raise ValueError(f"dropout_rate is {dropout_rate}: it must lie in [0, 1)")
    if dropout_rate > 0 and dropout_key is None:
        raise ValueError(f"dropout_rate is {dropout_rate} and dropout_key is None: dropout needs a key")


def check_implementation(implementation: str | None, allowed: tuple[str, ...]) -> None:
    """Raises ValueError for an implementation that the op does not have."""
    if implementation not in (None, *allowed):
        raise ValueError(f"implementation is {implementation!r}: it must be None or one of {allowed}")


def check_groups(heads: int, groups: int) -> None:
    """Raises ValueError where keys have a number of heads that does not divide that of the queries."""
    if heads % groups:
        raise ValueError(f"q has {heads} heads and k {groups}: the heads of k must divide those of q")


def segments_of_keys(
    segment_ids: Int[Array, "B T"] | None, key_segment_ids: Int[Array, "B S"] | None, length: int, keys: int
) -> Int[Array, "B S"] | None:
    """The documents of the keys: those given, or else those of the queries.

    Raises:
      ValueError: documents of the keys without those of the queries, or none of the keys where these are not the
        queries' own.
    """
    if key_segment_ids is not None and segment_ids is None:
        raise ValueError("key_segment_ids is given without segment_ids: give both or neither")
    if segment_ids is not None and key_segment_ids is None:
        if length != keys:
            raise ValueError(f"key_segment_ids is None with {length} queries and {keys} keys: give it")
        return segment_ids
    return key_segment_ids
