"""A published file: where it is looked for, and what happens when it is not there."""

import dataclasses
import hashlib
import http.server
import os
import threading

import pytest

from permfl_jax import errors
from permfl_jax.data.examples import SourceOptions
from permfl_jax.data.text_file import TextFile

CONTENT = b"First Citizen:\nSpeak, speak.\n"


@pytest.fixture
def served(monkeypatch):
    """A server of this machine with a file; `hits` are the requests it got."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    hits = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            hits.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(CONTENT)

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    file = TextFile(
        dataset="lines",
        folder="some_lines",
        filename="input.txt",
        url=f"http://127.0.0.1:{server.server_port}/input.txt",
        size=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
    )
    yield file, hits
    server.shutdown()
    thread.join()
    server.server_close()


def test_downloaded_once_and_kept(served, tmp_path):
    file, hits = served
    options = SourceOptions(data_dir=str(tmp_path / "prepared"))
    assert file.read(options) == CONTENT
    assert file.read(options) == CONTENT
    assert hits == ["/input.txt"]
    assert os.listdir(options.data_dir) == ["lines.input.txt"]


@pytest.mark.parametrize("damaged", [b"", CONTENT[:-1], CONTENT[::-1]])
def test_a_damaged_copy_is_downloaded_again(served, tmp_path, damaged):
    file, hits = served
    (tmp_path / "lines.input.txt").write_bytes(damaged)
    options = SourceOptions(data_dir=str(tmp_path))
    assert file.read(options) == CONTENT
    assert (tmp_path / "lines.input.txt").read_bytes() == CONTENT
    assert len(hits) == 1


def test_the_raw_file_of_the_user_comes_first(served, tmp_path):
    file, hits = served
    (tmp_path / "some_lines").mkdir()
    (tmp_path / "some_lines" / "input.txt").write_bytes(CONTENT)
    options = SourceOptions(data_dir=str(tmp_path / "no"), manual_dir=str(tmp_path))
    assert file.read(options) == CONTENT
    assert not hits
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("change", [{"sha256": "0" * 64}, {"size": 5}])
def test_what_is_served_must_be_the_published_file(served, tmp_path, change):
    """Another file; and a longer one, of which no more than `size` is taken."""
    file, _ = served
    file = dataclasses.replace(file, **change)
    with pytest.raises(errors.InputError, match="no longer the file that was publ"):
        file.read(SourceOptions(data_dir=str(tmp_path)))
    assert os.listdir(tmp_path) == []


def test_nowhere_to_be_had_is_one_sentence(served, tmp_path, offline):
    file = dataclasses.replace(served[0], url="http://example.invalid/input.txt")
    with pytest.raises(errors.InputError) as caught:
        file.read(SourceOptions(data_dir=str(tmp_path), manual_dir="raw"))
    assert str(caught.value) == (
        f"dataset lines is neither in --data_dir={tmp_path}, nor as a raw file in "
        "--manual_dir=raw, and could not be downloaded (ProxyError): give "
        "--manual_dir=DIR with input.txt in DIR/some_lines, or run once with a network."
    )


def test_a_folder_that_cannot_be_written_is_one_sentence(served, tmp_path):
    (tmp_path / "file").write_text("")
    options = SourceOptions(data_dir=str(tmp_path / "file" / "below"))
    with pytest.raises(errors.InputError) as caught:
        served[0].read(options)
    assert "could not be kept in --data_dir=" in str(caught.value)
    assert "(Not a directory)" in str(caught.value)
