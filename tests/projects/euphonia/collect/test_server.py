"""The server over real sockets: the page, its headers, tokens, consent."""

import html.parser
import pathlib
import re
import uuid

from offsites_jax.projects.euphonia.collect import server

STATIC = pathlib.Path(server.__file__).parent / "static"


class Links(html.parser.HTMLParser):
    """What a page loads, and what it would run or style by itself."""

    def __init__(self):
        super().__init__()
        self.files, self.inline = [], []

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("src", "href"):
                self.files.append(value)
            if name == "style" or name.startswith("on"):
                self.inline.append((tag, name))


def test_the_page_needs_no_token_and_loads_only_its_own_files(client):
    client.token = "none"
    page = client.ok("GET", "/").decode()
    links = Links()
    links.feed(page)
    scripts = {f"/static/{path.name}" for path in STATIC.glob("*.js")}
    loaded = set(links.files)
    for name in scripts:
        text = client.ok("GET", name).decode()
        loaded |= set(re.findall(r'(?:from|addModule\()\s*"([^"]+)"', text))
        assert not re.search(r"https?://|innerHTML|eval\(", text), name
    assert not links.inline
    assert "https:" not in page
    assert loaded - {"/static/icon.svg", "/static/style.css"} == scripts
    for name in loaded:
        client.ok("GET", name)


def test_every_element_that_a_script_names_is_in_the_page():
    ids = set(re.findall(r'id="([^"]+)"', (STATIC / "index.html").read_text()))
    for script in STATIC.glob("*.js"):
        text = script.read_text()
        used = set(re.findall(r'parts\["([^"]+)"\]', text)) | set(re.findall(r"\bparts\.([a-z]+)\b", text))
        assert used <= ids, script.name


def test_headers_keep_other_sites_out(client):
    for path in ("/", "/static/main.js", "/api/session", "/nothing"):
        client.call("GET", path)
        policy = client.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert client.headers["X-Content-Type-Options"] == "nosniff"
        assert client.headers["Cache-Control"] == "no-store"
        assert "Access-Control-Allow-Origin" not in client.headers
    status, _ = client.call("GET", "/", Host="evil.example")
    assert status == 400


OUTWARDS = (
    "/static/../server.py",
    "/static/..%2fserver.py",
    "/static/%2e%2e/server.py",
    "/static//etc/passwd",
    "/api/recordings/..%2f..%2fcollection",
    "/api/recordings/../../collection.json",
    "/api/recordings/%2e%2e%2f%2e%2e%2fcollection.json",
    "/api/recordings/x%00",
)


def test_no_path_leads_out(agreed):
    for path in OUTWARDS:
        head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {agreed.token}\r\n\r\n"
        assert agreed.raw(head.encode()).split()[1] == "404", path


def test_nothing_is_told_without_the_token(client, port, make_client):
    for token in ("", "wrong", f"{client.token}x", "\u00e9"):
        status, answer = make_client(port, token).call("GET", "/api/session")
        assert status == 401
        assert set(answer) == {"error"}


def test_speakers_see_only_their_own(agreed, other):
    recording = agreed.record()
    ticket = agreed.ticket(prompt=1)
    agreed.ok("POST", "/api/uploads", ticket)
    assert other.ok("GET", "/api/session")["recordings"] == []
    assert other.call("GET", f"/api/recordings/{recording['name']}")[0] == 404
    assert other.call("DELETE", f"/api/recordings/{recording['name']}")[0] == 404
    assert other.put(ticket, agreed.sound)[0] == 404
    assert other.call("POST", "/api/uploads", ticket | {"prompt_id": other.ticket()["prompt_id"]})[0] == 409
    assert agreed.ok("GET", f"/api/recordings/{recording['name']}") == agreed.sound


def test_consent_comes_first(client, study):
    session = client.ok("GET", "/api/session")
    assert session["consent"]["granted"] is False
    assert session["prompts"] == []
    prompt_id = next(iter(study.collection.prompts(study.tokens[client.token])))
    ticket = {
        "id": str(uuid.uuid4()), "prompt_id": prompt_id, "size": 9, "sha256": "0" * 64,
        "local_date": "2026-03-01T10:20:30", "utc_offset": 0,
    }  # fmt: skip
    assert client.call("POST", "/api/uploads", ticket)[0] == 403
    assert client.call("POST", "/api/consent", {"id": "sample", "version": 0})[0] == 409
    assert client.agree()["consent"]["granted"] is True
    assert client.call("POST", "/api/uploads", ticket)[0] == 200
    client.ok("DELETE", "/api/consent")
    assert client.put(ticket, b"123456789")[0] == 403
    assert client.call("POST", "/api/uploads", ticket)[0] == 403
