"""Every test sees eight virtual CPU devices, a persistent compilation cache, and `effjax.ops` with checked shapes."""

import os
import tempfile

# Compiling takes most of the time of these tests, and LLVM's optimisations most of that: the same programs, left as
# they come out of XLA.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "effjax_compilation_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

from jaxtyping import install_import_hook

install_import_hook("effjax.ops", "beartype.beartype")
