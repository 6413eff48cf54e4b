"""The form of an op that suits the platform it is compiled for."""

from collections.abc import Callable
from typing import Any

import jax


def by_platform(*args: Any, cpu: Callable[..., Any], default: Callable[..., Any]) -> Any:
    """`cpu(*args)` on CPUs, `default(*args)` elsewhere; both give the same.

    Under `jax.set_mesh`, as in training, the mesh knows the platform, and only its form is traced. Without a mesh both
    are, and the compiler chooses: what is traced on one machine may be compiled for another.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    if device is None:
        return jax.lax.platform_dependent(*args, cpu=cpu, default=default)
    return (cpu if device.platform == "cpu" else default)(*args)
