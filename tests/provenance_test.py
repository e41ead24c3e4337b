"""Which code computed something."""

import subprocess

from permfl_jax import provenance


def no_git(command):
    raise OSError("git is not installed")


def test_the_commit_is_that_of_the_package_or_none(monkeypatch):
    answers = {"rev-parse": "abc", "status": "", "ls-files": "provenance.py"}
    monkeypatch.setattr(provenance, "_output", lambda c: answers[c[3]])
    assert provenance.git_commit() == "abc"
    answers["status"] = " M file.py"
    assert provenance.git_commit() == "abc+changes"
    monkeypatch.setattr(provenance, "_output", no_git)
    assert provenance.git_commit() is None


def test_a_package_inside_another_project_has_no_commit_of_its_own(
    tmp_path, monkeypatch
):
    """Installed into the environment of some other checkout."""
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "theirs"]):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *command], check=True)
    copied = tmp_path / "provenance.py"
    copied.write_text("")
    monkeypatch.setattr(provenance, "__file__", str(copied))
    assert provenance.git_commit() is None


def test_versions_name_what_numbers_hang_on():
    assert {
        "python",
        "jax",
        "numpy",
        "orbax-checkpoint",
    } <= provenance.versions().keys()
