"""One bucket for each test module, in whose processes every ``gs://`` goes to the emulator."""

import pytest

from dualdiff_jax.files import bucket_reads
from dualdiff_jax.files.bucket_path import file_system
from tests.buckets.server import serving


@pytest.fixture(scope="module")
def bucket():
    with serving() as served, pytest.MonkeyPatch.context() as patch:
        for name, value in served.environment.items():
            patch.setenv(name, value)
        _forget()
        yield served
    _forget()


def _forget() -> None:
    """Connections belong to one server."""
    import gcsfs

    file_system.cache_clear()
    bucket_reads.forget()
    gcsfs.GCSFileSystem.clear_instance_cache()
