"""The package, what it needs, and its extras; settings of tools are in pyproject.toml."""

import pathlib
import re

from setuptools import find_packages, setup

VERSION = re.search(r'__version__ = "(.+)"', pathlib.Path("effjax/__init__.py").read_text())[1]
TPU = ["jax[tpu]>=0.10"]  # libtpu: to run on TPUs, and to compile for them anywhere
SPEECH = ["soundfile>=0.12", "jiwer>=3.1"]  # sound files, word error rates
TRANSLATION = ["tokenizers>=0.21", "sacrebleu>=2.5", "rouge-score>=0.1.2"]  # byte pairs, BLEU, ROUGE

setup(
    name="effjax",
    version=VERSION,
    description="Efficient transformers in JAX and Flax, correct against their originals and comparable on equal terms",
    license="Apache-2.0",
    license_files=["LICENSE"],
    packages=find_packages(include=["effjax", "effjax.*"]),
    package_data={"effjax.data": ["checksums.tsv", "sample/*", "sample/*/*"]},
    python_requires=">=3.11",
    install_requires=[  # NumPy comes with jax, etils.epath with orbax-checkpoint
        "jax>=0.10",
        "flax>=0.12",
        "optax>=0.2.6",
        "orbax-checkpoint>=0.12",
        "tensorflow-datasets>=4.9.9",
        "importlib_resources",  # tensorflow-datasets imports it and does not ask for it
        "grain>=0.2.15",
        "ml_collections>=1.0",
        "safetensors>=0.5",
        "absl-py>=2.1",
        "jaxtyping>=0.3",
        "tensorboardX>=2.6",
        "rich>=13.0",
        "matplotlib>=3.9",
    ],
    extras_require={
        "tpu": TPU,
        "gpu": ["jax[cuda12]>=0.10"],
        "gcs": ["etils[epath-gcs]"],  # gs:// working directories and data
        "speech": SPEECH,
        "translation": TRANSLATION,
        "test": [
            *(*TPU, *SPEECH, *TRANSLATION),
            "gluonts>=0.16",  # its quantile losses, beside ours
            *("pytest>=8", "pytest-xdist>=3.6", "beartype>=0.20", "ruff~=0.17.0"),
        ],
    },
    entry_points={"console_scripts": ["effjax=effjax.cli:main"]},
)
