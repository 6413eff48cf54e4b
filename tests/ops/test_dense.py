"""The product with a kernel: the values and gradients of `lax.dot_general`, in another order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from effjax.ops.dense import dense_dot
from tests.ops.attention_oracle import assert_close, random_arrays, value_and_grads


@pytest.mark.parametrize(
    ("x", "kernel"), [((2, 5, 3), (3, 4)), ((2, 5, 3), (3, 2, 4)), ((2, 5, 2, 4), (2, 4, 3)), ((3,), (3, 4))]
)
def test_equals_dot_general(x, kernel):
    n = 2 if len(x) == 4 else 1
    dimensions = ((tuple(range(len(x) - n, len(x))), tuple(range(n))), ((), ()))
    with jax.enable_x64(True):
        *arrays, g = random_arrays(x, kernel, x[: len(x) - n] + kernel[n:])
        ours = value_and_grads(lambda x, w: dense_dot(x, w, dimensions), arrays, g)
        theirs = value_and_grads(lambda x, w: lax.dot_general(x, w, dimensions), arrays, g)
        assert_close(ours, theirs, 1e-12)


def test_the_kernels_gradient_is_one_product_in_its_own_order():
    """What it is there for: the inputs come first, and nothing is transposed."""
    x, w, g = random_arrays((2, 8, 4), (4, 16), (2, 8, 16), dtype=np.float32)
    dimensions = (((2,), (0,)), ((), ()))
    gradient = lambda x, w, g: jax.vjp(lambda w: dense_dot(x, w, dimensions), w)[1](g)
    equations = jax.make_jaxpr(gradient)(x, w, g).eqns
    assert "transpose" not in {equation.primitive.name for equation in equations}
    products = [equation for equation in equations if equation.primitive.name == "dot_general"]
    assert products[-1].params["dimension_numbers"][0] == ((0, 1), (0, 1))
    assert products[-1].outvars[0].aval.shape == w.shape


def test_mixed_precision_keeps_the_dtypes():
    x, w = random_arrays((2, 8, 4), (4, 16), dtype=jnp.bfloat16)
    dot = lambda x, w: dense_dot(x, w, (((2,), (0,)), ((), ())), preferred_element_type=jnp.float32)
    out, pull = jax.vjp(dot, x, w)
    assert out.dtype == jnp.float32
    assert [gradient.dtype for gradient in pull(out)] == [jnp.bfloat16] * 2


def test_other_axes_are_refused():
    with pytest.raises(ValueError, match="last axes of x"):
        dense_dot(jnp.ones((3, 2)), jnp.ones((3, 4)), (((0,), (0,)), ((), ())))
