"""``hamst3r weights``: the register, what is in a file, and downloads over real HTTP."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest
from test_public import write

from hamst3r import cli, weights
from hamst3r.network.checkpoint import CheckpointError, shipped_weights
from hamst3r.weights import KNOWN, KnownWeights, fetch

CONTENT = bytes(range(256)) * 20_000  # 5 MB


@dataclass
class Server:
    """What a web server does to a request, and what it was asked."""

    url: str = ""
    stop_after: int | None = None
    ranges: bool = True
    asked: list[str | None] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            wanted = self.headers.get("Range")
            state.asked.append(wanted)
            start = int(wanted[6:-1]) if wanted and state.ranges else 0
            if start >= len(CONTENT):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
                self.end_headers()
                return
            self.send_response(206 if wanted and state.ranges else 200)
            self.send_header("Content-Length", str(len(CONTENT) - start))
            self.end_headers()
            part = CONTENT[start:]
            self.wfile.write(part if state.stop_after is None else part[: state.stop_after])

        def log_message(self, *arguments):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    state.url = f"http://127.0.0.1:{httpd.server_port}/w.pth"
    yield state
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.fixture
def offered(server) -> KnownWeights:
    digest = hashlib.sha256(CONTENT).hexdigest()
    return KnownWeights("w", "w.pth", "a licence", ("encoder",), 5, server.url, digest)


def test_download_is_verified_and_kept(server, offered, tmp_path):
    seen = []
    path = fetch(offered, tmp_path, lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert seen[0] == (0, len(CONTENT)) and seen[-1] == (len(CONTENT), len(CONTENT))
    assert fetch(offered, tmp_path) == path
    assert server.asked == [None]  # the second one asked nobody
    assert [p.name for p in tmp_path.iterdir()] == ["w.pth"]


def test_download_goes_on_where_it_ended(server, offered, tmp_path):
    server.stop_after = 3_000_000
    with pytest.raises(CheckpointError, match=r"ended after 3000000 of 5120000.*again to go on"):
        fetch(offered, tmp_path)
    server.stop_after = None
    assert fetch(offered, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=3000000-"]


def test_server_that_cannot_go_on_starts_anew(server, offered, tmp_path):
    (tmp_path / "w.pth.partial").write_bytes(b"x" * 1000)
    server.ranges = False
    assert fetch(offered, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("partial", [CONTENT, CONTENT + b"more"], ids=["whole", "too long"])
def test_partial_file_of_full_length(server, offered, tmp_path, partial):
    (tmp_path / "w.pth.partial").write_bytes(partial)
    assert fetch(offered, tmp_path).read_bytes() == CONTENT


def test_another_file_than_published_is_deleted(offered, tmp_path):
    with pytest.raises(CheckpointError, match="not the published file"):
        fetch(replace(offered, sha256="0" * 64), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nobody_there(offered, tmp_path):
    with pytest.raises(CheckpointError, match=r"127\.0\.0\.1:1/") as error:
        fetch(replace(offered, url="http://127.0.0.1:1/w.pth"), tmp_path)
    assert "kept" not in str(error.value)


def test_fetch_shows_the_licence_first(offered, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(weights.KNOWN, "w", offered)
    assert cli.main(["weights", "fetch", "w", "--to", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.index("a licence") < out.index("from http") < out.index(offered.sha256)


def test_list_names_licence_and_use_of_each(capsys):
    assert cli.main(["weights", "list"]) == 0
    out = capsys.readouterr().out
    for known in KNOWN.values():
        assert known.name in out and known.licence in out
        assert all(need in KNOWN for need in known.needs)
    assert "compact" in out and "here" in out


def test_info_and_verify(tmp_path, capsys):
    path = write(tmp_path / "some.pth", "mast3r")
    assert cli.main(["weights", "info", str(path)]) == 0
    out = capsys.readouterr().out
    for text in ("dust3r", "pointmaps, descriptors", "geometry only", "encoder_dim = 32"):
        assert text in out
    assert cli.main(["weights", "verify", str(path)]) == 0
    assert "whole" in capsys.readouterr().out
    path.write_bytes(path.read_bytes()[:9000])
    assert cli.main(["weights", "verify", str(path)]) == 1
    error = capsys.readouterr().err
    assert "some.pth" in error and error.count("\n") == 1


def test_shipped_weights_are_the_registered_ones(tmp_path, capsys):
    assert cli.main(["weights", "verify", "compact"]) == 0
    assert KNOWN["compact"].sha256 in capsys.readouterr().out
    other = tmp_path / shipped_weights().name
    content = bytearray(shipped_weights().read_bytes())
    content[-1] ^= 1
    other.write_bytes(content)
    assert cli.main(["weights", "verify", str(other)]) == 1
    assert "published is" in capsys.readouterr().err
