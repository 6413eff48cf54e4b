"""Every test has a persistent compilation cache and `effjax.ops` with checked shapes; it sees one device, or eight
virtual ones where it is marked `eight_devices`."""

import gc
import importlib.metadata
import os
import tempfile

import pytest


def prepare():
    """What has to happen before anything asks JAX for anything."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "effjax_compilation_cache"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
    os.environ.setdefault("JAX_EXEC_TIME_OPTIMIZATION_EFFORT", "-1.0")  # of the TPU's compiler: a quarter of the time
    devices = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    # Compiling takes most of the time of these tests, and LLVM's optimisations most of that: the same programs, left as
    # they come out of XLA. Its newer kernel generator costs as much again; versions without another know no such flag.
    quick = ["xla_backend_optimization_level=0", "xla_cpu_parallel_codegen_split_count=1"]
    if tuple(int(part) for part in importlib.metadata.version("jaxlib").split(".")[:2]) < (0, 11):
        quick += ["xla_cpu_use_fusion_emitters=false"]
    quick = " ".join(f"--{flag}" for flag in quick)
    os.environ["QUICK_XLA_FLAGS"] = quick  # for the processes that tests start
    os.environ["XLA_FLAGS"] = f"{devices} {quick}"

    import jax
    from jaxtyping import install_import_hook

    jax.devices()  # reads the flags; libtpu, which is loaded later, knows but some of them
    os.environ["XLA_FLAGS"] = devices
    gc.set_threshold(100_000, 50, 50)  # tracing makes garbage by the thousand, and JAX looks at every collection
    install_import_hook("effjax.ops", "beartype.beartype")


prepare()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Groups, which one worker runs alone, come first: near the end the other would wait for them."""
    items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Shows a test, and the fixtures made for it, the first device alone: programs for eight take twice as long to
    compile, and few tests are about them."""
    import jax

    if item.get_closest_marker("eight_devices"):
        return (yield)
    first = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        for name in ("devices", "local_devices"):
            patch.setattr(jax, name, lambda *_, **__: first)
        for name in ("device_count", "local_device_count"):
            patch.setattr(jax, name, lambda *_, **__: 1)
        return (yield)


@pytest.fixture
def mesh_of_one():
    """As training traces: under a mesh, whose platform leaves one form of each op to trace (`ops.platforms`)."""
    import jax

    with jax.set_mesh(jax.sharding.Mesh(jax.devices()[:1], ("data",), axis_types=(jax.sharding.AxisType.Auto,))):
        yield
