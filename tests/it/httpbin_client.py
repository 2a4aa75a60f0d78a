"""python-requests through the gateway to httpbin. BASE, TOKEN and READER (a token that may only read) come by environment."""

import gzip
import json
import os

import requests

BASE, TOKEN, READER = os.environ["BASE"], os.environ["TOKEN"], os.environ["READER"]


def session(token=TOKEN):
    made = requests.Session()
    made.trust_env = False
    made.headers["Authorization"] = f"Bearer {token}"
    return made


def same(got, wanted):
    assert got == wanted, f"{got!r} is not {wanted!r}"


def uploads(s):
    same(s.post(f"{BASE}/post", data={"a": "1"}).json()["form"], {"a": "1"})
    same(s.put(f"{BASE}/put", json={"a": [1, None]}).json()["json"], {"a": [1, None]})
    answer = s.post(f"{BASE}/post", files={"f": ("name.txt", b"content")}, data={"b": "2"}).json()
    same((answer["files"], answer["form"]), ({"f": "content"}, {"b": "2"}))
    big = os.urandom(3 << 20)
    same(len(s.post(f"{BASE}/post", data=big).json()["data"].split(",", 1)[1]), 4 * ((len(big) + 2) // 3))
    same(s.patch(f"{BASE}/patch", data=b"").json()["data"], "")
    same(s.delete(f"{BASE}/delete", data=b"x").json()["data"], "x")


def chunked(s):
    answer = s.post(f"{BASE}/post", data=(piece for piece in [b"one ", b"two ", b"three"])).json()
    same(answer["data"], "one two three")
    same(answer["headers"].get("Transfer-Encoding"), "chunked")
    packed = gzip.compress(b"packed")
    answer = s.post(f"{BASE}/post", data=packed, headers={"Content-Encoding": "gzip"}).json()
    same(answer["headers"]["Content-Encoding"], "gzip")


def streaming(s):
    with s.get(f"{BASE}/stream/20", stream=True) as answer:
        same([json.loads(line)["id"] for line in answer.iter_lines()], list(range(20)))
    with s.get(f"{BASE}/stream-bytes/100000?seed=1&chunk_size=1000", stream=True) as answer:
        same(sum(len(piece) for piece in answer.iter_content(777)), 100000)
    same(len(s.get(f"{BASE}/drip?duration=1&numbytes=10&code=200&delay=0").content), 10)
    part = s.get(f"{BASE}/range/1000", headers={"Range": "bytes=10-19"})
    same((part.status_code, len(part.content), part.headers["Content-Range"]), (206, 10, "bytes 10-19/1000"))


def encodings(s):
    same(s.get(f"{BASE}/gzip").json()["gzipped"], True)
    same(s.get(f"{BASE}/deflate").json()["deflated"], True)
    raw = s.get(f"{BASE}/gzip", stream=True)
    same((raw.headers["Content-Encoding"], raw.raw.read(2)), ("gzip", b"\x1f\x8b"))
    assert "∮" in s.get(f"{BASE}/encoding/utf8").text
    same(s.get(f"{BASE}/bytes/1024?seed=3").content, s.get(f"{BASE}/bytes/1024?seed=3").content)


def redirects(s):
    answer = s.get(f"{BASE}/redirect/3")
    same((answer.status_code, len(answer.history)), (200, 3))
    same(s.get(f"{BASE}/absolute-redirect/1", allow_redirects=False).headers["Location"], f"{BASE}/get")
    answer = s.get(f"{BASE}/redirect-to?url=%2Fget%3Fa%3Db&status_code=307")
    same(answer.json()["args"], {"a": "b"})


def statuses(s):
    for status in [200, 201, 204, 304, 400, 404, 409, 418, 429, 500, 502, 503]:
        answer = s.get(f"{BASE}/status/{status}")
        same(answer.status_code, status)
        assert "X-Request-Id" in answer.headers
    for method in ["HEAD", "GET"]:
        same(s.request(method, f"{BASE}/bytes/100?seed=1").headers["Content-Length"], "100")
    same(s.options(f"{BASE}/get").status_code, 200)
    same(s.get(f"{BASE}/etag/abc", headers={"If-None-Match": "abc"}).status_code, 304)


def cookies(s):
    same(s.get(f"{BASE}/cookies/set?a=b&portcullis=stolen").json()["cookies"], {"a": "b"})
    same(s.get(f"{BASE}/cookies").json()["cookies"], {"a": "b"})


def identity(s):
    headers = s.get(f"{BASE}/headers", headers={"Portcullis-User": "root", "X-Real": "yes"}).json()["headers"]
    same((headers["Portcullis-User"], headers["X-Real"]), ("alice", "yes"))
    assert "Authorization" not in headers, headers
    same(s.get(f"{BASE}/anything/a%2Db/%7Ec?x=%2F").json()["url"], f"{BASE}/anything/a-b/~c?x=%2F".replace("%2F", "/"))
    reader = session(READER)
    same(reader.get(f"{BASE}/get").status_code, 200)
    for method in ["POST", "PUT", "DELETE"]:
        answer = reader.request(method, f"{BASE}/anything", data=b"x" * 100000)
        same((answer.status_code, answer.json()["type"]), (403, "urn:portcullis:problem:forbidden"))


def main():
    for check in [uploads, chunked, streaming, encodings, redirects, statuses, cookies, identity]:
        check(session())
        print(check.__name__)


main()
