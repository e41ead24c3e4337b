"""Checkpoints come back to the bit, or not at all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import mesh_of
from jax.sharding import NamedSharding

from permfl_jax import checkpoints, placement
from permfl_jax.errors import InputError
from permfl_jax.types import State


def state(number, devices=4):
    rows = jax.random.normal(jax.random.key(number), (devices, 3))
    return State(
        round=jnp.int32(number),
        cursor=jnp.arange(devices, dtype=jnp.int32) * number,
        device={"w": rows, "a.b/c": rows.astype(jnp.float32)},
        team=None,
        server={"w": rows[0], "a.b/c": rows[0].astype(jnp.float32)},
        extra=(jnp.zeros(2, bool), rows.astype(jnp.bfloat16)),
    )


def anything(progress):
    return None


def saved(path, *rounds, keep=2):
    kept = checkpoints.Checkpoints(path, keep)
    for number in rounds:
        kept.save(number, state(number), {"rows": number})
    kept.close()
    return kept


def same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def restore(path, accept=anything, template=None):
    kept = checkpoints.Checkpoints(path)
    back = kept.restore(state(0) if template is None else template, accept)
    kept.close()
    return back, kept.remarks


def test_every_leaf_comes_back_to_the_bit(tmp_path):
    saved(tmp_path / "c", 3)
    back, remarks = restore(tmp_path / "c")
    same_bits(back.state, state(3))
    assert back.progress == {"rows": 3}
    assert remarks == []


def test_the_state_may_be_given_away_while_it_is_written(tmp_path):
    kept = checkpoints.Checkpoints(tmp_path / "c", 20)
    overwrite = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
    expected = {}
    for number in range(1, 9):
        rows = jax.random.normal(jax.random.key(number), (100, 1000))
        expected[number] = np.array(rows)
        kept.save(number, rows, {})
        for _ in range(5):
            rows = overwrite(rows)
    kept.close()
    for number, rows in expected.items():
        back = kept._read(number, {"0000": jnp.zeros((100, 1000))})
        np.testing.assert_array_equal(back["0000"], rows)
    kept.close()


def test_as_many_stay_as_asked(tmp_path):
    assert saved(tmp_path / "c", 1, 2, 3, 4, 5, keep=3).rounds() == [5, 4, 3]
    with pytest.raises(InputError, match="--keep must be at least 2, got 1"):
        checkpoints.Checkpoints(tmp_path / "d", 1)


def test_without_its_seal_a_checkpoint_does_not_count(tmp_path):
    kept = checkpoints.Checkpoints(tmp_path / "c")
    kept.save(1, state(1), {})
    kept.save(2, state(2), {})
    kept._manager.wait_until_finished()  # written, but killed before the seal
    kept.abandon()
    back, remarks = restore(tmp_path / "c")
    assert int(back.state.round) == 1
    assert remarks == ["the checkpoint of round 2 was not finished"]
    assert kept.rounds() == [1]  # so that round 2 can be saved again


def files(folder):
    return sorted(p for p in folder.rglob("*") if p.is_file())


def test_a_damaged_file_of_any_kind_sends_back_to_the_one_before(tmp_path):
    """Every file, cut short, with one bit flipped, gone, and one too many."""
    original = tmp_path / "original"
    saved(original, 1, 2)
    names = [p.relative_to(original) for p in files(original / "2")]
    assert len(names) > 5
    for name in names:
        for damage in (cut, flip, remove):
            path = tmp_path / "c"
            copy(original, path)
            damage(path / name)
            back, remarks = restore(path)
            same_bits(back.state, state(1))
            assert len(remarks) == 1, (name, damage)
            assert remarks[0].startswith("the checkpoint of round 2 "), remarks
    copy(original, path)
    (path / "2" / "more").write_text("")
    assert restore(path)[0].progress == {"rows": 1}


def copy(source, target):
    import shutil

    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)


def cut(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if content else b"x")


def flip(path):
    content = bytearray(path.read_bytes() or b"\0")
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def remove(path):
    path.unlink()


def test_with_no_whole_checkpoint_there_is_none(tmp_path):
    saved(tmp_path / "c", 1, 2)
    for round_ in (1, 2):
        flip(files(tmp_path / "c" / str(round_))[0])
    back, remarks = restore(tmp_path / "c")
    assert back is None
    assert len(remarks) == 2
    assert restore(tmp_path / "nothing") == (None, [])


def test_a_whole_one_is_never_passed_over(tmp_path):
    """Whatever is against it, it stays, and the one before is not taken instead."""
    kept = saved(tmp_path / "c", 1, 2)
    with pytest.raises(InputError, match=r"c/2 is a whole checkpoint, but it is late;"):
        restore(tmp_path / "c", lambda progress: "it is late")
    with pytest.raises(InputError, match="it is of another model or version; nothing"):
        restore(tmp_path / "c", template=state(0, devices=5))
    assert kept.rounds() == [2, 1]
    same_bits(restore(tmp_path / "c")[0].state, state(2))


@pytest.mark.parametrize(
    ("error", "told", "match"),
    [
        (OSError("stale"), InputError, r"it cannot be loaded \(OSError\); nothing was"),
        (MemoryError(), MemoryError, None),
        (ValueError("RESOURCE_EXHAUSTED: x"), ValueError, "RESOURCE_EXHAUSTED"),
    ],
)
def test_a_whole_one_that_cannot_be_loaded_stays(
    tmp_path, monkeypatch, error, told, match
):
    saved(tmp_path / "c", 1, 2)

    def fail(self, round_, like):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints.Checkpoints, "_read", fail)
        with pytest.raises(told, match=match):
            restore(tmp_path / "c")
    same_bits(restore(tmp_path / "c")[0].state, state(2))


def test_a_damaged_one_is_put_aside_and_makes_room(tmp_path):
    saved(tmp_path / "c", 1, 2)
    before = {p.name: p.read_bytes() for p in files(tmp_path / "c" / "2")}
    flip(files(tmp_path / "c" / "2")[0])
    assert restore(tmp_path / "c")[0].progress == {"rows": 1}
    aside = {p.name: p.read_bytes() for p in files(tmp_path / "c" / "damaged-2")}
    assert sum(aside[name] != before[name] for name in before) == 1
    saved(tmp_path / "c", 2, 3)
    same_bits(restore(tmp_path / "c")[0].state, state(3))


def test_rows_spread_over_chips_come_back_there(tmp_path):
    mesh = mesh_of(2, 2)
    lay = NamedSharding(mesh, placement.BY_DEVICE)
    rows = jax.device_put(jnp.arange(24.0).reshape(8, 3), lay)
    kept = checkpoints.Checkpoints(tmp_path / "c")
    kept.save(1, rows, {})
    kept.seal()
    back = kept.restore(jax.device_put(jnp.zeros((8, 3)), lay), anything)
    kept.close()
    np.testing.assert_array_equal(back.state, rows)
    assert back.state.sharding == lay


def test_arrays_can_be_read_without_the_method(tmp_path):
    saved(tmp_path / "c", 1, 2)
    flip(files(tmp_path / "c" / "2")[0])
    round_, arrays = checkpoints.read(tmp_path / "c")
    assert round_ == 1
    assert "device/w" in arrays
    np.testing.assert_array_equal(arrays["server/w"], state(1).server["w"])
    with pytest.raises(InputError, match="holds no whole checkpoint"):
        checkpoints.read(tmp_path / "nothing")


def test_a_disk_that_is_full_is_one_sentence(tmp_path):
    blocked = tmp_path / "c"
    blocked.write_text("a file where the folder should be")
    kept = checkpoints.Checkpoints(blocked)
    with pytest.raises(InputError, match="round 1 cannot be written"):
        kept.save(1, state(1), {})


class Orbax:
    """A writer that writes nothing."""

    def save(self, *given, **named):
        pass


@pytest.mark.parametrize("process", [0, 1])
def test_only_the_first_process_tries_the_folder(tmp_path, monkeypatch, process):
    """Two at once would meet: each makes and removes the same folder."""
    kept = checkpoints.Checkpoints(tmp_path / "run")
    monkeypatch.setattr(jax, "process_index", lambda: process)
    monkeypatch.setattr(kept, "_writer", Orbax)
    kept.save(1, state(1), {})
    assert kept.path.exists() == (process == 0)
