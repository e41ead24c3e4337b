"""Raw files to build from: the real ones where they are at hand, and tiny ones."""

import gzip
import types

import numpy as np
import pytest

from permfl_jax.data import examples
from permfl_jax.data.idx import read_idx
from permfl_jax.data.image_source import ImageSource


@pytest.fixture(scope="session")
def real_options(shared_data, tmp_path_factory):
    """One data_dir for all real datasets of the session, as a user has."""
    data_dir = tmp_path_factory.mktemp("data_dir")
    return examples.SourceOptions(data_dir=str(data_dir), manual_dir=str(shared_data))


@pytest.fixture
def offline(monkeypatch):
    """Every connection goes to a closed port of this machine."""
    for scheme in ("http", "https", "HTTP", "HTTPS"):
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")
        monkeypatch.setenv(f"{scheme}_PROXY", "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


def write_idx(path, values):
    """Writes `values` as a gzipped idx file."""
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + values.tobytes()))


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A dataset of 20 + 5 pictures, 4x3, in four idx files, that TFDS takes for MNIST.

    Has `source`, `options`, `folder` (of the raw files), `x` and `y`.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import checksums

    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (25, 4, 3), dtype=np.uint8)
    y = rng.integers(0, 10, 25, dtype=np.uint8)
    folder = tmp_path / "manual" / "mnist"
    folder.mkdir(parents=True)
    for prefix, part in {"train": slice(0, 20), "t10k": slice(20, 25)}.items():
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", x[part])
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", y[part])
    url_infos = {
        f"https://example.invalid/{path.name}": checksums.compute_url_info(path)
        for path in folder.iterdir()
    }
    stock = types.SimpleNamespace(url_infos=url_infos)
    monkeypatch.setattr(tfds, "builder_cls", lambda name: stock)
    source = ImageSource(
        name="mnist",
        image_shape=(4, 3, 1),
        num_classes=10,
        num_train=20,
        num_test=5,
        train_pixel_sum=int(x[:20].sum()),
        test_pixel_sum=int(x[20:].sum()),
        read_split=read_idx,
    )
    options = examples.SourceOptions(
        data_dir=str(tmp_path / "prepared"), manual_dir=str(folder.parent)
    )
    return types.SimpleNamespace(
        source=source, options=options, folder=folder, x=x[..., np.newaxis], y=y
    )
