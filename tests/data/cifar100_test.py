"""CIFAR-100 from the reconstructed archive, and from small ones."""

import dataclasses
import io
import os
import tarfile
import types

import numpy as np
import pytest

from permfl_jax import data, errors
from permfl_jax.data import cifar100

RECORD = 3074


@pytest.fixture(scope="module")
def real(real_options, shared_data):
    if not (shared_data / "cifar100" / "cifar-100-binary.tar.xz").exists():
        pytest.skip("the reconstructed CIFAR-100 archive is not in shared/data")
    return data.load("cifar100", real_options)


def test_real_shapes_types_and_pixel_sums(real):
    assert real.x.shape == (60_000, 32, 32, 3)
    assert real.x.dtype == np.uint8
    assert real.y.dtype == np.int32
    assert real.num_classes == 100
    assert real.x[:50_000].sum(dtype=np.int64) == 18729378732
    assert real.x[50_000:].sum(dtype=np.int64) == 3755249331


def test_real_class_counts(real):
    np.testing.assert_array_equal(np.bincount(real.y[:50_000]), [500] * 100)
    np.testing.assert_array_equal(np.bincount(real.y[50_000:]), [100] * 100)


def test_real_pictures_are_smooth_along_both_sides_and_not_across_colours(real):
    """Rows, columns or channels mixed up would show: neighbours are most alike."""
    x = real.x[:2000].astype(np.int64)
    steps = [abs(np.diff(x, axis=axis)).mean() for axis in (1, 2)]
    assert max(steps) < 0.4 * abs(x - x[:, ::-1, ::-1]).mean()
    np.testing.assert_allclose(steps[0], steps[1], rtol=0.2)
    # The mean colour over the training split, published for normalising it.
    mean = real.x[:50_000].reshape(-1, 3).mean(axis=0) / 255
    np.testing.assert_allclose(mean, [0.5071, 0.4866, 0.4409], atol=2e-4)


def write(path, members):
    """A tar archive, compressed as the name says, of `{name: content}`."""
    with tarfile.open(path, f"w:{path.suffix[1:]}") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(f"cifar-100-binary/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """An archive of 6 + 4 records; has `folder`, `options`, `members`, `x` and `y`."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)
    y = np.array([3, 99, 3, 0, 50, 7, 99, 1, 2, 3], np.uint8)
    records = [
        bytes([label % 20, label])
        + bytes(
            picture[h, w, c] for c in range(3) for h in range(32) for w in range(32)
        )
        for label, picture in zip(y, x, strict=True)
    ]
    members = {
        "coarse_label_names.txt": b"fish\n",
        "test.bin": b"".join(records[6:]),
        "train.bin": b"".join(records[:6]),
    }
    folder = tmp_path / "manual" / "cifar100"
    folder.mkdir(parents=True)
    write(folder / "cifar-100-binary.tar.xz", members)
    monkeypatch.setattr(cifar100, "NUM_PICTURES", {"train": 6, "test": 4})
    source = dataclasses.replace(
        cifar100.SOURCE,
        num_train=6,
        num_test=4,
        train_pixel_sum=int(x[:6].sum()),
        test_pixel_sum=int(x[6:].sum()),
    )
    monkeypatch.setattr(cifar100, "SOURCE", source)
    options = data.SourceOptions(
        data_dir=str(tmp_path / "prepared"), manual_dir=str(folder.parent)
    )
    return types.SimpleNamespace(
        folder=folder, options=options, members=members, x=x, y=y
    )


def assert_is(tiny, found):
    np.testing.assert_array_equal(found.x, tiny.x)
    np.testing.assert_array_equal(found.y, tiny.y)
    assert found.y.dtype == np.int32


def test_small_archive_needs_neither_tfds_nor_a_second_reading(tiny, monkeypatch):
    monkeypatch.setattr("permfl_jax.data.tfds_build.build", None)
    assert_is(tiny, data.load("cifar100", tiny.options))
    assert os.listdir(tiny.options.data_dir) == ["cifar100.npz"]
    monkeypatch.setattr("tarfile.open", None)
    assert_is(tiny, data.load("cifar100", tiny.options))


def test_the_published_archive_goes_through_tfds(tiny, monkeypatch, offline):
    """The .tar.gz, checked against what TFDS knows of it."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import checksums

    (tiny.folder / "cifar-100-binary.tar.xz").unlink()
    published = tiny.folder / "cifar-100-binary.tar.gz"
    write(published, tiny.members)
    info = checksums.compute_url_info(published)
    url = f"https://example.invalid/{published.name}"
    stock = types.SimpleNamespace(url_infos={url: info})
    monkeypatch.setattr(tfds, "builder_cls", {"cifar100": stock}.get)
    assert_is(tiny, data.load("cifar100", tiny.options))


def cut_archive(tiny, path):
    path.write_bytes(path.read_bytes()[:-400])


def swap_halves(tiny, path):
    content = path.read_bytes()
    path.write_bytes(content[200:] + content[:200])


def other_members(**changes):
    def damage(tiny, path):
        members = {f"{name}.bin": content for name, content in changes.items()}
        members = {**tiny.members, **members}
        write(path, {k: v for k, v in members.items() if v is not None})

    return damage


def link(tiny, path):
    """A member that points out of the archive."""
    with tarfile.open(path, "w:xz") as archive:
        for name in ("train.bin", "test.bin"):
            info = tarfile.TarInfo(f"cifar-100-binary/{name}")
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(info)


def huge(tiny, path):
    """A header that claims 8 TB."""
    with tarfile.open(path, "w:xz") as archive:
        info = tarfile.TarInfo("cifar-100-binary/train.bin")
        info.size = 2**43
        archive.fileobj.write(info.tobuf())


def two_superclasses(tiny, path):
    train = bytearray(tiny.members["train.bin"])
    train[0] += 1
    write(path, {**tiny.members, "train.bin": bytes(train)})


def other_pixel(tiny, path):
    train = bytearray(tiny.members["train.bin"])
    train[2] ^= 1
    write(path, {**tiny.members, "train.bin": bytes(train)})


def is_folder(tiny, path):
    path.unlink()
    path.mkdir()


DAMAGE = {
    "cut": (cut_archive, "cannot be read as a tar archive"),
    "swapped": (swap_halves, "cannot be read as a tar archive"),
    "empty": (lambda tiny, path: path.write_bytes(b""), "as a tar archive"),
    "folder": (is_folder, "cannot be read as a tar archive"),
    "no train": (other_members(train=None), "does not hold cifar-100-binary/train.bin"),
    "short": (other_members(test=b"x" * RECORD), "test.bin with 3074 bytes instead of"),
    "long": (other_members(train=b"x" * RECORD * 7), "train.bin with 21518 bytes inst"),
    "link": (link, "train.bin with 0 bytes instead of"),
    "huge": (huge, "instead of 18444"),
    "coarse": (two_superclasses, "has a class of train.bin in two superclasses"),
    "pixel": (other_pixel, "cifar100 is not itself: the pixel sums are"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_archive_is_one_sentence_and_leaves_nothing(tiny, damage):
    change, expected = DAMAGE[damage]
    change(tiny, tiny.folder / "cifar-100-binary.tar.xz")
    with pytest.raises(errors.InputError) as caught:
        data.load("cifar100", tiny.options)
    message = str(caught.value)
    assert expected in message
    assert "\n" not in message
    assert message.endswith(".")
    assert os.listdir(tiny.options.data_dir) == []


def test_no_archive_and_no_network_is_one_sentence(tmp_path, offline):
    options = data.SourceOptions(data_dir=str(tmp_path))
    with pytest.raises(errors.InputError) as caught:
        data.load("cifar100", options)
    message = str(caught.value)
    assert "cifar100 is neither prepared" in message
    assert "with cifar-100-binary.tar.gz in DIR/cifar100" in message
