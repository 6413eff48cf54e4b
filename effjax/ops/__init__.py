"""Pure functions on `jax.Array`: no Flax below this line; the only home of `custom_vjp` and kernels."""
