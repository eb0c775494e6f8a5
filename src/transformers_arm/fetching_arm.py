"""Opens pictures of paths, http(s) addresses, base64 texts and bytes, within limits on what that may cost and reach.

Whoever names a picture decides what may be opened: the caller's own code (`FROM_CALLER`), or somebody outside, in a
chat message or a row of a file (`FROM_OUTSIDE`). All that ARM opens comes through here. Knows nothing about what
becomes of a picture.
"""

import asyncio
import base64
import functools
import ipaddress
import mmap
import os
import re
import socket
import ssl
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from urllib.parse import unquote
from urllib.request import getproxies, proxy_bypass

import PIL.ExifTags
import PIL.Image
import PIL.ImageOps

try:
    from huggingface_hub.utils import httpx  # whichever the Hub client itself uses
except ImportError:  # its older versions
    import httpx

ADDRESS = re.compile(r"https?://", re.IGNORECASE)
NAMED = re.compile(r"[^/?#]*@")  # user and password of an address
LONGEST_NAME = 300  # that an error shows whole; longer texts are pictures in base64, or addresses with a signature
REDIRECTS = (301, 302, 303, 307, 308)
# What Pillow raises on damaged files, besides ValueError, and what an address raises that gives none.
DECODING_ERRORS = (OSError, SyntaxError, RuntimeError)
# Rasters that are decoded in this process, into no more than what their head states. Not: what starts programs (EPS),
# is drawn (WMF) or holds other files of other sizes (ICO, ICNS), and what hardly anybody has.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
TILE_WIDTH, TILE_HEIGHT = 322, 323  # tags of TIFF
# Scans of a JPEG, each of which goes over all pixels and takes a few bytes. Progressive ones have about ten.
SCAN = re.compile(rb"\xff\xda\x00(?:\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")
MAX_SCANS = 100
GLOBAL_IPV6 = ipaddress.ip_network("2000::/3")
NAT64 = ipaddress.ip_network("64:ff9b::/96")


def shown(source: str) -> str:
    """A path, an address or a text as errors show it: in one line, not too long, and of an address neither user and
    password nor the query, in which signatures stand.
    """
    if match := ADDRESS.match(source):
        bare, mark, query = NAMED.sub("", source[match.end() :], count=1).partition("?")
        source = f"{match[0]}{bare}{mark}{'...' if query else ''}"
    source = source if len(source) <= LONGEST_NAME else f"{source[:80]}..."
    return "".join(character if character.isprintable() else "?" for character in source)


@contextmanager
def naming_damage(name: str) -> Iterator[None]:
    """Makes what Pillow stumbles on in a damaged file, of many kinds, an OSError that names the file."""
    try:
        yield
    except (ValueError, MemoryError):
        raise
    except Exception as error:
        if name in str(error) or getattr(error, "errno", None) is not None:
            raise
        raise OSError(f"{name} is damaged: {error}") from error


def upright(image: PIL.Image.Image, name: str = "the image") -> PIL.Image.Image:
    """A picture turned as its EXIF says, itself where that says nothing; an OSError if it cannot be read."""
    with naming_damage(name):
        image.load()
        is_turned = image.getexif().get(PIL.ExifTags.Base.Orientation, 1) != 1
        return PIL.ImageOps.exif_transpose(image) if is_turned else image


def in_thread(function: Callable, *args) -> Future:
    """Runs a function in a thread that nobody has to wait for, not even the interpreter's end."""
    future = Future()

    def run():
        future.set_running_or_notify_cancel()  # so that who stops waiting does not cancel it
        try:
            future.set_result(function(*args))
        except BaseException as error:  # the caller's, wherever it waits
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def is_global(address: str) -> bool:
    """Whether an IP address is one of the public internet, whatever form of IPv6 it is wrapped in."""
    ip = ipaddress.ip_address(address)
    if ip.version == 6:
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_global(str(inner))
        if ip not in GLOBAL_IPV6:
            return False
    return ip.is_global and not ip.is_multicast


def look_up(host: str) -> list[str]:
    """The IP addresses of a host, each once, best first."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(address[0] for *_, address in found))


def numeric(host: str) -> str | None:
    """The IP address that a host is, in any way of writing it (127.1, 0x7f000001, ::1), else None."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except (OSError, ValueError):
        return None


def proxy_of(scheme: str, host: str) -> str | None:
    """The proxy that the environment (`HTTPS_PROXY`, `NO_PROXY`, ...) has for a host, else None."""
    if proxy_bypass(host):
        return None
    proxies = getproxies()
    proxy = proxies.get(scheme) or proxies.get("all")
    return proxy if not proxy or "://" in proxy else f"http://{proxy}"


@functools.cache
def tls_context() -> ssl.SSLContext:
    """What certificates are checked by: one for all requests, as reading those of the machine takes long."""
    return httpx.create_ssl_context()


@dataclass(frozen=True)
class Fetcher:
    """Opens pictures of paths, http(s) addresses, base64 texts and bytes of files, within limits.

    Where the environment names a proxy, that looks up names and connects: which hosts it reaches is its own matter,
    except those written as numbers and `localhost`.

    Args:
        max_bytes: of a file, a text's content or a response as it arrives; compressed transfer is refused.
        max_seconds: for an address as a whole: names, redirects and body.
        max_redirects: for an address.
        max_pixels: height times width that a file's head may state.
        formats: Pillow's names; those that Pillow was built without are left out.
        local_files: whether a str may name a path of this machine. A `pathlib.Path` always may: only code makes one.
        private_hosts: whether an address may name a loopback, link-local or private host. A redirect from a public
            host to one of these is refused all the same.
        animated: whether a file may have several frames, of which the first is taken. (A camera's MPO may, always.)
        advises_code: whether errors may advise what only code can do, such as to raise a limit of this. False where
            somebody else reads them.
    """

    max_bytes: int = 2**25
    max_seconds: float = 20.0
    max_redirects: int = 5
    max_pixels: int = 2**26
    formats: tuple[str, ...] = FORMATS
    local_files: bool = False
    private_hosts: bool = False
    animated: bool = True
    advises_code: bool = True

    def open(self, source: str | os.PathLike | bytes) -> PIL.Image.Image:
        """Opens a picture, upright, in the mode of its file; of several frames the first.

        Args:
            source: a path, an http(s) address, a picture in base64, with or without `data:image/...;base64,` (broken
                into lines, as in e-mail, and percent-encoded, as in data URLs), or the bytes of a file.

        Raises:
            ValueError: it is none of these, or beyond a limit; names value, bound and fix.
            OSError, or another of `DECODING_ERRORS`: the address does not give it, or the file is damaged or no
                picture of these formats.
        """
        if isinstance(source, (bytes, bytearray, memoryview)):
            self._check_bytes("The file", len(source))
            return self._decode(BytesIO(source), "the file")
        if not isinstance(source, str):
            return self._open_file(os.fsdecode(source))
        if ADDRESS.match(source):
            content = in_thread(asyncio.run, self._download(source)).result()
            return self._decode(content, shown(source))
        if self.local_files and os.path.exists(source):
            return self._open_file(source)
        return self._open_base64(source)

    # --- what lies here -------------------------------------------------------------------------------------------

    def _check_bytes(self, what: str, length: int) -> None:
        if length > self.max_bytes:
            raise ValueError(
                f"{what} has {length:,} bytes, more than max_bytes {self.max_bytes:,}; make it smaller"
                f"{self._or_raise('max_bytes')}."
            )

    def _or_raise(self, limits: str) -> str:
        """The end of an advice."""
        return f", or raise {limits} of the Fetcher" if self.advises_code else ""

    def _open_file(self, path: str) -> PIL.Image.Image:
        if not os.path.exists(path):
            raise ValueError(f"{shown(path)!r} is no image file: there is none.")
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{shown(path)!r} is no image file, but a folder, a pipe or a device; name a file.")
        self._check_bytes(repr(shown(path)), status.st_size)
        return self._decode(path, repr(shown(path)))

    def _open_base64(self, text: str) -> PIL.Image.Image:
        encoded = text.partition("base64,")[2] or text
        self._check_bytes(f"The base64 text {shown(text)!r}", len(encoded) * 3 // 4 - 2)
        try:
            content = base64.b64decode("".join(unquote(encoded).split()), validate=True)  # without breaks of lines
        except ValueError:  # of odd lengths and characters
            content = b""
        try:
            return self._decode(BytesIO(content), "the base64 text")
        except PIL.UnidentifiedImageError as error:
            problem = "is no image file, no http(s) address and no base64 image."
            if not self.local_files:
                problem = "is no http(s) address and no base64 image, and paths in texts are not opened here"
                problem += (
                    "; pass a pathlib.Path, an opened picture, or a Fetcher with local_files=True, as FROM_CALLER is."
                    if self.advises_code
                    else "."
                )
            raise ValueError(f"{shown(text)!r} {problem}") from error

    def _decode(self, file: str | BytesIO, name: str) -> PIL.Image.Image:
        with naming_damage(name), self._opened(file, name) as image:
            self._check_cost(image, file, name)
            return PIL.ImageOps.exif_transpose(image)

    def _opened(self, file: str | BytesIO, name: str) -> PIL.Image.Image:
        PIL.Image.init()
        formats = [each for each in self.formats if each in PIL.Image.OPEN]
        try:
            return PIL.Image.open(file, formats=formats)
        except PIL.Image.DecompressionBombError as error:
            raise ValueError(
                f"{name} may be a decompression bomb: {error} Shrink it"
                f"{self._or_raise(f'max_pixels, now {self.max_pixels:,}, and PIL.Image.MAX_IMAGE_PIXELS')}."
            ) from error
        except PIL.UnidentifiedImageError as error:
            raise PIL.UnidentifiedImageError(
                f"cannot identify image file: {name} is none of {', '.join(formats)}"
            ) from error

    def _check_cost(self, image: PIL.Image.Image, file: str | BytesIO, name: str) -> None:
        tags = getattr(image, "tag_v2", {})  # of a TIFF, whose tiles are decoded whole
        for what, height, width in (
            ("", image.height, image.width),
            ("tiles of ", int(tags.get(TILE_HEIGHT, 1)), int(tags.get(TILE_WIDTH, 1))),
        ):
            if height * width > self.max_pixels:
                raise ValueError(
                    f"{name} has {what}{height}x{width} pixels (height x width), more than max_pixels "
                    f"{self.max_pixels:,} in all; shrink it{self._or_raise('max_pixels')}."
                )
        if not self.animated and image.format != "MPO" and getattr(image, "is_animated", False):
            raise ValueError(f"{name} is animated, or has several pages; send one picture.")
        if image.format in ("JPEG", "MPO"):
            in_memory = isinstance(file, BytesIO)
            with file.getbuffer() if in_memory else mmap.mmap(image.fp.fileno(), 0, access=mmap.ACCESS_READ) as bytes_:
                scans = sum(1 for _ in SCAN.finditer(bytes_))
            if scans > MAX_SCANS:
                raise ValueError(
                    f"{name} has {scans:,} scans, more than {MAX_SCANS}, and each takes as long as a picture; save it "
                    "again."
                )

    # --- what lies elsewhere --------------------------------------------------------------------------------------

    async def _download(self, address: str) -> BytesIO:
        """The body that an address, or where it leads, answers with."""
        try:
            return await asyncio.wait_for(self._follow(address), self.max_seconds)
        except asyncio.TimeoutError as error:
            raise ValueError(
                f"{shown(address)} did not answer within max_seconds {self.max_seconds:g}; try again later"
                f"{self._or_raise('max_seconds')}."
            ) from error
        except httpx.InvalidURL:  # which may quote a password that it takes for a port
            known = address.rpartition("@")[2] if "@" in address else shown(address)
            raise ValueError(
                f"{shown(known)!r} is, or leads to, no http(s) address; write it percent-encoded."
            ) from None
        except httpx.TimeoutException as error:
            raise ConnectionError(f"{shown(address)} does not answer in time.") from error
        except httpx.HTTPError as error:
            problem = str(error) or "the connection ended"
            raise ConnectionError(f"{shown(address)} does not answer: {problem}") from error

    async def _follow(self, address: str) -> BytesIO:
        url, private = httpx.URL(address), self.private_hosts
        for _ in range(self.max_redirects + 1):
            if url.scheme not in ("http", "https") or not url.host:
                raise ValueError(f"{shown(address)} leads to {shown(str(url))}, which is no http(s) address.")
            proxy = proxy_of(url.scheme, url.host)
            hosts, private = await self._hosts(url, private, proxy)
            leads_to, content = await self._get(url, hosts, proxy)
            if leads_to is None:
                return content
            url = url.join(leads_to)
        raise ValueError(
            f"{shown(address)} redirects more than max_redirects {self.max_redirects} times; name where it leads."
        )

    async def _hosts(self, url: "httpx.URL", private: bool, proxy: str | None) -> tuple[list[str], bool]:
        """The IP addresses to connect to (a proxy takes the name), and whether those of redirects may be private."""
        literal = numeric(url.host)
        if literal is not None:
            found = [literal]
        elif proxy is not None:
            found = ["127.0.0.1"] if url.host.rstrip(".").rpartition(".")[2] == "localhost" else []
        else:
            try:
                found = await asyncio.wrap_future(in_thread(look_up, url.raw_host.decode("ascii")))
            except (OSError, UnicodeError) as error:
                reason = getattr(error, "strerror", None) or "it is no name of a host"
                raise ConnectionError(f"{shown(str(url))} has no host that is known: {reason}") from error
        is_private = not all(map(is_global, found))
        if is_private and not private:
            raise ValueError(
                f"{shown(str(url))} is not on the public internet, where alone addresses from outside, and redirects "
                "from there, may lead; name a public host, or pass the picture itself."
            )
        return [url.host] if proxy is not None else found, is_private

    async def _get(self, url: "httpx.URL", hosts: list[str], proxy: str | None) -> tuple[str | None, BytesIO | None]:
        """Where an address redirects to, or None and its body. Asks the first of the hosts that takes connections."""
        timeout = httpx.Timeout(None, connect=self.max_seconds / len(hosts))
        auth = (url.username, url.password) if url.userinfo else None
        # The very address that was checked is asked: a second look-up could give another.
        asked = {
            "headers": {"Host": url.netloc.decode("ascii"), "Accept-Encoding": "identity"},
            "extensions": {"sni_hostname": url.raw_host.decode("ascii")},
        }
        transport = httpx.AsyncHTTPTransport(proxy=proxy, verify=tls_context())
        async with httpx.AsyncClient(transport=transport, timeout=timeout, auth=auth) as client:
            for host in hosts:
                try:
                    async with client.stream("GET", url.copy_with(host=host, userinfo=b""), **asked) as response:
                        if response.status_code in REDIRECTS and "location" in response.headers:
                            return response.headers["location"], None
                        return None, await self._body(response, shown(str(url)))
                except (httpx.ConnectError, httpx.ConnectTimeout):
                    if host == hosts[-1]:
                        raise

    async def _body(self, response: "httpx.Response", name: str) -> BytesIO:
        if response.status_code != 200:
            error = ConnectionError(f"{name} answered {response.status_code} {response.reason_phrase}")
            error.status = response.status_code  # which tells whether asking again may help
            raise error
        encoding = response.headers.get("content-encoding", "").strip().lower()
        if encoding not in ("", "identity"):
            raise ValueError(
                f"{name} is sent as {encoding!r}, which was not asked for: what it unpacks to has no bound. Take it "
                "from a server that sends pictures as they are."
            )
        length = response.headers.get("content-length", "")
        if length.isdecimal():
            self._check_bytes(name, int(length))
        content = BytesIO()
        async for chunk in response.aiter_raw():
            content.write(chunk)
            if content.tell() > self.max_bytes:
                raise ValueError(
                    f"{name} sends more than max_bytes {self.max_bytes:,}; make it smaller"
                    f"{self._or_raise('max_bytes')}."
                )
        content.seek(0)
        return content


FROM_CALLER = Fetcher(max_bytes=2**28, max_seconds=60.0, local_files=True, private_hosts=True)
FROM_OUTSIDE = Fetcher()

__all__ = ["FROM_CALLER", "FROM_OUTSIDE", "Fetcher"]
