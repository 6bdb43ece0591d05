"""As strict as JAX allows: types never promote silently, ranks never broadcast silently, and there are eight devices."""

import os

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach for the network

import pathlib
import time

import hypothesis
import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

ROOT = pathlib.Path(__file__).parent.parent

# What one worker has compiled, small as it may be, the other need not compile again, nor the next file or run.
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "vatjax" / "compiled"
jax.config.update("jax_compilation_cache_dir", os.environ.get("JAX_COMPILATION_CACHE_DIR", str(CACHE)))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

hypothesis.settings.register_profile("suite", deadline=None, max_examples=100, derandomize=True)
hypothesis.settings.load_profile("suite")


def pytest_addoption(parser):
    parser.addoption(
        "--random-seed", type=int, default=None, help="seed of tests that kill at random; printed by a failure"
    )


@pytest.fixture
def random_seed(request):
    """A new seed each time, or that of --random-seed; a failure shows it."""
    seed = request.config.getoption("--random-seed")
    seed = time.time_ns() if seed is None else seed
    print(f"--random-seed {seed}")
    return seed


def pytest_collection_modifyitems(items):
    """Files marked `long` begin first, so that the workers end together."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(autouse=True, scope="module")
def compilations(request):
    """Compiles files marked `fast_compile` with fewer optimisations, unless every test is asked for.

    Their programs run for milliseconds and take seconds to compile. Compiled functions are dropped after each file: they
    hold maps of memory, whose number the system limits.
    """
    fast = request.node.get_closest_marker("fast_compile") is not None
    jax.config.update("jax_disable_most_optimizations", fast and request.config.option.markexpr == "not thorough")
    yield
    jax.clear_caches()


@pytest.fixture
def root():
    """The repository's folder."""
    return ROOT


@pytest.fixture(scope="session")
def value_actions():
    """The published value actions, which have no licence and so are no part of this repository."""
    path = pathlib.Path(
        os.environ.get("VATJAX_VALUE_ACTIONS", ROOT.parent / "shared" / "data" / "via_actions.jsonl.gz")
    )
    if not path.exists():
        pytest.skip("the published value actions are not here; VATJAX_VALUE_ACTIONS names their file")
    return path


@pytest.fixture
def bucket():
    """A bucket in memory behind `gs://`, with the exclusive creation that real ones offer."""
    import fsspec
    from etils.epath import backend
    from fsspec.implementations.memory import MemoryFileSystem
    from fsspec.registry import _registry

    class Bucket(MemoryFileSystem):
        protocol = ("gs", "gcs")
        store = {}  # noqa: RUF012 (the parent keeps its files on the class)
        pseudo_dirs = [""]  # noqa: RUF012

        @classmethod
        def _strip_protocol(cls, path):
            return super()._strip_protocol(path.removeprefix("gs://").removeprefix("gcs://"))

        frozen = {}  # noqa: RUF012 (listings that the client has in memory)

        def ls(self, path, detail=True, **options):
            path = self._strip_protocol(path)
            return self.frozen[path] if path in self.frozen else super().ls(path, detail, **options)

        def invalidate_cache(self, path=None):
            self.frozen.clear()

    registered = {name: _registry.get(name) for name in ("gs", "gcs")}
    for name in registered:
        fsspec.register_implementation(name, Bucket, clobber=True)
    backend.fsspec_backend._get_filesystem.cache_clear()
    yield "gs://bucket/run"
    for name, implementation in registered.items():
        _registry.pop(name)
        if implementation is not None:
            fsspec.register_implementation(name, implementation, clobber=True)
    backend.fsspec_backend._get_filesystem.cache_clear()
