"""LogSparse attention whose queries and keys come from a causal convolution."""

import numpy as np

from effjax.layers.sparse import LogSparseAttention
from effjax.ops.patterns import LogSparse
from tests.laws.families.family import Family
from tests.laws.families.sparse_transformer import attend, look
from tests.laws.measure import relative_rms

LOCAL, RESTART, TAPS = 3, 14, 3
DISTANCES = {0, 1, 2, 2 + 1, 2 + 2, 2 + 4, 2 + 8}


def convolved_past(layer, params, x, state):
    """A cache of keys that are convolutions of the past, and the inputs that the next ones still see."""
    key = params["params"]["key"]
    padded = np.pad(np.asarray(x, np.float64), ((0, 0), (TAPS - 1, 0), (0, 0)))
    length = x.shape[1]
    expected = sum(
        np.einsum("btd,dnh->btnh", padded[:, j : j + length], np.asarray(key["kernel"][j])) for j in range(TAPS)
    )
    assert int(state.index) == length
    assert relative_rms(state.key[:, :length], expected + np.asarray(key["bias"])) <= 1e-6
    np.testing.assert_array_equal(state.tail.values, x[:, 1 - TAPS :])


LOG_SPARSE = Family(
    name="log_sparse",
    sequences=("v", "q", "k"),
    op=attend(LogSparse(local=LOCAL, restart=RESTART)),
    oracle=look(lambda i, j, head: i >= j and (i - j) % RESTART in DISTANCES),
    layer=lambda **kwargs: LogSparseAttention(**dict(local=LOCAL, restart=RESTART, qk_kernel=TAPS) | kwargs),
    both_sides=False,
    streaming=dict(rotary=True),
    check_state=convolved_past,
    growth="n_log_n",
    batched_memory="n_sqrt_n",  # a key far away brings its whole block, and blocks are few at these lengths
    sized=lambda length: dict(local=1, restart=0),
)
