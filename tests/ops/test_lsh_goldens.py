"""LSH attention against the two public implementations.

Both keep a logit of -1e5 or -5e4 in float32 for a position that finds only itself; there their weights are off by up to
0.4 %, so those positions are compared at 1e-2 and the others at 1e-5.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax.ops.lsh import lsh_attention
from tests.goldens.load import distance, load
from tests.ops.lsh_oracle import count_meetings, pairs_open

LUCID = {
    "one_hash": dict(causal=False),
    "two_hash": dict(causal=False),
    "two_hash_causal": dict(),
    "no_duplicates": dict(correct_duplicates="lucid"),
    "within_buckets": dict(same_bucket=True),
}
HUGGING_FACE = {
    "one_hash": dict(causal=False, n_buckets=8),
    "two_hash": dict(causal=False, n_buckets=8),
    "two_hash_causal": dict(n_buckets=8),
    "factored": dict(n_buckets=(4, 4)),
    "two_hash_padded": dict(causal=False, n_buckets=8),
}


def only_itself(buckets, *, causal=True, same_bucket=False, **_):
    """bool [B,T,N]: positions that find nothing but themselves."""
    seen = count_meetings(np.asarray(buckets), 8, same_bucket=same_bucket) * pairs_open(64, causal=causal)
    return ((seen > 0).sum(-1) == 1).transpose(0, 2, 1)


def assert_equal(ours, theirs, loose):
    """loose: bool over the leading axes, where 1e-2 is all that the other side's rounding allows."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    largest = np.abs(theirs).max()
    assert np.abs(ours - theirs)[~loose].max() <= 1e-5 * largest
    assert distance(ours, theirs)[1] <= 1e-2


@pytest.mark.parametrize("variant", LUCID)
def test_reformer_pytorch(variant):
    golden = load("lucid_lsh_attention")
    as_heads = lambda x: jnp.asarray(x)[None].swapaxes(1, 2)  # its rows are batch times heads
    qk, v = (as_heads(golden["inputs"][name]) for name in ("qk", "v"))
    rotations = jnp.repeat(golden["inputs"]["rotations"][variant], 4, axis=0)
    options = dict(chunk_size=8, scaling="unit_keys_scaled", self_penalty=5e4)
    attend = partial(lsh_attention, rotations=rotations, **options, **LUCID[variant])
    out, pull, buckets = jax.jit(lambda qk, v: jax.vjp(attend, qk, v, has_aux=True))(qk, v)
    grad_qk, grad_v = pull(as_heads(golden["inputs"]["cotangent"][variant]))

    theirs, grads = golden["outputs"][variant], golden["grads"][variant]
    offsets = 8 * np.arange(buckets.shape[-1])  # it numbers the rounds' buckets through
    np.testing.assert_array_equal((buckets + offsets)[0].transpose(1, 2, 0).reshape(4, -1), theirs["buckets"])
    loose = only_itself(buckets, **LUCID[variant])
    assert_equal(out, as_heads(theirs["out"]), loose)
    assert_equal(grad_qk, as_heads(grads["qk"]), np.zeros_like(loose))
    assert_equal(grad_v, as_heads(grads["v"]), loose)


@pytest.mark.parametrize("variant", HUGGING_FACE)
def test_hugging_face(variant):
    """With its projections, since its gradients are those of hidden states and weights."""
    golden = load("hf_reformer_lsh_attention")
    inputs, options = golden["inputs"], dict(HUGGING_FACE[variant])
    x, query_key, value = inputs["x"], golden["weights"]["query_key.weight"], golden["weights"]["value.weight"]
    rotations = jnp.asarray(inputs["rotations"][variant])
    if variant == "two_hash_padded":
        options["padding_mask"] = jnp.asarray(inputs["keep"][variant], bool)

    def attend(x, query_key, value):
        qk, v = ((x @ kernel.T).reshape(2, 64, 2, 16) for kernel in (query_key, value))
        out, buckets = lsh_attention(qk, v, rotations=rotations, chunk_size=8, **options)
        return out.reshape(2, 64, 32), buckets

    out, pull, buckets = jax.jit(lambda *args: jax.vjp(attend, *args, has_aux=True))(x, query_key, value)
    grads = pull(inputs["cotangent"][variant])

    theirs = golden["outputs"][variant]
    per_round = theirs["buckets"].max() + 1 if theirs["buckets"].shape[2] == 1 else theirs["buckets"][:, :, 1].min()
    np.testing.assert_array_equal(buckets.transpose(0, 2, 3, 1), theirs["buckets"] % per_round)
    loose = only_itself(buckets, **options)
    assert_equal(out.reshape(2, 64, 2, 16), theirs["out"].reshape(2, 64, 2, 16), loose)
    # The value's gradients, and through it those of x, sum over the loose positions too.
    grad_x, grad_query_key, grad_value = grads
    weight_grads = golden["weight_grads"][variant]
    bound = 1e-2 if loose.any() else 1e-5
    assert distance(grad_x, golden["grads"][variant]["x"])[1] <= bound
    assert distance(grad_query_key, weight_grads["query_key.weight"])[1] <= 1e-5
    assert distance(grad_value, weight_grads["value.weight"])[1] <= bound
