"""Pictures are fetched within limits, whatever sends them, and from nowhere else than who names them may reach."""

import asyncio
import base64
import gzip
import io
import os
import socket
import ssl
import struct
import threading
import time
import zlib
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import PIL.Image
import pytest

from transformers_arm import fetching_arm
from transformers_arm.fetching_arm import FROM_CALLER, FROM_OUTSIDE, Fetcher, is_global, numeric, shown
from transformers_arm.image_processing_arm import ArmImageProcessor

SMALL = Fetcher(max_bytes=100_000, max_seconds=1.0, max_redirects=3, max_pixels=100 * 100, private_hosts=True)
MEGABYTE = 2**20


def file_of(format="PNG", size=(48, 32), mode="RGB"):
    PIL.Image.new(mode, size, "red" if mode == "RGB" else 0).save(file := io.BytesIO(), format)
    return file.getvalue()


def png_of(height, width):
    """A picture of one colour, of which nothing but the file is ever in memory."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer, row = zlib.compressobj(1), bytes(1 + 3 * width)
    rows = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


PICTURE = file_of()
METADATA = "169.254.169.254"  # where clouds tell a machine its secrets
PLACES = {
    "/to/loopback": "http://127.0.0.1:{port}/picture.png",
    "/to/ipv6": "http://[::1]:{port}/picture.png",
    "/to/metadata": "http://{metadata}/latest/meta-data",
    "/to/file": "file:///etc/passwd",
    "/to/nowhere": "http://127.0.0.1:hush/",
    "/to/itself": "/to/itself",
    "/to/one": "/to/another",
    "/to/another": "/picture.png",
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self)
        try:
            self.answer(self.path)
        except OSError:
            pass  # the other side has hung up, as it should

    def answer(self, path):
        if path in PLACES:
            self.head(302, Location=PLACES[path].format(port=self.server.server_port, metadata=METADATA))
        elif path == "/missing.png":
            self.head(404)
        elif path == "/gzip":
            self.head(200, Content_Encoding="gzip")
            self.wfile.write(gzip.compress(bytes(50 * MEGABYTE)))
        elif path == "/huge":
            self.head(200, Content_Length=10**12)
            self.wait()
        elif path == "/endless":
            self.head(200)
            while True:
                self.wfile.write(bytes(MEGABYTE))
        elif path == "/drips":
            self.head(200, Content_Length=len(PICTURE))
            for byte in PICTURE:
                self.drip(bytes([byte]))
        elif path == "/drips/head":
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            while True:
                self.drip(b"X-Header: x\r\n")
        elif path == "/silent":
            self.wait()
        else:
            self.head(200, Content_Length=len(PICTURE))
            self.wfile.write(PICTURE)

    def head(self, status, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def drip(self, content):
        self.wfile.write(content)
        self.wfile.flush()
        time.sleep(0.1)

    def wait(self):
        self.rfile.read(1)  # until the other side hangs up

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads, server.asked = True, []
        server.address = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@contextmanager
def known_host(monkeypatch, *addresses):
    """All names lead to these addresses, and 127.0.0.1 passes for a public one."""
    monkeypatch.setattr(fetching_arm, "look_up", lambda host: list(addresses))
    monkeypatch.setattr(fetching_arm, "is_global", lambda ip: ip == "127.0.0.1" or is_global(ip))
    yield


# --- what is taken ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/picture.png", "/to/another", "/to/one", "/to/loopback"])
def test_addresses_and_where_they_lead_are_opened(server, path):
    assert SMALL.open(server.address + path).size == (48, 32)
    assert SMALL.open(server.address.upper() + path).size == (48, 32)
    assert server.asked[-1].headers["Host"] == f"127.0.0.1:{server.server_port}"


def test_paths_bytes_and_base64_are_opened(tmp_path):
    (tmp_path / "picture.png").write_bytes(PICTURE)
    encoded = base64.encodebytes(PICTURE).decode()
    for fetcher in (FROM_CALLER, FROM_OUTSIDE):
        for source in (tmp_path / "picture.png", PICTURE, bytearray(PICTURE), encoded):
            assert fetcher.open(source).size == (48, 32)
    assert FROM_CALLER.open(str(tmp_path / "picture.png")).size == (48, 32)


@pytest.mark.parametrize("format", fetching_arm.FORMATS)
def test_every_format_that_is_listed_is_opened(format):
    if format not in PIL.Image.SAVE and format not in PIL.Image.registered_extensions().values():
        pytest.skip(f"Pillow was built without {format}")
    assert FROM_OUTSIDE.open(file_of(format)).size == (48, 32)


def test_certificates_are_read_once_for_all_requests(server, monkeypatch):
    made, make = [], ssl.create_default_context
    monkeypatch.setattr(ssl, "create_default_context", lambda *args, **kwargs: made.append(1) or make(*args, **kwargs))
    fetching_arm.tls_context.cache_clear()
    for _ in range(2):
        FROM_CALLER.open(f"{server.address}/to/one")
    assert len(made) == 1 and fetching_arm.tls_context().verify_mode == ssl.CERT_REQUIRED


def test_addresses_are_opened_inside_of_a_running_event_loop_too(server):
    async def handle():
        return SMALL.open(server.address + "/picture.png")

    assert asyncio.run(handle()).size == (48, 32)


def test_user_and_password_reach_their_own_host_and_no_error(server):
    secret = server.address.replace("//", "//me:hush@")
    assert SMALL.open(secret + "/to/another").size == (48, 32)
    expected = "Basic " + base64.b64encode(b"me:hush").decode()
    assert [asked.headers["Authorization"] for asked in server.asked[-2:]] == [expected, expected]
    SMALL.open(secret + "/to/loopback")
    assert server.asked[-1].headers["Authorization"] is None
    for address in (
        secret + "/missing.png",
        secret + "/to/itself",
        secret + "/huge",
        "http://" + "me:hu/sh@example.com",
    ):
        with pytest.raises((OSError, ValueError)) as refused:
            SMALL.open(address)
        assert "hu" not in str(refused.value).replace("huge", "").replace("http", "")


def test_the_proxy_of_the_environment_is_asked_by_name(server, monkeypatch):
    for name in ("NO_PROXY", "no_proxy", "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", server.address)
    monkeypatch.setenv("http_proxy", server.address)
    assert replace(SMALL, private_hosts=False).open("http://example.com/picture.png").size == (48, 32)
    assert server.asked[-1].path == "http://example.com/picture.png"
    for inside in ("localhost", "a.localhost", "127.1", "0x7f000001", "[::1]", "169.254.169.254"):
        with pytest.raises(ValueError, match="is not on the public internet"):
            replace(SMALL, private_hosts=False).open(f"http://{inside}/picture.png")


# --- limits of addresses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("/gzip", "is sent as 'gzip', which was not asked for"),
        ("/huge", "has 1,000,000,000,000 bytes, more than max_bytes 100,000; make it smaller"),
        ("/endless", "sends more than max_bytes 100,000; make it smaller"),
        ("/drips", "did not answer within max_seconds 1; try again later"),
        ("/drips/head", "did not answer within max_seconds 1"),
        ("/silent", "did not answer within max_seconds 1"),
        ("/to/itself", "redirects more than max_redirects 3 times"),
        ("/to/file", "leads to file:/etc/passwd, which is no http"),
        ("/to/nowhere", "is, or leads to, no http|Invalid URL in location header"),  # by the client's version
    ],
)
def test_what_an_address_may_cost_is_bounded(server, path, problem):
    started = time.monotonic()
    with pytest.raises((ValueError, ConnectionError), match=problem) as refused:
        SMALL.open(server.address + path)
    assert f"127.0.0.1:{server.server_port}{path}" in str(refused.value)
    assert time.monotonic() - started < 4


def test_looking_a_name_up_counts_as_time(monkeypatch):
    monkeypatch.setattr(fetching_arm, "look_up", lambda host: time.sleep(5))
    started = time.monotonic()
    with pytest.raises(ValueError, match="within max_seconds 0.3"):
        replace(SMALL, max_seconds=0.3).open("http://example.com")
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("path", ["/missing.png", "/nothing"])
def test_what_does_not_answer_is_named(server, path):
    address = server.address + path if path == "/missing.png" else "http://127.0.0.1:9/nothing"
    with pytest.raises(ConnectionError, match=f"{address} (answered 404|does not answer)"):
        SMALL.open(address)


# --- hosts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "127.1", "2130706433", "0x7f.1", "0.0.0.0", "10.0.0.1", "192.168.1.1"),
        *("169.254.169.254", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "[fe80::1]", "[fd00::1]"),
    ],
)
def test_private_hosts_are_not_for_those_outside(server, host):
    asked = len(server.asked)
    with pytest.raises(ValueError, match="is not on the public internet.*name a public host, or pass the picture"):
        FROM_OUTSIDE.open(f"http://{host}:{server.server_port}/picture.png")
    assert len(server.asked) == asked


@pytest.mark.parametrize(
    ("ip", "public"),
    [
        *((ip, True) for ip in ("8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808")),
        *(
            (ip, False)
            for ip in ("224.0.0.1", "255.255.255.255", "100.64.0.1", "198.18.0.1", "2002:7f00:1::", "ff02::1")
        ),
        *((ip, False) for ip in ("fec0::1", "2001::1", "64:ff9b:1::1", "::", "::7f00:1", "2001:db8::1", "240.0.0.1")),
    ],
)
def test_which_addresses_are_public(ip, public):
    assert is_global(ip) == public


def test_numbers_are_hosts_however_they_are_written():
    assert [numeric(host) for host in ("127.1", "0x7f000001", "::1")] == ["127.0.0.1", "127.0.0.1", "::1"]
    assert numeric("example.com") is None


@pytest.mark.parametrize("path", ["/to/ipv6", "/to/metadata", "/to/file"])
@pytest.mark.parametrize("private_hosts", [False, True])
def test_a_public_host_leads_to_no_private_one(server, monkeypatch, path, private_hosts):
    fetcher = replace(SMALL, private_hosts=private_hosts)
    with known_host(monkeypatch, "127.0.0.1"):
        address = f"http://example.com:{server.server_port}"
        assert fetcher.open(address + "/to/another").size == (48, 32)
        assert server.asked[-1].headers["Host"] == f"example.com:{server.server_port}"
        with pytest.raises(ValueError, match="is not on the public internet|which is no http"):
            fetcher.open(address + path)


def test_a_name_with_any_private_address_is_private(server, monkeypatch):
    with known_host(monkeypatch, "127.0.0.1", "10.0.0.1"):
        with pytest.raises(ValueError, match="is not on the public internet"):
            replace(SMALL, private_hosts=False).open(f"http://example.com:{server.server_port}/picture.png")


def test_the_address_that_was_checked_is_the_one_that_is_asked(server, monkeypatch):
    """A second look-up could lead elsewhere: there is none."""
    answers = [["127.0.0.1"], ["10.0.0.1"]]
    with known_host(monkeypatch):
        monkeypatch.setattr(fetching_arm, "look_up", lambda host: answers.pop(0))
        fetcher = replace(SMALL, private_hosts=False)
        assert fetcher.open(f"http://example.com:{server.server_port}/picture.png").size == (48, 32)
    assert answers == [["10.0.0.1"]]


def test_the_next_address_of_a_host_is_asked_where_one_takes_no_connection(server, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.2", 0))  # and no listen
        with known_host(monkeypatch, "127.0.0.2", "127.0.0.1"):
            assert SMALL.open(f"http://example.com:{server.server_port}/picture.png").size == (48, 32)


# --- files, texts and formats ----------------------------------------------------------------------------------------


def test_paths_in_texts_are_not_for_those_outside(tmp_path):
    (tmp_path / "picture.png").write_bytes(PICTURE)
    messages = set()
    for path in (
        tmp_path / "picture.png",
        tmp_path / "none.png",
        tmp_path / "b\u00e4r.png",
    ):  # which one is there is not told
        with pytest.raises(ValueError, match="paths in texts are not opened here; pass a pathlib.Path") as refused:
            FROM_OUTSIDE.open(str(path))
        messages.add(str(refused.value).replace(str(path), ""))
    assert len(messages) == 1


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
@pytest.mark.parametrize("made", [str, Path])
def test_only_files_are_read(tmp_path, kind, made):
    path = {"pipe": tmp_path / "pipe", "device": "/dev/zero", "folder": tmp_path}[kind]
    if kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(ValueError, match="is no image file, but a folder, a pipe or a device; name a file"):
        FROM_CALLER.open(made(path))


def test_large_files_bytes_and_texts_are_refused_before_they_are_read(tmp_path):
    with open(tmp_path / "large.png", "wb") as file:
        file.truncate(10 * 2**30)  # sparse
    with pytest.raises(ValueError, match="large.png' has 10,737,418,240 bytes, more than max_bytes 268,435,456"):
        FROM_CALLER.open(tmp_path / "large.png")
    for source in (bytes(200_000), "A" * 200_000, "data:image/png;base64," + "A" * 200_000):
        with pytest.raises(ValueError, match="more than max_bytes 100,000; make it smaller, or raise max_bytes"):
            SMALL.open(source)


@pytest.mark.parametrize("format", ["EPS", "PSD", "SVG", "ICO", "PDF"])
def test_what_is_no_plain_raster_is_refused(format, tmp_path):
    contents = {"PSD": b"8BPS\0\1" + bytes(100), "SVG": b'<svg xmlns="http://127.0.0.1/"/>'}
    content = contents.get(format) or file_of(format)
    (tmp_path / "picture.png").write_bytes(content)
    for source in (content, tmp_path / "picture.png"):
        with pytest.raises(PIL.UnidentifiedImageError, match="cannot identify image file.* is none of JPEG, PNG"):
            FROM_CALLER.open(source)


def test_pixels_are_counted_before_they_are_decoded():
    bomb = file_of("GIF", (101, 100), "P")
    with pytest.raises(
        ValueError, match="has 100x101 pixels .*more than max_pixels 10,000 in all; shrink it, or raise"
    ):
        SMALL.open(bomb)
    assert replace(SMALL, max_pixels=101 * 100).open(bomb).size == (101, 100)


def test_tiles_that_are_larger_than_their_picture_are_refused():
    tags = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 322: 8192, 323: 16384, 324: 8, 325: 10}
    tiles = zlib.compress(bytes(100))
    fields = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    content = b"II*\0" + struct.pack("<I", 8 + len(tiles)) + tiles + struct.pack("<H", len(tags)) + fields + bytes(4)
    with pytest.raises(ValueError, match="has tiles of 16384x8192 pixels .*more than max_pixels 67,108,864"):
        FROM_OUTSIDE.open(content)


def with_scans(more, mode="L"):
    """A progressive JPEG whose last scan, a few bytes of the file, stands there some more times."""
    PIL.Image.new(mode, (48, 32), 128 if mode == "L" else "red").save(file := io.BytesIO(), "JPEG", progressive=True)
    content = file.getvalue()
    start = content.rindex(b"\xff\xda")
    return content[:-2] + content[start:-2] * more + content[-2:]


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_jpeg_that_goes_over_its_pixels_again_and_again_is_refused(mode, tmp_path):
    honest, bomb = with_scans(80, mode), with_scans(200, mode)
    assert FROM_OUTSIDE.open(honest).size == (48, 32)
    assert FROM_OUTSIDE.open(honest + os.urandom(10) + b"\xff\xda" * 1000).size == (48, 32)  # what a phone puts behind
    (tmp_path / "bomb.jpg").write_bytes(bomb)
    start = time.process_time()
    for source in (bomb, tmp_path / "bomb.jpg", base64.b64encode(bomb).decode()):
        with pytest.raises(ValueError, match=r"has 2\d\d scans, more than 100, .*save it again"):
            FROM_CALLER.open(source)
    assert time.process_time() - start < 1


def with_broken_exif(format):
    """A picture that lies on its side, with a height in words, which Pillow fails to write back as a number."""
    height, orientation = struct.pack("<HHII", 0x0101, 2, 6, 38), struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    exif = b"II*\0" + struct.pack("<IH", 8, 2) + height + orientation + bytes(4) + b"hello\0"
    PIL.Image.new("RGB", (48, 32), "red").save(file := io.BytesIO(), format, exif=b"Exif\0\0" + exif)
    return file.getvalue()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_what_pillow_stumbles_on_is_a_damaged_file(format):
    content = with_broken_exif(format)
    with pytest.raises(OSError, match="the file is damaged: "):
        FROM_OUTSIDE.open(content)
    with pytest.raises(ValueError, match="Image 1 cannot be read: the image is damaged: .*Is the file complete"):
        ArmImageProcessor()([PIL.Image.new("RGB", (16, 16)), PIL.Image.open(io.BytesIO(content))])


def test_only_the_first_frame_is_decoded():
    frames = [PIL.Image.new("RGB", (48, 32), color) for color in ("red", "lime", "blue")]
    frames[0].save(file := io.BytesIO(), "GIF", save_all=True, append_images=frames[1:])
    cut = file.getvalue()[: len(file.getvalue()) // 2]  # within the second
    assert FROM_OUTSIDE.open(cut).convert("RGB").getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_several_frames_can_be_refused(format):
    frame = PIL.Image.new("L", (8, 8))
    frame.save(file := io.BytesIO(), format, save_all=True, append_images=[PIL.Image.new("L", (8, 8), 255)])
    assert FROM_OUTSIDE.open(file.getvalue()).size == (8, 8)
    with pytest.raises(ValueError, match="the file is animated, or has several pages; send one picture"):
        Fetcher(animated=False).open(file.getvalue())
    assert Fetcher(animated=False).open(file_of(format)).size == (48, 32)


def test_errors_show_long_and_odd_names_in_part():
    assert shown("http://" + "me:hush@example.com/a@b") == "http://example.com/a@b"
    assert shown("https://example.com/a.png?sig=hush&v=1") == "https://example.com/a.png?..."
    assert shown("A" * 1000) == "A" * 80 + "..." and shown("a\nb") == "a?b"


# --- memory ----------------------------------------------------------------------------------------------------------


def memory(name):
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[name].split()[0]) * 1024


def peak(function):
    """Bytes that a function takes at most, beyond what the process holds before."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = memory("VmRSS")
    function()
    return memory("VmHWM") - before


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="where Linux says what a process takes")
def test_memory_is_bounded_by_the_bytes_that_are_taken(server):
    def refused(path):
        with pytest.raises(ValueError, match="max_bytes"):
            replace(SMALL, max_bytes=MEGABYTE).open(server.address + path)

    refused("/endless")
    for path in ("/endless", "/huge"):
        assert peak(lambda path=path: refused(path)) < 10 * MEGABYTE  # those of the server included


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="where Linux says what a process takes")
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_memory_is_bounded_by_a_picture_s_pixels_and_many_take_no_more_than_one(tmp_path):
    processor, side = ArmImageProcessor(size={"height": 48, "width": 48}), 3072
    for mode in ("RGB", "RGBA"):
        PIL.Image.new(mode, (side, side)).save(path := tmp_path / f"{mode}.png", compress_level=1)
        assert 5 * side**2 < peak(lambda path=path: processor([path] * 3)) < 13 * side**2
    (tmp_path / "bomb.png").write_bytes(png_of(13_000, 13_000))

    def refused():
        with pytest.raises(ValueError, match="has 13000x13000 pixels .*more than max_pixels 67,108,864"):
            processor(tmp_path / "bomb.png")

    assert peak(refused) < 5 * MEGABYTE
