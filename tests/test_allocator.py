"""Freed memory is kept: later steps find the pages of earlier ones."""

import ctypes
import os
import subprocess
import sys

FAULTS = """
import resource
import jax
import jax.numpy as jnp
from effjax.allocator import keep_freed_memory

kept = keep_freed_memory() if {keep} else None
step = jax.jit(lambda x: (jnp.cumsum(x, axis=0), 2 * x))
x = jnp.ones((3 * 2**10, 2**12))  # 48 MiB: above 32 MiB glibc maps every block anew
faults = [resource.getrusage(resource.RUSAGE_SELF).ru_minflt]
for _ in range(10):
    jax.block_until_ready(step(x))
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(kept, min(after - before for before, after in zip(faults, faults[1:])))
"""


def run(keep):
    command = [sys.executable, "-c", FAULTS.format(keep=keep)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    kept, faults = done.stdout.split()
    return kept, int(faults)


def test_later_steps_find_the_pages_of_earlier_ones():
    kept, faults = run(keep=True)
    assert kept == str(hasattr(ctypes.CDLL(None), "gnu_get_libc_version"))
    if kept == "True":
        assert faults < run(keep=False)[1] / 4


def test_nothing_is_done_where_there_may_be_an_accelerator():
    code = "from effjax.allocator import keep_freed_memory; print(keep_freed_memory())"
    environment = os.environ | {"JAX_PLATFORMS": "tpu,cpu"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
