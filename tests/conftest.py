"""What all tests share: no network, folders of their own for models, few threads."""

import os
import tempfile

import pytest

# Libraries read these when they are imported, and processes started by tests inherit them.
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GOMP_SPINCOUNT": "5000",  # as the command line sets it
}


def pytest_configure(config: pytest.Config) -> None:
    """Set up the environment before any test module is imported."""
    caches = tempfile.TemporaryDirectory(prefix="sweeper-tests-")
    config.add_cleanup(caches.cleanup)
    os.environ.update(OFFLINE, HF_HOME=f"{caches.name}/huggingface", TOKENIZERS_PARALLELISM="false")
    # The embedded model is converted once for all tests; a SWEEPER_CACHE that is set already spares that too.
    os.environ.setdefault("SWEEPER_CACHE", f"{caches.name}/sweeper")
    # Small models gain nothing from many threads, and equal numbers need equally many in every process.
    os.environ.setdefault("OMP_NUM_THREADS", "2")
