import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax.ops.linformer import linformer_attention, project_length
from tests.goldens.load import distance, load
from tests.ops.attention_oracle import assert_close, dense_attention, random_arrays, value_and_grads

LENGTH, PROJECTED, HEADS = 12, 4, 2
SEES_ALL = np.ones((1, 1, 1, 1), bool)
linformer = jax.jit(
    lambda q, k, v, e, f, mask=None: linformer_attention(q, k, v, proj_k=e, proj_v=f, padding_mask=mask)
)


def arrays(dtype=np.float64, projected=PROJECTED):
    return random_arrays(*[(2, LENGTH, HEADS, 4)] * 3, *[(projected, LENGTH)] * 2, dtype=dtype)


def test_identity_projections_are_full_attention():
    """Invariant 1."""
    q, k, v, *_ = arrays(np.float32)
    identity = jnp.eye(LENGTH)
    assert_close([linformer(q, k, v, identity, identity)], [dense_attention(q, k, v, SEES_ALL)], 1e-6)


def test_means_of_blocks_are_attention_to_pooled_keys():
    """Invariant 2."""
    q, k, v, *_ = arrays(np.float32)
    pool = jnp.kron(jnp.eye(PROJECTED), jnp.ones((1, LENGTH // PROJECTED))) * PROJECTED / LENGTH
    k_pooled, v_pooled = (x.reshape(2, PROJECTED, -1, HEADS, 4).mean(2) for x in (k, v))
    expected = dense_attention(q, k_pooled, v_pooled, SEES_ALL)
    assert_close([linformer(q, k, v, pool, pool)], [expected], 1e-6)


def test_outputs_lie_within_the_projected_values():
    """Invariant 3: weights of a row sum to 1."""
    q, k, v, e, f = arrays(np.float32)
    values = project_length(v, f)
    out = linformer(5 * q, k, v, e, f)
    assert ((out >= values.min(1, keepdims=True) - 1e-5) & (out <= values.max(1, keepdims=True) + 1e-5)).all()


def test_projections_of_length_and_of_channels_commute_but_for_the_bias():
    """Invariant 4: E (X W + 1 b^T) - (E X) W = (E 1) b^T, against 1 b^T where the bias follows."""
    with jax.enable_x64(True):
        x, w, bias, e = random_arrays((1, LENGTH, 1, 4), (4, 4), (4,), (PROJECTED, LENGTH))
        before = project_length(x @ w + bias, e)
        after = project_length(x, e) @ w + bias
        assert_close([before - after], [((e.sum(1) - 1)[:, None] * bias)[None, :, None]], 1e-12)


def test_a_permutation_of_tokens_and_columns_permutes_the_output():
    """Invariant 6."""
    q, k, v, e, f = arrays(np.float32)
    order = np.random.default_rng(1).permutation(LENGTH)
    out = linformer(q[:, order], k[:, order], v[:, order], e[:, order], f[:, order])
    assert_close([out], [linformer(q, k, v, e, f)[:, order]], 1e-5)


def test_padding_changes_nothing():
    """Invariant 7: neither what stands there nor how much of it there is."""
    q, k, v, e, f = arrays(np.float32)
    short = 7
    mask = jnp.broadcast_to(jnp.arange(LENGTH) < short, (2, LENGTH))
    padded = linformer(q, k, v, e, f, mask)
    dirty = [x.at[:, short:].set(1e3) for x in (k, v)]
    assert np.array_equal(linformer(q, *dirty, e, f, mask), padded)
    assert_close([linformer(q[:, :short], k[:, :short], v[:, :short], e, f)], [padded[:, :short]], 1e-5)
    assert (
        np.abs(linformer(q, *dirty, e, f) - linformer(q, k, v, e, f)).max() > 1
    )  # the original: no mask, no such luck


def test_every_output_depends_on_later_positions():
    """Invariant 8: not causal by construction, and no option makes it so."""
    q, k, v, e, f = arrays(np.float32)
    gradient = jax.jit(jax.grad(lambda v: linformer(q, k, v, e, f)[:, 0].sum()))(v)
    assert (np.abs(gradient[:, 1:]) > 0).all()
    with pytest.raises(ValueError, match=r"causal=True: .* holds later positions"):
        linformer_attention(q, k, v, proj_k=e, causal=True)
    with pytest.raises(ValueError, match=r"segment_ids: .* positions of all documents"):
        linformer_attention(q, k, v, proj_k=e, segment_ids=jnp.zeros((2, LENGTH), jnp.int32))


def test_no_array_of_length_squared():
    """Invariant 9: by the shapes in the program."""
    n = 640
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, n, 2, 8), (16, n))]
    loss = lambda x, e: linformer_attention(x, x, x, proj_k=e).sum()
    text = str(jax.make_jaxpr(jax.grad(loss, (0, 1)))(*shapes))
    assert f",{n}," in text and f"{n},{n}" not in text


def test_a_projection_for_each_head():
    with jax.enable_x64(True):
        q, k, v, g = random_arrays(*[(2, LENGTH, HEADS, 4)] * 4)
        e, f = random_arrays(*[(HEADS, PROJECTED, LENGTH + 3)] * 2, seed=1)

        def theirs(q, k, v, e, f):
            k, v = (jnp.einsum("nps,bsnh->bpnh", p[..., :LENGTH], x) for p, x in ((e, k), (f, v)))
            return dense_attention(q, k, v, SEES_ALL)

        each = (q, k, v, e, f)
        assert_close(value_and_grads(linformer, each, g), value_and_grads(theirs, each, g), 1e-12)


@pytest.mark.parametrize("variant", ["plain", "shared_kv", "one_kv_head"])
def test_the_original_implementation(variant):
    """The linformer package: outputs, gradients, weight gradients. Shared keys and values are one array there."""
    golden = load("lucid_linformer_attention")
    weights = {name: jnp.asarray(value) for name, value in golden["weights"][variant].items()}
    heads = lambda x: x.reshape(*x.shape[:2], -1, 8)

    def layer(x, weights):
        keys = x @ weights["to_k.weight"].T
        values = x @ weights["to_v.weight"].T if "to_v.weight" in weights else keys
        out = linformer_attention(
            heads(x @ weights["to_q.weight"].T),
            heads(keys),
            heads(values),
            proj_k=weights["proj_k"].T,
            proj_v=weights["proj_v"].T if "proj_v" in weights else None,
        )
        return out.reshape(x.shape) @ weights["to_out.weight"].T + weights["to_out.bias"]

    cotangent = jnp.asarray(golden["inputs"]["cotangent"][variant])
    out, grad_x, grads = value_and_grads(layer, (jnp.asarray(golden["inputs"]["x"]), weights), cotangent)
    assert distance(out, golden["outputs"][variant]["out"])[1] <= 1e-5
    assert distance(grad_x, golden["grads"][variant]["x"])[1] <= 1e-5
    for name, expected in golden["weight_grads"][variant].items():
        assert distance(grads[name], expected)[1] <= 1e-5


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(proj_k=jnp.ones((4, 8))), "proj_k reaches 8 positions and there are 12 keys"),
        (dict(proj_k=jnp.ones((3, 4, 12))), "proj_k has shape"),
        (dict(proj_v=jnp.ones((3, 12))), "proj_k has 4 rows and proj_v 3"),
    ],
)
def test_mistakes_are_named(options, words):
    x = jnp.zeros((1, LENGTH, HEADS, 4))
    with pytest.raises(ValueError, match=words):
        linformer_attention(x, x, x, **dict(proj_k=jnp.ones((4, 12))) | options)
