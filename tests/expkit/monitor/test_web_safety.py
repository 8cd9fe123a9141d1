"""What nobody gets from the page's server: other origins, other names, other files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from expkit.monitor.web.server import Server
from tests.expkit.monitor.test_screen import write
from tests.expkit.monitor.test_web import ask, said, serving


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write(tmp_path / "a", range(1, 10), loss=1.0)
    (tmp_path / "a" / "visualizations").mkdir()
    return tmp_path / "a"


@pytest.fixture
def server(run: Path) -> Iterator[Server]:
    with serving(run) as server:
        yield server


def test_every_answer_allows_nothing_from_elsewhere(server: Server) -> None:
    for path in ("/", "/api/state", "/static/app.js", "/plotly.min.js", "/nothing"):
        _, headers, _ = ask(server, path)
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "script-src 'self';" in policy and "http" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff" and "Access-Control-Allow-Origin" not in headers


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "", "localhost@evil", "[", "[::1"]
)
def test_a_name_that_somebody_pointed_here_is_refused(server: Server, host: str) -> None:
    assert ask(server, "/api/state", Host=host)[0] == 403


@pytest.mark.parametrize("host", ["localhost:1234", "127.0.0.1", "[::1]:8765"])
def test_the_names_of_this_machine_are_known_also_behind_a_tunnel(server: Server, host: str) -> None:
    assert ask(server, "/api/state", Host=host)[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "HEAD"])
def test_nothing_but_get_is_answered(server: Server, method: str) -> None:
    assert ask(server, "/api/state", method)[0] == 405


def test_pictures_are_served_and_no_other_file(server: Server, run: Path, tmp_path: Path) -> None:
    pictures = run / "visualizations"
    for name in ("denoised_step_5.png", "denoised_step_10.png", "whole & <odd>.png"):
        (pictures / name).write_bytes(name.encode())
    (tmp_path / "secret.png").write_bytes(b"secret")
    (run / "secret.png").write_bytes(b"secret")
    (pictures / "link.png").symlink_to(tmp_path / "secret.png")
    (pictures / "page.html").write_text("<script>")
    [found] = said(server, "/api/pictures")["runs"]
    steps = {kind["kind"]: [picture["step"] for picture in kind["pictures"]] for kind in found["kinds"]}
    assert steps == {"denoised": [5, 10], "whole & <odd>": [-1]}
    for kind in found["kinds"]:
        for picture in kind["pictures"]:
            status, headers, body = ask(server, f"/{picture['url']}")
            assert status == 200 and headers["Content-Type"] == "image/png" and body.endswith(b".png")
    for name in ("link.png", "page.html", "../secret.png", "../config.json", "..", "", "/etc/passwd", "a\0.png"):
        for path in (f"/pictures/0/{name}", f"/pictures/0/{quote(name, safe='')}"):
            if "\0" not in path:
                assert ask(server, path)[0] == 404, path
    for path in (
        "/pictures/1/a.png",
        "/pictures/-1/a.png",
        "/pictures/x/a.png",
        f"/pictures/{'9' * 5000}/a.png",
        "/static/../server.py",
        "/static/%2e%2e/hub.py",
    ):
        assert ask(server, path)[0] == 404, path


def test_a_folder_of_pictures_that_is_a_link_leads_nowhere(server: Server, run: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.png").write_bytes(b"secret")
    (run / "visualizations").rmdir()
    (run / "visualizations").symlink_to(tmp_path / "elsewhere")
    assert said(server, "/api/pictures")["runs"][0]["kinds"] == []
    assert ask(server, "/pictures/0/a.png")[0] == 404
